"""The operations: what is refused, what is answered, and what reaches the buyer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from html.entities import html5
from pathlib import PurePath
from typing import Literal, cast

from aiohttp import hdrs, web

from .. import codec
from ..marketplaces import Marketplace
from ..models import FILE_TYPES, MAX_ATTACHMENT_BYTES, Attached, Attachment, MessageRequest
from ..operations import UPLOAD, Operation
from .answers import api_error, api_ok
from .inbox import Delivered, DeliveredFile, Inbox
from .journal import body_of
from .login import Login, Refused
from .orders import Orders
from .plans import Plans
from .uploads import Place, Uploads, place_of

__all__ = ["ORDER_ID", "ActionsForm", "Messaging"]

ActionsForm = Literal["live", "model"]

# Amazon's static sandbox orders.
SUCCEEDS = "123-1234567-1234567"
FAILS = "123-1234567-0000000"
FAILS_INVOICE = "badOrderId"

ORDER_ID = re.compile(r"[\w-]{1,64}", re.ASCII)

# No rule for texts is published beyond "no HTML, no e-mail addresses". This one is narrow, so that
# prices, comparisons and company names pass; it is not the client's, whose mistakes it must show.
_MARKUP_OR_ADDRESS = re.compile(
    r"</?[a-z][^<>]*>|<!--|<!doctype|&#(?:[0-9]{1,7}|x[0-9a-f]{1,6});"
    r"|[\w.+-]@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}",
    re.IGNORECASE,
)
_SUSPECT = re.compile("[<@&]")
_NAMED_ENTITY = re.compile(r"&(\w+;)")


class _Refusal(Exception):
    """A request that Amazon would refuse: status, code, message and details of its answer."""

    def __init__(self, status: int, code: str, message: str, details: str = "") -> None:
        super().__init__(status, code, message, details)
        self.status = status
        self.code = code
        self.message = message
        self.details = details


def _invalid(message: str, details: str = "") -> _Refusal:
    return _Refusal(400, "InvalidInput", message, details)


class Messaging:
    """Answers the 13 operations and the creation of upload destinations.

    actions_form: in which of its two forms getMessagingActionsForOrder answers; the static order
        always gets the model's, as at Amazon.
    orders: what is known of each order.
    inbox: takes what reaches the buyers.
    """

    def __init__(
        self,
        login: Login,
        plans: Plans,
        uploads: Uploads,
        clock: Callable[[], float],
        actions_form: ActionsForm,
        orders: Orders,
        inbox: Inbox,
    ) -> None:
        self.actions_form: ActionsForm = actions_form
        self._orders = orders
        self._login = login
        self._plans = plans
        self._uploads = uploads
        self._clock = clock
        self._inbox = inbox

    async def handle(self, operation: Operation, request: web.Request) -> web.StreamResponse:
        """Answer one request, checked in Amazon's order: token, plan, content."""
        rate = self._plans.rate(operation.name)
        try:
            seller = self._seller(request)
            if not self._plans.take(seller, operation.name):
                raise _Refusal(429, "QuotaExceeded", "You exceeded your quota for the resource.")
            if not request.headers.get(hdrs.USER_AGENT):
                raise _invalid("Invalid Input", "The user-agent header is missing")
            status, body = await self._answer(operation, request, seller)
        except _Refusal as refusal:
            return api_error(refusal.status, refusal.code, refusal.message, refusal.details, rate)
        return api_ok(status, body, rate)

    def _seller(self, request: web.Request) -> str:
        try:
            return self._login.seller_of(request.headers.get("x-amz-access-token"))
        except Refused as refused:
            denied = "Access to requested resource is denied."
            raise _Refusal(403, "Unauthorized", denied, str(refused)) from None

    async def _answer(
        self, operation: Operation, request: web.Request, seller: str
    ) -> tuple[int, object]:
        if operation is UPLOAD:
            return 201, self._upload_destination(request, seller)
        marketplace = _marketplace(request, _MARKETPLACE_NAMES)
        order_id = _checked_order_id(request.match_info["amazonOrderId"])
        content = await _content(operation, request)
        if order_id == (FAILS_INVOICE if operation.name == "sendInvoice" else FAILS):
            raise _invalid("Invalid Input")
        if content is None:
            return 200, self._read(operation, order_id, marketplace)
        if not self._orders.is_available(order_id, operation):
            text = "Invalid amazonOrderId and template combination."
            raise _Refusal(403, "Unauthorized", text)
        files = self._files(operation, order_id, content, seller)
        self._inbox.add(
            Delivered(operation.name, order_id, marketplace, content, files, seller, self._clock())
        )
        return 201, {}

    def _upload_destination(self, request: web.Request, seller: str) -> object:
        if "%2F" in request.rel_url.raw_path.upper():
            raise _Refusal(403, "Unauthorized", "Access to requested resource is denied.")
        _marketplace(request, _UPLOAD_QUERY)
        place = place_of(seller, request.match_info["resource"])
        if place is None:
            raise _invalid("Invalid Input", "The resource takes no uploads")
        _checked_order_id(place.amazon_order_id)
        base_url = f"{request.scheme}://{request.host}"
        try:
            md5 = request.query.get("contentMD5", "")
            return {"payload": self._uploads.create(base_url, place, md5)}
        except ValueError as error:
            raise _invalid("Invalid Input", str(error)) from None

    def _read(self, operation: Operation, order_id: str, marketplace: Marketplace) -> object:
        if operation.name == "getAttributes":
            return {"buyer": {"locale": self._orders.locale_of(order_id, marketplace)}}
        available = self._orders.available(order_id)
        links = _links(order_id, marketplace, available)
        if order_id == SUCCEEDS:
            return {"_links": links}
        action = _live_action if self.actions_form == "live" else _model_action
        actions = [action(row, order_id, marketplace) for row in available]
        return {"_links": links, "_embedded": {"actions": actions}}

    def _files(
        self, operation: Operation, order_id: str, content: MessageRequest, seller: str
    ) -> tuple[DeliveredFile, ...]:
        listed = cast("Attached", getattr(content, "attachments", ()))
        if not listed:
            return ()
        place = Place(seller, order_id, operation.kind)
        files = tuple(self._file(item, place) for item in listed if isinstance(item, Attachment))
        if sum(len(file.content or b"") for file in files) > MAX_ATTACHMENT_BYTES:
            raise _invalid("Invalid Input", "The attachments are larger than 10 MB together")
        return files

    def _file(self, attachment: Attachment, place: Place) -> DeliveredFile:
        if PurePath(attachment.file_name).suffix.lower() not in FILE_TYPES:
            raise _invalid("Invalid Input", f"{attachment.file_name} is of a type that is refused")
        content = self._uploads.content(attachment.upload_destination_id, place)
        if content is None and place.amazon_order_id != SUCCEEDS:
            identity = attachment.upload_destination_id
            raise _invalid(f"Attachment with ID {identity} does not exist")
        return DeliveredFile(attachment.file_name, content)


