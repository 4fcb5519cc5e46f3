"""The session: every operation over sockets, what it checks first, and what is shared."""

from __future__ import annotations

import asyncio
import warnings
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sp_messaging_async import (
    Attachment,
    ConfigurationError,
    CreateAmazonMotorsRequest,
    CreateConfirmDeliveryDetailsRequest,
    CreateConfirmOrderDetailsRequest,
    CreateNegativeFeedbackRemovalRequest,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    Credentials,
    Endpoint,
    InvalidMessage,
    InvoiceRequest,
    LocalFile,
    LocalThrottle,
    Marketplace,
    MessageRequest,
    MessagingSession,
    Region,
    RetiredOperationWarning,
    UsagePlan,
    operations,
)
from sp_messaging_async.operations import MESSAGING, by_request
from sp_messaging_async.sandbox import Sandbox

from .conftest import AT_ONCE, ORDER, Open, requests_of_every_kind

STATIC_ORDER = "123-1234567-1234567"  # Amazon's, which takes attachments that nobody uploaded


def _name(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("request_", requests_of_every_kind(), ids=_name)
@pytest.mark.parametrize("by", ["coroutine", "send"])
async def test_every_message(
    sandbox: Sandbox, session: MessagingSession, request_: MessageRequest, by: str
) -> None:
    """Each kind of message arrives as it was given, by its coroutine and by `send`."""
    operation = by_request(request_)
    if by == "send":
        answer = await session.send(STATIC_ORDER, request_, marketplace="CA")
    else:
        body = [] if request_ == CreateNegativeFeedbackRemovalRequest() else [request_]
        method = getattr(session, operation.coroutine)
        answer = await method(STATIC_ORDER, *body, marketplace="CA")
    assert type(answer) is operation.response
    (delivered,) = sandbox.delivered
    assert delivered.operation == operation.name
    assert delivered.amazon_order_id == STATIC_ORDER
    assert delivered.marketplace is Marketplace.CA
    assert delivered.request == request_


@pytest.mark.parametrize("form", ["live", "model"])
async def test_available_actions_in_both_forms(
    sandbox: Sandbox, session: MessagingSession, form: Any
) -> None:
    """The kinds of message that an order allows are read in either of Amazon's forms."""
    sandbox.messaging.actions_form = form
    answer = await session.get_messaging_actions_for_order(ORDER)
    linked = {link.name for link in answer.links.actions}
    named = {action.name for action in answer.embedded.actions}
    assert linked == {row.kind for row in MESSAGING.values() if row.messages_buyer}
    assert named - linked <= {"sendInvoice", "updateFeedback"}
    assert len(named) == len(linked) == 11
    schema = answer.embedded.actions[0].embedded.schema
    assert schema is not None
    assert schema.payload is not None
    assert schema.payload["type"] == "object"


async def test_amazons_static_order_answers_with_links_alone(session: MessagingSession) -> None:
    """Amazon's own sandbox embeds no actions."""
    answer = await session.get_messaging_actions_for_order(STATIC_ORDER)
    assert len(answer.links.actions) == 11
    assert answer.embedded.actions == ()


async def test_attributes(session: MessagingSession) -> None:
    """The buyer's locale is told."""
    assert (await session.get_attributes(ORDER)).buyer.locale == "en-US"


async def test_upload_and_send(sandbox: Sandbox, session: MessagingSession, tmp_path: Path) -> None:
    """A file from disk and one from memory arrive with the message, byte for byte."""
    path = tmp_path / "invoice.pdf"
    path.write_bytes(b"%PDF" + bytes(range(256)) * 5000)
    attachments = [
        await session.upload_attachment(ORDER, InvoiceRequest, path),
        await session.upload_attachment(ORDER, InvoiceRequest, b"a note", "note.txt"),
    ]
    await session.send_invoice(ORDER, InvoiceRequest(attachments))
    (delivered,) = sandbox.delivered
    assert [(file.name, file.content) for file in delivered.files] == [
        ("invoice.pdf", path.read_bytes()),
        ("note.txt", b"a note"),
    ]


async def test_local_files_are_uploaded_with_the_send(
    sandbox: Sandbox, session: MessagingSession, tmp_path: Path
) -> None:
    """A LocalFile among the attachments becomes an Attachment, in its place."""
    path = tmp_path / "w.pdf"
    path.write_bytes(b"warranty")
    uploaded = await session.upload_attachment(ORDER, CreateWarrantyRequest, b"terms", "t.txt")
    request = CreateWarrantyRequest([LocalFile(path), uploaded, LocalFile(path, "again.pdf")])
    await session.send(ORDER, request)
    (delivered,) = sandbox.delivered
    assert [(file.name, file.content) for file in delivered.files] == [
        ("w.pdf", b"warranty"),
        ("t.txt", b"terms"),
        ("again.pdf", b"warranty"),
    ]


async def test_dates_arrive_as_they_were_meant(sandbox: Sandbox, session: MessagingSession) -> None:
    """A date-time of any time zone is the same moment at the buyer's."""
    start = datetime(2026, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=9)))
    request = CreateWarrantyRequest([Attachment("sc/1", "w.pdf")], start, start.astimezone(UTC))
    await session.create_warranty(STATIC_ORDER, request)
    delivered = sandbox.delivered[0].request
    assert isinstance(delivered, CreateWarrantyRequest)
    assert delivered.coverage_start_date == start
    assert delivered.coverage_end_date == start


