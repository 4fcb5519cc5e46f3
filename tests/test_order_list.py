"""Order lists: rows become messages, and everything that is wrong with a list is told at once."""

from __future__ import annotations

import csv
import io
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sp_messaging_async import (
    ConfigurationError,
    CreateAmazonMotorsRequest,
    CreateConfirmCustomizationDetailsRequest,
    CreateConfirmDeliveryDetailsRequest,
    CreateConfirmOrderDetailsRequest,
    CreateConfirmServiceDetailsRequest,
    CreateDigitalAccessKeyRequest,
    CreateLegalDisclosureRequest,
    CreateNegativeFeedbackRemovalRequest,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    InvalidOrderList,
    InvoiceRequest,
    LocalFile,
    Marketplace,
    Message,
    MessageRequest,
    Problem,
)
from sp_messaging_async.bulk import order_list
from sp_messaging_async.bulk.campaign import Problems
from sp_messaging_async.bulk.order_list import Listed, Reading
from sp_messaging_async.operations import MESSAGING, by_request, named

from .conftest import ORDER

COLUMNS = (
    "order_id",
    "operation",
    "text",
    "attachments",
    "coverage_start_date",
    "coverage_end_date",
    "marketplace",
    "account",
)
US = Marketplace.US
HEADER = "order_id,operation,text\n"
ROW = f"{ORDER},createUnexpectedProblem,Sold out.\n"
MESSAGE = Message(ORDER, CreateUnexpectedProblemRequest("Sold out."))

