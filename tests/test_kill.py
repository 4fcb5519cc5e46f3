"""A bulk run that is killed, stopped, or loses its ledger: the command, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from attrs import define, evolve, frozen

from sp_messaging_async.sandbox import Sandbox

from .conftest import FAST, fill
from .crash import POINTS, RECOVERY
from .starter import Forked, Starter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

OPERATIONS = ("createUnexpectedProblem", "createConfirmOrderDetails")
LATENCY = 0.02  # seconds
CAP = 100  # intents of a seller and operation that may be committed and unfinished, by README
LONG = pytest.mark.long

_log = logging.getLogger(__name__)

Pair: TypeAlias = tuple[str, str]
"""An order and an operation."""


@frozen
class Run:
    """A list, its ledger, and the local Amazon that it is sent to."""

    sandbox: Sandbox
    orders: Path
    ledger: Path
    starter: Starter

    def process(
        self, *options: str, crash_at: str = "", api_url: str = ""
    ) -> AbstractAsyncContextManager[Forked]:
        """The command, sending the list."""
        command = ("bulk", self.orders, "--ledger", self.ledger, "--marketplace", "US", *options)
        variables = {**self.environment(api_url), "CRASH_AT": crash_at}
        return self.starter.process(*map(str, command), variables=variables)

    async def to_its_end(self, *options: str, crash_at: str = "") -> tuple[int, str]:
        """The exit status of the command, and what it printed."""
        async with self.process(*options, crash_at=crash_at) as process:
            return await self.end_of(process)

    async def end_of(self, process: Forked) -> tuple[int, str]:
        """The exit status of a process, and what it printed, once its last request was answered."""
        output = await process.communicate()
        await asyncio.sleep(2 * LATENCY)
        assert process.returncode is not None
        assert b"Traceback" not in output, output.decode()
        return process.returncode, output.decode()

    def environment(self, api_url: str) -> dict[str, str]:
        """That of somebody who uses the sandbox."""
        return {
            **os.environ,
            "SP_MESSAGING_API_URL": api_url or self.sandbox.endpoint.api_url,
            "SP_MESSAGING_TOKEN_URL": self.sandbox.endpoint.token_url,
            "LWA_APP_ID": "client",
            "LWA_CLIENT_SECRET": "secret",
            "SP_API_REFRESH_TOKEN": "refresh",
        }

    async def delivers(self, number: int) -> None:
        """Return when so many messages have reached their buyers."""
        async with asyncio.timeout(30):
            while len(self.sandbox.delivered) < number:
                await asyncio.sleep(0.001)

    def delivered(self) -> Counter[Pair]:
        """How often each order and operation reached its buyer."""
        return Counter((each.amazon_order_id, each.operation) for each in self.sandbox.delivered)

    def committed(self) -> dict[Pair, str]:
        """The status of each order and operation, while nobody has the ledger open; of a copy."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{self.ledger}{suffix}", f"{copy}{suffix}")
            with contextlib.closing(sqlite3.connect(copy)) as connection:
                rows = connection.execute("SELECT amazon_order_id, operation, status FROM messages")
                return {(order, operation): status for order, operation, status in rows}

    def unfinished(self) -> set[Pair]:
        """What a dead process was sending: at most the cap, and all of what it did not settle."""
        statuses = self.committed()
        sending = {pair for pair, status in statuses.items() if status == "sending"}
        by_operation = Counter(operation for _, operation in sending)
        assert max(by_operation.values(), default=0) <= CAP
        sent = {pair for pair, status in statuses.items() if status == "sent"}
        known = {pair for pair, status in statuses.items() if status == "unknown"}
        assert sent <= self.delivered().keys() <= sent | sending | known
        return sending

    def check(self, unfinished: set[Pair]) -> None:
        """Hold the ledger of a run that ended against what reached the buyers."""
        delivered, statuses = self.delivered(), self.committed()
        assert set(delivered.values()) <= {1}, "a buyer was messaged twice"
        assert len(statuses) == len(self.orders.read_text().splitlines()) - 1
        assert set(statuses.values()) <= {"sent", "unknown"}
        assert {pair for pair, status in statuses.items() if status == "unknown"} == unfinished
        sent = statuses.keys() - unfinished
        assert sent <= delivered.keys() <= sent | unfinished


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    """What starts the command's processes."""
    with Starter("tests.crash") as starter:
        yield starter


