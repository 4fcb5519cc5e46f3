"""The last exchanges with clients, and who wants to know that something changed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

from aiohttp import web
from attrs import field, frozen

__all__ = ["BODY", "SHOWN", "Changes", "Exchange", "Journal", "body_of"]

BODY = web.RequestKey("body", bytes)
"""Where `body_of` leaves a body for the journal."""

_KEPT = 500  # exchanges
SHOWN = 4096  # bytes of a body


async def body_of(request: web.Request) -> bytes:
    """All of a request's body, left for the journal.

    Raises what `request.read` does.
    """
    arrived = request.content
    # Most bodies have come with their heads, and need not be waited for.
    body = arrived.read_nowait() if arrived.is_eof() else await request.read()
    request[BODY] = body
    return body


@frozen
class Exchange:
    """A request and its answer. Of long bodies, the beginnings.

    number: begins at 1.
    at: the event loop's time, in seconds.
    seller: the refresh token, if the request had an access token that was given for one.
    operation: Amazon's name, "token" or "upload".
    status: None if no answer was sent.
    seconds: from the request's head to its answer.
    """

    number: int
    at: float
    seller: str | None = field(repr=False)
    operation: str
    verb: str
    path: str = field(repr=False)
    status: int | None
    seconds: float
    request: bytes = field(repr=False)
    answer: bytes = field(repr=False)


class Journal:
    """The last exchanges."""

    def __init__(self) -> None:
        self.total = 0
        self._kept: deque[tuple[Any, ...]] = deque(maxlen=_KEPT)

    def add(
        self,
        *,
        at: float,
        seller: str | None,
        operation: str,
        verb: str,
        path: str,
        status: int | None,
        seconds: float,
        request: bytes,
        answer: bytes,
    ) -> None:
        """Note an exchange that has ended; the arguments are as in `Exchange`."""
        self.total += 1
        # Most are never looked at: what they are made of is kept, and shaped when they are.
        bodies = (request[:SHOWN], answer[:SHOWN])
        exchange = (self.total, at, seller, operation, verb, path, status, seconds, *bodies)
        self._kept.append(exchange)

    def since(self, last: int) -> list[Exchange]:
        """Exchanges after one, in order."""
        return [Exchange(*kept) for kept in self._kept if kept[0] > last]

    @property
    def kept(self) -> int:
        """How many are held."""
        return len(self._kept)

    def clear(self) -> None:
        """Forget all exchanges."""
        self._kept.clear()


class Changes:
    """Tells listeners what kinds of things have changed, and no more.

    So a listener that is slow, or gone without a word, costs a few names however much happens.
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def note(self, *kinds: str) -> None:
        """Something of these kinds has changed."""
        for listener in self._listeners:
            listener.note(*kinds)

    @contextmanager
    def listener(self) -> Iterator[Listener]:
        """What hears of changes, while it is open."""
        listener = Listener()
        self._listeners.append(listener)
        try:
            yield listener
        finally:
            self._listeners.remove(listener)

    def end(self) -> None:
        """Let every listener come to its end."""
        for listener in self._listeners:
            listener.ended = True
            listener.note("end")


class Listener:
    """Hears of changes."""

    def __init__(self) -> None:
        self.ended = False
        self._kinds: set[str] = set()
        self._changed = asyncio.Event()

    def note(self, *kinds: str) -> None:
        """Something of these kinds has changed."""
        self._kinds.update(kinds)
        self._changed.set()

    async def changes(self) -> AbstractSet[str]:
        """The kinds that have changed since the last time, once there are any."""
        await self._changed.wait()
        self._changed.clear()
        kinds, self._kinds = self._kinds, set()
        return kinds
