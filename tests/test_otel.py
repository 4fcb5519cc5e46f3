"""Traces and metrics, as OpenTelemetry's own SDK receives them."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import aws_attributes
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.semconv.metrics import http_metrics
from opentelemetry.trace import SpanKind, StatusCode

from sp_messaging_async import (
    ConfigurationError,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    InvalidMessage,
    LocalFile,
    Message,
    MessagingError,
    MessagingSession,
    send_all,
)
from sp_messaging_async.operations import MESSAGING
from sp_messaging_async.otel import OpenTelemetry
from sp_messaging_async.sandbox import Fault, Sandbox
from sp_messaging_async.transport import connector

from .conftest import ORDER, Open

TEXT = "Sold out. Would grey do?"
PROBLEM = CreateUnexpectedProblemRequest(text=TEXT)
OPERATION = "createUnexpectedProblem"
CONVENTIONS = {
    value
    for module in (
        aws_attributes,
        error_attributes,
        http_attributes,
        server_attributes,
        url_attributes,
    )
    for value in vars(module).values()
    if isinstance(value, str)
}


class Telemetry:
    """What OpenTelemetry's SDK has received, in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])
        self.tracer = self.tracers.get_tracer("the caller")

    def hook(self, **asked: bool) -> OpenTelemetry:
        return OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters, **asked)

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """By name, of which each must be there once."""
        ended = self._exporter.get_finished_spans()
        named = {span.name: span for span in ended}
        assert len(named) == len(ended)
        return named

    def of(self, name: str) -> list[ReadableSpan]:
        """All spans of a name, in the order in which they began."""
        ended = [span for span in self._exporter.get_finished_spans() if span.name == name]
        return sorted(ended, key=lambda span: span.start_time or 0)

    def metric(self, name: str) -> dict[frozenset[tuple[str, Any]], Any]:
        """The points of a metric, by their attributes."""
        found = [item for item in self._metrics() if item.name == name]
        assert len(found) == 1
        return {frozenset(point.attributes.items()): point for point in found[0].data.data_points}

    def has(self, name: str) -> bool:
        """Whether a metric has any point."""
        return any(item.name == name for item in self._metrics())

    def count(self, name: str, **attributes: object) -> float:
        """The sum of a counter's points that have these attributes, dots written as `__`."""
        wanted = {(key.replace("__", "."), value) for key, value in attributes.items()}
        return sum(
            point.value for found, point in self.metric(name).items() if wanted <= set(found)
        )

    def everything(self) -> str:
        """All that would leave the process."""
        spans = "".join(span.to_json() for span in self._exporter.get_finished_spans())
        data = self._reader.get_metrics_data()
        return spans + ("" if data is None else data.to_json())

    def _metrics(self) -> list[Any]:
        data = self._reader.get_metrics_data()
        resources = [] if data is None else data.resource_metrics
        return [each for one in resources for scope in one.scope_metrics for each in scope.metrics]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """A receiver of traces and metrics."""
    telemetry = Telemetry()
    yield telemetry
    telemetry.close()


@pytest.fixture
def session(open_session: Open, telemetry: Telemetry) -> MessagingSession:
    """A session that is traced and measured, with nothing more asked for."""
    return open_session(hooks=[telemetry.hook()])


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or MappingProxyType({})