@pytest.fixture
async def run(tmp_path: Path, starter: Starter) -> AsyncIterator[Run]:
    """A list of 60 orders for two operations, and an Amazon with a latency of 20 ms."""
    path = tmp_path / "orders.csv"
    write_list(path, 60)
    async with Sandbox(plans=FAST) as sandbox:
        answer = sandbox.messaging._answer

        async def late(*args: Any) -> Any:
            await asyncio.sleep(LATENCY)
            return await answer(*args)

        sandbox.messaging._answer = late  # type: ignore[method-assign]
        yield Run(sandbox, path, tmp_path / "ledger", starter)


def write_list(path: Path, orders: int) -> None:
    rows = [
        f"111-2222222-{number:07},{operation},Two of them?\n"
        for number in range(orders)
        for operation in OPERATIONS
    ]
    path.write_text("order_id,operation,text\n" + "".join(rows), encoding="utf-8")


# Killed


async def kill_at_random(run: Run, chance: random.Random) -> set[Pair]:
    """Kill a run at some moment after its first message; what it was sending."""
    target = len(run.sandbox.delivered) + chance.randint(1, 40)
    async with run.process() as process:
        await run.delivers(target)
        await asyncio.sleep(chance.uniform(0, LATENCY))
        assert process.returncode is None, "the list is too short for so many kills"
        process.kill()
        status, _ = await run.end_of(process)
    assert status == -signal.SIGKILL
    return run.unfinished()


@pytest.mark.parametrize(
    ("orders", "kills"), [(1500, 6), pytest.param(8000, 40, marks=LONG)], ids=["few", "40 kills"]
)
async def test_killed_at_any_moment(run: Run, orders: int, kills: int) -> None:
    """However often it is killed, no buyer is messaged twice, and the ledger tells no lie."""
    write_list(run.orders, orders)
    chance = random.Random(1)
    unfinished = [await kill_at_random(run, chance) for _ in range(kills)]
    _log.info("unfinished at each kill: %s", [len(each) for each in unfinished])
    assert sum(bool(each) for each in unfinished) >= kills * 3 / 4, "few had a message in flight"
    assert (await run.to_its_end())[0] == 3
    run.check(set().union(*unfinished))
    status, output = await run.to_its_end()
    assert (status, "nothing left to send" in output) == (3, True)
    run.check(set().union(*unfinished))


@frozen
class AtFirst:
    """Whether a kill at the first passing of a point finds any that are so; None if it may."""

    delivered: bool | None
    sent: bool | None
    unfinished: bool | None


AT_FIRST = {
    "the list is being read": AtFirst(False, False, False),
    "the list is enrolled": AtFirst(False, False, False),
    "the campaign is taken": AtFirst(False, False, False),
    "the intent is not committed": AtFirst(False, False, False),
    "the intent is committed": AtFirst(False, False, True),
    "the write has not begun": AtFirst(False, False, True),
    "half of the body is written": AtFirst(False, False, True),
    "the answer is there": AtFirst(True, False, True),
    "the answer is not recorded": AtFirst(True, False, True),
    "the answer is recorded": AtFirst(True, True, None),
    "the ledger is being closed": AtFirst(True, True, False),
}
PASSED_ONCE = {*list(POINTS)[:3], "the ledger is being closed"}
KILLS = [
    pytest.param(point, number, marks=LONG if number > 1 else ())
    for point in POINTS
    for number in range(1, 2 if point in PASSED_ONCE else 6)
]


@pytest.mark.parametrize(("point", "number"), KILLS)
async def test_killed_at_a_point(run: Run, point: str, number: int) -> None:
    """Killed there, and run again, no buyer is messaged twice, and the ledger tells no lie."""
    if number > 1:
        write_list(run.orders, 200)
    status, output = await run.to_its_end(crash_at=f"{point}:{number}")
    assert status == -signal.SIGKILL, output
    unfinished = run.unfinished()
    if number == 1:
        are_sent = "sent" in run.committed().values()
        found = {"delivered": bool(run.delivered()), "sent": are_sent}
        found["unfinished"] = bool(unfinished)
        expected = AT_FIRST[point]
        assert {n: v for n, v in found.items() if getattr(expected, n) not in (None, v)} == {}
    status, output = await run.to_its_end()
    assert status == (3 if unfinished else 0), output
    run.check(unfinished)