Cells: TypeAlias = Mapping[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files to attach."""
    for name in ("a.pdf", "b.txt", "c;d.png"):
        (tmp_path / name).write_bytes(b"content")
    return tmp_path


def write(folder: Path, content: str | bytes, name: str = "orders.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _short(value: object) -> str:
    if isinstance(value, dict) and len(value) > 2:
        return str(value["operation"])
    if callable(value):
        return value.__name__
    return ascii(value)[:60]


def as_csv(folder: Path, *rows: Cells) -> Path:
    """A table with all columns, in which each row stands on one line."""
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return write(folder, file.getvalue())


def as_json_lines(folder: Path, *rows: Cells) -> Path:
    lines = [json.dumps(row) + "\n" for row in rows]
    return write(folder, "".join(lines), "orders.jsonl")


def check(path: Path, place: Marketplace) -> int:
    """How many messages a list holds; raises its problems as an enrolment does."""
    number, problems = 0, Problems()
    for row in order_list.rows(path, place):
        if isinstance(row, Problem):
            problems.add([row])
        number += 1
    if problems.total:
        raise InvalidOrderList(str(path), problems.first, problems.total)
    return number


def listed(path: Path, place: Marketplace) -> Iterator[Message]:
    """The messages of a list, up to its first problem, which is raised."""
    for row in order_list.rows(path, place):
        if isinstance(row, Problem):
            raise InvalidOrderList(str(path), [row])
        yield row.message


def messages(path: Path) -> list[Message]:
    return list(listed(path, US))


def problems(path: Path) -> list[Problem]:
    """What `check` finds; `messages` raises the first of it, and gives none after it."""
    with pytest.raises(InvalidOrderList) as caught:
        check(path, US)
    assert caught.value.path == str(path)
    with pytest.raises(InvalidOrderList) as first:
        messages(path)
    assert first.value.problems == caught.value.problems[:1]
    return list(caught.value.problems)


def place(problem: Problem) -> tuple[int, int | None, str]:
    return problem.line, problem.column, problem.field


# Good rows


def files(folder: Path) -> list[LocalFile]:
    return [LocalFile(folder / "a.pdf"), LocalFile(folder / "b.txt")]


START = datetime(2026, 1, 31, tzinfo=UTC)
END = datetime(2028, 1, 31, 12, tzinfo=timezone(timedelta(hours=-5)))
FILES = "a.pdf;b.txt"

Expected: TypeAlias = Callable[[Path], MessageRequest]
EVERY_KIND: dict[str, tuple[Cells, Expected]] = {
    "confirmCustomizationDetails": (
        {"text": "Red?", "attachments": FILES},
        lambda folder: CreateConfirmCustomizationDetailsRequest("Red?", files(folder)),
    ),
    "createConfirmDeliveryDetails": (
        {"text": "When?"},
        lambda folder: CreateConfirmDeliveryDetailsRequest("When?"),
    ),
    "createLegalDisclosure": (
        {"attachments": FILES},
        lambda folder: CreateLegalDisclosureRequest(files(folder)),
    ),
    "createNegativeFeedbackRemoval": ({}, lambda folder: CreateNegativeFeedbackRemovalRequest()),
    "createConfirmOrderDetails": (
        {"text": "Two?"},
        lambda folder: CreateConfirmOrderDetailsRequest("Two?"),
    ),
    "createConfirmServiceDetails": (
        {"text": "How wide?"},
        lambda folder: CreateConfirmServiceDetailsRequest("How wide?"),
    ),
    "createAmazonMotors": (
        {"attachments": FILES},
        lambda folder: CreateAmazonMotorsRequest(files(folder)),
    ),
    "createWarranty": (
        {
            "attachments": FILES,
            "coverage_start_date": "2026-01-31T00:00:00Z",
            "coverage_end_date": "2028-01-31T12:00:00-05:00",
        },
        lambda folder: CreateWarrantyRequest(files(folder), START, END),
    ),
    "createDigitalAccessKey": (
        {"text": "KEY", "attachments": FILES},
        lambda folder: CreateDigitalAccessKeyRequest("KEY", files(folder)),
    ),
    "createUnexpectedProblem": (
        {"text": "Sold out."},
        lambda folder: CreateUnexpectedProblemRequest("Sold out."),
    ),
    "sendInvoice": ({"attachments": FILES}, lambda folder: InvoiceRequest(files(folder))),
}


@pytest.mark.parametrize("form", [as_csv, as_json_lines])
@pytest.mark.parametrize("naming", ["name", "coroutine"])
@pytest.mark.parametrize("operation", [row for row in MESSAGING.values() if row.messages_buyer])
def test_every_kind_of_message(
    folder: Path, form: Callable[..., Path], naming: str, operation: Any
) -> None:
    """Each operation, by Amazon's name or in snake_case, takes what its columns say."""
    cells, expected = EVERY_KIND[operation.name]
    path = form(folder, {"order_id": ORDER, "operation": getattr(operation, naming), **cells})
    assert messages(path) == [Message(ORDER, expected(folder))]
    assert by_request(expected(folder)) is operation


@pytest.mark.parametrize("form", [as_csv, as_json_lines])
@pytest.mark.parametrize(
    ("cells", "marketplace", "account"),
    [
        ({}, None, None),
        ({"marketplace": "", "account": ""}, None, None),
        ({"marketplace": "CA"}, Marketplace.CA, None),
        ({"marketplace": " mx "}, Marketplace.MX, None),
        ({"marketplace": "ATVPDKIKX0DER", "account": "toys"}, US, "toys"),
        ({"account": " toys "}, None, "toys"),
    ],
    ids=str,
)
def test_marketplace_and_account(
    folder: Path,
    form: Callable[..., Path],
    cells: Cells,
    marketplace: Marketplace | None,
    account: str | None,
) -> None:
    """A row may name its marketplace and its seller; without, both are left to the session."""
    row = {"order_id": f" {ORDER} ", "operation": " createUnexpectedProblem ", "text": "Sold out."}
    assert messages(form(folder, {**row, **cells})) == [
        Message(ORDER, MESSAGE.request, marketplace, account)
    ]


@pytest.mark.parametrize(
    "content",
    [
        HEADER + ROW,
        "\ufeff" + HEADER + ROW,
        (HEADER + ROW).replace("\n", "\r\n"),
        (HEADER + ROW).rstrip("\n"),
        HEADER + "\n" + ROW + "\n,,\n",
        f"Text, OPERATION ,order_id\nSold out.,createUnexpectedProblem,{ORDER}\n",
        f"order_id,operation,name,text,,\n{ORDER},createUnexpectedProblem,Ann,Sold out.,x,y\n",
        f'"order_id","operation","text"\n"{ORDER}","createUnexpectedProblem","Sold out."\n',
    ],
    ids=["plain", "BOM", "CRLF", "no last line end", "blank lines", "header", "more", "quoted"],
)
def test_tables_as_spreadsheets_write_them(folder: Path, content: str) -> None:
    """Marks, line ends, quotes, blank lines, capitals and columns of no concern change nothing."""
    assert messages(write(folder, content)) == [MESSAGE]


ONE = json.dumps({"order_id": ORDER, "operation": "createUnexpectedProblem", "text": "Sold out."})


@pytest.mark.parametrize("name", ["o.jsonl", "o.ndjson", "O.JSONL"])
@pytest.mark.parametrize(
    "content",
    [
        ONE + "\n",
        "\ufeff" + ONE,
        ONE + "\r\n",
        "\n \n" + ONE + "\n\n",
        ONE.replace("}", ', "attachments": null, "account": null, "name": [1, {"a": 2}]}'),
    ],
    ids=["plain", "BOM", "CRLF", "blank lines", "nulls and more"],
)
def test_json_lines_as_programs_write_them(folder: Path, content: str, name: str) -> None:
    """Marks, line ends, blank lines, nulls and keys of no concern change nothing."""
    assert messages(write(folder, content, name)) == [MESSAGE]


@pytest.mark.parametrize("form", [as_csv, as_json_lines])
@pytest.mark.parametrize(
    "text",
    [" indented ", "a, b; c", 'say "yes"', "one\ntwo\r\nthree", "二つ 😀 é", "a\u2028b", "=1+1"],
    ids=ascii,
)
def test_texts_arrive_unchanged(folder: Path, form: Callable[..., Path], text: str) -> None:
    """Not a space, quote, comma or line break of a text is touched."""
    row = {"order_id": ORDER, "operation": "createUnexpectedProblem", "text": text}
    assert messages(form(folder, row)) == [Message(ORDER, CreateUnexpectedProblemRequest(text))]


@pytest.mark.parametrize(
    ("form", "cell", "names"),
    [
        (as_csv, "a.pdf", ["a.pdf"]),
        (as_csv, " a.pdf ; b.txt; ", ["a.pdf", "b.txt"]),
        (as_csv, "../{folder}/a.pdf", ["a.pdf"]),
        (as_csv, "{path}/b.txt", ["b.txt"]),
        (as_json_lines, "a.pdf;b.txt", ["a.pdf", "b.txt"]),
        (as_json_lines, ["a.pdf", "c;d.png"], ["a.pdf", "c;d.png"]),
        (as_json_lines, ["{path}/b.txt"], ["b.txt"]),
    ],
    ids=_short,
)
def test_attachments_are_found_beside_the_list(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: Callable[..., Path],
    cell: Any,
    names: list[str],
) -> None:
    """Paths are taken from the list's folder, wherever the command is run."""
    monkeypatch.chdir("/")
    cell = json.loads(
        json.dumps(cell).replace("{folder}", folder.name).replace("{path}", str(folder))
    )
    row = {"order_id": ORDER, "operation": "sendInvoice", "attachments": cell}
    (message,) = messages(form(folder, row))
    assert isinstance(message.request, InvoiceRequest)
    attached = [item for item in message.request.attachments if isinstance(item, LocalFile)]
    assert [item.file_name for item in attached] == names
    assert all(item.path.read_bytes() == b"content" for item in attached)


@pytest.mark.parametrize(
    ("content", "name"),
    [(HEADER, "o.csv"), ("\ufeff" + HEADER.strip(), "o.csv"), ("", "o.jsonl"), ("\n\n", "o.jsonl")],
    ids=ascii,
)
def test_a_list_without_rows_asks_for_nothing(folder: Path, content: str, name: str) -> None:
    """A table of a header alone, or JSON Lines without a line, are lists of no messages."""
    path = write(folder, content, name)
    assert (check(path, US), messages(path)) == (0, [])


# Bad cells

KEY = {"order_id": ORDER, "operation": "createDigitalAccessKey", "text": "KEY"}
WARRANTY = {"order_id": ORDER, "operation": "createWarranty", "attachments": "a.pdf"}

BAD_CELLS = [
    (KEY, {"order_id": ""}, "order_id", "is no order id; Amazon's look like"),
    (KEY, {"order_id": "  "}, "order_id", "is no order id; Amazon's look like"),
    (KEY, {"order_id": "111/222"}, "order_id", "'111/222' is no order id of 3-7-7 digits"),
    (KEY, {"order_id": ".."}, "order_id", "is no order id of 3-7-7 digits"),
    (KEY, {"order_id": "111 222"}, "order_id", "is no order id of 3-7-7 digits"),
    (KEY, {"order_id": f"{ORDER}?x=y"}, "order_id", "is no order id of 3-7-7 digits"),
    (KEY, {"operation": ""}, "operation", "is empty; --operation gives one to all"),
    (KEY, {"operation": "createTrouble"}, "operation", "'createTrouble' is no operation; give one"),
    (KEY, {"operation": "getAttributes"}, "operation", "getAttributes messages nobody"),
    (
        KEY,
        {"operation": "createUploadDestinationForResource"},
        "operation",
        "is no operation; give one of",
    ),
    (KEY, {"text": ""}, "text", "is empty; write 1 to 400 characters"),
    (KEY, {"text": " \n "}, "text", "is empty; write 1 to 400 characters"),
    (
        KEY,
        {"text": "x" * 401},
        "text",
        "at character 401: has 401 characters where Amazon takes 400; shorten it",
    ),
    (KEY, {"text": "a <b>c"}, "text", "at character 3: <b> is HTML, .*write plain text"),
    (KEY, {"text": "a&eacute;"}, "text", "at character 2: &eacute; .*write the character itself"),
    (KEY, {"text": "ask a@example.com"}, "text", "at character 5: an e-mail address"),
    (KEY, {"attachments": "none.pdf"}, "attachments", "none.pdf cannot be read: [A-Z]"),
    (KEY, {"attachments": "a.pdf;a.exe"}, "attachments", "'a.exe' is of a type .*it takes .txt"),
    (KEY, {"attachments": "a"}, "attachments", "'a' is of a type that Amazon refuses"),
    (KEY, {"attachments": "empty.pdf"}, "attachments", "empty.pdf is empty"),
    (KEY, {"attachments": "folder.pdf"}, "attachments", "folder.pdf (is no file|cannot be read)"),
    (KEY, {"attachments": ";".join(["a.pdf"] * 6)}, "attachments", "holds 6 .*takes 0 to 5"),
    (
        KEY,
        {"attachments": "large.pdf"},
        "attachments",
        "large.pdf is larger than the 10,000,000 bytes",
    ),
    (
        KEY,
        {"attachments": "half.pdf;half.pdf"},
        "attachments",
        "come to 10,000,002 bytes; Amazon takes 10,000,000",
    ),
    (KEY, {"attachments": "x" * 300 + ".pdf"}, "attachments", "cannot be read: [A-Z]"),
    (WARRANTY, {"attachments": ""}, "attachments", "holds 0 where Amazon takes 1 to 5"),
    (
        WARRANTY,
        {"coverage_start_date": "31.01.2026"},
        "coverage_start_date",
        "'31.01.2026' is no date; write it as 2026-01-31T00:00:00",
    ),
    (
        WARRANTY,
        {"coverage_start_date": "2026-01-31"},
        "coverage_start_date",
        "'2026-01-31' has no offset; add one, as in .01:00, or give --timezone Europe/Berlin",
    ),
    (
        WARRANTY,
        {"coverage_end_date": "2026-01-31T10:00"},
        "coverage_end_date",
        "'2026-01-31T10:00' has no offset; add one",
    ),
    (WARRANTY, {"coverage_end_date": "2026-02-30T00:00Z"}, "coverage_end_date", "is no date"),
    (
        WARRANTY,
        {
            "coverage_start_date": "2026-01-31T00:00Z",
            "coverage_end_date": "2026-01-30T23:59Z",
        },
        "coverage_end_date",
        r"2026-01-30T23:59:00\+00:00 lies before coverage_start_date 2026-01-31",
    ),
    (
        WARRANTY,
        {"coverage_end_date": "9999-12-31T23:59:59-05:00"},
        "coverage_end_date",
        "is a time that UTC has not",
    ),
    (KEY, {"marketplace": "XX"}, "marketplace", "'XX' is no marketplace; give .*CA, US, MX"),
    (KEY, {"marketplace": "DE"}, "marketplace", "DE is in region EU, and US in NA; each needs"),
    (KEY, {"marketplace": "A1PA6795UKMFR9"}, "marketplace", "DE is in region EU, and US in NA"),
    (KEY, {"coverage_start_date": "2026-01-31T00:00Z"}, "coverage_start_date", "sends none; clear"),
    (
        KEY,
        {"operation": "createUnexpectedProblem", "attachments": "a.pdf"},
        "attachments",
        "createUnexpectedProblem sends none; clear it",
    ),
    (WARRANTY, {"text": "Hello"}, "text", "createWarranty sends none; clear it"),
    (KEY, {"order_id": f"{ORDER}\0"}, "order_id", ""),
    (KEY, {"operation": "createWarranty\0"}, "operation", ""),
    (KEY, {"text": "a\0b"}, "text", ""),
    (KEY, {"attachments": "a\0.pdf"}, "attachments", ""),
    (KEY, {"marketplace": "US\0"}, "marketplace", ""),
    (KEY, {"account": "toys\0"}, "account", ""),
]


@pytest.fixture
def hard_folder(folder: Path) -> Path:
    """A folder with files that cannot be attached, too."""
    (folder / "empty.pdf").touch()
    (folder / "folder.pdf").mkdir()
    for name, size in {"large.pdf": 10_000_001, "half.pdf": 5_000_001}.items():
        with (folder / name).open("wb") as file:
            file.truncate(size)
    return folder


@pytest.mark.parametrize("form", [as_csv, as_json_lines])
@pytest.mark.parametrize(("good", "change", "field", "reason"), BAD_CELLS, ids=_short)
def test_bad_cells(
    hard_folder: Path,
    form: Callable[..., Path],
    good: Cells,
    change: Cells,
    field: str,
    reason: str,
) -> None:
    """A cell that cannot be used is one problem: its line, its column, and what to do about it."""
    path = form(hard_folder, good, {**good, **change}, good)
    (problem,) = problems(path)
    line, column = (3, COLUMNS.index(field) + 1) if form is as_csv else (2, None)
    assert place(problem) == (line, column, field)
    assert problem.reason
    assert re.search(reason, problem.reason)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"order_id": 1112222222}, "order_id", "is a number"),
        ({"order_id": [ORDER]}, "order_id", "is a list"),
        ({"operation": True}, "operation", "is true or false"),
        ({"text": 5.0}, "text", "is a number"),
        ({"text": {"text": "KEY"}}, "text", "is an object"),
        ({"text": "\ud800"}, "text", "surrogate"),
        ({"attachments": 1}, "attachments", "is a number"),
        ({"attachments": ["a.pdf", 1]}, "attachments", "is a list"),
        ({"attachments": [["a.pdf"]]}, "attachments", "is a list"),
        ({"attachments": ["\udcff.pdf"]}, "attachments", "surrogate"),
        ({"attachments": ["a.pdf", "a\0.pdf"]}, "attachments", "NUL"),
        ({"coverage_start_date": 20260131}, "coverage_start_date", "is a number"),
        ({"marketplace": 1}, "marketplace", "is a number"),
        ({"account": 1}, "account", "is a number"),
        ({"account": "\ud800"}, "account", ""),
    ],
    ids=_short,
)
def test_bad_values(folder: Path, change: Cells, field: str, reason: str) -> None:
    """A JSON value of a wrong type, or one that nothing can write, is a problem of its field."""
    (problem,) = problems(as_json_lines(folder, {**KEY, **change}))
    assert place(problem) == (1, None, field)
    assert reason in problem.reason


