"""30 sends at 1/s, burst 5, over a cold and jittery connection, in real time (about 27 seconds).

    python benchmarks/plan.py [SENDS]

The first connections are 300 ms late, and every request 0 to 200 ms. Beside the session stands
aiolimiter alone, as most would use it. Printed: answers of 429, and the last release after the
ideal one, which lets 5 go at once and then one a second.
"""

from __future__ import annotations

import asyncio
import random
import sys

from aiolimiter import AsyncLimiter

from sp_messaging_async import (
    CreateUnexpectedProblemRequest,
    LocalThrottle,
    MessagingSession,
    PlanKey,
    UsagePlan,
)
from sp_messaging_async.operations import OPERATIONS
from sp_messaging_async.sandbox import Sandbox
from sp_messaging_async.sandbox.plans import TokenBucket

LATE, JITTER = 0.3, 0.2  # seconds
REQUEST = CreateUnexpectedProblemRequest("Sold out.")


class Noted(LocalThrottle):
    """A LocalThrottle that notes when calls were let go, and 429s."""

    def __init__(self) -> None:
        super().__init__()
        self.released: list[float] = []
        self.refused = 0

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        await super().acquire(key, again=again)
        self.released.append(asyncio.get_running_loop().time())

    def throttled(self, key: PlanKey) -> None:
        self.refused += 1
        super().throttled(key)


async def relay(port: int) -> asyncio.Server:
    """A way to the port on which connections and requests are late."""
    chance = random.Random(1)
    connections = 0

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: bool) -> None:
        while data := await reader.read(65536):
            if late:
                await asyncio.sleep(chance.uniform(0, JITTER))
            writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections <= 4:
            await asyncio.sleep(LATE)
        onward = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            carry(reader, onward[1], True), carry(onward[0], writer, False), return_exceptions=True
        )

    return await asyncio.start_server(connect, "127.0.0.1", 0)


async def by_session(count: int) -> tuple[int, float]:
    throttle = Noted()
    async with Sandbox() as sandbox:
        server = await relay(int(sandbox.url.rpartition(":")[2]))
        late = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        endpoint = type(sandbox.endpoint)(late, sandbox.endpoint.token_url)
        async with (
            server,
            MessagingSession(
                sandbox.credentials, marketplace="US", endpoint=endpoint, throttle=throttle
            ) as session,
        ):
            began = asyncio.get_running_loop().time()
            orders = [f"111-2222222-{number:07}" for number in range(count)]
            await asyncio.gather(*(session.send(order, REQUEST) for order in orders))
        assert [each.amazon_order_id for each in sandbox.delivered][:1]
        assert len(sandbox.delivered) == count
    return throttle.refused, throttle.released[-1] - began


async def by_aiolimiter(count: int) -> tuple[int, float]:
    clock = asyncio.get_running_loop().time
    limiter, bucket = AsyncLimiter(5, 5), TokenBucket(UsagePlan(1, 5), clock)
    chance, began, refused, last = random.Random(1), clock(), 0, 0.0

    async def send(number: int) -> None:
        nonlocal refused, last
        async with limiter:
            last = clock() - began
        await asyncio.sleep((LATE if number < 4 else 0) + chance.uniform(0, JITTER))
        refused += not bucket.take()

    await asyncio.gather(*(send(number) for number in range(count)))
    return refused, last


async def main(count: int) -> None:
    plan = OPERATIONS["createUnexpectedProblem"].plan
    ideal = (count - plan.burst) / plan.rate
    (refused, last), (refused_alone, last_alone) = await asyncio.gather(
        by_session(count), by_aiolimiter(count)
    )
    print(f"{count} sends; the ideal last release is at {ideal:.2f} s")
    print(f"session           {refused} x 429, last release {last - ideal:+.2f} s")
    print(f"aiolimiter alone  {refused_alone} x 429, last release {last_alone - ideal:+.2f} s")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
