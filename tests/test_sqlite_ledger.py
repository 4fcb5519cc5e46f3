"""The ledger in a file: its locks, its damage, and what is left of it when a process is killed."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias, TypeVarTuple

import pytest
from _pytest.mark import ParameterSet

from sp_messaging_async import (
    CreateUnexpectedProblemRequest,
    LedgerError,
    LedgerRow,
    OutcomeUnknown,
    SQLiteLedger,
    sqlite_ledger,
)
from sp_messaging_async.ledger import Settlement, Status, new_owner

from .conftest import ORDER, fill
from .test_ledger import ME, NAME, REALM, SHE, enrol, gone, later, planned, put, soon, statuses

Arguments = TypeVarTuple("Arguments")

SOON = 8.0  # seconds in which another process has surely done what it is to do
NUMBER = 200  # rows of a ledger that is damaged
SENT = 20  # of them were sent since the main file was last brought up to date

needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a ledger may be, in a folder of its own."""
    folder = tmp_path / "ledger"
    folder.mkdir()
    return folder / "ledger.sqlite3"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits half a minute for another process's commit."""
    monkeypatch.setattr(sqlite_ledger, "_BUSY", 0.3)


# Other processes


class Inside:
    """What a coroutine function in another process has of the one that began it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def tell(self, what: object = None) -> None:
        """Let the other one go on."""
        self._pipe.send(what)

    async def told(self) -> object:
        """Wait until the other one says so."""
        return await asyncio.to_thread(self._pipe.recv)


def _run(
    pipe: Connection, main: Callable[..., Coroutine[Any, Any, None]], arguments: tuple[Any, ...]
) -> None:
    asyncio.run(main(Inside(pipe), *arguments))


def kill() -> None:
    """End this process as a power cut would: nothing of it runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)


# Its processes are forked from one that has the imports done and runs no thread.
_FORKS: Any = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
if sys.platform != "win32":
    _FORKS.set_forkserver_preload([__name__])


class Other:
    """Another process that runs a coroutine function; killed at the end, if it still lives."""

    def __init__(
        self, main: Callable[[Inside, *Arguments], Coroutine[Any, Any, None]], *args: *Arguments
    ) -> None:
        self._pipe, theirs = _FORKS.Pipe()
        self._process = _FORKS.Process(target=_run, args=(theirs, main, args))
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its number."""
        return int(self._process.pid)

    def tell(self, what: object = None) -> None:
        """Let it go on."""
        self._pipe.send(what)

    async def told(self) -> Any:
        """Wait until it says so."""
        return await asyncio.to_thread(self._told)

    def _told(self) -> Any:
        assert self._pipe.poll(SOON), "the other process says nothing"
        return self._pipe.recv()

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        await asyncio.to_thread(self._process.join, SOON)
        assert self._process.exitcode is not None, "the other process does not end"
        return int(self._process.exitcode)

    def close(self) -> None:
        """Kill it if it lives, and let go of it."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join(SOON)
        self._process.close()
        self._pipe.close()


@asynccontextmanager
async def process(
    main: Callable[[Inside, *Arguments], Coroutine[Any, Any, None]], *args: *Arguments
) -> AsyncIterator[Other]:
    """Another process, while the context is open."""
    other = await asyncio.to_thread(lambda: Other(main, *args))
    try:
        yield other
    finally:
        await asyncio.to_thread(other.close)


async def killed(
    main: Callable[[Inside, *Arguments], Coroutine[Any, Any, None]], *args: *Arguments
) -> None:
    """Run a coroutine function in another process that kills itself."""
    async with process(main, *args) as other:
        assert await other.ended() == -signal.SIGKILL


# What a ledger is made of


@pytest.fixture
def _open_mask() -> Iterator[None]:
    """New files may be read by everyone, unless whoever makes them says otherwise."""
    mask = os.umask(0)
    yield
    os.umask(mask)


@pytest.mark.skipif(sys.platform == "win32", reason="no modes of files on Windows")
@pytest.mark.usefixtures("_open_mask")
async def test_only_its_user_may_read_it(path: Path) -> None:
    """Every file of a ledger has the mode 0600, while it is open, after that, and open again."""

    def modes() -> dict[str, int]:
        return {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    for _ in range(2):
        async with SQLiteLedger(path) as ledger, ledger.campaign_lock():
            await ledger.plan(planned(), "default", REALM)
            assert len(modes()) >= 4
            assert set(modes().values()) == {0o600}
        assert set(modes().values()) == {0o600}


async def test_nothing_is_made_before_its_first_use(path: Path) -> None:
    """A ledger that is only named leaves no file."""
    ledger = SQLiteLedger(path)
    await ledger.aclose()
    assert list(path.parent.iterdir()) == []


async def test_the_first_use_opens_it(path: Path) -> None:
    """It need not be entered, as long as it is closed."""
    ledger = SQLiteLedger(str(path))
    row = await ledger.plan(planned(), "default", REALM)
    await ledger.aclose()
    async with SQLiteLedger(path) as again:
        assert await again.row(row.id) == row


async def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    """As that of a program that makes temporary files."""
    path.touch()
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "sent")


@pytest.mark.parametrize("place", ["no such folder/ledger", ""])
async def test_a_place_that_cannot_hold_it(path: Path, place: str) -> None:
    """A missing folder, or a folder itself, is told by its name as the ledger's error."""
    impossible = path.parent / place
    with pytest.raises(LedgerError, match=re.escape(str(impossible))):
        async with SQLiteLedger(impossible):
            pass


# Closing