def is_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether a span is a child of another one, in its trace and within its time."""
    assert span.start_time is not None
    assert span.end_time is not None
    assert parent.start_time is not None
    assert parent.end_time is not None
    assert parent.start_time <= span.start_time < span.end_time <= parent.end_time
    assert span.context.trace_id == parent.context.trace_id
    return span.parent is not None and span.parent.span_id == parent.context.span_id


# Traces


async def test_a_message_with_a_file(
    session: MessagingSession, telemetry: Telemetry, tmp_path: Path
) -> None:
    """Below the caller's span is the message's, and below that a client span for each exchange."""
    path = tmp_path / "warranty.pdf"
    path.write_bytes(b"%PDF")
    with telemetry.tracer.start_as_current_span("caller"):
        await session.create_warranty(ORDER, CreateWarrantyRequest(attachments=[LocalFile(path)]))
    spans = telemetry.spans
    exchanges = [
        "POST createUploadDestinationForResource",
        "PUT createUploadDestinationForResource",
        "POST createWarranty",
    ]
    assert set(spans) == {"caller", "createWarranty", *exchanges}
    message = spans["createWarranty"]
    assert is_below(message, spans["caller"])
    assert message.kind is SpanKind.INTERNAL
    assert message.status.status_code is StatusCode.UNSET
    for name in exchanges:
        assert is_below(spans[name], message)
        assert spans[name].kind is SpanKind.CLIENT
        assert spans[name].status.status_code is StatusCode.UNSET


async def test_what_spans_say(
    sandbox: Sandbox, session: MessagingSession, telemetry: Telemetry
) -> None:
    """Spans say what the conventions ask for, and what is Amazon's; no order, no text."""
    await session.send(ORDER, PROBLEM, marketplace="MX")
    spans = telemetry.spans
    exchange = dict(attributes(spans[f"POST {OPERATION}"]))
    assert exchange.pop("aws.request_id")
    assert exchange.pop("sp_messaging.plan.wait") >= 0
    host, _, port = sandbox.endpoint.api_url.removeprefix("http://").partition(":")
    common = {
        "sp_messaging.operation": OPERATION,
        "sp_messaging.account": "default",
        "sp_messaging.marketplace": "MX",
    }
    path = "/messaging/v1/orders/REDACTED/messages/unexpectedProblem"
    assert exchange == common | {
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "server.address": host,
        "server.port": int(port),
        "url.full": sandbox.endpoint.api_url + path,
        "sp_messaging.outcome": "succeeded",
    }
    message = dict(attributes(spans[OPERATION]))
    assert message.pop("sp_messaging.plan.wait") >= 0
    assert message == common | {"sp_messaging.outcome": "sent", "sp_messaging.attempts": 1}


async def test_attempts(sandbox: Sandbox, session: MessagingSession, telemetry: Telemetry) -> None:
    """Each attempt is a span, and counted; one that failed is an error, and their message none."""
    sandbox.faults.add(Fault.THROTTLED, Fault.EXPIRED_TOKEN)
    await session.send(ORDER, PROBLEM)
    attempts = [attributes(span) for span in telemetry.of(f"POST {OPERATION}")]
    assert [item.get("http.request.resend_count") for item in attempts] == [None, 1, 2]
    assert [item.get("error.type") for item in attempts] == ["429", "403", None]
    assert [item.get("sp_messaging.error_codes") for item in attempts] == [
        ("QuotaExceeded",),
        ("Unauthorized",),
        None,
    ]
    statuses = [span.status.status_code for span in telemetry.of(f"POST {OPERATION}")]
    assert statuses == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    (message,) = telemetry.of(OPERATION)
    assert message.status.status_code is StatusCode.UNSET
    assert "error.type" not in attributes(message)


@pytest.mark.parametrize(
    ("fault", "error", "raised"),
    [
        (Fault.UNAVAILABLE, "503", "OutcomeUnknown"),
        (Fault.DROPPED_AFTER, "ServerDisconnectedError", "OutcomeUnknown"),
        (Fault.ERRORS_AFTER, "ApiError", "OutcomeUnknown"),
        (Fault.NOT_AVAILABLE, "403", "MessageNotAvailable"),
    ],
)
async def test_errors(
    sandbox: Sandbox,
    session: MessagingSession,
    telemetry: Telemetry,
    fault: Fault,
    error: str,
    raised: str,
) -> None:
    """An exchange's error is its status, or what there was instead; a message's what was raised."""
    sandbox.faults.add(fault)
    with pytest.raises(MessagingError):
        await session.send(ORDER, PROBLEM)
    spans = telemetry.spans
    for name, kind in ((f"POST {OPERATION}", error), (OPERATION, raised)):
        assert attributes(spans[name])["error.type"] == kind
        assert spans[name].status.status_code is StatusCode.ERROR


async def test_a_cancelled_message(
    sandbox: Sandbox, session: MessagingSession, telemetry: Telemetry
) -> None:
    """A message that is cancelled after its write is a span too, of an unknown outcome."""
    sandbox.faults.add(Fault.HANG_AFTER)

    async def call() -> None:
        with telemetry.tracer.start_as_current_span("caller"):
            await session.send(ORDER, PROBLEM)

    task = asyncio.create_task(call())
    while not sandbox.delivered:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    message = telemetry.spans[OPERATION]
    assert is_below(message, telemetry.spans["caller"])
    assert attributes(message)["sp_messaging.outcome"] == "unknown"
    assert attributes(message)["error.type"] == "CancelledError"
    assert telemetry.count("sp_messaging.unknown", sp_messaging__operation=OPERATION) == 1


