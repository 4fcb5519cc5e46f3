"""The command with a ledger in PostgreSQL: what a file's does, and what only a database can."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import pytest
from attrs import define, field

from sp_messaging_async import LocalThrottle, PostgresLedger
from sp_messaging_async.cli import ledgers
from sp_messaging_async.errors import LedgerError
from sp_messaging_async.marketplaces import Marketplace
from sp_messaging_async.sandbox import Fault

from .commands import HEADER, NAME, PATIENCE, TEXT, Command, command, order, row, unix
from .postgres import EMPTY, Postgres, _free_port, postgres

__all__ = ["command", "postgres"]  # fixtures

PASSWORD = "canary-word"
WORKER = "sp_messaging_async.cluster.worker"
REDIS = "sp_messaging_async.cluster.redis_throttle"
TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?( UTC)?"


@pytest.fixture(scope="module")
def made(postgres: Postgres) -> Postgres:
    """A database whose ledger has its tables."""
    asyncio.run(PostgresLedger(postgres.dsn).create())
    return postgres


@pytest.fixture
def ledger(made: Postgres) -> Iterator[str]:
    """The address of a ledger that is empty."""
    yield made.dsn
    made.execute(EMPTY.format("sp_messaging"))


def with_password(address: str) -> str:
    """An address with a password, which a server that trusts everybody does not look at."""
    return address.replace("postgres@", f"postgres:{PASSWORD}@")


def listed(command: Command, *numbers: int) -> str:
    """A list of these orders; returns its name."""
    return command.write(HEADER + "".join(map(row, numbers)))


# A list, and what became of it


def test_a_list_is_sent_once(command: Command, ledger: str) -> None:
    """The same command again sends nothing, from a process of its own either."""
    orders = listed(command, 1, 2)
    assert command("bulk", orders, "--ledger", ledger)[0] == 0
    status, output = command.process("bulk", orders, "--ledger", ledger)
    assert status == 0
    assert "2 sent" in output
    assert "nothing left to send" in output
    assert command.delivered() == [order(1), order(2)]


def test_one_message_is_sent_once(command: Command, ledger: str) -> None:
    """`send` looks into the same ledger, by either name of the scheme."""
    words = ("send", NAME, order(1), "--text", TEXT, "--ledger")
    assert command(*words, ledger) == (0, "sent\n")
    status, output = command(*words, ledger.replace("postgresql:", "postgres:"))
    assert (status, "nothing was sent now" in output) == (0, True)
    assert command.delivered() == [order(1)]


@unix
def test_a_campaign_is_sent_by_one_process(command: Command, ledger: str) -> None:
    """While a process sends a campaign, another is refused with its number; the ledger is read."""
    orders = listed(command, 1)
    command.sandbox.faults.add(Fault.HANG)
    with command.started("bulk", orders, "--ledger", ledger) as process:
        ends = time.monotonic() + PATIENCE
        while len(command.sandbox.faults) and time.monotonic() < ends:
            time.sleep(0.01)
        for words in ([], ["--enqueue"]):
            status, output = command("bulk", orders, "--ledger", ledger, *words)
            assert status == 2
            assert len(output.splitlines()) == 1
            assert f"is being sent by process {process.popen.pid}" in output
        assert command.statuses("--ledger", ledger) == {order(1): "sending"}
    assert command.delivered() == []


@pytest.mark.parametrize("format_", ["table", "json", "csv", "html"])
def test_reports_are_those_of_a_file(command: Command, ledger: str, format_: str) -> None:
    """A report of a list is the same whichever ledger recorded it, but for times and numbers."""
    orders, reports = listed(command, *range(1, 6)), []
    for place in (ledger, "books.sqlite3"):
        faults = command.sandbox.faults
        faults.add(Fault.NOT_AVAILABLE, amazon_order_id=order(2))
        faults.add(Fault.UNAVAILABLE, amazon_order_id=order(3))
        faults.add(Fault.HTML_ERROR, amazon_order_id=order(4))
        assert command("bulk", orders, "--ledger", place)[0] == 3
        status, output = command("report", "--format", format_, "--ledger", place)
        assert status == 0
        output = re.sub(r"<figure.*</figure>", "CHART", output, flags=re.DOTALL)
        output = re.sub(TIME, "TIME", output.replace(place, "LEDGER"))
        reports.append(re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "REQUEST", output))
    assert reports[0] == reports[1]


def test_a_report_in_a_file(command: Command, ledger: str) -> None:
    """With a database there is no ledger's file that a report might be written over."""
    command("bulk", listed(command, 1), "--ledger", ledger)
    words = ("report", "--format", "csv", "--ledger", ledger, "--output")
    assert command(*words, "new.csv")[0] == 0
    assert order(1) in (command.folder / "new.csv").read_text()
    assert command(*words, "new.csv")[0] == 0


