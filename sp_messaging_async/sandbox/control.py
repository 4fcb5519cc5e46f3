"""Control over HTTP, under `/_sandbox`, for test suites in any language and for the page.

`openapi.json` beside this file describes it, and is served as `/_sandbox/openapi.json`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import attrs
from aiohttp import web
from aiohttp.typedefs import Handler

from ..models import FILE_TYPES, MessageRequest
from ..operations import MESSAGING, OPERATIONS, UsagePlan
from .faults import TOKEN, UPLOAD, Fault
from .inbox import Delivered
from .journal import Exchange
from .page import Guard

if TYPE_CHECKING:
    from .server import Sandbox

__all__ = ["Control"]

_MOST_TIMES = 1000  # faults that one request adds
_MOST_SCRIPTED = 10_000
_PAGE = 500  # messages in one answer
_HIDDEN = "(hidden)"


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
        sandbox = self._sandbox
        return {
            "ready": True,
            "api_url": sandbox.endpoint.api_url,
            "token_url": sandbox.endpoint.token_url,
            "operations": [row.name for row in MESSAGING.values() if row.messages_buyer],
            "targets": [*OPERATIONS, TOKEN, UPLOAD],
        }

    def _reset(self, request: _Request) -> None:
        self._sandbox.reset()

    # Messages

    def _messages(self, request: _Request) -> object:
        inbox = self._sandbox.inbox
        found = inbox.since(request.number("since", 0))
        order = request.query.get("order")
        if order is not None:
            found = [each for each in found if each[1].amazon_order_id == order]
        return {
            "messages": [self._message(*each) for each in found[:_PAGE]],
            "more": len(found) > _PAGE,
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
        kind = FILE_TYPES.get(PurePath(file.name).suffix.lower(), "")
        # An image may be looked at in the page; anything else could run something there.
        shown = "inline" if kind in ("image/png", "image/jpeg", "image/gif") else "attachment"
        name = "".join(c if c.isalnum() or c in " ._-" else "_" for c in file.name)
        ascii_name = name.encode("ascii", "replace").decode().replace("?", "_")
        return web.Response(
            body=file.content or b"",
            headers={
                "Content-Type": kind if shown == "inline" else "application/octet-stream",
                "Content-Disposition": f'{shown}; filename="{ascii_name}"',
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
        name = request.text("fault")
        if name not in Fault.__members__:
            raise _Refusal(f"fault: {name!r} is none; there are {', '.join(Fault.__members__)}")
        fault, operation = Fault[name], request.optional_text("operation")
        probability = request.optional_number("probability")
        times = int(request.optional_number("times") or 1)
        if not 1 <= times <= _MOST_TIMES or len(faults) + times > _MOST_SCRIPTED:
            raise _Refusal(f"times: at most {_MOST_TIMES}, and {_MOST_SCRIPTED} in all")
        order = request.optional_text("order")
        if probability is not None and (order is not None or "times" in request.body):
            raise _Refusal("probability: goes with neither order nor times")
        try:
            if probability is None:
                faults.add(*[fault] * times, operation=operation, amazon_order_id=order)
            else:
                faults.add_chance(fault, probability, operation=operation)
        except ValueError as error:
            raise _Refusal(str(error)) from None
        self._sandbox.changes.note("faults")
        return self._faults(request)

    def _clear_faults(self, request: _Request) -> None:
        self._sandbox.faults.clear()
        self._sandbox.changes.note("faults")

    # Usage plans

    def _plans(self, request: _Request) -> object:
        plans = self._sandbox.plans
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
                for (seller, operation), bucket in plans.buckets().items()
            ],
        }

    def _change_plan(self, request: _Request) -> object:
        request.only("rate", "burst")
        try:
            plan = UsagePlan(request.body_number("rate"), request.body_number("burst"))
            self._sandbox.plans.change(request.path["operation"], plan)
        except ValueError as error:
            raise _Refusal(str(error)) from None
        self._sandbox.changes.note("plans")
        return self._plans(request)

    # Orders

    def _orders(self, request: _Request) -> object:
        return {
            "orders": [
                {"order": order, "locale": known.locale, "available": sorted(known.available)}
                for order, known in self._sandbox.orders.known().items()
            ]
        }

    def _set_order(self, request: _Request) -> None:
        request.only("locale", "available")
        orders = self._sandbox.orders
        available = request.body.get("available")
        listed = {} if available is None else {"available": _texts("available", available)}
        try:
            orders.set(
                request.path["amazonOrderId"], locale=request.optional_text("locale"), **listed
            )
        except ValueError as error:
            raise _Refusal(str(error)) from None
        self._sandbox.changes.note("orders")

    # Exchanges

    def _exchanges(self, request: _Request) -> object:
        journal = self._sandbox.journal
        found = journal.since(request.number("since", 0))
        return {"exchanges": [self._exchange(each) for each in found], "total": journal.total}

    def _exchange(self, exchange: Exchange) -> object:
        return {
            "number": exchange.number,
            "at": self._time(exchange.at),
            "seller": None if exchange.seller is None else _label(exchange.seller),
            "operation": exchange.operation,
            "verb": exchange.verb,
            "path": _without_signature(exchange.path),
            "status": exchange.status,
            "milliseconds": round(exchange.seconds * 1000, 3),
            "request": _shown(exchange, exchange.request),
            "answer": _shown(exchange, exchange.answer),
        }

    async def _openapi(self, request: web.Request) -> web.Response:
        text = files(__package__).joinpath("openapi.json").read_text(encoding="utf-8")
        return web.Response(text=text, content_type="application/json")

    def _time(self, at: float) -> str:
        return datetime.fromtimestamp(self._epoch + at, UTC).isoformat(timespec="milliseconds")


def _answer(handle: Callable[[_Request], object]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            found = handle(_Request(request.match_info, request.query, await _body(request)))
        except _Refusal as refusal:
            return web.json_response({"error": str(refusal)}, status=400)
        return web.Response(status=204) if found is None else web.json_response(found)

    return answer


@attrs.frozen
class _Request:
    """What a request says, checked as it is asked for."""

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
        if found is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
            raise _Refusal(f"{name}: is no number")
        return found


async def _body(request: web.Request) -> Mapping[str, Any]:
    raw = await request.read()
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


def _label(seller: str) -> str:
    """A seller's name that does not tell the refresh token."""
    return "seller-" + hashlib.sha256(seller.encode()).hexdigest()[:6]


def _content(request: MessageRequest) -> dict[str, object]:
    dates = ("coverage_start_date", "coverage_end_date")
    found: dict[str, object] = {"text": getattr(request, "text", None)}
    for name in dates:
        moment = getattr(request, name, None)
        found[name] = moment.isoformat() if moment is not None else None
    return found


def _without_signature(path: str) -> str:
    """A path and query without what lets somebody upload."""
    before, found, _ = path.partition("X-Amz-")
    return f"{before}…" if found else path


def _shown(exchange: Exchange, body: bytes) -> str:
    """A body as far as it may be shown: no tokens, no credentials, no files."""
    if exchange.operation == TOKEN:
        return _HIDDEN if body else ""
    if exchange.operation == UPLOAD:
        return f"({len(body):,} bytes or more)" if body else ""
    text = body.decode("utf-8", "replace")
    return text if "X-Amz-" not in text else _HIDDEN
