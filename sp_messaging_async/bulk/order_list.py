"""Order lists: what their rows mean, and every problem of them with its place.

Columns: `order_id`, `operation` (Amazon's name, or its snake_case), `text`, `attachments` (paths
from the list's folder, `;` between them; `{column}` stands for a cell of the row),
`coverage_start_date`, `coverage_end_date`, `marketplace`, `account`. Other columns are variables of
a template and of paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time, tzinfo
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from attrs import evolve, field, fields_dict, frozen

from .. import attachments, content, wire
from ..errors import ConfigurationError, Finding, InvalidMessage, Problem
from ..marketplaces import Marketplace
from ..models import Attachment, LocalFile, MessageRequest
from ..operations import Operation, named
from . import advice, cells
from .cells import AMAZON_ORDER_ID, ORDER_ID, Row, plain_name
from .messages import Message
from .template import Template

__all__ = ["Listed", "Reading", "checked_order_id", "moment", "rows"]

# What word processors put in the place of a hyphen, and what nobody sees.
_AS_TYPED = {
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-"),
    **dict.fromkeys(map(ord, "\u200b\u200e\u200f\u2060\ufeff")),
}
_PLACEHOLDER = re.compile(r"\{\{?\s*([^{}]+?)\s*\}?\}")
_VARIABLE = re.compile(r"\{([^{}]*)\}")

T = TypeVar("T")
Given = TypeVar("Given", str, Sequence[str])


@frozen
class Reading:
    """How to read a list.

    encoding: of a text file without a byte order mark; UTF-8 unless given.
    renamed: other names of columns, by those in the file.
    operation, text, attachments: of rows that give none.
    attachments_from: the folder that paths begin in and must stay in; the list's unless given.
    account: of rows that name none.
    any_order_id: take order ids of another form than Amazon's 3-7-7 digits.
    timezone: of dates without an offset.
    template: writes the texts, in the language of each buyer.
    strict: take what is only advised against for a problem.
    """

    encoding: str | None = None
    renamed: Mapping[str, str] = field(factory=dict)
    operation: Operation | None = None
    text: str | None = None
    attachments: Sequence[str] = ()
    attachments_from: Path | None = None
    account: str | None = None
    any_order_id: bool = False
    timezone: tzinfo | None = None
    template: Template | None = None
    strict: bool = False


@frozen
class Listed:
    """A message, and the line of the list that it begins in.

    message: with a template, its text is the one in the default language.
    variables: what the template needs of the row; None without a template.
    advice: what had better be written otherwise, and is sent as it is.
    """

    line: int
    message: Message
    variables: Mapping[str, object] | None = None
    advice: Sequence[Problem] = ()


def rows(
    path: Path, marketplace: Marketplace, reading: Reading = Reading()
) -> Iterator[Listed | Problem]:
    """The rows of a list, one by one, each a message or what is wrong with it.

    marketplace: that of rows that name none; the others must be of its region.

    Raises ConfigurationError for a file that cannot be opened, or an encoding that there is not.
    """
    folder = reading.attachments_from or path.parent
    reader = _Reader(reading, folder, marketplace, _resolved(folder), _options(reading))
    try:
        yield from reader.rows(path)
    except cells.Unreadable as error:
        yield error.problem
    except OSError as error:
        raise ConfigurationError(
            f"the order list {path} cannot be read: {error.strerror or type(error).__name__}"
        ) from None


def checked_order_id(text: str, *, any_form: bool = False) -> str:
    """An order id without what surrounds it. Raises InvalidMessage if it is none.

    any_form: take others than Amazon's, of 3-7-7 digits.
    """
    order_id = text.translate(_AS_TYPED).strip()
    if any_form or not order_id or AMAZON_ORDER_ID.fullmatch(order_id):
        return wire.checked_order_id(order_id)
    reason = f"{order_id!r} is no order id of 3-7-7 digits, as in 111-2222222-3333333"
    with suppress(InvalidMessage):  # for one that no option takes
        wire.checked_order_id(order_id)
        reason += "; --any-order-id takes it as it is"
    raise InvalidMessage(Finding(ORDER_ID, reason))


def moment(name: str, text: str, timezone: tzinfo | None) -> datetime:
    """The time that a field says, with its offset. Raises InvalidMessage if it says none.

    timezone: of a text without an offset. A date alone is its whole day: the coverage starts with
        its first second, and ends with its last.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        reason = f"{text!r} is no date; write it as 2026-01-31T00:00:00+00:00"
        raise InvalidMessage(Finding(name, reason)) from None
    if found.tzinfo is not None:
        return found
    if timezone is None:
        reason = f"{text!r} has no offset; add one, as in +01:00, or give --timezone Europe/Berlin"
        raise InvalidMessage(Finding(name, reason))
    if _is_date(text) and name == "coverage_end_date":
        found = datetime.combine(found.date(), time(23, 59, 59))
    return found.replace(tzinfo=timezone)


