"""Lists as spreadsheets and other programs save them: separators, encodings, workbooks."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sp_messaging_async import ConfigurationError, InvalidMessage, Marketplace, Problem
from sp_messaging_async.bulk import cells, order_list
from sp_messaging_async.bulk.cells import Row, Unreadable
from sp_messaging_async.bulk.order_list import Listed, Reading

from .conftest import ORDER

Place: TypeAlias = tuple[int, int | None, str]

NAME = "createUnexpectedProblem"
HEADER = ("order_id", "operation", "text")
BROKEN = "is no workbook that can be read"


def table(*rows: Sequence[str], separator: str = ",") -> str:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator).writerows(rows)
    return file.getvalue()


def workbook(*rows: Iterable[Any], **sheets: Sequence[Iterable[Any]]) -> bytes:
    """A workbook of one sheet, and more of them by name."""
    book = openpyxl.Workbook()
    for title, content in {"Sheet": rows, **sheets}.items():
        sheet = book["Sheet"] if title == "Sheet" else book.create_sheet(title)
        for row in content:
            sheet.append(list(row))
    return saved(book)


def saved(book: openpyxl.Workbook) -> bytes:
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def edited(book: bytes, old: bytes, new: bytes) -> bytes:
    """A workbook whose first sheet is changed where openpyxl writes no such thing."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(book)) as before, zipfile.ZipFile(file, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name == "xl/worksheets/sheet1.xml":
                assert old in content
                content = content.replace(old, new)
            after.writestr(name, content)
    return file.getvalue()


def write(folder: Path, content: str | bytes, name: str = "orders.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, *required: str, **options: Any) -> list[dict[str, object]]:
    """The values of a list's rows, all of which are good."""
    found = []
    for row in cells.read(path, required, **options):
        assert isinstance(row, Row)
        found.append({name: cell.value for name, cell in row.cells.items()})
    return found


def refusal(path: Path, *required: str, **options: Any) -> Problem:
    """Why a list cannot be read on."""
    with pytest.raises(Unreadable) as caught:
        list(cells.read(path, required, **options))
    return caught.value.problem


def place(problem: Problem) -> Place:
    return problem.line, problem.column, problem.field


def text_of(path: Path, **reading: Any) -> str | Problem:
    """The text of a list's only message, or what is wrong with it."""
    (row,) = order_list.rows(path, Marketplace.US, Reading(**reading))
    return str(getattr(row.message.request, "text", "")) if isinstance(row, Listed) else row


# Separators


@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=ascii)
@pytest.mark.parametrize("stated", [False, True], ids=["", "sep="])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=ascii)
def test_separators(tmp_path: Path, separator: str, stated: bool, end: str) -> None:
    """What the header is divided by is found, or told by a first line, and quoted ones are text."""
    rows = [HEADER, (ORDER, NAME, 'a,b;c\td "e"'), (ORDER, NAME, "two\nlines")]
    content = table(*rows, separator=separator).replace("\r\n", end)
    path = write(tmp_path, f"sep={separator}{end}{content}" if stated else content)
    assert read(path, "order_id") == [dict(zip(HEADER, row, strict=True)) for row in rows[1:]]


@pytest.mark.parametrize("line", ["sep=|\n", '"sep=|"\r\n', "SEP=|\n"], ids=ascii)
def test_a_separator_of_its_own(tmp_path: Path, line: str) -> None:
    """Any character that the first line names divides the cells, and lines count with it."""
    path = write(tmp_path, f"{line}order_id|text\n1|a,b\n")
    (row,) = cells.read(path, ["order_id"])
    assert isinstance(row, Row)
    assert (row.line, row.text("text"), row.cells["text"].column) == (3, "a,b", 2)


@pytest.mark.parametrize("content", ["sep=;", "sep=;\n"], ids=ascii)
def test_a_separator_and_no_more(tmp_path: Path, content: str) -> None:
    """A file that ends after that line has no header, and is told so."""
    problem = refusal(write(tmp_path, content))
    assert place(problem) == (1, None, "header")
    assert problem.reason.startswith("is missing; begin with order_id")


