"""The forms of Amazon's answers."""

from __future__ import annotations

import uuid

from aiohttp import web

__all__ = ["api_error", "api_ok", "s3_error"]

_TELLS_RATE = (200, 201, 400, 404)  # Amazon sends its rate header with these, and not with a 429


def api_ok(status: int, body: object, rate: float) -> web.Response:
    """A success of the Selling Partner API."""
    return web.json_response(
        body, status=status, headers=_headers(status, rate), content_type="application/hal+json"
    )


def api_error(
    status: int, code: str, message: str, details: str = "", rate: float | None = None
) -> web.Response:
    """A refusal of the Selling Partner API."""
    error = {"code": code, "message": message, "details": details}
    return web.json_response({"errors": [error]}, status=status, headers=_headers(status, rate))


def _headers(status: int, rate: float | None) -> dict[str, str]:
    headers = {"x-amzn-RequestId": str(uuid.uuid4())}
    if rate is not None and status in _TELLS_RATE:
        headers["x-amzn-RateLimit-Limit"] = str(float(rate))
    return headers


def s3_error(status: int, code: str, message: str) -> web.Response:
    """A refusal of the host that takes uploads."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return web.Response(status=status, text=text, content_type="application/xml")
