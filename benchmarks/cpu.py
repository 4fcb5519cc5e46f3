"""CPU of a send, in microseconds of this process, with so many in flight.

Needs nothing but Python, so that it measures other clients in their environment too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

# Sends before those that are counted, for each in flight: connections that were idle for too long
# are opened anew then.
WARMING = 4


async def of_tasks(send: Callable[[int], Awaitable[object]], count: int, in_flight: int) -> float:
    """A send is a coroutine; a task for each in flight."""

    async def work(numbers: range) -> None:
        for number in numbers:
            await send(number)

    async def all_of(count: int) -> None:
        await asyncio.gather(*(work(share) for share in _shares(count, in_flight)))

    await all_of(WARMING * in_flight)
    began = time.process_time()
    await all_of(count)
    return (time.process_time() - began) / count * 1e6


def of_threads(send: Callable[[int], object], count: int, in_flight: int) -> float:
    """A send blocks; a thread for each in flight."""

    def work(numbers: range) -> None:
        for number in numbers:
            send(number)

    with ThreadPoolExecutor(in_flight) as threads:
        list(threads.map(work, _shares(WARMING * in_flight, in_flight)))
        began = time.process_time()
        list(threads.map(work, _shares(count, in_flight)))
        return (time.process_time() - began) / count * 1e6


def _shares(count: int, in_flight: int) -> list[range]:
    return [range(first, count, in_flight) for first in range(in_flight)]
