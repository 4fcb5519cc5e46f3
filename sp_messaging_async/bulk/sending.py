"""`send_all`: many messages, with bounded work in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeAlias

from ..errors import ConfigurationError, Finding, InvalidMessage, MessagingError
from ..session import MessagingSession, Patience
from .messages import DEFAULT_ACCOUNT, Message, Outcome

__all__ = ["SendAll", "send_all"]

Sessions: TypeAlias = MessagingSession | Mapping[str, MessagingSession]
Messages: TypeAlias = Iterable[Message] | AsyncIterable[Message]

_PER_SESSION = 100  # messages at work at once


def send_all(sessions: Sessions, messages: Messages, *, concurrency: int | None = None) -> SendAll:
    """Send many messages, each once, and tell what became of each as it is settled.

        async with send_all(session, messages) as outcomes:
            async for outcome in outcomes:
                print(outcome.message.amazon_order_id, outcome.status)

    sessions: a session, or one for every account that a message may name.
    messages: any iterable, asynchronous or not. It is read as the work goes on, never further
        ahead than `concurrency`, so that memory stays flat however many there are.
    concurrency: messages at work at once, those waiting for their usage plan included; 100 for
        each session unless given.

    An error of one message is its outcome, and stops no other. Messages are taken up only while
    the result is iterated. Leaving early withdraws those that wait, which were not sent, and lets
    exchanges in flight finish; leaving the context manager waits for them.

    Raises ConfigurationError for a concurrency below 1 or without a session.
    """
    return SendAll(sessions, messages, concurrency)


class SendAll:
    """The outcomes of `send_all`: an async iterator, and an async context manager."""

    def __init__(self, sessions: Sessions, messages: Messages, concurrency: int | None) -> None:
        number = len(sessions) if isinstance(sessions, Mapping) else 1
        if not number or (concurrency is not None and concurrency < 1):
            raise ConfigurationError("send_all needs a session, and a concurrency of at least 1")
        self._sessions = sessions
        self._concurrency = concurrency or number * _PER_SESSION
        self._source = _Source(messages)
        self._work = _Work()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Withdraw what waits, and wait for exchanges in flight; their outcomes can be read yet."""
        self._source.stop()
        self._work.withdraw()
        await self._work.finish()

    def __del__(self) -> None:
        # Left by `break`, without the context manager: what waits is withdrawn all the same.
        if hasattr(self, "_work"):
            self._source.stop()
            self._work.withdraw()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        while True:
            self._work.changed.clear()
            self._take_up()
            if self._work.settled:
                return self._work.next_settled()
            if self._source.ended and not self._work.tasks:
                self._source.raise_its_error()
                raise StopAsyncIteration
            await self._work.changed.wait()

    def _take_up(self) -> None:
        while self._work.load < self._concurrency:
            message = self._source.next_now(self._work.changed)
            if message is None:
                return
            self._work.begin(message, self._sessions)


class _Source:
    """The messages yet to be sent, from whatever kind of iterable they come."""

    def __init__(self, messages: Messages) -> None:
        self.ended = False
        self._error: Exception | None = None
        self._ready: deque[Message] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._later = aiter(messages) if isinstance(messages, AsyncIterable) else None
        self._now = iter(messages) if isinstance(messages, Iterable) else None
        if self._later is None and self._now is None:
            raise ConfigurationError(f"messages is a {type(messages).__name__}, and no iterable")

    def next_now(self, changed: asyncio.Event) -> Message | None:
        """The next message, or None if there is none now; `changed` is set when there may be."""
        if self._ready:
            return self._ready.popleft()
        if self.ended:
            return None
        if self._now is not None:
            return self._next_of(self._now)
        if self._later is not None and self._reading is None:
            self._reading = asyncio.create_task(self._read(self._later, changed))
        return None

    def raise_its_error(self) -> None:
        """Raise what the iterable raised, once, after all that it gave before was settled."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Take nothing more."""
        self.ended = True
        if self._reading is not None and not self._reading.get_loop().is_closed():
            self._reading.cancel()

    def _next_of(self, messages: Iterator[Message]) -> Message | None:
        try:
            return next(messages)
        except StopIteration:
            self.ended = True
        except Exception as error:  # the caller's own iterable may raise anything
            self.ended, self._error = True, error
        return None

    async def _read(self, messages: AsyncIterator[Message], changed: asyncio.Event) -> None:
        try:
            self._ready.append(await anext(messages))
        except StopAsyncIteration:
            self.ended = True
        except Exception as error:  # the caller's own iterable may raise anything
            self.ended, self._error = True, error
        finally:
            self._reading = None
            changed.set()


class _Work:
    """The messages being sent, and the outcomes that nobody has read yet.

    It outlives a `SendAll` that was left early until its last exchange has ended.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.tasks: dict[asyncio.Task[Outcome], Patience] = {}
        self.settled: deque[asyncio.Task[Outcome]] = deque()

    @property
    def load(self) -> int:
        """Messages at work, and outcomes that were not read."""
        return len(self.tasks) + len(self.settled)

    def begin(self, message: Message, sessions: Sessions) -> None:
        patience = Patience()
        task = asyncio.create_task(_send(message, sessions, patience))
        self.tasks[task] = patience
        task.add_done_callback(self._settle)

    def next_settled(self) -> Outcome:
        """An outcome; an error that is none of this package's is raised, being a mistake."""
        return self.settled.popleft().result()

    def withdraw(self) -> None:
        for patience in self.tasks.values():
            patience.withdraw()

    async def finish(self) -> None:
        if self.tasks:
            await asyncio.wait(self.tasks)

    def _settle(self, task: asyncio.Task[Outcome]) -> None:
        del self.tasks[task]
        if not task.cancelled():
            self.settled.append(task)
        self.changed.set()


async def _send(message: Message, sessions: Sessions, patience: Patience) -> Outcome:
    try:
        session = _session_of(message, sessions)
        response = await session.deliver(
            message.amazon_order_id, message.request, message.marketplace, patience
        )
    except MessagingError as error:
        return Outcome.of_error(message, error)
    return Outcome(message, "sent", response)


def _session_of(message: Message, sessions: Sessions) -> MessagingSession:
    if isinstance(sessions, MessagingSession):
        sessions = {sessions.account: sessions}
    if message.account is None and len(sessions) == 1:
        return next(iter(sessions.values()))
    account = message.account or DEFAULT_ACCOUNT
    if account not in sessions:
        known = ", ".join(sorted(sessions))
        raise InvalidMessage(Finding("account", f"{account!r} has no session; there are {known}"))
    return sessions[account]
