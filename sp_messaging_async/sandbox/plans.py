"""Amazon's side of a usage plan: a bucket that refills all the time and refuses when empty."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..operations import OPERATIONS, UsagePlan

__all__ = ["Plans", "TokenBucket"]


class TokenBucket:
    """Begins full. `clock` tells seconds; `used` is when a request came last."""

    def __init__(self, plan: UsagePlan, clock: Callable[[], float]) -> None:
        self.plan = plan
        self.refused = 0
        self._clock = clock
        self._tokens = plan.burst
        self._as_of = self.used = clock()

    def take(self) -> bool:
        """Take a token, or tell that there is none."""
        tokens, self.used = self.tokens(), self._as_of
        if tokens < 1:
            self.refused += 1
            return False
        self._tokens -= 1
        return True

    def tokens(self) -> float:
        """How many there are now."""
        now = self._clock()
        refilled = self._tokens + (now - self._as_of) * self.plan.rate
        self._tokens, self._as_of = min(self.plan.burst, refilled), now
        return self._tokens


class Plans:
    """A bucket for every seller and operation.

    plans: other plans than Amazon's defaults, by Amazon's name of the operation.

    Raises ValueError for a name that is no operation.
    """

    def __init__(self, plans: Mapping[str, UsagePlan] | None, clock: Callable[[], float]) -> None:
        for name in plans or ():
            _check_name(name)
        self._first = {name: row.plan for name, row in OPERATIONS.items()} | dict(plans or {})
        self._plans = dict(self._first)
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

    def in_force(self) -> Mapping[str, UsagePlan]:
        """The plan of each operation."""
        return dict(self._plans)

    def buckets(self) -> Mapping[tuple[str, str], TokenBucket]:
        """The buckets that were used, by seller and operation."""
        return dict(self._buckets)

    def reset(self) -> None:
        """The plans of the beginning; all buckets are full."""
        self._plans = dict(self._first)
        self._buckets.clear()

    def change(self, operation: str, plan: UsagePlan) -> None:
        """Another plan from now on; all its buckets begin anew, full.

        Raises ValueError for a name that is no operation.
        """
        _check_name(operation)
        self._plans[operation] = plan
        self._buckets = {key: kept for key, kept in self._buckets.items() if key[1] != operation}


def _check_name(operation: str) -> None:
    if operation not in OPERATIONS:
        raise ValueError(f"{operation!r} is no operation")