BIG = b"x" * 6_000_000


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda s, _: s.send("", TEXT), "amazon_order_id"),
        (lambda s, _: s.send("1/2", TEXT), "amazon_order_id"),
        (lambda s, _: s.send("..", TEXT), "amazon_order_id"),
        (lambda s, _: s.get_attributes("1?x=y"), "amazon_order_id"),
        (lambda s, _: s.get_attributes(None), "amazon_order_id"),
        (lambda s, _: s.send(ORDER, "text"), "request"),
        (lambda s, _: s.create_warranty(ORDER, TEXT), "body"),
        (lambda s, _: s.send(ORDER, TEXT, marketplace="XX"), "marketplace"),
        (lambda s, _: s.send(ORDER, TEXT, marketplace="DE"), "marketplace"),
        (lambda s, _: s.get_attributes(ORDER, marketplace="JP"), "marketplace"),
        (lambda s, _: s.send(ORDER, TEXT, max_wait=-1), "max_wait"),
        (lambda s, _: s.send(ORDER, TEXT, max_wait="soon"), "max_wait"),
        (lambda s, _: s.send(ORDER, CreateConfirmOrderDetailsRequest("<b>Hi")), "text"),
        (lambda s, _: s.send(ORDER, CreateConfirmOrderDetailsRequest("a@example.com")), "text"),
        (lambda s, p: s.upload_attachment(ORDER, InvoiceRequest, p / "none.pdf"), "attachments"),
        (lambda s, p: s.upload_attachment(ORDER, InvoiceRequest, p), "file_name"),
        (lambda s, _: s.upload_attachment(ORDER, InvoiceRequest, b"x"), "file_name"),
        (lambda s, _: s.upload_attachment(ORDER, InvoiceRequest, b"", "a.pdf"), "attachments"),
        (lambda s, _: s.upload_attachment(ORDER, InvoiceRequest, b"x", "a.exe"), "file_name"),
        (
            lambda s, _: s.upload_attachment(ORDER, InvoiceRequest, BIG + BIG, "a.pdf"),
            "attachments",
        ),
        (
            lambda s, _: s.upload_attachment(
                ORDER, CreateConfirmDeliveryDetailsRequest, b"x", "a.pdf"
            ),
            "request_class",
        ),
        (lambda s, _: s.upload_attachment("1/2", InvoiceRequest, b"x", "a.pdf"), "amazon_order_id"),
        (
            lambda s, p: s.send(ORDER, InvoiceRequest([LocalFile(p / "none.pdf")])),
            "attachments",
        ),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    sandbox: Sandbox, session: MessagingSession, tmp_path: Path, call: Any, field: str
) -> None:
    """The error names the field, and not even a token was asked for."""
    with pytest.raises(InvalidMessage) as caught:
        await call(session, tmp_path)
    assert [finding.field for finding in caught.value.findings] == [field]
    assert sandbox.login.requests == 0


TEXT = CreateUnexpectedProblemRequest("Sold out.")


async def test_files_over_ten_megabytes_in_total(
    sandbox: Sandbox, session: MessagingSession, tmp_path: Path
) -> None:
    """Two files small enough each are refused together, uploaded before or with the send."""
    path = tmp_path / "big.pdf"
    path.write_bytes(BIG)
    with pytest.raises(InvalidMessage, match="12,000,000 bytes"):
        await session.send(ORDER, InvoiceRequest([LocalFile(path), LocalFile(path)]))
    assert sandbox.login.requests == 0
    first = await session.upload_attachment(ORDER, InvoiceRequest, path)
    second = await session.upload_attachment(ORDER, InvoiceRequest, BIG, "b.pdf")
    with pytest.raises(InvalidMessage, match="12,000,000 bytes"):
        InvoiceRequest([first, second])
    with pytest.raises(InvalidMessage, match="12,000,000 bytes"):
        await session.send(ORDER, InvoiceRequest([first, LocalFile(path)]))
    assert sandbox.delivered == []