async def test_reads(session: MessagingSession, telemetry: Telemetry) -> None:
    """A read is no message: its exchange stands below the caller's span."""
    with telemetry.tracer.start_as_current_span("caller"):
        await session.get_attributes(ORDER)
    spans = telemetry.spans
    assert set(spans) == {"caller", "GET getAttributes"}
    assert is_below(spans["GET getAttributes"], spans["caller"])


async def test_callers_side_by_side(session: MessagingSession, telemetry: Telemetry) -> None:
    """However many send over a session at once, each message is in its own caller's trace."""

    async def call(number: int) -> None:
        with telemetry.tracer.start_as_current_span(f"caller {number}"):
            await session.send(f"111-2222222-{number:07}", PROBLEM)

    await asyncio.gather(*map(call, range(10)))
    messages = {span.context.trace_id: span for span in telemetry.of(OPERATION)}
    exchanges = {span.context.trace_id: span for span in telemetry.of(f"POST {OPERATION}")}
    for number in range(10):
        (caller,) = telemetry.of(f"caller {number}")
        assert is_below(messages[caller.context.trace_id], caller)
        assert is_below(exchanges[caller.context.trace_id], messages[caller.context.trace_id])


async def test_in_bulk(session: MessagingSession, telemetry: Telemetry) -> None:
    """The messages of a bulk run stand below the span of whoever reads its outcomes."""
    listed = [Message(f"111-2222222-{number:07}", PROBLEM) for number in range(5)]
    with telemetry.tracer.start_as_current_span("run"):
        async with send_all(session, listed) as outcomes:
            assert {outcome.status async for outcome in outcomes} == {"sent"}
    (run,) = telemetry.of("run")
    messages = telemetry.of(OPERATION)
    assert len(messages) == 5
    assert all(is_below(message, run) for message in messages)


async def test_amazon_is_not_told_of_the_trace(open_session: Open, telemetry: Telemetry) -> None:
    """No header of a request names the trace that it belongs to."""
    sent: set[str] = set()
    trace = aiohttp.TraceConfig()

    async def note(_: object, __: object, head: aiohttp.TraceRequestHeadersSentParams) -> None:
        sent.update(name.lower() for name in head.headers)

    trace.on_request_headers_sent.append(note)
    async with aiohttp.ClientSession(connector=connector(), trace_configs=[trace]) as http:
        session = open_session(hooks=[telemetry.hook()], http=http)
        with telemetry.tracer.start_as_current_span("caller"):
            await session.send(ORDER, PROBLEM)
    assert "x-amz-access-token" in sent
    assert not sent & {"traceparent", "tracestate", "baggage"}


# Metrics


async def test_metrics(sandbox: Sandbox, session: MessagingSession, telemetry: Telemetry) -> None:
    """Messages are counted by outcome, 429s and unknowns by operation, exchanges are timed."""
    sandbox.faults.add(Fault.THROTTLED, Fault.UNAVAILABLE)
    with pytest.raises(MessagingError):
        await session.send(ORDER, PROBLEM)
    for _ in range(2):
        await session.send(ORDER, PROBLEM)
    await session.get_attributes(ORDER)
    outcomes = {
        dict(found)["sp_messaging.outcome"]: point.value
        for found, point in telemetry.metric("sp_messaging.messages").items()
    }
    assert outcomes == {"unknown": 1, "sent": 2}
    assert telemetry.count("sp_messaging.throttled", sp_messaging__operation=OPERATION) == 1
    assert telemetry.count("sp_messaging.unknown") == 1
    took = {
        tuple(dict(found).get(name) for name in ("http.request.method", "error.type")): point.count
        for found, point in telemetry.metric(http_metrics.HTTP_CLIENT_REQUEST_DURATION).items()
    }
    assert took == {("POST", None): 2, ("POST", "429"): 1, ("POST", "503"): 1, ("GET", None): 1}
    waits = {
        dict(found)["sp_messaging.operation"]: point.count
        for found, point in telemetry.metric("sp_messaging.plan.wait").items()
    }
    assert waits == {OPERATION: 3, "getAttributes": 1}


