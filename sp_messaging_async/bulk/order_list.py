"""Order lists as files: CSV or JSON Lines, read row by row, every problem with its place.

Columns: `order_id`, `operation` (Amazon's name, or its snake_case), `text`, `attachments` (paths
relative to the list's folder, `;` between them), `coverage_start_date`, `coverage_end_date`,
`marketplace`, `account`. Other columns are left alone.
"""

from __future__ import annotations

import csv
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from attrs import evolve, fields_dict, frozen

from .. import attachments, content, wire
from ..errors import ConfigurationError, Finding, InvalidMessage, Problem
from ..marketplaces import Marketplace
from ..models import MAX_ATTACHMENT_BYTES, Attachment, LocalFile, MessageRequest
from ..operations import Operation, named
from .messages import Message

__all__ = ["Listed", "rows"]

_REQUIRED = ("order_id", "operation")
_JSON_LINES = (".jsonl", ".ndjson")
_UNFIT = re.compile("[\0\ud800-\udfff]")  # NUL, and halves of surrogate pairs

T = TypeVar("T")


@frozen
class Listed:
    """A message, and the line of the list that it begins in."""

    line: int
    message: Message


def rows(path: Path, marketplace: Marketplace) -> Iterator[Listed | Problem]:
    """The rows of a list, one by one, each a message or what is wrong with it.

    marketplace: that of rows that name none; the others must be of its region.

    Raises ConfigurationError for a file that cannot be opened.
    """
    read = _json_lines if path.suffix.lower() in _JSON_LINES else _csv
    try:
        with path.open("rb") as file:
            for row in read(_lines(file)):
                if isinstance(row, Problem):
                    yield row
                else:
                    yield from _message(row, path.parent, marketplace)
    except _Unreadable as error:
        yield error.problem
    except OSError as error:
        raise ConfigurationError(
            f"the order list {path} cannot be read: {error.strerror}"
        ) from None


# From a file to cells


@frozen
class _Cell:
    """A value of a row, and the column it stands in."""

    value: object
    column: int | None


@frozen
class _Row:
    line: int
    cells: Mapping[str, _Cell]

    def text(self, name: str) -> str:
        """A cell as text, "" where there is none."""
        cell = self.cells.get(name)
        value = "" if cell is None or cell.value is None else cell.value
        if not isinstance(value, str):
            raise InvalidMessage(Finding(name, f"is a {type(value).__name__}; give text"))
        return _fit(name, value)

    def problem(self, field: str, reason: str) -> Problem:
        cell = self.cells.get(field)
        return Problem(self.line, cell.column if cell else None, field, reason)


def _fit(name: str, text: str) -> str:
    """The text, if every character of it can be sent."""
    if match := _UNFIT.search(text):
        kind = "NUL" if match[0] == "\0" else "half of a surrogate pair"
        reason = f"character {match.start() + 1} is {kind}, which cannot be sent; remove it"
        raise InvalidMessage(Finding(name, reason))
    return text


class _Unreadable(Exception):
    """The file itself cannot be read on from here."""

    def __init__(self, line: int, column: int | None, field: str, reason: str) -> None:
        super().__init__(line, column, field, reason)
        self.problem = Problem(line, column, field, reason)


