"""send_all over a generator: peak memory after a tenth of the messages and after all of them.

    python -m benchmarks.bulk_memory [COUNT]

Beside it, in the same run, the sends a second of bare aiohttp with as many in flight.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Iterator

import aiohttp

from benchmarks.responder import responder
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

IN_FLIGHT = 50
NO_LIMIT = LocalThrottle({"createUnexpectedProblem": UsagePlan(1e9, 1e9)})


def messages(count: int) -> Iterator[Message]:
    for number in range(count):
        order = f"111-{number // 10_000_000:07}-{number % 10_000_000:07}"
        yield Message(order, CreateUnexpectedProblemRequest("Sold out."))


async def through_send_all(url: str, count: int) -> tuple[float, float, float]:
    """Sends a second, and peak megabytes after a tenth and at the end."""
    credentials = Credentials("client", "secret", "refresh")
    endpoint = Endpoint(url, f"{url}/auth/o2/token")
    done, early = 0, 0.0
    began = time.perf_counter()
    async with (
        MessagingSession(
            credentials, marketplace="US", endpoint=endpoint, throttle=NO_LIMIT
        ) as session,
        send_all(session, messages(count), concurrency=IN_FLIGHT) as outcomes,
    ):
        async for outcome in outcomes:
            assert outcome.status == "sent", outcome.error
            done += 1
            if done == count // 10:
                early = peak()
    return count / (time.perf_counter() - began), early, peak()


async def bare(url: str, count: int) -> float:
    """Sends a second of aiohttp alone."""
    left = iter(range(count))

    async def worker(http: aiohttp.ClientSession) -> None:
        for number in left:
            path = f"/messaging/v1/orders/111-2222222-{number:07}/messages/unexpectedProblem"
            query = {"marketplaceIds": "ATVPDKIKX0DER"}
            async with http.post(url + path, params=query, json={"text": "Sold out."}) as answer:
                await answer.read()

    began = time.perf_counter()
    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(worker(http) for _ in range(IN_FLIGHT)))
    return count / (time.perf_counter() - began)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(count: int) -> None:
    with responder() as url:
        base = asyncio.run(bare(url, min(count, 20_000)))
        rate, early, late = asyncio.run(through_send_all(url, count))
    print(f"messages                    {count:,}")
    print(f"peak after a tenth, at end  {early:.1f} MB, {late:.1f} MB")
    print(f"sends a second              {rate:,.0f}, {rate / base:.2f} of bare aiohttp's")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