@pytest.mark.parametrize("form", [as_csv, as_json_lines])
@pytest.mark.parametrize(
    ("row", "fields"),
    [
        (
            {"order_id": "1/2", "operation": "no", "marketplace": "XX"},
            ["order_id", "operation", "marketplace"],
        ),
        (
            {**KEY, "order_id": "", "text": "<b> a@example.com", "marketplace": "DE"},
            ["order_id", "text", "text", "marketplace"],
        ),
        ({**KEY, "text": "", "attachments": "none.pdf"}, ["text", "attachments"]),
        (
            {
                **WARRANTY,
                "attachments": "none.pdf",
                "coverage_start_date": "soon",
                "coverage_end_date": "late",
            },
            ["attachments", "coverage_start_date", "coverage_end_date"],
        ),
    ],
    ids=_short,
)
def test_all_bad_cells_of_a_row_are_told(
    folder: Path, form: Callable[..., Path], row: Cells, fields: list[str]
) -> None:
    """Nobody mends a row only to be told of its next cell."""
    found = [problem.field for problem in problems(form(folder, row))]
    assert sorted(found) == sorted(fields)


# Bad rows


@pytest.mark.parametrize(
    ("cells", "column", "field"),
    [([ORDER], 2, "operation"), ([ORDER, "createUnexpectedProblem"], 3, "text")],
)
def test_short_rows(folder: Path, cells: list[str], column: int, field: str) -> None:
    """A cell that a row lacks is empty, and its problem names the column it should stand in."""
    path = write(folder, HEADER + ROW + ",".join(cells) + "\n")
    assert [place(problem) for problem in problems(path)] == [(3, column, field)]