def test_the_separator_is_that_of_the_columns_that_must_be(tmp_path: Path) -> None:
    """Commas in the names of other columns do not outweigh an order_id between semicolons."""
    path = write(tmp_path, "order_id;Name, first, last, and so on\n1;Ann\n")
    assert read(path, "order_id")[0]["order_id"] == "1"


@pytest.mark.parametrize("separator", [";", "\t"], ids=ascii)
def test_too_many_cells_name_the_separator(tmp_path: Path, separator: str) -> None:
    """A separator in a text that was not quoted is told by its own name."""
    path = write(tmp_path, separator.join(HEADER) + "\n" + separator.join("1abc") + "\n")
    (problem,) = cells.read(path, HEADER)
    assert isinstance(problem, Problem)
    assert place(problem) == (2, 4, "row")
    assert f"quote {'semicolons' if separator == ';' else 'tabs'} in texts" in problem.reason


# Encodings

MARKED = {"utf-8": b"\xef\xbb\xbf", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
MARKED |= {"utf-32-le": b"\xff\xfe\0\0", "utf-32-be": b"\0\0\xfe\xff"}
TEXT = "Größe 字 😀"


@pytest.mark.parametrize(
    ("encoding", "mark", "said"),
    [
        ("utf-8", b"", None),  # which shows in nothing
        *((name, mark, said) for name, mark in MARKED.items() for said in (None, "cp1252")),
        *((name, b"", said) for name in list(MARKED)[1:] for said in (None, "cp1252", name[:6])),
    ],
    ids=ascii,
)
def test_unicode_is_found(tmp_path: Path, encoding: str, mark: bytes, said: str | None) -> None:
    """UTF-8, -16 and -32 are read by mark or zeros, whatever else was said of their encoding."""
    row = (ORDER, NAME, TEXT)
    lists = {
        "o.csv": table(HEADER, row),
        "o.tsv": table(HEADER, row, separator="\t"),
        "o.jsonl": json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) + "\n",
    }
    for name, content in lists.items():
        path = write(tmp_path, mark + content.encode(encoding), name)
        assert text_of(path, encoding=said) == TEXT


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("windows-1252", "Größe – 5 €"),
        ("cp1252", "“quoted”"),
        ("iso-8859-1", "Größe"),
        ("iso-8859-15", "Größe 5 €"),
        ("latin-1", "é"),
        ("gb18030", "小"),
        ("gbk", "您的订单"),
        ("shift_jis", "ご注文"),
        ("windows-1251", "Спасибо"),
        ("utf-8", TEXT),
        ("UTF8", TEXT),
    ],
)
def test_an_encoding_that_is_said(tmp_path: Path, encoding: str, text: str) -> None:
    """A list in an encoding that leaves no mark is read in the one that was given."""
    path = write(tmp_path, table(HEADER, (ORDER, NAME, text)).encode(encoding))
    assert text_of(path, encoding=encoding) == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("windows-1252", "é"), ("iso-8859-1", "5 €"), ("iso-8859-15", "字"), ("gbk", "您的订单")],
)
def test_utf_8_that_is_said_to_be_another(tmp_path: Path, encoding: str, text: str) -> None:
    """A list of UTF-8 that would be sent garbled is told in its line, with what to leave out."""
    content = table(HEADER, (ORDER, NAME, "plain"), (ORDER, NAME, text))
    found = list(order_list.rows(write(tmp_path, content), Marketplace.US, Reading(encoding)))
    assert isinstance(found[0], Listed)
    reason = f"is UTF-8, and not {encoding}; leave --encoding out"
    assert found[1:] == [Problem(3, None, "encoding", reason)]


@pytest.mark.parametrize("encoding", ["iso-8859-1", "iso-8859-15"])
def test_windows_1252_that_is_said_to_be_another(tmp_path: Path, encoding: str) -> None:
    """Its quotes and dashes become control characters, which are told with the likely encoding."""
    content = table(HEADER, (ORDER, NAME, "a “quote”")).encode("cp1252")
    problem = text_of(write(tmp_path, content), encoding=encoding)
    assert isinstance(problem, Problem)
    assert place(problem) == (2, 3, "text")
    expected = (
        "character 3 is a control character; the list's encoding is another: try windows-1252"
    )
    assert problem.reason == expected


