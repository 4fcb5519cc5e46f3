"""Failures on demand: what happens to a request in the place of its usual answer."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum, auto

from aiohttp import web
from attrs import frozen

from ..operations import MESSAGING, OPERATIONS
from .answers import api_error

__all__ = ["PUT_FILE", "TOKEN", "Door", "Fault", "Faults"]

# What may fail beside the operations: Login with Amazon, and the host that takes uploads.
TOKEN = "token"
PUT_FILE = "upload"


class Fault(Enum):
    """What may go wrong. Names that end in AFTER: the request was accepted, and has its effect."""

    THROTTLED = auto()
    INTERNAL_FAILURE = auto()
    INTERNAL_FAILURE_AFTER = auto()
    UNAVAILABLE = auto()
    UNAVAILABLE_AFTER = auto()
    BAD_GATEWAY = auto()
    """502 in HTML."""
    DROPPED = auto()
    DROPPED_AFTER = auto()
    HANG = auto()
    HANG_AFTER = auto()
    HTML_AFTER = auto()
    """A success whose body is HTML."""
    EMPTY_AFTER = auto()
    """A success whose body is empty."""
    TRUNCATED_AFTER = auto()
    """A success whose JSON breaks off."""
    CUT_AFTER = auto()
    """A success whose connection ends in the middle of its body."""
    ERRORS_AFTER = auto()
    """A success whose body holds errors."""
    HTML_ERROR = auto()
    """400 in HTML."""
    REDIRECT = auto()
    EXPIRED_TOKEN = auto()
    REVOKED_TOKEN = auto()
    NOT_AVAILABLE = auto()
    """403: this kind of message is not available for this order."""
    DENIED = auto()
    """403 without a word about the token."""
    TEMPORARILY_UNAVAILABLE = auto()
    """Login with Amazon's own word for a failure that passes."""

    @property
    def accepts(self) -> bool:
        """Whether the request has its effect before the failure."""
        return self.name.endswith("_AFTER")


@frozen
class Scripted:
    """A fault for the next request that it is meant for."""

    fault: Fault
    operation: str | None
    amazon_order_id: str | None


@frozen
class Chance:
    """A fault for any request that it is meant for, as chance will have it."""

    fault: Fault
    probability: float
    operation: str | None


