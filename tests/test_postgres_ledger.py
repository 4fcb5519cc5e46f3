"""What is about PostgreSQL of its ledger: its schema, connections that are lost, many processes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import sp_messaging_async
from sp_messaging_async import (
    ConfigurationError,
    LedgerError,
    LedgerRow,
    Marketplace,
    Message,
    PostgresLedger,
    send_all,
)
from sp_messaging_async.bulk.campaign import CampaignRun, enrol
from sp_messaging_async.cluster import postgres_ledger
from sp_messaging_async.cluster.postgres_ledger import Share
from sp_messaging_async.ledger import Entry, Settlement, new_owner
from sp_messaging_async.sandbox import Sandbox

from . import test_send_recorded as recorded
from .conftest import ORDER, Open
from .postgres import Postgres, Proxy, proxy_to
from .test_cancellation import cancel
from .test_ledger import (
    ME,
    NAME,
    REALM,
    SHE,
    TEXT,
    gone,
    planned,
    put,
    send,
    soon,
    statuses,
)
from .test_ledger import enrol as enrol_rows

PATIENCE = 0.5  # seconds that a ledger waits for what does not come in these tests
COMMIT = b"COMMIT;"


@pytest.fixture
async def ledger(postgres: Postgres) -> AsyncIterator[PostgresLedger]:
    """A new ledger."""
    async with postgres.ledger() as opened:
        yield opened


@pytest.fixture
async def proxy(postgres: Postgres) -> AsyncIterator[Proxy]:
    """A network in front of the server."""
    async with proxy_to(postgres.port) as opened:
        yield opened


def other(ledger: PostgresLedger, **options: Any) -> PostgresLedger:
    """The same ledger, as another process has it."""
    address = ledger._address
    return PostgresLedger(address.conninfo, schema=address.schema, **options)


def through(proxy: Proxy, ledger: PostgresLedger, **options: Any) -> PostgresLedger:
    """The same ledger, over a network; with no more than one connection, which is the one cut."""
    dsn = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
    return PostgresLedger(dsn, schema=ledger._address.schema, connections=1, **options)


def tables(ledger: PostgresLedger) -> str:
    """Where its tables are."""
    return ledger._address.schema


def of(ledger: PostgresLedger, statement: str) -> str:
    """A statement about the ledger's tables."""
    return statement.replace("LEDGER", tables(ledger))


def lapse_all(postgres: Postgres, ledger: PostgresLedger) -> None:
    """As if all intents had been made long ago."""
    lapsed = "UPDATE LEDGER.messages SET deadline = now() - interval '1 ms'"
    postgres.execute(of(ledger, lapsed))


# The schema


async def test_it_is_made_once(postgres: Postgres) -> None:
    """Made again, and by many at once, it is the ledger that it was."""
    schema = postgres.new_schema()
    ledgers = [PostgresLedger(postgres.dsn, schema=schema) for _ in range(4)]
    assert await asyncio.gather(*(each.create() for each in ledgers)) == [1, 1, 1, 1]
    async with ledgers[0] as ledger:
        await put(ledger, "sent")
        assert await ledgers[1].create() == 1
        assert await statuses(ledger) == ["sent"]


async def test_what_is_not_there_is_refused(postgres: Postgres) -> None:
    """The error of a ledger that nobody has made names what makes it; nothing is made by use."""
    missing = PostgresLedger(postgres.dsn, schema="missing")
    with pytest.raises(LedgerError, match="cluster init"):
        await missing.__aenter__()
    with pytest.raises(LedgerError, match="cluster init"):
        await missing.intend(1, ME, soon())
    await missing.aclose()
    assert postgres.execute("SELECT FROM pg_namespace WHERE nspname = 'missing'") == []


async def test_it_can_be_used_once_it_was_made(postgres: Postgres) -> None:
    """A ledger that failed to open is opened anew by its next use."""
    ledger = PostgresLedger(postgres.dsn, schema=postgres.new_schema())
    with pytest.raises(LedgerError):
        await ledger.rows()
    await ledger.create()
    assert await ledger.rows() == []
    await ledger.aclose()


