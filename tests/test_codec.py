"""Between models and JSON: every class there and back, exact types, and Amazon's two forms."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import NoneType
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sp_messaging_async import (
    Attachment,
    CreateConfirmCustomizationDetailsRequest,
    CreateConfirmOrderDetailsRequest,
    CreateWarrantyRequest,
    Error,
    GetAttributesResponse,
    GetMessagingActionResponse,
    GetMessagingActionsForOrderResponse,
    InvoiceRequest,
    LocalFile,
    MessageResponse,
    models,
)
from sp_messaging_async.codec import DecodingError, decode, decode_strictly, encode, parse
from sp_messaging_async.models import CreateUploadDestinationResponse

FILE = {"uploadDestinationId": "sc/0", "fileName": "a.pdf"}

# LocalFile is uploaded, and so becomes an Attachment, before anything is encoded.
CLASSES: list[type[Any]] = [
    Error,
    *(
        value
        for value in vars(models).values()
        if attrs.has(value) and value.__module__ == models.__name__ and value is not LocalFile
    ),
]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)

TEXT = st.text(min_size=1, max_size=400).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=5,
)
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def models_of(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any value of a model class, fields that have a default sometimes left at it."""
    if cls is CreateWarrantyRequest:
        return st.builds(_warranty, st.tuples(_moments(), _moments()), _values(models.Attached))
    hints = get_type_hints(cls)
    fields = {
        field.name: _values(hints[field.name])
        for field in attrs.fields(cls)
        if field.name != "size"  # of an Attachment: known here only, and never sent
    }
    optional = {f.name: fields.pop(f.name) for f in attrs.fields(cls) if _is_optional(f, fields)}
    return st.fixed_dictionaries(fields, optional=optional).map(lambda given: cls(**given))


def _is_optional(field: attrs.Attribute[Any], among: Mapping[str, object]) -> bool:
    return field.name in among and field.default is not attrs.NOTHING


def _warranty(dates: tuple[Any, Any], files: Any) -> CreateWarrantyRequest:
    start, end = dates if None in dates else sorted(dates)
    return CreateWarrantyRequest(files, start, end)


def _moments() -> st.SearchStrategy[datetime | None]:
    """Aware datetimes; the years at both ends of the calendar have a test of their own."""
    days = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=OFFSETS)
    return st.none() | days


def _values(hint: Any) -> st.SearchStrategy[Any]:
    if hint == models.Attached:
        return st.lists(models_of(Attachment), min_size=1, max_size=5).map(tuple)
    if get_origin(hint) in (Union, type(int | str)):
        return st.one_of([_values(part) for part in get_args(hint)])
    if get_origin(hint) is tuple:
        return st.lists(_values(get_args(hint)[0]), max_size=3).map(tuple)
    if hint == models.Schema:
        return st.dictionaries(st.text(), JSON, max_size=3)
    if get_origin(hint) is Mapping:
        return st.dictionaries(st.text(), _values(get_args(hint)[1]), max_size=3)
    if hint is str:
        return TEXT
    return st.none() if hint is NoneType else models_of(hint)


@every_class
def test_there_and_back(cls: type[Any]) -> None:
    """Any value of any model class is the same after a way through JSON, strictly read or not."""

    @settings(max_examples=25, deadline=None)
    @given(models_of(cls))
    def holds(model: Any) -> None:
        data = parse(encode(model))
        assert decode(data, cls) == model
        assert decode_strictly(data, cls) == model

    holds()


def filled(hint: Any) -> Any:
    """A model with something in every field, as plain JSON data."""
    if get_origin(hint) in (Union, type(int | str)):
        return filled(get_args(hint)[0])
    if get_origin(hint) is tuple:
        return [filled(get_args(hint)[0])]
    if hint == models.Schema:
        return {"free": "form"}
    if get_origin(hint) is Mapping:
        return {"key": filled(get_args(hint)[1])}
    if hint in (str, datetime):
        return "2026-01-01T00:00:00Z"  # a date-time is a text as good as any
    hints = get_type_hints(hint)
    return {
        json_name(field): filled(hints[field.name])
        for field in attrs.fields(hint)
        if field.name != "size"
    }


