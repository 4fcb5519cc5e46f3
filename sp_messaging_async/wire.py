"""The protocol without a socket: a call becomes an HTTP request, an answer a model or an error."""

from __future__ import annotations

import functools
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn
from urllib.parse import quote

from attrs import define, field
from yarl import URL

from . import codec
from .errors import (
    ApiError,
    BadRequest,
    Error,
    Finding,
    Forbidden,
    InvalidMessage,
    MessageNotAvailable,
    NotFound,
    PayloadTooLarge,
    ServerError,
    Throttled,
    UnsupportedMediaType,
)
from .marketplaces import Marketplace
from .operations import UPLOAD, Operation

__all__ = [
    "HttpAnswer",
    "HttpRequest",
    "api_error",
    "build",
    "build_upload_destination",
    "checked_order_id",
    "names_token",
    "names_upload",
    "rate_limit",
    "read",
    "user_agent",
]


@define(eq=False)  # and not frozen, which would be felt where thousands are made a second
class HttpRequest:
    """What is to be sent. Addresses and headers may hold secrets, so neither is shown.

    url: already percent-encoded; it goes out as it is. A `URL` need not be parsed any more.
    """

    method: str
    url: URL | str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)

    def authorize(self, access_token: str) -> None:
        """Let it go with this token, in the place of any that it had."""
        self.headers["x-amz-access-token"] = access_token


@define(eq=False)
class HttpAnswer:
    """What came back. `headers` are looked up in any case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


# Requests


def build(
    api_url: str,
    operation: Operation,
    amazon_order_id: str,
    marketplace: Marketplace,
    request: object | None = None,
    agent: str = "",
) -> HttpRequest:
    """The request of one call, without its access token.

    Raises InvalidMessage for an order id that no order can have.
    """
    path = operation.path.replace("{amazonOrderId}", checked_order_id(amazon_order_id))
    base, prefix = _addresses(api_url, marketplace.id)
    url = base.with_path(prefix + path, encoded=True, keep_query=True)
    headers = {"accept": "application/hal+json", "user-agent": agent}
    if operation.has_body:
        headers["content-type"] = "application/json"
        return HttpRequest(operation.verb, url, headers, codec.encode(request))
    # A message without a body is a POST of length 0, without a content type.
    return HttpRequest(operation.verb, url, headers, None if operation.verb == "GET" else b"")


@functools.lru_cache
def _addresses(api_url: str, marketplace_id: str) -> tuple[URL, str]:
    """What the addresses of all orders share, parsed once; and what their paths begin with."""
    base = URL(f"{api_url}?marketplaceIds={marketplace_id}", encoded=True)
    return base, base.raw_path.rstrip("/")


def build_upload_destination(
    api_url: str,
    operation: Operation,
    amazon_order_id: str,
    marketplace: Marketplace,
    content_md5: str,
    agent: str = "",
) -> HttpRequest:
    """The request for a place to upload a file that `operation` will attach.

    content_md5: base64 of the file's 16 raw MD5 bytes.

    The resource is the operation's path without its leading slash, and its slashes stay as they
    are: Amazon answers 403 to %2F.
    """
    order_id = checked_order_id(amazon_order_id)
    resource = operation.path.replace("{amazonOrderId}", order_id).lstrip("/")
    path = UPLOAD.path.replace("{resource}", resource)
    query = f"marketplaceIds={marketplace.id}&contentMD5={quote(content_md5, safe='')}"
    headers = {"accept": "application/json", "user-agent": agent}
    return HttpRequest(UPLOAD.verb, f"{api_url}{path}?{query}", headers, b"")


_ORDER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def checked_order_id(amazon_order_id: str) -> str:
    """The order id itself. Raises InvalidMessage if no order can have it."""
    if not isinstance(amazon_order_id, str) or not _ORDER_ID.fullmatch(amazon_order_id):
        reason = f"{amazon_order_id!r} is no order id; Amazon's look like 123-1234567-1234567"
        raise InvalidMessage(Finding("amazon_order_id", reason))
    return amazon_order_id


def user_agent(application: str) -> str:
    """Amazon's form of a User-Agent for an application "name/version".

    Raises InvalidMessage for one without a version, with control characters or too long.
    Source: "Include a User-Agent header in all requests" in Amazon's guide.
    """
    name, slash, version = str(application).rpartition("/")
    if (
        not isinstance(application, str)
        or not (slash and name.strip() and version.strip())
        or not application.isprintable()
    ):
        reason = f"{application!r} must name an application and its version, as in 'my-bot/1.2'"
        raise InvalidMessage(Finding("user_agent", reason))
    language = f"Python/{platform.python_version()}"
    system = platform.system() or sys.platform
    agent = (
        f"{_escape(name, '/')}/{_escape(version, '(')} "
        f"(Language={_escape(language, ');')}; Platform={_escape(system, ');')})"
    )
    if len(agent) > _LONGEST_AGENT or not agent.isascii():
        reason = f"must be ASCII, and at most {_LONGEST_AGENT} characters with what Amazon asks for"
        raise InvalidMessage(Finding("user_agent", reason))
    return agent


_LONGEST_AGENT = 500


def _escape(text: str, special: str) -> str:
    return "".join("\\" + c if c == "\\" or c in special else c for c in text)


# Answers


def read(operation: Operation, answer: HttpAnswer) -> object:
    """The model in an answer.

    Raises an ApiError for everything that is no success: its subclass by status, or ApiError
    itself for a redirect and for a success that cannot be read or that holds errors.
    """
    if not 200 <= answer.status < 300:
        raise_for_status(answer)
    if operation.messages_buyer and answer.body in _SAYS_NOTHING:
        return operation.empty_response  # as a rule; it need not be decoded
    return _read_success(operation, answer)


_SAYS_NOTHING = (b"{}", b"")


def raise_for_status(answer: HttpAnswer) -> NoReturn:
    """Raise the ApiError that an answer's status means."""
    # The content type says nothing: errors come as JSON under any name, as HTML, or not at all.
    try:
        errors = _errors(codec.parse(answer.body))
    except codec.DecodingError:
        errors = ()
    explanation = "" if errors else _without_errors(answer)
    raise api_error(answer.status, errors, request_id(answer), explanation)


