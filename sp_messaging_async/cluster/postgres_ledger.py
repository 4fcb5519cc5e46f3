"""`PostgresLedger`: a ledger in a PostgreSQL database, for all processes of all machines.

One task writes: what waits for it is committed together, with `synchronous_commit = on`, before
anyone is told. A commit whose answer was lost is never assumed: each intent has a name of its own,
by which the row is looked at again over another connection, or it is left to expire.

All times are the database's. Who intends counts its own time from before it asked, so that it stops
before the database gives the row up, however the machines' clocks are set.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import secrets
import socket
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from attrs import define, field, frozen

from ..errors import ConfigurationError, LedgerError
from ..ledger import (
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

if TYPE_CHECKING:  # an extra, which is imported when a ledger is made
    from psycopg import AsyncConnection, AsyncCursor
    from psycopg_pool import AsyncConnectionPool

__all__ = ["PostgresLedger", "Share"]

T = TypeVar("T")
Found: TypeAlias = dict[str, Any]

_LARGEST_GROUP = 1000  # intents and settlements that are committed together
_MANY = 10_000  # new rows that change what the database knows of its table
_SAMPLE = 20  # rows named in an Enrolled
_RENEWED = 5.0  # seconds between two words of a holder's, or a quarter of a shorter lease
_RECONNECT = 3.0  # seconds after which a connection is asked for anew
_ROUNDS = 10  # times that a plan is made anew because others plan the same

# So that a machine which is gone is noticed; what the address says itself has precedence.
_DEFAULTS = {
    "application_name": "sp-messaging",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


@frozen
class Share:
    """What a run has yet to send for one account.

    marketplaces: their ids; None stands for messages that name none.
    number: of its messages.
    """

    account: str
    marketplaces: Sequence[str | None]
    number: int


class PostgresLedger:
    """A ledger in a PostgreSQL database. Any number of processes, of any machines, may use it.

    What the database has committed must last: a server with `fsync = off`, an old copy that is
    brought back or a replica that lags behind when it takes over does not know all that was sent.

    dsn: its address, postgresql://USER@HOST/DATABASE or as libpq takes it. The password is better
        kept in a password file or PGPASSWORD.
    schema: where in the database its tables are; `create` makes them.
    connections: the most that are open at once, beside one for each list being enrolled.
    patience: seconds to wait for a database that does not answer, before LedgerError.
    lease: seconds that a campaign, or a share of one, stays its holder's without a word of it; the
        same for all who send from the ledger.

    Open it as an async context manager, or let the first use do so and call `aclose`. Every method
    raises LedgerError when the database cannot be used, and nothing is sent then. It belongs to one
    event loop at a time. Raises ConfigurationError for an address that cannot be read, and if the
    extra `postgres` is not installed.
    """

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "sp_messaging",
        connections: int = 4,
        patience: float = 30.0,
        lease: float = 20.0,
    ) -> None:
        if not lease > 0:
            raise ConfigurationError(f"a lease of {lease} s is none; give more than 0")
        self.lease = lease
        self._address = _Address.of(dsn, schema)
        self._connections = connections
        self._patience = patience
        self._engine: _Engine | None = None
        self._leases: dict[str, uuid.UUID] = {}  # of campaigns
        self._campaigns: dict[str, str] = {}  # of runs

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._address)!r})"

    async def __aenter__(self) -> Self:
        try:
            await self._connected.ready()
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
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.aclose()

    async def create(self) -> int:
        """Make the ledger's tables, or bring them up to this version; returns the schema's version.

        May be called by any number of processes, again and at once.
        """
        return await _create(self._address)

    # The contract

    async def plan(
        self, message: Planned, campaign: str, endpoint: str, *, again: bool = False
    ) -> LedgerRow:
        """The row that decides what becomes of a message; see `Ledger.plan`."""
        engine = await self._keep_to(endpoint)
        pair = {"amazon_order_id": message.amazon_order_id, "operation": message.operation}
        values = {
            **pair,
            "campaign": campaign,
            "again": again,
            "account": message.account,
            "marketplace": message.marketplace,
            "content": message.content(),
            "files": _files(message),
            "digest": message.digest(),
        }
        for _ in range(_ROUNDS):
            row = await engine.row("deciding row", **values)
            if row is None and not again and await engine.found("is purged", pair):
                raise LedgerError(
                    f"{message.operation} was sent to order {message.amazon_order_id} before, as a "
                    "digest of a purged row tells; nothing was sent now"
                )
            if row is None:
                row = await engine.row("plan", **values)
            elif row.status == "planned":
                row = await engine.row("change plan", id=row.id, **values)
            if row is not None:
                return row
        raise LedgerError(f"too many plan {message.operation} for order {message.amazon_order_id}")

    async def row(self, row_id: int) -> LedgerRow:
        """A row as it stands now."""
        engine = await self._settled()
        row = await engine.row("row", id=row_id)
        if row is None:
            raise LedgerError("a row is gone that was there before; who else writes to the ledger?")
        return row

    def intend(self, row_id: int, owner: str, deadline: float) -> Awaitable[bool]:
        """Commit the intent to send a planned row; see `Ledger.intend`."""
        holder = self._leases.get(self._campaigns.get(owner, ""))
        return self._connected.intend(row_id, owner, deadline, holder)

    def settle(self, row_id: int, owner: str, settlement: Settlement) -> Awaitable[None]:
        """Record what became of it; see `Ledger.settle`."""
        return self._connected.settle(row_id, owner, settlement)

    @asynccontextmanager
    async def campaign_lock(self, campaign: str = DEFAULT_CAMPAIGN) -> AsyncIterator[None]:
        """Held while a run sends a campaign's rows; refused while another process holds it.

        One that has not been heard of for the time of a lease holds it no more. What it was sending
        becomes `unknown` when its intents have expired, and its runs make no more of them.
        """
        async with self._lease(campaign, "") as holder:
            self._leases[campaign] = holder
            try:
                yield
            finally:
                self._leases.pop(campaign, None)

    @asynccontextmanager
    async def enrolment(self, campaign: str, endpoint: str) -> AsyncIterator[PostgresEnrolment]:
        """A list on its way into the ledger: one transaction on a connection of its own."""
        engine = await self._keep_to(endpoint)
        async with engine.enrolling() as staging:
            enrolment = PostgresEnrolment(staging, campaign)
            yield enrolment
        if enrolment.run is not None:
            self._campaigns[enrolment.run] = campaign

    async def lanes(self, run: str) -> list[Lane]:
        """What a run has yet to send, for each account and operation."""
        engine = await self._settled()
        found = await engine.found("lanes", {"run": run, **self._filter})
        return [Lane(**row) for row in found]

    async def marketplaces(self, run: str) -> list[str | None]:
        """The marketplaces of what a run has yet to send; None where the list names none."""
        engine = await self._settled()
        found = await engine.found("marketplaces", {"run": run, **self._filter})
        return [row["marketplace"] for row in found]

    async def to_send(self, run: str, lane: Lane, after: int, limit: int) -> list[LedgerRow]:
        """A lane's next planned rows, by id."""
        engine = await self._settled()
        values = {**self._filter, "account": lane.account, "operation": lane.operation}
        return await engine.rows("to send", run=run, after=after, limit=limit, **values)

    async def end_run(self, run: str) -> None:
        """Note that a run has ended, if nothing of its list is left to send."""
        engine = await self._settled()
        await engine.done("end run", run=run)

    async def counts(
        self, *, campaign: str | None = None, run: str | None = None
    ) -> Mapping[Status, int]:
        """How many rows of each status: of a campaign, of a run's list, or of all."""
        engine = await self._settled()
        found = await engine.found("counts", {"campaign": campaign, "run": run})
        return {row["status"]: row["number"] for row in found}

    async def rows(
        self,
        *,
        campaign: str | None = None,
        status: Status | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> list[LedgerRow]:
        """Rows by id, a page at a time."""
        engine = await self._settled()
        values = {"campaign": campaign, "status": status, "after": after, "limit": limit}
        return await engine.rows("rows", **values)

    async def resolve(
        self, amazon_order_id: str, operation: str, *, sent: bool, campaign: str | None = None
    ) -> int:
        """Settle `unknown` rows after a look in Seller Central; see `Ledger.resolve`."""
        engine = await self._settled()
        await engine.done("lapse all", failure=stored_interruption())
        return await engine.done(
            "resolve",
            once=True,
            amazon_order_id=amazon_order_id,
            operation=operation,
            campaign=campaign,
            status="sent" if sent else "planned",
        )

    async def purge(self, before: datetime) -> int:
        """Forget final rows that last changed before; see `Ledger.purge`."""
        engine = await self._settled()
        (found,) = await engine.found("purge", {"before": before}, once=True)
        number: int = found["number"]
        return number

    # Beyond it: a run's work shared out

    async def realm(self) -> str | None:
        """What it calls the endpoint that it is of; None if nothing was planned in it yet."""
        engine = await self._settled()
        found = await engine.found("fact", {"name": "endpoint"})
        return str(found[0]["value"]) if found else None

    async def shares(self, run: str) -> list[Share]:
        """What a run has yet to send, for each account."""
        engine = await self._settled()
        return [Share(**row) for row in await engine.found("shares", {"run": run})]

    @asynccontextmanager
    async def share(
        self, run: str, account: str, marketplaces: Sequence[str | None] | None = None
    ) -> AsyncIterator[PostgresLedger]:
        """One account's messages of a run, to be sent by one process at a time.

        marketplaces: the ids of those that are meant, of one region say, with None for messages
            that name none; all unless given. Shares of an account are told apart by them, and must
            not overlap.

        Gives a ledger whose lanes are those of the share, for a `CampaignRun`. Refused while
        another process holds the same share, or the campaign; one that has not been heard of for
        the time of a lease does not. A share that was lost meanwhile permits no intent: LedgerError
        ends its run.
        """
        engine = await self._settled()
        found = await engine.found("campaign of run", {"run": run})
        if not found:
            raise LedgerError(f"the ledger {self._address} knows no run {run}")
        places = None if marketplaces is None else sorted(place or "" for place in marketplaces)
        part = " ".join([account, *(places or ["all marketplaces"])])
        async with self._lease(found[0]["campaign"], part) as holder:
            yield _SharedLedger(self, holder, account, places)

    @asynccontextmanager
    async def _lease(self, campaign: str, part: str) -> AsyncIterator[uuid.UUID]:
        engine, holder = await self._settled(), uuid.uuid4()
        in_the_way = await engine.take_lease(campaign, part, holder, self.lease)
        if in_the_way is not None:
            what = f"campaign {campaign!r}" + (f", {part}," if part else "")
            raise LedgerError(
                f"{what} is being sent by {in_the_way}; wait for it, or stop it first (one that "
                f"was killed holds it for {self.lease:.0f} s more)"
            )
        renewing = asyncio.create_task(engine.renew_lease(holder, self.lease))
        try:
            yield holder
        finally:
            await ended(renewing)
            with contextlib.suppress(LedgerError):  # it expires by itself
                await engine.done("give lease back", holder=holder)

    @property
    def _filter(self) -> Mapping[str, object]:
        return {"account": None, "places": None}

    @property
    def _connected(self) -> _Engine:
        if self._engine is not None and self._engine.has_failed():
            self._engine.abandon()
            self._engine = None
        if self._engine is None:
            self._engine = _Engine(self._address, self._connections, self._patience)
        self._engine.refuse_other_loop()
        return self._engine

    async def _settled(self) -> _Engine:
        """The connections, once all that was submitted before has taken effect."""
        engine = self._connected
        await engine.settled()
        return engine

    async def _keep_to(self, endpoint: str) -> _Engine:
        engine = await self._settled()
        recorded = await engine.endpoint(endpoint)
        if recorded != endpoint:
            raise LedgerError(
                f"the ledger {self._address} is of {recorded}, and this would be sent to "
                f"{endpoint}; name another ledger"
            )
        return engine


class _SharedLedger(PostgresLedger):
    """A ledger of which a run sees one account's messages; no intent without its lease."""

    def __init__(
        self, ledger: PostgresLedger, holder: uuid.UUID, account: str, places: list[str] | None
    ) -> None:
        self.lease = ledger.lease
        self._whole = ledger
        self._address = ledger._address
        self._holder = holder
        self._share = {"account": account, "places": places}

    def intend(self, row_id: int, owner: str, deadline: float) -> Awaitable[bool]:
        """Commit the intent to send a planned row; see `Ledger.intend`."""
        return self._connected.intend(row_id, owner, deadline, self._holder)

    async def aclose(self) -> None:
        """Nothing: the ledger that it is of stays open."""

    @property
    def _filter(self) -> Mapping[str, object]:
        return self._share

    @property
    def _connected(self) -> _Engine:
        return self._whole._connected


class PostgresEnrolment:
    """A list on its way into a PostgresLedger; see `Enrolment`."""

    def __init__(self, staging: _Staging, campaign: str) -> None:
        self.run: str | None = None
        self._staging = staging
        self._campaign = campaign

    async def stage(self, rows: Sequence[tuple[int, Planned]]) -> None:
        """Take rows with their lines, which grow."""
        # In a thread, for a large batch would keep the loop from all else.
        await self._staging.copy(await asyncio.to_thread(_as_copied, rows))

    async def conflicts(self, limit: int) -> tuple[list[Conflict], int]:
        """Rows that differ from an earlier one of their order and operation; and how many."""
        await self._staging.find_repeated()
        found = await self._staging.run("staged conflicts", limit=limit)
        total = found[0]["total"] if found else 0
        return [Conflict(*_first(row, 4)) for row in found], total

    async def merge(self, *, again: bool) -> Enrolled:
        """Bring the ledger up to the list; see `Enrolment.merge`."""
        run = new_owner("run")
        work, values = self._staging, {"campaign": self._campaign, "run": run}
        await work.find_repeated()
        await work.run("drop conflicts")
        merged = await work.change("merge identical")
        await work.run("begin merging")
        await work.run("lock merging", **values)
        await work.run("lapse all", failure=stored_interruption())
        await work.run("begin run", **values)
        if again:
            await work.run("reopen", **values)
            await work.run("permit repeats", **values)
        await work.run("change planned rows", **values)
        planned = await work.change("plan new rows", again=again, **values)
        await work.run("claim for run", **values)
        if planned >= _MANY:  # nobody plans a query for a table as it was
            await work.run("look at messages")
        await work.run("find left alone", **values)
        counts = await work.run("count left alone")
        left_alone = await work.run("left alone", limit=_SAMPLE, **values)
        changed = await work.run("changed left alone", limit=_SAMPLE)
        missing = await work.run("left of an earlier list", **values) if again else []
        await work.commit()
        self.run = run
        return Enrolled(
            run=run,
            merged=merged,
            left_alone={row["status"]: row["number"] for row in counts},
            some_left_alone=[LeftAlone(*_first(row, 5)) for row in left_alone],
            changed=changed[0]["total"] if changed else 0,
            some_changed=[LeftAlone(*_first(row, 5)) for row in changed],
            missing=missing[0]["total"] if missing else 0,
            first_missing=missing[0]["amazon_order_id"] if missing else None,
        )


def _first(row: Found, number: int) -> list[Any]:
    return list(row.values())[:number]


def _files(message: Planned) -> int:
    return len(getattr(message.request, "attachments", ()))


# Rows as COPY takes them

_SPECIAL = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _as_copied(rows: Sequence[tuple[int, Planned]]) -> bytes:
    lines = []
    for line, planned in rows:
        texts = [planned.amazon_order_id, planned.operation, planned.account]
        place = planned.marketplace
        values = [
            str(line),
            *(text.translate(_SPECIAL) for text in texts),
            "\\N" if place is None else place.translate(_SPECIAL),
            planned.content().translate(_SPECIAL),
            str(_files(planned)),
            "\\\\x" + planned.digest().hex(),
        ]
        lines.append("\t".join(values))
    text = "\n".join([*lines, ""])
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise LedgerError("a row of the list has half of a surrogate pair; correct it") from None


# Where it is


@frozen
class _Address:
    """Of a ledger. Shown, it has no secret."""

    conninfo: str = field(repr=False)
    schema: str
    shown: str
    secrets: Sequence[str] = field(repr=False)

    @classmethod
    def of(cls, dsn: str, schema: str) -> _Address:
        try:
            import psycopg
            import psycopg_pool  # noqa: F401 - to tell now that it is missing
            from psycopg import conninfo
        except ImportError:
            needs = "a ledger in PostgreSQL needs the"
            raise ConfigurationError.of_missing_extra(needs, "postgres") from None
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema):
            raise ConfigurationError(f"{schema!r} is no name of a schema; use letters, digits, _")
        try:
            given = {name: str(value) for name, value in conninfo.conninfo_to_dict(dsn).items()}
        except psycopg.Error:  # whose text may hold the password
            raise ConfigurationError(
                "the ledger's address cannot be read; write postgresql://USER@HOST/DATABASE"
            ) from None
        host = given.get("host", "")
        port = f":{given['port']}" if "port" in given else ""
        shown = f"postgresql://{host}{port}/{given.get('dbname', '')}"
        hidden = [given[name] for name in ("password", "sslpassword") if given.get(name)]
        if os.environ.get("PGPASSWORD"):
            hidden.append(os.environ["PGPASSWORD"])
        return cls(conninfo.make_conninfo(**{**_DEFAULTS, **given}), schema, shown, hidden)

    def __str__(self) -> str:
        return self.shown if self.schema == "sp_messaging" else f"{self.shown}, {self.schema}"

    def error(self, error: BaseException) -> LedgerError:
        """What a failure means for whoever uses the ledger, without what is secret."""
        if isinstance(error, LedgerError):
            return LedgerError(*error.args)
        reason = " ".join(str(error).split()) or type(error).__name__
        for secret in self.secrets:
            reason = reason.replace(secret, "…")
        return LedgerError(f"the ledger {self} cannot be used: {reason}")

    async def connect(self) -> AsyncConnection[Found]:
        """A connection; raises LedgerError."""
        import psycopg
        from psycopg.rows import dict_row

        try:
            return await psycopg.AsyncConnection[Found].connect(
                self.conninfo, autocommit=True, row_factory=dict_row, prepare_threshold=None
            )
        except psycopg.Error as error:
            raise self.error(error) from None

    def statement(self, name: str) -> bytes:
        """A statement of ledger.sql by its name."""
        return _statements(self.schema)[name]