def test_an_encoding_that_does_not_fit(tmp_path: Path) -> None:
    """A byte that the encoding has not is told by the name that was given, and no other advised."""
    path = write(tmp_path, table(HEADER, (ORDER, NAME, "é")).encode("latin-1") + b"\x81")
    problem = refusal(path, encoding="windows-1252")
    assert place(problem) == (3, 1, "encoding")
    assert problem.reason.startswith("is not windows-1252; say what else it is with --encoding")


@pytest.mark.parametrize(
    "encoding",
    ["", "klingon", "rot13", "base64", "punycode", "idna", "undefined", "a\0b", "\ud800", "../x"],
    ids=ascii,
)
@pytest.mark.parametrize("name", ["o.csv", "o.jsonl"])
def test_an_encoding_that_there_is_not(tmp_path: Path, encoding: str, name: str) -> None:
    """What is no encoding of a file is refused, with some that are."""
    path = write(tmp_path, "order_id\n1\n", name)
    with pytest.raises(ConfigurationError, match=r"is none; name one such as utf-8, .*windows"):
        list(order_list.rows(path, Marketplace.US, Reading(encoding)))


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"], ids=ascii)
@pytest.mark.parametrize("name", ["o.csv", "o.xls", "o.ods", "o.jsonl"])
def test_other_files(tmp_path: Path, start: bytes, name: str) -> None:
    """A workbook under another ending, or of an older kind, is told what to save it as."""
    problem = refusal(write(tmp_path, start + bytes(100), name))
    assert place(problem) == (1, None, "file")
    assert problem.reason.endswith("save it as .xlsx or as CSV")


# Names of columns


@pytest.mark.parametrize(
    "name",
    [
        "order-id",
        "amazon-order-id",
        "Order ID",
        "orderid",
        "AmazonOrderId",
        " ORDER  ID ",
        "order\u00a0id",
    ],
)
def test_names_of_the_order_id(tmp_path: Path, name: str) -> None:
    """Amazon's reports and other programs name it in their ways, all of which are known."""
    contents: dict[str, str | bytes] = {
        "o.csv": table([name, "text"], ["1", "x"]),
        "o.jsonl": json.dumps({name: "1", "text": "x"}),
        "o.xlsx": workbook([name, "text"], ["1", "x"]),
    }
    for file, content in contents.items():
        (row,) = read(write(tmp_path, content, file), "order_id")
        assert (row["order_id"], row["text"]) == ("1", "x")


def test_a_name_of_its_own_comes_first(tmp_path: Path) -> None:
    """Beside an order_id another id is a column as any, for paths and templates."""
    (row,) = read(write(tmp_path, "amazon-order-id,order_id\n1,2\n"), "order_id")
    assert row == {"amazon_order_id": "1", "order_id": "2"}


@pytest.mark.parametrize(
    ("header", "renamed", "expected"),
    [
        ("Nr,Text", {"nr": "order_id"}, ("1", "x")),
        ("Bestell-Nr,Nachricht", {"Bestell Nr": "Order ID", "nachricht": "text"}, ("1", "x")),
        ("text,order_id", {"text": "order_id", "order_id": "text"}, ("1", "x")),
    ],
)
def test_renamed_columns(
    tmp_path: Path, header: str, renamed: dict[str, str], expected: tuple[str, str]
) -> None:
    """A column counts as what it was mapped to, and its capitals and dashes do not matter."""
    (row,) = read(write(tmp_path, f"{header}\n1,x\n"), "order_id", renamed=renamed)
    assert (row["order_id"], row["text"]) == expected


@pytest.mark.parametrize(
    ("header", "renamed", "expected", "words"),
    [
        ("a,b", {"c": "order_id"}, (1, None, "c"), "of --map is no column; the header has a, b"),
        ("order_id,b", {"b": "order_id"}, (1, 2, "order_id"), "stands twice"),
        ("order-id,Order ID", {}, (1, 2, "order_id"), "stands twice"),
        ("a,text,Text", {"a": "order_id"}, (1, 3, "text"), "stands twice"),
        ("a,b", {}, (1, None, "order_id"), "--map NAME=order_id takes another column for it"),
    ],
)
def test_names_that_cannot_be(
    tmp_path: Path, header: str, renamed: dict[str, str], expected: Place, words: str
) -> None:
    """A column that is missing, or stands twice once all have their names, is told."""
    contents: dict[str, str | bytes] = {
        "o.csv": f"{header}\n1,x\n",
        "o.xlsx": workbook(header.split(","), ["1", "x"]),
    }
    for name, content in contents.items():
        problem = refusal(write(tmp_path, content, name), "order_id", renamed=renamed)
        assert place(problem) == expected
        assert words in problem.reason


