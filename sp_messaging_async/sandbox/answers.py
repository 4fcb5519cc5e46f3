"""The forms of Amazon's answers."""

from __future__ import annotations

import itertools
import json
import random

from aiohttp import web

__all__ = ["api_error", "api_ok", "s3_error"]

_TELLS_RATE = (200, 201, 400, 404)  # Amazon sends its rate header with these, and not with a 429


def api_ok(status: int, body: object, rate: float) -> web.Response:
    """A success of the Selling Partner API."""
    return _json(status, body, "application/hal+json; charset=utf-8", rate)


def api_error(
    status: int, code: str, message: str, details: str = "", rate: float | None = None
) -> web.Response:
    """A refusal of the Selling Partner API."""
    error = {"code": code, "message": message, "details": details}
    return _json(status, {"errors": [error]}, "application/json; charset=utf-8", rate)


def _json(status: int, body: object, content_type: str, rate: float | None) -> web.Response:
    headers = {"Content-Type": content_type, "x-amzn-RequestId": _request_id()}
    if rate is not None and status in _TELLS_RATE:
        headers["x-amzn-RateLimit-Limit"] = str(float(rate))
    content = json.dumps(body).encode() if body else b"{}"
    return web.Response(body=content, status=status, headers=headers)


_BEGIN = "{:08x}-{:04x}-{:04x}-{:04x}".format(*(random.getrandbits(n) for n in (32, 16, 16, 16)))
_NUMBERS = itertools.count(1)


def _request_id() -> str:
    """A new one that looks like Amazon's."""
    return f"{_BEGIN}-{next(_NUMBERS):012x}"


def s3_error(status: int, code: str, message: str) -> web.Response:
    """A refusal of the host that takes uploads."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return web.Response(status=status, text=text, content_type="application/xml")
