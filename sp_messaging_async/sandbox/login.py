"""Login with Amazon: any credentials are good, but for those that ask to be refused."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from aiohttp import web
from attrs import field, frozen

__all__ = ["TOKEN_PATH", "Login", "Refused"]

TOKEN_PATH = "/auth/o2/token"

_REFUSED_SECRET = "invalid"
_REFUSED_TOKEN = "revoked"


class Refused(Exception):
    """An access token that gives no access; the text is Amazon's."""


@frozen
class _Access:
    seller: str = field(repr=False)
    until: float


class Login:
    """Gives access tokens, and knows whose they are.

    lifetime: of an access token, in seconds.
    clock: tells seconds.
    """

    def __init__(self, lifetime: float, clock: Callable[[], float]) -> None:
        self.lifetime = lifetime
        self.requests = 0
        self._clock = clock
        self._tokens: dict[str, _Access] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """`POST` of a grant to `TOKEN_PATH`."""
        self.requests += 1
        if request.content_type != "application/x-www-form-urlencoded":
            return _refusal(400, "invalid_request", "The request is not form-encoded")
        try:
            form = {key: value for key, value in (await request.post()).items() if value}
        except (LookupError, ValueError, web.RequestPayloadError):
            # An unknown charset, or content that is not in the charset or encoding it names.
            return _refusal(400, "invalid_request", "The request cannot be read")
        if form.get("grant_type") != "refresh_token":
            return _refusal(400, "unsupported_grant_type", "The grant type is not supported")
        missing = {"refresh_token", "client_id", "client_secret"} - form.keys()
        if missing:
            text = f"The request is missing a required parameter : {min(missing)}"
            return _refusal(400, "invalid_request", text)
        if form["client_secret"] == _REFUSED_SECRET:
            return _refusal(401, "invalid_client", "Client authentication failed")
        if form["refresh_token"] == _REFUSED_TOKEN:
            text = "The request has an invalid grant parameter : refresh_token"
            return _refusal(400, "invalid_grant", text)
        return self._grant(str(form["client_id"]), str(form["refresh_token"]))

    def seller_of(self, access_token: str | None) -> str:
        """Whose token it is. Raises Refused for one that is unknown or expired."""
        access = self._tokens.get(access_token or "")
        if access is None:
            raise Refused("The access token you provided is revoked, malformed or invalid.")
        if self._clock() >= access.until:
            raise Refused("The access token you provided has expired.")
        return access.seller

    def seller_behind(self, access_token: str | None) -> str | None:
        """Whose token it is or was, if it is anybody's."""
        access = self._tokens.get(access_token or "")
        return access.seller if access else None

    def expire_all(self) -> None:
        """Let every access token expire now."""
        now = self._clock()
        self._tokens = {token: _Access(kept.seller, now) for token, kept in self._tokens.items()}

    def _grant(self, client_id: str, refresh_token: str) -> web.Response:
        token = f"Atza|{secrets.token_urlsafe(24)}"
        self._tokens[token] = _Access(refresh_token, self._clock() + self.lifetime)
        return web.json_response(
            {
                "access_token": token,
                "token_type": "bearer",
                "expires_in": self.lifetime,
                "refresh_token": refresh_token,
            }
        )


def _refusal(status: int, error: str, description: str) -> web.Response:
    body = {"error": error, "error_description": description}
    return web.json_response(body, status=status)
