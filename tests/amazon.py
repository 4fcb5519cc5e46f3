"""A local Amazon in a process of its own, where things go wrong by chance and plans change.

It says where it listens in a line; after a line that it reads, it says what was delivered and ends.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from attrs import frozen

from sp_messaging_async import Endpoint, UsagePlan
from sp_messaging_async.operations import MESSAGING, OPERATIONS, UPLOAD
from sp_messaging_async.sandbox import Fault, Sandbox
from sp_messaging_async.sandbox.faults import PUT_FILE, TOKEN

TOKENS_LIVE = 1.0  # seconds
PATIENCE = 60.0  # seconds before a process that does not start or end is a failure
LOWEST, HIGHEST = 50.0, 1000.0  # requests a second, between which plans change

_OF_LOGIN = (Fault.TEMPORARILY_UNAVAILABLE, Fault.INTERNAL_FAILURE, Fault.DROPPED, Fault.HANG)
_OF_UPLOADS = (
    *(Fault.UNAVAILABLE, Fault.INTERNAL_FAILURE_AFTER, Fault.DROPPED, Fault.HANG_AFTER),
    *(Fault.EMPTY_AFTER, Fault.CUT_AFTER, Fault.DENIED),
)


def order(number: int) -> str:
    """The id of the order of a number."""
    return f"777-{number // 10**7:07}-{number % 10**7:07}"


def number_of(order_id: str) -> int:
    """The number of an order."""
    return int(order_id[4:].replace("-", ""))


@frozen
class Amazon:
    """The process, as its client sees it."""

    endpoint: Endpoint
    _process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, faults: float, seed: int) -> Self:
        """Begin, with a probability of a fault in each exchange."""
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(faults), str(seed)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        return cls(Endpoint(*json.loads(process.stdout.readline())), process)

    def deliveries(self) -> Mapping[int, int]:
        """How often each order's buyer was messaged; it ends then."""
        said, _ = self._process.communicate(b"end\n", timeout=PATIENCE)
        counts = base64.b64decode(said)
        return {number: count for number, count in enumerate(counts) if count}

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()


async def main(faults: float, seed: int) -> None:
    """Serve until a line comes."""
    chance = random.Random(seed)
    plans = dict.fromkeys(OPERATIONS, UsagePlan(rate=HIGHEST, burst=20))
    async with Sandbox(plans=plans, token_lifetime=TOKENS_LIVE, keep=10**6) as sandbox:
        sandbox.faults._random.seed(seed)
        _let_fail(sandbox, faults)
        print(json.dumps([sandbox.endpoint.api_url, sandbox.endpoint.token_url]), flush=True)  # noqa: T201
        async with _troubled(sandbox, chance):
            await asyncio.to_thread(sys.stdin.readline)
        counts = Counter(number_of(message.amazon_order_id) for message in sandbox.delivered)
        found = bytes(min(counts[number], 255) for number in range(max(counts, default=0) + 1))
        print(base64.b64encode(found).decode(), flush=True)  # noqa: T201


def _let_fail(sandbox: Sandbox, faults: float) -> None:
    kinds = [fault for fault in Fault if fault is not Fault.TEMPORARILY_UNAVAILABLE]
    for fault in kinds:
        sandbox.faults.add_chance(fault, faults / len(kinds))
    for targets, ways in (((TOKEN,), _OF_LOGIN), ((UPLOAD.name, PUT_FILE), _OF_UPLOADS)):
        for target in targets:
            for fault in ways:
                sandbox.faults.add_chance(fault, faults / len(ways), operation=target)


@asynccontextmanager
async def _troubled(sandbox: Sandbox, chance: random.Random) -> AsyncIterator[None]:
    """Plans go up and down, and now and then connections are refused."""

    async def trouble() -> None:
        while True:
            await asyncio.sleep(0.1)
            plan = UsagePlan(rate=chance.uniform(LOWEST, HIGHEST), burst=chance.randint(5, 20))
            sandbox.plans.change(chance.choice(list(MESSAGING)), plan)
            if chance.random() < 0.005:
                async with sandbox.faults.refused():
                    await asyncio.sleep(0.05)

    troubling = asyncio.create_task(trouble())
    try:
        yield
    finally:
        troubling.cancel()
        await asyncio.wait((troubling,))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), int(sys.argv[2])))