def api_error(
    status: int, errors: Sequence[Error], request_id: str | None, explanation: str = ""
) -> ApiError:
    """The error that a status and Amazon's errors mean."""
    cls = ServerError if 500 <= status < 600 else _BY_STATUS.get(status, ApiError)
    if cls is Forbidden and any(_names_template(error) for error in errors):
        return MessageNotAvailable(status, errors, request_id, _NOT_AVAILABLE)
    return cls(status, errors, request_id, explanation)


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    403: Forbidden,
    404: NotFound,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    429: Throttled,
}

_NOT_AVAILABLE = (
    "this kind of message is not available for this order now; "
    "get_messaging_actions_for_order tells which kinds are"
)


def _read_success(operation: Operation, answer: HttpAnswer) -> object:
    if operation.messages_buyer and not answer.body.strip():
        return operation.empty_response
    try:
        data = codec.parse(answer.body)
        if isinstance(data, dict) and data.get("errors"):
            explanation = "a success that holds errors"
            raise ApiError(answer.status, _errors(data), request_id(answer), explanation)
        return codec.decode(data, operation.response)
    except codec.DecodingError as error:
        explanation = f"an unreadable body: {error}"
        raise ApiError(answer.status, (), request_id(answer), explanation) from None


def _errors(data: object) -> tuple[Error, ...]:
    if not isinstance(data, dict):
        return ()
    listed = data.get("errors")
    if isinstance(listed, list):
        return tuple(_error(item) for item in listed[:_MOST_ERRORS])
    # Amazon's gateway answers {"message": …} before the API is reached.
    gateway = _text(data.get("message"))
    return (Error(message=gateway),) if gateway else ()


def _error(item: object) -> Error:
    if not isinstance(item, dict):
        return Error(message="an error without words")
    return Error(*(_text(item.get(key)) for key in ("code", "message", "details")))


def _text(value: object) -> str | None:
    return value[:_LONGEST_ERROR_TEXT] if isinstance(value, str) and value else None


_LONGEST_ERROR_TEXT = 2000
_MOST_ERRORS = 20


def _without_errors(answer: HttpAnswer) -> str:
    if 300 <= answer.status < 400:
        return "a redirect, which is not followed"
    return "an empty body" if not answer.body.strip() else "a body without Amazon's errors"


def request_id(answer: HttpAnswer) -> str | None:
    """What Amazon's support asks for."""
    return answer.headers.get("x-amzn-RequestId")


RATE_LIMIT = "x-amzn-RateLimit-Limit"


def rate_limit(answer: HttpAnswer) -> float | None:
    """The rate in force that the answer tells, in requests a second; best effort."""
    try:
        return float(answer.headers.get(RATE_LIMIT, ""))
    except ValueError:
        return None


_TOKEN_TROUBLE = re.compile(
    r"access token\b.*\b(expired|revoked|malformed|invalid)", re.IGNORECASE | re.DOTALL
)


def names_token(error: ApiError) -> bool:
    """Whether a 403 is about the access token, which a new token cures.

    Amazon sends 403 and not 401; the sentence stands in `details`, sometimes in `message`.
    """
    return type(error) is Forbidden and any(
        _TOKEN_TROUBLE.search(f"{item.message} {item.details}") for item in error.errors
    )


def names_upload(error: ApiError) -> bool:
    """Whether a 400 is about an uploaded file that Amazon does not have (any more)."""
    return type(error) is BadRequest and any(
        _UPLOAD_TROUBLE.search(f"{item.message} {item.details}") for item in error.errors
    )


_UPLOAD_TROUBLE = re.compile(r"attachment with id\b.*\bdoes not exist", re.IGNORECASE | re.DOTALL)


def _names_template(error: Error) -> bool:
    texts = f"{error.message} {error.details}"
    return "invalid amazonorderid and template combination" in texts.lower()