def _lines(file: Iterable[bytes]) -> Iterator[str]:
    for number, raw in enumerate(file, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            before = raw.removeprefix(BOM_UTF8) if number == 1 else raw
            column = len(before[: error.start].decode("utf-8")) + 1
            reason = "is not UTF-8; save the list again as UTF-8"
            raise _Unreadable(number, column, "encoding", reason) from None
        yield line


def _csv(lines: Iterator[str]) -> Iterator[_Row | Problem]:
    records = _numbered(lines)
    first = next(records, None)
    if first is None:
        raise _Unreadable(1, None, "header", f"is missing; begin with {', '.join(_REQUIRED)}, …")
    names = _header(*first)
    for line, record in records:
        if not any(record):
            continue
        if len(record) > len(names):
            reason = f"{len(record)} cells where the header has {len(names)}; quote commas in texts"
            yield Problem(line, len(names) + 1, "row", reason)
            continue
        cells = zip_longest(names, record, fillvalue="")
        yield _Row(line, {name: _Cell(cell, at) for at, (name, cell) in enumerate(cells, start=1)})


def _numbered(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """Records with the number of their first line."""
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise _Unreadable(line, None, "row", f"is no CSV: {_in_words(error)}") from None
        if record is None:
            return
        yield line, record


def _in_words(error: csv.Error) -> str:
    """What the csv module means, for somebody who has never heard of it."""
    text = str(error)
    if "end of data" in text:
        return "a quote that opens in it is never closed"
    if "new-line" in text:
        return "it holds a line break of an old kind; save the list again"
    if "expected after" in text:
        return (
            "no comma follows a closing quote; put commas between columns, and write a quote "
            "within a text twice"
        )
    return "a cell is longer than any message may be"


def _header(line: int, names: list[str]) -> list[str]:
    names = [name.strip().lower() for name in names]
    for name in _REQUIRED:
        if name not in names:
            reason = f"the column is missing; the header has {', '.join(names)}"
            if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
                reason = "the column is missing; save the list with commas between its columns"
            raise _Unreadable(line, None, name, reason)
    for column, name in enumerate(names, start=1):
        if name and name in names[: column - 1]:
            raise _Unreadable(line, column, name, "stands twice in the header")
    return names


def _json_lines(lines: Iterator[str]) -> Iterator[_Row | Problem]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line.rstrip("\r\n"), object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            yield Problem(number, error.colno, "row", f"is no JSON: {error.msg}")
            continue
        except _Twice as error:
            yield Problem(number, None, "row", f"{error} stands twice; keep one of them")
            continue
        except ValueError:
            yield Problem(number, None, "row", "holds a number that is too long")
            continue
        except RecursionError:
            yield Problem(number, None, "row", "is nested too deeply")
            continue
        if not isinstance(data, dict):
            yield Problem(number, 1, "row", "is no JSON object")
            continue
        yield _Row(number, {name: _Cell(value, None) for name, value in data.items()})


class _Twice(Exception):
    """A key that an object holds twice."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in pairs:
        if key in values:
            raise _Twice(repr(key))  # it may be one that cannot be printed
        values[key] = value
    return values


# From cells to a message


def _message(row: _Row, folder: Path, marketplace: Marketplace) -> Iterator[Listed | Problem]:
    findings: list[Finding] = []

    def tried(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except InvalidMessage as error:
            findings.extend(error.findings)
            return None

    order_id = tried(lambda: wire.checked_order_id(row.text("order_id").strip()))
    operation = tried(lambda: _operation(row))
    request = tried(lambda: _request(row, operation, folder)) if operation else None
    override = tried(lambda: _optional(row, "marketplace", marketplace.of_same_region))
    account = tried(lambda: row.text("account").strip() or None)
    for finding in findings:
        yield row.problem(_COLUMNS.get(finding.field, finding.field), _words(finding))
    if order_id and request and not findings:
        yield Listed(row.line, Message(order_id, request, override, account))


_COLUMNS = {"amazon_order_id": "order_id", "file_name": "attachments", "path": "attachments"}


def _words(finding: Finding) -> str:
    place = "" if finding.position is None else f"at character {finding.position}: "
    return place + finding.reason


def _operation(row: _Row) -> Operation:
    operation = named(row.text("operation"))
    if not operation.messages_buyer:
        raise InvalidMessage(Finding("operation", f"{operation.name} messages nobody"))
    return operation


def _request(row: _Row, operation: Operation, folder: Path) -> MessageRequest:
    make: Any = operation.request
    takes = fields_dict(make)
    readers: dict[str, Callable[[], object]] = {
        "text": partial(row.text, "text"),
        "attachments": partial(_attachments, row, folder),
        "coverage_start_date": partial(_optional, row, "coverage_start_date", _date),
        "coverage_end_date": partial(_optional, row, "coverage_end_date", _date),
    }
    values: dict[str, object] = {}
    findings: list[Finding] = []
    for name, read in readers.items():
        try:
            values[name] = read()
        except InvalidMessage as error:
            findings.extend(error.findings)
    for name, value in values.items():
        if value and name not in takes:
            reason = f"{operation.name} sends none; clear it, so that nothing is lost unseen"
            findings.append(Finding(name, reason))
    return _checked(make, {name: values[name] for name in values if name in takes}, findings)


def _checked(make: Any, values: dict[str, object], findings: list[Finding]) -> MessageRequest:
    """The request of these values, if nothing was found nor is now; all of it is told at once."""
    stand_ins = {name: _STAND_INS[name] for name in fields_dict(make) if name not in values}
    try:
        request: MessageRequest = make(**{**values, **stand_ins})
        content.check(request)
    except InvalidMessage as error:
        findings.extend(error.findings)
    if findings:
        raise InvalidMessage(*findings)
    return request


# In the place of values that could not be read, so that the others can be checked.
_STAND_INS: dict[str, object] = {
    "text": "-",
    "attachments": (Attachment("-", "-"),),
    "coverage_start_date": None,
    "coverage_end_date": None,
}


def _attachments(row: _Row, folder: Path) -> tuple[LocalFile, ...]:
    files = tuple(LocalFile(folder / path) for path in _paths(row))
    total = sum(attachments.check_readable(file.path) for file in files)
    if total > MAX_ATTACHMENT_BYTES:
        reason = f"come to {total:,} bytes; Amazon takes {MAX_ATTACHMENT_BYTES:,} a message"
        raise InvalidMessage(Finding("attachments", reason))
    return files


def _paths(row: _Row) -> list[str]:
    cell = row.cells.get("attachments")
    listed = cell.value if cell is not None else None
    if isinstance(listed, list) and all(isinstance(path, str) for path in listed):
        return [_fit("attachments", path) for path in listed]
    return [path.strip() for path in row.text("attachments").split(";") if path.strip()]


def _optional(row: _Row, name: str, read: Callable[[str], T]) -> T | None:
    text = row.text(name).strip()
    try:
        return read(text) if text else None
    except InvalidMessage as error:
        raise InvalidMessage(*(evolve(finding, field=name) for finding in error.findings)) from None


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        reason = f"{text!r} is no date; write it as 2026-01-31T00:00:00+00:00"
        raise InvalidMessage(Finding("date", reason)) from None