@pytest.mark.parametrize(
    "points", [[*RECOVERY], *(pytest.param([p], marks=LONG) for p in RECOVERY)], ids=", ".join
)
async def test_killed_while_it_recovers(run: Run, points: list[str]) -> None:
    """Kills in the recovery from a kill leave what was in flight unknown, and nothing twice."""
    await run.to_its_end(crash_at="the answer is there:3")
    unfinished = run.unfinished()
    before = run.delivered()
    for point in points:
        assert (await run.to_its_end(crash_at=f"{point}:1"))[0] == -signal.SIGKILL
        assert run.delivered() == before
    assert (await run.to_its_end())[0] == 3
    run.check(unfinished)


async def test_again_is_resumed(run: Run) -> None:
    """`--again`, killed and repeated, sends everything once more, and nothing a third time."""
    assert (await run.to_its_end())[0] == 0
    await run.to_its_end("--again", crash_at="the answer is there:3")
    unfinished = {
        pair for pair, status in run.committed().items() if status not in ("sent", "planned")
    }
    assert (await run.to_its_end("--again"))[0] == 3
    delivered = run.delivered()
    assert {pair for pair, number in delivered.items() if number < 2} <= unfinished
    assert set(delivered.values()) <= {1, 2}


# Stopped


@pytest.mark.parametrize(
    "how", ["SIGINT", "SIGTERM", "SIGINT twice", pytest.param("SIGTERM twice", marks=LONG)]
)
async def test_stopped(run: Run, how: str) -> None:
    """It says that it stopped, and goes on where it did; once, it settles what is in flight."""
    write_list(run.orders, 600)
    name, _, is_twice = how.partition(" ")
    async with run.process() as process:
        await run.delivers(50)
        process.send_signal(getattr(signal, name))
        if is_twice:
            await asyncio.sleep(0.005)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(getattr(signal, name))
        status, output = await run.end_of(process)
    assert status == 4, output
    assert is_twice or "the same command again sends what is left" in output
    assert len(run.sandbox.delivered) < 1200
    unfinished = run.unfinished()
    assert is_twice or not unfinished
    # A second signal that is early lets what is in flight be cancelled, and recorded as unknown.
    unknown = {pair for pair, status in run.committed().items() if status == "unknown"}
    assert is_twice or not unknown
    doubtful = unfinished | unknown
    assert (await run.to_its_end())[0] == (3 if doubtful else 0)
    run.check(doubtful)


async def test_stopped_in_an_outage(run: Run) -> None:
    """Ctrl-C ends a run whose seller pauses, without another message, and it can be resumed."""
    write_list(run.orders, 300)
    with unavailable(run.sandbox) as asked:
        async with run.process() as process:
            async with asyncio.timeout(30):
                while not asked["getAttributes"]:
                    await asyncio.sleep(0.001)
            written = asked.total() - asked["getAttributes"]
            process.send_signal(signal.SIGINT)
            status, output = await run.end_of(process)
    assert status in (3, 4), output
    assert asked.total() - asked["getAttributes"] == written
    unknown = {pair for pair, status in run.committed().items() if status == "unknown"}
    assert 5 <= len(unknown) <= 5 + CAP * len(OPERATIONS)
    assert run.unfinished() == set()
    assert (await run.to_its_end())[0] == 3
    run.check(unknown)


@contextlib.contextmanager
def unavailable(sandbox: Sandbox) -> Iterator[Counter[str]]:
    """While it is open all but the login answers 503; counts what was asked."""
    from sp_messaging_async.sandbox import Fault

    asked: Counter[str] = Counter()

    def take(operation: str, order: str | None) -> Fault | None:
        if operation == "token":
            return None
        asked[operation] += 1
        return Fault.UNAVAILABLE

    usual = sandbox.faults.take
    sandbox.faults.add(Fault.UNAVAILABLE)  # an empty script is not asked
    sandbox.faults.take = take  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        sandbox.faults.clear()
        sandbox.faults.take = usual  # type: ignore[method-assign]


# The commit that comes before the write


@define
class Meter:
    """Stands before the API, and counts the bytes that come for it."""

    api_url: str = ""
    bytes: int = 0


