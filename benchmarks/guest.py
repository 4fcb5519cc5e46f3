"""A good guest in somebody's loop: how late a bot's own ticker is while messages are sent in it.

    python -m benchmarks guest

A bot holds a list of 100,000 messages, and a ticker of its own wants to wake every millisecond. In
the same loop the first part of the list goes through `send_all`, or through bare aiohttp with as
many in flight, to a responder in another process. Compared is the 99th percentile of the ticker's
lateness, in rounds that take turns. Then the whole list is sent once, and the peak memory is held
against what the same process had with an idle session and the list, which is the caller's.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Coroutine, Iterable, Iterator
from itertools import islice

import aiohttp

from benchmarks.alone import alone, peak_resident, resident, run_one
from benchmarks.responder import responder
from benchmarks.table import Row, median_ratio, met
from sp_messaging_async import (
    CreateUnexpectedProblemRequest,
    Credentials,
    Endpoint,
    LocalThrottle,
    Message,
    MessagingSession,
    UsagePlan,
    send_all,
)

IN_FLIGHT = 100  # what send_all has at work for one session unless told otherwise
TICK = 0.001  # seconds
TEXT = "Sold out."
NO_LIMIT = LocalThrottle({"createUnexpectedProblem": UsagePlan(1e9, 1e9)})


def rows(quick: bool = False) -> list[Row]:
    rounds, sends, listed = (1, 1_000, 2_000) if quick else (5, 20_000, 100_000)
    late: dict[str, list[float]] = {"bare": [], "ours": []}
    with responder() as url:
        for _ in range(rounds):
            for whose, found in late.items():
                found += alone(__name__, whose, url, sends, listed)
        (more,) = alone(__name__, "memory", url, listed)
    ratio = median_ratio(late["ours"], late["bare"])
    late_goal, memory_goal = "≤ 2", "≤ 40 MB"
    return [
        Row(
            goal=3,
            what="a 1 ms ticker beside send_all: lateness, 99th percentile",
            unit="ms",
            ours=statistics.median(late["ours"]),
            bare=statistics.median(late["bare"]),
            ratio=ratio,
            goal_text=late_goal,
            met=met(late_goal, ratio),
            note=f"{sends:,} of a list of {listed:,}, {IN_FLIGHT} in flight, asyncio's own loop",
            rounds=late,
        ),
        Row(
            goal=3,
            what=f"send_all of {listed:,} listed messages: memory above an idle session",
            unit="MB",
            ours=more,
            goal_text=memory_goal,
            met=met(memory_goal, more),
            note="the peak of a process, less what it held with the session and the list",
        ),
    ]


async def beside_bare(url: str, sends: int, listed: int) -> tuple[float, ...]:
    held = list(messages(listed))
    async with aiohttp.ClientSession() as http:
        return (await lateness(bare(http, url, islice(held, sends))),)


async def beside_send_all(url: str, sends: int, listed: int) -> tuple[float, ...]:
    held = list(messages(listed))
    async with session(url) as messaging:
        return (await lateness(through_send_all(messaging, islice(held, sends))),)


async def memory(url: str, sends: int) -> tuple[float, ...]:
    """Megabytes at the peak above those before."""
    held = list(messages(sends))
    async with session(url) as messaging:
        before = resident()
        await through_send_all(messaging, held)
    return (peak_resident() - before,)


async def lateness(work: Coroutine[object, object, None]) -> float:
    """The 99th percentile in milliseconds of a ticker's lateness, until the work is done."""
    late: list[float] = []
    ticker = asyncio.create_task(tick(late))
    await work
    ticker.cancel()
    return 1000 * statistics.quantiles(late, n=100)[-1]


async def tick(late: list[float]) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + TICK
        await asyncio.sleep(TICK)
        late.append(clock() - due)


async def bare(http: aiohttp.ClientSession, url: str, left: Iterator[Message]) -> None:
    async def worker() -> None:
        for message in left:
            path = f"/messaging/v1/orders/{message.amazon_order_id}/messages/unexpectedProblem"
            query, body = {"marketplaceIds": "ATVPDKIKX0DER"}, {"text": TEXT}
            async with http.post(url + path, params=query, json=body) as answer:
                await answer.read()

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


async def through_send_all(messaging: MessagingSession, listed: Iterable[Message]) -> None:
    async with send_all(messaging, listed) as outcomes:
        async for outcome in outcomes:
            assert outcome.status == "sent", outcome.error


def messages(count: int) -> Iterator[Message]:
    for number in range(count):
        yield Message(f"111-2222222-{number:07}", CreateUnexpectedProblemRequest(TEXT))


def session(url: str) -> MessagingSession:
    return MessagingSession(
        Credentials("client", "secret", "refresh"),
        marketplace="US",
        endpoint=Endpoint(url, f"{url}/auth/o2/token"),
        throttle=NO_LIMIT,
    )


if __name__ == "__main__":
    run_one({"bare": beside_bare, "ours": beside_send_all, "memory": memory})
