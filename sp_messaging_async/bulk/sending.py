"""`send_all`: many messages, with bounded work in flight."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeAlias

from attrs import frozen

from ..credentials import DEFAULT_ACCOUNT
from ..errors import ConfigurationError, Finding, InvalidMessage, LedgerError, MessagingError
from ..ledger import DEFAULT_CAMPAIGN, Ledger, Planned
from ..operations import by_request
from ..session import MessagingSession, Patience
from .messages import Message, Outcome
from .outage import Outage, Passage

__all__ = ["SendAll", "send_all"]

Sessions: TypeAlias = MessagingSession | Mapping[str, MessagingSession]
Messages: TypeAlias = Iterable[Message] | AsyncIterable[Message]

_log = logging.getLogger("sp_messaging_async")

_PER_SESSION = 100  # messages at work at once

# Outcomes that are handed out, and messages taken up in their place, before the loop goes round. A
# hundred that settle together would else begin a hundred together, again and again: the loop's
# other tasks wait for all of them, and the garbage collector takes the burst for growth and walks
# over the caller's whole list.
_IN_ONE_GO = 8


def send_all(
    sessions: Sessions,
    messages: Messages,
    *,
    ledger: Ledger | None = None,
    campaign: str | None = None,
    concurrency: int | None = None,
) -> SendAll:
    """Send many messages, each once, and tell what became of each as it is settled.

        async with send_all(session, messages) as outcomes:
            async for outcome in outcomes:
                print(outcome.message.amazon_order_id, outcome.status)

    sessions: a session, or one for every account that a message may name.
    messages: any iterable, asynchronous or not. It is read as the work goes on, never further
        ahead than `concurrency`, so that memory stays flat however many there are.
    ledger: what records the messages, so that one which was sent before, in this run or another, is
        skipped, and one whose outcome is unknown is not sent again.
    campaign: under which name they are recorded; "default" unless given.
    concurrency: messages at work at once, those waiting for their usage plan included; 100 for
        each session unless given.

    An error of one message is its outcome, and stops no other. Messages are taken up only while
    the result is iterated. Leaving early withdraws those that wait, which were not sent, and lets
    exchanges in flight finish; leaving the context manager waits for them.

    After five failures in a row that tell of an outage, a seller pauses until a read is answered. A
    ledger that fails raises LedgerError when it is that message's turn to be told.

    Raises ConfigurationError for a concurrency below 1, without a session, or for a campaign
    without a ledger.
    """
    if campaign is not None and ledger is None:
        raise ConfigurationError("send_all takes a campaign only with a ledger")
    record = None if ledger is None else _Record(ledger, campaign or DEFAULT_CAMPAIGN)
    return SendAll(sessions, messages, record, concurrency)


class SendAll:
    """The outcomes of `send_all`: an async iterator, and an async context manager."""

    def __init__(
        self,
        sessions: Sessions,
        messages: Messages,
        record: _Record | None,
        concurrency: int | None,
    ) -> None:
        listed = sessions if isinstance(sessions, Mapping) else {_only(sessions): sessions}
        usable = all(isinstance(session, MessagingSession) for session in listed.values())
        if not listed or not usable or (concurrency is not None and concurrency < 1):
            raise ConfigurationError("send_all needs a session, and a concurrency of at least 1")
        self._concurrency = concurrency or len(listed) * _PER_SESSION
        self._source = _Source(messages)
        self._work = _Work(listed, record)
        self._asked = 0

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
        self._work.changed.set()  # a read that was cancelled before it began says nothing
        await self._source.finish()
        await self._work.finish()

    def __del__(self) -> None:
        # Left by `break`, without the context manager: what waits is withdrawn all the same.
        if hasattr(self, "_work"):
            self._source.stop()
            self._work.withdraw()
            self._work.abandon()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        self._asked += 1
        if self._asked % _IN_ONE_GO == 0:
            await asyncio.sleep(0)
        while True:
            self._work.changed.clear()
            self._take_up()
            if self._work.settled:
                return self._work.next_settled()
            if self._source.ended and not self._work.tasks:
                await self._work.end_pauses()
                self._source.raise_its_error()
                raise StopAsyncIteration
            await self._work.changed.wait()

    def _take_up(self) -> None:
        while self._work.load < self._concurrency:
            message = self._source.next_now(self._work.changed)
            if message is None:
                return
            self._work.begin(message)


class _Source:
    """The messages yet to be sent, from whatever kind of iterable they come."""

    def __init__(self, messages: Messages) -> None:
        self.ended = False
        self._error: BaseException | None = None
        self._context = contextvars.copy_context()
        self._ready: deque[Message] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._later = aiter(messages) if isinstance(messages, AsyncIterable) else None
        self._now = iter(messages) if isinstance(messages, Iterable) else None
        if self._later is None and self._now is None:
            raise ConfigurationError(f"messages is a {type(messages).__name__}, and no iterable")

    def next_now(self, changed: asyncio.Event) -> Message | None:
        """The next message, or None if there is none now; `changed` is set when there may be."""
        if self.ended:
            return None
        if self._ready:
            return self._ready.popleft()
        if self._now is not None:
            return self._next_of(self._now)
        if self._later is not None and self._reading is None:
            self._reading = asyncio.create_task(
                self._read(self._later, changed), context=self._context
            )
        return None

    def raise_its_error(self) -> None:
        """Raise what the iterable raised, once, after all that it gave before was settled."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Take nothing more, and give nothing of what was read ahead or is read yet."""
        self.ended = True
        if self._reading is not None and not self._reading.get_loop().is_closed():
            self._reading.cancel()

    async def finish(self) -> None:
        """Wait for an asynchronous iterable that was stopped in the middle of its work."""
        if self._reading is not None:
            await asyncio.wait((self._reading,))

    def _next_of(self, messages: Iterator[Message]) -> Message | None:
        try:
            return _checked(next(messages))
        except StopIteration:
            self.ended = True
        except Exception as error:  # the caller's own iterable may raise anything
            self.ended, self._error = True, error
        return None

    async def _read(self, messages: AsyncIterator[Message], changed: asyncio.Event) -> None:
        try:
            self._ready.append(_checked(await anext(messages)))
        except StopAsyncIteration:
            self.ended = True
        except asyncio.CancelledError as error:
            if self.ended:
                raise
            self.ended, self._error = True, error
        except Exception as error:  # the caller's own iterable may raise anything
            self.ended, self._error = True, error
        finally:
            self._reading = None
            changed.set()


