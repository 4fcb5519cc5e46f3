"""Sends over time against the usage plan, drawn as SVG that needs nothing else.

Sends are counted in buckets of one width, which doubles as often as it must, so that memory stays
flat however many there are. A silence ends a span: a list that was resumed the next day is two
pictures, and not one with a needle at each end.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate, pairwise

from attrs import define, field, frozen

from ..operations import OPERATIONS

__all__ = ["Chart", "Span", "Timeline", "draw"]

SILENCE = 900.0  # seconds without a send, after which a new span begins

_MOST_BUCKETS = 16_384
_MOST_BARS = 100
_SHORTEST = 10.0  # seconds that an axis shows at least


@define
class _Shift:
    """A lane's work between two silences, in seconds since 1970."""

    first: float
    last: float


@frozen
class Span:
    """The time between two silences. Times are seconds since 1970.

    seconds: of one bar.
    sends: messages sent during each bar.
    plan: messages a second that the usage plans of the lanes then active allow, for each bar.
    """

    first: float
    end: float
    seconds: float
    sends: Sequence[int]
    plan: Sequence[float]

    def lengths(self) -> list[float]:
        """Of the bars, in seconds; the last may be a shorter one."""
        starts = [self.first + number * self.seconds for number in range(len(self.sends))]
        return [min(self.seconds, self.end - start) for start in starts]

    def rates(self) -> list[float]:
        """Messages a second, for each bar."""
        return [sends / length for sends, length in zip(self.sends, self.lengths(), strict=True)]


