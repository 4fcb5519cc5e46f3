"""A bulk run that is killed, stopped, or loses its ledger: the command, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from sp_messaging_async.sandbox import Sandbox

from .conftest import FAST
from .crash import POINTS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

OPERATIONS = ("createUnexpectedProblem", "createConfirmOrderDetails")
LATENCY = 0.02  # seconds
CAP = 100 * len(OPERATIONS)  # intents that may be committed and unfinished, by README
LONG = pytest.mark.long


@frozen
class Run:
    """A list, its ledger, and the local Amazon that it is sent to."""

    sandbox: Sandbox
    orders: Path
    ledger: Path

    @asynccontextmanager
    async def process(self, crash_at: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
        """The command, sending the list."""
        command = ("bulk", self.orders, "--ledger", self.ledger, "--marketplace", "US")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.crash", *map(str, command)),
            cwd=Path(__file__).parents[1],
            env={**self.environment(), "CRASH_AT": crash_at},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def to_its_end(self, crash_at: str = "") -> tuple[int, str]:
        """The exit status of the command, and what it printed."""
        async with self.process(crash_at) as process:
            output, _ = await process.communicate()
            assert process.returncode is not None
            return process.returncode, output.decode()

    def environment(self) -> dict[str, str]:
        """That of somebody who uses the sandbox."""
        return {
            **os.environ,
            "SP_MESSAGING_API_URL": self.sandbox.endpoint.api_url,
            "SP_MESSAGING_TOKEN_URL": self.sandbox.endpoint.token_url,
            "LWA_APP_ID": "client",
            "LWA_CLIENT_SECRET": "secret",
            "SP_API_REFRESH_TOKEN": "refresh",
        }

    def delivered(self) -> Counter[tuple[str, str]]:
        """How often each order and operation reached its buyer."""
        return Counter((each.amazon_order_id, each.operation) for each in self.sandbox.delivered)

    async def statuses(self) -> dict[tuple[str, str], str]:
        """What the ledger says of each order and operation."""
        report = ("report", "--ledger", str(self.ledger), "--format", "json")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sp_messaging_async", *report), stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        rows: list[dict[str, Any]] = json.loads(output)["rows"]
        return {(row["order_id"], row["operation"]): row["status"] for row in rows}

    async def check(self, *, kills: int) -> int:
        """Hold the ledger against what reached the buyers; returns the number of unknowns."""
        delivered, statuses = self.delivered(), await self.statuses()
        assert set(delivered.values()) <= {1}, "a buyer was messaged twice"
        assert len(statuses) == len(self.orders.read_text().splitlines()) - 1
        assert set(statuses.values()) <= {"sent", "unknown"}
        assert {key for key, status in statuses.items() if status == "sent"} <= delivered.keys()
        unknown = sum(status == "unknown" for status in statuses.values())
        assert unknown <= kills * CAP
        return unknown


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """A list of 150 orders for two operations, and an Amazon with a latency of 20 ms."""
    path = tmp_path / "orders.csv"
    write_list(path, 150)
    async with Sandbox(plans=FAST) as sandbox:
        answer = sandbox.messaging._answer

        async def late(*args: Any) -> Any:
            await asyncio.sleep(LATENCY)
            return await answer(*args)

        sandbox.messaging._answer = late  # type: ignore[method-assign]
        yield Run(sandbox, path, tmp_path / "ledger")


def write_list(path: Path, orders: int) -> None:
    rows = [
        f"111-2222222-{number:07},{operation},Two of them?\n"
        for number in range(orders)
        for operation in OPERATIONS
    ]
    path.write_text("order_id,operation,text\n" + "".join(rows), encoding="utf-8")


async def kill_at_random(run: Run, chance: random.Random) -> bool:
    """Kill a run with an exchange in flight; False if it ended before."""
    target = len(run.sandbox.delivered) + chance.randint(1, 40)
    async with run.process() as process:
        ended = asyncio.create_task(process.wait())
        while len(run.sandbox.delivered) < target and not ended.done():
            await asyncio.sleep(0.001)
        await asyncio.sleep(chance.uniform(0, LATENCY))
        if was_running := not ended.done():
            process.kill()
        await ended
    return was_running


@pytest.mark.parametrize(
    ("orders", "most"), [(1000, 3), pytest.param(6000, 30, marks=LONG)], ids=["few", "30 kills"]
)
async def test_killed_at_any_moment(run: Run, orders: int, most: int) -> None:
    """However often it is killed, no buyer is messaged twice, and the ledger tells no lie."""
    write_list(run.orders, orders)
    chance, kills = random.Random(1), 0
    while kills < most and await kill_at_random(run, chance):
        kills += 1
    status, output = await run.to_its_end()
    assert kills >= min(most, 2)
    unknown = await run.check(kills=kills)
    assert status == (3 if unknown else 0), output


@pytest.mark.parametrize("number", [2, *(pytest.param(n, marks=LONG) for n in (1, 3, 4, 5))])
@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_a_point(run: Run, point: str, number: int) -> None:
    """Killed there, and run again, no buyer is messaged twice, and the ledger tells no lie."""
    if point in ("the list is enrolled", "the campaign is taken"):
        number = 1
    status, output = await run.to_its_end(f"{point}:{number}")
    assert status == -signal.SIGKILL, output
    before = len(run.sandbox.delivered)
    status, output = await run.to_its_end()
    unknown = await run.check(kills=1)
    assert status == (3 if unknown else 0), output
    if point in ("the list is enrolled", "the campaign is taken"):
        assert (before, unknown) == (0, 0)
    assert (await run.to_its_end())[0] == status
    await run.check(kills=1)


async def test_killed_while_it_recovers(run: Run) -> None:
    """A kill in the recovery from a kill leaves what was in flight unknown, and nothing twice."""
    await run.to_its_end("the intent is committed:3")
    assert (await run.to_its_end("the campaign is taken:1"))[0] == -signal.SIGKILL
    assert (await run.to_its_end())[0] == 3
    assert await run.check(kills=1)


@pytest.mark.parametrize("how", ["SIGINT", "SIGINT twice", "SIGTERM"])
async def test_stopped(run: Run, how: str) -> None:
    """It says that it stopped, and goes on where it did."""
    write_list(run.orders, 2000)
    async with run.process() as process:
        while len(run.sandbox.delivered) < 50:
            await asyncio.sleep(0.001)
        process.send_signal(getattr(signal, how.split()[0]))
        if how.endswith("twice"):
            await asyncio.sleep(0.005)
            process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()
        assert process.returncode == 4, output.decode()
    assert b"Traceback" not in output
    assert len(run.sandbox.delivered) < 4000
    write_list(run.orders, 300)
    unknown = (await run.to_its_end())[0] == 3
    delivered = run.delivered()
    assert set(delivered.values()) == {1}
    assert unknown <= (how == "SIGINT twice")


async def test_a_commit_that_is_held_up(run: Run) -> None:
    """While the intent cannot be committed, no byte of a message reaches the server."""
    await run.to_its_end("the list is enrolled:2")  # never passed twice: it sends everything
    write_list(run.orders, 151)
    requests = len(run.sandbox.delivered)
    assert requests == 300
    run.sandbox.delivered.clear()
    holder = sqlite3.connect(run.ledger, isolation_level=None)
    async with run.process() as process:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), 1.5)
        assert run.sandbox.delivered == []
        holder.execute("ROLLBACK")
        holder.close()
        await process.communicate()
    assert len(run.sandbox.delivered) == 2


@pytest.mark.parametrize("damage", ["WAL gone", "WAL emptied", "file cut", "file emptied"])
async def test_a_ledger_that_lost_something(run: Run, damage: str) -> None:
    """It is refused with the remedy, and nothing is sent."""
    status, _ = await run.to_its_end("the answer is recorded:3")
    assert status == -signal.SIGKILL
    wal = run.ledger.with_name(run.ledger.name + "-wal")
    match damage:
        case "WAL gone":
            wal.unlink()
        case "WAL emptied":
            os.truncate(wal, 0)
        case "file cut":
            os.truncate(run.ledger, run.ledger.stat().st_size // 2 + 1)
        case "file emptied":
            os.truncate(run.ledger, 0)
    before = len(run.sandbox.delivered)
    status, output = await run.to_its_end()
    assert status == 2
    assert len(run.sandbox.delivered) == before
    assert str(run.ledger) in output
    assert "ring" in output, "the remedy is to bring a copy back"
    assert "Traceback" not in output