async def test_a_newer_schema_is_refused(postgres: Postgres, ledger: PostgresLedger) -> None:
    """Neither opened nor made older: the remedy is the newer version."""
    postgres.execute(of(ledger, "UPDATE LEDGER.facts SET value = '99' WHERE name = 'schema'"))
    for use in (other(ledger).__aenter__, other(ledger).create):
        with pytest.raises(LedgerError, match="update sp-messaging-async"):
            await use()
    postgres.execute(of(ledger, "UPDATE LEDGER.facts SET value = '1' WHERE name = 'schema'"))


async def test_an_older_schema_is_refused(
    ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is brought up by whoever makes ledgers, and not by the way."""
    monkeypatch.setattr(postgres_ledger, "_newest", lambda: 2)
    with pytest.raises(LedgerError, match="cluster init"):
        await other(ledger).__aenter__()


async def test_a_migration_and_its_record_are_one(
    postgres: Postgres, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails leaves the schema as it was; one that does not is recorded."""
    known = dict(postgres_ledger._statements(tables(ledger)))
    column = of(ledger, "ALTER TABLE LEDGER.runs ADD COLUMN extra text;")
    monkeypatch.setattr(postgres_ledger, "_newest", lambda: 2)
    monkeypatch.setattr(postgres_ledger, "_statements", lambda _: known)
    known["migration 2"] = f"{column} SELECT 1 / 0".encode()
    with pytest.raises(LedgerError):
        await ledger.create()
    known["migration 2"] = column.encode()
    assert await ledger.create() == 2
    postgres.execute(of(ledger, "ALTER TABLE LEDGER.runs DROP COLUMN extra"))
    postgres.execute(of(ledger, "UPDATE LEDGER.facts SET value = '1' WHERE name = 'schema'"))


async def test_another_programs_schema_is_left_alone(postgres: Postgres) -> None:
    """Tables that are no ledger's are a reason to make none among them."""
    schema = postgres.new_schema()
    postgres.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.orders (id int)")
    with pytest.raises(LedgerError, match="another program"):
        await PostgresLedger(postgres.dsn, schema=schema).create()


async def test_two_schemas_are_two_ledgers(postgres: Postgres, ledger: PostgresLedger) -> None:
    """One database holds several, which know nothing of each other."""
    await put(ledger, "sent")
    async with postgres.ledger() as second:
        assert await second.rows() == []
        await put(second, "planned")


# Its face


async def test_no_secret_is_shown(postgres: Postgres) -> None:
    """Neither its repr nor an error holds the password, also where it is in the wrong place."""
    ledger = PostgresLedger(f"postgresql://postgres:s3cret@127.0.0.1:{postgres.port}/nowhere")
    with pytest.raises(LedgerError, match="nowhere") as caught:
        await ledger.rows()
    assert "s3cret" not in repr(ledger) + repr(caught.value) + repr(ledger._address)
    assert caught.value.__cause__ is None
    for dsn in ("postgresql://postgres:s3cret@[half", "host=here s3cret"):
        with pytest.raises(ConfigurationError) as wrong:
            PostgresLedger(dsn)
        assert "s3cret" not in str(wrong.value)


async def test_a_server_that_is_not_there() -> None:
    """The error says what cannot be reached, and that at once."""
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1:1/"):
        await PostgresLedger("postgresql://127.0.0.1:1/ledger").rows()


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed the driver is told how to."""
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    with pytest.raises(ConfigurationError, match=r'pip install "sp-messaging-async\[postgres\]"'):
        PostgresLedger("postgresql://here/ledger")


@pytest.mark.parametrize("schema", ["", "a.b", 'a"; DROP TABLE x; --', "1a", "é"])
def test_a_schemas_name(schema: str) -> None:
    """It is a plain name, and can be nothing else to the database."""
    with pytest.raises(ConfigurationError, match="schema"):
        PostgresLedger("postgresql://here/ledger", schema=schema)


async def test_closing_finishes_what_was_begun(ledger: PostgresLedger) -> None:
    """What nobody waited for is in the database when the ledger is closed."""
    row = await put(ledger, "planned")
    async with other(ledger) as second:
        second.intend(row.id, ME, soon())
        second.settle(row.id, ME, Settlement("sent"))
    assert await statuses(ledger) == ["sent"]


async def test_a_task_that_ends_with_its_loop(ledger: PostgresLedger) -> None:
    """Where everything is cancelled, as at a program's end, what was said before is written."""
    row = await put(ledger, "sending")
    waiting = ledger.settle(row.id, ME, Settlement("sent"))
    writing = ledger._connected._writing
    writing.cancel()
    await waiting
    assert await asyncio.wait_for(asyncio.shield(writing), 30) is None
    with pytest.raises(LedgerError, match="closed"):
        await ledger.settle(row.id, ME, Settlement("sent"))
    await ledger.aclose()
    assert await statuses(ledger) == ["sent"]


def test_one_loop_after_another(postgres: Postgres) -> None:
    """A ledger that was not closed can be used by the next loop; by two at once it cannot."""
    ledger = PostgresLedger(postgres.dsn, schema=postgres.new_schema())

    async def use() -> None:
        await ledger.create()
        async with ledger:
            await put(ledger, "sent", order=str(time.monotonic()))
            with pytest.raises(LedgerError, match="event loop"):
                await asyncio.to_thread(asyncio.run, elsewhere())

    async def elsewhere() -> None:
        await ledger.rows()

    asyncio.run(use())
    asyncio.run(use())


async def test_an_intent_is_durable_whatever_the_server_is_set_to(ledger: PostgresLedger) -> None:
    """It waits for the disk, and sees what others committed, where the defaults are otherwise."""
    async with await ledger._address.connect() as connection:
        await connection.execute("SET synchronous_commit = off")
        await connection.execute("SET default_transaction_isolation = serializable")
        for begin in ("begin durably", "begin staging"):
            await connection.execute(ledger._address.statement(begin))
            if begin == "begin staging":
                await connection.execute(ledger._address.statement("begin merging"))
            for name, value in (
                ("synchronous_commit", "on"),
                ("transaction_isolation", "read committed"),
            ):
                cursor = await connection.execute(f"SHOW {name}".encode())
                assert await cursor.fetchone() == {name: value}
            await connection.execute("ROLLBACK")


async def test_who_stops_in_the_middle_keeps_nobody_waiting(ledger: PostgresLedger) -> None:
    """The server ends a transaction whose process was stopped, and others get at the rows."""
    row = await put(ledger, "planned")
    begin = ledger._address.statement("begin durably")
    assert b"'10s'" in begin
    stopped = await ledger._address.connect()
    await stopped.execute(begin.replace(b"'10s'", b"'50ms'"))
    values = {"settled": [row.id], "intended": []}
    await stopped.execute(ledger._address.statement("lock pairs"), values)
    assert await ledger.intend(row.id, ME, soon())
    with pytest.raises(psycopg.Error) as ended:
        await stopped.execute(ledger._address.statement("commit"))
    assert postgres_ledger._may_pass(ended.value)
    await stopped.close()


async def test_the_buyers_text_is_erased(postgres: Postgres, ledger: PostgresLedger) -> None:
    """No column of a final row's holds it."""
    await put(ledger, "sent")
    ((row,),) = postgres.execute(of(ledger, "SELECT m::text FROM LEDGER.messages AS m"))
    assert "Sold out" not in row


# Who may write


RACER = """
import asyncio, sys, time
from sp_messaging_async import PostgresLedger

async def main(dsn, schema, owner):
    async with PostgresLedger(dsn, schema=schema) as ledger:
        rows = await ledger.rows()
        print("ready", flush=True)
        sys.stdin.readline()
        until = time.time() + 1000
        waits = [ledger.intend(row.id, owner, until) for row in rows]
        print(*[row.id for row, mine in zip(rows, await asyncio.gather(*waits)) if mine])
        sys.stdin.readline()

asyncio.run(main(*sys.argv[1:]))
"""


async def racers(
    postgres: Postgres, ledger: PostgresLedger, number: int
) -> list[asyncio.subprocess.Process]:
    """Processes that are about to intend all rows."""
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", RACER, postgres.dsn, tables(ledger), f"call:{each}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        for each in range(number)
    ]
    for process in started:
        assert await line_of(process) == "ready"
    return started