def test_the_ledger_is_listed_settled_and_purged(command: Command, ledger: str) -> None:
    """The commands about a ledger do the same as with a file, and nothing is sent twice after."""
    orders, of = listed(command, 1, 2), ("--ledger", ledger)
    command.sandbox.faults.add(Fault.UNAVAILABLE, Fault.UNAVAILABLE)
    assert command("bulk", orders, *of)[0] == 3
    _, output = command("ledger", "list", "--status", "unknown", *of)
    assert [line.split()[:3] for line in output.splitlines()] == [
        ["unknown", order(number), NAME] for number in (1, 2)
    ]
    assert command("ledger", "resolve", order(1), NAME, "sent", *of)[0] == 0
    assert command("ledger", "resolve", order(1), NAME, "sent", *of)[0] == 1
    assert command("ledger", "purge", "--older-than", "0m", *of) == (
        0,
        "1 message forgotten; 1 unknown one kept\n",
    )
    assert command("ledger", "resolve", order(2), NAME, "not-sent", *of)[0] == 0
    status, output = command("bulk", orders, *of)
    assert (status, command.delivered()) == (0, [order(2)])


def test_salvage_is_for_files(command: Command, ledger: str) -> None:
    """`ledger salvage` says so of a database, and does nothing."""
    status, output = command("ledger", "salvage", "--ledger", ledger)
    assert (status, len(output.splitlines())) == (2, 1)
    assert "salvage is for a ledger in a file" in output


# What is wrong with an address


