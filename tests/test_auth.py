"""Access tokens: one request however many callers, renewed while the old one serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from sp_messaging_async import (
    AuthenticationError,
    Credentials,
    Forbidden,
    MessagingSession,
    RetryPolicy,
    TransportError,
)
from sp_messaging_async.auth import TokenSource
from sp_messaging_async.sandbox import Fault, Sandbox
from sp_messaging_async.wire import HttpAnswer, HttpRequest

from .conftest import AT_ONCE, FAST, ORDER, Open, run_virtually

CREDENTIALS = Credentials("client", "secret", "refresh")
URL = "http://127.0.0.1/auth/o2/token"


class Login:
    """Login with Amazon on a virtual clock: takes a second, tokens live for an hour.

    It stands where a `Transport` does, as there are no sockets on a virtual clock.
    """

    def __init__(self, answers: list[HttpAnswer | TransportError] | None = None) -> None:
        self.requests = 0
        self.closed = False
        self._answers = answers or []

    def exchange(self, request: HttpRequest) -> Login:
        return self

    async def answer(self, timeout: float) -> HttpAnswer:
        self.requests += 1
        number = self.requests
        await asyncio.sleep(1)
        answer = self._answers.pop(0) if self._answers else granted(f"token {number}")
        if isinstance(answer, TransportError):
            raise answer
        return answer


def granted(token: object, life: object = 3600) -> HttpAnswer:
    return _json(200, {"access_token": token, "token_type": "bearer", "expires_in": life})


def refused(status: int, error: str) -> HttpAnswer:
    return _json(status, {"error": error, "error_description": "for secret and refresh"})


def _json(status: int, body: object) -> HttpAnswer:
    return HttpAnswer(status, {}, json.dumps(body).encode())


def source(retry: RetryPolicy = AT_ONCE) -> TokenSource:
    return TokenSource(CREDENTIALS, URL, retry)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_fifty_cold_callers_make_one_request() -> None:
    """Everybody who needs the first token waits for the same request."""

    async def main() -> None:
        login, tokens = Login(), source()
        got = await asyncio.gather(*(tokens.token(login, 30) for _ in range(50)))
        assert set(got) == {"token 1"}
        assert login.requests == 1

    run_virtually(main())


def test_renewal_near_expiry_delays_nobody() -> None:
    """The call that begins the renewal, and those beside it, get the old token at once."""

    async def main() -> None:
        login, tokens = Login(), source()
        await tokens.token(login, 30)
        await asyncio.sleep(3600 - 200)
        asked = now()
        assert (
            await asyncio.gather(*(tokens.token(login, 30) for _ in range(50))) == ["token 1"] * 50
        )
        assert now() == asked
        await asyncio.sleep(2)
        assert await tokens.token(login, 30) == "token 2"
        assert login.requests == 2

    run_virtually(main())


def test_an_expired_token_is_not_sent() -> None:
    """After an idle night the first caller waits for a new token."""

    async def main() -> None:
        login, tokens = Login(), source()
        await tokens.token(login, 30)
        await asyncio.sleep(8 * 3600)
        assert await tokens.token(login, 30) == "token 2"

    run_virtually(main())


def test_a_failed_renewal_is_not_noticed_while_the_old_token_serves() -> None:
    """A renewal that fails is tried again half a minute later, and calls go on meanwhile."""

    async def main() -> None:
        login = Login([granted("token 1"), refused(400, "invalid_request")])
        tokens = source()
        await tokens.token(login, 30)
        await asyncio.sleep(3600 - 200)
        for _ in range(20):
            assert await tokens.token(login, 30) == "token 1"
            await asyncio.sleep(1)
        assert login.requests == 2
        await asyncio.sleep(30)
        assert await tokens.token(login, 30) == "token 1"
        await asyncio.sleep(2)
        assert await tokens.token(login, 30) == "token 3"

    run_virtually(main())


def test_a_cancelled_caller_does_not_cancel_the_request() -> None:
    """The caller that began the request may go away; the others get its token."""

    async def main() -> None:
        login, tokens = Login(), source()
        first = asyncio.create_task(tokens.token(login, 30))
        await asyncio.sleep(0.5)
        others = [asyncio.create_task(tokens.token(login, 30)) for _ in range(3)]
        first.cancel()
        assert await asyncio.gather(*others) == ["token 1"] * 3
        assert login.requests == 1

    run_virtually(main())


def test_every_caller_gets_an_error_of_its_own() -> None:
    """Callers that shared a request which failed do not share the exception."""

    async def main() -> None:
        login, tokens = Login([refused(400, "invalid_grant")]), source()
        got = await asyncio.gather(
            *(tokens.token(login, 30) for _ in range(3)), return_exceptions=True
        )
        assert [type(error) for error in got] == [AuthenticationError] * 3
        assert len({id(error) for error in got}) == 3
        assert login.requests == 1

    run_virtually(main())


def test_a_closed_session_hands_its_request_on() -> None:
    """When the session that asks is closed, another caller asks in its place."""

    async def main() -> None:
        closing, staying, tokens = Login(), Login(), source()
        first = asyncio.create_task(tokens.token(closing, 30))
        await asyncio.sleep(0.5)
        second = asyncio.create_task(tokens.token(staying, 30))
        await asyncio.sleep(0.1)
        closing.closed = True
        tokens.abandon(closing)
        assert await second == "token 1"
        assert staying.requests == 1
        with pytest.raises(Exception, match="closed"):
            await first

    run_virtually(main())


@pytest.mark.parametrize("token", [None, 7, "", "two\nlines", "ütf"])
def test_a_token_that_no_header_can_carry_is_none(token: object) -> None:
    """An answer without a usable token is tried again, and then an AuthenticationError."""

    async def main() -> None:
        login, tokens = Login([granted(token)] * 5), source()
        with pytest.raises(AuthenticationError, match="usable access token"):
            await tokens.token(login, 30)
        assert login.requests == 5

    run_virtually(main())


@pytest.mark.parametrize("life", [0, -1, "3600", True])
def test_a_life_time_that_is_none(life: object) -> None:
    """A life time that is no positive number of seconds is not believed."""

    async def main() -> None:
        login, tokens = Login([granted("token", life), granted("good")]), source()
        assert await tokens.token(login, 30) == "good"

    run_virtually(main())


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        (refused(400, "invalid_grant"), 1),
        (refused(401, "invalid_client"), 1),
        (refused(400, "unauthorized_client"), 1),
        (refused(403, "access_denied"), 1),
        (refused(400, "invalid_request"), 1),
        (refused(400, "invalid_scope"), 1),
        (refused(400, "never heard of"), 1),
        (refused(500, "server_error"), 5),
        (refused(400, "temporarily_unavailable"), 5),
        (HttpAnswer(503, {}, b"<html>"), 5),
        (HttpAnswer(429, {}, b""), 5),
        (HttpAnswer(200, {}, b"<html>"), 5),
        (HttpAnswer(302, {}, b""), 1),
    ],
    ids=str,
)
def test_refusals_are_final_and_failures_are_tried_again(answer: HttpAnswer, requests: int) -> None:
    """Final errors are raised at once, passing ones when the attempts are used up."""

    async def main() -> None:
        login, tokens = Login([answer] * 5), source()
        with pytest.raises(AuthenticationError) as caught:
            await tokens.token(login, 30)
        assert login.requests == requests
        assert "secret" not in str(caught.value).replace("client secret", "")

    run_virtually(main())


def test_an_unreachable_login_means_that_nothing_was_sent() -> None:
    """Even if the token request was written, the message is known to be unsent."""

    async def main() -> None:
        login, tokens = Login([TransportError("TimeoutError", True)] * 5), source()
        with pytest.raises(TransportError, match="Login with Amazon: TimeoutError") as caught:
            await tokens.token(login, 30)
        assert not caught.value.write_began
        assert login.requests == 5

    run_virtually(main())


def _rotating(*given: Credentials) -> tuple[Callable[[], object], list[Credentials]]:
    left = list(given)

    async def fetch() -> Credentials:
        return left.pop(0)

    return fetch, left


@pytest.mark.parametrize("error", ["invalid_client", "invalid_grant"])
def test_rotated_secrets_are_fetched_again_once(error: str) -> None:
    """A credentials callable is asked again when what it gave before is refused."""

    async def main() -> None:
        fetch, left = _rotating(CREDENTIALS, Credentials("client", "new", "refresh"))
        login = Login([refused(401, error)])
        tokens = TokenSource(fetch, URL, AT_ONCE)
        assert await tokens.token(login, 30) == "token 2"
        assert not left

    run_virtually(main())


def test_credentials_are_fetched_again_only_once() -> None:
    """When the new secrets are refused as well, that is the caller's error."""

    async def main() -> None:
        fetch, left = _rotating(CREDENTIALS, CREDENTIALS, CREDENTIALS)
        login = Login([refused(401, "invalid_client")] * 3)
        with pytest.raises(AuthenticationError, match="invalid_client"):
            await TokenSource(fetch, URL, AT_ONCE).token(login, 30)
        assert len(left) == 1

    run_virtually(main())


