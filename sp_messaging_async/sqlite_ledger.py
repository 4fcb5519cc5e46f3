"""`SQLiteLedger`: a ledger in one file, for all processes of one machine.

One thread writes. What waits for it is committed together, with `synchronous=FULL`, before anyone
is told. Beside the file FILE stand SQLite's own FILE-wal and FILE-shm, and

- FILE.lock, by which SQLite's locks tell who else has the ledger open, and FILE.door, which is
  passed by one at a time. Whoever opens it alone knows that every owner of an intent is gone.
- FILE.tail, the number of the last commit. A ledger that knows fewer has lost its WAL, or is an
  old copy, and is refused: it could not tell what was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
import json
import os
import queue
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from attrs import field, frozen

from .errors import LedgerError
from .ledger import (
    DEFAULT_CAMPAIGN,
    Conflict,
    Enrolled,
    Lane,
    LedgerRow,
    LeftAlone,
    Planned,
    Settlement,
    Status,
    new_owner,
    stored_interruption,
)

__all__ = ["SQLiteLedger"]

T = TypeVar("T")

_LARGEST_GROUP = 1000  # jobs that are committed together
_BUSY = 30.0  # seconds to wait for another process's commit
_SAMPLE = 20  # rows named in an Enrolled
_APPLICATION_ID = 0x53504D41  # marks the database as a ledger


class SQLiteLedger:
    """A ledger in a file of this machine. Any number of processes may have it open.

    path: the file, made (for its user only) when it is first used.

    Open it as an async context manager, or let the first use do so and call `aclose`. Every method
    raises LedgerError when the file cannot be used, and nothing is sent then.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._writer: _Writer | None = None
        self._staging = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            await self._do(_nothing)
        except LedgerError:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish what was begun, and close. The next use would open it again."""
        writer, self._writer = self._writer, None
        self._staging = asyncio.Lock()  # the next use may be in another event loop
        if writer is not None:
            await asyncio.to_thread(writer.close)

    async def salvage(self) -> int:
        """Open a ledger that lost its last commits: everything planned becomes `unknown`.

        Returns how many rows. Messages that only the lost commits knew are not among them. A file
        that was cut is refused all the same: nobody can tell what it held.
        """
        await self.aclose()
        self._writer = _Writer(self.path, salvage=True)
        return await self._do(lambda database: database.salvaged)

    # The contract

    async def plan(
        self, message: Planned, campaign: str, endpoint: str, *, again: bool = False
    ) -> LedgerRow:
        """The row that decides what becomes of a message; see `Ledger.plan`."""
        return await self._do(functools.partial(_plan, message, campaign, endpoint, again))

    async def row(self, row_id: int) -> LedgerRow:
        """A row as it stands now."""
        return await self._do(lambda database: _found(database.row("row", id=row_id)), writes=False)

    def intend(self, row_id: int, owner: str, deadline: float) -> Awaitable[bool]:
        """Commit the intent to send a planned row; see `Ledger.intend`."""
        return self._writing.submit(_intend, True, (row_id, owner, deadline))

    def settle(self, row_id: int, owner: str, settlement: Settlement) -> Awaitable[None]:
        """Record what became of it; see `Ledger.settle`."""
        what = (settlement.status, settlement.request_id, settlement.failure)
        return self._writing.submit(_settle, True, (row_id, owner, *what))

    @asynccontextmanager
    async def campaign_lock(self, campaign: str = DEFAULT_CAMPAIGN) -> AsyncIterator[None]:
        """Held while a run sends a campaign's rows; refused while another process holds it."""
        lock = _Lock(_beside(self.path, f".{_short(campaign)}.lock"))
        holder = f"holder of {campaign}"
        try:
            if not await asyncio.to_thread(lock.take_alone):
                who = await self._do(lambda database: database.fact(holder), writes=False)
                raise LedgerError(
                    f"campaign {campaign!r} is being sent by process {who or 'unknown'}; "
                    "wait for it, or stop it first"
                )
            await self._do(lambda database: _take_campaign(database, campaign, holder))
            yield
        finally:
            await asyncio.to_thread(lock.close)

    @asynccontextmanager
    async def enrolment(self, campaign: str, endpoint: str) -> AsyncIterator[SQLiteEnrolment]:
        """A list on its way into the ledger."""
        async with self._staging:  # there is one staging table
            await self._do(lambda database: _begin_staging(database, endpoint))
            try:
                yield SQLiteEnrolment(self, campaign)
            finally:
                await self._do(_end_staging)

    async def lanes(self, run: str) -> list[Lane]:
        """What a run has yet to send, for each account and operation."""
        return await self._do(
            lambda database: [Lane(*found) for found in database.run("lanes", run=run)],
            writes=False,
        )

    async def marketplaces(self, run: str) -> list[str | None]:
        """The marketplaces of what a run has yet to send; None where the list names none."""
        return await self._do(
            lambda database: [found for (found,) in database.run("marketplaces", run=run)],
            writes=False,
        )

    async def to_send(self, run: str, lane: Lane, after: int, limit: int) -> list[LedgerRow]:
        """A lane's next planned rows, by id."""
        values = {"account": lane.account, "operation": lane.operation, "after": after}
        return await self._do(
            lambda database: database.rows("to send", run=run, limit=limit, **values), writes=False
        )

    async def end_run(self, run: str) -> None:
        """Note that a run has ended, if nothing of its list is left to send."""
        await self._do(lambda database: _forget(database.run("end run", run=run)))

    async def counts(
        self, *, campaign: str | None = None, run: str | None = None
    ) -> Mapping[Status, int]:
        """How many rows of each status: of a campaign, of a run's list, or of all."""
        values = {"campaign": campaign, "run": run}
        return await self._do(
            lambda database: dict(map(tuple, database.run("counts", **values))), writes=False
        )

    async def rows(
        self,
        *,
        campaign: str | None = None,
        status: Status | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> list[LedgerRow]:
        """Rows by id, a page at a time."""
        values = {"campaign": campaign, "status": status, "after": after, "limit": limit}
        return await self._do(lambda database: database.rows("rows", **values), writes=False)

    async def resolve(
        self, amazon_order_id: str, operation: str, *, sent: bool, campaign: str | None = None
    ) -> int:
        """Settle `unknown` rows after a look in Seller Central; see `Ledger.resolve`."""
        values = {
            "amazon_order_id": amazon_order_id,
            "operation": operation,
            "campaign": campaign,
            "status": "sent" if sent else "planned",
        }
        return await self._do(lambda database: _resolve(database, values))

    async def purge(self, before: datetime) -> int:
        """Forget final rows that last changed before; see `Ledger.purge`."""
        return await self._do(lambda database: _purge(database, before.timestamp()))

    def _do(self, work: Callable[[_Database], T], *, writes: bool = True) -> asyncio.Future[T]:
        return self._writing.submit(lambda database, _: [work(database)], writes)

    @property
    def _writing(self) -> _Writer:
        if self._writer is None:
            self._writer = _Writer(self.path)
        return self._writer


class SQLiteEnrolment:
    """A list on its way into a SQLiteLedger; see `Enrolment`."""

    def __init__(self, ledger: SQLiteLedger, campaign: str) -> None:
        self._do = ledger._do
        self._campaign = campaign

    async def stage(self, rows: Sequence[tuple[int, Planned]]) -> None:
        """Take rows with their lines, which grow."""
        await self._do(lambda database: _stage(database, rows), writes=False)

    async def conflicts(self, limit: int) -> tuple[list[Conflict], int]:
        """Rows that differ from an earlier one of their order and operation; and how many."""

        def find(database: _Database) -> tuple[list[Conflict], int]:
            found = list(database.run("staged conflicts", limit=limit))
            return [Conflict(*row[:4]) for row in found], found[0]["total"] if found else 0

        return await self._do(find, writes=False)

    async def merge(self, *, again: bool) -> Enrolled:
        """Bring the ledger up to the list; see `Enrolment.merge`."""
        return await self._do(lambda database: _merge(database, self._campaign, again))


# What the writer's thread does for them, each within a transaction


def _nothing(database: _Database) -> None:
    pass


def _forget(cursor: sqlite3.Cursor) -> None:
    cursor.close()


def _intend(database: _Database, intents: Sequence[Values]) -> list[bool]:
    """All intents in one statement, which spares the event loop many waits for Python's lock."""
    if _name_a_row_twice(intents):  # one after the other
        return [_intend(database, [intent])[0] for intent in intents]
    if database.run("intend", intents=json.dumps(intents)).rowcount == len(intents):
        return [True] * len(intents)
    # Once more for those that only an intent which holds no more was in the way of.
    database.run("lapse all", failure=stored_interruption())
    database.run("intend", intents=json.dumps(intents))
    names = ("id", "owner", "deadline")
    return [
        database.run("is intended", **dict(zip(names, intent, strict=True))).fetchone() is not None
        for intent in intents
    ]


def _settle(database: _Database, settlements: Sequence[Values]) -> list[None]:
    if _name_a_row_twice(settlements):  # one after the other
        for settlement in settlements:
            _settle(database, [settlement])
    else:
        database.run("settle", settlements=json.dumps(settlements))
    return [None] * len(settlements)


def _name_a_row_twice(values: Sequence[Values]) -> bool:
    return len({row_id for row_id, *_ in values}) < len(values)


def _plan(
    message: Planned, campaign: str, endpoint: str, again: bool, database: _Database
) -> LedgerRow:
    database.keep_to(endpoint)
    pair = {"amazon_order_id": message.amazon_order_id, "operation": message.operation}
    found = database.row("deciding row", campaign=campaign, again=again, **pair)
    plan = {
        "account": message.account,
        "marketplace": message.marketplace,
        "content": message.content(),
        "digest": message.digest(),
    }
    if found is None:
        if not again and database.was_purged(**pair):
            raise LedgerError(
                f"{message.operation} was sent to order {message.amazon_order_id} before, as a "
                "digest of a purged row tells; nothing was sent now"
            )
        planned = database.row("plan", campaign=campaign, again=again, **pair, **plan)
    elif found.status == "planned":
        planned = database.row("change plan", id=found.id, again=again, **plan)
    else:
        planned = found
    return _found(planned)


def _found(row: LedgerRow | None) -> LedgerRow:
    if row is None:
        raise LedgerError("a row is gone that was there before; who else writes to the ledger?")
    return row


def _take_campaign(database: _Database, campaign: str, holder: str) -> None:
    database.run("set fact", name=holder, value=os.getpid())
    database.run("interrupt campaign", campaign=campaign, failure=stored_interruption())


def _begin_staging(database: _Database, endpoint: str) -> None:
    database.keep_to(endpoint)
    _end_staging(database)  # of one that was cancelled before it could
    database.run("begin staging")


def _stage(database: _Database, rows: Sequence[tuple[int, Planned]]) -> None:
    database.run_many(
        "stage",
        (
            (
                line,
                planned.amazon_order_id,
                planned.operation,
                planned.account,
                planned.marketplace,
                planned.content(),
                planned.digest(),
            )
            for line, planned in rows
        ),
    )


def _end_staging(database: _Database) -> None:
    database.run("end staging")
    database.run("end merging")


def _merge(database: _Database, campaign: str, again: bool) -> Enrolled:
    run = new_owner("run")
    database.run("lapse all", failure=stored_interruption())
    database.run("index staged")
    database.run("drop conflicts")
    before = database.number("staged number")
    database.run("merge identical")
    merged = before - database.number("staged number")
    database.run("begin run", run=run, campaign=campaign)
    if again:
        database.run("reopen", campaign=campaign, run=run)
        database.run("permit repeats", campaign=campaign)
    database.run("change planned rows", campaign=campaign)
    database.run("plan new rows", campaign=campaign, again=again, run=run)
    database.run("claim for run", campaign=campaign, run=run)
    database.run("begin merging")
    database.run("find left alone", campaign=campaign)
    left_alone = database.run("left alone", campaign=campaign, limit=_SAMPLE)
    changed = list(database.run("changed left alone", limit=_SAMPLE))
    values = {"campaign": campaign, "run": run}
    missing = database.run("left of an earlier list", **values).fetchone() if again else None
    return Enrolled(
        run=run,
        merged=merged,
        left_alone=dict(map(tuple, database.run("count left alone"))),
        some_left_alone=[LeftAlone(*row) for row in left_alone],
        changed=changed[0]["total"] if changed else 0,
        some_changed=[LeftAlone(*row[:5]) for row in changed],
        missing=missing["total"] if missing else 0,
        first_missing=missing["amazon_order_id"] if missing else None,
    )


def _resolve(database: _Database, values: Mapping[str, object]) -> int:
    database.run("lapse all", failure=stored_interruption())
    return database.run("resolve", **values).rowcount


def _purge(database: _Database, before: float) -> int:
    database.run("remember purged", before=before)
    return database.run("purge", before=before).rowcount


# The writer's thread


Values = tuple[Any, ...]
Work = Callable[["_Database", Sequence[Values]], Sequence[T]]
"""Does the same for many values at once, and returns the result for each."""


@frozen(eq=False)
class _Job(Generic[T]):
    """Something to do in the thread, and who waits for it."""

    work: Work[T]
    values: Values
    writes: bool
    future: asyncio.Future[T]


class _Writer:
    """The thread that has the database, and what waits for it."""

    def __init__(self, path: Path, *, salvage: bool = False) -> None:
        self._path = path
        self._salvage = salvage
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T], writes: bool, values: Values = ()) -> asyncio.Future[T]:
        """Begin; what is submitted takes effect in that order, whether or not anyone waits."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # An error that nobody waits for is no reason for asyncio to complain: the row stays as it
        # was, which is the safe side.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._jobs.put(_Job(work, values, writes, future))
        return future

    def close(self) -> None:
        """Finish, and close the database. Blocks."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        groups = self._groups()
        try:
            with _opened(self._path, salvage=self._salvage) as database:
                for group in groups:
                    _commit(database, group)
        except Exception as error:  # whatever it is, nobody may be left waiting
            for group in groups:
                _fail(group, _as_ledger_error(self._path, error))

    def _groups(self) -> Iterator[list[_Job[Any]]]:
        """What waits, again and again, until the ledger is closed."""
        job = self._jobs.get()
        while job is not None:
            group = [job]
            with contextlib.suppress(queue.Empty):
                while len(group) < _LARGEST_GROUP:
                    job = self._jobs.get_nowait()
                    if job is None:
                        break
                    group.append(job)
            yield group
            if job is not None:
                job = self._jobs.get()


