"""Order lists as files: CSV or JSON Lines, read row by row, every problem with its place.

Columns: `order_id`, `operation` (Amazon's name, or its snake_case), `text`, `attachments` (paths
relative to the list's folder, `;` between them), `coverage_start_date`, `coverage_end_date`,
`marketplace`, `account`. Other columns are left alone.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from attrs import evolve, fields_dict, frozen

from .. import attachments, content, wire
from ..errors import ConfigurationError, Finding, InvalidMessage, InvalidOrderList, Problem
from ..marketplaces import Marketplace
from ..models import MAX_ATTACHMENT_BYTES, LocalFile, MessageRequest
from ..operations import Operation, by_request, named
from .messages import DEFAULT_ACCOUNT, Message

__all__ = ["Summary", "check", "messages"]

_REQUIRED = ("order_id", "operation")
_SHOWN = 20  # problems that an InvalidOrderList carries
_JSON_LINES = (".jsonl", ".ndjson")

T = TypeVar("T")


@frozen
class Summary:
    """What an order list asks for.

    messages: how many, for each account (None where no column says) and Amazon's operation name.
    uploads: how many files, for each account.
    """

    messages: Mapping[tuple[str | None, str], int]
    uploads: Mapping[str | None, int]

    @property
    def accounts(self) -> list[str]:
        """The accounts that send."""
        return sorted({account or DEFAULT_ACCOUNT for account, _ in self.messages})

    @property
    def total(self) -> int:
        """All messages."""
        return sum(self.messages.values())


def check(path: Path, marketplace: Marketplace) -> Summary:
    """Read a whole list and what it names, sending nothing.

    marketplace: that of rows that name none; the others must be of its region.

    Raises InvalidOrderList with the first problems and the number of all, and ConfigurationError
    for a file that cannot be opened.
    """
    counts: Counter[tuple[str | None, str]] = Counter()
    uploads: Counter[str | None] = Counter()
    shown: list[Problem] = []
    total = 0
    for row in _rows(path, marketplace):
        if isinstance(row, Problem):
            total += 1
            shown.extend([row] if len(shown) < _SHOWN else ())
            continue
        counts[row.account, by_request(row.request).name] += 1
        uploads[row.account] += len(getattr(row.request, "attachments", ()))
    if total:
        raise InvalidOrderList(str(path), shown, total)
    return Summary(counts, uploads)


def messages(path: Path, marketplace: Marketplace) -> Iterator[Message]:
    """The messages of a list, one by one. Raises InvalidOrderList at the first problem."""
    for row in _rows(path, marketplace):
        if isinstance(row, Problem):
            raise InvalidOrderList(str(path), [row])
        yield row


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
        return value

    def problem(self, field: str, reason: str) -> Problem:
        cell = self.cells.get(field)
        return Problem(self.line, cell.column if cell else None, field, reason)


class _Unreadable(Exception):
    """The file itself cannot be read on from here."""

    def __init__(self, line: int, column: int | None, field: str, reason: str) -> None:
        super().__init__(line, column, field, reason)
        self.problem = Problem(line, column, field, reason)


def _rows(path: Path, marketplace: Marketplace) -> Iterator[Message | Problem]:
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


def _lines(file: Iterable[bytes]) -> Iterator[str]:
    for number, raw in enumerate(file, start=1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            column = len(raw[: error.start].decode("utf-8")) + 1
            reason = "is not UTF-8; save the list again as UTF-8"
            raise _Unreadable(number, column, "encoding", reason) from None
        yield line.removeprefix("\ufeff") if number == 1 else line


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
        cells = zip(names, record, strict=False)
        yield _Row(line, {name: _Cell(cell, at) for at, (name, cell) in enumerate(cells, start=1)})


def _numbered(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """Records with the number of their first line."""
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise _Unreadable(line, None, "row", f"is no CSV: {error}") from None
        if record is None:
            return
        yield line, record


def _header(line: int, names: list[str]) -> list[str]:
    names = [name.strip().lower() for name in names]
    for name in _REQUIRED:
        if name not in names:
            reason = f"the column is missing; the header has {', '.join(names)}"
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
            data = json.loads(line)
        except json.JSONDecodeError as error:
            yield Problem(number, error.colno, "row", f"is no JSON: {error.msg}")
            continue
        except RecursionError:
            yield Problem(number, None, "row", "is nested too deeply")
            continue
        if not isinstance(data, dict):
            yield Problem(number, 1, "row", "is no JSON object")
            continue
        yield _Row(number, {name: _Cell(value, None) for name, value in data.items()})


# From cells to a message


def _message(row: _Row, folder: Path, marketplace: Marketplace) -> Iterator[Message | Problem]:
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
        yield Message(order_id, request, override, account)


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
    values = {
        "text": row.text("text"),
        "attachments": _attachments(row, folder),
        "coverage_start_date": _optional(row, "coverage_start_date", _date),
        "coverage_end_date": _optional(row, "coverage_end_date", _date),
    }
    for name, value in values.items():
        if value and name not in takes:
            reason = f"{operation.name} sends none; clear it, so that nothing is lost unseen"
            raise InvalidMessage(Finding(name, reason))
    request: MessageRequest = make(**{name: values[name] for name in values if name in takes})
    content.check(request)
    return request


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
        return listed
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