def threads() -> int:
    """How many threads there are, but for those that asyncio keeps for later."""
    names = [thread.name for thread in threading.enumerate()]
    return sum(not name.startswith(("asyncio_", "ThreadPool")) for name in names)


async def test_closing_finishes_what_was_begun(path: Path) -> None:
    """What nobody has waited for yet is in the file."""
    ledger = SQLiteLedger(path)
    plans = [ledger.plan(planned(f"order-{n}"), "default", REALM) for n in range(50)]
    tasks = [asyncio.ensure_future(plan) for plan in plans]
    await asyncio.sleep(0)
    await ledger.aclose()
    assert len(await asyncio.gather(*tasks)) == 50
    async with SQLiteLedger(path) as again:
        assert len(await again.rows()) == 50


async def test_closing_twice(path: Path) -> None:
    """The second time does nothing, at once or later."""
    ledger = SQLiteLedger(path)
    await put(ledger, "sent")
    await asyncio.gather(ledger.aclose(), ledger.aclose())
    await ledger.aclose()


async def test_use_after_closing_opens_it_again(path: Path) -> None:
    """The same object goes on with what it has recorded."""
    async with SQLiteLedger(path) as ledger:
        row = await put(ledger, "sent")
    assert await ledger.row(row.id) == row
    await ledger.aclose()
    assert await ledger.row(row.id) == row
    await ledger.aclose()


async def test_closing_leaves_no_thread(path: Path) -> None:
    """Neither does an opening that was refused."""
    before = threads()
    for _ in range(3):
        async with SQLiteLedger(path):
            assert threads() == before + 1
    path.write_bytes(b"no database" * 1000)
    for _ in range(3):
        with pytest.raises(LedgerError):
            async with SQLiteLedger(path):
                pass
    assert threads() == before


async def test_a_mistake_of_ours_leaves_nobody_waiting(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong where a ledger is opened, whoever waits for it is told."""
    monkeypatch.setattr(sqlite_ledger, "_connect", lambda *_: 1 / 0)
    ledger = SQLiteLedger(path)
    for _ in range(2):
        with pytest.raises(LedgerError):
            await asyncio.wait_for(ledger.rows(), SOON)
    await asyncio.wait_for(ledger.aclose(), SOON)


async def test_closing_leaves_one_file_of_commits(path: Path) -> None:
    """All commits are in the main file, which can then be copied by itself."""
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "sent")
    assert not path.with_name(path.name + "-wal").exists()
    async with SQLiteLedger(shutil.copy(path, path.parent / "copy")) as copy:
        assert await statuses(copy) == ["sent"]


@pytest.fixture
async def reader(path: Path) -> AsyncIterator[sqlite3.Connection]:
    """Another program that reads the file."""
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "sent", order="before")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def read(connection: sqlite3.Connection) -> list[str]:
    """The statuses of all rows, as another program finds them."""
    return [status for (status,) in connection.execute("SELECT status FROM messages ORDER BY id")]


async def close_while_read(inside: Inside, path: Path) -> None:
    """Record a message, let somebody read, record another, and close."""
    sqlite_ledger._BUSY = 0.3
    ledger = SQLiteLedger(path)
    await put(ledger, "sent", order="first")
    inside.tell()
    await inside.told()
    await put(ledger, "sent", order="second")
    await ledger.aclose()


async def test_closing_while_another_program_reads(path: Path, reader: sqlite3.Connection) -> None:
    """It ends, whatever the other one does, and all is recorded."""
    async with process(close_while_read, path) as other:
        await other.told()
        reader.execute("BEGIN")
        read(reader)
        other.tell()
        assert await other.ended() == 0
    reader.execute("COMMIT")
    async with SQLiteLedger(path) as again:
        assert await statuses(again) == ["sent"] * 3


async def test_another_program_may_read_it(path: Path, reader: sqlite3.Connection) -> None:
    """It finds what was committed, and is in nobody's way."""
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "unknown")
        assert read(reader) == ["sent", "unknown"]
        await put(ledger, "rejected", order="another")
        assert read(reader) == ["sent", "unknown", "rejected"]


async def test_a_cancelled_caller_is_in_nobodys_way(path: Path) -> None:
    """Among many that are committed together some may have gone; the others get their answer."""
    async with SQLiteLedger(path) as ledger:
        rows = [await put(ledger, "planned", order=f"order-{n}") for n in range(30)]
        calls: list[asyncio.Future[Any]] = []
        calls += [asyncio.ensure_future(ledger.row(row.id)) for row in rows]
        calls += [asyncio.ensure_future(ledger.intend(row.id, ME, soon())) for row in rows]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        assert all(await asyncio.gather(*calls[1::2]))
        assert await statuses(ledger) == ["sending"] * 30


def test_a_loop_that_is_gone_is_in_nobodys_way(path: Path) -> None:
    """A ledger serves one event loop after another, and drops answers that nobody can have."""
    ledger = SQLiteLedger(path)

    async def begin() -> None:
        await put(ledger, "planned")
        ledger._do(lambda _: threading.Event().wait(0.2))
        for _ in range(10):
            asyncio.ensure_future(ledger.row(1)).cancel()

    async def go_on() -> None:
        assert (await ledger.row(1)).status == "planned"
        await put(ledger, "sent", order="another")
        await ledger.aclose()

    asyncio.run(begin())
    asyncio.run(go_on())


