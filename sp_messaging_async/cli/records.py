"""Commands about what the ledger knows: to see it, to settle it, and to report it."""

from __future__ import annotations

import csv
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TextIO

from cyclopts import App

from ..bulk.report import write_csv, write_html, write_json, write_table
from ..errors import ConfigurationError, InvalidMessage
from ..ledger import LedgerRow, Status
from ..operations import named
from ..sqlite_ledger import SQLiteLedger
from .app import ALL_SENT, SOME_NOT_SENT, app
from .options import Flag, LedgerFile, ledger_file
from .terminal import plural, say

__all__ = ["books", "report"]

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
            say(f"{row.status:8} {row.amazon_order_id} {row.operation} ({row.campaign}){reason}")
            if show_text and row.content:
                say(f"         {row.content}")


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
            say(f"{amazon_order_id} {named(name).name}: {result}")
    return SOME_NOT_SENT if missing else ALL_SENT


_ANSWERS = ("order_id", "operation", "outcome")


def _answers(path: Path) -> list[tuple[str, str, str]]:
    """The rows of a CSV of answers, all of them checked before any is used."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _ANSWERS if name not in (reader.fieldnames or ())]
            if missing:
                raise ConfigurationError(f"{path}, line 1: the column {missing[0]} is missing")
            return [_answer(f"{path}, line {reader.line_num}", row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no CSV in UTF-8 ({error})") from None


def _answer(place: str, row: Mapping[str, str | None]) -> tuple[str, str, str]:
    order, operation, outcome = ((row.get(name) or "").strip() for name in _ANSWERS)
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
    kept = f"; {plural(unknown, 'unknown one')} kept" if unknown else ""
    say(f"{plural(number, 'message')} forgotten{kept}")


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
    are = "is" if number == 1 else "are"
    say(f"{plural(number, 'message')} {are} unknown now; see sp-messaging ledger resolve")


def _existing(given: Path | None) -> Path:
    path = ledger_file(given)
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
    format: Literal["table", "json", "csv", "html"] = "table",  # noqa: A002 - the option's name
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
        A table of counts, every message as JSON or CSV, or a page for people, to be opened in a
        browser.
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
            elif format == "html":
                await write_html(
                    _all_rows(book, campaign),
                    file,
                    campaign=campaign,
                    made_at=datetime.now(UTC),
                    ledger=ledger,
                )
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
