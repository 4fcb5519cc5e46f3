"""Control over HTTP, under `/_sandbox`, for test suites in any language and for the page.

`openapi.json` beside this file describes it, and is served as `/_sandbox/openapi.json`.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs
from aiohttp import web
from aiohttp.typedefs import Handler

from ..models import FILE_TYPES, MessageRequest
from ..operations import MESSAGING, OPERATIONS, UsagePlan
from .faults import PUT_FILE, TOKEN, Fault
from .inbox import Delivered
from .journal import Exchange
from .login import TOKEN_PATH
from .messaging import ORDER_ID
from .page import Guard

if TYPE_CHECKING:
    from .server import Sandbox

__all__ = ["Control"]

_MOST_TIMES = 1000  # faults that one request adds
_MOST_SCRIPTED = 10_000
_MOST_CHANCES = 100
_PAGE = 500  # messages, buckets, orders or faults in one answer
_HIDDEN = "(hidden)"
_IMAGES = ("image/png", "image/jpeg", "image/gif")
_TARGETS = (*OPERATIONS, TOKEN, PUT_FILE)
_TOKEN_LIKE = re.compile(r"Atz[ar](?:\||%7C)[\w.~-]+", re.IGNORECASE)


class _Refusal(Exception):
    """A request that cannot be followed, and why."""


class Control:
    """The routes under `/_sandbox`.

    clock: the event loop's time, in seconds.
    guard: stands before every route.
    """

    def __init__(self, sandbox: Sandbox, clock: Callable[[], float], guard: Guard) -> None:
        self._sandbox = sandbox
        self._guard = guard
        # Messages and exchanges are timed by the loop's clock; people read another.
        self._epoch = time.time() - clock()
        self._started = datetime.now(UTC).isoformat()

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application."""
        simple: dict[tuple[str, str], Callable[[_Request], object]] = {
            ("GET", "ready"): self._ready,
            ("POST", "reset"): self._reset,
            ("GET", "messages"): self._messages,
            ("DELETE", "messages"): self._clear_messages,
            ("GET", "faults"): self._faults,
            ("POST", "faults"): self._add_fault,
            ("DELETE", "faults"): self._clear_faults,
            ("GET", "plans"): self._plans,
            ("PUT", "plans/{operation}"): self._change_plan,
            ("GET", "orders"): self._orders,
            ("PUT", "orders/{amazonOrderId}"): self._set_order,
            ("GET", "exchanges"): self._exchanges,
        }
        others = {"messages/{number}/files/{index}": self._file, "openapi.json": self._openapi}
        for (verb, path), handle in simple.items():
            app.router.add_route(verb, f"/_sandbox/{path}", self._guard(_answer(handle)))
        for path, handler in others.items():
            app.router.add_route("GET", f"/_sandbox/{path}", self._guard(handler))

    # The whole

    def _ready(self, request: _Request) -> object:
        return {
            "ready": True,
            "started": self._started,
            "api_url": request.origin,
            "token_url": request.origin + TOKEN_PATH,
            "environment": self._sandbox.environment(request.origin),
            "operations": [row.name for row in MESSAGING.values() if row.messages_buyer],
            "targets": list(_TARGETS),
        }

    def _reset(self, request: _Request) -> None:
        self._sandbox.reset()

    # Messages

    def _messages(self, request: _Request) -> object:
        inbox = self._sandbox.inbox
        found: Iterator[tuple[int, Delivered]] = inbox.since(request.number("since", 0))
        order = request.query.get("order")
        if order is not None:
            found = (each for each in found if each[1].amazon_order_id == order)
        page = list(itertools.islice(found, _PAGE))
        return {
            "messages": [self._message(*each) for each in page],
            "more": next(found, None) is not None,
            "total": inbox.total,
            "kept": len(inbox.delivered),
            "dropped": inbox.dropped,
            "limit": inbox.limit,
        }

    def _message(self, number: int, message: Delivered) -> object:
        order_id, marketplace = message.amazon_order_id, message.marketplace
        return {
            "number": number,
            "at": self._time(message.at),
            "operation": message.operation,
            "order": order_id,
            "marketplace": marketplace.name,
            "locale": self._sandbox.orders.locale_of(order_id, marketplace),
            "seller": _label(message.seller),
            **_content(message.request),
            "files": [
                {
                    "name": file.name,
                    "image": _kind(file.name) in _IMAGES,
                    "size": None if file.content is None else len(file.content),
                    "url": f"/_sandbox/messages/{number}/files/{index}",
                }
                for index, file in enumerate(message.files)
            ],
        }

    def _clear_messages(self, request: _Request) -> None:
        self._sandbox.inbox.clear()
        self._sandbox.changes.note("messages")

    async def _file(self, request: web.Request) -> web.Response:
        number, index = request.match_info["number"], request.match_info["index"]
        message = self._sandbox.inbox.message(int(number)) if _is_digits(number) else None
        listed = message.files if message else ()
        if not _is_digits(index) or int(index) >= len(listed):
            raise web.HTTPNotFound
        file = listed[int(index)]
        kind = _kind(file.name)
        # An image may be looked at in the page; anything else could run something there.
        shown = "inline" if kind in _IMAGES else "attachment"
        return web.Response(
            body=file.content or b"",
            headers={
                "Content-Type": kind if shown == "inline" else "application/octet-stream",
                "Content-Disposition": f"{shown}; {_file_name(file.name)}",
            },
        )

    # Faults

    def _faults(self, request: _Request) -> object:
        faults = self._sandbox.faults
        return {
            "kinds": [fault.name for fault in Fault],
            "script": [
                {
                    "fault": each.fault.name,
                    "operation": each.operation,
                    "order": each.amazon_order_id,
                }
                for each in faults.script[:_PAGE]
            ],
            "scripted": len(faults),
            "chances": [
                {
                    "fault": each.fault.name,
                    "operation": each.operation,
                    "probability": each.probability,
                }
                for each in faults.chances
            ],
        }

    def _add_fault(self, request: _Request) -> object:
        request.only("fault", "operation", "order", "times", "probability")
        faults = self._sandbox.faults
        fault = Fault[request.one_of("fault", Fault.__members__, request.text("fault"))]
        operation = request.optional_text("operation")
        if operation is not None:
            request.one_of("operation", _TARGETS, operation)
        order = request.optional_text("order")
        if order is not None:
            _order("order", order)
        probability = request.optional_number("probability")
        if probability is None:
            times = self._times(request)
            faults.add(*[fault] * times, operation=operation, amazon_order_id=order)
        else:
            self._check_chance(request, probability)
            faults.add_chance(fault, probability, operation=operation)
        return self._faults(request)

    def _times(self, request: _Request) -> int:
        times = request.optional_number("times")
        if times is None:
            times = 1
        if times != int(times) or not 1 <= times <= _MOST_TIMES:
            raise _Refusal(f"times: {times:g} is no whole number from 1 to {_MOST_TIMES}")
        if len(self._sandbox.faults) + times > _MOST_SCRIPTED:
            raise _Refusal(f"times: more than {_MOST_SCRIPTED} faults would wait in all")
        return int(times)

    def _check_chance(self, request: _Request, probability: float) -> None:
        if not 0 <= probability <= 1:
            raise _Refusal(f"probability: {probability:g} is none from 0 to 1")
        if request.body.get("order") is not None or request.body.get("times") is not None:
            raise _Refusal("probability: goes with neither order nor times")
        if len(self._sandbox.faults.chances) >= _MOST_CHANCES:
            raise _Refusal(f"probability: there are {_MOST_CHANCES} chances already")

    def _clear_faults(self, request: _Request) -> None:
        self._sandbox.faults.clear()

    # Usage plans

    def _plans(self, request: _Request) -> object:
        plans = self._sandbox.plans
        buckets = plans.buckets()
        newest = heapq.nlargest(_PAGE, buckets.items(), key=lambda item: item[1].used)
        return {
            "plans": [
                {"operation": name, "rate": plan.rate, "burst": plan.burst}
                for name, plan in plans.in_force().items()
            ],
            "buckets": [
                {
                    "seller": _label(seller),
                    "operation": operation,
                    "rate": bucket.plan.rate,
                    "burst": bucket.plan.burst,
                    "tokens": round(bucket.tokens(), 3),
                    "throttled": bucket.refused,
                }
                for (seller, operation), bucket in newest
            ],
            "used": len(buckets),
            "throttled": sum(bucket.refused for bucket in buckets.values()),
        }

    def _change_plan(self, request: _Request) -> object:
        request.only("rate", "burst")
        operation = request.one_of("operation", OPERATIONS, request.path["operation"])
        try:
            plan = UsagePlan(request.body_number("rate"), request.body_number("burst"))
        except ValueError as error:
            name, _, reason = str(error).removeprefix("UsagePlan.").partition(" ")
            raise _Refusal(f"{name}: {reason}") from None
        self._sandbox.plans.change(operation, plan)
        self._sandbox.changes.note("plans")
        return self._plans(request)

    # Orders

    def _orders(self, request: _Request) -> object:
        known = self._sandbox.orders.known()
        newest = list(known.items())[-_PAGE:]
        return {
            "orders": [
                {"order": order, "locale": said.locale, "available": sorted(said.available)}
                for order, said in newest
            ],
            "total": len(known),
        }

    def _set_order(self, request: _Request) -> None:
        request.only("locale", "available")
        orders = self._sandbox.orders
        order = _order("amazonOrderId", request.path["amazonOrderId"])
        available = request.body.get("available")
        listed = {} if available is None else {"available": _texts("available", available)}
        try:
            orders.set(order, locale=request.optional_text("locale"), **listed)
        except ValueError as error:
            raise _Refusal(str(error)) from None

    # Exchanges

    def _exchanges(self, request: _Request) -> object:
        journal = self._sandbox.journal
        found = journal.since(request.number("since", 0))
        return {
            "exchanges": [self._exchange(each) for each in found],
            "total": journal.total,
            "kept": journal.kept,
        }

    def _exchange(self, exchange: Exchange) -> object:
        return {
            "number": exchange.number,
            "at": self._time(exchange.at),
            "seller": None if exchange.seller is None else _label(exchange.seller),
            "operation": exchange.operation,
            "verb": exchange.verb,
            "path": _shown_path(exchange),
            "status": exchange.status,
            "milliseconds": round(exchange.seconds * 1000, 3),
            "request": _shown(exchange, exchange.request),
            "answer": _shown(exchange, exchange.answer),
        }

    async def _openapi(self, request: web.Request) -> web.Response:
        text = Path(__file__).with_name("openapi.json").read_text("utf-8")
        return web.Response(text=text, content_type="application/json")

    def _time(self, at: float) -> str:
        return datetime.fromtimestamp(self._epoch + at, UTC).isoformat(timespec="milliseconds")