async def line_of(process: asyncio.subprocess.Process) -> str:
    """What a process prints next."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


def tell(process: asyncio.subprocess.Process) -> None:
    """Let a process go on."""
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def test_of_many_processes_one_is_permitted(
    postgres: Postgres, ledger: PostgresLedger
) -> None:
    """Each row is intended by one of them; of one that is killed it is unknown, and stays so."""
    rows = [await put(ledger, "planned", order=f"order-{number}") for number in range(200)]
    processes = await racers(postgres, ledger, 2)
    for process in processes:
        tell(process)
    taken = [[int(word) for word in (await line_of(process)).split()] for process in processes]
    assert sorted(taken[0] + taken[1]) == sorted(row.id for row in rows)
    for process in processes:
        process.kill()
        await process.wait()
    assert {row.attempts for row in await ledger.rows()} == {1}
    assert await ledger.counts() == {"sending": 200}
    lapse_all(postgres, ledger)
    assert await ledger.counts() == {"unknown": 200}
    assert not await ledger.intend(rows[0].id, ME, soon())


async def test_campaigns_that_race_for_a_pair(ledger: PostgresLedger) -> None:
    """Over many connections at once, a pair is messaged by one of the campaigns that plan it."""
    names = [f"campaign {number}" for number in range(4)]
    orders = [f"order-{number}" for number in range(20)]
    ledgers = [other(ledger) for _ in names]
    sent: Counter[str] = Counter()

    async def run(mine: PostgresLedger, campaign: str) -> None:
        rows = [row for row in await mine.rows() if row.campaign == campaign]
        await asyncio.gather(*(one(mine, row) for row in rows))

    async def one(mine: PostgresLedger, row: LedgerRow) -> None:
        if await mine.intend(row.id, f"call:{row.campaign}", soon()):
            sent[row.amazon_order_id] += 1
            await mine.settle(row.id, f"call:{row.campaign}", Settlement("sent"))

    for campaign in names:
        for order in orders:
            await ledger.plan(planned(order), campaign, REALM)
    try:
        await asyncio.gather(*map(run, ledgers, names))
    finally:
        await asyncio.gather(*(each.aclose() for each in ledgers))
    assert sent == dict.fromkeys(orders, 1)


async def test_planned_by_many_at_once(ledger: PostgresLedger) -> None:
    """Whoever plans a message at the same moment as others gets the one row there is."""
    ledgers = [other(ledger) for _ in range(3)]
    plans = [each.plan(planned(), "default", REALM) for each in ledgers * 5]
    rows = await asyncio.gather(*plans)
    await asyncio.gather(*(each.aclose() for each in ledgers))
    assert len({row.id for row in rows}) == 1


async def test_a_late_settlement_of_an_earlier_intent(ledger: PostgresLedger) -> None:
    """What is known of one intent is not said of the next, though the owner be the same."""
    row = await put(ledger, "planned")
    async with other(ledger) as second:
        assert await second.intend(row.id, "run:one", soon())
        await ledger.resolve(ORDER, NAME, sent=False)
        await second.settle(row.id, "run:one", Settlement("planned"))
        assert await ledger.intend(row.id, "run:one", soon())
        await second.settle(row.id, "run:one", Settlement("planned"))
        assert await statuses(ledger) == ["sending"]


async def test_who_was_refused_does_not_settle_what_another_has_to_send(
    ledger: PostgresLedger,
) -> None:
    """A run that was overtaken cannot mark as skipped what its successor gave back meanwhile."""
    row = await put(ledger, "planned")
    async with other(ledger) as second:
        assert await second.intend(row.id, "run:two", soon())
        assert not await ledger.intend(row.id, "run:one", soon())
        await second.settle(row.id, "run:two", Settlement("planned"))
        await ledger.settle(row.id, "run:one", Settlement("skipped"))
        assert await statuses(ledger) == ["planned"]


async def test_who_was_refused_for_another_campaign_says_so(ledger: PostgresLedger) -> None:
    """A row that another campaign has overtaken is skipped by the run that finds it so."""
    row = await put(ledger, "planned", "summer")
    await put(ledger, "sent", "spring")
    assert not await ledger.intend(row.id, "run:one", soon())
    await ledger.settle(row.id, "run:one", Settlement("skipped"))
    assert (await ledger.row(row.id)).status == "skipped"


@pytest.mark.parametrize("moment", [recorded.as_it_waits, recorded.as_it_is_woken])
async def test_row_and_inbox_agree_at_every_moment(
    sandbox: Sandbox, open_session: Open, ledger: PostgresLedger, tmp_path: Path, moment: Any
) -> None:
    """Wherever a send is cancelled: planned and not delivered, delivered once, or unknown."""
    await recorded.test_row_and_inbox_agree_at_every_moment(
        sandbox, open_session, ledger, tmp_path, "text", moment, cancel
    )


# Clocks


@pytest.mark.parametrize("skew", [-100_000.0, 100_000.0])
async def test_a_machine_whose_clock_is_wrong(
    postgres: Postgres, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    """What an intent has left is counted by the database, from what its owner has left."""
    usual = time.time
    monkeypatch.setattr(time, "time", lambda: usual() + skew)
    row = await put(ledger, "planned")
    entry = Entry(ledger, row, ME)
    await entry.intend(970)  # and the margin
    assert not entry.lapsed()
    assert (await ledger.row(row.id)).status == "sending"
    ((left,),) = postgres.execute(
        of(ledger, "SELECT extract(epoch FROM deadline - changed_at)::float8 FROM LEDGER.messages")
    )
    assert left == pytest.approx(1000, abs=30)
    late = await put(ledger, "planned", order="late")
    assert await ledger.intend(late.id, ME, gone())
    assert (await ledger.row(late.id)).status == "unknown"


@pytest.mark.parametrize("clock", ["time", "monotonic"])
async def test_an_owner_that_wakes_too_late_does_not_write(
    open_session: Open,
    sandbox: Sandbox,
    ledger: PostgresLedger,
    monkeypatch: pytest.MonkeyPatch,
    clock: str,
) -> None:
    """By whichever clock: one stands still while a machine sleeps, and one may be set back."""
    usual, intend = getattr(time, clock), Entry.intend

    async def asleep(entry: Entry, seconds: float) -> None:
        await intend(entry, seconds)
        monkeypatch.setattr(time, clock, lambda: usual() + 1000)
        assert entry.lapsed()
        monkeypatch.setattr(time, clock, usual)
        monkeypatch.setattr(Entry, "lapsed", lambda _: True)

    monkeypatch.setattr(Entry, "intend", asleep)
    with pytest.raises(sp_messaging_async.TransportError):
        await open_session().send(ORDER, TEXT, ledger=ledger)
    assert sandbox.delivered == []
    assert await statuses(ledger) == ["planned"]


async def test_its_late_answer_is_recorded(postgres: Postgres, ledger: PostgresLedger) -> None:
    """What another process has found to be unknown is sent, if the owner says so at last."""
    row = await put(ledger, "sending")
    lapse_all(postgres, ledger)
    async with other(ledger) as second:
        assert not await second.intend(row.id, SHE, soon())
        assert await statuses(second) == ["unknown"]
        await ledger.settle(row.id, ME, Settlement("sent"))
        assert await statuses(second) == ["sent"]


# Connections that are lost


@pytest.mark.parametrize("hears", [False, True])
async def test_a_connection_cut_at_an_intents_commit(
    ledger: PostgresLedger, proxy: Proxy, hears: bool
) -> None:
    """The row is looked at over another connection, and intended once, committed or not before."""
    row = await put(ledger, "planned")
    async with through(proxy, ledger) as cut:
        proxy.cut_next(COMMIT, hears=hears)
        assert await cut.intend(row.id, ME, soon())
        assert proxy.cuts == 1
        found = await ledger.row(row.id)
        assert (found.status, found.attempts) == ("sending", 1)
        await cut.settle(row.id, ME, Settlement("sent"))
    assert await statuses(ledger) == ["sent"]


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried over a second connection."""
    monkeypatch.setattr(postgres_ledger, "_may_pass", lambda _: False)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("hears", [False, True])