def json_name(field: attrs.Attribute[Any]) -> str:
    first, *rest = field.name.split("_")
    return str(field.metadata.get("json") or first + "".join(map(str.capitalize, rest)))


Path = tuple[str | int, ...]


def places(data: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every place in plain data, and what is there; nothing below a free-form schema."""
    yield path, data
    if data == {"free": "form"}:
        return
    inside = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in inside if isinstance(data, dict | list) else ():
        yield from places(value, (*path, key))


def changed(data: Any, path: Path, value: object) -> Any:
    """The data with another value in one place."""
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


@every_class
def test_every_field_is_sent_and_read(cls: type[Any]) -> None:
    """A model that has something in every field is JSON with something under every name."""
    data = filled(cls)
    assert parse(encode(decode_strictly(data, cls))) == data


WRONG: list[Any] = ["text", 1, 1.5, True, [], ["text"], {}, {"a": 1}]


@every_class
def test_types_are_exact(cls: type[Any]) -> None:
    """A value of any other JSON type, wherever it stands, is refused and never turned into one."""
    data = filled(cls)
    for path, right in places(data):
        for wrong in (value for value in WRONG if type(value) is not type(right)):
            with pytest.raises(DecodingError):
                decode(changed(data, path, wrong), cls)


@every_class
def test_null_is_as_good_as_absent(cls: type[Any]) -> None:
    """A field that is null holds its default, or is missing where it has none."""
    data = filled(cls)
    for field in attrs.fields(cls):
        name = json_name(field)
        if name not in data:
            continue
        without = {key: value for key, value in data.items() if key != name}
        if field.default is attrs.NOTHING:
            for incomplete in (without, {**data, name: None}):
                with pytest.raises(DecodingError, match=f"{name} is missing"):
                    decode(incomplete, cls)
        else:
            assert decode({**data, name: None}, cls) == decode(without, cls)


@every_class
def test_unknown_fields(cls: type[Any]) -> None:
    """A field that no model knows is ignored at any depth, and refused by its name if strict."""
    data = filled(cls)
    for path, here in places(data):
        if not isinstance(here, dict) or here.keys() & {"free", "key"}:
            continue  # these two may hold any names at all
        longer = changed(data, path, {**here, "surprise": {"a": 1}})
        assert decode(longer, cls) == decode(data, cls)
        with pytest.raises(DecodingError, match="surprise"):
            decode_strictly(longer, cls)


@every_class
@pytest.mark.parametrize("data", [None, [], "text", 1, True, [{}]], ids=repr)
def test_a_model_is_an_object(cls: type[Any], data: object) -> None:
    """What is no JSON object is no model."""
    with pytest.raises(DecodingError, match="where an object belongs"):
        decode(data, cls)


def test_defaults_are_left_out() -> None:
    """An empty list or a date that was not given is not sent."""
    assert encode(CreateConfirmCustomizationDetailsRequest("x")) == b'{"text":"x"}'
    request = CreateWarrantyRequest([Attachment("sc/0", "a.pdf")])
    assert parse(encode(request)) == {"attachments": [FILE]}


def test_text_is_sent_as_it_is() -> None:
    """Text goes out in UTF-8 without escapes, so that a character is what Amazon counts."""
    request = CreateConfirmOrderDetailsRequest('"Größe" 字 🎁\n')
    assert encode(request) == '{"text":"\\"Größe\\" 字 🎁\\n"}'.encode()


def test_the_size_of_a_file_is_ours_alone() -> None:
    """The size is neither sent nor believed."""
    assert parse(encode(Attachment("sc/0", "a.pdf", size=5))) == FILE
    assert decode({**FILE, "size": 5}, Attachment).size is None
    with pytest.raises(DecodingError, match="size"):
        decode_strictly({**FILE, "size": 5}, Attachment)


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC), "2026-01-02T03:04:05.678000Z"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-8))), "2026-01-02T08:00:00Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
    ],
)
def test_date_times(moment: datetime, sent: str) -> None:
    """A moment is sent in UTC, in the form that JSON Schema's date-time has."""
    request = CreateWarrantyRequest([Attachment("sc/0", "a.pdf")], coverage_start_date=moment)
    assert parse(encode(request)) == {"attachments": [FILE], "coverageStartDate": sent}


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    ],
)
def test_a_moment_that_utc_cannot_tell(moment: datetime) -> None:
    """A date at the end of the calendar that UTC does not reach is refused like other dates."""
    with pytest.raises(ValueError, match="coverage_start_date"):
        encode(CreateWarrantyRequest([Attachment("sc/0", "a.pdf")], coverage_start_date=moment))