@pytest.mark.parametrize(
    "changes",
    [
        {"marketplace": "XX"},
        {"marketplace": None},
        {"endpoint": Endpoint.production(Region.EU)},
        {"credentials": "secret"},
        {"timeout": 0},
        {"timeout": "soon"},
        {"user_agent": "no version"},
    ],
)
def test_arguments_that_cannot_be_used(changes: dict[str, Any]) -> None:
    """A session that could not work is refused when it is made, outside of any event loop."""
    arguments = {"credentials": Credentials("a", "b", "c"), "marketplace": "US", **changes}
    credentials = arguments.pop("credentials")
    with pytest.raises((InvalidMessage, ConfigurationError)):
        MessagingSession(credentials, **arguments)


def test_a_session_needs_no_event_loop_to_be_made(sandbox_environment: None) -> None:
    """Its endpoint comes from the environment unless given."""
    session = MessagingSession(Credentials("a", "b", "c"), marketplace="A1F83G8C2ARO7P")
    assert session.marketplace is Marketplace.UK
    assert session.endpoint == Endpoint.sandbox(Region.EU)


@pytest.fixture
def sandbox_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENV", "SANDBOX")


async def test_sessions_of_one_seller_share_their_plan(sandbox: Sandbox) -> None:
    """Two sessions in one event loop, unless told otherwise, draw on one bucket."""
    async with (
        MessagingSession(
            sandbox.credentials, marketplace="US", endpoint=sandbox.endpoint, retry=AT_ONCE
        ) as first,
        MessagingSession(
            sandbox.credentials, marketplace="MX", endpoint=sandbox.endpoint, retry=AT_ONCE
        ) as second,
    ):
        sandbox.plans.change("getAttributes", UsagePlan(rate=1, burst=100))
        for session in (first, second):
            await session.get_attributes(ORDER, max_wait=0)
            await session.get_attributes(ORDER, max_wait=0)
        with pytest.raises(Exception, match="its turn did not come within 0 s"):
            await asyncio.gather(*(second.get_attributes(ORDER, max_wait=0) for _ in range(5)))


async def test_a_rate_that_the_sandbox_tells_is_followed(sandbox: Sandbox) -> None:
    """The rate header of an answer makes the next calls go at that rate, without a 429."""
    throttle = LocalThrottle()
    async with MessagingSession(
        sandbox.credentials, marketplace="US", endpoint=sandbox.endpoint, throttle=throttle
    ) as session:
        # At Amazon's default of 1/s these would take a minute, and the test its time limit.
        await asyncio.wait_for(
            asyncio.gather(*(session.get_attributes(ORDER) for _ in range(60))), 20
        )


async def test_a_session_of_the_callers_is_used_and_not_closed(
    sandbox: Sandbox, open_session: Open
) -> None:
    """The caller's aiohttp session carries the calls, with its trace configs, and stays open."""
    seen: list[str] = []
    trace = aiohttp.TraceConfig()

    async def note(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(params.method)

    trace.on_request_start.append(note)
    async with aiohttp.ClientSession(trace_configs=[trace]) as http:
        session = open_session(http=http)
        await session.send(ORDER, TEXT)
        await session.aclose()
        assert not http.closed
    assert seen == ["POST", "POST"]


async def test_the_callers_application_is_named(sandbox: Sandbox, open_session: Open) -> None:
    """Amazon's form of the User-Agent is built from the caller's name and version."""
    seen: list[str] = []
    trace = aiohttp.TraceConfig()

    async def note(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(params.headers.get("user-agent", ""))

    trace.on_request_start.append(note)
    async with aiohttp.ClientSession(trace_configs=[trace]) as http:
        await open_session(http=http, user_agent="acme-bot/2.1").get_attributes(ORDER)
    assert seen[-1].startswith("acme-bot/2.1 (Language=Python/3.")


@pytest.mark.parametrize(
    "request_",
    [CreateNegativeFeedbackRemovalRequest(), CreateAmazonMotorsRequest()],
    ids=_name,
)
async def test_retired_operations_warn_once(
    session: MessagingSession, monkeypatch: pytest.MonkeyPatch, request_: MessageRequest
) -> None:
    """An operation that Amazon retired warns with its date at the first call of the process."""
    monkeypatch.setattr(operations, "_WARNED", set())
    with pytest.warns(RetiredOperationWarning, match=r"202[56]-\d\d-\d\d"):
        await session.send(ORDER, request_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await session.send(ORDER, request_)


async def test_closed_sessions_refuse_calls(session: MessagingSession) -> None:
    """After aclose, however often, a call is refused and nothing is sent."""
    await session.aclose()
    await session.aclose()
    with pytest.raises(Exception, match="closed before this was sent"):
        await session.send(ORDER, TEXT)


def test_nothing_secret_is_shown(sandbox_environment: None) -> None:
    """A session shows where it sends, and no credentials."""
    session = MessagingSession(Credentials("id", "hush", "hush"), marketplace="US")
    assert repr(session).startswith("<MessagingSession US at https://sandbox.")
    assert "hush" not in repr(session)