async def test_a_commit_in_doubt_permits_nothing(
    ledger: PostgresLedger, proxy: Proxy, hears: bool
) -> None:
    """Nobody writes, committed or not; back on the network, its owner tells that nobody did."""
    async with through(proxy, ledger) as cut:
        row = await cut.plan(planned(), "default", REALM)
        proxy.cut_next(COMMIT, hears=hears, stays_away=True)
        with pytest.raises(LedgerError):
            await Entry(cut, row, ME).intend(30)
        await proxy.cut.wait()
        assert await statuses(ledger) == ["sending" if hears else "planned"]
        proxy.refuses = False
    assert await statuses(ledger) == ["planned"]
    assert await ledger.intend(row.id, SHE, soon())


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("hears", [False, True])
async def test_a_send_that_is_cut_off(
    open_session: Open, sandbox: Sandbox, ledger: PostgresLedger, proxy: Proxy, hears: bool
) -> None:
    """It raises the ledger's error, nothing reaches the buyer, and the next one sends once."""
    session = open_session()
    async with through(proxy, ledger) as cut:
        proxy.cut_next(COMMIT, hears=hears, stays_away=True)
        with pytest.raises(LedgerError):
            await session.send(ORDER, TEXT, ledger=cut)
        await proxy.cut.wait()
        assert sandbox.delivered == []
        proxy.refuses = False
    for _ in range(2):
        await session.send(ORDER, TEXT, ledger=ledger)
    assert len(sandbox.delivered) == 1
    assert await statuses(ledger) == ["sent"]


