"""How far a run is, counted against the usage plans, and how it is shown while it goes on."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ..credentials import DEFAULT_ACCOUNT
from ..ledger import Lane
from ..operations import OPERATIONS, by_request
from .messages import Outcome, OutcomeStatus

__all__ = ["Tally", "Watch", "closing_table", "duration", "seconds_by_plan"]

_WINDOW = 10.0  # seconds over which the rate is measured
_REFRESH = 0.1  # seconds between changes of the bar
_LINE_EVERY = 5.0  # seconds between lines where there is no terminal
_NAMED = 20  # messages that were not sent, named at the end

STATUSES: tuple[OutcomeStatus, ...] = ("sent", "skipped", "rejected", "unknown", "planned")
_STYLES = {"sent": "green", "unknown": "bold red", "rejected": "red"}


def seconds_by_plan(operation: str, number: int) -> float:
    """What a usage plan makes so many requests take, its burst being unspent."""
    plan = OPERATIONS[operation].plan
    return max(0.0, (number - plan.burst) / plan.rate)


class Tally:
    """Counts outcomes. `clock` tells seconds."""

    def __init__(self, lanes: Iterable[Lane], clock: Callable[[], float] = time.monotonic) -> None:
        self._left = Counter({(lane.account, lane.operation): lane.number for lane in lanes})
        self.total = self._left.total()
        self.by_operation: dict[str, Counter[str]] = {}
        self.named: list[Outcome] = []
        self._clock = clock
        self._began = clock()
        self._plan_rate = sum(OPERATIONS[name].plan.rate for _, name in self._left)
        # When outcomes came of late, and what the plans allowed then.
        self._recent: deque[tuple[float, float]] = deque()

    def count(self, outcome: Outcome) -> None:
        """Count one outcome."""
        operation = by_request(outcome.message.request).name
        self.by_operation.setdefault(operation, Counter())[outcome.status] += 1
        self._recent.append((self._clock(), self._plan_rate))
        lane = (outcome.message.account or DEFAULT_ACCOUNT, operation)
        self._left[lane] -= 1
        if not self._left[lane]:
            self._plan_rate -= OPERATIONS[operation].plan.rate
        if outcome.status != "sent" and len(self.named) < _NAMED:
            self.named.append(outcome)

    def count_unsent(self) -> None:
        """Count what is left as planned; nothing more will come."""
        for (_, operation), number in self._left.items():
            if number > 0:
                self.by_operation.setdefault(operation, Counter())["planned"] += number
        self._left.clear()

    def number(self, status: OutcomeStatus | None = None) -> int:
        """Outcomes of a status, or all."""
        counters = self.by_operation.values()
        return sum(each.total() if status is None else each[status] for each in counters)

    def rates(self) -> tuple[float, float]:
        """Outcomes a second of late, and how many the usage plans refilled for."""
        now = self._clock()
        while self._recent and self._recent[0][0] < now - _WINDOW:
            self._recent.popleft()
        span = min(_WINDOW, now - self._began)
        plan = self._recent[0][1] if self._recent else self._plan_rate
        return len(self._recent) / span if span > 0 else 0.0, plan

    def seconds_left(self) -> float:
        """What the usage plans make the rest take, their bursts being spent."""
        left: Mapping[tuple[str, str], int] = self._left
        loads = [(OPERATIONS[name].plan.rate, count) for (_, name), count in left.items()]
        return max((count / rate for rate, count in loads), default=0.0)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.number(status)} {status}" for status in _SHOWN)
        rate, plan = self.rates()
        return f"{counts}; {rate:.1f}/s, plan {plan:.0f}/s; {duration(self.seconds_left())} left"


_SHOWN: tuple[OutcomeStatus, ...] = ("sent", "rejected", "unknown")


class Watch:
    """Shows a tally as it grows: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self._tally = tally
        self._console = console
        self._progress = Progress(
            BarColumn(bar_width=5),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(str(tally), total=tally.total)
        self._next = time.monotonic() + (0 if console.is_terminal else _LINE_EVERY)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self) -> None:
        """Show the tally as it is now, unless that was done a moment ago."""
        now, done = time.monotonic(), self._tally.number()
        if now < self._next and done < self._tally.total:
            return
        if self._console.is_terminal:
            self._next = now + _REFRESH
            self._progress.update(self._task, completed=done, description=str(self._tally))
        else:
            self._next = now + _LINE_EVERY
            self._console.print(f"{done} of {self._tally.total}: {self._tally}", soft_wrap=True)


def closing_table(tally: Tally) -> Table:
    """What became of the messages, by operation."""
    shown = [status for status in STATUSES if status == "sent" or tally.number(status)]
    table = Table()
    table.add_column("operation")
    for status in shown:
        table.add_column(status, justify="right", style=_STYLES.get(status, ""))
    for operation, counts in sorted(tally.by_operation.items()):
        table.add_row(operation, *(str(counts[status]) for status in shown))
    table.add_section()
    table.add_row("all", *(str(tally.number(status)) for status in shown))
    return table


def duration(seconds: float) -> str:
    """Seconds as minutes:seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
