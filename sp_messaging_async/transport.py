"""One HTTP exchange on aiohttp, and whether its write began."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesIOPayload, BytesPayload, Payload
from yarl import URL

from .errors import TransportError
from .wire import HttpAnswer, HttpRequest

__all__ = ["Exchange", "InFlight", "TimeLimit", "Transport", "connector"]

# Shorter than any server's own: a POST written on a connection that the server is closing is lost
# with its fate unknown, and a new connection costs a few milliseconds.
_KEEPALIVE = 4.0  # seconds

_SLEPT = 1.0  # seconds between two clocks; no correction is as large between two exchanges

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
_NO_TYPE = ("Content-Type",)
_LARGE = 2**20  # bytes; aiohttp wants more than this in a file, and writes it in pieces


class Transport:
    """Carries exchanges over the caller's `aiohttp.ClientSession`, or over one of its own.

    The caller's is used with its connector, proxy and trace configs, and never closed here.
    """

    def __init__(self, http: aiohttp.ClientSession | None = None) -> None:
        self._http = http
        self._is_own = http is None
        self._left: list[aiohttp.ClientSession] = []
        self._ahead = 0.0
        self._closed = False

    def exchange(self, request: HttpRequest, lapsed: Callable[[], bool] | None = None) -> Exchange:
        """An exchange that has not begun. Needs a running event loop.

        lapsed: asked right before the write of a body; if it says so, nothing is written.
        """
        if self._is_own and self._has_slept() and self._http is not None and not self._closed:
            # Its idle connections end by their own timer, and those in use with their exchanges;
            # what stays until the end is a few kilobytes a sleep.
            self._left.append(self._http)
            self._http = None
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=connector(), cookie_jar=aiohttp.DummyCookieJar()
            )
        return Exchange(self._http, request, lapsed)

    def _has_slept(self) -> bool:
        """Whether the machine was suspended since this was asked last.

        The clock by which idle connections are closed may stand still then, and the server has
        closed them long since: a message written on one would be lost with its fate unknown.
        """
        before, self._ahead = self._ahead, time.time() - time.monotonic()
        return abs(self._ahead - before) > _SLEPT

    @property
    def closed(self) -> bool:
        """Whether no exchange can be carried any more."""
        return self._closed or (self._http is not None and self._http.closed)

    async def aclose(self) -> None:
        """Carry no more; close the connections, if they are its own."""
        self._closed = True
        if self._is_own and self._http is not None:
            for http in (self._http, *self._left):
                await http.close()


def connector() -> aiohttp.TCPConnector:
    """Connections that are fit for messages. Needs a running event loop."""
    # No limit: a wait for the pool would come after the throttle has let the call go.
    return aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE)


class Exchange:
    """One request and its answer."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        request: HttpRequest,
        lapsed: Callable[[], bool] | None = None,
    ) -> None:
        self._http = http
        self._request = request
        self._body = _payload(request.body)
        if isinstance(self._body, _WatchedPayload):
            self._body.lapsed = lapsed

    @property
    def write_began(self) -> bool:
        """Whether any of the request may have reached the server.

        Known where there is a body, be it empty; without one it is assumed, as it is where the
        caller's session asks for leave to continue and so sends the head by itself.
        """
        if not isinstance(self._body, _WatchedPayload) or "Expect" in self._http.headers:
            return True
        return self._body.write_began

    async def answer(self, timeout: float) -> HttpAnswer:  # noqa: ASYNC109 - of one exchange
        """As `untimed_answer`, and a TransportError once `timeout` seconds have passed."""
        with contextlib.suppress(TimeoutError):  # raised anew below, without what it is chained to
            async with asyncio.timeout(timeout):
                return await self.untimed_answer()
        raise TransportError("TimeoutError", self.write_began)

    async def untimed_answer(self) -> HttpAnswer:
        """Send, and wait for the whole answer, however long it takes.

        Raises TransportError for everything else but a cancellation.
        """
        url, headers = self._request.url, self._request.headers
        try:
            response = await self._http.request(
                self._request.method,
                url if isinstance(url, URL) else URL(url, encoded=True),
                headers=headers,
                data=self._body,
                skip_auto_headers=None if "content-type" in headers else _NO_TYPE,
                # The caller's session may set these; here each would repeat or hide an exchange, or
                # count what this one does not.
                timeout=_NO_TIMEOUT,
                allow_redirects=False,
                raise_for_status=False,
                middlewares=(),
            )
            content = response.content
            if content.is_eof() and not self._http.trace_configs:
                body = content.read_nowait()  # as a rule, for short answers come with their heads
            else:
                body = await response.read()
            if (
                not response.closed
            ):  # its connection is not given back, but speaks anything but HTTP
                response.close()
            return HttpAnswer(response.status, response.headers, body)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody has cancelled this: aiohttp does, when it is closed, to whatever waits for a
            # connection or the address of a name.
            failure = TransportError("the connections were closed", self.write_began, False)
        except Exception as error:
            failure = self._failure(error)
        # Any exception at all (a trace config of the caller may raise what it likes) leaves the
        # same question: did the write begin? It is raised here, outside of `except`, so that
        # aiohttp's exception, whose text may hold tokens and signatures, is not chained to it.
        try:
            raise failure
        finally:
            del failure  # or it would hold this frame that holds it, and the message with them

    def _failure(self, error: Exception) -> TransportError:
        reason = type(error).__name__
        code = errno.errorcode.get(error.errno or 0) if isinstance(error, OSError) else None
        if code is not None:
            reason += f" ({code})"
        if isinstance(
            error, aiohttp.ClientConnectorCertificateError | aiohttp.ServerFingerprintMismatch
        ):
            reason += ": the server's certificate is not trusted; check the host, clock and CA file"
            return TransportError(reason, False, repeatable=False)
        if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError | ValueError):
            reason += ": the address of the endpoint, upload or proxy cannot be used"
            return TransportError(reason, self.write_began, repeatable=False)
        is_expected = isinstance(error, aiohttp.ClientError | OSError)
        return TransportError(reason, self.write_began, repeatable=is_expected)