def _commit(database: _Database, group: list[_Job[Any]]) -> None:
    """Do a group of jobs in one transaction; all of it is durable before anyone is told."""
    results: list[tuple[asyncio.Future[Any], Any]] = []
    writes = any(job.writes for job in group)
    try:
        with database.transaction(writes=writes):
            for work, alike in itertools.groupby(group, key=attrgetter("work")):
                jobs = list(alike)
                try:
                    done = work(database, [job.values for job in jobs])
                except LedgerError as error:  # raised before anything was changed
                    done = [error] * len(jobs)
                results.extend(zip((job.future for job in jobs), done, strict=True))
    except Exception as error:  # nothing of the group may be relied upon
        _fail(group, _as_ledger_error(database.path, error))
    else:
        _tell(results)


def _fail(group: list[_Job[Any]], error: LedgerError) -> None:
    _tell([(job.future, LedgerError(*error.args)) for job in group])


def _as_ledger_error(path: Path, error: Exception) -> LedgerError:
    if isinstance(error, LedgerError):
        return error
    return LedgerError(f"the ledger {path} cannot be used: {error}")


def _tell(results: list[tuple[asyncio.Future[Any], Any]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for future, result in results:
        by_loop.setdefault(future.get_loop(), []).append((future, result))
    for loop, told in by_loop.items():
        with contextlib.suppress(RuntimeError):  # a loop that was closed has nobody waiting
            loop.call_soon_threadsafe(_set, told)


def _set(told: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in told:
        if future.done():
            continue
        if isinstance(result, LedgerError):
            future.set_exception(result)
        else:
            future.set_result(result)


# The database, within that thread


class _Database:
    """A connection, and the statements of ledger.sql."""

    def __init__(self, path: Path, connection: sqlite3.Connection, tail: _Tail | None) -> None:
        self.path = path
        self._connection = connection
        self._tail = tail
        self._statements = _statements()
        self.salvaged = 0
        self._key: bytes | None = None
        connection.create_function("keyed_digest", 2, self._digest_of, deterministic=True)

    def run(self, statement: str, **values: object) -> sqlite3.Cursor:
        """Run a statement of ledger.sql by its name."""
        return self._connection.execute(self._statements[statement], {"now": time.time(), **values})

    def run_many(self, statement: str, rows: Iterator[Sequence[object]]) -> None:
        """Run a statement for each of many rows."""
        self._connection.executemany(self._statements[statement], rows)

    def rows(self, statement: str, **values: object) -> list[LedgerRow]:
        """The rows of messages that a statement finds."""
        now = time.time()
        return [_ledger_row(row, now) for row in self.run(statement, **values)]

    def row(self, statement: str, **values: object) -> LedgerRow | None:
        """The row that a statement finds, or None."""
        found = self.rows(statement, **values)
        return found[0] if found else None

    def number(self, statement: str) -> int:
        """The number that a statement finds."""
        number: int = self.run(statement).fetchone()[0]
        return number

    def fact(self, name: str) -> Any:
        """A fact of the ledger, or None."""
        row = self.run("fact", name=name).fetchone()
        return row[0] if row else None

    def keep_to(self, endpoint: str) -> None:
        """Record the ledger's endpoint, or refuse another."""
        recorded = self.fact("endpoint")
        if recorded is None:
            self.run("set fact", name="endpoint", value=endpoint)
        elif recorded != endpoint:
            raise LedgerError(
                f"the ledger {self.path} is of {recorded}, and this would be sent to {endpoint}; "
                "name another ledger"
            )

    def was_purged(self, amazon_order_id: str, operation: str) -> bool:
        """Whether a purged row had sent it."""
        pair = self._digest_of(amazon_order_id, operation)
        return self.run("is purged", pair=pair).fetchone() is not None

    def version(self) -> int:
        """Of the schema; 0 for a new database. Refuses a database that is no ledger."""
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        mark = self._connection.execute("PRAGMA application_id").fetchone()[0]
        if mark != (_APPLICATION_ID if version else 0) or bool(version) != self._has_tables():
            raise LedgerError(f"{self.path} is another program's database; name another ledger")
        return version

    def migrate(self, version: int) -> None:
        """Go to a version of the schema, which is recorded in the same transaction."""
        with self.transaction(writes=False):
            for statement in _split(self._statements[f"migration {version}"]):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {version}")
            if version == 1:
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                for name, value in (("key", secrets.token_bytes(32)), ("sequence", 0), ("open", 0)):
                    self.run("set fact", name=name, value=value)

    def is_whole(self) -> bool:
        """Whether the file holds together; takes seconds for a million rows."""
        found: str = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        return found == "ok"

    def checkpoint(self, mode: str) -> None:
        """Bring all commits into the main file."""
        busy, _, _ = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        if busy:
            raise LedgerError(f"the ledger {self.path} is being read by another program; try again")

    def _has_tables(self) -> bool:
        found = self._connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        return found is not None

    @contextlib.contextmanager
    def transaction(self, *, writes: bool) -> Iterator[None]:
        """Committed at the end, with the next number if it writes; rolled back by any error."""
        number = None
        self._connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            yield
            if writes:
                number = self.run("next sequence").fetchone()[0]
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        if number is not None and self._tail is not None:
            self._tail.write(number)

    def _digest_of(self, amazon_order_id: str, operation: str) -> bytes:
        if self._key is None:
            self._key = self.fact("key")
        pair = f"{amazon_order_id} {operation}".encode()
        return hashlib.blake2b(pair, key=self._key or b"", digest_size=16).digest()


@functools.cache
def _statements() -> Mapping[str, str]:
    text = Path(__file__).with_name("ledger.sql").read_text("utf-8")
    statements: dict[str, str] = {}
    for block in text.split("\n-- ")[1:]:
        name, _, statement = block.partition("\n")
        if statement.strip():
            statements[name] = statement.strip()
    return statements


def _split(statements: str) -> Iterator[str]:
    """Statements one by one: sqlite3's own way to run many commits what went before."""
    statement = ""
    for line in statements.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _ledger_row(row: sqlite3.Row, now: float) -> LedgerRow:
    has_lapsed = row["status"] == "sending" and row["deadline"] < now
    return LedgerRow(
        id=row["id"],
        campaign=row["campaign"],
        amazon_order_id=row["amazon_order_id"],
        operation=row["operation"],
        account=row["account"],
        marketplace=row["marketplace"],
        status="unknown" if has_lapsed else row["status"],
        content=row["content"],
        attempts=row["attempts"],
        request_id=row["request_id"],
        failure=stored_interruption() if has_lapsed else row["failure"],
        deadline=_optional_time(row["deadline"]),
        enrolled_at=_time(row["enrolled_at"]),
        changed_at=_time(row["changed_at"]),
        sent_at=_optional_time(row["sent_at"]),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _optional_time(seconds: float | None) -> datetime | None:
    return None if seconds is None else _time(seconds)


# Opening and closing


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]


class _Lock:
    """An empty database, for the sake of the locks that SQLite has on every system."""

    def __init__(self, path: Path) -> None:
        _make_private(path)
        self._connection = sqlite3.connect(
            path, isolation_level=None, timeout=0, check_same_thread=False
        )

    def take_alone(self) -> bool:
        """Lock everyone else out; False if somebody is in."""
        try:
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    def wait_alone(self) -> None:
        """Lock everyone else out, once nobody is in."""
        self._connection.execute(f"PRAGMA busy_timeout = {int(_BUSY * 1000)}")
        self._connection.execute("BEGIN EXCLUSIVE")

    def share(self) -> None:
        """Let others in who share."""
        self.leave()
        self._connection.execute("BEGIN")
        self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def leave(self) -> None:
        """Give up whatever is held."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Give up, and close."""
        self.leave()
        self._connection.close()


@frozen
class _Tail:
    """The number of the last commit, in a file of its own."""

    path: Path
    file: Any = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> _Tail:
        _make_private(path)
        return cls(path, path.open("r+b", buffering=0))

    @staticmethod
    def read(path: Path) -> int | None:
        """The number, or None where there is none."""
        with contextlib.suppress(FileNotFoundError):
            content = path.read_bytes()
            return int.from_bytes(content, "big") if len(content) == 8 else None
        return None

    def write(self, number: int) -> None:
        """Note the number. What it is for is lost, and not more, if that fails."""
        with contextlib.suppress(OSError):
            self.file.seek(0)
            self.file.write(number.to_bytes(8, "big"))

    def close(self) -> None:
        self.file.close()


def _make_private(path: Path) -> None:
    """Make a file that only its user may read, if there is none."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


@contextlib.contextmanager
def _opened(path: Path, *, salvage: bool) -> Iterator[_Database]:
    """The ledger, checked, with interrupted rows told apart and everyone's locks respected."""
    with contextlib.ExitStack() as stack:
        lock = _Lock(_beside(path, ".lock"))
        stack.callback(lock.close)
        with _door(path):
            database = _enter(path, lock, stack, salvage=salvage)
        try:
            yield database
        finally:
            with _door(path):
                _leave(database, lock, stack)


@contextlib.contextmanager
def _door(path: Path) -> Iterator[None]:
    """Passed by one at a time: whoever comes in knows whether somebody else is in."""
    door = _Lock(_beside(path, ".door"))
    try:
        door.wait_alone()
        yield
    finally:
        door.close()


def _enter(path: Path, lock: _Lock, stack: contextlib.ExitStack, *, salvage: bool) -> _Database:
    is_alone = lock.take_alone()
    if is_alone:
        _examine(path, salvage=salvage)
    database = _connect(path, stack)
    if is_alone:
        _prepare(database, salvage=salvage)
    else:
        _refuse_other_version(path, database.version())
    lock.share()
    return database


def _connect(path: Path, stack: contextlib.ExitStack) -> _Database:
    _make_private(path)
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY)
    stack.callback(connection.close)
    connection.row_factory = sqlite3.Row
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")
    tail = _Tail.open(_beside(path, ".tail"))
    stack.callback(tail.close)
    return _Database(path, connection, tail)


def _prepare(database: _Database, *, salvage: bool) -> None:
    """What whoever opens a ledger alone does, before anyone may send by it."""
    for version in range(database.version() + 1, _newest() + 1):
        database.migrate(version)
    # Every owner of an intent is gone. The mark that the ledger is open is put into the main file
    # before the first intent, so that a WAL that is missing then is known to be missing.
    with database.transaction(writes=True):
        database.run("interrupt all", failure=stored_interruption())
        if salvage:
            database.salvaged = database.run(
                "doubt planned", failure=stored_interruption()
            ).rowcount
            database.run("raise sequence", least=_Tail.read(_beside(database.path, ".tail")) or 0)
        database.run("set fact", name="open", value=1)
    database.checkpoint("FULL")


def _leave(database: _Database, lock: _Lock, stack: contextlib.ExitStack) -> None:
    """Close; the last one out notes that nothing is left open."""
    lock.leave()
    if lock.take_alone():
        # At worst, as when another program reads, the next one finds it open and looks closer.
        with contextlib.suppress(sqlite3.Error, LedgerError):
            with database.transaction(writes=True):
                database.run("set fact", name="open", value=0)
            database.checkpoint("TRUNCATE")
    stack.close()  # while nobody else is at the door


# Looking at a ledger's files, which changes none of them


def _examine(path: Path, *, salvage: bool) -> None:
    """Refuse files that are no ledger, or that do not hold all that was committed to it.

    A WAL may hold what is nowhere else, and to look at a database is to fold its WAL into it: so a
    copy is looked at where there is one.
    """
    tail, wal = _Tail.read(_beside(path, ".tail")), _size(_beside(path, "-wal"))
    if not _size(path):
        if tail:
            raise LedgerError(
                f"the ledger {path} is gone or empty, and {tail} commits were made to it: what was "
                "sent cannot be told. Bring it back; or, to begin anew and perhaps message buyers "
                f"twice, delete {path}.tail too"
            )
        return
    _refuse_cut(path, has_wal=bool(wal))
    with _to_look_at(path, is_closed=not wal) as connection:
        found = _Database(path, connection, None)
        version = found.version()
        _refuse_newer(path, version)
        if not version:
            return  # it has just been made
        was_open = bool(found.fact("open"))
        missing = (found.fact("sequence") < tail) if tail is not None else (was_open and not wal)
        if missing and not salvage:
            raise LedgerError(
                f"the ledger {path} lacks its last commits, which stood in {path}-wal, or it is an "
                "old copy: what was sent since cannot be told. Bring the newest files back; or let "
                f"'sp-messaging ledger salvage --ledger {path}' mark all that is planned as unknown"
            )
        if was_open and not found.is_whole():
            raise LedgerError(f"the ledger {path} is damaged; bring back a copy that is whole")


def _newest() -> int:
    return sum(name.startswith("migration ") for name in _statements())


def _refuse_newer(path: Path, version: int) -> None:
    if version > _newest():
        raise LedgerError(
            f"the ledger {path} was made by a newer version (schema {version}, known here is "
            f"{_newest()}); update sp-messaging-async"
        )


def _refuse_other_version(path: Path, version: int) -> None:
    _refuse_newer(path, version)
    if version < _newest():
        raise LedgerError(
            f"the ledger {path} is of an older version, and open elsewhere; close it there first"
        )


def _refuse_cut(path: Path, *, has_wal: bool) -> None:
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(b"SQLite format 3\0"[: len(header)]):
        raise LedgerError(f"{path} is no ledger, but a file of another kind; name another")
    page = int.from_bytes(header[16:18], "big")
    page = 65536 if page == 1 else page
    pages = int.from_bytes(header[28:32], "big")
    # With a WAL, pages may yet be missing that stand in it.
    is_short = _size(path) < page * pages and not has_wal
    if len(header) < 100 or is_short or _size(path) % page:
        raise LedgerError(f"the ledger {path} was cut off; bring back a copy that is whole")


@contextlib.contextmanager
def _to_look_at(path: Path, *, is_closed: bool) -> Iterator[sqlite3.Connection]:
    with contextlib.ExitStack() as stack:
        if is_closed:
            address = f"{path.absolute().as_uri()}?immutable=1"
        else:
            folder = _beside(path, ".look")
            shutil.rmtree(folder, ignore_errors=True)  # of one who was killed while looking
            folder.mkdir(mode=0o700)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            for suffix in ("", "-wal"):
                shutil.copyfile(_beside(path, suffix), folder / ("copy" + suffix))
            address = (folder / "copy").absolute().as_uri()
        connection = sqlite3.connect(address, uri=True, isolation_level=None)
        stack.callback(connection.close)
        connection.row_factory = sqlite3.Row
        yield connection


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