def test_a_short_row_may_lack_what_it_does_not_need(folder: Path) -> None:
    """A row may end before columns that its kind of message takes nothing from."""
    path = write(folder, HEADER + f"{ORDER},createNegativeFeedbackRemoval\n")
    assert messages(path) == [Message(ORDER, CreateNegativeFeedbackRemovalRequest())]


def test_rows_with_more_cells_than_the_header(folder: Path) -> None:
    """A comma in a text that was not quoted is told, and does not cut the text short."""
    path = write(folder, HEADER + f"{ORDER},createUnexpectedProblem,Sorry, sold out.\n" + ROW)
    (problem,) = problems(path)
    assert place(problem) == (2, 4, "row")
    assert problem.reason == "4 cells where the header has 3; quote commas in texts"


def test_lines_are_those_of_the_file(folder: Path) -> None:
    """Rows over several lines and blank lines count: a problem's line is where its row begins."""
    broken = f'{ORDER},createUnexpectedProblem,"one\ntwo\r\n\nfour"\n'
    bad = '1/2,createUnexpectedProblem,"<i>\n"\n'
    path = write(folder, HEADER + broken + "\n" + bad + broken + "0/0,no,\n")
    assert [place(problem) for problem in problems(path)] == [
        (7, 1, "order_id"),
        (7, 3, "text"),
        (13, 1, "order_id"),
        (13, 2, "operation"),
    ]


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (HEADER + ROW + f'{ORDER},createUnexpectedProblem,"Sold\nout.\n', 3, "quote"),
        (HEADER + f'{ORDER},createUnexpectedProblem,"Sold" out.\n', 2, "after '\"'|quote"),
        ((HEADER + ROW).replace("\n", "\r"), 1, "line (end|break)"),
        (HEADER + f"{ORDER},createUnexpectedProblem,Sold\rout.\n", 2, "line (end|break)"),
        (HEADER + f"{ORDER},createUnexpectedProblem,{'x' * 200_000}\n", 2, "larger|long"),
    ],
    ids=["unclosed quote", "after a quote", "lone CRs", "a lone CR", "endless cell"],
)
def test_what_is_no_csv(folder: Path, content: str, line: int, words: str) -> None:
    """Where a table breaks off, the line is told, and what is wrong in a spreadsheet's terms."""
    problem = problems(write(folder, content))[-1]
    assert (problem.line, problem.field) == (line, "row")
    assert re.search(words, problem.reason)
    assert "universal-newline" not in problem.reason  # advice to a programmer


@pytest.mark.parametrize(
    ("content", "expected", "words"),
    [
        ("", (1, None, "header"), "is missing; begin with order_id, operation"),
        ("\ufeff", (1, None, "header"), "is missing"),
        (ROW, (1, None, "order_id"), f"is missing; the header has {ORDER}, create"),
        ("operation,text\n", (1, None, "order_id"), "is missing; the header has operation, text"),
        ("order_id,text\n", (1, None, "operation"), "is missing; the header has order_id, text"),
        ("order_id|operation\n", (1, None, "order_id"), "put commas, semicolons or tabs between"),
        ("order_id,operation,text,Text \n" + ROW, (1, 4, "text"), "stands twice"),
        ("order_id,operation,order_id\n", (1, 3, "order_id"), "stands twice"),
        ("order_id,operation,name,name\n", (1, 4, "name"), "stands twice"),
    ],
    ids=_short,
)
def test_bad_headers(
    folder: Path, content: str, expected: tuple[int, int | None, str], words: str
) -> None:
    """Without a header that says what is what, nothing of a table is read."""
    (problem,) = problems(write(folder, content))
    assert place(problem) == expected
    assert words in problem.reason


@pytest.mark.parametrize("name", ["o.csv", "o.jsonl"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize(
    ("before", "column"),
    [("", 1), ("é", 2), ("order_id,operation,\U0001f600", 21)],
    ids=["first", "after é", "after an emoji"],
)
def test_bad_encoding_in_the_first_line(
    folder: Path, name: str, mark: str, before: str, column: int
) -> None:
    """A byte that is not UTF-8 is found by its character in the line, as an editor counts it."""
    (problem,) = problems(write(folder, (mark + before).encode() + b"\xe9,text\n", name))
    assert place(problem) == (1, column, "encoding")
    remedy = "save the list as UTF-8, or say what it is, as in --encoding windows-1252"
    assert problem.reason == f"is not UTF-8; {remedy}"


@pytest.mark.parametrize("encoding", ["cp1252", "shift_jis", "gb18030"])
def test_other_encodings(folder: Path, encoding: str) -> None:
    """A list in another encoding is told to be so, and none of its texts is sent garbled."""
    text = "Zwölf é" if encoding == "cp1252" else "二つ"
    content = HEADER + ROW.replace("Sold", text)
    (problem,) = problems(write(folder, content.encode(encoding)))
    assert (problem.line, problem.field) == (2, "encoding")


@pytest.mark.parametrize(
    ("line", "column", "words"),
    [
        ("{'order_id': 1}", 2, "is no JSON: "),
        ('{"order_id": ', 14, "is no JSON: "),
        ('{"order_id": "1"', 17, "is no JSON: "),
        ('{"order_id": "1"} {}', 19, "is no JSON: "),
        ("order_id,operation", 1, "is no JSON: "),
        ("\ufeff" + ONE, 1, "is no JSON: "),
        ("[" * 100_000, None, "is nested too deeply"),
        ('{"a":' * 100_000, None, "is nested too deeply"),
        ('{"a": ' + "1" * 5000 + "}", None, ""),
        ("[]", 1, "is no JSON object"),
        ("null", 1, "is no JSON object"),
        ('"text"', 1, "is no JSON object"),
        ("5", 1, "is no JSON object"),
        ("NaN", 1, "is no JSON object"),
    ],
    ids=_short,
)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""], ids=ascii)
def test_what_is_no_json_object(
    folder: Path, line: str, column: int | None, words: str, end: str
) -> None:
    """A line of JSON Lines that holds no object is a problem, and the next lines are read on."""
    path = write(folder, f"{ONE}\n{line}{end}", "orders.jsonl")
    (problem,) = problems(path)
    assert place(problem) == (2, column, "row")
    assert words in problem.reason
    if end:
        path.write_bytes(path.read_bytes() + b"{}\n")
        assert {problem.line for problem in problems(path)} == {2, 3}