@functools.cache
def _statements(schema: str) -> Mapping[str, bytes]:
    text = Path(__file__).with_name("ledger.sql").read_text("utf-8")
    text = re.sub(r"\bsp_messaging\b(?=[.;])", f'"{schema}"', text)
    statements: dict[str, bytes] = {}
    for block in text.split("\n-- ")[1:]:
        name, _, statement = block.partition("\n")
        if statement.strip():
            statements[name] = statement.strip().encode()
    return statements


def _newest() -> int:
    return sum(name.startswith("migration ") for name in _statements("sp_messaging"))


async def _create(address: _Address) -> int:
    import psycopg

    connection = await address.connect()
    try:
        async with connection, connection.transaction():
            await connection.execute(address.statement("lock schema"), {"schema": address.schema})
            version = await _version(connection, address)
            if version == 0:
                await connection.execute(address.statement("make schema"))
            for number in range(version + 1, _newest() + 1):
                await connection.execute(address.statement(f"migration {number}"))
            facts = {"schema": str(_newest())}
            if version == 0:
                facts["key"] = secrets.token_hex(32)
            for name, value in facts.items():
                values = {"name": name, "value": value}
                await connection.execute(address.statement("set fact"), values)
    except psycopg.Error as error:
        raise address.error(error) from None
    return _newest()


