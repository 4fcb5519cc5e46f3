"""The `sp-messaging` command."""

from __future__ import annotations

import asyncio
import csv
import importlib.resources
import math
import os
import signal
import stat
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, TextIO

import attrs
import platformdirs
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from . import __version__
from .bulk import Outcome
from .bulk.campaign import CampaignRun, Problems, enrol
from .bulk.progress import Tally, Watch, closing_table, duration, seconds_by_plan
from .bulk.report import write_csv, write_json, write_table
from .credentials import DEFAULT_ACCOUNT, Credentials
from .errors import ConfigurationError, InvalidMessage, MessagingError, RetiredOperationWarning
from .ledger import DEFAULT_CAMPAIGN, Enrolled, Lane, LedgerRow, LeftAlone, Status
from .marketplaces import Endpoint, Marketplace
from .operations import OPERATIONS, named
from .sandbox import Sandbox
from .session import MessagingSession
from .sqlite_ledger import SQLiteLedger

__all__ = ["app", "run"]

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]

ALL_SENT, SOME_NOT_SENT, WRONG_USAGE, SOME_UNKNOWN, STOPPED = range(5)

app = App(
    name="sp-messaging",
    help="Message Amazon buyers through the Selling Partner API, within the usage plan.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
_out = Console()
_err = Console(stderr=True, soft_wrap=True, highlight=False)


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status. An error is one line with its remedy."""
    try:
        status: int | None = app(arguments, exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        return STOPPED
    except CycloptsError as error:
        return _fail(f"{error} Try sp-messaging --help.")
    except MessagingError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.strerror or type(error).__name__}: {error.filename or error}")
    return status or 0


def _fail(text: str) -> int:
    _err.print(_shown(text), markup=False)
    return WRONG_USAGE


@app.command
def operations() -> None:
    """Show the operations of the Messaging API, and their usage plans."""
    table = Table("operation", "takes", "plan", "retired")
    for row in OPERATIONS.values():
        takes = ["text"] * row.takes_text + ["files"] * row.takes_attachments
        table.add_row(
            row.name,
            ", ".join(takes),
            f"{row.plan.rate:g}/s, burst {row.plan.burst:g}",
            str(row.retired_on or ""),
        )
    _out.print(table)


@app.command
async def sandbox(*, port: int = 8085) -> None:
    """Run a local Amazon on this machine until it is stopped.

    Parameters
    ----------
    port:
        Where to listen, on loopback; 0 takes any free port.
    """
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"--port {port} is no port; give a number from 0 to 65535")
    async with Sandbox(port=port) as local:
        _out.print(
            f"A local Amazon listens on {local.url}; it messages nobody. Point a client at it:"
        )
        for name, value in _environment(local).items():
            _out.print(f"  export {name}='{value}'", markup=False, highlight=False)
        _out.print("Ctrl-C stops it.")
        await asyncio.Event().wait()


def _environment(local: Sandbox) -> Mapping[str, str]:
    return {
        "SP_MESSAGING_API_URL": local.endpoint.api_url,
        "SP_MESSAGING_TOKEN_URL": local.endpoint.token_url,
        "LWA_APP_ID": "any",
        "LWA_CLIENT_SECRET": "any",
        "SP_API_REFRESH_TOKEN": "any",
    }


@app.command
async def bulk(
    orders: Path | None = None,
    /,
    *,
    sandbox: Flag = False,
    marketplace: str | None = None,
    ledger: Path | None = None,
    campaign: str = DEFAULT_CAMPAIGN,
    again: Flag = False,
    keep_going: Flag = False,
    dry_run: Flag = False,
    limit: int | None = None,
    check_actions: Flag = False,
    yes: Flag = False,
) -> int:
    """Send a list of messages, CSV or JSON Lines, each once.

    What is sent is recorded in a ledger. The same command again resumes a run that broke off, and
    sends nothing once all was sent.

    Parameters
    ----------
    orders:
        The list. With --sandbox it may be left out, for the sample that comes with the package.
    sandbox:
        Send to a local Amazon of the command's own, with no credentials and, unless one is named,
        a ledger that is thrown away.
    marketplace:
        Where orders are whose row names no marketplace; SP_API_DEFAULT_MARKETPLACE unless given.
    ledger:
        The ledger's file; one in the user's data folder unless given.
    campaign:
        The name under which messages are recorded.
    again:
        Send what was sent before once more. Repeated after a break, it resumes.
    keep_going:
        Send the good rows of a list that has problems too.
    dry_run:
        Check all of the list, and tell how long the usage plans will take; send nothing.
    limit:
        The most messages to send in this run.
    check_actions:
        Ask first, for each order, whether this kind of message is available.
    yes:
        Do not ask before sending to buyers.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError("--limit must be at least 1")
    place = _marketplace(marketplace, sandbox)
    path = orders or _sample(sandbox)
    _stop_on_sigterm()
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(Sandbox()) if sandbox else None
        endpoint = local.endpoint if local else Endpoint.from_env(place.region)
        file = _throwaway(stack) if dry_run or (sandbox and not ledger) else _ledger_file(ledger)
        book = await stack.enter_async_context(SQLiteLedger(file))
        await stack.enter_async_context(book.campaign_lock(campaign))
        # The command's own sandbox has another port each time, and is the same to a ledger.
        realm = "the sandbox of --sandbox" if sandbox else endpoint.realm
        enrolled, problems = await enrol(
            path, place, book, campaign, realm, again=again, keep_going=keep_going
        )
        _show_enrolled(enrolled, problems, campaign)
        lanes = await book.lanes(enrolled.run)
        if dry_run:
            _show_plan(lanes)
            return SOME_NOT_SENT if problems.total else ALL_SENT
        if lanes:
            number = min(limit or math.inf, sum(lane.number for lane in lanes))
            if not (yes or sandbox or endpoint.is_loopback):
                await _confirm(book, enrolled.run, lanes, int(number), place, endpoint)
            sessions = await _sessions(stack, lanes, place, endpoint, sandbox=sandbox)
            await _send(
                CampaignRun(book, enrolled.run, sessions, limit=limit, check_actions=check_actions),
                Tally(lanes),
            )
        elif not problems.total:
            _out.print("nothing left to send")
        return await _status(book, enrolled, problems)


def _marketplace(given: str | None, sandbox: bool) -> Marketplace:
    name = given or os.environ.get("SP_API_DEFAULT_MARKETPLACE") or ("US" if sandbox else None)
    if name is None:
        raise ConfigurationError(
            "no marketplace: give --marketplace, or set SP_API_DEFAULT_MARKETPLACE"
        )
    return Marketplace.of(name)


def _sample(sandbox: bool) -> Path:
    if not sandbox:
        raise ConfigurationError(
            "no order list: name a file, or add --sandbox to try the sample that comes along"
        )
    return Path(str(importlib.resources.files("sp_messaging_async.bulk") / "sample/orders.csv"))


def _stop_on_sigterm() -> None:
    """Let SIGTERM stop a run as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def _throwaway(stack: AsyncExitStack) -> Path:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sp-messaging-"))
    return Path(folder) / "ledger.sqlite3"


def _ledger_file(given: Path | None) -> Path:
    if given is not None:
        return given
    folder = platformdirs.user_data_path("sp-messaging", appauthor=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / "ledger.sqlite3"


def _show_enrolled(enrolled: Enrolled, problems: Problems, campaign: str) -> None:
    """What of the list is not sent, and why; nothing where there is nothing to say."""
    if problems.total:
        left_out = "1 row with problems is" if problems.rows == 1 else f"{problems.rows} rows are"
        _say(f"{left_out} left out:")
        for problem in problems.first:
            _say(f"  {problem}")
    if enrolled.merged:
        _say(f"{enrolled.merged} rows repeat an earlier row, and are sent once")
    if enrolled.left_alone:
        counts = ", ".join(f"{number} {name}" for name, number in enrolled.left_alone.items())
        _say(f"left alone, by what the ledger knows: {counts}")
        for row in enrolled.some_left_alone:
            where = "" if row.campaign in (None, campaign) else f" in campaign {row.campaign!r}"
            _say(_named(row) + where)
    if enrolled.changed:
        _say(f"{enrolled.changed} rows differ from what was enrolled, and change nothing any more:")
        for row in enrolled.some_changed:
            _say(_named(row))


def _named(row: LeftAlone) -> str:
    return f"  line {row.line}: {row.operation} for {row.amazon_order_id}: {row.status}"


def _say(text: str) -> None:
    _out.print(_shown(text), markup=False, highlight=False, soft_wrap=True)


def _shown(text: str) -> str:
    """Text of a list, or of an answer, without what would steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _show_plan(lanes: Sequence[Lane]) -> None:
    _out.print(_table_of(lanes))
    longest = max((seconds_by_plan(lane.operation, lane.number) for lane in lanes), default=0)
    total = sum(lane.number for lane in lanes)
    _say(f"{total} messages, {duration(longest)} by the usage plans; nothing was sent")
    _say("What a ledger knows to be sent already is not taken into account.")


async def _confirm(
    book: SQLiteLedger,
    run: str,
    lanes: Sequence[Lane],
    total: int,
    place: Marketplace,
    endpoint: Endpoint,
) -> None:
    """Show what is about to reach buyers, and ask, unless nobody can be reached."""
    if endpoint.realm == "Amazon's sandbox":
        return
    _out.print(_table_of(lanes))
    named_places = await book.marketplaces(run)
    places = {place if found is None else Marketplace.of(found) for found in named_places}
    _say("marketplaces: " + ", ".join(sorted(found.name for found in places)))
    (first, *_) = await book.to_send(run, lanes[0], 0, 1)
    _say(f"first: {first.operation} to order {first.amazon_order_id}")
    for name, value in attrs.asdict(first.request, recurse=False).items():
        _say(f"  {name}: {value}")
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigurationError(
            f"{total} messages would go to buyers at {endpoint.api_url}; add --yes to send them"
        )
    if _asked(f"Type {total} to send them to buyers: ") != str(total):
        raise ConfigurationError("that is another number; nothing was sent")


def _asked(question: str) -> str:
    """What a person types; nothing else is at work meanwhile. Ctrl-C ends it as everywhere."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input(question).strip()
    except EOFError:
        return ""
    finally:
        signal.signal(signal.SIGINT, usual)


def _table_of(lanes: Sequence[Lane]) -> Table:
    table = Table("account", "operation", "messages", "time by plan")
    for lane in lanes:
        seconds = duration(seconds_by_plan(lane.operation, lane.number))
        table.add_row(lane.account, lane.operation, str(lane.number), seconds)
    return table


async def _sessions(
    stack: AsyncExitStack,
    lanes: Sequence[Lane],
    place: Marketplace,
    endpoint: Endpoint,
    *,
    sandbox: bool,
) -> Mapping[str, MessagingSession]:
    """A session for every account that has something to send."""
    credentials = {
        name: Credentials("sandbox", "sandbox", f"sandbox-{name}", name)
        if sandbox
        else _credentials(name)
        for name in sorted({lane.account for lane in lanes})
    }
    return {
        name: await stack.enter_async_context(
            MessagingSession(found, marketplace=place, endpoint=endpoint)
        )
        for name, found in credentials.items()
    }


def _credentials(account: str) -> Credentials:
    return Credentials.from_env(None if account == DEFAULT_ACCOUNT else account)


async def _send(run: CampaignRun, tally: Tally) -> None:
    try:
        with _notes(), Watch(tally, _out) as watch:
            async with run.outcomes() as outcomes:
                try:
                    await _count(outcomes, tally, watch)
                except asyncio.CancelledError:  # Ctrl-C: what is in flight ends, and is counted
                    asyncio.current_task().uncancel()  # type: ignore[union-attr]
                    run.stop()
                    _say("stopping: exchanges in flight end first; Ctrl-C again stops at once")
                    # As abrupt as a kill, and as safe: what is in flight will be unknown.
                    signal.signal(signal.SIGINT, _exit_at_once)
                    await _count(outcomes, tally, watch)
    finally:
        tally.count_unsent()
        _close(tally, run)


def _exit_at_once(*_: object) -> None:
    _out.show_cursor()
    os._exit(STOPPED)


async def _count(outcomes: AsyncIterator[Outcome], tally: Tally, watch: Watch) -> None:
    async for outcome in outcomes:
        tally.count(outcome)
        watch.show()


@contextmanager
def _notes() -> Iterator[None]:
    """Warnings about retired operations, as lines of their own."""

    def note(message: Warning | str, category: type[Warning], *place: object) -> None:
        if issubclass(category, RetiredOperationWarning):
            _out.print(f"note: {message}", style="yellow", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RetiredOperationWarning)
        warnings.showwarning = note  # type: ignore[assignment]
        yield


def _close(tally: Tally, run: CampaignRun) -> None:
    if not tally.number():
        return
    _out.print(closing_table(tally))
    for outcome in tally.named:
        order, reason = outcome.message.amazon_order_id, outcome.error
        _say(f"{outcome.status}: {reason or order}")
    left = tally.number() - tally.number("sent") - tally.number("planned") - len(tally.named)
    if left:
        _say(f"and {left} more; see sp-messaging report")
    if tally.number("planned"):
        for account, reason in run.unsent.items():
            _say(f"account {account}: {reason}")
        _say(f"{tally.number('planned')} were not sent; the same command again sends them")


async def _status(book: SQLiteLedger, enrolled: Enrolled, problems: Problems) -> int:
    counts = await book.counts(run=enrolled.run)
    if counts.get("unknown") or enrolled.left_alone.get("unknown"):
        return SOME_UNKNOWN
    if counts.get("planned") or counts.get("sending"):
        return STOPPED
    all_sent = not problems.total and counts.keys() <= {"sent"}
    return ALL_SENT if all_sent else SOME_NOT_SENT


# What the ledger knows


LedgerFile = Annotated[Path | None, Parameter(name="--ledger")]
books = App(name="ledger", help="Look into the ledger, and settle what only a person can.")
app.command(books)


@books.command(name="list")
async def list_(
    *,
    ledger: LedgerFile = None,
    campaign: str | None = None,
    status: Status | None = None,
    show_text: Flag = False,
) -> None:
    """List messages, and what is known of each.

    Parameters
    ----------
    ledger:
        The ledger's file; one in the user's data folder unless given.
    campaign:
        Only those of a campaign.
    status:
        Only those of a status.
    show_text:
        Show what is to be sent; it is erased once a message is settled.
    """
    async with SQLiteLedger(_existing(ledger)) as book:
        async for row in _all_rows(book, campaign, status):
            reason = f": {row.error}" if row.error else ""
            _say(f"{row.status:8} {row.amazon_order_id} {row.operation} ({row.campaign}){reason}")
            if show_text and row.content:
                _say(f"         {row.content}")


@books.command
async def resolve(
    order: str | None = None,
    operation: str | None = None,
    outcome: Literal["sent", "not-sent"] | None = None,
    /,
    *,
    from_csv: Path | None = None,
    ledger: LedgerFile = None,
    campaign: str | None = None,
) -> int:
    """Settle messages of unknown outcome, after a look in Seller Central.

    One that was not sent is sent by the next run of its list.

    Parameters
    ----------
    order:
        The order id.
    operation:
        Amazon's name of the operation.
    outcome:
        What Seller Central shows.
    from_csv:
        A file with these three as columns order_id, operation and outcome, in place of them.
    ledger:
        The ledger's file; one in the user's data folder unless given.
    campaign:
        Only those of a campaign.
    """
    if from_csv is None and (order is None or operation is None or outcome is None):
        raise ConfigurationError("give ORDER OPERATION sent|not-sent, or --from-csv FILE")
    given = (
        [(order or "", operation or "", outcome or "")] if from_csv is None else _answers(from_csv)
    )
    missing = 0
    async with SQLiteLedger(_existing(ledger)) as book:
        for amazon_order_id, name, answer in given:
            number = await book.resolve(
                amazon_order_id, named(name).name, sent=answer == "sent", campaign=campaign
            )
            missing += not number
            result = answer if number else "no message of unknown outcome"
            _say(f"{amazon_order_id} {named(name).name}: {result}")
    return SOME_NOT_SENT if missing else ALL_SENT


def _answers(path: Path) -> list[tuple[str, str, str]]:
    """The rows of a CSV of answers, all of them checked before any is used."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            return [_answer(f"{path}, line {reader.line_num}", row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no CSV in UTF-8 ({error})") from None