def _checked(message: Message) -> Message:
    if not isinstance(message, Message):
        raise TypeError(f"messages gave a {type(message).__name__}, and no Message")
    return message


class _Work:
    """The messages being sent, and the outcomes that nobody has read yet.

    It outlives a `SendAll` that was left early until its last exchange has ended.
    """

    def __init__(self, sessions: Mapping[str, MessagingSession], record: _Record | None) -> None:
        self.changed = asyncio.Event()
        self._sessions = sessions
        self._outages = {name: Outage(session) for name, session in sessions.items()}
        self._record = record
        self._abandoned = False
        self.tasks: dict[asyncio.Task[Outcome], Patience] = {}
        self.settled: deque[asyncio.Task[Outcome]] = deque()

    @property
    def load(self) -> int:
        """Messages at work, and outcomes that were not read."""
        return len(self.tasks) + len(self.settled)

    def begin(self, message: Message) -> None:
        patience = Patience()
        task = asyncio.create_task(self._send(message, patience))
        self.tasks[task] = patience
        task.add_done_callback(self._settle)

    async def _send(self, message: Message, patience: Patience) -> Outcome:
        try:
            account = _account_of(message, self._sessions)
        except InvalidMessage as error:
            return Outcome.of_error(message, error)
        passage = Passage(self._outages[account])
        # No name for the outcome here: an error holds this frame, which would hold the error.
        try:
            return passage.noted(await self._deliver(message, account, patience, passage))
        except LedgerError:
            passage.leave()
            raise
        except MessagingError as error:
            return passage.noted(Outcome.of_error(message, error))

    async def _deliver(
        self, message: Message, account: str, patience: Patience, passage: Passage
    ) -> Outcome:
        session = self._sessions[account]
        order_id, request, place = message.amazon_order_id, message.request, message.marketplace
        if self._record is None:
            response = await session.deliver(order_id, request, place, patience, gate=passage)
            return Outcome(message, "sent", response)
        identity = None if place is None else session.marketplace.of_same_region(place).id
        response, is_new = await session.deliver_once(
            Planned(order_id, request, account, identity),
            self._record.ledger,
            self._record.campaign,
            patience,
            gate=passage,
        )
        return Outcome(message, "sent" if is_new else "skipped", response)

    def next_settled(self) -> Outcome:
        """An outcome; an error that is none of this package's is raised, being a mistake."""
        return self.settled.popleft().result()

    def withdraw(self) -> None:
        for patience in self.tasks.values():
            patience.withdraw()

    def abandon(self) -> None:
        """Nobody can read outcomes any more: those that are unknown are logged, and mistakes."""
        self._abandoned = True
        for outage in self._outages.values():
            outage.cancel()
        for task in self.settled:
            _report(task)

    async def finish(self) -> None:
        if self.tasks:
            await asyncio.wait(self.tasks)
        await self.end_pauses()

    async def end_pauses(self) -> None:
        for outage in self._outages.values():
            await outage.aclose()

    def _settle(self, task: asyncio.Task[Outcome]) -> None:
        del self.tasks[task]
        if not task.cancelled():
            self.settled.append(task)
            if self._abandoned:
                _report(task)
        self.changed.set()


def _report(task: asyncio.Task[Outcome]) -> None:
    """Log what somebody should have read: an unknown outcome, or what was raised in its place."""
    if error := task.exception():
        _log.error("a message could not be settled", exc_info=error)
        return
    outcome = task.result()
    if outcome.status == "unknown":
        _log.warning(
            "%s",
            outcome.error,
            extra={
                "event": "unknown",
                "operation": by_request(outcome.message.request).name,
                "amazon_order_id": outcome.message.amazon_order_id,
            },
        )


@frozen
class _Record:
    """Where messages are recorded."""

    ledger: Ledger
    campaign: str


def _only(session: object) -> str:
    """The account of the one session there is."""
    return session.account if isinstance(session, MessagingSession) else DEFAULT_ACCOUNT


def _account_of(message: Message, sessions: Mapping[str, MessagingSession]) -> str:
    if message.account is None and len(sessions) == 1:
        return next(iter(sessions))
    account = message.account or DEFAULT_ACCOUNT
    if account not in sessions:
        known = ", ".join(sorted(sessions))
        raise InvalidMessage(Finding("account", f"{account!r} has no session; there are {known}"))
    return account