@pytest.mark.parametrize(
    "words",
    [
        ("bulk", "orders.csv"),
        ("bulk", "orders.csv", "--enqueue"),
        ("send", NAME, order(1), "--text", TEXT),
        ("report",),
        ("ledger", "list"),
        ("ledger", "purge", "--older-than", "1d"),
        ("ledger", "resolve", order(1), NAME, "sent"),
    ],
    ids=" ".join,
)
def test_a_ledger_that_cannot_be_used(
    command: Command, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """No server, no tables, no such kind and no extra are a line each, and nothing is sent."""
    listed(command, 1)
    away = postgres.at(_free_port())
    cases = {
        away: f"the ledger {away.replace('postgres@', '')} cannot be used: ",
        postgres.dsn.removesuffix("postgres") + "template1": "sp-messaging cluster init --ledger …",
        f"mysql://root:{PASSWORD}@shop/ledger": "--ledger takes a file or postgresql://",
        postgres.dsn: 'pip install "sp-messaging-async[postgres]"',
    }
    for address, match in cases.items():
        if address == postgres.dsn:
            monkeypatch.setitem(sys.modules, "psycopg_pool", None)
        status, output = command(*words, "--ledger", address)
        assert (status, len(output.splitlines())) == (2, 1), output
        assert match in output
        assert PASSWORD not in output
    assert command.delivered() == []
    assert not list(command.folder.glob("postgres*"))


def test_a_dry_run_asks_no_database(command: Command, postgres: Postgres) -> None:
    """As it leaves a file alone, it leaves a database."""
    orders = listed(command, 1)
    away = postgres.at(_free_port())
    status, output = command("bulk", orders, "--dry-run", "--ledger", away)
    assert (status, "1 message, " in output) == (0, True)


# What is secret


def test_a_password_is_not_shown(command: Command, ledger: str) -> None:
    """No command repeats the password of an address, and a better place for it is named."""
    orders, secret = listed(command, 1, 2), with_password(ledger)
    command.sandbox.faults.add(*[Fault.UNAVAILABLE] * 3)
    unknown = "ledger list --status unknown"
    for words, match in [
        (["bulk", orders, "--verbose"], f"{unknown} --ledger {ledger} "),
        (["bulk", orders], f"{unknown} --ledger {ledger} "),
        (["send", NAME, order(3), "--text", TEXT], f"sent --ledger {ledger}\n"),
        (["ledger", "list"], order(1)),
        (["report"], "unknown"),
        (["report", "--format", "html"], f"--ledger {ledger}"),
        (["ledger", "resolve", order(1), NAME, "sent"], "sent"),
        (["ledger", "purge", "--older-than", "1d"], "kept"),
        (["ledger", "salvage"], "in a file"),
    ]:
        _, output, errors = command.apart(*words, "--ledger", secret)
        assert match in output + errors, words
        assert PASSWORD not in output + errors
        assert errors.count("keep it in PGPASSWORD or a password file") == 1
    for words in (["ledger", "list"], ["bulk", orders]):
        assert "PGPASSWORD" not in command(*words, "--ledger", ledger)[1]


@pytest.mark.parametrize(
    "words",
    [
        ("report", "--ledger", f"postgresql://me:x@{PASSWORD}@shop/ledger"),
        ("report", "--ledger", f"postgresql://me:1/{PASSWORD}@shop/ledger"),
        ("report", "--ledger", f"postgresql://me:x/{PASSWORD}"),
        ("report", "--ledger", f"postgresql://me:%zz{PASSWORD}@shop/ledger"),
        ("report", "--ledger", f"postgresql://me@shop/ledger?passwort={PASSWORD}"),
        ("report", f"postgresql://me:{PASSWORD}@shop/ledger"),
        ("report", "--campaign", "x", "--status", f"postgresql://me:{PASSWORD}@shop/ledger"),
        ("bulk", f"postgresql://me:{PASSWORD}@shop/ledger"),
        ("bulk", "orders.csv", "--limit", f"postgresql://me:{PASSWORD}@shop/ledger"),
    ],
    ids=" ".join,
)
def test_a_mistaken_password_is_not_shown(command: Command, words: tuple[str, ...]) -> None:
    """Nor does what is said of an address that is misspelt, or stands where none belongs."""
    status, output = command(*words)
    assert (status, len(output.splitlines())) == (2, 1)
    # What libpq takes for the name of a database is one.
    assert PASSWORD not in output or words[-1].endswith(f"x/{PASSWORD}")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgres://me:pw@shop:1/db", "postgresql://me@shop:1/db"),
        ("postgresql://me:p%40w#?@shop/db", "postgresql://me@shop/db"),
        ("postgresql://shop/db?user=me&password=pw", "postgresql://me@shop/db"),
        ("postgresql://shop/db?sslpassword=pw", "postgresql://shop/db"),
        ("postgresql://m%40e@shop/d%2Fb", "postgresql://m%40e@shop/d%2Fb"),
        ("postgresql://[::1]:5/db?sslmode=require", "postgresql://[::1]:5/db?sslmode=require"),
        ("postgresql://a:1,b:2/db", "postgresql:///db?host=a%2Cb&port=1%2C2"),
        ("postgresql:///db?host=/tmp", "postgresql:///db?host=%2Ftmp"),
        ("postgresql://", "postgresql:///"),
    ],
)
def test_an_address_without_its_password(given: str, shown: str) -> None:
    """What is shown is the same address to PostgreSQL, but for the password."""
    from psycopg.conninfo import conninfo_to_dict

    has_secret = "pw" in given or "p%40w" in given
    if has_secret:
        with pytest.warns(UserWarning, match="PGPASSWORD"):
            place = ledgers.LedgerDatabase.of(given)
    else:
        place = ledgers.LedgerDatabase.of(given)
    assert place.shown == shown
    assert "pw" not in repr(place)
    secrets = ("password", "sslpassword")
    kept = {name: x for name, x in conninfo_to_dict(given).items() if name not in secrets}
    assert conninfo_to_dict(shown) == kept


