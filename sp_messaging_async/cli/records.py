"""Commands about what the ledger knows: to see it, to settle it, and to report it."""

from __future__ import annotations

import csv
import errno
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TextIO

from cyclopts import App

from ..bulk.report import write_csv, write_html, write_json, write_table
from ..errors import ConfigurationError, InvalidMessage
from ..ledger import Ledger, LedgerRow, Status
from ..operations import named
from .app import ALL_SENT, SOME_NOT_SENT, app
from .options import Flag, Record
from .terminal import plural, say

__all__ = ["books", "report"]

books = App(name="ledger", help="Look into the ledger, and settle what only a person can.")
app.command(books)


@books.command(name="list")
async def list_(
    *,
    record: Record = Record(),
    campaign: str | None = None,
    status: Status | None = None,
    show_text: Flag = False,
) -> None:
    """List messages, and what is known of each.

    Parameters
    ----------
    campaign:
        Only those of a campaign.
    status:
        Only those of a status.
    show_text:
        Show what is to be sent; it is erased once a message is settled.
    """
    async with record.place.existing() as book:
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
    record: Record = Record(),
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
    campaign:
        Only those of a campaign.
    """
    given = _given(order, operation, outcome, from_csv)
    if not given:
        say(f"{from_csv} has no rows")
        return SOME_NOT_SENT
    missing = 0
    async with record.place.existing() as book:
        for amazon_order_id, name, answer in given:
            number = await book.resolve(
                amazon_order_id, named(name).name, sent=answer == "sent", campaign=campaign
            )
            missing += not number
            result = answer if number else "no message of unknown outcome"
            say(f"{amazon_order_id} {named(name).name}: {result}")
    return SOME_NOT_SENT if missing else ALL_SENT


def _given(
    order: str | None, operation: str | None, outcome: str | None, from_csv: Path | None
) -> list[tuple[str, str, str]]:
    one = (order, operation, outcome)
    if from_csv is not None and not any(one):
        return _answers(from_csv)
    if from_csv is None and order and operation and outcome:
        return [(order, operation, outcome)]
    raise ConfigurationError(
        "give ORDER OPERATION sent|not-sent, or --from-csv FILE in place of all three"
    )


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
async def purge(*, older_than: str, record: Record = Record()) -> None:
    """Forget settled messages. That they were sent is remembered by a digest, so never twice.

    Parameters
    ----------
    older_than:
        How old: 30d, 12h or 90m. Messages of unknown outcome are kept until they are resolved.
    """
    before = datetime.now(UTC) - _age(older_than)
    async with record.place.existing() as book:
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
async def salvage(*, record: Record = Record()) -> None:
    """Open a ledger in a file that lost its last commits: all that is planned becomes unknown."""
    number = await record.place.salvage()
    are = "is" if number == 1 else "are"
    say(f"{plural(number, 'message')} {are} unknown now; see sp-messaging ledger resolve")


async def _all_rows(
    book: Ledger, campaign: str | None, status: Status | None = None
) -> AsyncIterator[LedgerRow]:
    after = 0
    while rows := await book.rows(campaign=campaign, status=status, after=after):
        for row in rows:
            yield row
        after = rows[-1].id


@app.command
async def report(
    *,
    record: Record = Record(),
    campaign: str | None = None,
    format: Literal["table", "json", "csv", "html"] = "table",  # noqa: A002 - the option's name
    output: Path | None = None,
    show_text: Flag = False,
) -> None:
    """Tell what became of all messages.

    Parameters
    ----------
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
    if show_text and format in ("table", "html"):
        raise ConfigurationError(f"--show-text is not for --format {format}; give json or csv")
    place = record.place
    async with place.existing() as book:
        rows = _all_rows(book, campaign)
        with _output(output, other_than=place.file) as file:
            match format:
                case "table":
                    write_table(await book.counts(campaign=campaign), file)
                case "html":
                    now = datetime.now(UTC)
                    ledger = record.named
                    await write_html(rows, file, campaign=campaign, made_at=now, ledger=ledger)
                case "csv":
                    await write_csv(rows, file, show_text=show_text)
                case "json":
                    counts = await book.counts(campaign=campaign)
                    await write_json(counts, rows, file, show_text=show_text)


@contextmanager
def _output(path: Path | None, *, other_than: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    if other_than is not None and path.exists() and path.samefile(other_than):
        raise ConfigurationError("--output names the ledger itself; name another file")
    try:
        is_device = path.exists() and not path.is_file()  # or a folder, which cannot be opened
        with _text_file(path) if is_device else _replaced(path) as file:
            yield file
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"the report cannot be written: {reason}: {path}") from None


def _text_file(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="")


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """A file for its user only, which takes the place of another once it is whole."""
    try:
        target = path.resolve()
    except RuntimeError:  # as some Pythons say it
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    beside = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - a descriptor
            yield file
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