@pytest.mark.parametrize("result", [None, ValueError("vault")])
def test_a_credentials_callable_that_fails(result: Exception | None) -> None:
    """Whatever the callable does wrong is an AuthenticationError."""

    async def fetch() -> object:
        if result is not None:
            raise result
        return "no credentials"

    async def main() -> None:
        with pytest.raises(AuthenticationError, match="credentials callable"):
            await TokenSource(fetch, URL, AT_ONCE).token(Login(), 30)

    run_virtually(main())


# Over sockets


async def test_fifty_expiries_make_one_refresh(sandbox: Sandbox, session: MessagingSession) -> None:
    """When fifty calls find their token expired, one request renews it for all."""
    await session.get_attributes(ORDER)
    sandbox.login.expire_all()
    await asyncio.gather(*(session.get_attributes(ORDER) for _ in range(50)))
    assert sandbox.login.requests == 2


async def test_two_sessions_of_one_seller_share_the_token(
    sandbox: Sandbox, open_session: Open
) -> None:
    """Whatever their account labels are, one request serves both."""
    first = open_session()
    same = sandbox.credentials
    labelled = Credentials(same.client_id, same.client_secret, same.refresh_token, "acme")
    second = open_session(credentials=labelled)
    await asyncio.gather(first.get_attributes(ORDER), second.get_attributes(ORDER))
    assert sandbox.login.requests == 1