# Work for the workers


@define
class Workers:
    """In the place of the module that shares work out."""

    calls: list[tuple[str, dict[str, Any]]] = field(factory=list)
    shares: list[tuple[str, int]] = field(factory=list)
    error: LedgerError | None = None

    async def enqueue(self, ledger: PostgresLedger, run: str, **options: Any) -> None:
        """Note what there is to do, and that a worker may begin with it."""
        if self.error is not None:
            raise self.error
        self.calls.append((run, options))
        for share in await ledger.shares(run):
            async with ledger.share(run, share.account):
                self.shares.append((share.account, share.number))


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """What is handed to workers."""
    workers, module = Workers(), ModuleType(WORKER)
    monkeypatch.setattr(module, "enqueue", workers.enqueue, raising=False)
    monkeypatch.setitem(sys.modules, WORKER, module)
    return workers


def test_a_list_is_handed_over(command: Command, ledger: str, workers: Workers) -> None:
    """It is enrolled and shared out by account, without credentials; nobody waits for its end."""
    orders = command.write(
        "order_id,operation,text,account\n"
        + "".join(f"{order(n)},{NAME},{TEXT},{'acme' if n > 1 else ''}\n" for n in (1, 2, 3))
    )
    words = ("bulk", orders, "--enqueue", "--check-actions", "--ledger", with_password(ledger))
    status, output = command(*words, LWA_APP_ID="")
    assert status == 0
    assert "3 messages of 2 accounts handed over to the workers" in output
    assert f"account acme: 2 {NAME}" in output
    assert f"sp-messaging cluster status --ledger {shlex.quote(ledger)}" in output
    assert PASSWORD not in output
    ((_, options),) = workers.calls
    marketplace = Marketplace.of("US")
    assert options == {"marketplace": marketplace, "template": None, "check_actions": True}
    assert sorted(workers.shares) == [("acme", 2), ("default", 1)]
    assert set(command.statuses("--ledger", ledger).values()) == {"planned"}
    assert command.delivered() == []


def test_a_template_goes_along(command: Command, ledger: str, workers: Workers) -> None:
    """Workers write each text again in the buyer's language, so the template is handed over too."""
    template = f'operation = "{NAME}"\ndefault_locale = "en"\n[text]\nen = "Dear {{{{ name }}}}"\n'
    orders = command.write(f"order_id,name\n{order(1)},Ann\n")
    words = ("--template", command.write(template, "template.toml"), "--ledger", ledger)
    assert command("bulk", orders, "--enqueue", *words)[0] == 0
    ((_, options),) = workers.calls
    assert list(options["template"].texts) == ["en"]


def test_what_is_settled_is_not_handed_over(
    command: Command, ledger: str, workers: Workers
) -> None:
    """After the end there is nothing to hand over; what is unknown or wrong is in the status."""
    orders, of = listed(command, 1), ("--ledger", ledger)
    status, output = command("bulk", command.write(HEADER, "none.csv"), "--enqueue", *of)
    assert (status, "the list has no rows" in output) == (1, True)
    assert command("bulk", orders, *of)[0] == 0
    status, output = command("bulk", orders, "--enqueue", *of)
    assert (status, "nothing left to send" in output) == (0, True)
    command.sandbox.faults.add(Fault.UNAVAILABLE)
    assert command("bulk", listed(command, 2), *of)[0] == 3
    assert workers.calls == []
    status, output = command("bulk", listed(command, 2, 3), "--enqueue", *of)
    assert (status, "look in Seller Central" in output) == (3, True)
    orders = command.write(HEADER + row(4) + f"none,{NAME},{TEXT}\n")
    assert command("bulk", orders, "--enqueue", *of)[0] == 2
    assert command("bulk", orders, "--enqueue", "--keep-going", *of)[0] == 1
    assert workers.shares == [("default", 1), ("default", 1)]
    assert command.delivered() == [order(1)]