# What spreadsheets put in the place of a value

SPOILT = {
    "its last digits are lost": ["1.23E+15", "1,23E+15", "1e+16", "-1.5E+20", " 1.23457E+16 "],
    "a value that it cannot show": [
        *("#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!", "#SPILL!", "#n/a"),
        *("#NV", "#BEZUG!", "#WERT!", "#ZAHL!", "#VALEUR!", "#NOM?", "#N/D", "#¡REF!", "#¿NOMBRE?"),
        *("#RIF!", "#VALORE!", "##", "########"),
    ],
}


@pytest.mark.parametrize(
    ("shown", "words"), [(shown, words) for words, found in SPOILT.items() for shown in found]
)
def test_spoilt_cells(tmp_path: Path, shown: str, words: str) -> None:
    """A rounded number, or the sign of an error, is refused where it is used, and only there."""
    path = write(tmp_path, table([*HEADER, "unused"], [ORDER, NAME, "Hello.", shown]))
    assert text_of(path) == "Hello."
    path = write(tmp_path, table(HEADER, [ORDER, NAME, shown]))
    problem = text_of(path)
    assert isinstance(problem, Problem)
    assert place(problem) == (2, 3, "text")
    assert problem.reason.startswith(repr(shown.strip()))
    assert words in problem.reason


@pytest.mark.parametrize("text", ["1E+5", "5+3", "#", "#1", "# 5", "No #N/A", "N/A", "1.23E+15 €"])
def test_cells_that_only_look_spoilt(tmp_path: Path, text: str) -> None:
    """A short number, a hash and a sign within a sentence are texts as any."""
    assert text_of(write(tmp_path, table(HEADER, [ORDER, NAME, text]))) == text


# Workbooks


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Größe 😀", "Größe 😀"),
        (" a\nb ", " a\nb "),
        ("two_x000D_\nlines", "two\r\nlines"),
        (5, "5"),
        (5.0, "5"),
        (5.25, "5.25"),
        (10**14, "100000000000000"),
        (True, "TRUE"),
        (False, "FALSE"),
        (None, ""),
        (date(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 31, 10, 5), "2026-01-31 10:05:00"),
        (10**16 + 1, "1.00000E+16"),
        (-1e300, "-1.00000E+300"),
    ],
    ids=ascii,
)
def test_values_of_a_workbook(tmp_path: Path, value: object, shown: str) -> None:
    """Each is the text that a spreadsheet shows for it; where digits are lost, that it is so."""
    path = write(tmp_path, workbook(["a", "b"], [value, "x"]), "o.xlsx")
    assert read(path) == [{"a": shown, "b": "x"}]


def test_the_binary_dust_of_a_number_is_not_shown(tmp_path: Path) -> None:
    """Three times 19.90 is 59.7, though a workbook keeps 59.699999999999996."""
    book = edited(workbook(["a"], [1.5]), b"<v>1.5</v>", b"<v>59.699999999999996</v>")
    assert read(write(tmp_path, book, "o.xlsx")) == [{"a": "59.7"}]


def test_an_order_id_that_became_a_number(tmp_path: Path) -> None:
    """A spreadsheet keeps 15 digits of it, so that it is refused as what was rounded."""
    path = write(tmp_path, workbook(HEADER, [11122222223333333, NAME, "x"]), "o.xlsx")
    problem = text_of(path)
    assert isinstance(problem, Problem)
    assert place(problem) == (2, 1, "order_id")
    assert "'1.11222E+16' is what a spreadsheet made of a long number" in problem.reason
    assert "Format the column as text" in problem.reason


