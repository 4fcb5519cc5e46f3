"""The table of operations, and how an operation is found in it."""

from __future__ import annotations

import warnings
from datetime import date
from typing import Any

import pytest

from sp_messaging_async import (
    Attachment,
    ConfigurationError,
    CreateConfirmOrderDetailsRequest,
    CreateNegativeFeedbackRemovalRequest,
    InvalidMessage,
    InvoiceRequest,
    MessageRequest,
    RetiredOperationWarning,
    UsagePlan,
    operations,
)
from sp_messaging_async.operations import (
    MESSAGING,
    OPERATIONS,
    UPLOAD,
    Operation,
    by_request,
    named,
)

from .conftest import requests_of_every_kind

every_operation = pytest.mark.parametrize("operation", MESSAGING.values(), ids=MESSAGING)
RETIRED = [row for row in MESSAGING.values() if row.retired_on]


def test_the_table() -> None:
    """13 operations of the Messaging API under their own names, and the upload's."""
    assert len(MESSAGING) == 13
    assert {**MESSAGING, UPLOAD.name: UPLOAD} == OPERATIONS
    assert all(row.name == name for name, row in OPERATIONS.items())


def test_paths_and_classes_are_nobody_elses() -> None:
    """No two operations share a path, a coroutine, a response, or a request class."""
    rows = list(OPERATIONS.values())
    for values in ([r.path for r in rows], [r.coroutine for r in rows], [r.response for r in rows]):
        assert len(set(values)) == 14
    requests = [row.request for row in rows if row.request]
    assert len(requests) == len(set(requests)) == 11


def test_what_messages_a_buyer() -> None:
    """All but the two reads and the upload message a buyer, and so must not be repeated."""
    silent = {row.name for row in OPERATIONS.values() if not row.messages_buyer}
    assert silent == {"getMessagingActionsForOrder", "getAttributes", UPLOAD.name}
    assert all(row.verb == "POST" for row in OPERATIONS.values() if row.messages_buyer)


@every_operation
def test_only_messages_take_a_body(operation: Operation) -> None:
    """Reads and createNegativeFeedbackRemoval have none; text and files are parts of a body."""
    bodiless = not operation.messages_buyer or operation.name == "createNegativeFeedbackRemoval"
    assert operation.has_body is not bodiless
    assert operation.has_body == (operation.takes_text or operation.takes_attachments)


def test_default_plans() -> None:
    """1 request a second, burst 5; 5 a second for uploads, right under either of Amazon's words."""
    assert {row.plan for row in MESSAGING.values()} == {UsagePlan(rate=1, burst=5)}
    assert UPLOAD.plan == UsagePlan(rate=5, burst=5)


@pytest.mark.parametrize("request_", requests_of_every_kind(), ids=lambda r: type(r).__name__)
def test_by_request(request_: MessageRequest) -> None:
    """A request, and its class, belong to the operation that takes them."""
    assert by_request(request_).request is type(request_)
    assert by_request(type(request_)) is by_request(request_)


class _Derived(InvoiceRequest):
    """No class of Amazon's."""


@pytest.mark.parametrize(
    "value", [None, "sendInvoice", {}, Attachment("sc/0", "a.pdf"), object, _Derived], ids=repr
)
def test_by_request_of_something_else(value: object) -> None:
    """What no operation sends is refused, naming what may be sent."""
    with pytest.raises(InvalidMessage, match="give one of CreateAmazonMotorsRequest") as caught:
        by_request(value)
    assert caught.value.findings[0].field == "request"


@every_operation
def test_named(operation: Operation) -> None:
    """An operation is found by Amazon's name and by its coroutine's, spaces around them or not."""
    assert named(operation.name) is operation
    assert named(f" {operation.coroutine}\t") is operation


@pytest.mark.parametrize("name", ["", "invoice", "createTrouble", UPLOAD.name])
def test_named_otherwise(name: str) -> None:
    """Other names are refused, naming those that there are; the upload is no message's name."""
    with pytest.raises(InvalidMessage, match=r"is no operation; give one of .*sendInvoice"):
        named(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SendInvoice", "sendInvoice"),
        ("CreateConfirmOrderDetails", "createConfirmOrderDetails"),
        ("create_warrenty", "createWarranty"),
    ],
)
def test_named_nearly(name: str, meant: str) -> None:
    """A slip is told with the name that was meant."""
    with pytest.raises(InvalidMessage, match=f"did you mean {meant}\\?"):
        named(name)


@pytest.mark.parametrize(
    ("name", "coroutine"),
    [
        ("getMessagingActionsForOrder", "get_messaging_actions_for_order"),
        ("confirmCustomizationDetails", "confirm_customization_details"),
        ("sendInvoice", "send_invoice"),
    ],
)
def test_coroutine(name: str, coroutine: str) -> None:
    """A coroutine is called as Amazon's operation, in snake_case."""
    assert MESSAGING[name].coroutine == coroutine


def test_kind_is_the_end_of_the_path() -> None:
    """The kind is what the path ends with, which is not always the operation's name."""
    assert MESSAGING["sendInvoice"].kind == "invoice"
    assert MESSAGING["createWarranty"].kind == "warranty"


def test_retired() -> None:
    """Amazon retired two operations, which stay in the table with the date."""
    assert {row.name: row.retired_on for row in RETIRED} == {
        "createNegativeFeedbackRemoval": date(2025, 8, 4),
        "createAmazonMotors": date(2026, 1, 30),
    }


@pytest.mark.parametrize("operation", RETIRED, ids=lambda row: row.name)
def test_a_retired_operation_warns_once(
    operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first use in a process warns, with the date, and further ones do not."""
    monkeypatch.setattr(operations, "_WARNED", set())
    with pytest.warns(RetiredOperationWarning, match=f"{operation.name} .* {operation.retired_on}"):
        operation.warn_if_retired()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operation.warn_if_retired()


def test_other_operations_do_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation of Amazon's current model never warns."""
    monkeypatch.setattr(operations, "_WARNED", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for operation in OPERATIONS.values():
            if operation not in RETIRED:
                operation.warn_if_retired()


def test_the_table_cannot_be_changed() -> None:
    """Rows cannot be replaced, neither in the table nor in part."""
    table: Any = MESSAGING
    with pytest.raises(TypeError):
        table["sendInvoice"] = UPLOAD
    with pytest.raises(AttributeError):
        table["sendInvoice"].plan = UsagePlan(1, 1)


@pytest.mark.parametrize("name", ["rate", "burst"])
def test_a_plan_is_refused_by_its_field(name: str) -> None:
    """A plan without tokens names the field that is wrong."""
    with pytest.raises(ConfigurationError, match=f"UsagePlan.{name}"):
        UsagePlan(**{"rate": 1, "burst": 5, name: 0})


def test_the_empty_request() -> None:
    """The request without fields is a message, and a request with a text is another."""
    assert by_request(CreateNegativeFeedbackRemovalRequest()).retired_on
    assert not by_request(CreateConfirmOrderDetailsRequest("Two?")).retired_on
