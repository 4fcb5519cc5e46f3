"""Usage plans: a token bucket for every (seller, endpoint, operation), first come, first served.

Source: "Usage Plans and Rate Limits in the SP-API", and Amazon's rate header. The leak of a bucket
is aiolimiter's; who stands in which order is decided here, because a waiter that AsyncLimiter
wakes may lose its place to a newcomer.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from aiolimiter import AsyncLimiter
from attrs import field, frozen

from .errors import ConfigurationError
from .operations import OPERATIONS, UsagePlan

__all__ = ["LOWEST_RATE", "Limiter", "LocalThrottle", "PlanKey", "Queue", "Throttle", "wake"]

LOWEST_RATE = 0.01
"""Requests a second; a header that tells less is a mistake, not a plan."""

_SHORTEST_SLEEP = 1e-6  # seconds; less could be lost in a clock's rounding, and never end


@frozen(cache_hash=True)
class PlanKey:
    """Whose usage plan, and which: a pair of application and seller, per host and operation.

    seller: client id and a digest of the refresh token.
    operation: Amazon's name.
    """

    api_url: str
    seller: str = field(repr=False)
    operation: str


class Throttle(Protocol):
    """What lets a call go. An object of it may be shared by any number of sessions.

    One that is a `Queue` too serves `MessagingSession.waiting`.
    """

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        """Return when the plan allows one request. `again` goes before all first attempts."""

    def throttled(self, key: PlanKey) -> None:
        """Amazon answered 429: no token is left. Returns at once."""

    def learned(self, key: PlanKey, rate: float) -> None:
        """Amazon told the rate in force, in requests a second. Returns at once."""


@runtime_checkable
class Queue(Protocol):
    """What a throttle may do beside: tell who waits."""

    def waiting(self, key: PlanKey) -> int:
        """How many calls of this process wait for a plan now."""
        ...


class LocalThrottle:
    """Keeps to the usage plans within one event loop; the first one it is used in.

    plans: a `UsagePlan` for any of Amazon's operation names, as a ceiling: a rate that Amazon
        tells is followed below it and not above. The others begin at Amazon's default and follow
        whatever rate Amazon tells.
    headroom: tokens of the burst left unused. A request arrives later, or closer to the next,
        than it was released; with one token of headroom that does not overrun Amazon's bucket.

    Raises ConfigurationError for a name that is no operation, or a headroom below 0.
    """

    def __init__(self, plans: Mapping[str, UsagePlan] | None = None, headroom: float = 1) -> None:
        self._ceilings = dict(plans or {})
        unknown = sorted(self._ceilings.keys() - OPERATIONS.keys())
        if unknown:
            known = ", ".join(OPERATIONS)
            raise ConfigurationError(f"plans: {unknown[0]!r} is no operation; there are {known}")
        if not 0 <= headroom < math.inf:
            raise ConfigurationError(f"headroom {headroom!r} must be 0 or more tokens")
        self._headroom = headroom
        self._buckets: dict[PlanKey, _Bucket] = {}
        self._sweep_at = 64
        self._loop: asyncio.AbstractEventLoop | None = None

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        """Return when the plan allows one request; first attempts go in the order of their call.

        A cancelled caller leaves the queue without having taken a token.
        """
        await self._bucket(key, asyncio.get_running_loop()).acquire(again=again)

    def acquire_now(self, key: PlanKey, loop: asyncio.AbstractEventLoop) -> bool:
        """Let a request go if nobody waits and the plan allows it at once; else do nothing.

        loop: the one that runs.
        """
        bucket = self._buckets.get(key) if loop is self._loop else None
        return (bucket or self._bucket(key, loop)).acquire_now()

    def throttled(self, key: PlanKey) -> None:
        """Empty the bucket, as Amazon's is empty."""
        self._bucket(key, asyncio.get_running_loop()).drain()

    def learned(self, key: PlanKey, rate: float) -> None:
        """Follow a rate that Amazon told; one that makes no sense is ignored."""
        if not math.isfinite(rate) or rate < LOWEST_RATE:
            return
        ceiling = self._ceilings.get(key.operation)
        bucket = self._bucket(key, asyncio.get_running_loop())
        bucket.change_rate(min(rate, ceiling.rate) if ceiling else rate)

    def rate(self, key: PlanKey) -> float:
        """Requests a second that a plan allows now, as far as Amazon has told."""
        bucket = self._buckets.get(key)
        return bucket.rate if bucket else self._plan(key).rate

    def waiting(self, key: PlanKey) -> int:
        """How many calls stand in the queue of a plan now."""
        bucket = self._buckets.get(key)
        return bucket.waiting if bucket else 0

    def _bucket(self, key: PlanKey, loop: asyncio.AbstractEventLoop) -> _Bucket:
        if self._loop is not loop:
            self._move_to(loop)
        bucket = self._buckets.get(key)
        if bucket is None:
            self._sweep()
            plan = self._plan(key)
            capacity = max(1.0, plan.burst - self._headroom)
            bucket = self._buckets[key] = _Bucket(loop, capacity, plan.rate)
        return bucket

    def _plan(self, key: PlanKey) -> UsagePlan:
        return self._ceilings.get(key.operation) or OPERATIONS[key.operation].plan

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError("this LocalThrottle belongs to another event loop that still runs")
        self._loop = loop
        self._buckets.clear()

    def _sweep(self) -> None:
        # A bucket outlives its sessions until it is full again; then a new one is no different.
        # Sweeping when the number has doubled costs each new bucket a constant share.
        if len(self._buckets) < self._sweep_at:
            return
        self._buckets = {key: kept for key, kept in self._buckets.items() if not kept.is_idle()}
        self._sweep_at = max(64, 2 * len(self._buckets))


