"""Usage plans: order, tokens, rates; on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import random
import statistics
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sp_messaging_async import ConfigurationError, LocalThrottle, PlanKey, UsagePlan
from sp_messaging_async.operations import OPERATIONS
from sp_messaging_async.sandbox.plans import TokenBucket

from .conftest import run_virtually

KEY = PlanKey("http://here", "seller", "createWarranty")
SLOW = {"createWarranty": UsagePlan(rate=1, burst=5)}


def now() -> float:
    return asyncio.get_running_loop().time()


async def released(throttle: LocalThrottle, count: int, key: PlanKey = KEY) -> list[float]:
    """When each of so many calls, made at once, is let go, in seconds from now."""
    began = now()
    times: list[float] = []

    async def call() -> None:
        await throttle.acquire(key)
        times.append(now() - began)

    await asyncio.gather(*(call() for _ in range(count)))
    return times


def test_burst_less_headroom_then_the_rate() -> None:
    """Four calls go at once from a bucket of five, and then one a second."""
    times = run_virtually(released(LocalThrottle(), 7))
    assert times == pytest.approx([0, 0, 0, 0, 1, 2, 3], abs=0.01)


def test_headroom_never_leaves_less_than_one() -> None:
    """A burst of one with headroom one still lets a call go."""
    throttle = LocalThrottle({"createWarranty": UsagePlan(rate=2, burst=1)}, headroom=1)
    assert run_virtually(released(throttle, 3)) == pytest.approx([0, 0.5, 1.0], abs=0.01)


def test_plans_do_not_wait_for_each_other() -> None:
    """Another seller, host or operation has a bucket of its own."""

    async def main() -> list[float]:
        throttle = LocalThrottle()
        await released(throttle, 4)
        others = [
            PlanKey("http://there", "seller", "createWarranty"),
            PlanKey("http://here", "other", "createWarranty"),
            PlanKey("http://here", "seller", "sendInvoice"),
        ]
        began = now()
        for key in others:
            await released(throttle, 4, key)
        return [now() - began]

    assert run_virtually(main()) == [0]


def test_unknown_operation_is_refused() -> None:
    """A plan for a name that is no operation names it."""
    with pytest.raises(ConfigurationError, match="createWaranty"):
        LocalThrottle({"createWaranty": UsagePlan(1, 5)})


@pytest.mark.parametrize("headroom", [-1, math.nan, math.inf])
def test_headroom_must_be_a_number_of_tokens(headroom: float) -> None:
    """A negative, infinite or undefined headroom is refused."""
    with pytest.raises(ConfigurationError, match="headroom"):
        LocalThrottle(headroom=headroom)


@pytest.mark.parametrize(
    ("rate", "burst"),
    [(0, 5), (-1, 5), (1, 0.5), (math.inf, 5), (1, math.nan), (True, 5), ("1", 5)],
)
def test_usage_plans_make_sense(rate: float, burst: float) -> None:
    """A plan that no bucket can keep is refused when it is made."""
    with pytest.raises(ConfigurationError, match="UsagePlan"):
        UsagePlan(rate, burst)


def test_429_empties_the_bucket_and_the_repeated_call_goes_first() -> None:
    """After a 429 nothing goes for a second, and then the call that was refused."""

    async def main() -> list[tuple[str, float]]:
        throttle = LocalThrottle()
        began = now()
        order: list[tuple[str, float]] = []

        async def call(name: str, again: bool) -> None:
            await throttle.acquire(KEY, again=again)
            order.append((name, round(now() - began, 3)))

        throttle.throttled(KEY)
        first = [asyncio.create_task(call(f"first {n}", False)) for n in range(2)]
        await asyncio.sleep(0.5)
        again = [asyncio.create_task(call(f"again {n}", True)) for n in range(2)]
        await asyncio.gather(*first, *again)
        return order

    assert run_virtually(main()) == [
        ("again 0", 1.0),
        ("again 1", 2.0),
        ("first 0", 3.0),
        ("first 1", 4.0),
    ]


def test_a_rate_that_amazon_tells_reaches_those_who_wait() -> None:
    """The head of the queue does not sit out its wait at the old rate."""

    async def main() -> float:
        throttle = LocalThrottle({"createWarranty": UsagePlan(rate=100, burst=2)})
        throttle.learned(KEY, 0.1)
        await throttle.acquire(KEY)
        began = now()
        waiting = asyncio.create_task(throttle.acquire(KEY))
        await asyncio.sleep(0.2)
        throttle.learned(KEY, 10)
        await waiting
        return now() - began

    assert run_virtually(main()) == pytest.approx(0.3, abs=0.01)


def test_a_change_of_rate_is_no_new_burst() -> None:
    """An empty bucket stays empty at another rate, and a full one keeps what it has."""

    async def main() -> tuple[list[float], list[float]]:
        throttle = LocalThrottle()
        await released(throttle, 4)
        throttle.learned(KEY, 2)
        empty = await released(throttle, 3)
        await asyncio.sleep(100)
        throttle.learned(KEY, 1)
        return empty, await released(throttle, 5)

    empty, full = run_virtually(main())
    assert empty == pytest.approx([0.5, 1.0, 1.5], abs=0.01)
    assert full == pytest.approx([0, 0, 0, 0, 1], abs=0.01)


@pytest.mark.parametrize("rate", [0, -1, math.inf, -math.inf, math.nan, 1e-9, 0.0001])
def test_rates_that_make_no_sense_are_ignored(rate: float) -> None:
    """A header that is not finite, not positive or absurdly low changes nothing."""

    async def main() -> list[float]:
        throttle = LocalThrottle()
        throttle.learned(KEY, rate)
        return await released(throttle, 6)

    assert run_virtually(main()) == pytest.approx([0, 0, 0, 0, 1, 2], abs=0.01)


def test_a_plan_of_the_users_is_a_ceiling() -> None:
    """Amazon's rate is followed below the user's plan, and not above it."""

    async def main() -> tuple[list[float], list[float]]:
        throttle = LocalThrottle({"createWarranty": UsagePlan(rate=2, burst=2)})
        await released(throttle, 1)
        throttle.learned(KEY, 50)
        above = await released(throttle, 2)
        throttle.learned(KEY, 0.5)
        return above, await released(throttle, 2)

    above, below = run_virtually(main())
    assert above == pytest.approx([0.5, 1.0], abs=0.01)
    assert below == pytest.approx([2.0, 4.0], abs=0.01)


def test_a_bucket_outlives_its_use_until_it_is_full() -> None:
    """However many sellers come and go, an emptied bucket is kept and full ones are forgotten."""

    async def main() -> tuple[int, list[float]]:
        throttle = LocalThrottle()
        for number in range(5000):
            if number % 100 == 0:
                await asyncio.sleep(10)
            await throttle.acquire(PlanKey("http://here", f"seller {number}", "sendInvoice"))
        await released(throttle, 4)
        for number in range(5000):
            await throttle.acquire(PlanKey("http://here", f"other {number}", "sendInvoice"))
            if number % 1000 == 0:
                throttle._sweep_at = 0  # let every arrival sweep
        return len(throttle._buckets), await released(throttle, 1)

    kept, times = run_virtually(main())
    assert kept < 6000
    assert times == pytest.approx([1], abs=0.01)


def test_one_throttle_in_two_loops_one_after_the_other() -> None:
    """Two `asyncio.run` in a row may use the same throttle; two at once may not."""
    throttle = LocalThrottle()
    assert len(asyncio.run(released(throttle, 4))) == 4
    assert len(asyncio.run(released(throttle, 4))) == 4

    async def main() -> None:
        await throttle.acquire(KEY)
        other = asyncio.new_event_loop()
        try:
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(other.run_until_complete, throttle.acquire(KEY))
        finally:
            other.close()

    asyncio.run(main())


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 60),
    events=st.lists(
        st.tuples(
            st.floats(0, 30),
            st.one_of(
                st.tuples(st.just("cancel"), st.integers(0, 59)),
                st.tuples(st.just("429"), st.none()),
                st.tuples(st.just("rate"), st.sampled_from([0.5, 1.0, 2.0, 10.0])),
            ),
        ),
        max_size=30,
    ),
    timeouts=st.lists(st.one_of(st.none(), st.floats(0, 20)), min_size=60, max_size=60),
)
@settings(deadline=None)
def test_first_come_first_served_and_no_token_lost(
    seed: int, count: int, events: list, timeouts: list[float | None]
) -> None:
    """Under cancellation, timeouts, 429s and new rates: order kept, no token lost or invented."""

    async def main() -> None:
        throttle = LocalThrottle()
        grants: list[tuple[int, float]] = []
        rates = [(now(), 1.0)]
        drained = [now()]

        async def call(number: int) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeouts[number]):
                    await throttle.acquire(KEY)
                    grants.append((number, now()))

        tasks = [asyncio.create_task(call(number)) for number in range(count)]
        began = now()
        for at, (kind, value) in sorted(events, key=lambda event: event[0]):
            await asyncio.sleep(max(0.0, began + at - now()))
            if kind == "cancel" and value < count:
                tasks[value].cancel()
            elif kind == "429":
                throttle.throttled(KEY)
                drained.append(now())
            elif kind == "rate":
                throttle.learned(KEY, value)
                rates.append((now(), value))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [number for number, _ in grants] == sorted(number for number, _ in grants)
        assert throttle.waiting(KEY) == 0
        _check_never_more_than_the_plan([at for _, at in grants], rates)
        # Nothing was lost: at most a full bucket later, a full burst can be had again.
        await asyncio.sleep(4 / rates[-1][1] + 0.01)
        assert await released(throttle, 4) == pytest.approx([0, 0, 0, 0], abs=1e-3)

    run_virtually(main())


def _check_never_more_than_the_plan(times: list[float], rates: list[tuple[float, float]]) -> None:
    """No window holds more grants than a bucket of four and what the rates refilled in it."""
    for start in range(len(times)):
        for end in range(start, len(times)):
            refill = _integral(rates, times[start], times[end])
            assert end - start + 1 <= 4 + refill + 1e-3


def _integral(rates: list[tuple[float, float]], start: float, end: float) -> float:
    total = 0.0
    for index, (since, rate) in enumerate(rates):
        until = rates[index + 1][0] if index + 1 < len(rates) else math.inf
        total += rate * max(0.0, min(end, until) - max(start, since))
    return total


@pytest.mark.parametrize("seed", range(5))
def test_thirty_sends_over_a_cold_and_jittery_connection(seed: int) -> None:
    """Against 5 at 1/s: no 429, in order, the last at most 1.05 s after the ideal 25 s."""

    async def main() -> tuple[list[bool], list[int], float]:
        chance = random.Random(seed)
        throttle, server = LocalThrottle(), TokenBucket(UsagePlan(rate=1, burst=5), now)
        accepted: list[bool] = []
        order: list[int] = []
        began = now()
        last = began

        async def send(number: int) -> None:
            nonlocal last
            await throttle.acquire(KEY)
            order.append(number)
            last = now()
            handshake = 0.3 if number < 4 else 0.0  # the burst opens the connections
            await asyncio.sleep(handshake + chance.uniform(0, 0.2))
            accepted.append(server.take())

        await asyncio.gather(*(send(number) for number in range(30)))
        return accepted, order, last - began

    accepted, order, last = run_virtually(main())
    assert all(accepted)
    assert len(accepted) == 30
    assert order == list(range(30))
    assert last <= 25 + 1.05


async def _seconds_to_cancel(tasks: list[asyncio.Task[None]], seed: int) -> float:
    await asyncio.sleep(0)
    random.Random(seed).shuffle(tasks)
    gc.disable()  # a collection of all that other tests have left costs more than what is measured
    try:
        began = time.process_time()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return time.process_time() - began
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "count", [5_000, pytest.param(100_000, marks=pytest.mark.long)], ids="{:,}".format
)
def test_leaving_the_queue_costs_the_same_from_anywhere(count: int) -> None:
    """Cancelling waiters in random order takes at most three times what cancelling sleeps takes."""

    async def main() -> list[float]:
        ratios = []
        for seed in range(5):
            throttle = LocalThrottle()
            throttle.throttled(KEY)
            waiters = [asyncio.create_task(throttle.acquire(KEY)) for _ in range(count)]
            sleeps = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(count)]
            ratios.append(
                await _seconds_to_cancel(waiters, seed) / await _seconds_to_cancel(sleeps, seed)
            )
        return ratios

    assert statistics.median(asyncio.run(main())) <= 3


def test_every_operation_has_a_plan() -> None:
    """Each row of the table can be acquired without a plan of the user's."""

    async def main() -> None:
        throttle = LocalThrottle()
        for name in OPERATIONS:
            await throttle.acquire(PlanKey("http://here", "seller", name))

    run_virtually(main())
