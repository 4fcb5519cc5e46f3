"""Lists as files: CSV with any usual separator and encoding, JSON Lines or a workbook, as rows.

What a row means is not known here; see `order_list`.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import re
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime, time
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import IO

from attrs import frozen

from ..errors import ConfigurationError, Finding, InvalidMessage, Problem

__all__ = ["AMAZON_ORDER_ID", "ORDER_ID", "Cell", "Row", "Unreadable", "fit", "plain_name", "read"]

_JSON_LINES = (".jsonl", ".ndjson")
_WORKBOOKS = (".xlsx", ".xlsm")
_SEPARATORS = ",;\t"
_LONGEST_LINE = 2**20  # characters
_LONGEST_CELL = 100  # lines
_MOST_ROWS = 2**20  # of a sheet, in any spreadsheet
_BATCH = 100  # rows

ORDER_ID = "order_id"
AMAZON_ORDER_ID = re.compile(r"\d{3}-\d{7}-\d{7}", re.ASCII)
# What Amazon's own reports, and other programs, call it.
_ALSO_ORDER_ID = ("amazon_order_id", "orderid", "amazonorderid")

_UNFIT = re.compile("[\0\x80-\x9f\ud800-\udfff]")
# How a spreadsheet shows a number that it took a long id for, and a value that it has none for.
_ROUNDED = re.compile(r"[+-]?\d(?:[.,]\d+)?E\+\d\d+", re.IGNORECASE)
_NO_VALUE = re.compile(  # in English, German, French, Spanish and Italian
    r"#(?:N/[AD]|NV|¡?(?:REF|VALOR|DIV/0|NUM|NULO)!|¿?NOMBRE[?!]|(?:VALUE|NULL|SPILL|CALC)!"
    r"|(?:BEZUG|WERT|ZAHL|ÜBERLAUF|VALEUR|NUL|RIF|VALORE|NULLO)!|(?:NAME|NOM|NOME)\?|#+)",
    re.IGNORECASE,
)
_EXACT = 10**15  # a spreadsheet keeps 15 digits of a number
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")  # how a workbook writes what XML cannot hold

# Encodings to Python, and of no file.
_NO_FILES = frozenset(["idna", "punycode", "unicode-escape", "raw-unicode-escape"])
_OTHER_FILES = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # of zip, as .xlsx and .ods are, and of .xls


@frozen
class Cell:
    """A value of a row, and the column it stands in, counted from 1."""

    value: object
    column: int | None


@frozen
class _NoResult:
    """In the place of a formula's value, where a workbook holds none."""


@frozen
class Row:
    """A row by the names of its columns, and the line that it begins in."""

    line: int
    cells: Mapping[str, Cell]
    is_of_table: bool = False  # and so has the same columns as all others

    def text(self, name: str) -> str:
        """A cell as text, "" where there is none. Raises InvalidMessage for one that is spoilt."""
        cell = self.cells.get(name)
        value = None if cell is None else cell.value
        if value is None or value == "":
            return ""
        if isinstance(value, _NoResult):
            reason = "is a formula without a value; open the list in a spreadsheet, and save it"
            raise InvalidMessage(Finding(name, reason))
        if not isinstance(value, str):
            raise InvalidMessage(Finding(name, f"is {_kind_of(value)}; give text, between quotes"))
        return _whole(name, fit(name, value))

    def value(self, name: str) -> object:
        """A cell's value, text without what surrounds it. Raises InvalidMessage as `text` does."""
        cell = self.cells.get(name)
        value = None if cell is None else cell.value
        return self.text(name).strip() if isinstance(value, str | _NoResult) else value

    def problem(self, field: str, reason: str) -> Problem:
        """A problem of this row, with its place."""
        cell = self.cells.get(field)
        return Problem(self.line, cell.column if cell else None, field, reason)


class Unreadable(Exception):
    """The file itself cannot be read on from here."""

    def __init__(self, line: int, column: int | None, field: str, reason: str) -> None:
        super().__init__(line, column, field, reason)
        self.problem = Problem(line, column, field, reason)