@asynccontextmanager
async def metered(sandbox: Sandbox) -> AsyncIterator[Meter]:
    meter = Meter()
    at_work: set[asyncio.Task[None]] = set()
    host, port = sandbox.url.removeprefix("http://").split(":")

    async def pump(reader: Any, writer: Any, *, counts: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                meter.bytes += len(data) if counts else 0
                writer.write(data)
        writer.close()

    async def serve(reader: Any, writer: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        at_work.add(task)
        to_reader, to_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(
            pump(reader, to_writer, counts=True), pump(to_reader, writer, counts=False)
        )
        at_work.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    meter.api_url = "http://{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield meter
    finally:
        server.close()
        for task in at_work:
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)


@pytest.mark.parametrize("ends", ["it goes on", "it is killed"])
async def test_a_commit_that_is_held_up(run: Run, ends: str) -> None:
    """While intents cannot be committed no byte reaches the API, and afterwards all is sent."""
    write_list(run.orders, 500)
    unfinished: set[Pair] = set()
    async with metered(run.sandbox) as meter:
        async with run.process(api_url=meter.api_url) as process:
            await run.delivers(100)
            holder = sqlite3.connect(run.ledger, isolation_level=None, timeout=20)
            with contextlib.closing(holder):
                holder.execute("BEGIN IMMEDIATE")
                intended = {
                    tuple(row)
                    for row in holder.execute(
                        "SELECT amazon_order_id, operation FROM messages WHERE status != 'planned'"
                    )
                }
                assert len(intended) < 1000
                await run.delivers(len(intended))  # what was permitted before
                before = meter.bytes
                await asyncio.sleep(20 * LATENCY)
                assert meter.bytes == before
                assert run.delivered().keys() == intended
                assert process.returncode is None
                if ends == "it is killed":
                    process.kill()
                    await run.end_of(process)
                else:
                    holder.execute("ROLLBACK")
                    assert (await run.end_of(process))[0] == 0
        if ends == "it is killed":
            unfinished = run.unfinished()
            assert unfinished <= intended
            async with run.process(api_url=meter.api_url) as process:
                await run.end_of(process)
        assert meter.bytes > before
    run.check(unfinished)


# The ledger's disk, and its files


def is_told(run: Run, output: str) -> bool:
    """Whether what a person reads names the ledger, in a line of its own."""
    return any(str(run.ledger) in line for line in output.splitlines())


@pytest.mark.parametrize("how", ["full", "read-only"])
async def test_a_disk_that_takes_nothing(run: Run, disk: Path, how: str) -> None:
    """A ledger on it is refused by its name, nothing is sent, and the run can be resumed."""
    run = evolve(run, ledger=disk / "ledger")
    assert (await run.to_its_end("--limit", "50"))[0] == 4
    if how == "full":
        filler = fill(disk)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = run.delivered()
    status, output = await run.to_its_end()
    assert (status, run.delivered()) == (2, before)
    assert is_told(run, output), output
    if how == "full":
        filler.unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert (await run.to_its_end())[0] == 0
    run.check(set())


async def test_a_disk_that_becomes_full(run: Run, disk: Path) -> None:
    """The run ends with the reason, nothing is written after that, and it can be resumed."""
    run = evolve(run, ledger=disk / "ledger")
    write_list(run.orders, 400)
    async with run.process() as process:
        await run.delivers(20)
        filler = fill(disk)
        status, output = await run.end_of(process)
    assert status == 2, output
    assert is_told(run, output), output
    assert len(run.sandbox.delivered) < 800
    unfinished = run.unfinished()
    filler.unlink()
    assert (await run.to_its_end())[0] == (3 if unfinished else 0)
    run.check(unfinished)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes another process's limits")
async def test_a_ledger_that_turns_read_only(run: Run) -> None:
    """When no write to it succeeds any more the run ends with the reason, and can be resumed."""
    import resource

    write_list(run.orders, 600)
    async with run.process() as process:
        await run.delivers(50)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))  # of any file
        status, output = await run.end_of(process)
    assert status == 2, output
    assert is_told(run, output), output
    assert len(run.sandbox.delivered) < 1200
    unfinished = run.unfinished()
    assert (await run.to_its_end())[0] == (3 if unfinished else 0)
    run.check(unfinished)


DAMAGES = [
    "WAL gone",
    "file cut",
    *(pytest.param(damage, marks=LONG) for damage in ("WAL emptied", "file emptied")),
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_ledger_that_lost_something(run: Run, damage: str) -> None:
    """It is refused with the remedy, and nothing is sent."""
    status, _ = await run.to_its_end(crash_at="the answer is recorded:1")
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
    before = run.delivered()
    status, output = await run.to_its_end()
    assert (status, run.delivered()) == (2, before)
    assert is_told(run, output), output
    assert "ring" in output, "the remedy is to bring a copy back"