def _answer(handle: Callable[[_Request], object]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            found = handle(await _read(request))
        except _Refusal as refusal:
            return web.json_response({"error": str(refusal)}, status=400)
        return web.Response(status=204) if found is None else web.json_response(found)

    return answer


@attrs.frozen
class _Request:
    """What a request says, checked as it is asked for.

    origin: where it was sent to, as its client names it; a container does not know itself by that.
    """

    origin: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]

    def number(self, name: str, default: int) -> int:
        """A whole number of the query."""
        text = self.query.get(name, str(default))
        if not _is_digits(text):
            raise _Refusal(f"{name}: {text!r} is no whole number")
        return int(text)

    def only(self, *names: str) -> None:
        """Refuse a body that says anything else."""
        unknown = sorted(self.body.keys() - set(names))
        if unknown:
            raise _Refusal(f"{unknown[0]}: is unknown; there are {', '.join(names)}")

    def one_of(self, name: str, known: Iterable[str], given: str) -> str:
        """A text that must be one of a list."""
        if given not in known:
            raise _Refusal(f"{name}: {given!r} is none; there are {', '.join(known)}")
        return given

    def text(self, name: str) -> str:
        """A text of the body."""
        found = self.optional_text(name)
        if found is None:
            raise _Refusal(f"{name}: is missing")
        return found

    def optional_text(self, name: str) -> str | None:
        """A text of the body, or None."""
        found = self.body.get(name)
        if found is not None and not isinstance(found, str):
            raise _Refusal(f"{name}: is no text")
        return found

    def body_number(self, name: str) -> float:
        """A number of the body."""
        found = self.optional_number(name)
        if found is None:
            raise _Refusal(f"{name}: is missing")
        return found

    def optional_number(self, name: str) -> float | None:
        """A number of the body, or None."""
        found = self.body.get(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise _Refusal(f"{name}: is no number")
        try:
            number = float(found)
        except OverflowError:  # a whole number may be larger than any other
            number = math.inf
        if not math.isfinite(number):
            raise _Refusal(f"{name}: is not finite")
        return number


async def _read(request: web.Request) -> _Request:
    origin = f"{request.scheme}://{request.host}"
    return _Request(origin, request.match_info, request.query, await _body(request))


async def _body(request: web.Request) -> Mapping[str, Any]:
    try:
        raw = await request.read()
    except web.RequestPayloadError:  # it is not in the Content-Encoding that it names
        raise _Refusal("the body cannot be read") from None
    if not raw:
        return {}
    if request.content_type != "application/json":
        # A form of another site's page could send any other type without asking first.
        raise _Refusal("the content type must be application/json")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise _Refusal("the body is no JSON") from None
    if not isinstance(data, dict):
        raise _Refusal("the body is no JSON object")
    return data


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15


def _texts(name: str, given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise _Refusal(f"{name}: is no list of texts")
    return given


def _order(name: str, given: str) -> str:
    if not ORDER_ID.fullmatch(given):
        raise _Refusal(f"{name}: {given!r} is no order id")
    return given


def _kind(file_name: str) -> str:
    return FILE_TYPES.get(PurePath(file_name).suffix.lower(), "")


def _file_name(given: str) -> str:
    """The parameters that name a file, for new browsers and, in ASCII, for others."""
    name = "".join(c if c.isalnum() or c in " ._-" else "_" for c in given)
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"


def _label(seller: str) -> str:
    """A seller's name that does not tell the refresh token."""
    return "seller-" + hashlib.sha256(seller.encode()).hexdigest()[:8]


def _content(request: MessageRequest) -> dict[str, object]:
    dates = ("coverage_start_date", "coverage_end_date")
    found: dict[str, object] = {"text": getattr(request, "text", None)}
    for name in dates:
        moment = getattr(request, name, None)
        found[name] = moment.isoformat() if moment is not None else None
    return found


def _shown_path(exchange: Exchange) -> str:
    """A path and query without what lets somebody upload or log in."""
    secret = "?" if exchange.operation in (TOKEN, PUT_FILE) else "X-Amz-"
    before, found, _ = exchange.path.partition(secret)
    return _without_tokens(f"{before}{'?…' if secret == '?' else '…'}" if found else before)


def _without_tokens(text: str) -> str:
    return _TOKEN_LIKE.sub(_HIDDEN, text)


def _shown(exchange: Exchange, body: bytes) -> str:
    """A body as far as it may be shown: no tokens, no credentials, no files."""
    if exchange.operation == TOKEN:
        return _HIDDEN if body else ""
    if exchange.operation == PUT_FILE:
        return f"({len(body):,} bytes or more)" if body else ""
    text = body.decode("utf-8", "replace")
    return _without_tokens(text) if "X-Amz-" not in text else _HIDDEN