@pytest.mark.parametrize("key", ["order_id", "operation", "text"])
def test_keys_that_stand_twice(folder: Path, key: str) -> None:
    """Of two values for one key none is chosen, as of two columns none is."""
    line = ONE.replace("{", f'{{"{key}": "111-0000000-0000000", ', 1)
    (problem,) = problems(write(folder, f"{line}\n", "orders.jsonl"))
    assert place(problem) in {(1, None, key), (1, None, "row")}
    assert "twice" in problem.reason


def test_a_key_that_nothing_can_write_can_be_told(folder: Path) -> None:
    """Half of a surrogate pair that stands twice is told in words that can be printed."""
    (problem,) = problems(write(folder, '{"\\ud800": 1, "\\ud800": 2}\n', "orders.jsonl"))
    assert "twice" in problem.reason
    assert str(problem).encode()


def test_nothing_is_taken_for_what_it_is_not(folder: Path) -> None:
    """A JSON object that lacks what is required has a problem for each thing it lacks."""
    found = problems(write(folder, "{}\n", "orders.jsonl"))
    assert [place(problem) for problem in found] == [(1, None, "order_id"), (1, None, "operation")]


# All problems together


@pytest.mark.parametrize(("bad", "shown"), [(1, 1), (20, 20), (21, 20), (137, 20)])
def test_the_first_problems_are_shown_and_the_others_counted(
    folder: Path, bad: int, shown: int
) -> None:
    """A list is read to its end: 20 problems are told, in the order of the lines, and how many."""
    rows = "".join(f"{number}/,createUnexpectedProblem,text\n{ROW}" for number in range(bad))
    path = write(folder, HEADER + rows)
    with pytest.raises(InvalidOrderList) as caught:
        check(path, US)
    assert caught.value.total == bad
    assert [problem.line for problem in caught.value.problems] == [2 * n + 2 for n in range(shown)]
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}: line 2:1, order_id: '0/' is no order id of 3-7-7 digits")
    assert lines[shown:] == ([f"and {bad - shown} more"] if bad > shown else [])


def test_problems_before_the_list_breaks_off_are_told(folder: Path) -> None:
    """Where a list cannot be read on, what was wrong before it is told together with that."""
    content = (HEADER + "1/2,createUnexpectedProblem,x\n").encode() + b"\xff\n" + ROW.encode()
    found = problems(write(folder, content))
    assert [place(problem) for problem in found] == [(2, 1, "order_id"), (3, 1, "encoding")]


def test_messages_are_given_up_to_the_first_problem(folder: Path) -> None:
    """A list that went bad after it was checked stops there, with line and column."""
    given = listed(write(folder, HEADER + ROW + ROW + "1/2,no,\n" + ROW), US)
    assert [next(given), next(given)] == [MESSAGE, MESSAGE]
    with pytest.raises(InvalidOrderList, match="line 4:1, order_id"):
        next(given)
    assert list(given) == []


@pytest.mark.parametrize("name", ["none.csv", "none.jsonl", ".", "a.pdf/orders.csv", "x" * 300])
def test_lists_that_cannot_be_opened(folder: Path, name: str) -> None:
    """A list that is not there, or is no file, is named with the reason."""
    for read in (check, lambda path, place: list(listed(path, place))):
        with pytest.raises(ConfigurationError, match=r"^the order list .* cannot be read: [A-Z]"):
            read(folder / name, US)


# Whatever a list holds


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lists")
    (path / "a.pdf").write_bytes(b"content")
    return path


PIECES = [
    *(name.encode() for name in COLUMNS),
    *(name.encode() for name in MESSAGING),
    *(b",", b";", b'"', b'""', b"\n", b"\r\n", b"\r", b"\0", b" ", b"\xef\xbb\xbf", b"\xff"),
    *(b"{", b"}", b"[", b"]", b":", b"null", b"1e999", b"NaN", b'"\\ud800"', b"\\"),
    *(ORDER.encode(), b"a.pdf", b"../", b"/", b"US", b"DE", b"2026-01-31T00:00:00Z", b"\xc3\xa9"),
    *(HEADER.encode(), ROW.encode(), ONE.encode() + b"\n"),
]
NAMES = st.sampled_from(["fuzz.csv", "fuzz.jsonl"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=5,
)
KNOWN = st.sampled_from(
    [ORDER, "a.pdf", "none.pdf", "US", "2026-01-31T00:00:00Z", "text", *MESSAGING]
)
WHOLE_ROWS = st.dictionaries(st.sampled_from(COLUMNS), KNOWN | VALUES)


def refusal(path: Path) -> InvalidOrderList | None:
    try:
        check(path, US)
    except InvalidOrderList as error:
        return error
    return None


def read_it(path: Path) -> None:
    """Read a list both ways, and hold what they say against each other."""
    refused = refusal(path)
    if refused is None:
        given = messages(path)
        assert len(given) == check(path, US)
        assert f"{given!r}{[message.request for message in given]!r}".encode()  # can be shown
        return
    lines = path.read_bytes().count(b"\n") + 1
    for problem in refused.problems:
        assert 1 <= problem.line <= lines
        assert problem.column is None or problem.column >= 1
        assert problem.reason
    assert len(refused.problems) == min(refused.total, 20)
    assert str(refused).encode()  # can be shown
    with pytest.raises(InvalidOrderList) as first:
        messages(path)
    assert first.value.problems == refused.problems[:1]


SHARED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SHARED
@given(content=st.binary(max_size=200), name=NAMES)
def test_any_bytes(shared_folder: Path, content: bytes, name: str) -> None:
    """Whatever bytes a list holds: messages, or problems, and never another error."""
    read_it(write(shared_folder, content, name))


@SHARED
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=25), name=NAMES)
def test_any_pieces(shared_folder: Path, pieces: list[bytes], name: str) -> None:
    """Parts of good lists in any order: messages, or problems, and never another error."""
    read_it(write(shared_folder, b"".join(pieces), name))


