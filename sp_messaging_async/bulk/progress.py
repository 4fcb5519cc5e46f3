"""How far a run is, counted against the usage plans."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

from attrs import Factory, define

from ..credentials import DEFAULT_ACCOUNT
from ..events import OutcomeStatus
from ..ledger import Lane
from ..operations import OPERATIONS, UPLOAD, by_request
from .messages import Outcome

__all__ = [
    "RateOf",
    "Tally",
    "rate_by_table",
    "seconds_by_plans",
]

RateOf: TypeAlias = Callable[[str, str], float]
"""Of an account and an operation: the requests a second that the usage plan allows now."""

_WINDOW = 10.0  # seconds over which a rate is measured,
_IN_WINDOW = 10  # or messages, where those take longer
_NAMED = 20  # messages that were not sent, named at the end


def rate_by_table(account: str, operation: str) -> float:
    """Amazon's default, the same for everyone."""
    return OPERATIONS[operation].plan.rate


def seconds_by_plans(
    lanes: Iterable[Lane],
    lookups: Sequence[str] = (),
    rate_of: RateOf = rate_by_table,
) -> dict[str, float]:
    """What the usage plans make all of it take, for each account; they go on side by side.

    lookups: operations that are called once for every message.
    """
    seconds: dict[str, float] = {}
    for lane in _lanes(lanes, lookups, rate_of):
        longest, _ = lane.seconds_left(lane.number)
        seconds[lane.account] = max(seconds.get(lane.account, 0.0), longest)
    return seconds