@pytest.mark.parametrize("hears", [False, True])
async def test_a_connection_cut_at_an_answers_commit(
    ledger: PostgresLedger, proxy: Proxy, hears: bool
) -> None:
    """What was sent is recorded over another connection."""
    row = await put(ledger, "planned")
    async with through(proxy, ledger) as cut:
        assert await cut.intend(row.id, ME, soon())
        proxy.cut_next(COMMIT, hears=hears)
        await cut.settle(row.id, ME, Settlement("sent", "request-1"))
        assert proxy.cuts == 1
    found = await ledger.row(row.id)
    assert (found.status, found.request_id, found.attempts) == ("sent", "request-1", 1)


@pytest.mark.parametrize("hears", [False, True])
async def test_a_resolution_whose_commit_is_in_doubt_is_an_error(
    ledger: PostgresLedger, proxy: Proxy, hears: bool
) -> None:
    """A person is told to look again, and not a number that may be wrong."""
    await put(ledger, "unknown")
    async with through(proxy, ledger) as cut:
        proxy.cut_next(b"SET status = $1, owner = NULL", hears=hears)
        with pytest.raises(LedgerError):
            await cut.resolve(ORDER, NAME, sent=True)
    assert await statuses(ledger) == (["sent"] if hears else ["unknown"])


