"""Amazon's side of a usage plan: a bucket that refills all the time and refuses when empty."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..operations import OPERATIONS, UsagePlan

__all__ = ["Plans", "TokenBucket"]


class TokenBucket:
    """Begins full. `clock` tells seconds."""

    def __init__(self, plan: UsagePlan, clock: Callable[[], float]) -> None:
        self.plan = plan
        self._clock = clock
        self._tokens = plan.burst
        self._as_of = clock()

    def take(self) -> bool:
        """Take a token, or tell that there is none."""
        now = self._clock()
        refilled = self._tokens + (now - self._as_of) * self.plan.rate
        self._tokens, self._as_of = min(self.plan.burst, refilled), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Plans:
    """A bucket for every seller and operation.

    plans: other plans than Amazon's defaults, by Amazon's name of the operation.
    """

    def __init__(self, plans: Mapping[str, UsagePlan] | None, clock: Callable[[], float]) -> None:
        self._plans = {name: row.plan for name, row in OPERATIONS.items()} | dict(plans or {})
        self._clock = clock
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    def take(self, seller: str, operation: str) -> bool:
        """Take a seller's token for an operation, or tell that there is none."""
        bucket = self._buckets.get((seller, operation))
        if bucket is None:
            bucket = TokenBucket(self._plans[operation], self._clock)
            self._buckets[seller, operation] = bucket
        return bucket.take()

    def rate(self, operation: str) -> float:
        """The rate in force, in requests a second."""
        return self._plans[operation].rate

    def change(self, operation: str, plan: UsagePlan) -> None:
        """Another plan from now on; all its buckets begin anew, full."""
        self._plans[operation] = plan
        self._buckets = {key: kept for key, kept in self._buckets.items() if key[1] != operation}