class _Findings(list[Finding]):
    """What is wrong with a row, gathered while all of it is looked at."""

    def tried(self, read: Callable[[], T]) -> T | None:
        """What was read, or None, and why it was not."""
        try:
            return read()
        except InvalidMessage as error:
            self.extend(error.findings)
            return None


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        reason = type(error).__name__
        raise ConfigurationError(f"{folder} cannot be followed ({reason})") from None


def _options(reading: Reading) -> set[str]:
    given = {"--text": reading.text, "--attach": reading.attachments}
    return {option for option, value in given.items() if value}


@frozen
class _Reader:
    """Turns the rows of one list into messages."""

    reading: Reading
    folder: Path
    marketplace: Marketplace
    root: Path  # the folder without links, which no path may lead out of
    unused: set[str]  # options of which no row has made use yet

    def rows(self, path: Path) -> Iterator[Listed | Problem]:
        reading = self.reading
        operation = reading.template.operation if reading.template else reading.operation
        required = (ORDER_ID,) if operation else (ORDER_ID, "operation")
        listed = cells.read(path, required, encoding=reading.encoding, renamed=reading.renamed)
        columns: object = None
        for row in listed:
            if isinstance(row, Problem):
                yield row
                continue
            missing = [] if row.cells.keys() == columns else self._missing_columns(row)
            columns = row.cells.keys()
            yield from missing or self._message(row)
            if missing and row.is_of_table:  # and so it is in all the others
                return
        if columns is not None:
            for option in sorted(self.unused):
                yield Problem(1, None, option, "is of no use to any row of the list; leave it out")

    def _missing_columns(self, row: Row) -> list[Problem]:
        template = self.reading.template
        found = list(template.findings(row.cells.keys())) if template else []
        for path in self.reading.attachments:
            for variable in _VARIABLE.finditer(path):
                if plain_name(variable[1]) not in row.cells:
                    found.append(Finding("attachments", _no_column(row, variable)))
        return [row.problem(finding.field, finding.reason) for finding in found]

    def _message(self, row: Row) -> Iterator[Listed | Problem]:
        findings = _Findings()
        order_id = findings.tried(partial(self._order_id, row))
        operation = findings.tried(partial(self._operation, row))
        variables = findings.tried(partial(self._variables, row))
        request = None
        if operation and variables is not None:
            request = findings.tried(partial(self._request, row, operation, variables))
        place = findings.tried(
            partial(_optional, row, "marketplace", self.marketplace.of_same_region)
        )
        account = findings.tried(lambda: row.text("account").strip()) or self.reading.account
        advised = list(self._advice(row, request, variables, place or self.marketplace))
        problems = [_problem(row, finding) for finding in findings]
        yield from problems
        if self.reading.strict:
            yield from advised
        if order_id and request and not problems and not (advised and self.reading.strict):
            message = Message(order_id, request, place, account)
            yield Listed(row.line, message, variables if self.reading.template else None, advised)

    def _order_id(self, row: Row) -> str:
        return checked_order_id(row.text(ORDER_ID), any_form=self.reading.any_order_id)

    def _operation(self, row: Row) -> Operation:
        template, given = self.reading.template, row.text("operation").strip()
        if not given:
            operation = template.operation if template else self.reading.operation
            if operation is not None:
                return operation
            raise InvalidMessage(Finding("operation", "is empty; --operation gives one to all"))
        operation = named(given)
        if not operation.messages_buyer:
            raise InvalidMessage(Finding("operation", f"{operation.name} messages nobody"))
        if template and operation is not template.operation:
            reason = f"{template.name} is for {template.operation.name}; list the others elsewhere"
            raise InvalidMessage(Finding("operation", reason))
        return operation

    def _variables(self, row: Row) -> Mapping[str, object]:
        """What the template needs of a row; an empty cell is none of it."""
        names = self.reading.template.columns if self.reading.template else ()
        values = {name: row.value(name.lower()) for name in sorted(names)}
        return {name: value for name, value in values.items() if value not in (None, "")}

    def _request(
        self, row: Row, operation: Operation, variables: Mapping[str, object]
    ) -> MessageRequest:
        """The request; with a template, that in its default language, all others checked too."""
        findings = _Findings()
        values = self._values(row, operation, findings)
        template = self.reading.template
        if template is None:
            return _checked(operation, values, findings)
        requests = {
            locale: findings.tried(partial(_in_language, template, locale, values, variables))
            for locale in template.texts
        }
        default = requests[template.default_locale]
        if findings or default is None:
            raise InvalidMessage(*dict.fromkeys(findings))  # a file is amiss in every language
        return default

    def _values(self, row: Row, operation: Operation, findings: _Findings) -> dict[str, object]:
        """The request's fields, but for those that could not be read."""
        readers: dict[str, Callable[[], object]] = {
            "text": partial(self._text, row, operation),
            "attachments": partial(self._attachments, row, operation),
            "coverage_start_date": partial(self._date, row, "coverage_start_date"),
            "coverage_end_date": partial(self._date, row, "coverage_end_date"),
        }
        takes = fields_dict(_class_of(operation))
        before = len(findings)
        values = {}
        for name, read in readers.items():
            value = findings.tried(read)
            if len(findings) == before:
                values[name] = value
            before = len(findings)
        for name, value in values.items():
            if value and name not in takes:
                reason = f"{operation.name} sends none; clear it, so that nothing is lost unseen"
                findings.append(Finding(name, reason))
        return {name: value for name, value in values.items() if name in takes}

    def _text(self, row: Row, operation: Operation) -> str:
        template, text = self.reading.template, row.text("text")
        if template is None:
            return text or self._option("--text", self.reading.text or "", operation.takes_text)
        if text and "text" not in template.columns:
            reason = f"{template.name} writes the text; clear the cell, or use it as {{{{ text }}}}"
            raise InvalidMessage(Finding("text", reason))
        return ""

    def _attachments(self, row: Row, operation: Operation) -> tuple[LocalFile, ...]:
        files = tuple(self._file(row, path) for path in self._paths(row, operation))
        attachments.check_all(file.path for file in files)
        return files

    def _paths(self, row: Row, operation: Operation) -> Sequence[str]:
        cell = row.cells.get("attachments")
        listed = cell.value if cell is not None else None
        if isinstance(listed, list) and all(isinstance(path, str) for path in listed):
            given = [cells.fit("attachments", path) for path in listed]
        else:
            paths = row.text("attachments").split(";")
            given = [path.strip() for path in paths if path.strip()]
        listed = self.reading.attachments
        return given or self._option("--attach", listed, operation.takes_attachments)

    def _option(self, name: str, value: Given, is_taken: bool) -> Given:
        """What an option says, for a row that says nothing, if its operation takes that."""
        if not is_taken:
            return type(value)()
        self.unused.discard(name)
        return value

    def _file(self, row: Row, path: str) -> LocalFile:
        named_so = self.folder / _VARIABLE.sub(partial(_cell_of, row), path)
        try:
            file = named_so.resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or no path at all
            reason = f"{path!r} is no path that can be followed ({type(error).__name__})"
            raise InvalidMessage(Finding("attachments", reason)) from None
        if not file.is_relative_to(self.root):
            remedy = "--attachments-from names another folder"
            reason = f"{named_so} is not within {self.root}; {remedy}"
            raise InvalidMessage(Finding("attachments", reason))
        return LocalFile(file, named_so.name)

    def _date(self, row: Row, name: str) -> datetime | None:
        return _optional(row, name, lambda text: moment(name, text, self.reading.timezone))

    def _advice(
        self,
        row: Row,
        request: MessageRequest | None,
        variables: Mapping[str, object] | None,
        place: Marketplace,
    ) -> Iterator[Problem]:
        """What had better not be written. A template's own words are looked at once, elsewhere."""
        if self.reading.template is None:
            written = {"text": getattr(request, "text", "")}
        else:
            written = {name: str(value) for name, value in (variables or {}).items()}
        for match in _PLACEHOLDER.finditer("" if variables else written.get("text", "")):
            if plain_name(match[1]) in row.cells:
                reason = f"{match[0]} is sent as it stands; only a --template puts the column there"
                yield _problem(row, Finding("text", reason, match.start() + 1))
        for name, text in written.items():
            for finding in advice.of_text(text, place.country):
                yield _problem(row, evolve(finding, field=name))