# Clients that serve many of Amazon's APIs name it in all these ways at once, and Amazon does not
# mind; other names that it does not know are mistakes.
_MARKETPLACE_NAMES = {
    *("marketplaceId", "marketplaceIds", "MarketplaceId", "MarketplaceIds"),
    *("marketplace_id", "marketplace_ids", "Marketplace", "Marketplaces"),
}
_UPLOAD_QUERY = _MARKETPLACE_NAMES | {"contentMD5", "contentType"}
_MARKETPLACES = {marketplace.id: marketplace for marketplace in Marketplace}


def _checked_order_id(order_id: str) -> str:
    if not ORDER_ID.fullmatch(order_id):
        raise _invalid("Invalid Input", "The order id is none")
    return order_id


def _marketplace(request: web.Request, known: set[str]) -> Marketplace:
    unknown = set(request.query) - known
    if unknown:
        raise _invalid("Invalid Input", f"Unknown query parameter {min(unknown)}")
    given = request.query.getall("marketplaceIds", [])
    if len(given) != 1 or "," in given[0]:
        raise _invalid("Invalid Input", "marketplaceIds takes exactly one value")
    found = _MARKETPLACES.get(given[0])
    if found is None:
        raise _invalid("Invalid Input", f"Marketplace {given[0]} does not exist")
    return found


