"""What a grant costs when the plan is kept in Redis, against one in the process's own memory.

    python -m benchmarks redis_throttle

Grants of plans that do not wait, so that only their own time is measured: by one caller for one
plan, each the next after the last, and by 100 callers for a plan each. Redis is a private
redis-server on this machine, over a Unix socket; a network's round trip adds to
each grant, and not to how many there are of many plans. Rounds take turns.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.alone import alone, run_one
from benchmarks.table import Row
from sp_messaging_async import LocalThrottle, PlanKey, RedisThrottle, UsagePlan

OPERATION = "createUnexpectedProblem"
NO_LIMIT = {OPERATION: UsagePlan(1e9, 1e9)}
CALLERS = 100
PATIENCE = 30.0  # seconds


def rows(quick: bool = False) -> list[Row]:
    rounds, grants = (1, 200) if quick else (5, 5_000)
    found: dict[tuple[int, str], list[list[float]]] = {}
    with redis_server() as url:
        for _ in range(rounds):
            for callers in (1, CALLERS):
                for whose in ("ours", "bare"):
                    numbers = alone(__name__, whose, url, callers, grants)
                    found.setdefault((callers, whose), []).append(numbers)
    return [row for callers in (1, CALLERS) for row in _rows(callers, found)]


def _rows(callers: int, found: dict[tuple[int, str], list[list[float]]]) -> Iterator[Row]:
    who = "one caller of one plan" if callers == 1 else f"{callers} callers of a plan each"
    for index, (what, unit) in enumerate([("grants", "1/s"), ("a grant, 99th percentile", "ms")]):
        values = {
            whose: [numbers[index] for numbers in found[callers, whose]]
            for whose in ("ours", "bare")
        }
        yield Row(
            goal=0,
            what=f"RedisThrottle, {who}: {what}",
            unit=unit,
            ours=statistics.median(values["ours"]),
            bare=statistics.median(values["bare"]),
            note="below us stands LocalThrottle; one process, redis-server beside it",
            rounds=values,
        )


async def by_redis(url: str, callers: int, grants: int) -> tuple[float, ...]:
    async with RedisThrottle(url, plans=NO_LIMIT, on_outage="fail", timeout=30) as throttle:
        return await measured(throttle, callers, grants)


async def by_memory(url: str, callers: int, grants: int) -> tuple[float, ...]:
    return await measured(LocalThrottle(NO_LIMIT), callers, grants)


async def measured(
    throttle: LocalThrottle | RedisThrottle, callers: int, grants: int
) -> tuple[float, ...]:
    """Grants a second, and the 99th percentile of their times in milliseconds."""
    took: list[float] = []
    clock = time.perf_counter

    async def call(key: PlanKey, count: int) -> None:
        for _ in range(count):
            began = clock()
            await throttle.acquire(key)
            took.append(clock() - began)

    keys = [PlanKey("http://here", f"seller {number}", OPERATION) for number in range(callers)]
    await asyncio.gather(*(call(key, 1) for key in keys))  # connections, and the script
    took.clear()
    began = clock()
    await asyncio.gather(*(call(key, grants // callers) for key in keys))
    seconds = clock() - began
    return len(took) / seconds, 1000 * statistics.quantiles(took, n=100)[-1]


@contextmanager
def redis_server() -> Iterator[str]:
    """The address of a Redis that keeps nothing, for as long as it is needed."""
    program = shutil.which("redis-server")
    assert program, "there is no redis-server; on Debian: apt-get install redis-server"
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder, "redis.sock")
        options = ["--port", "0", "--unixsocket", str(socket), "--dir", folder, "--save", ""]
        with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as process:
            try:
                give_up = time.monotonic() + PATIENCE
                while not socket.exists():
                    assert process.poll() is None, "redis-server ended"
                    assert time.monotonic() < give_up, "redis-server does not begin"
                    time.sleep(0.01)
                yield f"unix://{socket}"
            finally:
                process.kill()


if __name__ == "__main__":
    run_one({"ours": by_redis, "bare": by_memory})