class _Bucket:
    """One plan's tokens, and the queue before them.

    Only the head of the queue watches the tokens; the others sleep until they are the head. The
    queues are ordered dicts because leaving from anywhere must cost the same: in a plain dict,
    finding the first key walks over every one removed before it.
    """

    __slots__ = ("_again", "_first", "_limiter", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, capacity: float, rate: float) -> None:
        self._loop = loop
        self._limiter = Limiter(capacity, capacity / rate)
        self._again: OrderedDict[object, asyncio.Future[None] | None] = OrderedDict()
        self._first: OrderedDict[object, asyncio.Future[None] | None] = OrderedDict()

    @property
    def waiting(self) -> int:
        return len(self._again) + len(self._first)

    @property
    def rate(self) -> float:
        return self._limiter.rate

    def is_idle(self) -> bool:
        return not self.waiting and self._limiter.has_capacity(self._limiter.max_rate)

    def acquire_now(self) -> bool:
        return not self._again and not self._first and self._limiter.take()

    async def acquire(self, *, again: bool) -> None:
        if self.acquire_now():
            return
        await self._queue(self._again if again else self._first)

    async def _queue(self, queue: OrderedDict[object, asyncio.Future[None] | None]) -> None:
        me = object()
        queue[me] = None
        try:
            while self._head() is not me or not self._limiter.take():
                await self._sleep(queue, me)
        finally:
            was_head = self._head() is me
            del queue[me]
            if was_head:
                self._wake_head()

    async def _sleep(
        self, queue: OrderedDict[object, asyncio.Future[None] | None], me: object
    ) -> None:
        """Until the next token is due, for the head; until woken, for everyone."""
        woken: asyncio.Future[None] = self._loop.create_future()
        queue[me] = woken
        timer = None
        if self._head() is me:
            delay = max(self._limiter.seconds_to_next(), _SHORTEST_SLEEP)
            timer = self._loop.call_later(delay, wake, woken)
        try:
            await woken
        finally:
            if timer is not None:
                timer.cancel()

    def drain(self) -> None:
        self._limiter.drain()
        self._wake_head()

    def change_rate(self, rate: float) -> None:
        if not math.isclose(rate, self._limiter.rate):
            self._limiter = self._limiter.at_rate(rate)
            self._wake_head()

    def _head(self) -> object:
        return next(iter(self._again or self._first), None)

    def _wake_head(self) -> None:
        queue = self._again or self._first
        if queue:
            woken = next(iter(queue.values()))
            if woken is not None:
                wake(woken)


def wake(woken: asyncio.Future[None]) -> None:
    """Let whoever waits go on, unless that was done before."""
    if not woken.done():
        woken.set_result(None)


class Limiter(AsyncLimiter):
    """An AsyncLimiter that can be emptied, and tells when its next token is due."""

    __slots__ = ()

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.max_rate / self.time_period

    def take(self) -> bool:
        """Take a token, if there is one."""
        self._leak()
        if self._level + 1 > self.max_rate:
            return False
        self._level += 1
        return True

    def seconds_to_next(self) -> float:
        """Until there is a token; 0 or less if there is one."""
        self._leak()
        return (self._level + 1 - self.max_rate) / self.rate

    def drain(self) -> None:
        """Leave no token."""
        self._leak()
        self._level = self.max_rate

    def at_rate(self, rate: float) -> Limiter:
        """A limiter of another rate with the tokens of this one: a swap is no new burst."""
        self._leak()
        other = Limiter(self.max_rate, self.max_rate / rate)
        other._leak()
        other._level = self._level
        return other