async def _version(connection: AsyncConnection[Found], address: _Address) -> int:
    """Of the schema; 0 where there is none yet. Refuses what is newer, or another program's."""
    cursor = await connection.execute(address.statement("find schema"), {"schema": address.schema})
    found = await cursor.fetchone()
    assert found is not None  # noqa: S101 - a SELECT of one row
    if not found["has_facts"]:
        if found["has_tables"]:
            raise LedgerError(
                f"the schema {address.schema} of {address.shown} is another program's; name another"
            )
        return 0
    cursor = await connection.execute(address.statement("fact"), {"name": "schema"})
    fact = await cursor.fetchone()
    version = int(fact["value"]) if fact else 0
    if version > _newest():
        raise LedgerError(
            f"the ledger {address} was made by a newer version (schema {version}, known here is "
            f"{_newest()}); update sp-messaging-async"
        )
    return version


async def _refuse_other_version(connection: AsyncConnection[Found], address: _Address) -> None:
    version = await _version(connection, address)
    if version == 0:
        raise LedgerError(
            f"there is no ledger in {address}; make one with 'sp-messaging cluster init "
            "--ledger …' or PostgresLedger.create()"
        )
    if version < _newest():
        raise LedgerError(
            f"the ledger {address} is of an older version (schema {version}, needed is "
            f"{_newest()}); bring it up with 'sp-messaging cluster init --ledger …' or "
            "PostgresLedger.create()"
        )