@SHARED
@given(rows=st.lists(WHOLE_ROWS, max_size=5))
def test_any_values(shared_folder: Path, rows: list[Cells]) -> None:
    """Any JSON in the place of a cell: messages, or problems, and never another error."""
    read_it(as_json_lines(shared_folder, *rows))


@SHARED
@given(rows=st.lists(st.dictionaries(st.sampled_from(COLUMNS), KNOWN | st.text()), max_size=5))
def test_any_texts(shared_folder: Path, rows: list[Cells]) -> None:
    """Any text in the place of a cell: messages, or problems, and never another error."""
    rows = [{key: value.encode(errors="ignore").decode() for key, value in r.items()} for r in rows]
    read_it(as_csv(shared_folder, *rows))


# How a list is to be read


def rows(path: Path, **reading: Any) -> list[Listed | Problem]:
    """All that a list holds, read in the way that is said."""
    return list(order_list.rows(path, US, Reading(**reading)))


def only(path: Path, **reading: Any) -> Any:
    """The request of a list's only row, or what is wrong with it."""
    (row,) = rows(path, **reading)
    return row.message.request if isinstance(row, Listed) else row


BERLIN = ZoneInfo("Europe/Berlin")


def test_what_rows_that_give_none_take(folder: Path) -> None:
    """Operation, text and files are taken for rows without, and no others, and where they fit."""
    given = {"operation": named("createDigitalAccessKey"), "text": "Hi.", "attachments": ["a.pdf"]}
    lines = [f"{ORDER},,,", f"{ORDER},,Own.,b.txt", f"{ORDER},createUnexpectedProblem,,"]
    lines += [f"{ORDER},createWarranty,,", f"{ORDER},createNegativeFeedbackRemoval,,"]
    path = write(folder, "\n".join(["order_id,operation,text,attachments", *lines]))
    a, b = files(folder)
    assert [row.message.request for row in rows(path, **given) if isinstance(row, Listed)] == [
        CreateDigitalAccessKeyRequest("Hi.", [a]),
        CreateDigitalAccessKeyRequest("Own.", [b]),
        CreateUnexpectedProblemRequest("Hi."),
        CreateWarrantyRequest([a]),
        CreateNegativeFeedbackRemovalRequest(),
    ]


@pytest.mark.parametrize("content", [f"order_id\n{ORDER}\n", f'order-id;"x"\n{ORDER};\n'])
def test_a_list_of_order_ids(folder: Path, content: str) -> None:
    """Amazon's own report, or order ids alone, will do where all else is given."""
    reading = {"operation": named("createUnexpectedProblem"), "text": "Sold out."}
    assert only(write(folder, content), **reading) == MESSAGE.request
    problem = only(write(folder, content))
    assert place(problem) == (1, None, "operation")
    assert problem.reason.endswith("--operation gives one for all rows")


@pytest.mark.parametrize(
    "around",
    ["{}", " {} ", "\u00a0{}\u00a0", "\u3000{}", "{}\t", "\u200b{}", "\u202f\u200e{}\ufeff"],
    ids=ascii,
)
@pytest.mark.parametrize("form", [as_csv, as_json_lines])
def test_order_ids_are_trimmed(folder: Path, form: Callable[..., Path], around: str) -> None:
    """Spaces of any kind around an order id, which nobody sees, are no part of it."""
    row = {"operation": "createUnexpectedProblem", "text": "Sold out."}
    assert messages(form(folder, {"order_id": around.format(ORDER), **row})) == [MESSAGE]


@pytest.mark.parametrize("dash", ["\u2010", "\u2011", "\u2013", "\u2212"], ids=ascii)
def test_dashes_of_a_word_processor(folder: Path, dash: str) -> None:
    """An order id whose hyphens were made prettier is the same order id."""
    row = {"operation": "createUnexpectedProblem", "text": "Sold out."}
    assert messages(as_csv(folder, {"order_id": ORDER.replace("-", dash), **row})) == [MESSAGE]


def test_blank_lines_before_the_header(folder: Path) -> None:
    """They are passed over, and the lines of problems count with them."""
    path = write(folder, "\n \r\n" + HEADER + ROW + "1/2,createUnexpectedProblem,x\n")
    assert [place(problem) for problem in problems(path)] == [(5, 1, "order_id")]


REPORT = "order-id\torder-item-id\tproduct-name\tbuyer-name\n"


@pytest.mark.parametrize(
    "names",
    [
        ['Frame 12"', "Ann"],
        ['"Best" poster', "Ann"],
        ['"Deluxe frame', 'Frame 12"'],
        ['"', '"'],
        ['12" frame', '"quoted"'],
    ],
    ids=ascii,
)
def test_amazons_reports_do_not_quote(folder: Path, names: list[str]) -> None:
    """A quote in a title is an inch, and no cell: each line is an order, and no buyer is lost."""
    lines = [f"111-2222222-{n:07}\t{n}\t{name}\tJo\n" for n, name in enumerate(names)]
    path = write(folder, REPORT + "".join(lines), "report.txt")
    options = Reading(operation=named("createUnexpectedProblem"), text="Sold out.")
    found = [row.message.amazon_order_id for row in order_list.rows(path, US, options)]
    assert found == [f"111-2222222-{n:07}" for n in range(len(names))]


@pytest.mark.parametrize("separator", [",", ";"])
def test_rows_that_a_quote_swallowed(folder: Path, separator: str) -> None:
    """A quote that opens a cell and is closed rows later is told; no buyer's data reach another."""
    lines = [
        "order_id,text,name",
        f'{ORDER},"Deluxe,Ann',
        "111-2222222-0000001,Frame,Bob",
        '111-2222222-0000002,Frame 12",Cy',
        "111-2222222-0000003,Frame,Di",
    ]
    path = write(folder, "\n".join(lines).replace(",", separator))
    options = Reading(operation=named("createUnexpectedProblem"))
    first, last = order_list.rows(path, US, options)
    assert isinstance(first, Problem)
    assert (first.line, first.field) == (2, "row")
    assert "a quote opens in it and is closed in line 4" in first.reason
    assert isinstance(last, order_list.Listed)
    assert last.line == 5