def read(
    path: Path,
    required: Sequence[str] = (),
    *,
    encoding: str | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Iterator[Row | Problem]:
    """The rows of a list, one by one, or what is wrong with them.

    required: columns that a table must have.
    encoding: of a text file without a byte order mark; UTF-8 unless given.
    renamed: other names of columns, by those in the file.

    Raises Unreadable, ConfigurationError for an encoding that there is not, and OSError.
    """
    names = _Names(required, renamed or {})
    if path.suffix.lower() in _WORKBOOKS:
        yield from _workbook(path, names)
        return
    rows = _json_lines if path.suffix.lower() in _JSON_LINES else _csv
    with path.open("rb") as file:
        yield from rows(_lines(file, _checked_encoding(encoding)), names)


def _kind_of(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return kinds.get(type(value), "an object")


def fit(name: str, text: str) -> str:
    """The text, if every character of it can be sent."""
    if match := _UNFIT.search(text):
        raise InvalidMessage(Finding(name, f"character {match.start() + 1} is {_unfit(match[0])}"))
    return text


def _unfit(character: str) -> str:
    if character == "\0":
        return "NUL, which cannot be sent; remove it"
    if character < "\xa0":
        return "a control character; the list's encoding is another: try windows-1252"
    return "half of a surrogate pair, which cannot be sent; remove it"


def _whole(name: str, text: str) -> str:
    """The text, if no spreadsheet has put something else in its place."""
    if "+" not in text and "#" not in text:
        return text
    shown = text.strip()
    if _ROUNDED.fullmatch(shown):
        reason = (
            f"{shown!r} is what a spreadsheet made of a long number; its last digits are lost. "
            "Format the column as text, and fill it again"
        )
        raise InvalidMessage(Finding(name, reason))
    if _NO_VALUE.fullmatch(shown):
        reason = f"{shown!r} is a spreadsheet's sign for a value that it cannot show; mend it there"
        raise InvalidMessage(Finding(name, reason))
    return text


# Names of columns


@frozen
class _Names:
    """What the columns of a list are called here."""

    required: Sequence[str]
    renamed: Mapping[str, str]

    def of(self, given: Iterable[object]) -> list[str]:
        """The names of a header's cells, or of an object's keys."""
        others = {plain_name(old): plain_name(new) for old, new in self.renamed.items()}
        names = [others.get(name, name) for name in map(plain_name, given)]
        if ORDER_ID not in names:
            also = next((name for name in _ALSO_ORDER_ID if name in names), None)
            names = [ORDER_ID if name == also else name for name in names]
        return names

    def own(self, given: Iterable[object], names: Sequence[str]) -> Mapping[str, str]:
        """By their own names, the names here of columns that have another here."""
        pairs = zip(map(plain_name, given), names, strict=True)
        return {old: new for old, new in pairs if old not in names}

    def of_header(self, line: int, given: Sequence[object], separator: str | None) -> list[str]:
        """As `of`. Raises Unreadable for a column that is missing or stands twice."""
        names = self.of(given)
        plain = [plain_name(name) for name in given]
        for name in self.renamed:
            if plain_name(name) not in plain:
                reason = f"of --map is no column; the header has {', '.join(plain)}"
                raise Unreadable(line, None, name, reason)
        for name in self.required:
            if name not in names:
                raise Unreadable(line, None, name, _why_missing(name, given, separator))
        for column, name in enumerate(names, start=1):
            if name and name in names[: column - 1]:
                raise Unreadable(line, column, name, "stands twice in the header")
        return names


def plain_name(name: object) -> str:
    """A column's name without capitals, spaces and dashes."""
    return re.sub(r"[\s-]+", "_", str("" if name is None else name).strip().lower())


_NO_HEADER = "is missing; begin with order_id, operation, …"


def _why_missing(name: str, given: Sequence[object], separator: str | None) -> str:
    shown = ", ".join(str(cell).strip() for cell in given if cell is not None)
    reason = f"the column is missing; the header has {shown}"
    if len(given) == 1 and separator is not None and name == ORDER_ID:
        return f"{reason}; put commas, semicolons or tabs between columns"
    remedy = f"--map NAME={name} takes another column for it"
    if name == "operation":
        remedy = "--operation gives one for all rows"
    return f"{reason}; {remedy}"


def _with_own_names(cells: dict[str, Cell], own: Mapping[str, str]) -> Mapping[str, Cell]:
    return {**cells, **{old: cells[new] for old, new in own.items()}} if own else cells


# From bytes to lines


def _checked_encoding(name: str | None) -> str | None:
    with suppress(LookupError, ValueError):  # it may be none that a codec could have
        if name is None or _codec(name) not in _NO_FILES:
            return name
    reason = "name one such as utf-8, utf-16, windows-1252 or iso-8859-15"
    raise ConfigurationError(f"--encoding {name!r} is none; {reason}")


def _codec(name: str) -> str:
    "".encode(name)  # which also refuses codecs that are not of text
    return codecs.lookup(name).name


_MARKS = {  # the longer ones first, which begin as others do
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def _lines(file: IO[bytes], given: str | None) -> Iterator[str]:
    """Lines with their ends. A byte order mark says more than the encoding that was given."""
    start = file.read(4)
    if start.startswith(_OTHER_FILES):
        reason = "is a workbook or an archive, and no text; save it as .xlsx or as CSV"
        raise Unreadable(1, None, "file", reason)
    mark = next((mark for mark in _MARKS if start.startswith(mark)), b"")
    encoding = _MARKS.get(mark) or _by_zeros(start)
    stated = None if encoding else given
    file.seek(len(mark))
    for number, line in enumerate(_decoded(file, encoding or given or "utf-8", stated), start=1):
        if stated and _is_utf8(line, stated):
            reason = f"is UTF-8, and not {stated}; leave --encoding out"
            raise Unreadable(number, None, "encoding", reason)
        yield line


def _by_zeros(start: bytes) -> str | None:
    """UTF-16 or -32 without a mark, which shows in the zeros around the letters of a header."""
    shape = bytes(map(bool, start))
    return _SHAPES.get(shape) or _SHAPES.get(shape[:2])


_SHAPES = {
    b"\1\0\0\0": "utf-32-le",
    b"\0\0\0\1": "utf-32-be",
    b"\1\0": "utf-16-le",
    b"\0\1": "utf-16-be",
}


def _is_utf8(line: str, encoding: str) -> bool:
    """Whether a line that was read in another encoding had better been read as UTF-8.

    It then is shorter. Two bytes that are one character in either are Chinese, most likely.
    """
    if line.isascii() or _codec(encoding).startswith("utf"):
        return False
    try:
        return len(line.encode(encoding).decode("utf-8")) < len(line)
    except UnicodeError:
        return False


def _decoded(file: IO[bytes], encoding: str, stated: str | None) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    number, rest, at_end = 1, "", False
    while not at_end:
        chunk = file.read(2**13)
        at_end = not chunk
        fault = None
        try:
            text = decoder.decode(chunk, at_end)
        except UnicodeError as error:
            fault = error
            text = ""
            if isinstance(error, UnicodeDecodeError):
                text = error.object[: error.start].decode(encoding, "replace")
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            yield line + "\n"
        number += len(whole)
        if fault is not None:
            raise Unreadable(number, len(rest) + 1, "encoding", _misread(encoding, stated))
        if len(rest) > _LONGEST_LINE:
            raise Unreadable(number, None, "row", "is longer than any row may be")
    if rest:
        yield rest


def _misread(encoding: str, stated: str | None) -> str:
    if stated:
        return f"is not {stated}; say what else it is with --encoding, or save the list as UTF-8"
    shown = encoding.upper()
    return (
        f"is not {shown}; save the list as UTF-8, or say what it is, as in --encoding windows-1252"
    )


# CSV


def _csv(lines: Iterator[str], names: _Names) -> Iterator[Row | Problem]:
    skipped, start = _first_line(lines)
    separator = _stated_separator(start)
    if separator is None:
        separator = _separator(start, names)
        lines = chain([start], lines)
    else:
        skipped += 1
    records = (_tabbed if separator == "\t" else _separated)(lines, separator, skipped)
    line, header, _ = next(records, (max(1, skipped), None, ()))
    if header is None:
        raise Unreadable(line, None, "header", _NO_HEADER)
    columns = names.of_header(line, header, separator)
    own = names.own(header, columns)
    for line, record, others in records:
        if not any(record):
            continue
        if len(record) > len(columns):
            yield _too_many(line, record, columns, separator)
            continue
        if any(_is_row(other, separator, len(columns)) for other in others):
            yield Problem(line, None, "row", _SWALLOWED.format(line + len(others)))
            continue
        pairs = zip_longest(columns, record, fillvalue="")
        cells = {name: Cell(cell, at) for at, (name, cell) in enumerate(pairs, start=1)}
        yield Row(line, _with_own_names(cells, own), is_of_table=True)


_SWALLOWED = (
    "a quote opens in it and is closed in line {}, and what is between looks like rows of its own; "
    "write a quote within a text twice, or take it out"
)


def _first_line(lines: Iterator[str]) -> tuple[int, str]:
    """The first line that is not blank, and how many are."""
    for skipped, line in enumerate(lines):
        if line.lstrip().startswith(("[", "{")):
            reason = "is JSON, and no table; write an object on each line, and name the file .jsonl"
            raise Unreadable(skipped + 1, 1, "file", reason)
        if line.strip():
            return skipped, line
    raise Unreadable(1, None, "header", _NO_HEADER)


def _is_row(line: str, separator: str, width: int) -> bool:
    """Whether a line within a cell has all cells of a row, and an order id among them."""
    cells = [cell.strip(' "\r\n') for cell in line.split(separator)]
    return len(cells) == width and any(map(AMAZON_ORDER_ID.fullmatch, cells))


def _stated_separator(line: str) -> str | None:
    """What a first line such as `sep=;` says, which spreadsheets understand."""
    match = re.fullmatch(r'"?sep=(.)"?\s*', line, re.IGNORECASE)
    return match[1] if match else None


def _separator(line: str, names: _Names) -> str:
    """That by which the header has the columns that it must have, or else the most."""

    def fitness(separator: str) -> tuple[int, int]:
        header = next(csv.reader([line], delimiter=separator), [])
        found = names.of(header)
        return sum(name in found for name in names.required), len(header)

    try:
        return max(_SEPARATORS, key=fitness)
    except csv.Error:  # which is told when the header is read
        return ","


def _too_many(line: int, record: list[str], columns: list[str], separator: str) -> Problem:
    called = {",": "commas", ";": "semicolons", "\t": "tabs"}.get(separator, repr(separator))
    reason = f"{len(record)} cells where the header has {len(columns)}; quote {called} in texts"
    return Problem(line, len(columns) + 1, "row", reason)


Record = tuple[int, list[str], Sequence[str]]
"""The number of its first line, its cells, and its other lines, if a cell holds line breaks."""


def _separated(lines: Iterator[str], separator: str, skipped: int) -> Iterator[Record]:
    """Records as spreadsheets write them."""
    seen: list[str] = []
    reader = csv.reader(_noted(lines, seen), delimiter=separator, strict=True)
    while True:
        seen.clear()
        line = reader.line_num + 1 + skipped
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise Unreadable(line, None, "row", f"is no CSV: {_in_words(error)}") from None
        if record is None:
            return
        yield line, record, seen[1:]


def _noted(lines: Iterator[str], seen: list[str]) -> Iterator[str]:
    for line in lines:
        seen.append(line)
        yield line


def _tabbed(lines: Iterator[str], separator: str, skipped: int) -> Iterator[Record]:
    """Records with tabs between their cells.

    Spreadsheets quote such cells where they must, and Amazon's reports never do: a quote there is
    an inch, or belongs to a title. So what would be rows of its own is no part of a quoted cell.
    """
    ahead = _Ahead(lines)
    number, width = skipped + 1, 0
    for line in ahead:
        cells = [_unquoted(cell) for cell in line.rstrip("\r\n").split(separator)]
        others: Sequence[str] = ()
        if width and any(cell.startswith('"') for cell in cells):
            cells, others = _over_lines(line, ahead, separator, width) or (cells, others)
        width = width or len(cells)
        yield number, cells, others
        number += 1 + len(others)


class _Ahead(Iterator[str]):
    """Lines, some of which were looked at and given back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._given_back: deque[str] = deque()

    def __next__(self) -> str:
        return self._given_back.popleft() if self._given_back else next(self._lines)

    def give_back(self, lines: Sequence[str]) -> None:
        """Let these come next, in this order."""
        self._given_back.extendleft(reversed(lines))


def _over_lines(
    line: str, ahead: _Ahead, separator: str, width: int
) -> tuple[list[str], Sequence[str]] | None:
    """A record with quoted cells, and the lines in which they go on; None if it is none."""
    others: list[str] = []
    quotes = line.count('"')
    while quotes % 2 and len(others) < _LONGEST_CELL and (other := next(ahead, None)) is not None:
        others.append(other)
        quotes += other.count('"')
    with suppress(csv.Error):
        records = list(csv.reader([line, *others], delimiter=separator, strict=True))
        is_one = len(records) == 1 and len(records[0]) == width
        if is_one and not any(_is_row(other, separator, width) for other in others):
            return records[0], others
    ahead.give_back(others)
    return None


def _unquoted(cell: str) -> str:
    """A cell without its quotes, if it is quoted as a spreadsheet does it."""
    inner = cell[1:-1]
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else cell


def _in_words(error: csv.Error) -> str:
    """What the csv module means, for somebody who has never heard of it."""
    text = str(error)
    if "end of data" in text:
        return "a quote that opens in it is never closed"
    if "new-line" in text:
        return "it holds a line break of an old kind; save the list again"
    if "expected after" in text:
        return (
            "text follows a closing quote; separate columns, and write a quote within a text twice"
        )
    return "a cell is longer than any message may be"


# JSON Lines


def _json_lines(lines: Iterator[str], names: _Names) -> Iterator[Row | Problem]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line.rstrip("\r\n"), object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            yield Problem(number, error.colno, "row", f"is no JSON: {error.msg}")
        except _Twice as error:
            yield Problem(number, None, "row", f"{error} stands twice; keep one of them")
        except ValueError:
            yield Problem(number, None, "row", "holds a number that is too long")
        except RecursionError:
            yield Problem(number, None, "row", "is nested too deeply")
        else:
            yield _of_object(number, data, names)


def _of_object(number: int, data: object, names: _Names) -> Row | Problem:
    if not isinstance(data, dict):
        return Problem(number, 1, "row", "is no JSON object")
    columns = names.of(data)
    for at, name in enumerate(columns):
        if name in columns[:at]:
            return Problem(number, None, "row", f"{name!r} stands twice; keep one of them")
    values = zip(columns, data.values(), strict=True)
    cells = {name: Cell(value, None) for name, value in values}
    return Row(number, _with_own_names(cells, names.own(data, columns)))


class _Twice(Exception):
    """A key that an object holds twice."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in pairs:
        if key in values:
            raise _Twice(repr(key))  # it may be one that cannot be printed
        values[key] = value
    return values


# Workbooks


def _workbook(path: Path, names: _Names) -> Iterator[Row | Problem]:
    """The rows of the first sheet that is not hidden; values as a spreadsheet would show them."""
    sheets = (_sheet(path, of_values=True), _sheet(path, of_values=False))
    with closing(sheets[0]), closing(sheets[1]):
        columns: list[str] | None = None
        own: Mapping[str, str] = {}
        for line, (results, formulas) in enumerate(zip(*sheets, strict=True), start=1):
            cells = [_as_shown(*both) for both in zip(results, formulas, strict=True)]
            if not any(cells):
                continue
            if columns is not None:
                yield _of_sheet(line, cells, columns, own)
                continue
            while not cells[-1]:  # a sheet is as wide as its widest row
                cells.pop()
            columns = names.of_header(line, cells, None)
            own = names.own(cells, columns)
        if columns is None:
            raise Unreadable(1, None, "header", _NO_HEADER)


def _sheet(path: Path, *, of_values: bool) -> Generator[list[tuple[object, str]]]:
    """The cells of a sheet, row by row, each with its type: values, or the formulas behind them."""
    try:
        import openpyxl
    except ImportError:
        need = f"reading {path.name} needs the"
        raise ConfigurationError.of_missing_extra(need, "excel") from None
    try:
        with path.open("rb") as file:  # which openpyxl would leave open, were it no workbook
            with _quiet():
                book = openpyxl.load_workbook(file, read_only=True, data_only=of_values)
            with closing(book):
                sheets = book.worksheets
                visible = (sheet for sheet in sheets if sheet.sheet_state == "visible")
                sheet = next(visible, sheets[0])
                # What a file says of its size may be wrong, and would be filled up with empty rows.
                sheet.reset_dimensions()
                rows = sheet.iter_rows()
                for number in itertools.count(step=_BATCH):
                    with _quiet():
                        batch = list(islice(rows, _BATCH))
                    if not batch:
                        return
                    if number > _MOST_ROWS:
                        raise ValueError("more rows than a workbook may have")
                    for row in batch:
                        yield [(cell.value, cell.data_type) for cell in row]
    except OSError:
        raise
    except Exception:  # a file that is no workbook makes it raise whatever comes up
        reason = "is no workbook that can be read; save it as .xlsx again, or as CSV"
        raise Unreadable(1, None, "file", reason) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without openpyxl's warnings about colours and the like, which do not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _of_sheet(
    line: int, cells: Sequence[object], columns: Sequence[str], own: Mapping[str, str]
) -> Row | Problem:
    for at, value in enumerate(cells[len(columns) :], start=len(columns) + 1):
        if value:
            return Problem(line, at, "row", "stands beside the header; give its column a name")
    pairs = zip_longest(columns, cells[: len(columns)], fillvalue="")
    found = {str(name): Cell(value, at) for at, (name, value) in enumerate(pairs, start=1)}
    return Row(line, _with_own_names(found, own), is_of_table=True)


def _as_shown(result: tuple[object, str], formula: tuple[object, str]) -> str | _NoResult:
    value, kind = result
    match value:
        case None:
            # A formula may have the empty text for its result.
            return _NoResult() if formula[1] == "f" and kind != "str" else ""
        case str():
            return _ESCAPED.sub(lambda code: chr(int(code[1], 16)), value)
        case bool():
            return str(value).upper()
        case int() | float() if abs(value) >= _EXACT:
            return f"{value:.5E}"  # its last digits are lost, and whoever reads it is to be told
        case float():
            return f"{value:.15g}"
        case datetime() if value.time() == time():
            return value.date().isoformat()
        case _:
            return str(value)
