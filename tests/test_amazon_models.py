"""The package against Amazon's own words: its models, and its reference page.

They lie beside the project, and no part of them in it; elsewhere these tests are skipped.
"""

from __future__ import annotations

import functools
import json
import re
import typing
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator, FormatChecker, ValidationError

from sp_messaging_async import (
    ApiError,
    Attachment,
    Error,
    InvalidMessage,
    LocalFile,
    Marketplace,
    MessageRequest,
    UsagePlan,
    models,
)
from sp_messaging_async.codec import decode_strictly, encode, parse
from sp_messaging_async.models import Schema
from sp_messaging_async.operations import MESSAGING, UPLOAD, Operation, by_request
from sp_messaging_async.sandbox import Sandbox
from sp_messaging_async.wire import HttpAnswer, HttpRequest, build, build_upload_destination, read

from .conftest import FAST, ORDER, requests_of_every_kind

AMAZON = Path(__file__).parents[2] / "shared" / "amazon"

pytestmark = pytest.mark.skipif(
    not AMAZON.is_dir(), reason=f"Amazon's models are not beside the project, in {AMAZON}"
)

MESSAGING_MODEL = "messaging_2025-07.json"
CURRENT_MODEL = "messaging_2026-01.json"
UPLOADS_MODEL = "uploads_2020-11-01.json"

API = "https://sellingpartnerapi-na.amazon.com"
MD5 = "+/+/AAAAAAAAAAAAAAAAAA=="

ROWS = list(MESSAGING.values())
every_operation = pytest.mark.parametrize("operation", ROWS, ids=lambda row: row.name)
every_request = pytest.mark.parametrize(
    "operation", [row for row in ROWS if row.has_body], ids=lambda row: row.name
)
CLASSES: list[type[Any]] = [
    Error,
    *(
        value
        for name, value in vars(models).items()
        if name in models.__all__ and isinstance(value, type)
    ),
]
# What the messaging model has no definition of, and why.
OURS = {
    "Buyer": "nameless in the model, a part of GetAttributesResponse",
    "CreateNegativeFeedbackRemovalRequest": "the model has no body, and so no class",
    "LocalFile": "an Attachment that is yet to be uploaded",
    "MessageResponse": "what the answers to messages have in common",
}
OF_UPLOADS = {"CreateUploadDestinationResponse", "UploadDestination"}
NO_CLASS = {"ErrorList", "Schema"}  # definitions that are a tuple and a mapping here
LIVE_FORM_ONLY = {"title"}  # fields that Amazon sends, and its model does not have


# Reading the models