async def test_a_server_that_is_silent(ledger: PostgresLedger, proxy: Proxy) -> None:
    """A ledger waits no longer than its patience, and serves again when the server does."""
    row = await put(ledger, "planned")
    async with through(proxy, ledger, patience=PATIENCE) as cut:
        proxy.is_silent = True
        with pytest.raises(LedgerError):
            await cut.intend(row.id, ME, soon())
        proxy.is_silent = False
        proxy.drop()
        async with asyncio.timeout(60):
            while (await ledger.row(row.id)).status == "planned":
                with contextlib.suppress(LedgerError):
                    assert await cut.intend(row.id, SHE, soon())


@pytest.mark.parametrize("cut_at", [b"COPY", b"INSERT INTO", COMMIT])
async def test_a_list_whose_connection_is_lost(
    ledger: PostgresLedger, proxy: Proxy, cut_at: bytes
) -> None:
    """Nothing of it is enrolled, and the same list can be enrolled again."""
    async with through(proxy, ledger) as cut:
        await cut.plan(planned("first"), "default", REALM)
        proxy.cut_next(cut_at, hears=False)
        with pytest.raises(LedgerError):
            await enrol_rows(cut, ["one", "two"])
        assert await statuses(ledger) == ["planned"]
        assert sorted(await send(cut, (await enrol_rows(cut, ["one", "two"])).run)) == [
            "one",
            "two",
        ]


def write_list(path: Path, count: int, account: str = "default") -> Path:
    """A list of so many orders."""
    lines = [f"111-0000000-{number:07},{NAME},Sold out.,{account}" for number in range(count)]
    path.write_text("\n".join(["order_id,operation,text,account", *lines]), "utf-8")
    return path


async def test_a_bulk_run_whose_connections_are_dropped(
    open_session: Open, sandbox: Sandbox, ledger: PostgresLedger, proxy: Proxy, tmp_path: Path
) -> None:
    """Again and again: every message is sent once, and every answer is recorded."""
    path = write_list(tmp_path / "orders.csv", 300)
    dsn = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
    async with PostgresLedger(dsn, schema=tables(ledger)) as cut, cut.campaign_lock("default"):
        found, _, _ = await enrol(path, Marketplace.US, cut, "default", REALM)
        run = CampaignRun(cut, found.run, {"default": open_session()})
        number = 0
        async with run.outcomes() as outcomes:
            async for outcome in outcomes:
                assert outcome.status == "sent", outcome.error
                number += 1
                if number % 60 == 0:
                    proxy.drop()
    delivered = Counter(each.amazon_order_id for each in sandbox.delivered)
    assert (number, len(delivered), set(delivered.values())) == (300, 300, {1})
    assert await ledger.counts() == {"sent": 300}


