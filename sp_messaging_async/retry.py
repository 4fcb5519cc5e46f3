"""What a failure means for the call: try again, give up, or admit that its outcome is unknown.

| what happened                                | repeatable      | messages a buyer |
|----------------------------------------------|-----------------|------------------|
| the write never began                        | again           | again            |
| certificate or URL refused                   | final           | final            |
| 429                                          | again           | again            |
| 403 that names the token                     | new token, once | new token, once  |
| any other 4xx, and 3xx                       | final           | final            |
| 5xx                                          | again           | unknown          |
| lost after the write began                   | again           | unknown          |
| 2xx that cannot be read, or holds errors     | again           | unknown          |
"""

from __future__ import annotations

import random
from enum import Enum, auto
from typing import Any

from attrs import Attribute, field, frozen

from .errors import ApiError, ConfigurationError, ServerError, Throttled, TransportError
from .wire import names_token

__all__ = ["RetryPolicy", "Verdict", "judge"]


class Verdict(Enum):
    """What to do about a failed exchange."""

    AGAIN = auto()
    """After a delay."""
    AGAIN_WHEN_PLAN_ALLOWS = auto()
    """At once: the usage plan was exceeded and itself makes the next attempt wait."""
    AGAIN_WITH_NEW_TOKEN = auto()
    """At once, authorized anew."""
    FINAL = auto()
    """Raise the error; a message is known to be unsent."""
    UNKNOWN = auto()
    """Raise OutcomeUnknown; the message may be sent."""


def judge(failure: TransportError | ApiError, *, messages_buyer: bool) -> Verdict:
    """What a failed exchange means; how often is the caller's to count."""
    if isinstance(failure, TransportError):
        return _judge_transport(failure, messages_buyer)
    if isinstance(failure, Throttled):
        return Verdict.AGAIN_WHEN_PLAN_ALLOWS
    if names_token(failure):
        return Verdict.AGAIN_WITH_NEW_TOKEN
    ambiguous = isinstance(failure, ServerError) or 200 <= failure.status < 300
    if not ambiguous:
        return Verdict.FINAL
    return Verdict.UNKNOWN if messages_buyer else Verdict.AGAIN


def _judge_transport(failure: TransportError, messages_buyer: bool) -> Verdict:
    if failure.write_began and messages_buyer:
        return Verdict.UNKNOWN
    return Verdict.AGAIN if failure.repeatable else Verdict.FINAL


def _at_least(least: float) -> Any:
    def check(instance: object, attribute: Attribute[float], value: float) -> None:
        if not isinstance(value, int | float) or not least <= value < float("inf"):
            raise ConfigurationError(f"RetryPolicy.{attribute.name} {value!r} is below {least}")

    return check


@frozen
class RetryPolicy:
    """How often a call is tried, and how long it waits in between.

    attempts: exchanges in all, the first included.
    base_delay: seconds before the second attempt, doubled for each one after it.
    max_delay: the longest of these delays in seconds.

    A delay is drawn between half of that time and all of it, so that many callers do not come
    back together.
    """

    attempts: int = field(default=5, validator=_at_least(1))
    base_delay: float = field(default=0.5, validator=_at_least(0))
    max_delay: float = field(default=20.0, validator=_at_least(0))

    def delay(self, attempt: int) -> float:
        """Seconds to wait after the attempt of this number, counted from 1."""
        longest = min(self.max_delay, self.base_delay * 2.0 ** min(attempt - 1, 60))
        return longest * random.uniform(0.5, 1.0)