def test_rows_of_a_workbook(tmp_path: Path) -> None:
    """Empty rows before and between are passed over and counted; an ending in capitals is one."""
    rows: list[list[Any]] = [[], ["a", "b"], [None, ""], ["1"], [], [None, "2"]]
    found = list(cells.read(write(tmp_path, workbook(*rows), "O.XLSX")))
    values = [(row.line, row.text("a"), row.text("b")) for row in found if isinstance(row, Row)]
    assert values == [(4, "1", ""), (6, "", "2")]


def test_the_first_sheet_that_is_not_hidden(tmp_path: Path) -> None:
    """Other sheets are of no concern, and a hidden one before it neither."""
    content = workbook(["a"], ["first"], second=[["b"], ["second"]])
    assert read(write(tmp_path, content, "o.xlsx")) == [{"a": "first"}]
    book = openpyxl.load_workbook(io.BytesIO(content))
    book.worksheets[0].sheet_state = "hidden"
    book.active = 1
    assert read(write(tmp_path, saved(book), "o.xlsx")) == [{"b": "second"}]


FORMULA = b'<c r="B2"><f>A1</f><v /></c>'


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (b'<c r="B2" t="str"><f>A1</f><v>a</v></c>', "a"),
        (b'<c r="B2"><f>A1</f><v>5</v></c>', "5"),
        (b'<c r="B2" t="str"><f>A1</f><v></v></c>', ""),
        (b'<c r="B2" t="e"><f>A1</f><v>#REF!</v></c>', "#REF!"),
    ],
)
def test_formulas(tmp_path: Path, cell: bytes, shown: str) -> None:
    """A formula's last result counts, the empty text among them."""
    book = edited(workbook(["a", "b"], ["x", "=A1"]), FORMULA, cell)
    assert read(write(tmp_path, book, "o.xlsx")) == [{"a": "x", "b": shown}]


def test_formulas_that_were_filled_down(tmp_path: Path) -> None:
    """Rows in which every formula gives the empty text are empty rows."""
    book = edited(
        workbook(["a", "b"], [None, "=A1"]),
        FORMULA,
        FORMULA.replace(b' r="B2"', b' r="B2" t="str"'),
    )
    assert read(write(tmp_path, book, "o.xlsx")) == []


@pytest.mark.parametrize("formula", [b"", b' t="array" ref="C2"'], ids=["", "array"])
def test_formulas_without_a_result(tmp_path: Path, formula: bytes) -> None:
    """One that no spreadsheet has computed is refused where it is used, with what to do."""
    book = edited(workbook(HEADER, [ORDER, NAME, "=A1"]), b"<f>", b"<f" + formula + b">")
    problem = text_of(write(tmp_path, book, "o.xlsx"))
    reason = "is a formula without a value; open the list in a spreadsheet, and save it"
    assert problem == Problem(2, 3, "text", reason)
    book = workbook([*HEADER, "unused"], [ORDER, NAME, "Hello.", "=A1"])
    assert text_of(write(tmp_path, book, "o.xlsx")) == "Hello."


def test_cells_beside_the_header(tmp_path: Path) -> None:
    """A cell whose column has no name could be lost unseen, and so is told."""
    path = write(tmp_path, workbook(["a", "b"], ["1", "2"], ["3", "4", "note"]), "o.xlsx")
    good, problem = cells.read(path)
    assert isinstance(good, Row)
    reason = "stands beside the header; give its column a name"
    assert problem == Problem(3, 3, "row", reason)


@pytest.mark.parametrize(
    "content",
    [b"", b"order_id,text\n", b"PK\x03\x04", b"\xd0\xcf\x11\xe0", workbook(["a"])[:-30]],
    ids=["empty", "CSV", "zip", "xls", "cut"],
)
def test_what_is_no_workbook(tmp_path: Path, content: bytes) -> None:
    """Whatever else has that ending is told, and how to save it."""
    problem = refusal(write(tmp_path, content, "o.xlsx"))
    assert place(problem) == (1, None, "file")
    assert BROKEN in problem.reason


@pytest.mark.parametrize("rows", [[], [[]], [[None, ""]]], ids=ascii)
def test_an_empty_workbook(tmp_path: Path, rows: list[list[Any]]) -> None:
    """A sheet without a cell has no header."""
    problem = refusal(write(tmp_path, workbook(*rows), "o.xlsx"))
    assert place(problem) == (1, None, "header")


