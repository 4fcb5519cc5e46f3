"""Commands for campaigns on many machines: workers, what they need, and how all stands."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from ..bulk.progress import seconds_by_plans
from ..cluster.postgres_ledger import PostgresLedger
from ..cluster.worker import CampaignStatus, ClusterStatus, Worker, credentials_of, init, status
from ..errors import ConfigurationError
from ..ledger import Status
from ..marketplaces import is_loopback
from . import terminal
from .app import ALL_SENT, SOME_NOT_SENT, STOPPED, app
from .display import duration
from .options import Flag
from .terminal import plural, say, shown

if TYPE_CHECKING:
    from ..cluster.redis_throttle import RedisThrottle

__all__ = ["cluster", "worker"]

cluster = App(name="cluster", help="Look after a ledger that many machines send from.")
app.command(cluster)

Address = Annotated[str, Parameter(name="--ledger")]

_MOST = 65535


@app.command
async def worker(
    *,
    ledger: Address,
    credentials: str,
    throttle: str | None = None,
    concurrency: int = 100,
    takeover: float = 20.0,
    health_port: int | None = None,
    health_host: str = "127.0.0.1",
    allow_remote: Flag = False,
) -> int:
    """Send what was enqueued with bulk --enqueue, until it is stopped. Run it on many machines.

    SIGTERM or Ctrl-C stops it: it takes no more sellers, lets exchanges in flight end, and puts
    back what is left for the others; the second one stops it at once.

    Parameters
    ----------
    ledger:
        Its address, postgresql://USER@HOST/DATABASE; the password is better kept in PGPASSWORD or a
        password file.
    credentials:
        A TOML or YAML file with a table for each account, or module:function, which is given an
        account and returns its Credentials.
    throttle:
        A Redis that counts the usage plans, redis://HOST; needed where others message for the same
        sellers too.
    concurrency:
        The most sellers to serve at once.
    takeover:
        Seconds without a word after which a worker is given up, the same for all workers. Others
        have taken over what it did after one and a half times as long.
    health_port:
        Where to answer /live and /ready over HTTP; nowhere unless given.
    health_host:
        The address to answer at. Others than loopback need --allow-remote.
    allow_remote:
        Let other machines ask for its health.
    """
    _check_health(health_port, health_host, allow_remote=allow_remote)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - where module:function is looked for first
    async with AsyncExitStack() as stack:
        stack.enter_context(_told())
        shared = await stack.enter_async_context(_redis(throttle)) if throttle else None
        book = await stack.enter_async_context(PostgresLedger(ledger, lease=takeover))
        serving = Worker(
            book,
            credentials_of(credentials),
            throttle=shared,
            concurrency=concurrency,
            health_port=health_port,
            health_host=health_host,
        )
        with _stopped_by_signals(serving):
            terminal.say("at work; Ctrl-C or SIGTERM stops it")
            await serving.run()
    terminal.say("stopped")
    return ALL_SENT


def _check_health(port: int | None, host: str, *, allow_remote: bool) -> None:
    if port is not None and not 0 <= port <= _MOST:
        raise ConfigurationError(f"--health-port {port} is no port; give a number up to {_MOST}")
    if not (allow_remote or is_loopback(host)):
        raise ConfigurationError(
            f"--health-host {host} lets other machines in; add --allow-remote if they may come"
        )


def _redis(url: str) -> RedisThrottle:
    from ..cluster.redis_throttle import RedisThrottle  # for whoever has one

    return RedisThrottle(url)


@contextmanager
def _stopped_by_signals(serving: Worker) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop it; the second one does so at once."""
    loop = asyncio.get_running_loop()
    is_second = False

    def stop(*_: object) -> None:
        nonlocal is_second
        if is_second:  # as abrupt as a kill, and as safe: what is in flight will be unknown
            os._exit(STOPPED)
        is_second = True
        loop.call_soon_threadsafe(serving.stop)
        terminal.tell("stopping: exchanges in flight end first; once more stops at once")

    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = {number: handler for number, handler in usual.items() if handler != signal.SIG_IGN}
    for number in heeded:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


@contextmanager
def _told() -> Iterator[None]:
    """What a worker notes is told on standard error; what Procrastinate does besides is not."""
    notes, quiet = logging.getLogger("sp_messaging_async"), logging.getLogger("procrastinate")
    pool = logging.getLogger("psycopg.pool")
    handler, silence = _Teller(logging.WARNING), logging.NullHandler()
    notes.addHandler(handler)
    for other in (quiet, pool):
        other.addHandler(silence)
    try:
        yield
    finally:
        notes.removeHandler(handler)
        for other in (quiet, pool):
            other.removeHandler(silence)


class _Teller(logging.Handler):
    """Tells a line on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it."""
        terminal.tell(f"{record.levelname.lower()}: {record.getMessage()}")


@cluster.command(name="init")
async def init_(*, ledger: Address) -> None:
    """Make the tables in a PostgreSQL database, or bring them up to this version.

    May be run again, and by several at once.

    Parameters
    ----------
    ledger:
        Its address, postgresql://USER@HOST/DATABASE.
    """
    version, of_jobs = await init(ledger)
    say(f"ready: the ledger's tables are of version {version}, those of its jobs of {of_jobs}")


@cluster.command(name="status")
async def status_(*, ledger: Address) -> int:
    """Show campaigns, workers, the rate of the last minute, and the time left by the plans.

    Parameters
    ----------
    ledger:
        Its address, postgresql://USER@HOST/DATABASE.
    """
    async with PostgresLedger(ledger) as book:
        found = await status(book)
    if found.campaigns:
        terminal.out.print(_campaigns(found.campaigns))
    else:
        say("no campaigns")
    say(
        f"{plural(found.workers, 'worker')} alive; {plural(found.running, 'job')} running, "
        f"{found.waiting:,} waiting, {found.failed:,} failed"
    )
    _tell_failed(found)
    return SOME_NOT_SENT if found.failed else ALL_SENT


_STATUSES: tuple[Status, ...] = ("planned", "sending", "sent", "skipped", "rejected", "unknown")


def _campaigns(campaigns: Sequence[CampaignStatus]) -> Table:
    table = Table("campaign", *_STATUSES, "last minute", "time left by plans")
    for campaign in campaigns:
        counts = (f"{campaign.counts.get(status, 0):,}" for status in _STATUSES)
        rate = f"{campaign.lately / 60:.3g}/s"
        seconds = max(seconds_by_plans(campaign.lanes).values(), default=0.0)
        left = duration(seconds) if campaign.lanes else ""
        table.add_row(Text(shown(campaign.name)), *counts, rate, left)
    return table


def _tell_failed(found: ClusterStatus) -> None:
    for account, region, campaign in found.some_failed:
        say(f"failed: account {account} in region {region.upper()}, campaign {campaign!r}")
    if more := found.failed - len(found.some_failed):
        say(f"and {more:,} more failed")
    if found.failed:
        say("why, their worker has told; bulk --enqueue of the same list tries them again")