def test_nothing_is_handed_over_unasked(command: Command, ledger: str, workers: Workers) -> None:
    """Where buyers may be reached, --enqueue asks as sending does."""
    words = ("bulk", listed(command, 1), "--enqueue", "--ledger", ledger)
    status, output = command(*words, **command.elsewhere())
    assert (status, workers.calls) == (2, [])
    assert "1 message would go to buyers at" in output
    assert "add --yes to send" in output
    assert command(*words, "--yes", **command.elsewhere())[0] == 0
    assert workers.shares == [("default", 1)]


@unix
def test_the_count_is_typed_before_it_is_handed_over(command: Command, ledger: str) -> None:
    """On a terminal, another number than the list's hands nothing over."""
    words = ("bulk", listed(command, 1, 2), "--enqueue", "--ledger", ledger)
    with command.terminal(*words, **command.elsewhere()) as process:
        process.until("Type 2 to send")
        process.type("1\n")
        status, output = process.end()
    assert status == 2
    assert "that is another number; nothing was sent" in output


def test_a_queue_that_fails(command: Command, ledger: str, workers: Workers) -> None:
    """It is one line, nothing is sent, and the same command again hands all of the list over."""
    words = ("bulk", listed(command, 1, 2), "--enqueue", "--ledger", ledger)
    workers.error = LedgerError("the queue is full")
    assert command(*words) == (2, "the queue is full\n")
    workers.error = None
    assert command(*words)[0] == 0
    assert workers.shares == [("default", 2)]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], "--enqueue needs --ledger postgresql://"),
        (["--ledger", "ledger"], "--enqueue needs --ledger postgresql://"),
        (["--ledger", "postgresql://", "--limit", "1"], "leave --limit out"),
        (["--ledger", "postgresql://", "--dry-run"], "leave --dry-run out"),
        (["--ledger", "postgresql://", "--sandbox"], "leave --sandbox out"),
        (["--ledger", "postgresql://", "--throttle", "redis://"], "leave --throttle out"),
        (["--ledger", "postgresql://", "--format", "jsonl"], "leave --format jsonl out"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_handed_over(command: Command, words: list[str], match: str) -> None:
    """What makes no sense with --enqueue is told before the list is even looked for."""
    status, output = command("bulk", "none.csv", "--enqueue", *words)
    assert (status, len(output.splitlines())) == (2, 1)
    assert match in output
    assert not (command.folder / "ledger").exists()


# A plan that is shared


class Throttle(LocalThrottle):
    """In the place of the throttle on Redis."""

    made: list[Throttle]

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.is_open, self.granted = url, False, 0
        self.made.append(self)

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_open = False

    async def acquire(self, key: Any, *, again: bool = False) -> None:
        """Count what is let go."""
        assert self.is_open
        self.granted += 1
        await super().acquire(key, again=again)


@pytest.mark.parametrize(
    "words", [("bulk", "orders.csv"), ("send", NAME, order(1), "--text", TEXT)], ids=" ".join
)
def test_a_shared_throttle(
    command: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """With --throttle every call asks the throttle of that address, which is closed at the end."""
    module = ModuleType(REDIS)
    monkeypatch.setattr(Throttle, "made", [], raising=False)
    monkeypatch.setattr(module, "RedisThrottle", Throttle, raising=False)
    monkeypatch.setitem(sys.modules, REDIS, module)
    listed(command, 1)
    address = f"redis://:{PASSWORD}@shop:6379/0"
    status, output = command(*words, "--throttle", address)
    assert (status, command.delivered()) == (0, [order(1)])
    assert PASSWORD not in output
    (throttle,) = Throttle.made
    assert (throttle.url, throttle.granted, throttle.is_open) == (address, 1, False)


def test_only_one_place_tells_ledgers_apart() -> None:
    """No command of one machine knows which kinds of ledger there are."""
    for name in ("options", "lists", "orders", "records"):
        text = Path(ledgers.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        assert not re.search(r"SQLiteLedger|PostgresLedger", text)
