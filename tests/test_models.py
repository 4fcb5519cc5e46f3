"""The payloads: Amazon's limits, on both sides of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest

from sp_messaging_async import (
    Attachment,
    CreateAmazonMotorsRequest,
    CreateConfirmCustomizationDetailsRequest,
    CreateConfirmDeliveryDetailsRequest,
    CreateConfirmOrderDetailsRequest,
    CreateConfirmServiceDetailsRequest,
    CreateDigitalAccessKeyRequest,
    CreateLegalDisclosureRequest,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    GetMessagingActionResponse,
    InvalidMessage,
    InvoiceRequest,
    LocalFile,
    MessageRequest,
    MessagingAction,
    models,
)
from sp_messaging_async.models import MAX_ATTACHMENT_BYTES, UploadDestination

from .conftest import requests_of_every_kind

FILE = Attachment("sc/0", "a.pdf")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

TEXTS: dict[type[Any], int] = {
    CreateConfirmCustomizationDetailsRequest: 800,
    CreateConfirmDeliveryDetailsRequest: 2000,
    CreateConfirmOrderDetailsRequest: 2000,
    CreateConfirmServiceDetailsRequest: 2000,
    CreateDigitalAccessKeyRequest: 400,
    CreateUnexpectedProblemRequest: 2000,
}
FILES: dict[type[Any], int] = {
    CreateConfirmCustomizationDetailsRequest: 0,
    CreateLegalDisclosureRequest: 0,
    CreateAmazonMotorsRequest: 0,
    CreateDigitalAccessKeyRequest: 0,
    CreateWarrantyRequest: 1,
    InvoiceRequest: 1,
}

with_text = pytest.mark.parametrize(("cls", "limit"), TEXTS.items())
with_files = pytest.mark.parametrize(("cls", "least"), FILES.items())


def refused(field: str, make: Callable[[], object], match: str | None = None) -> int | None:
    """The position in the one finding of the InvalidMessage about a field."""
    with pytest.raises(InvalidMessage, match=match) as caught:
        make()
    (finding,) = caught.value.findings
    assert finding.field == field
    return finding.position


def with_attachments(cls: type[Any], files: object) -> Any:
    text = {"text": "x"} if cls in TEXTS else {}
    return cls(**text, attachments=files)


def test_every_limit_is_tested_here() -> None:
    """The requests with a text, and those with attachments, are the ones listed above."""
    for request in requests_of_every_kind():
        names = attrs.fields_dict(type(request))
        assert (type(request) in TEXTS) == ("text" in names)
        assert (type(request) in FILES) == ("attachments" in names)


@with_text
@pytest.mark.parametrize("character", ["x", "é", "字", "🎁"])
def test_longest_text(cls: type[Any], limit: int, character: str) -> None:
    """A text of just the limit is taken, counted in characters and not in bytes."""
    assert cls(text=character).text == character
    assert cls(text=character * limit).text == character * limit


@with_text
def test_longer_text(cls: type[Any], limit: int) -> None:
    """One character more is refused, with the length, the limit and where it is exceeded."""
    match = f"has {limit + 1} characters where Amazon takes {limit}"
    assert refused("text", lambda: cls(text="x" * (limit + 1)), match) == limit + 1


@with_text
@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u3000"])
def test_empty_text(cls: type[Any], limit: int, text: str) -> None:
    """A text without a visible character is refused."""
    refused("text", lambda: cls(text=text), "is empty")


@with_text
@pytest.mark.parametrize("text", [None, b"x", 1, ["x"], Path("x")], ids=repr)
def test_text_of_another_type(cls: type[Any], limit: int, text: object) -> None:
    """What is no str is refused by its type, and never turned into one."""
    refused("text", lambda: cls(text=text), f"is a {type(text).__name__}")


@with_text
@pytest.mark.parametrize(("text", "position"), [("\ud83c", 1), ("ab\udf81", 3)])
def test_half_of_a_surrogate_pair(cls: type[Any], limit: int, text: str, position: int) -> None:
    """Half of a surrogate pair cannot be sent as UTF-8, and is refused with its place."""
    assert refused("text", lambda: cls(text=text), "surrogate") == position


@with_files
@pytest.mark.parametrize("count", range(8))
def test_number_of_attachments(cls: type[Any], least: int, count: int) -> None:
    """Up to five files are taken, six are refused, and none where Amazon wants at least one."""
    files = [FILE] * count
    if least <= count <= 5:
        assert with_attachments(cls, files).attachments == (FILE,) * count
    else:
        match = f"holds {count} where Amazon takes {least} to 5"
        refused("attachments", lambda: with_attachments(cls, files), match)


@with_files
@pytest.mark.parametrize("files", [FILE, None, "a.pdf", b"a.pdf", ["a.pdf"], [None], {"a": 1}, 1])
def test_attachments_of_another_type(cls: type[Any], least: int, files: object) -> None:
    """Anything but a list of Attachment or LocalFile is refused."""
    refused("attachments", lambda: with_attachments(cls, files), "is no list of")


@pytest.mark.parametrize("cls", [cls for cls, least in FILES.items() if not least])
def test_attachments_may_be_left_out(cls: type[Any]) -> None:
    """Where Amazon asks for no file, none is the default."""
    assert (cls(text="x") if cls in TEXTS else cls()).attachments == ()


def test_any_iterable_of_attachments() -> None:
    """A generator is read once and kept as a tuple, Attachment and LocalFile side by side."""
    local = LocalFile("b.png")

    def files() -> Iterator[Attachment | LocalFile]:
        yield FILE
        yield local

    request: Any = with_attachments(InvoiceRequest, files())
    assert request.attachments == (FILE, local)


@with_files
def test_total_size(cls: type[Any], least: int) -> None:
    """Files whose sizes are known are refused once they come to more than Amazon's 10 MB."""
    half = MAX_ATTACHMENT_BYTES // 2
    fitting = [Attachment("1", "a.pdf", size=half), Attachment("2", "b.pdf", size=half)]
    assert len(with_attachments(cls, [*fitting, FILE]).attachments) == 3
    excess = Attachment("3", "c.pdf", size=1)
    match = "come to 10,000,001 bytes; Amazon takes 10,000,000"
    refused("attachments", lambda: with_attachments(cls, [*fitting, excess]), match)