class InFlight:
    """The exchanges that are being made, each of which may take so many seconds.

    They run out in the order in which they began, so that one timer, for the eldest, is enough. A
    timer for each, as `asyncio.timeout` sets it, costs a tenth of what a send does.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limits: dict[TimeLimit, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._limits)

    def begin(self, loop: asyncio.AbstractEventLoop) -> TimeLimit:
        """One begins, in the task that runs in `loop`; to be followed by `end`.

        When its seconds have passed, it is cancelled.
        """
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("an exchange is made within a task")
        limit = TimeLimit(task, loop.time() + self._seconds)
        self._limits[limit] = None
        if self._timer is None:
            self._timer = loop.call_at(limit.deadline, self._look, loop)
        return limit

    def end(self, limit: TimeLimit) -> None:
        """One has ended, in whatever way."""
        del self._limits[limit]
        if limit.has_run_out:
            limit.task.uncancel()
        if self._drained is not None and not self._limits:
            self._drained.set()
            self._drained = None

    async def drain(self) -> None:
        """Return when there is none."""
        if self._limits:
            self._drained = self._drained or asyncio.Event()
            await self._drained.wait()

    def cut_off(self) -> None:
        """The time of all of them is over."""
        for limit in self._limits:
            limit.run_out()

    def close(self) -> None:
        """No more will begin: let go of the event loop."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for limit in self._limits:
            if limit.deadline > loop.time():
                self._timer = loop.call_at(limit.deadline, self._look, loop)
                return
            limit.run_out()


class TimeLimit:
    """The time of one exchange: what `asyncio.timeout` is, without a timer of its own."""

    __slots__ = ("_cancelling", "deadline", "has_run_out", "task")

    def __init__(self, task: asyncio.Task[Any], deadline: float) -> None:
        self.task = task
        self.deadline = deadline
        self.has_run_out = False
        self._cancelling = task.cancelling()

    def run_out(self) -> None:
        """Cancel the exchange, unless that was done before."""
        if not self.has_run_out:
            self.has_run_out = True
            self.task.cancel()

    def has_raised(self, error: BaseException) -> bool:
        """Whether an error is this cancellation, and nobody else has cancelled the task as well."""
        is_alone = self.has_run_out and self.task.cancelling() == self._cancelling + 1
        return is_alone and isinstance(error, asyncio.CancelledError)


class _WatchedPayload(BytesPayload):
    """Bytes that note when aiohttp begins to write them.

    The type of an exception cannot tell: aiohttp raises the same TimeoutError for a hung connect,
    TLS handshake or proxy and for a hang after the write.
    """

    write_began = False
    lapsed: Callable[[], bool] | None = None

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        if self.lapsed is not None and self.lapsed():
            raise _Lapsed("the leave to write it has run out")
        self.write_began = True
        await super().write_with_length(writer, content_length)


class _Lapsed(Exception):
    """The write must not begin any more."""


def _payload(body: bytes | None) -> Payload | None:
    if body is None:
        return None
    return _WatchedPayload(body) if len(body) <= _LARGE else BytesIOPayload(io.BytesIO(body))