# Connections, and what is done over them


@define(eq=False)
class _Intent:
    """That somebody is to write a row's message.

    name: of this one intent, by which it is told from all others of its owner's.
    before: of the one that the owner had, which it has yet if this one is refused.
    deadline: by this machine's own count of seconds.
    """

    row_id: int
    owner: str
    name: uuid.UUID
    before: uuid.UUID | None
    deadline: float
    holder: uuid.UUID | None
    future: asyncio.Future[bool]
    permitted: bool | LedgerError = False


@frozen(eq=False)
class _Settling:
    """What became of an intent, or of a row that was never written (`name` is None)."""

    row_id: int
    name: uuid.UUID | None
    refused: bool
    settlement: Settlement
    future: asyncio.Future[None]


@frozen(eq=False)
class _Barrier:
    """Told when all that was submitted before has taken effect."""

    future: asyncio.Future[None]


class _Engine:
    """A ledger's connections in one event loop, and the task that writes."""

    def __init__(self, address: _Address, connections: int, patience: float) -> None:
        self._address = address
        self._connections = connections
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._pool: AsyncConnectionPool[AsyncConnection[Found]] | None = None
        self._endpoint: str | None = None
        self._names: dict[tuple[int, str], uuid.UUID] = {}  # of intents that are not settled
        self._refused: set[tuple[int, str]] = set()
        self._jobs: deque[_Intent | _Settling | _Barrier] = deque()
        self._more = asyncio.Event()
        self._closing = False
        self._opening = asyncio.create_task(self._open())
        self._opening.add_done_callback(_forget)
        self._writing = asyncio.create_task(self._write())

    def refuse_other_loop(self) -> None:
        """A ledger's connections are one event loop's."""
        if asyncio.get_running_loop() is not self._loop:
            raise LedgerError(
                f"the ledger {self._address} is open in another event loop; make one for each loop"
            )

    def has_failed(self) -> bool:
        """Whether it could not be opened, or its loop has ended."""
        if self._loop.is_closed():
            return True
        done = self._opening.done()
        return done and (self._opening.cancelled() or self._opening.exception() is not None)

    def abandon(self) -> None:
        """Leave one that has failed to its end."""
        self._closing = True
        if not self._loop.is_closed():
            self._more.set()

    async def ready(self) -> None:
        """Wait until it is open."""
        try:
            await asyncio.shield(self._opening)
        except LedgerError as error:
            raise LedgerError(*error.args) from None

    async def aclose(self) -> None:
        """Finish what was begun, and close."""
        if self._loop.is_closed():
            return
        self._closing = True
        self._more.set()
        await asyncio.wait((self._writing,))
        if self._pool is not None:
            await self._pool.close()

    async def _open(self) -> None:
        import psycopg
        import psycopg_pool
        from psycopg.rows import dict_row

        connection = await self._address.connect()
        try:
            async with connection:
                await _refuse_other_version(connection, self._address)
        except psycopg.Error as error:
            raise self._address.error(error) from None
        self._pool = psycopg_pool.AsyncConnectionPool(
            self._address.conninfo,
            kwargs={"autocommit": True, "row_factory": dict_row, "prepare_threshold": None},
            min_size=1,
            max_size=self._connections,
            reconnect_timeout=_RECONNECT,  # or it would wait ever longer
            name=f"ledger {self._address}",
            open=False,
        )
        await self._pool.open()

    # What is done at once

    async def endpoint(self, wanted: str) -> str:
        """The ledger's, which is what is wanted if it had none."""
        if self._endpoint is None:
            await self.done("set first fact", name="endpoint", value=wanted)
            (fact,) = await self.found("fact", {"name": "endpoint"})
            self._endpoint = str(fact["value"])
        return self._endpoint

    async def row(self, statement: str, **values: object) -> LedgerRow | None:
        """The row that a statement finds, or None."""
        found = await self.rows(statement, **values)
        return found[0] if found else None

    async def rows(self, statement: str, **values: object) -> list[LedgerRow]:
        """The rows of messages that a statement finds."""
        return [_ledger_row(row) for row in await self.found(statement, values)]

    async def found(
        self, statement: str, values: Mapping[str, object], *, once: bool = False
    ) -> list[Found]:
        """What a statement finds; `once` if it may not be repeated when its commit is in doubt."""

        async def work(connection: AsyncConnection[Found]) -> list[Found]:
            cursor = await self._run(connection, statement, **values)
            return await cursor.fetchall()

        return await self._attempts(work, once=once)

    async def done(self, statement: str, *, once: bool = False, **values: object) -> int:
        """The number of rows that a statement changes."""

        async def work(connection: AsyncConnection[Found]) -> int:
            return (await self._run(connection, statement, **values)).rowcount

        return await self._attempts(work, once=once)

    async def take_lease(
        self, campaign: str, part: str, holder: uuid.UUID, seconds: float
    ) -> str | None:
        """Take a campaign, or a part of it; returns who is in the way, if somebody is."""
        described = f"process {os.getpid()} on {socket.gethostname()}"
        values = {"campaign": campaign, "part": part, "holder": holder, "described": described}

        async def work(connection: AsyncConnection[Found]) -> str | None:
            await self._run(connection, "begin durably")
            lock = {"schema": self._address.schema, "campaign": f"{campaign} lease"}
            await self._run(connection, "lock merging", **lock)
            # One that was taken by a commit in doubt is there already.
            renewed = await self._run(connection, "renew lease", seconds=seconds, **values)
            if not renewed.rowcount:
                cursor = await self._run(connection, "take lease", **values)
                found = await cursor.fetchone()
                if found is not None:
                    return str(found["described"])
                await self._run(connection, "write lease", seconds=seconds, **values)
            await self._run(connection, "commit")
            return None

        return await self._attempts(work)

    async def renew_lease(self, holder: uuid.UUID, seconds: float) -> None:
        """Hold a lease, again and again, until it is lost."""
        is_held = True
        while is_held:
            await asyncio.sleep(min(_RENEWED, seconds / 4))
            with contextlib.suppress(LedgerError):  # tried again soon
                is_held = bool(await self.done("renew lease", holder=holder, seconds=seconds))

    @asynccontextmanager
    async def enrolling(self) -> AsyncIterator[_Staging]:
        """A transaction on a connection of its own, which is rolled back unless committed."""
        connection = await self._address.connect()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(connection.close)
            staging = _Staging(connection, self._address)
            await staging.run("begin staging")
            yield staging

    async def _run(
        self, connection: AsyncConnection[Found], statement: str, **values: object
    ) -> AsyncCursor[Found]:
        return await connection.execute(self._address.statement(statement), values or None)

    async def _attempts(
        self,
        work: Callable[[AsyncConnection[Found]], Awaitable[T]],
        *,
        once: bool = False,
    ) -> T:
        """Do work over a connection, and again over another where the first is lost."""
        await self.ready()
        assert self._pool is not None  # noqa: S101 - it is open
        until, pause = self._loop.time() + self._patience, 0.02
        while True:
            began = False
            left = max(0.01, until - self._loop.time())
            try:
                async with self._pool.connection(timeout=min(left, _RECONNECT)) as connection:
                    began = True
                    with _cut_off(connection, until):
                        return await work(connection)
            except Exception as error:
                # Whatever it is, it is told as the ledger's; a mistake of ours too.
                is_last = self._loop.time() + pause >= until or (began and once)
                if is_last or not _may_pass(error):
                    raise self._address.error(error) from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    # What waits for the task that writes

    def intend(
        self, row_id: int, owner: str, deadline: float, holder: uuid.UUID | None
    ) -> asyncio.Future[bool]:
        """Submit an intent."""
        before, name = self._names.get((row_id, owner)), uuid.uuid4()
        self._names[row_id, owner] = name
        self._refused.discard((row_id, owner))
        until = time.monotonic() + deadline - time.time()
        future: asyncio.Future[bool] = self._loop.create_future()
        self._submit(_Intent(row_id, owner, name, before, until, holder, future))
        return future

    def settle(self, row_id: int, owner: str, settlement: Settlement) -> asyncio.Future[None]:
        """Submit what became of one."""
        name = self._names.pop((row_id, owner), None)
        refused = (row_id, owner) in self._refused
        self._refused.discard((row_id, owner))
        future: asyncio.Future[None] = self._loop.create_future()
        self._submit(_Settling(row_id, name, refused, settlement, future))
        return future

    async def settled(self) -> None:
        """Wait until all that was submitted before has taken effect."""
        await self.ready()
        if self._jobs or self._more.is_set():
            barrier = _Barrier(self._loop.create_future())
            self._submit(barrier)
            await barrier.future

    def _submit(self, job: _Intent | _Settling | _Barrier) -> None:
        # An error that nobody waits for is no reason for asyncio to complain: the row stays as it
        # was, which is the safe side.
        job.future.add_done_callback(_forget)
        if self._writing.done():
            _fail([job], LedgerError(f"the ledger {self._address} was closed"))
            return
        self._jobs.append(job)
        self._more.set()

    async def _write(self) -> None:
        while True:
            # A loop that ends cancels its tasks, and what they tell then is yet to be written.
            try:
                if not self._jobs:
                    self._more.clear()
                    if self._closing:
                        return
                    await self._more.wait()
                group = self._group()
            except asyncio.CancelledError:
                self._closing = True
                continue
            await self._commit(group)

    def _group(self) -> list[_Intent | _Settling]:
        """What can be committed together: no row twice, for the order of those two counts."""
        group: list[_Intent | _Settling] = []
        seen: set[int] = set()
        while self._jobs and len(group) < _LARGEST_GROUP:
            job = self._jobs[0]
            if isinstance(job, _Barrier):
                if group:
                    break
                _tell(job.future, None)
            elif job.row_id in seen:
                break
            else:
                seen.add(job.row_id)
                group.append(job)
            self._jobs.popleft()
        return group

    async def _commit(self, group: list[_Intent | _Settling]) -> None:
        if not group:
            return
        settling = [job for job in group if isinstance(job, _Settling)]
        intents = [job for job in group if isinstance(job, _Intent)]
        attempts = 0

        async def work(connection: AsyncConnection[Found]) -> None:
            nonlocal attempts
            attempts += 1
            await self._transaction(connection, settling, intents, is_first=attempts == 1)

        while True:
            try:
                await self._attempts(work)
            except asyncio.CancelledError:
                self._closing = True
                continue
            except LedgerError as error:
                _fail(group, error)
            else:
                self._tell(settling, intents)
            return

    async def _transaction(
        self,
        connection: AsyncConnection[Found],
        settling: list[_Settling],
        intents: list[_Intent],
        *,
        is_first: bool,
    ) -> None:
        await self._run(connection, "begin durably")
        await self._run(
            connection,
            "lock pairs",
            settled=[job.row_id for job in settling],
            intended=[job.row_id for job in intents],
        )
        if settling:
            await self._settle(connection, settling)
        if intents:
            await self._intend(connection, intents, is_first=is_first)
        await self._run(connection, "commit")

    async def _settle(
        self, connection: AsyncConnection[Found], settling: Sequence[_Settling]
    ) -> None:
        await self._run(
            connection,
            "settle",
            ids=[job.row_id for job in settling],
            intents=[job.name for job in settling],
            refused=[job.refused for job in settling],
            statuses=[job.settlement.status for job in settling],
            request_ids=[_text(job.settlement.request_id) for job in settling],
            failures=[_text(job.settlement.failure) for job in settling],
        )

    async def _intend(
        self, connection: AsyncConnection[Found], intents: Sequence[_Intent], *, is_first: bool
    ) -> None:
        asked = await self._without_lost_leases(connection, intents)
        if not is_first:
            asked = await self._without_intended(connection, asked)
        refused = await self._permit(connection, asked)
        if refused:
            # Once more for those that only an intent which holds no more was in the way of.
            ids = [intent.row_id for intent in refused]
            values = {"ids": ids, "failure": stored_interruption()}
            if (await self._run(connection, "lapse pairs", **values)).rowcount:
                await self._permit(connection, refused)

    async def _without_lost_leases(
        self, connection: AsyncConnection[Found], intents: Sequence[_Intent]
    ) -> list[_Intent]:
        holders = {intent.holder for intent in intents if intent.holder is not None}
        if not holders:
            return list(intents)
        cursor = await self._run(connection, "hold leases", holders=list(holders))
        held = {None, *(row["holder"] for row in await cursor.fetchall())}
        for intent in intents:
            if intent.holder not in held:
                intent.permitted = LedgerError(
                    "this run was not heard of for too long, and its campaign is another's; "
                    "nothing more is sent by it"
                )
        return [intent for intent in intents if intent.holder in held]

    async def _without_intended(
        self, connection: AsyncConnection[Found], intents: Sequence[_Intent]
    ) -> list[_Intent]:
        """After a commit in doubt: those of which it is known that they were not committed."""
        ids = [intent.row_id for intent in intents]
        values = {"ids": ids, "intents": [intent.name for intent in intents]}
        cursor = await self._run(connection, "intended before", **values)
        before = {row["id"] for row in await cursor.fetchall()}
        for intent in intents:
            if intent.row_id in before:
                intent.permitted = True
            elif intent.deadline <= time.monotonic():
                intent.permitted = LedgerError(
                    f"the ledger {self._address} did not answer in time; nothing was written"
                )
            else:
                intent.permitted = False
        return [intent for intent in intents if intent.permitted is False]

    async def _permit(
        self, connection: AsyncConnection[Found], intents: Sequence[_Intent]
    ) -> list[_Intent]:
        """Ask for intents; returns those that were refused."""
        now = time.monotonic()
        cursor = await self._run(
            connection,
            "intend",
            ids=[intent.row_id for intent in intents],
            owners=[intent.owner for intent in intents],
            intents=[intent.name for intent in intents],
            seconds=[intent.deadline - now for intent in intents],
        )
        permitted = {row["id"] for row in await cursor.fetchall()}
        for intent in intents:
            intent.permitted = intent.row_id in permitted
        return [intent for intent in intents if not intent.permitted]

    def _tell(self, settling: Sequence[_Settling], intents: Sequence[_Intent]) -> None:
        for job in settling:
            _tell(job.future, None)
        for intent in intents:
            if intent.permitted is False:
                self._note_refusal((intent.row_id, intent.owner), intent)
            _tell(intent.future, intent.permitted)

    def _note_refusal(self, key: tuple[int, str], intent: _Intent) -> None:
        if self._names.get(key) is not intent.name:
            return  # it was settled meanwhile
        if intent.before is not None:
            self._names[key] = intent.before
            return
        del self._names[key]
        if intent.owner.startswith("run:"):  # a call's does not settle what it may not send
            self._refused.add(key)


