"""A worker's health over HTTP, for what keeps it running: /live and /ready."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import frozen

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Health", "State", "served"]

State: TypeAlias = Literal["starting", "serving", "cut off", "stopping", "stopped"]


@frozen
class Health:
    """How a worker is, and what it has done since it began.

    state: "cut off" while the database does not answer it.
    jobs: sellers that it serves now.
    outcomes: messages, by what became of them.
    last_heartbeat: when the database last heard of it, by the database's clock.
    """

    state: State
    jobs: int
    outcomes: Counter[str]
    last_heartbeat: datetime | None

    def as_json(self) -> str:
        """One object."""
        names = ("sent", "unknown", "rejected", "skipped")
        beat = self.last_heartbeat
        values = {
            "state": self.state,
            "jobs": self.jobs,
            **{name: self.outcomes[name] for name in names},
            "last_heartbeat": beat.isoformat() if beat else None,
        }
        return json.dumps(values)


@asynccontextmanager
async def served(host: str, port: int, health: Callable[[], Health]) -> AsyncIterator[int]:
    """Tell a worker's health over HTTP while the context lasts; gives the port.

    /live is 200 while the worker works, whatever else is away: to start it again would not help.
    /ready is 200 while it takes jobs, and else 503.

    Raises ConfigurationError where it cannot listen.
    """
    from aiohttp import web  # a web server, for whoever asks for it

    async def live(request: web.Request) -> web.Response:
        return _answer(health(), is_well=health().state != "stopped")

    async def ready(request: web.Request) -> web.Response:
        return _answer(health(), is_well=health().state == "serving")

    app = web.Application()
    app.add_routes([web.get("/live", live), web.get("/ready", ready)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigurationError(
                f"health cannot be told on {host}, port {port}: {reason}"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _answer(health: Health, *, is_well: bool) -> web.Response:
    from aiohttp import web

    status = 200 if is_well else 503
    return web.Response(text=health.as_json(), status=status, content_type="application/json")