async def test_what_is_refused_here(session: MessagingSession, telemetry: Telemetry) -> None:
    """A message that never came to wait for its plan is counted, and does not shorten the wait."""
    with pytest.raises(InvalidMessage):
        await session.send(ORDER, CreateUnexpectedProblemRequest(text="Write to me@example.com"))
    assert telemetry.count("sp_messaging.messages", sp_messaging__outcome="rejected") == 1
    assert not telemetry.has("sp_messaging.plan.wait")


def test_unknowns_are_there_from_the_start(telemetry: Telemetry) -> None:
    """The counter of unknown outcomes stands at 0 for each kind of message before any is sent."""
    telemetry.hook()
    points = telemetry.metric("sp_messaging.unknown")
    assert {
        dict(found)["sp_messaging.operation"]: point.value for found, point in points.items()
    } == ({row.name: 0 for row in MESSAGING.values() if row.messages_buyer})


async def test_the_duration_is_the_spans(session: MessagingSession, telemetry: Telemetry) -> None:
    """The metric of an exchange is the time of its span, in seconds."""
    await session.send(ORDER, PROBLEM)
    (point,) = telemetry.metric(http_metrics.HTTP_CLIENT_REQUEST_DURATION).values()
    span = telemetry.spans[f"POST {OPERATION}"]
    assert span.end_time is not None
    assert span.start_time is not None
    assert point.sum == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-6)


# What is said of whom


async def _one_of_each(session: MessagingSession, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.THROTTLED)
    await session.send(ORDER, PROBLEM)
    await session.get_attributes(ORDER)
    await session.upload_attachment(ORDER, CreateWarrantyRequest, b"%PDF", "a.pdf")


async def test_orders_and_texts_are_not_told(
    sandbox: Sandbox, session: MessagingSession, telemetry: Telemetry
) -> None:
    """Neither an order id nor a text leaves the process unless asked for; nor does a secret."""
    await _one_of_each(session, sandbox)
    told = telemetry.everything()
    assert OPERATION in told
    secrets = (sandbox.credentials.client_secret, sandbox.credentials.refresh_token)
    assert not any(text in told for text in (ORDER, TEXT, *secrets, "Signature"))


async def test_orders_and_texts_that_are_asked_for(
    sandbox: Sandbox, open_session: Open, telemetry: Telemetry
) -> None:
    """Spans name the order, in their address too, and hold the text; metrics do neither."""
    session = open_session(hooks=[telemetry.hook(order_ids=True, texts=True)])
    await session.send(ORDER, PROBLEM)
    message = attributes(telemetry.spans[OPERATION])
    exchange = attributes(telemetry.spans[f"POST {OPERATION}"])
    assert message["sp_messaging.order_id"] == exchange["sp_messaging.order_id"] == ORDER
    assert message["sp_messaging.text"] == TEXT
    assert f"/orders/{ORDER}/" in exchange["url.full"]
    names = ("sp_messaging.messages", "sp_messaging.plan.wait", "http.client.request.duration")
    assert not any(ORDER in str(telemetry.metric(name)) for name in names)


@pytest.mark.parametrize("asked", [True, False])
async def test_accounts_in_metrics(open_session: Open, telemetry: Telemetry, asked: bool) -> None:
    """Metrics name the account where that was asked for."""
    await open_session(hooks=[telemetry.hook(accounts=asked)]).send(ORDER, PROBLEM)
    (found,) = telemetry.metric("sp_messaging.messages")
    assert (("sp_messaging.account", "default") in found) == asked


async def test_names_are_the_conventions(
    sandbox: Sandbox, session: MessagingSession, telemetry: Telemetry
) -> None:
    """Every attribute is one of OpenTelemetry's conventions, or is marked as the package's own."""
    await _one_of_each(session, sandbox)
    used = {name for span in telemetry._exporter.get_finished_spans() for name in attributes(span)}
    for metric in telemetry._metrics():
        used |= {name for point in metric.data.data_points for name in point.attributes}
        assert metric.name.startswith(("sp_messaging.", http_metrics.HTTP_CLIENT_REQUEST_DURATION))
    own = {name for name in used if name.startswith("sp_messaging.")}
    assert own
    assert used - own <= CONVENTIONS


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenTelemetry is not installed, the error says what to install."""
    monkeypatch.delitem(sys.modules, "sp_messaging_async.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ConfigurationError, match=r'pip install "sp-messaging-async\[otel\]"'):
        importlib.import_module("sp_messaging_async.otel")
