"""What a failure means, row by row, and how long a call waits before the next attempt."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sp_messaging_async import ApiError, ConfigurationError, RetryPolicy, TransportError
from sp_messaging_async.operations import MESSAGING
from sp_messaging_async.retry import Verdict, judge
from sp_messaging_async.wire import HttpAnswer, read

Failure = TransportError | ApiError

TOKEN = "The access token you provided has expired."
TEMPLATE = "Invalid amazonOrderId and template combination."


def answered(status: int, body: bytes = b"") -> ApiError:
    """The failure that a read makes of an answer."""
    with pytest.raises(ApiError) as caught:
        read(MESSAGING["getAttributes"], HttpAnswer(status, {}, body))
    return caught.value


def html(status: int) -> ApiError:
    return answered(status, b"<html>Words.</html>")


def said(status: int, message: str) -> ApiError:
    errors = [{"code": "Unauthorized", "message": message}]
    return answered(status, json.dumps({"errors": errors}).encode())


def never_began(*, repeatable: bool = True) -> TransportError:
    return TransportError("never began", False, repeatable)


def lost(*, repeatable: bool = True) -> TransportError:
    return TransportError("lost", True, repeatable)


# What happened, what it means for a call that may be repeated, and for one that messages a buyer.
ROWS: dict[str, tuple[list[Failure], str, str]] = {
    "the write never began": ([never_began()], "AGAIN", "AGAIN"),
    "certificate or URL refused": ([never_began(repeatable=False)], "FINAL", "FINAL"),
    "429": (
        [answered(429), html(429), said(429, "Words."), said(429, TOKEN), said(429, TEMPLATE)],
        "AGAIN_WHEN_PLAN_ALLOWS",
        "AGAIN_WHEN_PLAN_ALLOWS",
    ),
    "403 that names the token": (
        [said(403, TOKEN)],
        "AGAIN_WITH_NEW_TOKEN",
        "AGAIN_WITH_NEW_TOKEN",
    ),
    "403 about order and template": ([said(403, TEMPLATE)], "FINAL", "FINAL"),
    "other 403": ([said(403, "Words."), answered(403), html(403)], "FINAL", "FINAL"),
    "other 4xx": (
        [answered(status) for status in range(400, 500) if status not in (403, 429)],
        "FINAL",
        "FINAL",
    ),
    "4xx that names the token": ([said(400, TOKEN), said(401, TOKEN)], "FINAL", "FINAL"),
    "3xx": ([answered(status) for status in range(300, 400)], "FINAL", "FINAL"),
    "5xx": ([answered(status) for status in range(500, 600)], "AGAIN", "UNKNOWN"),
    "5xx with a body": (
        [html(502), html(503), said(500, "Words."), said(500, TOKEN), said(500, TEMPLATE)],
        "AGAIN",
        "UNKNOWN",
    ),
    "lost after the write began": ([lost()], "AGAIN", "UNKNOWN"),
    "failed strangely after the write began": ([lost(repeatable=False)], "FINAL", "UNKNOWN"),
    "2xx that cannot be read": (
        [answered(200), html(200), answered(201, b"{"), answered(204), answered(299, b"[]")],
        "AGAIN",
        "UNKNOWN",
    ),
    "2xx that holds errors": (
        [said(200, "Words."), said(201, TOKEN), said(200, TEMPLATE)],
        "AGAIN",
        "UNKNOWN",
    ),
    # Statuses that HTTP does not know, or not as an answer, prove nothing of what became of it.
    "1xx": ([answered(100), answered(101), html(199)], "AGAIN", "UNKNOWN"),
    "6xx to 9xx": ([answered(600), answered(999), html(999)], "AGAIN", "UNKNOWN"),
}
every_row = pytest.mark.parametrize(("failures", "repeatable", "message"), ROWS.values(), ids=ROWS)


@every_row
def test_what_may_be_repeated(failures: list[Failure], repeatable: str, message: str) -> None:
    """For a read or an upload, whatever another attempt may cure is tried again."""
    assert {judge(each, messages_buyer=False) for each in failures} == {Verdict[repeatable]}


@every_row
def test_what_messages_a_buyer(failures: list[Failure], repeatable: str, message: str) -> None:
    """For a message, only what is known to be unsent is tried again, and doubt is told."""
    assert {judge(each, messages_buyer=True) for each in failures} == {Verdict[message]}


@given(status=st.integers(100, 999), message=st.text() | st.sampled_from([TOKEN, TEMPLATE]))
@settings(deadline=None)
def test_no_answer_but_429_and_a_refused_token_lets_a_message_go_again(
    status: int, message: str
) -> None:
    """Whatever Amazon answers, a message is repeated after a 429 and a 403 on the token only."""
    verdict = judge(said(status, message), messages_buyer=True)
    assert verdict is not Verdict.AGAIN
    assert (verdict is Verdict.AGAIN_WHEN_PLAN_ALLOWS) == (status == 429)
    if verdict is Verdict.AGAIN_WITH_NEW_TOKEN:
        assert status == 403
        assert "token" in message.lower()


# How often, and how long in between


def test_the_default_policy() -> None:
    """Five attempts, half a second to begin with, never more than twenty."""
    assert RetryPolicy() == RetryPolicy(attempts=5, base_delay=0.5, max_delay=20.0)


@given(
    attempt=st.integers(1, 10**12),
    base=st.floats(0, 1e300),
    most=st.floats(0, 1e300),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_a_delay_keeps_its_bounds(attempt: int, base: float, most: float, seed: int) -> None:
    """However high the attempt's number, a delay is finite, and half to all of the longest."""
    random.seed(seed)
    delay = RetryPolicy(base_delay=base, max_delay=most).delay(attempt)
    longest = min(most, base * 2.0 ** min(attempt - 1, 1000)) if base else 0.0
    assert math.isfinite(delay)
    assert delay <= most
    if attempt <= 60:
        assert longest / 2 <= delay <= longest