async def test_a_shared_refresh_outlives_the_session_that_began_it(
    sandbox: Sandbox, open_session: Open
) -> None:
    """Closing the session whose call asked for the token does not fail the other's call."""
    sandbox.faults.add(Fault.HANG, operation="token")
    first, second = open_session(), open_session()
    one = asyncio.create_task(first.get_attributes(ORDER))
    two = asyncio.create_task(second.get_attributes(ORDER))
    while not sandbox.login.requests and len(sandbox.faults):
        await asyncio.sleep(0)
    await first.aclose()
    assert (await two).buyer.locale == "en-US"
    with pytest.raises(Exception, match="closed"):
        await one


@pytest.mark.parametrize(
    ("credentials", "code"),
    [
        (Credentials("client", "invalid", "refresh"), "invalid_client"),
        (Credentials("client", "secret", "revoked"), "invalid_grant"),
    ],
    ids=["client secret", "refresh token"],
)
async def test_refused_credentials(open_session: Open, credentials: Credentials, code: str) -> None:
    """Login with Amazon's refusal names the call and its code, and the remedy."""
    with pytest.raises(AuthenticationError, match="check the client id") as caught:
        await open_session(credentials=credentials).get_attributes(ORDER)
    assert caught.value.code == code
    assert caught.value.operation == "getAttributes"
    assert caught.value.amazon_order_id == ORDER


def test_two_event_loops_one_after_the_other() -> None:
    """Two `asyncio.run` in a row, each with its own session, leave nothing behind."""

    async def main() -> int:
        async with (
            Sandbox(plans=FAST) as sandbox,
            MessagingSession(
                sandbox.credentials, marketplace="US", endpoint=sandbox.endpoint
            ) as session,
        ):
            await session.get_attributes(ORDER)
            return sandbox.login.requests

    assert [asyncio.run(main()), asyncio.run(main())] == [1, 1]


async def test_a_refused_token_is_not_used_again(sandbox: Sandbox, open_session: Open) -> None:
    """Even a call that may be tried only once drops the token, so that the next has a new one."""
    session = open_session(retry=RetryPolicy(attempts=1))
    await session.get_attributes(ORDER)
    sandbox.login.expire_all()
    with pytest.raises(Forbidden):
        await session.get_attributes(ORDER)
    await session.get_attributes(ORDER)
    assert sandbox.login.requests == 2