async def _content(operation: Operation, request: web.Request) -> MessageRequest | None:
    """The body as the operation's request; None where the operation only reads."""
    if operation.request is None:
        return None
    try:
        raw = await body_of(request)
    except web.RequestPayloadError:  # it is not in the Content-Encoding that it names
        raise _invalid("Invalid Input", "The content cannot be read") from None
    if operation.has_body:
        if request.content_type != "application/json":
            raise _Refusal(415, "UnsupportedMediaType", "The content type must be application/json")
        return _decoded(raw, operation.request)
    if not _says_marketplace_only(request, raw):
        if hdrs.CONTENT_TYPE in request.headers:
            raise _Refusal(415, "UnsupportedMediaType", "The operation takes no content")
        if raw:
            raise _invalid("Invalid Input", "The operation takes no body")
    return _decoded(b"{}", operation.request)


def _says_marketplace_only(request: web.Request, raw: bytes) -> bool:
    if not raw or request.content_type != "application/json":
        return False
    with contextlib.suppress(codec.DecodingError):
        data = codec.parse(raw)
        return bool(data) and not _without_marketplaces(data)
    return False


def _decoded(raw: bytes, cls: type[MessageRequest]) -> MessageRequest:
    try:
        content: MessageRequest = codec.decode_strictly(
            _without_marketplaces(codec.parse(raw)), cls
        )
    except codec.DecodingError as error:
        raise _invalid("Invalid Input", str(error)) from None
    if _holds_markup_or_address(getattr(content, "text", "")):
        raise _invalid("Invalid Input", "The text holds HTML or an e-mail address")
    return content


def _without_marketplaces(data: object) -> object:
    """What is left of a body once names of the marketplace are gone from it."""
    if not isinstance(data, dict) or _MARKETPLACE_NAMES.isdisjoint(data):
        return data
    return {name: value for name, value in data.items() if name not in _MARKETPLACE_NAMES}


def _holds_markup_or_address(text: str) -> bool:
    if not _SUSPECT.search(text):
        return False
    entities = _NAMED_ENTITY.findall(text)
    return bool(_MARKUP_OR_ADDRESS.search(text)) or any(name in html5 for name in entities)


# The two forms of an action. Amazon's samples of 2025-10 are flatter than its model.


def _path(row: Operation, order_id: str, marketplace: Marketplace) -> str:
    path = row.path.replace("{amazonOrderId}", order_id)
    return f"{path}?marketplaceIds={marketplace.id}"


def _links(
    order_id: str, marketplace: Marketplace, available: Iterable[Operation]
) -> dict[str, object]:
    order = f"/messaging/v1/orders/{order_id}?marketplaceIds={marketplace.id}"
    actions = [{"href": _path(row, order_id, marketplace), "name": row.kind} for row in available]
    return {"self": {"href": order}, "actions": actions}


def _model_action(row: Operation, order_id: str, marketplace: Marketplace) -> dict[str, object]:
    path = _path(row, order_id, marketplace)
    schema = {"href": path.replace("?", "/schema?"), "name": row.kind}
    return {
        "payload": {"name": row.kind},
        "_links": {"self": {"href": path}, "schema": schema},
        "_embedded": {"schema": {"_links": {"self": schema}, "payload": _schema(row)}},
    }


def _live_action(row: Operation, order_id: str, marketplace: Marketplace) -> dict[str, object]:
    path = _path(row, order_id, marketplace)
    link = {"href": path.replace("?", "/schema?"), "name": row.kind}
    schema = {"_links": {"self": link}, **_schema(row)}
    state = {"disabled": False, "disabledReason": None, "x-ui-hidden": False}
    return {
        "name": row.live_name or row.kind,
        "title": row.kind,
        "_links": {"self": {"href": path}, "schema": link},
        "_embedded": {"schema": {**schema, **state}},
    }


def _schema(row: Operation) -> dict[str, object]:
    properties: dict[str, object] = {}
    if row.takes_text:
        properties["rawMessageBody"] = {"type": "string"}
    if row.takes_attachments:
        item = {"type": "object", "properties": {"id": {"type": "string"}}}
        properties["attachments"] = {"type": "array", "items": item}
    return {"type": "object", "properties": properties}