class _Staging:
    """The transaction in which a list is staged and merged."""

    def __init__(self, connection: AsyncConnection[Found], address: _Address) -> None:
        self._connection = connection
        self._address = address
        self._is_searched = False
        self._one_at_a_time = asyncio.Lock()

    async def copy(self, rows: bytes) -> None:
        """Take rows."""
        self._is_searched = False
        with self._told():
            async with (
                self._one_at_a_time,
                self._connection.cursor() as cursor,
                cursor.copy(self._address.statement("stage")) as copy,
            ):
                await copy.write(rows)

    async def find_repeated(self) -> None:
        """Note which orders and operations are named more than once."""
        if not self._is_searched:
            await self.run("find repeated")
            self._is_searched = True

    async def run(self, statement: str, **values: object) -> list[Found]:
        """What a statement finds."""
        with self._told():
            cursor = await self._execute(statement, values)
            return await cursor.fetchall() if cursor.description is not None else []

    async def change(self, statement: str, **values: object) -> int:
        """How many rows a statement changes."""
        with self._told():
            return (await self._execute(statement, values)).rowcount

    async def commit(self) -> None:
        """Make it last."""
        try:
            await self.run("commit")
        except LedgerError as error:
            raise LedgerError(
                f"{error}; the list may or may not have been enrolled, and nothing of it was sent: "
                "try again"
            ) from None

    async def _execute(self, statement: str, values: Mapping[str, object]) -> AsyncCursor[Found]:
        async with self._one_at_a_time:
            given = {"schema": self._address.schema, **values} if values else None
            return await self._connection.execute(self._address.statement(statement), given)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, it is told as the ledger's
            raise self._address.error(error) from None


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait for its end.

    Where the connection is lost as well, psycopg tells the task of that instead.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=1)