async def test_the_server_restarts_under_a_ledger_in_use(
    open_session: Open, sandbox: Sandbox, postgres: Postgres
) -> None:
    """Messages wait for it, and each is sent once."""
    messages = [Message(f"111-0000000-{number:07}", TEXT) for number in range(60)]
    async with postgres.ledger() as ledger:
        async with send_all(open_session(), messages, ledger=ledger, concurrency=5) as outcomes:
            number = 0
            async for outcome in outcomes:
                assert outcome.status == "sent", outcome.error
                number += 1
                if number == 20:
                    await asyncio.to_thread(postgres.stop)
                    await asyncio.to_thread(postgres.start)
        assert await ledger.counts() == {"sent": 60}
    delivered = Counter(each.amazon_order_id for each in sandbox.delivered)
    assert (len(delivered), set(delivered.values())) == (60, {1})


# Who sends a campaign, or a share of it


async def test_a_campaign_that_another_process_sends(ledger: PostgresLedger) -> None:
    """It is refused, with the process and its machine; other campaigns are not."""
    async with other(ledger) as second, second.campaign_lock("spring"):
        with pytest.raises(LedgerError, match=r"process \d+ on "):
            async with ledger.campaign_lock("spring"):
                pass
        async with ledger.campaign_lock("summer"):
            pass
    async with ledger.campaign_lock("spring"):
        pass


def silence(postgres: Postgres, ledger: PostgresLedger) -> None:
    """As if no holder of a campaign had been heard of for long."""
    postgres.execute(of(ledger, "UPDATE LEDGER.leases SET expires_at = now() - interval '1 ms'"))


async def test_who_is_not_heard_of_loses_its_campaign(
    postgres: Postgres, ledger: PostgresLedger
) -> None:
    """Another takes it over; the first makes no more intents, but tells what it has sent."""
    async with ledger.campaign_lock("spring"):
        run = (await enrol_rows(ledger, ["one", "two"], campaign="spring")).run
        first, second = await ledger.rows()
        assert await ledger.intend(first.id, run, soon())
        silence(postgres, ledger)
        async with other(ledger) as successor, successor.campaign_lock("spring"):
            with pytest.raises(LedgerError, match="another's"):
                await ledger.intend(second.id, run, soon())
            await ledger.settle(second.id, run, Settlement("planned"))
            await ledger.settle(first.id, run, Settlement("sent"))
            again = (await enrol_rows(successor, ["one", "two"], campaign="spring")).run
            assert await send(successor, again) == ["two"]
    assert await statuses(ledger) == ["sent", "sent"]


async def test_who_was_silent_and_is_not_replaced_goes_on(
    postgres: Postgres, ledger: PostgresLedger
) -> None:
    """As after an outage of the database's that was longer than a lease."""
    async with ledger.campaign_lock("spring"):
        run = (await enrol_rows(ledger, ["one"], campaign="spring")).run
        silence(postgres, ledger)
        assert await send(ledger, run) == ["one"]