@functools.cache
def model(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((AMAZON / name).read_text(encoding="utf-8"))
    return content


def entries(name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, verb and description of every operation in a model."""
    for path, verbs in model(name)["paths"].items():
        for verb, entry in verbs.items():
            yield path, verb.upper(), entry


def ours(operation_id: str) -> str:
    """The page's name of an operation, which the models sometimes begin with a capital."""
    return operation_id[0].lower() + operation_id[1:]


def entry_of(operation: Operation) -> dict[str, Any]:
    name = UPLOADS_MODEL if operation is UPLOAD else MESSAGING_MODEL
    return next(e for _, _, e in entries(name) if ours(e["operationId"]) == operation.name)


def parameters(operation: Operation, place: str) -> dict[str, dict[str, Any]]:
    listed = entry_of(operation)["parameters"]
    return {each["name"]: each for each in listed if each["in"] == place}


def examples(operation: Operation) -> Iterator[tuple[int, dict[str, Any], Any]]:
    """Status, parameters and answer of each example that Amazon's own sandbox plays."""
    for status, response in entry_of(operation)["responses"].items():
        for example in response.get("x-amzn-api-sandbox", {}).get("static", []):
            given = example["request"]["parameters"]
            values = {name: each["value"] for name, each in given.items()}
            yield int(status), values, example["response"]


def definition(operation: Operation, name: str) -> dict[str, Any]:
    document = model(UPLOADS_MODEL if operation is UPLOAD else MESSAGING_MODEL)
    found: dict[str, Any] = document["definitions"][name]
    return found


def class_name(reference: Mapping[str, str] | None) -> str | None:
    return reference["$ref"].rpartition("/")[2] if reference else None


def exact(schema: Any) -> Any:
    """A model's schema as it is meant: limits of arrays count items, and nothing else is known."""
    if isinstance(schema, list):
        return [exact(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    meant = {key: exact(value) for key, value in schema.items()}
    if schema.get("type") == "array":
        for wrong, right in (("maxLength", "maxItems"), ("minLength", "minItems")):
            if wrong in meant:
                meant[right] = meant.pop(wrong)
    if "properties" in schema and schema.get("type") == "object":
        meant["additionalProperties"] = False
    return meant


FORMATS = FormatChecker(())
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@FORMATS.checks("date-time")
def is_date_time(value: object) -> bool:
    return not isinstance(value, str) or RFC_3339.fullmatch(value) is not None


def validate(data: object, schema: dict[str, Any], name: str = MESSAGING_MODEL) -> None:
    """Raise ValidationError for data that is not what a model says."""
    whole = {**exact(schema), "definitions": exact(model(name)["definitions"])}
    Draft4Validator(whole, format_checker=FORMATS).validate(data)


# The table of operations


def test_the_operations_are_the_models() -> None:
    """Names, verbs and paths are those of Amazon's model, and there are no others."""
    assert {row.name: (row.verb, row.path) for row in ROWS} == {
        ours(entry["operationId"]): (verb, path) for path, verb, entry in entries(MESSAGING_MODEL)
    }


def test_the_operations_are_the_pages() -> None:
    """Names, verbs and paths are those of the reference page to the letter."""
    page = (AMAZON / "MessagingApi.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\[\*\*(\w+)\*\*\]\S+ \| \*\*(\w+)\*\* (\S+) \|", page, re.MULTILINE)
    assert {name: (verb, path) for name, verb, path in rows} == {
        row.name: (row.verb, row.path) for row in ROWS
    }


@every_operation
def test_an_operation_is_the_pages(operation: Operation) -> None:
    """Body, answer and content types of each operation are those of the reference page."""
    page = (AMAZON / "MessagingApi.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", page, flags=re.MULTILINE)
    (words,) = [each for each in section if each.startswith(f"{operation.name}\n")]
    sent = build(API, operation, ORDER, Marketplace.US, example_of(operation))
    body = re.search(r"\*\*body\*\* \| \[\*\*(\w+)\*\*\]", words)
    assert (body[1] if body else None) == request_name(operation)
    assert re.findall(r"### Return type\s+\[\*\*(\w+)\*\*\]", words) == [
        operation.response.__name__
    ]
    content_type = sent.headers.get("content-type", "Not defined")
    assert re.findall(r"\*\*Content-Type\*\*: (.+)", words) == [content_type]
    assert re.findall(r"\*\*Accept\*\*: (.+)", words) == [sent.headers["accept"]]


def request_name(operation: Operation) -> str | None:
    return operation.request.__name__ if operation.request and operation.has_body else None


def example_of(operation: Operation) -> MessageRequest | None:
    return next((r for r in requests_of_every_kind() if type(r) is operation.request), None)


@every_operation
def test_classes_of_an_operation(operation: Operation) -> None:
    """The body's class, and the answer's whatever its status, bear the names of the model."""
    body = parameters(operation, "body").get("body", {}).get("schema")
    assert class_name(body) == request_name(operation)
    responses = entry_of(operation)["responses"].values()
    assert {class_name(each["schema"]) for each in responses} == {operation.response.__name__}


@every_operation
def test_default_plans(operation: Operation) -> None:
    """The default plan is the one in the model's description, where it has one."""
    plans = re.findall(r"^\| (\d+) \| (\d+) \|$", entry_of(operation)["description"], re.MULTILINE)
    plan = (str(operation.plan.rate), str(operation.plan.burst))
    assert plans == ([] if operation.name == "sendInvoice" else [plan])


def test_what_amazon_retired() -> None:
    """Marked as retired are the operations that Amazon's current model no longer has."""
    names = [
        {ours(entry["operationId"]) for _, _, entry in entries(document)}
        for document in (MESSAGING_MODEL, CURRENT_MODEL)
    ]
    assert names[0] - names[1] == {row.name for row in ROWS if row.retired_on}
    assert names[1] <= names[0]
    assert len(names[0] - names[1]) == 2


def test_the_current_model_changed_nothing_else() -> None:
    """Every class that both models have is the same in both, so that one package serves both."""
    then, now = (model(name)["definitions"] for name in (MESSAGING_MODEL, CURRENT_MODEL))
    assert {name: then.get(name) for name in now} == now


# Classes, field by field


def shape_of_schema(schema: Mapping[str, Any], document: str) -> Any:
    """A schema as plain data: names and types, references followed."""
    if "$ref" in schema:
        name = class_name({"$ref": schema["$ref"]}) or ""
        shape = shape_of_schema(model(document)["definitions"][name], document)
        return shape if name in NO_CLASS else {**shape, "class": name}
    if schema["type"] == "array":
        return [shape_of_schema(schema["items"], document)]
    if schema["type"] != "object":
        return schema.get("format", schema["type"])
    fields = schema.get("properties")
    if fields is None:
        return "object"
    return {
        "fields": {name: shape_of_schema(field, document) for name, field in fields.items()},
    }


def shape_of_class(hint: Any, document: str) -> Any:
    """A class or a field's type in the same plain data."""
    if hint == Schema or get_origin(hint) is Mapping:
        return "object"
    if get_origin(hint) in (Union, UnionType):
        (hint,) = [part for part in get_args(hint) if part not in (NoneType, LocalFile)]
        return shape_of_class(hint, document)
    if get_origin(hint) is tuple:
        return [shape_of_class(get_args(hint)[0], document)]
    if not attrs.has(hint):
        return {str: "string", datetime: "date-time"}[hint]
    hints = typing.get_type_hints(hint)
    shape: dict[str, Any] = {
        "fields": {
            json_name(field): shape_of_class(hints[field.name], document)
            for field in attrs.fields(hint)
            if field.metadata.get("sent") is not False and field.name not in LIVE_FORM_ONLY
        }
    }
    named = hint.__name__ in model(document)["definitions"]
    return {**shape, "class": hint.__name__} if named else shape


def json_name(field: attrs.Attribute[Any]) -> str:
    first, *rest = field.name.split("_")
    return str(field.metadata.get("json") or first + "".join(map(str.capitalize, rest)))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_is_the_models(cls: type[Any]) -> None:
    """A public payload class has the fields of Amazon's definition, by name and by type."""
    if cls.__name__ in OURS:
        assert cls.__name__ not in model(MESSAGING_MODEL)["definitions"]
        return
    document = UPLOADS_MODEL if cls.__name__ in OF_UPLOADS else MESSAGING_MODEL
    reference = {"$ref": f"#/definitions/{cls.__name__}"}
    assert shape_of_class(cls, document) == shape_of_schema(reference, document)


@pytest.mark.parametrize("document", [MESSAGING_MODEL, UPLOADS_MODEL])
def test_every_definition_has_a_class(document: str) -> None:
    """Nothing that the models define is missing here."""
    assert set(model(document)["definitions"]) - NO_CLASS <= {cls.__name__ for cls in CLASSES}


def test_what_the_models_require_is_required() -> None:
    """A field of a request that Amazon requires cannot be left out; answers are read leniently."""
    for name in ("Attachment", *filter(None, map(request_name, ROWS))):
        fields = {json_name(field): field for field in attrs.fields(getattr(models, name))}
        for required in model(MESSAGING_MODEL)["definitions"][name].get("required", []):
            assert fields[required].default is attrs.NOTHING


# Limits


def with_field(operation: Operation, name: str, value: object) -> Any:
    return attrs.evolve(typing.cast("Any", example_of(operation)), **{name: value})


@every_request
def test_lengths_of_text(operation: Operation) -> None:
    """A text may be just as short and as long as the model says, and no shorter or longer."""
    assert ("text" in fields_of(operation)) == operation.takes_text
    for least, most in limits(operation, "text"):
        assert least == 1
        for length in (least, most):
            assert with_field(operation, "text", "x" * length).text == "x" * length
        for length in (least - 1, most + 1):
            with pytest.raises(InvalidMessage, match="text"):
                with_field(operation, "text", "x" * length)


@every_request
def test_numbers_of_attachments(operation: Operation) -> None:
    """As many files may be attached as the model says, and no fewer or more."""
    file = Attachment("sc/0", "a.pdf")
    assert ("attachments" in fields_of(operation)) == operation.takes_attachments
    for least, most in limits(operation, "attachments"):
        for count in (least, most):
            request = with_field(operation, "attachments", [file] * count)
            assert request.attachments == (file,) * count
        for count in {least - 1, most + 1} - {-1}:
            with pytest.raises(InvalidMessage, match="attachments"):
                with_field(operation, "attachments", [file] * count)


def fields_of(operation: Operation) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = definition(operation, str(request_name(operation)))[
        "properties"
    ]
    return found


def limits(operation: Operation, name: str) -> list[tuple[int, int]]:
    """The least and most of a field, if the operation has it."""
    field = fields_of(operation).get(name)
    return [(field.get("minLength", 0), field["maxLength"])] if field else []


# Requests


def hold(operation: Operation, sent: HttpRequest, order_id: str = ORDER) -> None:
    """Hold the address, and the body if there is one, against the model."""
    parts = urlsplit(str(sent.url))
    assert parts.path == operation.path.replace("{amazonOrderId}", order_id)
    hold_query(operation, parts.query)
    body = parameters(operation, "body").get("body")
    assert bool(sent.body) == bool(body)
    if body:
        assert sent.body is not None
        validate(json.loads(sent.body), body["schema"])


def hold_query(operation: Operation, query: str) -> None:
    known = parameters(operation, "query")
    given = parse_qs(query, strict_parsing=True, keep_blank_values=True)
    assert given.keys() <= known.keys()
    for name, schema in known.items():
        assert name in given or not schema["required"]
        if name in given:
            value: Any = given[name] if schema["type"] == "array" else given[name][0]
            kept = {key: schema[key] for key in ("type", "items", "maxItems") if key in schema}
            Draft4Validator(kept).validate(value)


@every_operation
def test_requests(operation: Operation) -> None:
    """Address, query and body of every operation are what the model asks for."""
    hold(operation, build(API, operation, ORDER, Marketplace.DE, example_of(operation)))
    assert parameters(operation, "path").keys() == {"amazonOrderId"}


TEXT = st.text(min_size=1).filter(str.strip)
FILES = st.builds(Attachment, TEXT, TEXT)
MOMENTS = st.datetimes(
    datetime(1900, 1, 1),
    datetime(9998, 1, 1),
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
)


def values(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Whatever the model allows in a field."""
    if schema.get("format") == "date-time":
        return MOMENTS
    least, most = schema.get("minLength", 0), schema["maxLength"]
    if schema["type"] == "array":
        return st.lists(FILES, min_size=least, max_size=most)
    return st.text(min_size=least, max_size=most).filter(str.strip)


@every_request
def test_any_request(operation: Operation) -> None:
    """Any request that can be made has a body that the model takes, with all that was given."""
    cls: Any = operation.request
    schema = fields_of(operation)
    names = {json_name(field): field for field in attrs.fields(cls)}
    made = {name: values(each) for name, each in schema.items()}
    optional = {name: made.pop(name) for name in list(made) if is_optional(names[name])}

    @settings(max_examples=40, deadline=None)
    @given(st.fixed_dictionaries(made, optional=optional))
    def holds(fields: dict[str, Any]) -> None:
        dates = sorted(name for name in fields if name.startswith("coverage"))
        in_order = sorted(fields[name] for name in dates)
        fields.update(zip(reversed(dates), in_order, strict=True))  # the start, and then the end
        request = cls(**{names[name].name: value for name, value in fields.items()})
        sent = build(API, operation, ORDER, Marketplace.US, request)
        hold(operation, sent)
        left_out = {name for name, value in fields.items() if value == []}
        assert json.loads(sent.body or b"{}").keys() == fields.keys() - left_out

    holds()


def is_optional(field: attrs.Attribute[Any]) -> bool:
    return field.default is not attrs.NOTHING


@pytest.mark.parametrize(
    "body",
    [
        {"text": "x" * 801},
        {"text": ""},
        {"txt": "x"},
        {"text": 1},
        {"text": "x", "attachments": [{"uploadDestinationId": "sc/0", "fileName": "a"}] * 6},
        {"text": "x", "attachments": [{"uploadDestinationId": "sc/0"}]},
        {"text": "x", "attachments": [{"upload_destination_id": "sc/0", "fileName": "a"}]},
    ],
    ids=lambda body: repr(body)[:40],
)
def test_the_models_would_tell(body: object) -> None:
    """What these tests hold bodies against does refuse a body that is wrong."""
    with pytest.raises(ValidationError):
        validate(body, {"$ref": "#/definitions/CreateConfirmCustomizationDetailsRequest"})


def test_the_models_would_tell_a_date() -> None:
    """A date without a time, or a time without a zone, is no date-time."""
    for moment in ("2026-01-01", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z"):
        with pytest.raises(ValidationError):
            validate({"coverageStartDate": moment}, {"$ref": "#/definitions/CreateWarrantyRequest"})


@every_operation
def test_amazons_examples_are_read(operation: Operation) -> None:
    """Every example of Amazon's is a request, and a model or the error of its status."""
    seen = set()
    for status, given_values, response in examples(operation):
        seen.add(status)
        if "body" in given_values:
            cls: type[Any] = operation.request or NoneType
            request = decode_strictly(given_values["body"], cls)
            assert decode_strictly(parse(encode(request)), cls) == request
        answer = HttpAnswer(status, {}, json.dumps(response).encode())
        if status < 300:
            assert type(read(operation, answer)) is operation.response
            continue
        with pytest.raises(ApiError) as caught:
            read(operation, answer)
        assert caught.value.status == status
        assert caught.value.codes == ("InvalidInput",)
    assert seen == {201 if operation.messages_buyer else 200, 400}


# Uploads


def test_the_upload_operation() -> None:
    """The upload's name, verb, path and classes are those of Amazon's model."""
    ((path, verb, entry),) = entries(UPLOADS_MODEL)
    assert (UPLOAD.name, UPLOAD.verb, UPLOAD.path) == (entry["operationId"], verb, path)
    responses = entry["responses"].values()
    assert {class_name(each["schema"]) for each in responses} == {UPLOAD.response.__name__}
    assert parameters(UPLOAD, "body") == {}


def test_the_plan_of_uploads() -> None:
    """Uploads never go faster than the model's plan; Amazon's SDK has the slower one used here."""
    plans = re.findall(r"^\| (\d+) \| (\d+) \|$", entry_of(UPLOAD)["description"], re.MULTILINE)
    ((rate, burst),) = plans
    assert UPLOAD.plan.rate <= float(rate)
    assert UPLOAD.plan.burst <= float(burst)
    assert UPLOAD.plan == UsagePlan(rate=5, burst=5)


@pytest.mark.parametrize(
    "operation", [row for row in ROWS if row.takes_attachments], ids=lambda row: row.name
)
def test_upload_requests(operation: Operation) -> None:
    """The resource is the operation's path, as the model's words on it say, and the query fits."""
    sent = build_upload_destination(API, operation, ORDER, Marketplace.US, MD5)
    words = parameters(UPLOAD, "path")["resource"]["description"]
    shown = re.search(r"entire path would be `(\S+?)/legalDisclosure`", words)
    assert shown is not None
    parts = urlsplit(str(sent.url))
    assert parts.path == shown[1].replace("{amazonOrderId}", ORDER) + f"/{operation.kind}"
    hold_query(UPLOAD, parts.query)
    assert unquote(parts.query.rpartition("=")[2]) == MD5


# The sandbox


async def ask(sandbox: Sandbox, request: HttpRequest) -> tuple[int, Any]:
    """Status and body of the sandbox's answer, asked without the client."""
    form = {
        "grant_type": "refresh_token",
        "refresh_token": "refresh",
        "client_id": "client",
        "client_secret": "secret",
    }
    async with aiohttp.ClientSession() as http:
        async with http.post(sandbox.endpoint.token_url, data=form) as login:
            token = (await login.json())["access_token"]
        request.authorize(token)
        async with http.request(
            request.method,
            request.url,
            data=request.body,
            headers=request.headers,
            skip_auto_headers=["content-type"],
        ) as answer:
            return answer.status, await answer.json(content_type=None)


def asked(sandbox: Sandbox, operation: Operation, order_id: str) -> HttpRequest:
    request = example_of(operation)
    return build(
        sandbox.endpoint.api_url, operation, order_id, Marketplace.US, request, agent="t/1"
    )


def schema_of(operation: Operation, status: int) -> dict[str, Any]:
    found: dict[str, Any] = entry_of(operation)["responses"][str(status)]["schema"]
    return found


@pytest.mark.parametrize("operation", [row for row in ROWS if not row.messages_buyer])
async def test_reads_of_the_sandbox(operation: Operation) -> None:
    """In the model's form, the sandbox's answers to reads are what the model says."""
    async with Sandbox(plans=FAST, actions_form="model") as sandbox:
        status, body = await ask(sandbox, asked(sandbox, operation, ORDER))
    assert status == 200
    assert body
    validate(body, schema_of(operation, status))


@every_operation
async def test_static_orders_of_the_sandbox(sandbox: Sandbox, operation: Operation) -> None:
    """The orders of Amazon's own sandbox get its statuses, and answers in the model's form."""
    for status, given_values, response in examples(operation):
        order_id = given_values["amazonOrderId"]
        got, body = await ask(sandbox, asked(sandbox, operation, order_id))
        assert got == status
        validate(body, schema_of(operation, status))
        if operation.name != "getMessagingActionsForOrder" or status != 200:
            assert body == response


async def test_upload_destinations_of_the_sandbox(sandbox: Sandbox) -> None:
    """The sandbox's upload destinations are what the uploads model says."""
    operation = by_request(requests_of_every_kind()[0])
    api_url = sandbox.endpoint.api_url
    request = build_upload_destination(api_url, operation, ORDER, Marketplace.US, MD5, agent="t/1")
    status, body = await ask(sandbox, request)
    assert status == 201
    validate(body, schema_of(UPLOAD, status), UPLOADS_MODEL)