@pytest.mark.parametrize("name", ["none.xlsx", "folder.xlsx"])
def test_workbooks_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    """One that is not there, or is no file, is told as any other list is."""
    (tmp_path / "folder.xlsx").mkdir()
    with pytest.raises(ConfigurationError, match=r"^the order list .*cannot be read: [A-Z]"):
        list(order_list.rows(tmp_path / name, Marketplace.US))


def test_without_openpyxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workbook needs the extra, which one line names; a table does not."""
    path = write(tmp_path, workbook(HEADER), "o.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ConfigurationError) as caught:
        list(cells.read(path))
    expected = 'reading o.xlsx needs the excel extra: pip install "sp-messaging-async[excel]"'
    assert str(caught.value) == expected
    assert read(write(tmp_path, "a\n1\n")) == [{"a": "1"}]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            b"</worksheet>",
            b'<extLst><ext uri="{78C0D931-6437-407d-A8EE-F0AAD7539E65}"/></extLst></worksheet>',
        ),
        (b'<c r="A2" s="1" t="n"><v>46053</v>', b'<c r="A2" s="1" t="n"><v>99999999</v>'),
    ],
    ids=["conditional format", "no date"],
)
def test_what_openpyxl_warns_of_is_not_shown(tmp_path: Path, old: bytes, new: bytes) -> None:
    """Its warnings about what it leaves out concern no order list, and stop none."""
    book = edited(workbook(["a"], [date(2026, 1, 31)], ["x"]), old, new)
    assert len(read(write(tmp_path, book, "o.xlsx"))) == 2


# Whatever a list holds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cells")


def few(number: int) -> settings:
    return settings(
        max_examples=number, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn")), max_size=12)
TEXTS |= st.sampled_from(['"', "a,b;c\td", "'", '""', " ", "é", "a\nb", "sep=;", "=1+1", "Größe €"])
ROWS = st.lists(st.tuples(TEXTS, TEXTS, TEXTS).filter(any), max_size=4)
FORMS = [*MARKED, "utf-8-sig", "utf-16", "utf-32"]


@few(100)
@given(rows=ROWS, separator=st.sampled_from(",;\t"), encoding=st.sampled_from(FORMS))
def test_any_text_in_any_table(
    folder: Path, rows: list[tuple[str, ...]], separator: str, encoding: str
) -> None:
    """Written with any separator in any Unicode, a table's rows are read as they were."""
    path = write(folder, table(HEADER, *rows, separator=separator).encode(encoding))
    assert read(path, *HEADER) == [dict(zip(HEADER, row, strict=True)) for row in rows]


@few(40)
@given(rows=ROWS)
def test_any_text_in_any_form(folder: Path, rows: list[tuple[str, ...]]) -> None:
    """JSON Lines and a workbook of the same rows are read alike."""
    expected = [dict(zip(HEADER, row, strict=True)) for row in rows]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in expected)
    assert read(write(folder, lines, "o.jsonl"), *HEADER) == expected
    book = openpyxl.Workbook()
    for row in (HEADER, *rows):
        book.worksheets[0].append(row)
        for cell in book.worksheets[0][book.worksheets[0].max_row]:
            cell.data_type = "s"  # also what would be a formula
    assert read(write(folder, saved(book), "o.xlsx"), *HEADER) == expected


def test_the_same_list_in_every_form(tmp_path: Path) -> None:
    """Excel's CSV, Unicode text, JSON Lines and a workbook give the same messages and problems."""
    rows = [
        (ORDER, NAME, "Größe ‘M’ – 5 €; zwölf"),
        (f" {ORDER} ", "create_confirm_order_details", 'Zwei, "bitte"'),
        ("1.11222E+16", NAME, "x"),
        (ORDER, "no", "<b>"),
    ]
    lines = "".join(json.dumps(dict(zip(HEADER, row, strict=True))) + "\n" for row in rows)
    lists: list[tuple[str, bytes, str | None]] = [
        ("o.csv", table(HEADER, *rows, separator=";").encode("cp1252"), "windows-1252"),
        ("o.txt", table(HEADER, *rows, separator="\t").encode("utf-16"), None),
        ("o.xlsx", workbook(HEADER, *rows), None),
        ("o.jsonl", lines.encode(), None),
    ]
    found = []
    for name, content, encoding in lists:
        read_ = order_list.rows(write(tmp_path, content, name), Marketplace.US, Reading(encoding))
        found.append(
            [row.message if isinstance(row, Listed) else (row.field, row.reason) for row in read_]
        )
    assert [type(row).__name__ for row in found[0]] == ["Message", "Message", "tuple", "tuple"]
    assert all(each == found[0] for each in found)