def test_lists_of_one_loop_after_another(path: Path) -> None:
    """Callers who wait for each other in one event loop leave nothing behind that binds it."""
    ledger = SQLiteLedger(path)

    async def enrol_at_once() -> None:
        await asyncio.gather(*(enrol(ledger, ["one"], campaign=name) for name in "ab"))
        await ledger.aclose()

    asyncio.run(enrol_at_once())
    asyncio.run(enrol_at_once())


# The buyer's text

SECRET = "marmalade"


def files_that_hold(folder: Path, text: str) -> list[str]:
    """The files of a folder in whose bytes a text stands."""
    return sorted(file.name for file in folder.iterdir() if text.encode() in file.read_bytes())


@pytest.mark.parametrize("status", ["planned", "unknown"])
async def test_the_text_that_is_needed_is_kept(path: Path, status: Status) -> None:
    """What the next test looks for would be found."""
    async with SQLiteLedger(path) as ledger:
        message = planned(request=CreateUnexpectedProblemRequest(SECRET))
        row = await ledger.plan(message, "default", REALM)
        if status != "planned":
            await ledger.intend(row.id, ME, soon())
            await ledger.settle(row.id, ME, Settlement(status))
    assert files_that_hold(path.parent, SECRET) == [path.name]


async def test_the_text_is_gone_from_the_file(path: Path) -> None:
    """Of many long and short texts, planned, changed, settled and purged, no byte is left."""
    dice = random.Random(1)

    def messages(longest: int) -> list[Any]:
        return [
            planned(
                f"order-{number:03}",
                CreateUnexpectedProblemRequest((SECRET + " ") * dice.randint(1, longest)),
            )
            for number in range(300)
        ]

    async with SQLiteLedger(path) as ledger:
        run = (await enrol(ledger, messages(20))).run
        await enrol(ledger, messages(200))
        run = (await enrol(ledger, messages(50))).run
        (lane,) = await ledger.lanes(run)
        rows = await ledger.to_send(run, lane, 0, 1000)
        dice.shuffle(rows)
        await asyncio.gather(*(ledger.intend(row.id, run, soon()) for row in rows))
        final: list[Status] = ["sent", "skipped", "rejected", "unknown"]
        for row in rows:
            await ledger.settle(row.id, run, Settlement(dice.choice(final)))
        for row in await ledger.rows(status="unknown"):
            await ledger.resolve(row.amazon_order_id, NAME, sent=True)
        await ledger.purge(later())
    assert files_that_hold(path.parent, SECRET) == []


async def die_looking(inside: Inside, path: Path) -> None:
    """Open a ledger that was left open, and be killed while it is looked at."""
    sqlite_ledger._Database.is_whole = lambda _: kill()  # type: ignore[method-assign, assignment, return-value]
    await SQLiteLedger(path).rows()


@needs_kill
async def test_the_text_is_gone_though_a_process_was_killed(path: Path) -> None:
    """Killed as it sends, and again as it is opened, a ledger leaves no copy behind."""
    await killed(die_with_a_secret, path)
    await killed(die_looking, path)
    async with SQLiteLedger(path) as ledger:
        assert await ledger.resolve(ORDER, NAME, sent=True) == 1
    left = [file for file in path.parent.rglob("*") if file.is_file()]
    assert [file.name for file in left if SECRET.encode() in file.read_bytes()] == []


async def die_with_a_secret(inside: Inside, path: Path) -> None:
    """Commit an intent, and be killed."""
    ledger = SQLiteLedger(path)
    message = planned(request=CreateUnexpectedProblemRequest(SECRET))
    row = await ledger.plan(message, "default", REALM)
    assert await ledger.intend(row.id, ME, soon())
    kill()


# Schemas, and files that are no ledger


def change(path: Path, *statements: str) -> None:
    """Change a database as another program would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def asked(path: Path, statement: str) -> Any:
    """The value that a statement finds in a database."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchone()[0]


async def test_a_newer_schema_is_refused(path: Path) -> None:
    """What a later version has made is not touched by this one, and the remedy is told."""
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "planned")
    newer = asked(path, "PRAGMA user_version") + 1
    change(path, f"PRAGMA user_version = {newer}")
    with pytest.raises(LedgerError, match=rf"newer.*{newer}.*update sp-messaging-async"):
        async with SQLiteLedger(path):
            pass
    assert asked(path, "PRAGMA user_version") == newer


