"""The time of exchanges: each has its seconds, and one timer serves all of them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sp_messaging_async.transport import InFlight

from .conftest import run_virtually

SECONDS = 30.0


_began: ContextVar[float] = ContextVar("began")


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on a virtual clock that says 0 at the beginning."""

    async def from_now() -> None:
        _began.set(asyncio.get_running_loop().time())
        await main

    run_virtually(from_now())


def now() -> float:
    return asyncio.get_running_loop().time() - _began.get()


cancelled: set[asyncio.Task[Any]] = set()
"""Tasks that somebody else has cancelled."""


async def within(in_flight: InFlight, work: Awaitable[object]) -> str:
    """How work ends that is made as an exchange is; its task is as it was before."""
    limit = in_flight.begin(asyncio.get_running_loop())
    try:
        await work
    except asyncio.CancelledError as error:
        if limit.has_raised(error):
            return f"ran out at {now():.3f}"
        raise
    finally:
        in_flight.end(limit)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == (1 if task in cancelled else 0)
    return f"ended at {now():.3f}"


@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=12, unique=True
    )
)
@settings(deadline=None, max_examples=50)
def test_each_has_its_seconds(plans: list[tuple[int, int]]) -> None:
    """Whatever others do, an exchange runs out 30 s after it began, or ends when it is done."""

    async def one(in_flight: InFlight, begins: float, lasts: float) -> tuple[str, str]:
        await asyncio.sleep(begins)
        began = now()
        # Half a second beside the limit, so that neither comes first by chance.
        lasts = lasts + 0.5
        told = await within(in_flight, asyncio.sleep(lasts))
        ends = began + min(lasts, SECONDS)
        return told, f"{'ended' if lasts < SECONDS else 'ran out'} at {ends:.3f}"

    async def main() -> None:
        in_flight = InFlight(SECONDS)
        for told, expected in await asyncio.gather(*(one(in_flight, *plan) for plan in plans)):
            assert told == expected
        assert len(in_flight) == 0

    run(main())


def test_a_task_that_ran_out_goes_on() -> None:
    """After it ran out, the task is as one that nobody has cancelled: it can wait and time out."""

    async def main() -> None:
        in_flight = InFlight(1)
        assert await within(in_flight, asyncio.Event().wait()) == "ran out at 1.000"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.Event().wait()
        assert await within(in_flight, asyncio.sleep(0.5)) == "ended at 2.500"

    run(main())


def test_a_cancellation_is_not_taken_for_the_limit() -> None:
    """A task that somebody cancels stays cancelled, be it when its time is over."""

    async def cancelled_at(moment: float) -> bool:
        in_flight = InFlight(1)
        task = asyncio.create_task(within(in_flight, asyncio.Event().wait()))
        cancelled.add(task)
        asyncio.get_running_loop().call_later(moment, task.cancel)
        await asyncio.wait((task,))
        return task.cancelled()

    async def main() -> None:
        # A timer that was set later for the same moment comes later in the same turn of the loop.
        assert await cancelled_at(0.5)
        assert await cancelled_at(1.0)

    run(main())


def test_a_limit_that_is_swallowed_leaves_no_trace() -> None:
    """Code within the exchange that swallows the cancellation does not leave the task cancelled."""

    async def swallow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(1)

    async def main() -> None:
        assert await within(InFlight(1), swallow()) == "ended at 2.000"
        async with asyncio.timeout(1):
            await asyncio.sleep(0.5)

    run(main())


def test_one_within_another() -> None:
    """An exchange that is made within another, in one task, ends it not: each has its own time."""

    async def main() -> None:
        in_flight = InFlight(10)

        async def outer() -> None:
            await asyncio.sleep(4)
            assert await within(in_flight, asyncio.sleep(1)) == "ended at 5.000"
            await asyncio.Event().wait()

        assert await within(in_flight, outer()) == "ran out at 10.000"

    run(main())


def test_all_are_cut_off() -> None:
    """Cutting off ends all at once, and drain returns when the last one has ended."""

    async def main() -> None:
        in_flight = InFlight(SECONDS)
        tasks = [asyncio.create_task(within(in_flight, asyncio.Event().wait())) for _ in range(3)]
        await asyncio.sleep(1)
        assert len(in_flight) == 3
        in_flight.cut_off()
        await in_flight.drain()
        assert [await task for task in tasks] == ["ran out at 1.000"] * 3

    run(main())


def test_several_wait_until_all_have_ended() -> None:
    """Whoever waits for the end of all goes on then, though another gave up waiting before."""

    async def main() -> None:
        in_flight = InFlight(SECONDS)
        work = asyncio.create_task(within(in_flight, asyncio.sleep(5)))
        await asyncio.sleep(0)
        first, second, third = (asyncio.create_task(in_flight.drain()) for _ in range(3))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.wait_for(asyncio.gather(second, third, work), 10)
        assert now() == 5
        await in_flight.drain()

    run(main())


def test_nothing_is_held_once_it_is_closed() -> None:
    """The event loop holds no timer of one that was closed."""

    async def main() -> None:
        in_flight = InFlight(SECONDS)
        await within(in_flight, asyncio.sleep(1))
        in_flight.close()
        gone = weakref.ref(in_flight)
        del in_flight
        gc.collect()
        await asyncio.sleep(0)  # a cancelled timer is dropped when the loop goes round
        assert gone() is None

    run(main())