@pytest.mark.parametrize(
    ("read", "moment"),
    [
        ("2004-12-13T21:39:45.618-08:00", datetime(2004, 12, 14, 5, 39, 45, 618000, tzinfo=UTC)),
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05+02:00", datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)),
    ],
)
def test_date_times_are_read(read: str, moment: datetime) -> None:
    """The forms of ISO 8601 with a time zone are read."""
    data = {"attachments": [FILE], "coverageEndDate": read}
    assert decode(data, CreateWarrantyRequest).coverage_end_date == moment


@pytest.mark.parametrize("read", ["soon", "", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "now"])
def test_other_date_times_are_refused(read: str) -> None:
    """No date, an impossible one, or one without a time zone is a DecodingError."""
    with pytest.raises(DecodingError):
        decode({"attachments": [FILE], "coverageStartDate": read}, CreateWarrantyRequest)


def test_limits_hold_for_what_is_read() -> None:
    """A request beyond Amazon's limits is a DecodingError that says which."""
    with pytest.raises(DecodingError, match="attachments: holds 6 where Amazon takes 1 to 5"):
        decode({"attachments": [FILE] * 6}, InvoiceRequest)


@pytest.mark.parametrize("data", [{"payload": {"url": ["sesame"]}}, {"payload": "sesame"}])
def test_errors_quote_no_values(data: object) -> None:
    """What is wrong is told by type and name: a value may be a secret."""
    with pytest.raises(DecodingError) as caught:
        decode(data, CreateUploadDestinationResponse)
    assert "sesame" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.binary() | JSON.map(json.dumps).map(str.encode))