async def test_a_newer_schema_is_refused_while_others_have_it_open(path: Path) -> None:
    """Whoever comes later checks too: the one before may be a later version."""
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "planned")
        newer = asked(path, "PRAGMA user_version") + 1
        change(path, f"PRAGMA user_version = {newer}")
        with pytest.raises(LedgerError, match="newer"):
            async with SQLiteLedger(path):
                pass


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the ledger says to its database, to be changed."""
    known = dict(sqlite_ledger._statements())
    monkeypatch.setattr(sqlite_ledger, "_statements", lambda: known)
    return known


async def test_an_older_schema_that_others_have_open(
    path: Path, statements: dict[str, str]
) -> None:
    """Whoever knows a newer one gets it, or is refused; it does not go by what is not there."""
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "sent")
        newer = asked(path, "PRAGMA user_version") + 1
        statements[f"migration {newer}"] = "CREATE TABLE more (a);"
        with contextlib.suppress(LedgerError):
            async with SQLiteLedger(path):
                assert asked(path, "PRAGMA user_version") == newer


FOREIGN: dict[str, Callable[[Path], object]] = {
    "tables": lambda path: change(path, "CREATE TABLE bookmarks (url TEXT)"),
    "tables and a version": lambda path: change(
        path, "CREATE TABLE bookmarks (url TEXT)", "PRAGMA user_version = 1"
    ),
    "another mark": lambda path: change(
        path, "CREATE TABLE a (b)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"
    ),
    "a version alone": lambda path: change(path, "PRAGMA user_version = 1"),
    "a text": lambda path: path.write_text("order_id,operation\n" * 100, encoding="utf-8"),
    "a broken header": lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(8176)),
    "a short text": lambda path: path.write_text("order_id", encoding="utf-8"),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
async def test_what_is_no_ledger_is_refused_as_it_is(
    path: Path, make: Callable[[Path], object]
) -> None:
    """Another program's file is named in the error, and not a byte of it is changed."""
    make(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(LedgerError, match=re.escape(str(path))):
            await asyncio.wait_for(SQLiteLedger(path).__aenter__(), SOON)
    assert path.read_bytes() == before


def tables(path: Path) -> set[str]:
    """The tables of a database."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


async def test_a_migration_is_recorded(path: Path, statements: dict[str, str]) -> None:
    """A ledger of an older version gets what the new one needs, once, and keeps its rows."""
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "sent")
    version = asked(path, "PRAGMA user_version")
    statements[f"migration {version + 1}"] = "CREATE TABLE more (a);\nCREATE TABLE most (b);"
    for _ in range(2):
        async with SQLiteLedger(path) as ledger:
            assert await statuses(ledger) == ["sent"]
    assert asked(path, "PRAGMA user_version") == version + 1
    assert tables(path) >= {"more", "most"}


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_migration_and_its_record_are_one(
    path: Path, statements: dict[str, str], is_new: bool
) -> None:
    """One that fails half way leaves no trace, and the next try goes from where it began."""
    if not is_new:
        async with SQLiteLedger(path) as ledger:
            await put(ledger, "sent")
    version = asked(path, "PRAGMA user_version") if path.exists() else 0
    before = tables(path)
    good = statements.get(f"migration {version + 1}", "CREATE TABLE more (a);")
    statements[f"migration {version + 1}"] = f"{good}\nCREATE TABLE more_still (a, a);"
    with pytest.raises(LedgerError):
        async with SQLiteLedger(path):
            pass
    assert asked(path, "PRAGMA user_version") == version
    assert tables(path) == before
    statements[f"migration {version + 1}"] = good
    async with SQLiteLedger(path) as ledger:
        assert await statuses(ledger) == ([] if is_new else ["sent"])


# Two processes


async def intend_all(inside: Inside, path: Path, number: int) -> None:
    """Plan and intend so many messages, as fast as it goes, and tell which were permitted."""
    owner = new_owner("call")
    async with SQLiteLedger(path) as ledger:
        inside.tell()
        await inside.told()

        async def call(order: str) -> bool:
            row = await ledger.plan(planned(order), "default", REALM)
            return row.status == "planned" and await ledger.intend(row.id, owner, soon())

        orders = [f"order-{n}" for n in range(number)]
        permitted = await asyncio.gather(*map(call, orders))
        inside.tell([order for order, yes in zip(orders, permitted, strict=True) if yes])


async def test_processes_share_a_ledger(path: Path) -> None:
    """Of two that want to send the same messages at the same time, one sends each."""
    async with process(intend_all, path, 100) as one, process(intend_all, path, 100) as two:
        for other in (one, two):
            await other.told()
        for other in (one, two):
            other.tell()
        permitted = [*await one.told(), *await two.told()]
        assert (await one.ended(), await two.ended()) == (0, 0)
    assert sorted(permitted) == sorted(f"order-{n}" for n in range(100))


async def open_once(inside: Inside, path: Path) -> None:
    """Open a ledger when told, plan in it, and close it."""
    inside.tell()
    await inside.told()
    async with SQLiteLedger(path) as ledger:
        await ledger.plan(planned(f"order-{os.getpid()}"), "default", REALM)


@pytest.mark.parametrize("is_new", [True, False])
async def test_processes_open_a_ledger_at_the_same_moment(path: Path, is_new: bool) -> None:
    """Nobody is refused, be it new or not."""
    if not is_new:
        async with SQLiteLedger(path):
            pass
    async with contextlib.AsyncExitStack() as stack:
        others = [await stack.enter_async_context(process(open_once, path)) for _ in range(6)]
        for other in others:
            await other.told()
        for other in others:
            other.tell()
        assert [await other.ended() for other in others] == [0] * 6
    async with SQLiteLedger(path) as ledger:
        assert len(await ledger.rows()) == 6


async def send_campaign(inside: Inside, path: Path) -> None:
    """Hold a campaign's lock with a run enrolled, until told to go on."""
    async with SQLiteLedger(path) as ledger, ledger.campaign_lock("spring"):
        await enrol(ledger, [ORDER], campaign="spring")
        inside.tell()
        await inside.told()


async def hold_campaign(inside: Inside, path: Path) -> None:
    """Hold a campaign's lock with nothing enrolled yet, until told to go on."""
    async with SQLiteLedger(path) as ledger, ledger.campaign_lock("spring"):
        inside.tell()
        await inside.told()


async def test_a_campaign_that_another_process_sends(path: Path) -> None:
    """It is refused with the other's number, other campaigns are not, and it is free after that."""
    async with process(send_campaign, path) as other, SQLiteLedger(path) as ledger:
        await other.told()
        with pytest.raises(LedgerError, match=rf"'spring'.*process {other.pid}\b"):
            async with ledger.campaign_lock("spring"):
                pass
        async with ledger.campaign_lock("summer"):
            pass
        other.tell()
        assert await other.ended() == 0
        async with ledger.campaign_lock("spring"):
            pass


async def test_a_campaign_whose_list_is_still_being_read(path: Path) -> None:
    """It is not told to be sent by the process that sent it the last time."""
    async with SQLiteLedger(path) as ledger, ledger.campaign_lock("spring"):
        await enrol(ledger, [ORDER], campaign="spring")
    async with process(hold_campaign, path) as other, SQLiteLedger(path) as ledger:
        await other.told()
        with pytest.raises(LedgerError, match="'spring'") as caught:
            async with ledger.campaign_lock("spring"):
                pass
        assert f"process {os.getpid()}" not in str(caught.value)


@needs_kill
async def test_a_campaign_whose_process_was_killed(path: Path) -> None:
    """It is free at once."""
    async with process(send_campaign, path) as other, SQLiteLedger(path) as ledger:
        await other.told()
        os.kill(other.pid, signal.SIGKILL)
        await other.ended()
        async with ledger.campaign_lock("spring"):
            pass


# A process that was killed


async def die_sending(inside: Inside, path: Path, owner: str, deadline: float) -> None:
    """Commit an intent, and be killed; another message is only planned."""
    ledger = SQLiteLedger(path)
    await put(ledger, "planned", order="planned")
    row = await ledger.plan(planned("sending"), "default", REALM)
    assert await ledger.intend(row.id, owner, deadline)
    kill()


async def found(ledger: SQLiteLedger, order: str) -> LedgerRow:
    """The row of an order, when it is looked at."""
    (row,) = [row for row in await ledger.rows() if row.amazon_order_id == order]
    return await ledger.row(row.id)


@needs_kill
async def test_what_a_killed_process_was_sending(path: Path) -> None:
    """It is unknown at the next opening, with the reason; what was planned may be sent."""
    await killed(die_sending, path, ME, soon())
    async with SQLiteLedger(path) as ledger:
        row = await found(ledger, "sending")
        assert row.status == "unknown"
        assert isinstance(row.error, OutcomeUnknown)
        assert not await ledger.intend(row.id, SHE, soon())
        assert await ledger.intend((await found(ledger, "planned")).id, SHE, soon())


@needs_kill
async def test_what_a_killed_process_was_sending_while_others_go_on(path: Path) -> None:
    """Its intent holds until its deadline, for nobody knows that it is gone; then it is unknown."""
    async with SQLiteLedger(path):
        await killed(die_sending, path, ME, soon())
        async with SQLiteLedger(path) as late:
            assert (await found(late, "sending")).status == "sending"


@needs_kill
async def test_what_lapses_of_a_killed_process(path: Path) -> None:
    """It is unknown though others have the ledger open all the time."""
    async with SQLiteLedger(path) as ledger:
        await killed(die_sending, path, ME, gone())
        assert (await found(ledger, "sending")).status == "unknown"


@needs_kill
async def test_what_a_killed_run_was_sending_while_others_go_on(path: Path) -> None:
    """The next run of its campaign knows that it is gone, and need not wait for the deadline."""
    async with SQLiteLedger(path) as ledger:
        await killed(die_sending, path, new_owner("run"), soon())
        assert (await found(ledger, "sending")).status == "sending"
        async with ledger.campaign_lock("default"):
            assert (await found(ledger, "sending")).status == "unknown"


async def die_at(inside: Inside, path: Path, at: int) -> None:
    """Plan, intend and settle, and be killed at one of the steps, with what came of each before."""
    ledger = SQLiteLedger(path)
    steps: list[Callable[[], Any]] = [
        lambda: ledger.plan(planned(), "default", REALM),
        lambda: ledger.intend(1, ME, soon()),
        lambda: ledger.settle(1, ME, Settlement("sent")),
    ]
    for number, step in enumerate(steps):
        waits = asyncio.ensure_future(step())
        if number == at:
            await asyncio.sleep(0)
            kill()
        await waits


@needs_kill
@pytest.mark.parametrize(
    ("at", "possible"),
    [(0, {"planned", None}), (1, {"planned", "unknown"}), (2, {"unknown", "sent"})],
)
async def test_killed_in_the_middle_of_a_commit(
    path: Path, at: int, possible: set[str | None]
) -> None:
    """It was done or it was not, and nothing else is harmed."""
    await killed(die_at, path, at)
    async with SQLiteLedger(path) as ledger:
        rows = await ledger.rows()
        assert (rows[0].status if rows else None) in possible


@needs_kill
async def test_killed_again_and_again(path: Path) -> None:
    """A ledger that nobody ever closes loses nothing."""
    for number in range(3):
        await killed(die_sending_one, path, f"order-{number}")
    async with SQLiteLedger(path) as ledger:
        assert await statuses(ledger) == ["unknown"] * 3


async def die_sending_one(inside: Inside, path: Path, order: str) -> None:
    """Commit an intent to send to an order, and be killed."""
    ledger = SQLiteLedger(path)
    row = await ledger.plan(planned(order), "default", REALM)
    assert await ledger.intend(row.id, ME, soon())
    kill()


# Damage

ORDERS = [f"order-{number:03}" for number in range(NUMBER)]


async def leave(inside: Inside, path: Path, how: str) -> None:
    """Enrol many rows, close the ledger, send some and begin one more, and end in a way."""
    async with SQLiteLedger(path) as ledger:
        await enrol(ledger, ORDERS)
    shutil.copy(path, path.with_name("backup"))
    async with SQLiteLedger(path) as ledger:
        for row in (await ledger.rows())[:SENT]:
            await ledger.intend(row.id, ME, soon())
            await ledger.settle(row.id, ME, Settlement("sent"))
        await ledger.intend(SENT + 1, ME, soon())
        if how == "killed":
            kill()


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a ledger that was closed and with one whose process was killed."""
    folders = {how: tmp_path_factory.mktemp(how) for how in ("closed", "killed")}
    for how, folder in folders.items():
        other = Other(leave, folder / "ledger.sqlite3", how)
        other._process.join(SOON)
        assert other._process.exitcode == (0 if how == "closed" else -signal.SIGKILL)
        other.close()
    return folders


class Files:
    """A ledger's files, to be damaged."""

    def __init__(self, folder: Path) -> None:
        self.main = folder / "ledger.sqlite3"
        self.wal = folder / "ledger.sqlite3-wal"
        self.shm = folder / "ledger.sqlite3-shm"
        self.tail = folder / "ledger.sqlite3.tail"
        self.lock = folder / "ledger.sqlite3.lock"
        self.backup = folder / "backup"

    def content(self) -> list[bytes]:
        """What is in those that count, where they are."""
        files = (self.main, self.wal, self.tail)
        return [file.read_bytes() if file.exists() else b"" for file in files]


def cut(file: Path, size: int) -> None:
    """Cut a file off."""
    assert 0 <= size < file.stat().st_size
    os.truncate(file, size)


def size(file: Path) -> int:
    return file.stat().st_size


Damage: TypeAlias = Callable[[Files], object]


def lose(*names: str) -> Damage:
    """Files of these names are gone."""

    def damage(files: Files) -> None:
        for name in names:
            getattr(files, name).unlink()

    return damage


def empty(*names: str) -> Damage:
    """Files of these names have nothing in them."""

    def damage(files: Files) -> None:
        for name in names:
            cut(getattr(files, name), 0)

    return damage


def old_copy(files: Files) -> None:
    """The copy is back that was made before anything was sent."""
    shutil.copy(files.backup, files.main)


def old_copy_alone(files: Files) -> None:
    """The same, and the WAL is gone."""
    files.wal.unlink()
    old_copy(files)


def cut_by_a_byte(files: Files) -> None:
    """What is cut off is no page that would be missed."""
    cut(files.main, size(files.main) - 1)


OF_MAIN: dict[str, Damage] = {
    "cut in half": lambda files: cut(files.main, size(files.main) // 2),
    "cut to nothing": empty("main"),
    "cut within its header": lambda files: cut(files.main, 50),
    "cut by a page": lambda files: cut(files.main, size(files.main) - 4096),
    "with zeros for a header": lambda files: files.main.write_bytes(
        b"SQLite format 3\0" + bytes(84) + files.main.read_bytes()[100:]
    ),
    "cut to a page": lambda files: cut(files.main, 4096),
    "gone": lose("main"),
}
OF_WAL: dict[str, Damage] = {
    "gone": lose("wal"),
    "emptied": empty("wal"),
    "cut in half": lambda files: cut(files.wal, size(files.wal) // 2),
    "cut within its header": lambda files: cut(files.wal, 20),
    "without its last commit": lambda files: cut(files.wal, size(files.wal) - 100),
    "gone, with an old copy": old_copy_alone,
    "gone, with the tail": lose("wal", "tail"),
    "emptied, with the tail": empty("wal", "tail"),
}


def of(how: str, part: str, damages: dict[str, Damage]) -> list[ParameterSet]:
    """Damages of a ledger that was left in a way."""
    marks = [needs_kill] if how == "killed" else []
    return [
        pytest.param((how, damage), id=f"{how}: {part} {name}", marks=marks)
        for name, damage in damages.items()
    ]


every_damage = pytest.mark.parametrize(
    "files",
    [
        *of("closed", "file", {**OF_MAIN, "cut by a byte": cut_by_a_byte, "an old copy": old_copy}),
        *of("killed", "file", OF_MAIN),
        *of("killed", "WAL", OF_WAL),
    ],
    indirect=True,
)


def left(how: str, *damages: Damage) -> pytest.MarkDecorator:
    """Run a test on a ledger that was closed or killed, and then damaged."""
    marks = [needs_kill] if how == "killed" else []
    values = [pytest.param((how, *damages), id=how, marks=marks)]
    return pytest.mark.parametrize("files", values, indirect=True)


@pytest.fixture
def files(ledgers: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Files:
    """A ledger of NUMBER rows that was left in a way, and then damaged."""
    how, *damages = request.param
    shutil.copytree(ledgers[how], tmp_path / "left")
    files = Files(tmp_path / "left")
    for damage in damages:
        damage(files)
    return files


async def check_whole(path: Path) -> None:
    """Hold a ledger against what was done to it before it was left."""
    async with SQLiteLedger(path) as ledger:
        expected = ["sent"] * SENT + ["unknown"] + ["planned"] * (NUMBER - SENT - 1)
        assert await statuses(ledger) == expected


@every_damage
async def test_a_damaged_ledger_is_refused(files: Files) -> None:
    """It is told by its name, and again at the next try."""
    for _ in range(3):
        with pytest.raises(LedgerError, match=re.escape(str(files.main))):
            await asyncio.wait_for(SQLiteLedger(files.main).__aenter__(), SOON)


@every_damage
async def test_a_refusal_harms_nothing_that_is_left(files: Files) -> None:
    """Whoever mends it finds the files as they were: a WAL may hold what is nowhere else."""
    before = files.content()
    with pytest.raises(LedgerError):
        await asyncio.wait_for(SQLiteLedger(files.main).__aenter__(), SOON)
    assert files.content() == before


@every_damage
async def test_a_damaged_ledger_is_refused_to_who_had_to_wait(files: Files) -> None:
    """It is not let in because somebody else was looking for damage, and was refused."""
    lock = sqlite_ledger._Lock(files.main.with_name(files.main.name + ".door"))
    assert lock.take_alone()  # as whoever looks for damage does
    opening = asyncio.ensure_future(SQLiteLedger(files.main).__aenter__())
    await asyncio.sleep(0.05)
    assert not opening.done()
    lock.close()
    with pytest.raises(LedgerError):
        await asyncio.wait_for(opening, SOON)


@left("killed", lambda files: cut(files.main, size(files.main) // 2))
async def test_a_cut_file_that_is_brought_back(ledgers: dict[str, Path], files: Files) -> None:
    """With the whole file in its place again, the ledger that was refused knows all."""
    with pytest.raises(LedgerError):
        async with SQLiteLedger(files.main):
            pass
    shutil.copy(ledgers["killed"] / files.main.name, files.main)
    await check_whole(files.main)


whole = pytest.mark.parametrize(
    "files",
    [
        pytest.param(("closed",), id="closed"),
        pytest.param(("killed",), id="killed", marks=needs_kill),
        pytest.param(("closed", lose("tail")), id="closed, its tail gone"),
        pytest.param(
            ("killed", lose("tail")),
            id="killed, its tail gone",
            marks=needs_kill,
        ),
        pytest.param(
            ("killed", lambda files: cut(files.tail, 3)),
            id="killed, its tail cut",
            marks=needs_kill,
        ),
        pytest.param(
            ("killed", lose("shm")),
            id="killed, its index gone",
            marks=needs_kill,
        ),
        pytest.param(
            ("killed", lose("lock")),
            id="killed, its lock gone",
            marks=needs_kill,
        ),
    ],
    indirect=True,
)


@whole
async def test_what_can_be_done_without_is_no_damage(files: Files) -> None:
    """A ledger that was closed or killed is whole with or without what only guards it."""
    await check_whole(files.main)
    await check_whole(files.main)


@pytest.mark.parametrize("mode", ["rwc", "rw", "ro"])
@pytest.mark.parametrize(
    "files", [("closed",), ("killed",)], indirect=True, ids=["closed", "killed"]
)
async def test_another_program_that_reads_does_no_harm(files: Files, mode: str) -> None:
    """It may open and close the file before the ledger does, and bring in the WAL by that."""
    connection = sqlite3.connect(f"{files.main.as_uri()}?mode={mode}", uri=True)
    assert read(connection)[:SENT] == ["sent"] * SENT
    connection.close()
    await check_whole(files.main)


# Salvage


@left("killed", lose("wal"))
async def test_salvage_of_a_ledger_that_lost_its_commits(files: Files) -> None:
    """What is planned, or was being sent, becomes unknown; nothing of it is sent by itself."""
    ledger = SQLiteLedger(files.main)
    with pytest.raises(LedgerError, match="salvage"):
        await ledger.rows()
    assert await ledger.salvage() == NUMBER
    assert await statuses(ledger) == ["unknown"] * NUMBER
    await ledger.aclose()
    async with SQLiteLedger(files.main) as again:
        assert await statuses(again) == ["unknown"] * NUMBER
        assert await again.resolve(ORDERS[0], NAME, sent=False) == 1
        assert await again.intend(1, ME, soon())


@left("killed", lose("wal"))
async def test_salvage_leaves_what_is_settled(files: Files) -> None:
    """What is known is still known."""
    ledger = SQLiteLedger(files.main)
    change(files.main, "UPDATE messages SET status = 'sent' WHERE id <= 5")
    assert await ledger.salvage() == NUMBER - 5
    assert await statuses(ledger) == ["sent"] * 5 + ["unknown"] * (NUMBER - 5)
    await ledger.aclose()


@left("killed", lose("wal"))
async def test_salvage_after_a_refusal_leaves_no_thread(files: Files) -> None:
    """The ledger that was refused is the one that is salvaged, and is closed as a whole."""
    before = threads()
    ledger = SQLiteLedger(files.main)
    with pytest.raises(LedgerError):
        await ledger.rows()
    await ledger.salvage()
    await ledger.aclose()
    assert threads() == before


@pytest.mark.parametrize(
    "files",
    of("killed", "file", OF_MAIN) + of("closed", "file", OF_MAIN),
    indirect=True,
)
async def test_salvage_of_what_is_gone(files: Files) -> None:
    """Rows that are lost cannot be doubted: a file that was cut is still refused after it."""
    ledger = SQLiteLedger(files.main)
    with contextlib.suppress(LedgerError):
        await asyncio.wait_for(ledger.salvage(), SOON)
    await ledger.aclose()
    with pytest.raises(LedgerError):
        await asyncio.wait_for(SQLiteLedger(files.main).__aenter__(), SOON)


async def die_salvaging(inside: Inside, path: Path, at: int) -> None:
    """Salvage a ledger, and be killed before one of its statements; tell if it has so many."""
    run = sqlite_ledger._Database.run
    count = 0

    def run_or_die(database: Any, statement: str, **values: object) -> sqlite3.Cursor:
        nonlocal count
        if count == at:
            kill()
        count += 1
        return run(database, statement, **values)

    sqlite_ledger._Database.run = run_or_die  # type: ignore[method-assign, assignment]
    await SQLiteLedger(path).salvage()


@left("killed", lose("wal"))
async def test_killed_while_salvaging(files: Files) -> None:
    """Wherever it ends, the ledger is refused at the next opening or doubts what was planned."""
    for at in range(100):
        shutil.copytree(files.main.parent, copy := files.main.parent.with_name(f"copy-{at}"))
        async with process(die_salvaging, copy / files.main.name, at) as other:
            code = await other.ended()
        try:
            async with SQLiteLedger(copy / files.main.name) as ledger:
                assert "planned" not in await statuses(ledger), f"killed before statement {at}"
        except LedgerError:
            assert code != 0, "it ended, and is refused"
        if code == 0:
            break
    assert at > 3


# Disks that are full, read-only, or fail


async def test_a_full_disk(disk: Path) -> None:
    """Nothing is permitted while it is full; all goes on when it is not, and nothing is lost."""
    path = disk / "ledger.sqlite3"
    async with SQLiteLedger(path) as ledger:
        await enrol(ledger, ORDERS)
        rows = await ledger.rows()
        filler = fill(disk)
        permitted = 0
        with contextlib.suppress(LedgerError):
            for row in rows:
                permitted += await ledger.intend(row.id, ME, soon())
        assert permitted < len(rows)
        with pytest.raises(LedgerError, match=re.escape(str(path))):
            await ledger.intend(rows[-1].id, ME, soon())
        filler.unlink()
        expected = ["sending"] * permitted + ["planned"] * (len(rows) - permitted)
        assert await statuses(ledger) == expected
        assert await ledger.intend(rows[-1].id, ME, soon())


async def test_a_disk_that_is_full_from_the_first(disk: Path) -> None:
    """A ledger that has no place is refused, and can be used once it has."""
    filler = fill(disk)
    path = disk / "ledger.sqlite3"
    with pytest.raises(LedgerError, match=re.escape(str(path))):
        async with SQLiteLedger(path):
            pass
    filler.unlink()
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "sent")


async def test_a_disk_that_is_full_to_the_end(disk: Path) -> None:
    """Closing ends, and what was recorded is found when there is place again."""
    path = disk / "ledger.sqlite3"
    ledger = SQLiteLedger(path)
    await put(ledger, "sent")
    filler = fill(disk)
    with contextlib.suppress(LedgerError):
        for order in ORDERS:
            await put(ledger, "planned", order=order)
    await asyncio.wait_for(ledger.aclose(), SOON)
    filler.unlink()
    async with SQLiteLedger(path) as again:
        assert (await statuses(again))[0] == "sent"


async def test_a_disk_that_may_not_be_written(disk: Path) -> None:
    """A ledger on it is refused, and told by its name."""
    path = disk / "ledger.sqlite3"
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "planned")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(LedgerError, match=re.escape(str(path))):
        async with SQLiteLedger(path) as ledger:
            await ledger.intend(1, ME, soon())
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    async with SQLiteLedger(path) as ledger:
        assert await ledger.intend(1, ME, soon())


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anything")
async def test_a_folder_that_may_not_be_written(path: Path) -> None:
    """A ledger in it is refused, and told by its name."""
    async with SQLiteLedger(path) as ledger:
        await put(ledger, "planned")
    path.parent.chmod(0o500)
    path.chmod(0o400)
    with pytest.raises(LedgerError, match=re.escape(str(path))):
        async with SQLiteLedger(path) as ledger:
            await ledger.intend(1, ME, soon())
    path.parent.chmod(0o700)


@pytest.fixture
def broken_disk() -> Iterator[Callable[[bool], None]]:
    """Lets no file of this process be written, or lets all of them, as it is told."""
    resource = pytest.importorskip("resource", reason="no limits of files on Windows")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def breaks(is_broken: bool) -> None:
        limit = 32 if is_broken else soft  # bytes; what is written behind them fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    yield breaks
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ends_broken", [True, False])
async def test_a_disk_that_fails(
    path: Path, broken_disk: Callable[[bool], None], ends_broken: bool
) -> None:
    """A commit that cannot be written permits nothing, and leaves the row as it was."""
    async with SQLiteLedger(path) as ledger:
        row = await put(ledger, "planned")
        broken_disk(True)
        for _ in range(3):
            with pytest.raises(LedgerError, match=re.escape(str(path))):
                await ledger.intend(row.id, ME, soon())
        with contextlib.closing(sqlite3.connect(path)) as other:
            assert read(other) == ["planned"]
        if not ends_broken:
            broken_disk(False)
            assert await ledger.intend(row.id, ME, soon())
    broken_disk(False)
    async with SQLiteLedger(path) as again:
        assert await statuses(again) == ["planned" if ends_broken else "unknown"]


async def test_another_program_that_writes(path: Path) -> None:
    """While it does, nothing is permitted; after it, all goes on."""
    async with SQLiteLedger(path) as ledger:
        row = await put(ledger, "planned")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerError, match=re.escape(str(path))):
                await ledger.intend(row.id, ME, soon())
            assert read(other) == ["planned"]
            other.execute("ROLLBACK")
        assert await ledger.intend(row.id, ME, soon())


async def test_a_commit_that_fails_permits_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who wait for it are told so, each with an error of its own."""
    async with SQLiteLedger(path) as ledger:
        rows = [await put(ledger, "planned", order=order) for order in ORDERS[:5]]
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            intents = [ledger.intend(row.id, ME, soon()) for row in rows]
            told = await asyncio.gather(*intents, return_exceptions=True)
            other.execute("ROLLBACK")
        assert {type(error) for error in told} == {LedgerError}
        assert len({id(error) for error in told}) == len(told)
        assert await statuses(ledger) == ["planned"] * 5