class Tally:
    """Counts outcomes.

    lookups: operations that are called once for every message.
    rate_of: asked again with every outcome of an account, for a rate is learned from answers.
    paused: the accounts that wait for Amazon to answer.
    limit: the most messages that will be taken up.
    clock: tells seconds.
    """

    def __init__(
        self,
        lanes: Iterable[Lane],
        *,
        lookups: Sequence[str] = (),
        rate_of: RateOf = rate_by_table,
        paused: Callable[[], Collection[str]] = tuple,
        limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._by_lane = {
            (lane.account, lane.operation): lane for lane in _lanes(lanes, lookups, rate_of)
        }
        self.lanes = list(self._by_lane.values())
        number = sum(lane.number for lane in self.lanes)
        self.total = number if limit is None else min(limit, number)
        self.done = 0
        self.by_operation: dict[str, Counter[str]] = {}
        self.named: list[Outcome] = []
        self.clock = clock
        self.began = clock()
        self._rate_of = rate_of
        self._paused = paused

    @property
    def left(self) -> int:
        """Messages without an outcome as yet."""
        return max(0, self.total - self.done)

    @property
    def paused(self) -> Collection[str]:
        """Accounts that have something left, and wait for Amazon to answer."""
        paused = self._paused()
        if not paused:
            return ()
        return {lane.account for lane in self.lanes if lane.account in paused and lane.left}

    def all_paused(self, paused: Collection[str]) -> bool:
        """Whether nothing goes on until Amazon answers."""
        return all(lane.account in paused for lane in self.lanes if lane.left)

    def count(self, outcome: Outcome) -> None:
        """Count one outcome."""
        operation = by_request(outcome.message.request).name
        self.by_operation.setdefault(operation, Counter())[outcome.status] += 1
        self.done += 1
        lane = self._lane(outcome.message.account or DEFAULT_ACCOUNT, operation)
        lane.count(outcome.status, self.clock(), self._rate_of)
        if outcome.status != "sent" and len(self.named) < _NAMED:
            self.named.append(outcome)

    def count_unsent(self) -> None:
        """Count what is left as planned; nothing more will come."""
        for lane in self.lanes:
            if lane.left:
                self.by_operation.setdefault(lane.operation, Counter())["planned"] += lane.left
                lane.left = 0
        self.done = self.total

    def number(self, status: OutcomeStatus | None = None) -> int:
        """Outcomes of a status, or all."""
        counters = self.by_operation.values()
        return sum(each.total() if status is None else each[status] for each in counters)

    def rates(self) -> tuple[float | None, float]:
        """Outcomes a second of late, None if it is too early to tell, and what the plans allow."""
        now = self.clock()
        at_work = [lane for lane in self.lanes if lane.left]
        reached = [rate for lane in at_work if (rate := lane.rate(now)) is not None]
        return sum(reached) if reached else None, sum(lane.plan.rate for lane in at_work)

    def seconds_left(self) -> float:
        """What the usage plans make the rest take."""
        return self.longest()[0]

    def longest(self) -> tuple[float, str]:
        """The seconds left, and what makes them, unless it is the plan of an operation itself."""
        left = self.left
        return max((lane.seconds_left(left) for lane in self.lanes), key=_first, default=(0.0, ""))

    def _lane(self, account: str, operation: str) -> LaneTally:
        lane = self._by_lane.get((account, operation))
        if lane is None:  # an outcome that nobody announced is counted, and nothing more of it
            (lane,) = _lanes([Lane(account, operation, 0)], (), self._rate_of)
            self._by_lane[account, operation] = lane
        return lane


@define(eq=False)
class LaneTally:
    """What became of one lane so far.

    plans: the usage plans it needs, and what for; its own operation's is the first.
    """

    account: str
    operation: str
    number: int = 0
    files: int = 0
    left: int = 0
    counts: Counter[str] = Factory(Counter)
    plans: list[tuple[str, _Plan]] = Factory(list)
    _pace: _Pace = Factory(lambda: _Pace())

    @property
    def plan(self) -> _Plan:
        """Its operation's."""
        return self.plans[0][1]

    @property
    def done(self) -> int:
        """Messages that have an outcome."""
        return self.number - self.left

    def count(self, status: OutcomeStatus, now: float, rate_of: RateOf) -> None:
        """Count one outcome."""
        self.counts[status] += 1
        if not self.left:
            return
        self.left -= 1
        for _, plan in self.plans:
            plan.rate = rate_of(self.account, plan.operation)
        own = self.plan
        if self.done >= own.burst:  # what a full bucket let go at once tells nothing of the rate
            self._pace.add(now, self.done, own.rate)

    def rate(self, now: float) -> float | None:
        """Outcomes a second of late; None if it is too early to tell."""
        return self._pace.rate(now, self.done, self.plan.rate)

    def seconds_left(self, most: int) -> tuple[float, str]:
        """What its plans make the rest take, and whose plan does, if it is not its own.

        most: messages that will be taken up at most.
        """
        left = min(self.left, most)
        if not left:
            return 0.0, ""
        if len(self.plans) == 1:
            return self.plan.seconds(left), ""
        # Of two that take as long, its own is told: that is the one on display.
        times = [(plan.seconds(left * plan.by_message(self)), why) for why, plan in self.plans]
        return max(times, key=_first)


@define(eq=False)
class _Plan:
    """One usage plan of an account, and the lanes that need it, which take turns.

    burst: what it lets go at once to begin with.
    """

    operation: str
    rate: float
    burst: float
    lanes: list[LaneTally] = Factory(list)

    def by_message(self, lane: LaneTally) -> float:
        """Requests for a message of the lane."""
        return lane.files / max(1, lane.number) if self.operation == UPLOAD.name else 1

    def seconds(self, wanted: float) -> float:
        """Until it has let go so many requests of one lane, and the other lanes' meanwhile."""
        requests = done = 0.0
        for lane in self.lanes:
            by_message = self.by_message(lane)
            requests += min(wanted, lane.left * by_message)
            done += lane.done * by_message
        return max(0.0, requests - max(0.0, self.burst - done)) / self.rate


class _Pace:
    """How fast outcomes come of late."""

    __slots__ = ("_last", "_marks")

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()  # (when, how many were done then)
        self._last = 0.0

    def add(self, now: float, done: int, plan: float) -> None:
        """Note that one more is done. plan: a second."""
        self._last = now
        window = _window(plan)
        if not self._marks or now - self._marks[-1][0] >= window / 20:
            self._forget(now - window)
            self._marks.append((now, done))

    def rate(self, now: float, done: int, plan: float) -> float | None:
        """Outcomes a second; None if it is too early to tell."""
        if not self._marks:
            return None
        self._forget(now - _window(plan))
        since, done_then = self._marks[0]
        # The next one is not late before the plan's time for it is over.
        span = max(self._last, now - 1 / plan) - since
        return (done - done_then) / span if span >= _WINDOW / 20 else None

    def _forget(self, before: float) -> None:
        while len(self._marks) > 1 and self._marks[0][0] < before:
            self._marks.popleft()


def _first(pair: tuple[float, str]) -> float:
    return pair[0]


def _window(plan: float) -> float:
    return max(_WINDOW, _IN_WINDOW / plan)


def _lanes(lanes: Iterable[Lane], lookups: Sequence[str], rate_of: RateOf) -> list[LaneTally]:
    """The lanes with their usage plans, of which those of one account share some."""
    found: dict[tuple[str, str], LaneTally] = {}
    for lane in lanes:
        one = found.setdefault(
            (lane.account, lane.operation), LaneTally(lane.account, lane.operation)
        )
        one.number += lane.number
        one.left += lane.number
        one.files += lane.files
    plans: dict[tuple[str, str], _Plan] = {}
    for one in found.values():
        for why, operation in _needs(one, lookups):
            key = (one.account, operation)
            if key not in plans:
                # A token of the burst is left unused, as by LocalThrottle.
                spare = max(1.0, OPERATIONS[operation].plan.burst - 1)
                plans[key] = _Plan(operation, rate_of(*key), spare)
            one.plans.append((why, plans[key]))
            plans[key].lanes.append(one)
    return list(found.values())


def _needs(lane: LaneTally, lookups: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield "", lane.operation
    for name in lookups:
        yield "look-ups", name
    if lane.files:
        yield "uploads", UPLOAD.name