def _answer(place: str, row: Mapping[str, str | None]) -> tuple[str, str, str]:
    order, operation, outcome = (
        (row.get(name) or "").strip() for name in ("order_id", "operation", "outcome")
    )
    try:
        name = named(operation).name
    except InvalidMessage as error:
        raise ConfigurationError(f"{place}, {error}") from None
    if not order:
        raise ConfigurationError(f"{place}, order_id: is empty or missing")
    if outcome not in ("sent", "not-sent"):
        raise ConfigurationError(f"{place}, outcome: {outcome!r}; write sent or not-sent")
    return order, name, outcome


@books.command
async def purge(*, older_than: str, ledger: LedgerFile = None) -> None:
    """Forget settled messages. That they were sent is remembered by a digest, so never twice.

    Parameters
    ----------
    older_than:
        How old: 30d, 12h or 90m. Messages of unknown outcome are kept until they are resolved.
    ledger:
        The ledger's file; one in the user's data folder unless given.
    """
    before = datetime.now(UTC) - _age(older_than)
    async with SQLiteLedger(_existing(ledger)) as book:
        number = await book.purge(before)
        unknown = (await book.counts()).get("unknown", 0)
    _say(f"{number} messages forgotten" + (f"; {unknown} unknown ones kept" if unknown else ""))