def test_json_that_is_no_json_lines(folder: Path) -> None:
    """A JSON array is told to be one, and how its objects are to be written."""
    (problem,) = problems(write(folder, '[{"order_id": "1"}]', "orders.json"))
    assert "write an object on each line" in problem.reason


@pytest.mark.parametrize(
    ("order", "is_taken"),
    [
        ("S01-1234567-1234567", True),
        ("11122222223333333", True),
        ("111-222222-3333333", True),
        ("\u0661\u0661\u0661-2222222-3333333", False),
        ("111/2222222", False),
        ("", False),
        ("1.11222E+16", False),
    ],
    ids=ascii,
)
def test_order_ids_of_another_form(folder: Path, order: str, is_taken: bool) -> None:
    """They are a slip, most often, and taken only where that is said; what is no id never is."""
    row = {"order_id": order, "operation": "createUnexpectedProblem", "text": "x"}
    problem = only(as_csv(folder, row))
    assert place(problem) == (2, 1, "order_id")
    assert ("--any-order-id takes it as it is" in problem.reason) is is_taken
    found = only(as_csv(folder, row), any_order_id=True)
    assert isinstance(found, CreateUnexpectedProblemRequest if is_taken else Problem)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2026-01-31", "2028-01-31", ("2026-01-31T00:00:00+01:00", "2028-01-31T23:59:59+01:00")),
        ("2026-03-29", "2026-03-29", ("2026-03-29T00:00:00+01:00", "2026-03-29T23:59:59+02:00")),
        ("20260131", "2028-W05-1", ("2026-01-31T00:00:00+01:00", "2028-01-31T23:59:59+01:00")),
        (
            "2026-01-31T10:00",
            "2028-07-31 10:00",
            ("2026-01-31T10:00:00+01:00", "2028-07-31T10:00:00+02:00"),
        ),
        (
            "2026-01-31T10:00Z",
            "2028-01-31T10:00-05:00",
            ("2026-01-31T10:00:00+00:00", "2028-01-31T10:00:00-05:00"),
        ),
    ],
)
def test_dates_in_a_timezone(folder: Path, start: str, end: str, expected: tuple[str, str]) -> None:
    """A timezone is of dates without an offset; a date alone is its whole day."""
    row = {**WARRANTY, "coverage_start_date": start, "coverage_end_date": end}
    request = only(as_csv(folder, row), timezone=BERLIN)
    dates = (request.coverage_start_date, request.coverage_end_date)
    assert tuple(date.isoformat() for date in dates) == expected


@pytest.mark.parametrize("text", ["31/01/2026", "2026-1-5", "46053", "2026-02-30", "soon"])
def test_what_is_no_date_in_any_timezone(folder: Path, text: str) -> None:
    """Dates that could be read in two ways are not guessed at."""
    problem = only(as_csv(folder, {**WARRANTY, "coverage_end_date": text}), timezone=BERLIN)
    assert place(problem) == (2, 6, "coverage_end_date")
    assert "is no date; write it as 2026-01-31T00:00:00" in problem.reason


def test_dates_of_a_workbook(folder: Path) -> None:
    """A date cell is its whole day, as a date that was written is."""
    book = openpyxl.Workbook()
    for row in (
        ["order_id", "operation", "attachments", "coverage_start_date", "coverage_end_date"],
        [ORDER, "createWarranty", "a.pdf", date(2026, 1, 31), datetime(2028, 1, 31)],
    ):
        book.worksheets[0].append(row)
    book.save(folder / "o.xlsx")
    request = only(folder / "o.xlsx", timezone=BERLIN)
    assert request.coverage_start_date == datetime(2026, 1, 31, tzinfo=BERLIN)
    assert request.coverage_end_date == datetime(2028, 1, 31, 23, 59, 59, tzinfo=BERLIN)


# Files that are found by columns


@pytest.fixture
def invoices(folder: Path) -> Path:
    """A folder with an invoice for the order, and a way out of it."""
    (folder / "list").mkdir()
    (folder / "list" / f"{ORDER}.pdf").write_bytes(b"content")
    (folder / "list" / "sub").mkdir()
    (folder / "list" / "out.pdf").symlink_to(folder / "a.pdf")
    (folder / "list" / "in.pdf").symlink_to(f"{ORDER}.pdf")
    (folder / "list" / "up").symlink_to(folder)
    (folder / "list" / "loop.pdf").symlink_to("loop.pdf")
    return folder / "list"


def invoice(folder: Path, path: str, name: Any = "", **reading: Any) -> Any:
    """What becomes of a row that attaches a path, in which `{name}` may stand."""
    row = {"order_id": ORDER, "operation": "sendInvoice", "attachments": [path], "name": name}
    return only(as_json_lines(folder, row), **reading)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("{order_id}.pdf", ""),
        ("{Order ID}.pdf", ""),
        ("{name}.pdf", f" {ORDER} "),
        ("{name}", f"{ORDER}.pdf"),
        ("sub/../{name}.pdf", ORDER),
        ("in.pdf", ""),
    ],
)
def test_paths_with_columns(invoices: Path, path: str, name: str) -> None:
    """A column in braces stands for its cell, without what surrounds it."""
    (file,) = invoice(invoices, path, name).attachments
    assert file.path.samefile(invoices / f"{ORDER}.pdf")


def test_a_number_in_a_path(invoices: Path) -> None:
    """A JSON number, 0 among them, is written as it stands."""
    (invoices / "0.pdf").write_bytes(b"content")
    assert invoice(invoices, "{name}.pdf", 0).attachments == (LocalFile(invoices / "0.pdf"),)


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        ("{none}.pdf", "", "{none} is no column; the list has order_id, operation, attachments, n"),
        ("{}.pdf", "", "{} is no column"),
        ("{name}.pdf", "", "{name} is empty in this row; fill the cell"),
        ("{name}.pdf", "  ", "{name} is empty in this row; fill the cell"),
        ("{name}.pdf", None, "{name} is empty in this row; fill the cell"),
        ("{name}.pdf", "1.1E+15", "its last digits are lost"),
        ("{name}.pdf", "a\0b", "is NUL"),
        ("../a.pdf", "", "is not within"),
        ("up/a.pdf", "", "is not within"),
        ("out.pdf", "", "is not within"),
        ("/etc/passwd", "", "is not within"),
        ("{name}", "../../etc/passwd", "is not within"),
        ("{name}.pdf", "../a", "is not within"),
        ("{name}", "/etc/passwd", "is not within"),
        ("sub/{name}.pdf", "../../a", "is not within"),
        ("loop.pdf", "", "'loop.pdf' is no path that can be followed"),
        ("{name}/x.pdf", "x" * 5000, "File name too long"),
    ],
)
def test_paths_that_cannot_be_taken(invoices: Path, path: str, name: Any, words: str) -> None:
    """A column that is missing or empty is told, and no path leads out of the list's folder."""
    problem = invoice(invoices, path, name)
    assert isinstance(problem, Problem)
    is_of_cell = words in ("its last digits are lost", "is NUL")
    assert problem.field == ("name" if is_of_cell else "attachments")
    assert words in problem.reason
    if words == "is not within":
        assert problem.reason.endswith(
            f"is not within {invoices}; --attachments-from names another folder"
        )