class Faults:
    """The script, of which each request takes the first fault that is meant for it; and chance.

    changed: called whenever something is added or taken.
    """

    def __init__(self, door: Door, changed: Callable[[], None]) -> None:
        self._door = door
        self._changed = changed
        self._script: deque[Scripted] = deque()
        self._chances: list[Chance] = []
        self._random = random.Random()
        self._stopped = asyncio.Event()

    def add(
        self,
        *faults: Fault,
        operation: str | None = None,
        amazon_order_id: str | None = None,
    ) -> None:
        """Let the next requests fail, one fault each, in this order.

        operation: Amazon's name of the only operation meant, "token" for Login with Amazon, or
            "upload" for the PUT of a file; all 13 operations of messaging unless given.
        amazon_order_id: the only order meant.

        Raises ValueError for a name that is no operation.
        """
        _check_name(operation)
        self._script.extend(Scripted(fault, operation, amazon_order_id) for fault in faults)
        self._changed()

    def add_chance(self, fault: Fault, probability: float, *, operation: str | None = None) -> None:
        """Let any request fail with a probability from 0 to 1, from now on.

        operation: as with `add`. Raises ValueError for a name that is no operation, or a number
            that is no probability.
        """
        _check_name(operation)
        if not 0 <= probability <= 1:
            raise ValueError(f"{probability!r} is no probability from 0 to 1")
        self._chances.append(Chance(fault, probability, operation))
        self._changed()

    def clear(self) -> None:
        """Forget what is left of the script, and what was left to chance."""
        self._script.clear()
        self._chances.clear()
        self._changed()

    def __len__(self) -> int:
        return len(self._script)

    def __bool__(self) -> bool:
        """Whether anything may go wrong."""
        return bool(self._script or self._chances)

    @property
    def script(self) -> list[Scripted]:
        """What is left of the script."""
        return list(self._script)

    @property
    def chances(self) -> list[Chance]:
        """What is left to chance."""
        return list(self._chances)

    def refused(self) -> AbstractAsyncContextManager[None]:
        """While it is open, connections are refused, and those that are open are closed."""
        return self._door.refusing()

    def take(self, operation: str, amazon_order_id: str | None) -> Fault | None:
        """The fault for a request, which is spent with it."""
        for scripted in self._script:
            if _is_meant(scripted, operation, amazon_order_id):
                self._script.remove(scripted)
                self._changed()
                return scripted.fault
        for chance in self._chances:
            if (
                _is_named(chance.operation, operation)
                and self._random.random() < chance.probability
            ):
                return chance.fault
        return None

    def release(self) -> None:
        """End every hang."""
        self._stopped.set()

    async def perform(
        self,
        fault: Fault,
        request: web.Request,
        usual: Callable[[], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Answer as the fault says. `usual` is the request's usual handling and its effect."""
        if not fault.accepts:
            return await _PERFORM[fault](self, request)
        answer = await usual()
        if answer.status >= 400:
            return answer  # it was refused, so there is nothing to fail after
        if fault is Fault.CUT_AFTER:
            return await _cut(request, answer.status)
        spoilt = await _PERFORM[fault](self, request)
        if 200 <= spoilt.status < 300 and not spoilt.prepared:
            spoilt.set_status(answer.status)
        return spoilt

    async def _hang(self, request: web.Request) -> web.StreamResponse:
        await self._stopped.wait()
        return await self._drop(request)

    async def _drop(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


async def _cut(request: web.Request, status: int) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={"content-length": "1000"})
    await response.prepare(request)
    await response.write(b'{"some')
    if request.transport is not None:
        request.transport.close()
    return response


def _check_name(operation: str | None) -> None:
    if operation is not None and operation not in {*OPERATIONS, TOKEN, PUT_FILE}:
        raise ValueError(f"{operation!r} is no operation")


def _is_meant(scripted: Scripted, operation: str, amazon_order_id: str | None) -> bool:
    by_name = _is_named(scripted.operation, operation)
    return by_name and scripted.amazon_order_id in (None, amazon_order_id)


def _is_named(meant: str | None, operation: str) -> bool:
    return operation in MESSAGING if meant is None else meant == operation


_HTML = "<!DOCTYPE html><html><body><h1>{}</h1></body></html>"
_DENIED = "Access to requested resource is denied."

Performance = Callable[[Faults, web.Request], Awaitable[web.StreamResponse]]


def _answer(make: Callable[[], web.Response]) -> Performance:
    async def perform(faults: Faults, request: web.Request) -> web.StreamResponse:
        return make()

    return perform


def _error(status: int, code: str, message: str, details: str = "") -> Performance:
    return _answer(lambda: api_error(status, code, message, details))


def _text(status: int, text: str, content_type: str) -> Performance:
    return _answer(lambda: web.Response(status=status, text=text, content_type=content_type))


_INTERNAL = _error(500, "InternalFailure", "We encountered an internal error. Please try again.")
_UNAVAILABLE = _error(503, "ServiceUnavailable", "Service is temporarily unavailable.")

_PERFORM: dict[Fault, Performance] = {
    Fault.THROTTLED: _error(429, "QuotaExceeded", "You exceeded your quota."),
    Fault.INTERNAL_FAILURE: _INTERNAL,
    Fault.INTERNAL_FAILURE_AFTER: _INTERNAL,
    Fault.UNAVAILABLE: _UNAVAILABLE,
    Fault.UNAVAILABLE_AFTER: _UNAVAILABLE,
    Fault.BAD_GATEWAY: _text(502, _HTML.format("502 Bad Gateway"), "text/html"),
    Fault.DROPPED: Faults._drop,
    Fault.DROPPED_AFTER: Faults._drop,
    Fault.HANG: Faults._hang,
    Fault.HANG_AFTER: Faults._hang,
    Fault.HTML_AFTER: _text(201, _HTML.format("OK"), "text/html"),
    Fault.EMPTY_AFTER: _text(201, "", "application/json"),
    Fault.TRUNCATED_AFTER: _text(201, '{"errors', "application/json"),
    Fault.ERRORS_AFTER: _error(201, "InternalFailure", "Something went wrong."),
    Fault.HTML_ERROR: _text(400, _HTML.format("400 Bad Request"), "text/html"),
    Fault.REDIRECT: _answer(lambda: web.Response(status=307, headers={"location": "/elsewhere"})),
    Fault.EXPIRED_TOKEN: _error(
        403, "Unauthorized", _DENIED, "The access token you provided has expired."
    ),
    Fault.REVOKED_TOKEN: _error(
        403,
        "Unauthorized",
        _DENIED,
        "The access token you provided is revoked, malformed or invalid.",
    ),
    Fault.NOT_AVAILABLE: _error(
        403, "Unauthorized", "Invalid amazonOrderId and template combination."
    ),
    Fault.DENIED: _error(403, "Unauthorized", _DENIED),
    Fault.TEMPORARILY_UNAVAILABLE: _text(
        400, '{"error": "temporarily_unavailable"}', "application/json"
    ),
}


class Door:
    """The door of the sandbox, open but for a while in which it is shut."""

    def __init__(self, open_: Callable[[], Awaitable[None]], shut: Callable[[], Awaitable[None]]):
        self._open = open_
        self._shut = shut
        self._holders = 0
        self._turn = asyncio.Lock()  # to open takes a while, in which another may want it shut

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Shut, and open again at the end; where several hold it shut, when the last one ends."""
        async with self._turn:
            if not self._holders:
                await self._shut()
            self._holders += 1
        try:
            yield
        finally:
            async with self._turn:
                self._holders -= 1
                if not self._holders:
                    await self._open()