def _age(text: str) -> timedelta:
    units = {"d": "days", "h": "hours", "m": "minutes"}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.isascii() or not number.isdigit() or len(number) > 5:
        raise ConfigurationError(f"--older-than {text!r} is no age; write 30d, 12h or 90m")
    return timedelta(**{units[unit]: int(number)})


@books.command
async def salvage(*, ledger: LedgerFile = None) -> None:
    """Open a ledger that lost its last commits: all that is planned becomes unknown.

    Parameters
    ----------
    ledger:
        The ledger's file; one in the user's data folder unless given.
    """
    book = SQLiteLedger(_existing(ledger))
    try:
        number = await book.salvage()
    finally:
        await book.aclose()
    _say(f"{number} messages are unknown now; settle them with sp-messaging ledger resolve")


def _existing(given: Path | None) -> Path:
    path = _ledger_file(given)
    if not path.exists():
        raise ConfigurationError(f"there is no ledger {path}; name one with --ledger")
    return path


async def _all_rows(
    book: SQLiteLedger, campaign: str | None, status: Status | None = None
) -> AsyncIterator[LedgerRow]:
    after = 0
    while rows := await book.rows(campaign=campaign, status=status, after=after):
        for row in rows:
            yield row
        after = rows[-1].id


@app.command
async def report(
    *,
    ledger: LedgerFile = None,
    campaign: str | None = None,
    format: Literal["table", "json", "csv"] = "table",  # noqa: A002 - the option's name
    output: Path | None = None,
    show_text: Flag = False,
) -> None:
    """Tell what became of all messages.

    Parameters
    ----------
    ledger:
        The ledger's file; one in the user's data folder unless given.
    campaign:
        Only those of a campaign.
    format:
        A table of counts, or every message as JSON or CSV.
    output:
        The file to write, readable for its user only; standard output unless given.
    show_text:
        With json and csv: include what is to be sent; it is erased once a message is settled.
    """
    async with SQLiteLedger(_existing(ledger)) as book:
        counts = await book.counts(campaign=campaign)
        with _output(output, other_than=book.path) as file:
            if format == "table":
                write_table(counts, file)
            else:
                write = write_json if format == "json" else write_csv
                await write(counts, _all_rows(book, campaign), file, show_text=show_text)


@contextmanager
def _output(path: Path | None, *, other_than: Path) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    if path.exists() and path.samefile(other_than):
        raise ConfigurationError("--output names the ledger itself; name another file")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):  # and no device, such as /dev/null
        path.chmod(0o600)  # if it was there before
    with open(descriptor, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - a descriptor
        yield file
