"""Exchanges with Amazon as they happen, without secrets and buyers' texts."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from time import monotonic
from types import SimpleNamespace
from typing import TypeAlias, TypeVar

import aiohttp
from yarl import URL

from ..transport import connector
from . import terminal

__all__ = ["Answers", "Http", "telling", "traced"]

Http: TypeAlias = aiohttp.ClientSession

P = TypeVar("P")
Callback: TypeAlias = Callable[[Http, SimpleNamespace, P], Awaitable[None]]

_TOLD = ("marketplaceIds", "contentMD5")  # of an address; anything else may be a signature


def traced(*traces: aiohttp.TraceConfig) -> Http:
    """An HTTP session for messages whose exchanges are traced. Needs a running event loop."""
    jar = aiohttp.DummyCookieJar()
    return Http(connector=connector(), cookie_jar=jar, trace_configs=list(traces))


def telling() -> aiohttp.TraceConfig:
    """Tells every exchange on standard error."""
    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(_harmless(_begin))
    trace.on_request_headers_sent.append(_harmless(_headed))
    trace.on_request_chunk_sent.append(_harmless(_sent))
    trace.on_request_end.append(_harmless(_answered))
    trace.on_response_chunk_received.append(_harmless(_refused))
    trace.on_request_exception.append(_harmless(_failed))
    return trace


def _harmless(callback: Callback[P]) -> Callback[P]:
    """A callback whose failure is none of the exchange, which aiohttp would have it be."""

    @functools.wraps(callback)
    async def tried(http: Http, context: SimpleNamespace, told: P) -> None:
        with suppress(Exception):
            await callback(http, context, told)

    return tried


class Answers:
    """The heads of Amazon's last answers, by host."""

    def __init__(self) -> None:
        self.heads: dict[str, Mapping[str, str]] = {}
        self.trace = aiohttp.TraceConfig()
        self.trace.on_request_end.append(_harmless(self._note))

    async def _note(
        self, http: Http, context: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        self.heads[str(end.url.origin())] = end.response.headers


async def _begin(
    http: Http, context: SimpleNamespace, start: aiohttp.TraceRequestStartParams
) -> None:
    context.began = monotonic()
    context.body = b""
    context.is_shown = False
    context.status = 0


async def _headed(
    http: Http, context: SimpleNamespace, sent: aiohttp.TraceRequestHeadersSentParams
) -> None:
    # A file that happens to be JSON is put, and Login with Amazon is sent a form.
    is_json = sent.headers.get("Content-Type", "").startswith("application/json")
    context.is_shown = is_json and sent.method == "POST"


async def _sent(
    http: Http, context: SimpleNamespace, chunk: aiohttp.TraceRequestChunkSentParams
) -> None:
    context.body += chunk.chunk


async def _answered(
    http: Http, context: SimpleNamespace, end: aiohttp.TraceRequestEndParams
) -> None:
    head = end.response.headers
    context.status = end.response.status
    told = {
        "request id": head.get("x-amzn-RequestId"),
        "rate": head.get("x-amzn-RateLimit-Limit"),
    }
    words = [f"{name} {value}" for name, value in told.items() if value]
    _tell(end.method, end.url, context, f"{context.status}", *words)


async def _refused(
    http: Http, context: SimpleNamespace, chunk: aiohttp.TraceResponseChunkReceivedParams
) -> None:
    if context.status >= 400:
        for line in _errors(chunk.chunk):
            terminal.tell(f"    {line}")


async def _failed(
    http: Http, context: SimpleNamespace, failure: aiohttp.TraceRequestExceptionParams
) -> None:
    _tell(failure.method, failure.url, context, type(failure.exception).__name__)


def _tell(method: str, url: URL, context: SimpleNamespace, *words: str) -> None:
    took = f"{(monotonic() - context.began) * 1000:.0f} ms"
    body = _masked_body(context.body) if context.is_shown else _size(context.body)
    asked = " ".join(filter(None, (method, _masked_url(url), body)))
    terminal.tell(f"{asked} → {', '.join((*words, took))}")


def _masked_url(url: URL) -> str:
    shown = {name: value for name, value in url.query.items() if name in _TOLD}
    masked = str(url.with_query(shown) if shown else url.with_query(None))
    return masked if len(shown) == len(url.query) else f"{masked}?…"


def _masked_body(body: bytes) -> str:
    try:
        fields = json.loads(body)
    except ValueError:
        return _size(body)
    if not isinstance(fields, Mapping):
        return _size(body)
    return json.dumps({name: _masked(name, value) for name, value in fields.items()})


def _size(body: bytes) -> str:
    return f"({terminal.plural(len(body), 'byte')})" if body else ""


def _masked(name: str, value: object) -> object:
    return f"({len(str(value))} characters)" if name == "text" else value


def _errors(body: bytes) -> list[str]:
    """Amazon's errors, of which the code and the message say nothing of the buyer."""
    try:
        data = json.loads(body)
    except ValueError:
        return []
    errors = data.get("errors") if isinstance(data, Mapping) else None
    if not isinstance(errors, list):
        return []
    listed = [error for error in errors if isinstance(error, Mapping)]
    return [f"{error.get('code')}: {error.get('message')}" for error in listed]
