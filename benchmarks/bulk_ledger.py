"""A bulk run with the durable ledger: enrolment, sends a second, memory, and the ledger's share.

    python benchmarks/bulk_ledger.py [SENDS] [ROWS]

SENDS messages go to a responder without limits, beside bare aiohttp with as many in flight; then a
list of ROWS is enrolled. Each measure has a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from bulk_memory import IN_FLIGHT, NO_LIMIT, bare, peak
from responder import responder

from sp_messaging_async import (
    CreateUnexpectedProblemRequest,
    Credentials,
    Endpoint,
    Marketplace,
    MessagingSession,
    SQLiteLedger,
)
from sp_messaging_async.bulk.campaign import CampaignRun, enrol
from sp_messaging_async.session import Patience

ROUNDS = 3


def write_list(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("order_id,operation,text\n")
        for number in range(count):
            order = f"111-{number // 10_000_000:07}-{number % 10_000_000:07}"
            file.write(f"{order},createUnexpectedProblem,Sold out.\n")


async def enrolled(count: int) -> None:
    """Enrols a list; prints rows a second and peak megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.csv"
        write_list(path, count)
        async with SQLiteLedger(Path(folder) / "ledger") as ledger:
            began = time.perf_counter()
            await enrol(path, Marketplace.US, ledger, "default", "here")
            print(count / (time.perf_counter() - began), peak())


async def sent(url: str, count: int) -> None:
    """Enrols and sends a list; prints sends a second, and peak megabytes early and at the end."""
    endpoint = Endpoint(url, f"{url}/auth/o2/token")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.csv"
        write_list(path, count)
        async with (
            SQLiteLedger(Path(folder) / "ledger") as ledger,
            MessagingSession(
                Credentials("client", "secret", "refresh"),
                marketplace="US",
                endpoint=endpoint,
                throttle=NO_LIMIT,
            ) as session,
        ):
            found, _, _ = await enrol(path, Marketplace.US, ledger, "default", "here")
            run = CampaignRun(ledger, found.run, {"default": session})
            done, early = 0, 0.0
            began = time.perf_counter()
            async with run.outcomes() as outcomes:
                async for outcome in outcomes:
                    assert outcome.status == "sent", outcome.error
                    done += 1
                    if done == count // 10:
                        early = peak()
            assert done == count
            print(count / (time.perf_counter() - began), early, peak())


async def without_ledger(url: str, count: int) -> None:
    """The same pipeline with as many in flight and no ledger; prints sends a second."""
    endpoint = Endpoint(url, f"{url}/auth/o2/token")
    left = iter(range(count))
    request = CreateUnexpectedProblemRequest("Sold out.")

    async def worker(session: MessagingSession) -> None:
        for number in left:
            await session.deliver(f"111-2222222-{number:07}", request, None, Patience())

    async with MessagingSession(
        Credentials("client", "secret", "refresh"),
        marketplace="US",
        endpoint=endpoint,
        throttle=NO_LIMIT,
    ) as session:
        began = time.perf_counter()
        await asyncio.gather(*(worker(session) for _ in range(IN_FLIGHT)))
        print(count / (time.perf_counter() - began))


async def bare_sent(url: str, count: int) -> None:
    print(await bare(url, count))


def measured(what: str, *arguments: object) -> list[float]:
    """What one measure prints, in a process of its own."""
    command = [sys.executable, __file__, what, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def main(sends: int, rows: int) -> None:
    print(f"aiohttp {aiohttp.__version__}, {IN_FLIGHT} in flight")
    ratios, shares = [], []
    for _ in range(ROUNDS):
        with responder() as url:
            (base,) = measured("bare_sent", url, min(sends, 20_000))
            (alone,) = measured("without_ledger", url, min(sends, 20_000))
            rate, early, late = measured("sent", url, sends)
        ratios.append(rate / base)
        shares.append(1 - rate / alone)
        print(
            f"{sends:,} sends  {rate:,.0f}/s, {rate / base:.2f} of bare aiohttp's {base:,.0f}/s; "
            f"peak after a tenth {early:.0f} MB, at the end {late:.0f} MB"
        )
    print(f"median ratio  {statistics.median(ratios):.2f}")
    print(f"the ledger's share of the time per send  {statistics.median(shares):.0%}")
    rate, megabytes = measured("enrolled", rows)
    print(f"{rows:,} rows enrolled  {rate:,.0f}/s, {rows / rate:.0f} s, peak {megabytes:.0f} MB")


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].isdigit():
        name, *given = sys.argv[1:]
        asyncio.run(globals()[name](*(int(x) if x.isdigit() else x for x in given)))
    else:
        numbers = [int(number) for number in sys.argv[1:]]
        main(*(numbers + [100_000, 1_000_000][len(numbers) :]))
