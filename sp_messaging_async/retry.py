"""What a failure means for the call: try again, give up, or admit that its outcome is unknown.

| what happened                                | repeatable      | messages a buyer |
|----------------------------------------------|-----------------|------------------|
| the write never began                        | again           | again            |
| certificate or URL refused                   | final           | final            |
| 429                                          | again           | again            |
| 403 that names the token                     | new token, once | new token, once  |
| any other 4xx, and 3xx                       | final           | final            |
| 5xx, and what HTTP does not know             | again           | unknown          |
| lost after the write began                   | again           | unknown          |
| 2xx that cannot be read, or holds errors     | again           | unknown          |
"""

from __future__ import annotations

import math
import random
from enum import Enum, auto

from attrs import Attribute, field, frozen

from .errors import ApiError, ConfigurationError, Throttled, TransportError
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
    if 300 <= failure.status < 500:
        return Verdict.FINAL
    # A 5xx, a success that cannot be read, or a status that HTTP does not know.
    return Verdict.UNKNOWN if messages_buyer else Verdict.AGAIN


def _judge_transport(failure: TransportError, messages_buyer: bool) -> Verdict:
    if failure.write_began and messages_buyer:
        return Verdict.UNKNOWN
    return Verdict.AGAIN if failure.repeatable else Verdict.FINAL


def _checked_attempts(instance: object, attribute: Attribute[int], value: int) -> None:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"RetryPolicy.{attribute.name} {value!r} is no number above 0")


def _checked_delay(instance: object, attribute: Attribute[float], value: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise ConfigurationError(f"RetryPolicy.{attribute.name} {value!r} is no delay in seconds")


@frozen
class RetryPolicy:
    """How often a call is tried, and how long it waits in between.

    attempts: exchanges in all, the first included.
    base_delay: seconds before the second attempt, doubled for each one after it.
    max_delay: the longest of these delays in seconds.

    A delay is drawn between half of that time and all of it, so that many callers do not come
    back together.
    """

    attempts: int = field(default=5, validator=_checked_attempts)
    base_delay: float = field(default=0.5, validator=_checked_delay)
    max_delay: float = field(default=20.0, validator=_checked_delay)

    def delay(self, attempt: int) -> float:
        """Seconds to wait after the attempt of this number, counted from 1."""
        longest = min(self.max_delay, self.base_delay * 2.0 ** min(attempt - 1, 60))
        return longest * random.uniform(0.5, 1.0)
