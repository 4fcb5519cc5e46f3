"""The access tokens that Login with Amazon gives for credentials.

Source: "Connect to the Selling Partner API" (the token request, its errors, expiry).
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import time
from urllib.parse import urlencode

from attrs import field, frozen

from . import codec
from .credentials import Credentials, CredentialsSource
from .errors import (
    AuthenticationError,
    MessagingError,
    SessionClosed,
    TransportError,
)
from .retry import RetryPolicy
from .transport import Transport
from .wire import HttpAnswer, HttpRequest

__all__ = ["TokenSource"]

_log = logging.getLogger("sp_messaging_async")


@frozen
class _AccessToken:
    value: str = field(repr=False)
    renew_from: float  # loop time from which the next call renews it
    serves_until: float  # loop time after which it is not sent any more
    ahead: float  # seconds that the time of day was ahead of the loop's when it was asked for

    def now(self, loop_time: float) -> float:
        """The time that counts for it, by the clock that has gone further since it was asked for.

        The loop's stands still while a machine sleeps; the time of day may be set back.
        """
        return max(loop_time, time.time() - self.ahead)


_RENEW_AHEAD = 300.0  # seconds before expiry, or a quarter of a short life
_SAFETY = 10.0  # seconds before expiry in which a request may still be under way; a tenth at most
_RENEWAL_PAUSE = 30.0  # seconds between renewals that fail while the old token serves


class TokenSource:
    """The access token of one seller, shared by all who call for it in one event loop.

    However many callers wait, one request is in flight. The first call that finds the token near
    its expiry renews it, and nobody waits while the old one serves. No timers.
    """

    def __init__(
        self, credentials: CredentialsSource, token_url: str, retry: RetryPolicy | None = None
    ) -> None:
        self._source = credentials
        self._credentials: Credentials | None = None
        self._seller = ""
        if isinstance(credentials, Credentials):
            self._adopt(credentials)
        self._token_url = token_url
        self._retry = retry or RetryPolicy()
        self._token: _AccessToken | None = None
        self._renewal: _Renewal | None = None
        self._renew_not_before = 0.0

    @property
    def seller(self) -> str:
        """Whose plan a call counts against; known once a token was had."""
        if self._credentials is None:
            raise RuntimeError("an async credentials source names its seller with the first token")
        return self._seller

    @property
    def knows_seller(self) -> bool:
        """Whether the seller is known: at once, or from the first token on."""
        return self._credentials is not None

    async def token(self, transport: Transport, timeout: float) -> str:  # noqa: ASYNC109 - of an exchange
        """A token that serves now.

        Raises AuthenticationError if Login with Amazon refuses, TransportError if it cannot be
        reached; either way nothing was sent to Amazon's API.
        """
        now = asyncio.get_running_loop().time()
        return self.serving(now, transport, timeout) or await self._renewed(transport, timeout)

    def serving(self, now: float, transport: Transport, timeout: float) -> str | None:
        """The token that serves now, if there is one; near its expiry a renewal is begun.

        now: the event loop's time.
        """
        token = self._token
        if token is None:
            return None
        counts = token.now(now)
        if counts >= token.serves_until:
            return None
        if counts >= token.renew_from and now >= self._renew_not_before:
            self._renewing(transport, timeout)
        return token.value

    def refused(self, token: str) -> bool:
        """Amazon refused this token. Drops it, and tells whether it still was the one in use."""
        if self._token is None or self._token.value != token:
            return False
        self._token = None
        return True

    def abandon(self, transport: Transport) -> None:
        """A session closes: give up the renewal that uses its connections, if there is one."""
        if self._renewal is not None and self._renewal.transport is transport:
            self._renewal.task.cancel()

    def is_stale(self) -> bool:
        """Whether there is nothing in it that another session could use."""
        now, token = asyncio.get_running_loop().time(), self._token
        serves = token is not None and token.now(now) < token.serves_until
        return not serves and self._renewal is None

    async def _renewed(self, transport: Transport, timeout: float) -> str:  # noqa: ASYNC109
        while True:
            renewal = self._renewing(transport, timeout)
            # `wait` and not the task itself: a caller's cancellation must not reach the others.
            await asyncio.wait((renewal.task,))
            if not renewal.task.cancelled():
                error = renewal.task.exception()
                if error is None:
                    return renewal.task.result().value
                if not renewal.transport.closed:
                    # A copy, because each caller that waited raises it with its own context.
                    raise copy.copy(error) from error.__cause__
            if transport.closed:
                raise SessionClosed("closed while it asked for an access token")
            # The session that had begun it was closed meanwhile: this caller takes its place.

    def _renewing(self, transport: Transport, timeout: float) -> _Renewal:
        if self._renewal is None:
            task = asyncio.create_task(self._renew(transport, timeout))
            self._renewal = _Renewal(task, transport)
            task.add_done_callback(self._end_renewal)
        return self._renewal

    def _end_renewal(self, task: asyncio.Task[_AccessToken]) -> None:
        self._renewal = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._token = task.result()
        elif self._token is not None:
            self._renew_not_before = task.get_loop().time() + _RENEWAL_PAUSE
            _log.warning("the access token could not be renewed: %s", error)

    async def _renew(self, transport: Transport, timeout: float) -> _AccessToken:  # noqa: ASYNC109
        credentials = self._credentials or self._adopt(await self._fetch())
        try:
            return await self._request(credentials, transport, timeout)
        except AuthenticationError as error:
            if isinstance(self._source, Credentials) or error.code not in _ROTATED:
                raise
        # The secrets may have been rotated since they were fetched: ask for them again, once.
        credentials = self._adopt(await self._fetch())
        return await self._request(credentials, transport, timeout)

    def _adopt(self, credentials: Credentials) -> Credentials:
        self._credentials, self._seller = credentials, credentials.seller
        return credentials

    async def _fetch(self) -> Credentials:
        if isinstance(self._source, Credentials):
            return self._source
        try:
            credentials = await self._source()
        except Exception as error:  # the caller's own code may raise anything
            kind = type(error).__name__
            # Not chained: its text may hold what it was fetching.
            raise AuthenticationError(f"the credentials callable raised {kind}") from None
        if not isinstance(credentials, Credentials):
            kind = type(credentials).__name__
            raise AuthenticationError(f"the credentials callable gave a {kind}, not Credentials")
        return credentials

    async def _request(
        self,
        credentials: Credentials,
        transport: Transport,
        timeout: float,  # noqa: ASYNC109
    ) -> _AccessToken:
        request = _token_request(self._token_url, credentials)
        attempt = 0
        while True:
            attempt += 1
            asked_at = asyncio.get_running_loop().time()
            ahead = time.time() - asked_at
            try:
                answer = await transport.exchange(request).answer(timeout)
                return _read_token(answer, asked_at, ahead)
            except TransportError as error:
                failure: MessagingError = TransportError(
                    f"Login with Amazon: {error.reason}", False
                )
                repeatable = error.repeatable
            except _Passing as passing:
                failure = AuthenticationError(str(passing), passing.code, repeatable=True)
                repeatable = True
            if not repeatable or attempt >= self._retry.attempts or transport.closed:
                raise failure
            await asyncio.sleep(self._retry.delay(attempt))


@frozen
class _Renewal:
    """A renewal in flight, and whose connections it uses."""

    task: asyncio.Task[_AccessToken]
    transport: Transport


_ROTATED = ("invalid_client", "invalid_grant")
_PASSING = ("server_error", "temporarily_unavailable")
_FINAL = ("unauthorized_client", "access_denied", "invalid_request", "invalid_scope")
# Only codes that are known are repeated in an error: other text of the answer may echo a secret.
_CODES = (*_ROTATED, *_PASSING, *_FINAL)
_REMEDY = "; check the client id, client secret and refresh token, and the seller's authorization"


class _Passing(Exception):
    """A failure of Login with Amazon that another attempt may not meet."""

    def __init__(self, text: str, code: str | None = None) -> None:
        super().__init__(text)
        self.code = code


def _token_request(token_url: str, credentials: Credentials) -> HttpRequest:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": credentials.refresh_token,
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret,
    }
    headers = {
        "accept": "application/json",
        "content-type": "application/x-www-form-urlencoded;charset=UTF-8",
    }
    return HttpRequest("POST", token_url, headers, urlencode(form).encode())


def _read_token(answer: HttpAnswer, asked_at: float, ahead: float) -> _AccessToken:
    data = _json_object(answer)
    if answer.status == 200:
        return _accepted(data, asked_at, ahead)
    code = data.get("error")
    code = code if isinstance(code, str) and code in _CODES else None
    text = f"Login with Amazon answered {answer.status}"
    if code is None and (answer.status >= 500 or answer.status == 429):
        raise _Passing(text)
    if code in _PASSING:
        raise _Passing(f"{text} {code}", code)
    raise AuthenticationError(f"{text} {code or 'without a known reason'}{_REMEDY}", code)


def _json_object(answer: HttpAnswer) -> dict[str, object]:
    try:
        data = codec.parse(answer.body)
    except codec.DecodingError:
        return {}
    return data if isinstance(data, dict) else {}


def _accepted(data: dict[str, object], asked_at: float, ahead: float) -> _AccessToken:
    value, life = data.get("access_token"), data.get("expires_in", 3600)
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
        raise _Passing("Login with Amazon answered 200 without a usable access token")
    if isinstance(life, bool) or not isinstance(life, int | float) or not 0 < life < math.inf:
        raise _Passing("Login with Amazon answered 200 with a life time that is none")
    return _AccessToken(
        value,
        renew_from=asked_at + life - min(_RENEW_AHEAD, life / 4),
        serves_until=asked_at + life - min(_SAFETY, life / 10),
        ahead=ahead,
    )
