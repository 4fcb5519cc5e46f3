"""The page that shows the local Amazon, and what keeps it up to date."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ..marketplaces import is_loopback

if TYPE_CHECKING:
    from .server import Sandbox

__all__ = ["Guard", "Page"]

_VIEWS = ("inbox", "plans", "exchanges", "faults", "orders")
_SCRIPTS = ("page", "control", "elements", "words", *_VIEWS)
_FILES = {
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
    **{f"{name}.js": "text/javascript" for name in _SCRIPTS},
}
_PAUSE = 0.1  # seconds between two events, for people see no faster
_AGAIN = 1000  # milliseconds after which a page that has lost the connection tries again
_HEARTBEAT = 15.0  # seconds after which a page that is gone is found out

# Texts of messages are shown and never run: only what comes from here as a file is.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Page:
    """The routes of the page: itself, its files, and its events."""

    def __init__(self, sandbox: Sandbox, guard: Guard) -> None:
        self._sandbox = sandbox
        self._guard = guard

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application."""
        app.router.add_get("/", self._guard(_file("page.html", "text/html")))
        for name, kind in _FILES.items():
            app.router.add_get(f"/_sandbox/page/{name}", self._guard(_file(name, kind)))
        app.router.add_get("/_sandbox/events", self._guard(self._events))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events that name what has changed: messages, exchanges, plans, faults, …"""
        headers = {**_HEADERS, hdrs.CONTENT_TYPE: "text/event-stream"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):  # how a page goes
            await self._tell(response)
        return response

    async def _tell(self, response: web.StreamResponse) -> None:
        with self._sandbox.changes.listener() as listener:
            await response.write(f"retry: {_AGAIN}\n\n".encode())
            while not listener.ended:
                try:
                    async with asyncio.timeout(_HEARTBEAT):
                        changes = await listener.changes()
                except TimeoutError:
                    await response.write(b": still here\n\n")
                    continue
                await response.write(f"data: {json.dumps(sorted(changes))}\n\n".encode())
                await asyncio.sleep(_PAUSE)


def _file(name: str, kind: str) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        content = Path(__file__).with_name("static").joinpath(name).read_text("utf-8")
        return web.Response(text=content, content_type=kind)

    return answer


class Guard:
    """Keeps pages of other sites away from the page and from control.

    host: where the sandbox listens.
    """

    def __init__(self, host: str) -> None:
        self._local_only = is_loopback(host)

    def __call__(self, handler: Handler) -> Handler:
        """The handler, guarded."""

        @functools.wraps(handler)
        async def guarded(request: web.Request) -> web.StreamResponse:
            if _is_strange(request, local_only=self._local_only):
                return web.json_response({"error": "this is not for other sites"}, status=403)
            response = await handler(request)
            if not response.prepared:
                response.headers.update(_HEADERS)
            return response

        return guarded


def _is_strange(request: web.Request, *, local_only: bool) -> bool:
    """Whether another site's page asks, or one that has made its name lead here."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and urlsplit(origin).netloc != request.host:
        return True
    return local_only and not is_loopback(urlsplit(f"//{request.host}").hostname or "")
