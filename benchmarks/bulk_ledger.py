"""A bulk run with the durable ledger: sends a second, memory, and the ledger's share (goal 5).

    python -m benchmarks bulk_ledger
    python -m benchmarks.bulk_ledger enrolled ROWS

Messages go to a responder without limits, beside bare aiohttp and the same pipeline without a
ledger, with as many in flight. The second command enrols a list, a million rows say, and prints
rows a second and peak megabytes. Each measure has a process of its own, so that its peak memory is
its own.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bulk_memory import IN_FLIGHT, NO_LIMIT, bare, peak
from benchmarks.child import ROOT
from benchmarks.responder import responder
from benchmarks.table import Row, median_ratio, met
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

ROUNDS, SENDS = 4, 10_000


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
    command = [sys.executable, "-m", "benchmarks.bulk_ledger", what, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return [float(number) for number in done.stdout.split()]


def rows(quick: bool = False) -> list[Row]:
    rounds, sends = (1, 500) if quick else (ROUNDS, SENDS)
    taken = [_round(sends) for _ in range(rounds)]
    of = {name: [each[name] for each in taken] for name in taken[0]}
    middle = {name: statistics.median(values) for name, values in of.items()}
    rate = median_ratio(of["ours"], of["bare"])
    share = 1 - median_ratio(of["ours"], of["without ledger"])
    flat = median_ratio(of["at the end"], of["after a tenth"])
    return [
        Row(
            goal=5,
            what=f"bulk with ledger, {sends:,} sends",
            unit="sends/s",
            ours=middle["ours"],
            bare=middle["bare"],
            peers={"ours without ledger": middle["without ledger"]},
            ratio=rate,
            goal_text="≥ 0.5",
            met=met("≥ 0.5", rate),
            note=f"{IN_FLIGHT} in flight; the ledger takes {share:.0%} of the time of a send; no "
            "other client has one",
            rounds=of,
        ),
        Row(
            goal=5,
            what=f"bulk with ledger, {sends:,} sends: peak memory",
            unit="MB",
            ours=middle["at the end"],
            bare=middle["after a tenth"],
            ratio=flat,
            goal_text="≤ 1.05",
            met=met("≤ 1.05", flat),
            note="bare is here: the same run after a tenth of the sends",
        ),
    ]


def _round(sends: int) -> dict[str, float]:
    with responder() as url:
        (bare_rate,) = measured("bare_sent", url, sends)
        (alone,) = measured("without_ledger", url, sends)
        rate, early, late = measured("sent", url, sends)
    return {
        "ours": rate,
        "bare": bare_rate,
        "without ledger": alone,
        "after a tenth": early,
        "at the end": late,
    }


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    asyncio.run(globals()[name](*(int(each) if each.isdigit() else each for each in given)))