def _may_pass(error: Exception) -> bool:
    """Whether another connection may do what this one could not."""
    import psycopg
    import psycopg_pool
    from psycopg import errors

    if isinstance(error, psycopg_pool.PoolClosed | errors.DiskFull):
        return False
    # Of a server that is another's replica now, and of a transaction that this process kept open.
    kinds = errors.ReadOnlySqlTransaction | errors.IdleInTransactionSessionTimeout
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | kinds)


@contextlib.contextmanager
def _cut_off(connection: AsyncConnection[Found], until: float) -> Iterator[None]:
    """Cut a connection when it is time, though the other side be silent for ever."""
    handle = asyncio.get_running_loop().call_at(until, _cut, connection.fileno())
    try:
        yield
    finally:
        handle.cancel()


def _cut(descriptor: int) -> None:
    with (
        contextlib.suppress(OSError),
        socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as connection,
    ):
        connection.shutdown(socket.SHUT_RDWR)


def _forget(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


def _fail(jobs: Sequence[_Intent | _Settling | _Barrier], error: LedgerError) -> None:
    for job in jobs:
        _tell(job.future, LedgerError(*error.args))


def _tell(future: asyncio.Future[Any], result: object) -> None:
    if future.done():
        return
    if isinstance(result, LedgerError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _text(text: str | None) -> str | None:
    """Without NUL, which no text of PostgreSQL's holds."""
    return None if text is None else text.replace("\0", "�")


def _ledger_row(row: Found) -> LedgerRow:
    return LedgerRow(
        id=row["id"],
        campaign=row["campaign"],
        amazon_order_id=row["amazon_order_id"],
        operation=row["operation"],
        account=row["account"],
        marketplace=row["marketplace"],
        status=row["status"],
        content=row["content"],
        attempts=row["attempts"],
        request_id=row["request_id"],
        failure=stored_interruption() if row["has_lapsed"] else row["failure"],
        deadline=_utc(row["deadline"]),
        enrolled_at=row["enrolled_at"].astimezone(UTC),
        changed_at=row["changed_at"].astimezone(UTC),
        sent_at=_utc(row["sent_at"]),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