# From cells to values


def _class_of(operation: Operation) -> Any:
    return operation.request


def _in_language(
    template: Template, locale: str, values: Mapping[str, object], variables: Mapping[str, object]
) -> MessageRequest:
    text = template.text(locale, variables)
    try:
        return _checked(template.operation, {**values, "text": text}, _Findings())
    except InvalidMessage as error:
        named_by_locale = (
            evolve(finding, field=f"text.{locale}") if finding.field == "text" else finding
            for finding in error.findings
        )
        raise InvalidMessage(*named_by_locale) from None


def _checked(
    operation: Operation, values: Mapping[str, object], findings: _Findings
) -> MessageRequest:
    """The request of these values, if nothing was found nor is now; all of it is told at once."""
    make = _class_of(operation)
    stand_ins = {name: _STAND_INS[name] for name in fields_dict(make) if name not in values}
    request: MessageRequest | None = findings.tried(lambda: make(**{**values, **stand_ins}))
    if request is not None:
        findings.extend(content.findings(request))
    if findings or request is None:
        raise InvalidMessage(*findings)
    return request


# In the place of values that could not be read, so that the others can be checked.
_STAND_INS: dict[str, object] = {
    "text": "-",
    "attachments": (Attachment("-", "-"),),
    "coverage_start_date": None,
    "coverage_end_date": None,
}


def _cell_of(row: Row, variable: re.Match[str]) -> str:
    """What a path's `{column}` stands for."""
    name = plain_name(variable[1])
    if name not in row.cells:
        raise InvalidMessage(Finding("attachments", _no_column(row, variable)))
    value = row.value(name)
    if value in (None, ""):
        reason = f"{variable[0]} is empty in this row; fill the cell"
        raise InvalidMessage(Finding("attachments", reason))
    return str(value)


def _no_column(row: Row, variable: re.Match[str]) -> str:
    return f"{variable[0]} is no column; the list has {', '.join(row.cells)}"


def _optional(row: Row, name: str, read: Callable[[str], T]) -> T | None:
    text = row.text(name).strip()
    try:
        return read(text) if text else None
    except InvalidMessage as error:
        raise InvalidMessage(*(evolve(finding, field=name) for finding in error.findings)) from None


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


# From findings to problems

_COLUMNS = {"amazon_order_id": ORDER_ID, "file_name": "attachments", "path": "attachments"}


def _problem(row: Row, finding: Finding) -> Problem:
    place = "" if finding.position is None else f"at character {finding.position}: "
    return row.problem(_COLUMNS.get(finding.field, finding.field), place + finding.reason)