@pytest.mark.parametrize("name", ["upload_destination_id", "file_name"])
@pytest.mark.parametrize("value", ["", "  ", None, 1, "a\ud83c"], ids=ascii)
def test_attachment_needs_both_names(name: str, value: Any) -> None:
    """An attachment without an upload destination or a file name is refused."""
    fields = {"upload_destination_id": "sc/0", "file_name": "a.pdf", name: value}
    refused(name, lambda: Attachment(**fields))


def test_size_is_no_part_of_equality() -> None:
    """Whether the size is known makes no other attachment."""
    assert Attachment("sc/0", "a.pdf", size=1) == FILE
    assert hash(Attachment("sc/0", "a.pdf", size=1)) == hash(FILE)


@pytest.mark.parametrize(
    "name",
    [
        "a.txt",
        "a.pdf",
        "a.doc",
        "a.docx",
        "a.jpg",
        "a.jpeg",
        "a.gif",
        "a.png",
        "A.PDF",
        "a.b.Jpg",
        "Rechnung Nr. 5.pdf",
        "发票.pdf",
    ],
)
def test_local_file(name: str) -> None:
    """Each kind of file that Amazon takes is taken, under the path's own name unless told."""
    file = LocalFile(f"folder/{name}")
    assert (file.path, file.file_name) == (Path("folder") / name, name)
    assert LocalFile(Path("scan.tmp"), file_name=name).file_name == name