def test_files_from_another_folder(folder: Path, invoices: Path) -> None:
    """Paths begin in the folder that is said, and stay in it; that of the list is none then."""
    (file,) = invoice(folder, "{order_id}.pdf", attachments_from=invoices).attachments
    assert file.path == invoices / f"{ORDER}.pdf"
    for path in ("../a.pdf", str(folder / "a.pdf"), "out.pdf"):
        problem = invoice(folder, path, attachments_from=invoices)
        assert f"is not within {invoices}" in problem.reason
    problem = invoice(folder, "a.pdf", attachments_from=folder / "none")
    assert "none/a.pdf cannot be read: No such file" in problem.reason
    with pytest.raises(ConfigurationError, match=r"loop\.pdf cannot be followed"):
        invoice(folder, "a.pdf", attachments_from=invoices / "loop.pdf")


def test_a_folder_that_is_a_link(folder: Path, invoices: Path) -> None:
    """A list's folder may be reached by a link; its files are within it all the same."""
    (folder / "link").symlink_to(invoices)
    assert isinstance(invoice(folder / "link", "{order_id}.pdf"), InvoiceRequest)


# Advice

ADVISED = "Call +1 650 253 0000 or see www.example.com"


def advised(folder: Path) -> Path:
    lines = [f"{ORDER},createUnexpectedProblem,{text}" for text in (ADVISED, "fine", "<i>")]
    return write(folder, HEADER + "\n".join(lines))


def test_advice_is_of_rows_that_are_sent(folder: Path) -> None:
    """A link and a telephone number are told with their place, and stop nothing."""
    found = rows(advised(folder))
    assert [len(row.advice) if isinstance(row, Listed) else row.line for row in found] == [2, 0, 4]
    assert isinstance(found[0], Listed)
    assert [place(problem) for problem in found[0].advice] == [(2, 3, "text")] * 2
    reasons = sorted(problem.reason for problem in found[0].advice)
    assert reasons[0].startswith("at character 29: a link; Amazon allows only those that")
    assert reasons[1].startswith("at character 6: a telephone number")


def test_advice_taken_strictly(folder: Path) -> None:
    """What is only advised against stops its row, among the list's other problems."""
    found = rows(advised(folder), strict=True)
    assert [row.line for row in found] == [2, 2, 3, 4]
    assert [isinstance(row, Listed) for row in found] == [False, False, True, False]
    advice = rows(advised(folder))[0]
    assert isinstance(advice, Listed)
    assert found[:2] == list(advice.advice)


def test_numbers_are_read_as_the_marketplace_writes_them(folder: Path) -> None:
    """A row's own marketplace decides by which country's plan a national number is found."""
    row = {"order_id": ORDER, "operation": "createUnexpectedProblem", "text": "Tel. 416-555-0123"}
    found = rows(as_csv(folder, {**row, "marketplace": "CA"}, {**row, "marketplace": "MX"}))
    assert [len(row.advice) for row in found if isinstance(row, Listed)] == [1, 0]


# Memory


def test_lists_are_read_as_they_are_needed(folder: Path) -> None:
    """The first message is had from a list that is still being written."""
    path = write(folder, HEADER + ROW)
    with path.open("a", encoding="utf-8") as file:
        given = listed(path, US)
        for _ in range(4):
            assert next(given) == MESSAGE
            file.write(ROW)
            file.flush()
    assert next(given) == MESSAGE
    assert next(given, None) is None


def peak(run: Callable[[], object]) -> int:
    """The most bytes of memory that were in use at once."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def exhaust(messages: Iterator[Message]) -> None:
    for _ in messages:
        pass


def count_problems(path: Path) -> None:
    with pytest.raises(InvalidOrderList):
        check(path, US)


@pytest.mark.parametrize("name", ["o.csv", "o.jsonl"])
@pytest.mark.parametrize(
    ("run", "order"),
    [
        (lambda path: check(path, US), ORDER),
        (lambda path: exhaust(listed(path, US)), ORDER),
        (count_problems, "1/2"),
    ],
    ids=["check", "messages", "problems"],
)
def test_memory_stays_flat(
    folder: Path, name: str, run: Callable[[Path], object], order: str
) -> None:
    """A list ten times as long takes no more memory to read, be it good or bad throughout."""
    header = HEADER if name == "o.csv" else ""
    row = (ROW if header else ONE + "\n").replace(ORDER, order)
    short = write(folder, header + row * 300, f"short{name}")
    long = write(folder, header + row * 3000, f"long{name}")
    run(short)  # what is made once is made
    few, many = peak(lambda: run(short)), peak(lambda: run(long))
    assert many < few + 50_000


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"text": "Hello"}, "--text"),
        ({"attachments": ["a.pdf"]}, "--attach"),
        ({"attachments": ["none.pdf"]}, "--attach"),
    ],
    ids=str,
)
def test_options_that_no_row_uses(folder: Path, options: dict[str, Any], option: str) -> None:
    """A text or a file that no row of the list can take is told, and not dropped unseen."""
    name = "sendInvoice" if "text" in options else "createUnexpectedProblem"
    given = {"attachments": "a.pdf"} if "text" in options else {"text": "Sold out."}
    path = as_csv(folder, {"order_id": ORDER, "operation": name, **given})
    found = list(order_list.rows(path, US, Reading(**options)))
    (problem,) = (each for each in found if isinstance(each, Problem))
    assert (problem.line, problem.field) == (1, option)
    assert "is of no use to any row" in problem.reason


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        ("Dear {name}, sold out.", True),
        ("Dear {{ Name }}, sold out.", True),
        ("Dear {friend}, sold out.", False),
        ("Sold out.", False),
    ],
)
def test_placeholders_without_a_template(folder: Path, text: str, is_told: bool) -> None:
    """A column between braces in a plain text is sent as it stands, which is pointed out."""
    content = f'order_id,operation,text,name\n{ORDER},createUnexpectedProblem,"{text}",Jo\n'
    (row,) = order_list.rows(write(folder, content), US)
    assert isinstance(row, Listed)
    assert [each.field for each in row.advice] == (["text"] if is_told else [])
    (strict, *_) = order_list.rows(write(folder, content), US, Reading(strict=True))
    assert isinstance(strict, Problem) is is_told