@pytest.mark.parametrize(
    ("attempt", "longest"),
    [(1, 0.5), (2, 1), (3, 2), (4, 4), (6, 16), (7, 20), (8, 20), (5000, 20)],
)
def test_delays_double_and_spread(attempt: int, longest: float) -> None:
    """The longest delay doubles up to the cap, and draws spread over its upper half."""
    random.seed(1)
    delays = [RetryPolicy().delay(attempt) for _ in range(1000)]
    assert longest / 2 <= min(delays) < 0.55 * longest
    assert 0.95 * longest < max(delays) <= longest


@pytest.mark.parametrize("policy", [RetryPolicy(base_delay=0), RetryPolicy(max_delay=0)], ids=repr)
def test_no_delay(policy: RetryPolicy) -> None:
    """Without a first delay, or with a cap of nothing, the next attempt follows at once."""
    assert [policy.delay(attempt) for attempt in (1, 2, 100, 10**9)] == [0, 0, 0, 0]


@pytest.mark.parametrize("attempts", [1, 2, 10**9])
def test_any_number_of_attempts(attempts: int) -> None:
    """One attempt, which is none again, is as good as many."""
    assert RetryPolicy(attempts=attempts).attempts == attempts


@pytest.mark.parametrize("seconds", [0, 0.0, 1, 0.25, 1e9])
def test_any_seconds(seconds: float) -> None:
    """Delays are whole or broken seconds, and may be none."""
    assert RetryPolicy(base_delay=seconds, max_delay=seconds).max_delay == seconds


NO_NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, "5", None, [5], 5j, True, False]


@pytest.mark.parametrize("attempts", [0, -1, 0.5, 2.5, *NO_NUMBERS], ids=repr)
def test_attempts_that_are_no_count(attempts: Any) -> None:
    """What is no whole number from 1 is refused, naming the argument."""
    with pytest.raises(ConfigurationError, match=r"RetryPolicy\.attempts"):
        RetryPolicy(attempts=attempts)


@pytest.mark.parametrize("name", ["base_delay", "max_delay"])
@pytest.mark.parametrize("seconds", [-0.1, -1, *NO_NUMBERS], ids=repr)
def test_delays_that_are_no_seconds(name: str, seconds: Any) -> None:
    """What is no finite number from 0 is refused, naming the argument."""
    with pytest.raises(ConfigurationError, match=rf"RetryPolicy\.{name}"):
        RetryPolicy(**{name: seconds})


def test_a_policy_cannot_be_changed() -> None:
    """Sessions share a policy, and so it stays as it was made."""
    policy: Any = RetryPolicy()
    with pytest.raises(AttributeError):
        policy.attempts = 1