@pytest.mark.parametrize("name", ["a.exe", "a", ".pdf", "a.pdf.zip", "a.pdfx", "a.html", "a."])
def test_local_file_of_another_kind(name: str) -> None:
    """Any other kind is refused, naming those that Amazon takes."""
    refused("file_name", lambda: LocalFile(name), r"Amazon refuses; it takes \.txt .*\.png")
    refused("file_name", lambda: LocalFile("a.pdf", file_name=name), "Amazon refuses")


@pytest.mark.parametrize("value", [None, 1, b"a.pdf", ["a.pdf"]])
def test_local_file_needs_a_path(value: Any) -> None:
    """What is no path is refused by its type."""
    refused("path", lambda: LocalFile(value), f"is a {type(value).__name__}; give a path")


@pytest.mark.parametrize("value", ["", None, 1, b"a.pdf"])
def test_local_file_needs_a_name(value: Any) -> None:
    """A file name that the buyer could not see is refused."""
    refused("file_name", lambda: LocalFile("a.pdf", file_name=value))


@pytest.mark.parametrize("name", ["coverage_start_date", "coverage_end_date"])
@pytest.mark.parametrize(
    ("value", "match"),
    [
        (NOON.replace(tzinfo=None), "has no time zone"),
        (date(2026, 1, 1), "is a date; give a datetime"),
        ("2026-01-01T00:00:00Z", "is a str; give a datetime"),
        (0, "is a int; give a datetime"),
    ],
    ids=repr,
)
def test_coverage_dates_are_aware_datetimes(name: str, value: Any, match: str) -> None:
    """A datetime without a time zone, or no datetime at all, is refused."""
    refused(name, lambda: CreateWarrantyRequest([FILE], **{name: value}), match)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (None, None),
        (NOON, None),
        (None, NOON),
        (NOON, NOON),
        (NOON, NOON + timedelta(microseconds=1)),
        (NOON, NOON.replace(hour=11, tzinfo=timezone(timedelta(hours=-2)))),
    ],
)
def test_coverage(start: datetime | None, end: datetime | None) -> None:
    """Either date may be missing, and the end may be the start; time zones are heeded."""
    request = CreateWarrantyRequest([FILE], start, end)
    assert (request.coverage_start_date, request.coverage_end_date) == (start, end)


@pytest.mark.parametrize(
    "end",
    [NOON - timedelta(microseconds=1), NOON.replace(hour=13, tzinfo=timezone(timedelta(hours=2)))],
)
def test_coverage_ends_after_it_starts(end: datetime) -> None:
    """An end before the start is refused, whatever their time zones show."""
    refused("coverage_end_date", lambda: CreateWarrantyRequest([FILE], NOON, end), "lies before")


@pytest.mark.parametrize("request_", requests_of_every_kind(), ids=lambda r: type(r).__name__)
def test_requests_are_values(request_: MessageRequest) -> None:
    """A request cannot be changed once it was checked, equals its like, and can be a key."""
    for attribute in attrs.fields(type(request_)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(request_, attribute.name, None)
    assert request_ in {attrs.evolve(request_): True}


def test_every_model_is_frozen() -> None:
    """No payload class, of a request or an answer, lets its fields be set."""
    classes = [cls for cls in vars(models).values() if isinstance(cls, type) and attrs.has(cls)]
    assert len(classes) > 30
    for cls in classes:
        blank: Any = cls.__new__(cls)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            blank.errors = ()


def test_name_of_an_action() -> None:
    """An action's name is its payload's, and None where Amazon sent none."""
    assert GetMessagingActionResponse(payload=MessagingAction("warranty")).name == "warranty"
    assert GetMessagingActionResponse().name is None


def test_presigned_address_is_not_shown() -> None:
    """The repr of an upload destination holds neither the presigned address nor its headers."""
    shown = repr(UploadDestination("sc/0", "https://s3/?X-Amz-Signature=sesame", {"k": "sesame"}))
    assert "sesame" not in shown
    assert "sc/0" in shown