async def test_a_lease_is_renewed(
    postgres: Postgres, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever goes on sending keeps its campaign."""
    monkeypatch.setattr(postgres_ledger, "_RENEWED", 0.001)
    async with ledger.campaign_lock("spring"):
        silence(postgres, ledger)
        valid = of(ledger, "SELECT 1 FROM LEDGER.leases WHERE expires_at > now()")
        async with asyncio.timeout(30):
            while not postgres.execute(valid):
                await asyncio.sleep(0.001)


async def test_a_run_is_shared_out(ledger: PostgresLedger) -> None:
    """Its shares tell the accounts, what marketplaces they name and how many messages there are."""
    mx, us = Marketplace.MX.id, Marketplace.US.id
    rows = [
        planned("one", account="a"),
        planned("two", account="a", marketplace=mx),
        planned("three", account="b", marketplace=us),
    ]
    run = (await enrol_rows(ledger, rows)).run
    shares = await ledger.shares(run)
    assert [(share.account, share.number) for share in shares] == [("a", 2), ("b", 1)]
    assert [set(share.marketplaces) for share in shares] == [{mx, None}, {us}]
    assert isinstance(shares[0], Share)


async def test_a_share_is_its_own_alone(ledger: PostgresLedger) -> None:
    """Its lanes are those of one account and the marketplaces that are named."""
    mx = Marketplace.MX.id
    rows = [
        planned("one", account="a"),
        planned("two", account="a", marketplace=mx),
        planned("three", account="b"),
    ]
    run = (await enrol_rows(ledger, rows)).run
    async with ledger.share(run, "a") as share:
        assert sorted(await send(share, run, 0)) == []
        assert [(lane.account, lane.number) for lane in await share.lanes(run)] == [("a", 2)]
        assert set(await share.marketplaces(run)) == {None, mx}
    async with ledger.share(run, "a", [None]) as share, ledger.share(run, "a", [mx]) as mexican:
        assert await send(share, run) == ["one"]
        assert await mexican.marketplaces(run) == [mx]
        assert await send(mexican, run) == ["two"]
        await mexican.end_run(run)
    assert [lane.account for lane in await ledger.lanes(run)] == ["b"]


async def test_a_share_is_sent_by_one_at_a_time(ledger: PostgresLedger) -> None:
    """Another process is refused the same share and the whole campaign, and no other share."""
    run = (await enrol_rows(ledger, [planned("one", account="a"), planned("two")])).run
    async with ledger.share(run, "a"), other(ledger) as second:
        with pytest.raises(LedgerError, match=r"a.*process"):
            async with second.share(run, "a"):
                pass
        with pytest.raises(LedgerError, match="process"):
            async with second.campaign_lock("default"):
                pass
        async with second.share(run, "default") as share:
            assert await send(share, run) == ["two"]
    async with ledger.campaign_lock("default"), other(ledger) as second:
        with pytest.raises(LedgerError, match="process"):
            async with second.share(run, "a"):
                pass


async def test_a_share_that_was_taken_over(postgres: Postgres, ledger: PostgresLedger) -> None:
    """Its first holder makes no more intents."""
    run = (await enrol_rows(ledger, ["one", "two"])).run
    async with ledger.share(run, "default") as lost, other(ledger) as second:
        silence(postgres, ledger)
        async with second.share(run, "default") as taken:
            (row, _) = await ledger.rows()
            with pytest.raises(LedgerError, match="another's"):
                await lost.intend(row.id, new_owner("run"), soon())
            assert len(await send(taken, run)) == 2


async def test_a_share_of_a_run_that_nobody_knows(ledger: PostgresLedger) -> None:
    """It is refused, and named."""
    with pytest.raises(LedgerError, match="run:none"):
        async with ledger.share("run:none", "default"):
            pass


async def test_shares_are_sent_by_campaign_runs(
    open_session: Open, sandbox: Sandbox, ledger: PostgresLedger, tmp_path: Path
) -> None:
    """Two workers, each with one seller's session, send a list between them."""
    path = tmp_path / "orders.csv"
    write_list(path, 40, "one")
    text = path.read_text("utf-8")
    write_list(path, 40, "two")
    rest = path.read_text("utf-8").replace("111-0000000", "222-0000000").split("\n", 1)[1]
    path.write_text(f"{text}\n{rest}", "utf-8")
    found, _, _ = await enrol(path, Marketplace.US, ledger, "default", REALM)

    async def work(account: str) -> int:
        async with other(ledger) as mine, mine.share(found.run, account) as share:
            run = CampaignRun(share, found.run, {account: open_session()})
            async with run.outcomes() as outcomes:
                return len([outcome async for outcome in outcomes if outcome.status == "sent"])

    accounts = [share.account for share in await ledger.shares(found.run)]
    assert await asyncio.gather(*map(work, accounts)) == [40, 40]
    assert len(sandbox.delivered) == 80
    ended = of(ledger, "SELECT ended_at IS NOT NULL FROM LEDGER.runs")
    async with await psycopg.AsyncConnection.connect(ledger._address.conninfo) as connection:
        cursor = await connection.execute(ended.encode())
        assert await cursor.fetchall() == [(True,)]