def test_parse_fails_in_one_way(content: bytes) -> None:
    """Any bytes are plain data or a DecodingError."""
    try:
        data = parse(content)
    except DecodingError:
        return
    assert data == json.loads(content.decode("utf-8-sig"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe{\x00}\x00", b"[" * 100_000, b"9" * 5000, b"<html>", b"{'a': 1}"],
    ids=lambda content: repr(content[:9]),
)
def test_what_is_no_json(content: bytes) -> None:
    """Empty, broken, otherwise encoded or endless content is a DecodingError that quotes none."""
    with pytest.raises(DecodingError, match=r"^no readable JSON \(\w+\)$"):
        parse(content)


def test_byte_order_mark() -> None:
    """A byte order mark in front does no harm."""
    assert parse(b"\xef\xbb\xbf{}") == {}


@settings(max_examples=200, deadline=None)
@given(JSON, st.sampled_from(CLASSES))
def test_decode_fails_in_one_way(data: object, cls: type[Any]) -> None:
    """Any plain data is a model or a DecodingError."""
    for read in (decode, decode_strictly):
        with contextlib.suppress(DecodingError):
            assert isinstance(read(data, cls), cls)


# The two forms in which Amazon answers getMessagingActionsForOrder

ORDER_LINK = {"href": "/messaging/v1/orders/123-1234567-1234567"}
LINKS = {
    "self": ORDER_LINK,
    "actions": [
        {"href": "/messaging/v1/orders/123-1234567-1234567/messages/x", "name": "sendInvoice"},
        {"href": "/messaging/v1/orders/123-1234567-1234567/messages/y", "name": "brandNew"},
    ],
}
ACTION_LINKS = {"self": {"href": "/x"}, "schema": {"href": "/x/schema"}}
FORM = {
    "type": "object",
    "properties": {"rawMessageBody": {"type": "string"}, "attachments": {"items": {"id": {}}}},
    "disabled": True,
    "disabledReason": "ORDER_TOO_OLD",
    "x-ui-hidden": False,
}
MODEL_FORM = {
    "_links": LINKS,
    "_embedded": {
        "actions": [
            {
                "_links": ACTION_LINKS,
                "_embedded": {"schema": {"_links": {"self": {"href": "/s"}}, "payload": FORM}},
                "payload": {"name": "sendInvoice"},
            },
            {"payload": {"name": "brandNew"}},
        ]
    },
}
LIVE_FORM = {
    "_links": LINKS,
    "_embedded": {
        "actions": [
            {
                "_links": ACTION_LINKS,
                "_embedded": {"schema": {"_links": {"self": {"href": "/s"}}, **FORM}},
                "name": "sendInvoice",
                "title": "Send the invoice",
            },
            {"name": "brandNew", "title": "Brand new"},
        ]
    },
}


@pytest.mark.parametrize(
    ("form", "title"), [(MODEL_FORM, None), (LIVE_FORM, "Send the invoice")], ids=["model", "live"]
)
def test_both_forms_of_the_actions(form: dict[str, Any], title: str | None) -> None:
    """The form of Amazon's model and its live one come out alike; unknown names survive."""
    answer = decode(form, GetMessagingActionsForOrderResponse)
    assert answer.links.self_ is not None
    assert answer.links.self_.href == ORDER_LINK["href"]
    assert [link.name for link in answer.links.actions] == ["sendInvoice", "brandNew"]
    first, second = answer.embedded.actions
    assert (first.name, first.title, second.name) == ("sendInvoice", title, "brandNew")
    assert first.links.schema is not None
    assert first.links.schema.href == "/x/schema"
    schema = first.embedded.schema
    assert schema is not None
    assert schema.payload == FORM
    assert schema.links.self_ is not None
    assert schema.links.self_.href == "/s"
    assert second.embedded.schema is None


def test_forms_differ_in_the_title_only() -> None:
    """Read from either form, an answer is the same but for the titles, which one form has."""

    def untitled(form: object) -> list[GetMessagingActionResponse]:
        answer = decode(form, GetMessagingActionsForOrderResponse)
        return [attrs.evolve(action, title=None) for action in answer.embedded.actions]

    assert untitled(LIVE_FORM) == untitled(MODEL_FORM)


@pytest.mark.parametrize(
    "data",
    [
        {"name": 5},
        {"name": ["x"]},
        {"payload": {}},
        {"payload": "x"},
        {"title": 5},
        {"_embedded": {"schema": []}},
        {"_links": []},
    ],
    ids=repr,
)
def test_neither_form(data: dict[str, object]) -> None:
    """An action that fits neither form is refused."""
    with pytest.raises(DecodingError):
        decode({"_embedded": {"actions": [data]}}, GetMessagingActionsForOrderResponse)


@pytest.mark.parametrize("data", [{}, {"_links": None}, {"_embedded": {}}, {"_embedded": None}])
def test_no_actions(data: dict[str, object]) -> None:
    """An answer that leaves out the list of actions has none."""
    answer = decode(data, GetMessagingActionsForOrderResponse)
    assert (answer.embedded.actions, answer.links.actions) == ((), ())


@pytest.mark.parametrize("data", [{}, {"buyer": {}}, {"buyer": None}, {"buyer": {"locale": None}}])
def test_a_buyer_without_a_language(data: dict[str, object]) -> None:
    """An answer that does not tell the buyer's locale is read all the same."""
    assert decode(data, GetAttributesResponse).buyer.locale is None


def test_upload_headers_may_be_null() -> None:
    """Amazon sends null for no headers."""
    data = {"payload": {"uploadDestinationId": "sc/0", "url": "https://s3", "headers": None}}
    assert decode(data, CreateUploadDestinationResponse).payload.headers == {}


def test_a_response_keeps_its_class() -> None:
    """Responses without fields of their own are still told apart by class."""
    response = decode({}, models.InvoiceResponse)
    assert type(response) is models.InvoiceResponse
    assert response != MessageResponse()