class Timeline:
    """When messages were sent, and which lanes were active. Grows with lanes, not with messages."""

    def __init__(self, most_buckets: int = _MOST_BUCKETS) -> None:
        self.width = 1  # of a bucket, in seconds
        self._most_buckets = most_buckets
        self._sends: Counter[int] = Counter()
        self._lanes: dict[tuple[str, str], list[_Shift]] = {}

    def add(self, account: str, operation: str, sent_at: datetime) -> None:
        """Count a message. They may come in any order."""
        at = sent_at.timestamp()
        self._sends[int(at // self.width)] += 1
        while len(self._sends) > self._most_buckets:
            self._double()
        _work(self._lanes.setdefault((account, operation), []), at)

    def spans(self, last: int) -> tuple[list[Span], int]:
        """The last spans, oldest first, and how many were before them."""
        found = list(self._between_silences())
        return [self._span(*ends) for ends in found[-last:]], max(0, len(found) - last)

    def _double(self) -> None:
        self.width *= 2
        doubled: Counter[int] = Counter()
        for place, sends in self._sends.items():
            doubled[place // 2] += sends
        self._sends = doubled

    def _between_silences(self) -> Iterator[tuple[int, int]]:
        """The first and the last bucket of each span."""
        places = sorted(self._sends)
        if not places:
            return
        silence = max(SILENCE, 2 * self.width)
        first = places[0]
        for before, after in pairwise(places):
            if (after - before - 1) * self.width > silence:
                yield first, before
                first = after
        yield first, places[-1]

    def _span(self, first: int, last: int) -> Span:
        buckets = last - first + 1
        a_bar = math.ceil(buckets / _MOST_BARS)
        sends = [0] * math.ceil(buckets / a_bar)
        for place in range(first, last + 1):
            sends[(place - first) // a_bar] += self._sends.get(place, 0)
        start, seconds = first * self.width, a_bar * self.width
        plan = self._plan(start, seconds, len(sends))
        return Span(start, (last + 1) * self.width, seconds, sends, plan)

    def _plan(self, start: float, seconds: float, bars: int) -> list[float]:
        """What the plans allow: a lane counts in each bar that it was active in."""
        steps = [0.0] * (bars + 1)
        for (_, operation), shifts in self._lanes.items():
            rate = OPERATIONS[operation].plan.rate
            for shift in shifts:
                begins = math.floor((shift.first - start) / seconds)
                ends = math.floor((shift.last - start) / seconds)
                if ends >= 0 and begins < bars:
                    steps[max(begins, 0)] += rate
                    steps[min(ends + 1, bars)] -= rate
        return list(accumulate(steps[:-1]))


def _work(shifts: list[_Shift], at: float) -> None:
    """Note that a lane was at work: in a shift it has, or in a new one. They stay in order."""
    place = bisect_right(shifts, at, key=lambda shift: shift.first)
    if place and at <= shifts[place - 1].last + SILENCE:
        shifts[place - 1].last = max(shifts[place - 1].last, at)
    else:
        shifts.insert(place, _Shift(at, at))
        place += 1
    if place < len(shifts) and shifts[place].first <= shifts[place - 1].last + SILENCE:
        shifts[place - 1].last = shifts.pop(place).last


# Drawing. The plot is 1,000 by 100 units, stretched to the page's width; labels are not, and stand
# at percentages.


@frozen
class Tick:
    """A label of an axis, and where it stands.

    place: in percent, from the left or from the top.
    """

    place: float
    label: str
    anchor: str = "end"


@frozen
class Bar:
    """What was sent during a moment, drawn and in words."""

    x: float
    y: float
    width: float
    height: float
    time: str
    sends: int
    rate: str
    plan: str


@frozen
class Chart:
    """All that a page needs to draw a span."""

    title: str
    summary: str
    bar: str
    bars: Sequence[Bar]
    plan: str = field(repr=False)
    times: Sequence[Tick]
    rates: Sequence[Tick]


def draw(span: Span) -> Chart:
    """The picture of a span."""
    end = max(span.end, span.first + _SHORTEST)
    top = _round_above(max([*span.rates(), *span.plan]))
    return Chart(
        title=_title(span),
        summary=_summary(span),
        bar=_duration(span.seconds),
        bars=list(_bars(span, end, top)),
        plan=_steps(span, end, top),
        times=list(_times(span.first, end)),
        rates=[Tick(100 - 50 * half, f"{top * half / 2:g}") for half in range(3)],
    )


def _title(span: Span) -> str:
    first, end = _utc(span.first), _utc(span.end)
    until = f"{end:%H:%M:%S}" if first.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S}"
    return f"{first:%Y-%m-%d %H:%M:%S} to {until} UTC"


def _summary(span: Span) -> str:
    sends, seconds = sum(span.sends), span.end - span.first
    return (
        f"{sends:,} sent in {_duration(seconds)}: {sends / seconds:.2f} a second on average; "
        f"the default plan allows up to {max(span.plan):g} a second."
    )


def _bars(span: Span, end: float, top: float) -> Iterator[Bar]:
    scale = 1000 / (end - span.first)
    values = zip(span.sends, span.rates(), span.plan, span.lengths(), strict=True)
    for number, (sends, rate, plan, length) in enumerate(values):
        start = span.first + number * span.seconds
        height = 100 * rate / top
        yield Bar(
            x=round(scale * number * span.seconds, 2),
            y=round(100 - height, 2),
            width=round(scale * length, 2),
            height=round(height, 2),
            time=f"{_utc(start):%Y-%m-%d %H:%M:%S}",
            sends=sends,
            rate=f"{rate:.2f}",
            plan=f"{plan:g}",
        )


def _steps(span: Span, end: float, top: float) -> str:
    """The path of the plan's line."""
    scale = 1000 / (end - span.first)
    parts: list[str] = []
    for number, (plan, length) in enumerate(zip(span.plan, span.lengths(), strict=True)):
        x = scale * number * span.seconds
        y = 100 - 100 * plan / top
        parts.append(f"{'L' if parts else 'M'}{x:.2f} {y:.2f}H{x + scale * length:.2f}")
    return "".join(parts)


_DAY = 86_400
_TICK_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600)


def _times(first: float, end: float) -> Iterator[Tick]:
    """Labels at round times, few enough for a narrow screen."""
    length = end - first
    most = 4 if length < _DAY else 3
    days = _DAY * math.ceil(length / most / _DAY)
    step = next((step for step in (*_TICK_SECONDS, _DAY // 2) if length / step <= most), days)
    form = "%H:%M:%S" if step < 60 else "%H:%M" if length < _DAY else "%m-%d %H:%M"
    at = math.ceil(first / step) * step
    while at <= end:
        place = 100 * (at - first) / length
        anchor = "start" if place < 8 else "end" if place > 92 else "middle"
        yield Tick(round(place, 2), f"{_utc(at):{form}}", anchor)
        at += step


def _round_above(value: float) -> float:
    """The next number that has a readable half."""
    magnitude = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(
        factor * magnitude for factor in (1, 2, 3, 4, 6, 8, 10) if factor * magnitude >= value
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2]) or "0 s"


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
