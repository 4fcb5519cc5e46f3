"""The ledger in PostgreSQL: enrolling a million rows by COPY, and sends a second of a bulk run.

    python -m benchmarks.postgres_ledger

A private server on this machine, with `fsync` on and its files in the folder for temporary ones;
messages go to a responder without limits. Beside it the ledger in SQLite, on the same disk. Server,
responder and sender share the machine's cores.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.bulk_ledger import write_list
from benchmarks.bulk_memory import IN_FLIGHT, NO_LIMIT, peak
from benchmarks.child import ROOT
from benchmarks.responder import responder
from benchmarks.table import Row, machine, median_ratio, show
from sp_messaging_async import (
    Credentials,
    Endpoint,
    Ledger,
    Marketplace,
    MessagingSession,
    PostgresLedger,
    SQLiteLedger,
)
from sp_messaging_async.bulk.campaign import CampaignRun, enrol
from tests.postgres import SETTINGS, programs_of_postgres, running

ROUNDS, SENDS, ENROLLED = 3, 10_000, 1_000_000
SERVER = SETTINGS + "shared_buffers = 256MB\nmax_wal_size = 4GB\n"


@asynccontextmanager
async def opened(where: str, folder: str) -> AsyncIterator[Ledger]:
    """An empty ledger: in SQLite for "sqlite", else at an address."""
    if where == "sqlite":
        async with SQLiteLedger(Path(folder) / "ledger") as kept:
            yield kept
        return
    ledger = PostgresLedger(where, schema=f"ledger_{time.time_ns()}")
    await ledger.create()
    async with ledger:
        yield ledger


async def enrolled(where: str, count: int) -> None:
    """Enrols a list; prints rows a second and peak megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.csv"
        write_list(path, count)
        async with opened(where, folder) as ledger:
            began = time.perf_counter()
            await enrol(path, Marketplace.US, ledger, "default", "here")
            print(count / (time.perf_counter() - began), peak())


async def sent(where: str, url: str, count: int) -> None:
    """Enrols and sends a list; prints sends a second."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.csv"
        write_list(path, count)
        async with (
            opened(where, folder) as ledger,
            MessagingSession(
                Credentials("client", "secret", "refresh"),
                marketplace="US",
                endpoint=Endpoint(url, f"{url}/auth/o2/token"),
                throttle=NO_LIMIT,
            ) as session,
            ledger.campaign_lock("default"),
        ):
            found, _, _ = await enrol(path, Marketplace.US, ledger, "default", "here")
            run = CampaignRun(ledger, found.run, {"default": session})
            began = time.perf_counter()
            async with run.outcomes() as outcomes:
                done = [outcome.status async for outcome in outcomes]
            took = time.perf_counter() - began
            assert done == ["sent"] * count
            print(count / took)


def measured(what: str, *arguments: object) -> list[float]:
    """What one measure prints, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.postgres_ledger", what, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return [float(number) for number in done.stdout.split()]


def rows(quick: bool = False) -> list[Row]:
    rounds, sends, count = (1, 300, 2000) if quick else (ROUNDS, SENDS, ENROLLED)
    with running(programs_of_postgres(), None, SERVER) as server:
        rates: dict[str, list[float]] = {"postgres": [], "sqlite": []}
        for _ in range(rounds):
            with responder() as url:
                for where, at in places(server.dsn):
                    rates[where] += measured("sent", at, url, sends)
        lists = {where: measured("enrolled", at, count) for where, at in places(server.dsn)}
    return [
        Row(
            goal=0,
            what=f"PostgreSQL ledger: enrolling {count:,} rows",
            unit="rows/s",
            ours=lists["postgres"][0],
            bare=lists["sqlite"][0],
            ratio=lists["postgres"][0] / lists["sqlite"][0],
            note="bare is here: the ledger in SQLite; the list is read and checked, staged by COPY "
            f"and merged; peak memory of the client {lists['postgres'][1]:.0f} MB",
        ),
        Row(
            goal=0,
            what=f"PostgreSQL ledger: bulk run of one process, {sends:,} sends",
            unit="sends/s",
            ours=statistics.median(rates["postgres"]),
            bare=statistics.median(rates["sqlite"]),
            ratio=median_ratio(rates["postgres"], rates["sqlite"]),
            note=f"bare is here: the ledger in SQLite; {IN_FLIGHT} in flight; server, responder "
            "and sender on the same cores, fsync on",
            rounds=rates,
        ),
    ]


def places(dsn: str) -> list[tuple[str, str]]:
    """Both ledgers' names, and where they are."""
    return [("postgres", dsn), ("sqlite", "sqlite")]


if __name__ == "__main__":
    if sys.argv[1:]:
        name, *given = sys.argv[1:]
        asyncio.run(globals()[name](*(int(each) if each.isdigit() else each for each in given)))
    else:
        show(rows(), machine(), Console())
