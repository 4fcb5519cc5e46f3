"""Traces and metrics by OpenTelemetry, as a hook. Needs the `otel` extra.

Names are those of OpenTelemetry's semantic conventions for HTTP, where these have one, and begin
with `sp_messaging.` where they do not. Amazon is never sent a trace's context: no `traceparent`.

Sources: "Semantic conventions for HTTP spans", "… for HTTP metrics" and "Recording errors".
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from urllib.parse import urlsplit

try:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import (
        SpanKind,
        StatusCode,
        TracerProvider,
        get_tracer,
        set_span_in_context,
    )
    from opentelemetry.util.types import AttributeValue
except ImportError:
    from .errors import ConfigurationError

    raise ConfigurationError.of_missing_extra("OpenTelemetry needs the", "otel") from None

from . import __version__
from .events import Event, ExchangeEvent, MessageEvent
from .operations import MESSAGING

__all__ = ["OpenTelemetry"]

Attributes: TypeAlias = dict[str, AttributeValue]

_SCOPE = "sp_messaging_async"
_SCHEMA = "https://opentelemetry.io/schemas/1.23.0"

# Seconds; of exchanges as the conventions have them. A plan may make a call wait for hours.
_EXCHANGE = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_WAIT = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)


class OpenTelemetry:
    """A hook that makes spans and metrics of what a session does.

    order_ids: whether spans name the order. Metrics never do.
    texts: whether spans hold what is written to the buyer.
    accounts: whether metrics name the account, which costs a series for each one's every operation.
        Spans always do.
    tracer_provider, meter_provider: OpenTelemetry's own, the global ones unless given.

    A message is a span named for its operation, below the caller's; each of its exchanges is a
    client span below that, as in "POST createWarranty". A read's exchanges stand below the caller's
    span directly. Spans are made when a message or read has ended, with the times that it took.

    Metrics are `http.client.request.duration`, and of the package's own `sp_messaging.messages` by
    outcome, `sp_messaging.unknown`, `sp_messaging.throttled` and `sp_messaging.plan.wait`.
    """

    def __init__(
        self,
        *,
        order_ids: bool = False,
        texts: bool = False,
        accounts: bool = False,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._order_ids = order_ids
        self._texts = texts
        self._accounts = accounts
        self._tracer = get_tracer(_SCOPE, __version__, tracer_provider, _SCHEMA)
        meter = get_meter(_SCOPE, __version__, meter_provider, _SCHEMA)
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_EXCHANGE,
        )
        self._messages = meter.create_counter(
            "sp_messaging.messages", "{message}", "Messages to buyers, by what became of them."
        )
        self._unknown = meter.create_counter(
            "sp_messaging.unknown", "{message}", "Messages that a buyer may or may not have."
        )
        self._throttled = meter.create_counter(
            "sp_messaging.throttled", "{response}", "Answers that the usage plan was exceeded."
        )
        self._wait = meter.create_histogram(
            "sp_messaging.plan.wait",
            "s",
            "Time that a usage plan made an attempt wait.",
            explicit_bucket_boundaries_advisory=_WAIT,
        )
        # An alert on the first one needs a number before it.
        for operation in MESSAGING.values():
            if operation.messages_buyer:
                self._unknown.add(0, {"sp_messaging.operation": operation.name})

    def __call__(self, event: Event) -> None:
        """Record an event."""
        if isinstance(event, MessageEvent):
            self._count(event)
            self._trace(event)
            return
        self._measure(event)
        if event.part_of is None:
            self._trace_exchange(event)

    # Metrics

    def _count(self, event: MessageEvent) -> None:
        labels = self._labels(event)
        if event.exchanges or event.waited:
            self._wait.record(event.waited, labels)
        if event.outcome == "unknown":
            self._unknown.add(1, {"sp_messaging.operation": event.operation})
        place = {"sp_messaging.marketplace": event.marketplace}
        self._messages.add(1, labels | place | _outcome(event))

    def _measure(self, event: ExchangeEvent) -> None:
        labels = self._labels(event)
        if event.part_of is None:
            self._wait.record(event.waited, labels)
        if event.outcome == "throttled":
            self._throttled.add(1, labels)
        self._duration.record(event.took, _request(event) | _answer(event))

    def _labels(self, event: Event) -> Attributes:
        labels: Attributes = {"sp_messaging.operation": event.operation}
        if self._accounts:
            labels["sp_messaging.account"] = event.account
        return labels

    # Traces. Hooks are called in the task of the call: what is current is its caller's span.

    def _trace(self, event: MessageEvent) -> None:
        attributes = self._about(event) | _outcome(event)
        attributes["sp_messaging.attempts"] = event.attempts
        text = getattr(event.request, "text", None)
        if self._texts and text is not None:
            attributes["sp_messaging.text"] = text
        span = self._tracer.start_span(
            event.operation, attributes=attributes, start_time=_nanoseconds(event.began)
        )
        below = set_span_in_context(span)
        for exchange in event.exchanges:
            self._trace_exchange(exchange, below)
        if event.error is not None:
            span.set_status(StatusCode.ERROR)
        span.end(_nanoseconds(event.began, event.took))

    def _trace_exchange(self, event: ExchangeEvent, below: Context | None = None) -> None:
        attributes = self._about(event) | _request(event) | _answer(event) | _details(event)
        attributes["url.full"] = self._url(event)
        span = self._tracer.start_span(
            f"{event.method} {event.operation}",
            below,
            SpanKind.CLIENT,
            attributes,
            start_time=_nanoseconds(event.began),
        )
        if event.outcome != "succeeded":
            span.set_status(StatusCode.ERROR)
        span.end(_nanoseconds(event.began, event.took))

    def _about(self, event: Event) -> Attributes:
        attributes: Attributes = {
            "sp_messaging.operation": event.operation,
            "sp_messaging.account": event.account,
            "sp_messaging.marketplace": event.marketplace,
            "sp_messaging.plan.wait": event.waited,
        }
        if self._order_ids:
            attributes["sp_messaging.order_id"] = event.amazon_order_id
        return attributes

    def _url(self, event: ExchangeEvent) -> str:
        order = event.amazon_order_id if self._order_ids else "REDACTED"
        return event.url.replace("{amazonOrderId}", order).replace("{resource}", "REDACTED")


def _outcome(event: MessageEvent) -> Attributes:
    outcome: Attributes = {"sp_messaging.outcome": event.outcome}
    if event.error is not None:
        outcome["error.type"] = event.error
    return outcome


def _request(event: ExchangeEvent) -> Attributes:
    address, port = _server(event.url)
    return {"http.request.method": event.method, "server.address": address, "server.port": port}


def _answer(event: ExchangeEvent) -> Attributes:
    answer: Attributes = {}
    if event.status is not None:
        answer["http.response.status_code"] = event.status
    if event.error is not None:
        # A success that cannot be read has an error, of which its status says nothing.
        is_told = event.status is not None and event.status >= 300
        answer["error.type"] = str(event.status) if is_told else event.error
    return answer


def _details(event: ExchangeEvent) -> Attributes:
    """What would be too much for a metric."""
    details: Attributes = {"sp_messaging.outcome": event.outcome}
    if event.attempt > 1:
        details["http.request.resend_count"] = event.attempt - 1
    if event.request_id is not None:
        details["aws.request_id"] = event.request_id
    if event.codes:
        details["sp_messaging.error_codes"] = event.codes
    return details


@functools.lru_cache
def _server(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _nanoseconds(began: datetime, took: float = 0.0) -> int:
    """Since 1970, of a time so many seconds after another."""
    return (began - _EPOCH) // timedelta(microseconds=1) * 1000 + int(took * 1e9)