ENCODINGS = st.sampled_from([None, "utf-8", "utf-16", "cp1252", "gbk", "utf-7", "iso2022_jp", "hz"])
PIECES = [
    b"order_id",
    b",",
    b";",
    b"\t",
    b"\n",
    b'"',
    b"\0",
    b"\xff\xfe",
    b"sep=;\n",
    b"\x1b$B",
    b"1",
]
BYTES = st.binary(max_size=100) | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


def told(path: Path, reading: Reading) -> None:
    """Read a list, of which nothing but problems may be told."""
    for row in order_list.rows(path, Marketplace.US, reading):
        assert isinstance(row, Listed) or (row.line >= 1 and row.reason and str(row).encode())


@few(250)
@given(content=BYTES, name=st.sampled_from(["z.csv", "z.jsonl", "z.xlsx"]), encoding=ENCODINGS)
def test_any_bytes(folder: Path, content: bytes, name: str, encoding: str | None) -> None:
    """Whatever bytes are taken for a list, of whatever encoding: problems, and no other error."""
    told(write(folder, content, name), Reading(encoding, any_order_id=True))


BOOK = workbook(HEADER, [ORDER, NAME, "text"], [5, True, date(2026, 1, 31)])
SHEET = zipfile.ZipFile(io.BytesIO(BOOK)).read("xl/worksheets/sheet1.xml")


@few(60)
@given(at=st.floats(0, 1), cut=st.integers(0, 20), new=st.binary(max_size=3), packed=st.booleans())
def test_any_workbook(folder: Path, at: float, cut: int, new: bytes, packed: bool) -> None:
    """A workbook that is damaged anywhere: messages or problems, and no other error."""
    whole = BOOK if packed else SHEET
    start = int(at * len(whole))
    content = whole[:start] + new + whole[start + cut :]
    told(write(folder, content if packed else edited(BOOK, SHEET, content), "z.xlsx"), Reading())


@pytest.mark.parametrize("value", [5, None, ["a"], True], ids=ascii)
def test_values_keep_their_kind_where_no_text_is_asked_for(tmp_path: Path, value: object) -> None:
    """A template gets a JSON value as it is; what must be a text is refused if it is none."""
    (row,) = cells.read(write(tmp_path, json.dumps({"a": value}), "o.jsonl"))
    assert isinstance(row, Row)
    assert row.value("a") == value
    if value is not None:
        with pytest.raises(
            InvalidMessage, match=r"a: is (a number|a list|true or false); give text"
        ):
            row.text("a")


def test_a_workbook_is_closed(tmp_path: Path) -> None:
    """However early its reader stops, no file is left open."""
    path = write(tmp_path, workbook(["a"], *([str(number)] for number in range(300))), "o.xlsx")
    opened: list[Any] = []
    load = openpyxl.load_workbook

    def note(*args: Any, **options: Any) -> Any:
        opened.append(load(*args, **options))
        return opened[-1]

    with patch.object(openpyxl, "load_workbook", note):
        rows = cells.read(path)
        next(rows)
        rows.close()  # type: ignore[attr-defined]
    assert len(opened) == 2
    assert all(book._archive.fp is None for book in opened)


@pytest.mark.parametrize("said", ["A1:B2", "A1:B99999999", "A1:ZZZ2", "A1:A1"])
def test_what_a_workbook_says_of_its_size(tmp_path: Path, said: str) -> None:
    """It may be wrong, as other programs write it, and loses no row and adds none."""
    content = edited(
        BOOK, SHEET, re.sub(rb'ref="[A-Z]+[0-9:A-Z]*"', f'ref="{said}"'.encode(), SHEET)
    )
    rows = list(cells.read(write(tmp_path, content, "o.xlsx")))
    assert rows == list(cells.read(write(tmp_path, BOOK, "o.xlsx")))
    assert rows
