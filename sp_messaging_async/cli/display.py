"""What a person sees of a run while it goes on, and at its end."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

from attrs import Factory, frozen
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..bulk.progress import LaneTally, Tally
from ..events import OutcomeStatus

__all__ = ["Watch", "closing_table", "duration", "in_a_line"]

_STATUSES: tuple[OutcomeStatus, ...] = ("sent", "skipped", "rejected", "unknown", "planned")

_REFRESH = 0.2  # seconds between changes of the display,
_REST = 100  # or so many times what the last one took: a run of 10,000 sellers is not slowed
_CHOOSE = 10.0  # seconds for which the same lanes are shown, where there are too many
_MOST_LANES = 10  # shown together
_OTHER_LINES = 6  # of a display: heads, "more", "all", two notes, and the prompt to come

_STYLES = {"sent": "green", "unknown": "bold red", "rejected": "red"}
_PAUSED = "paused: Amazon does not answer"


class Watch:
    """Shows a tally as it grows: a live display on a terminal, a line now and then elsewhere.

    interval: seconds between lines.
    """

    def __init__(self, tally: Tally, console: Console, *, interval: float = 10.0) -> None:
        self._tally = tally
        self._console = console
        self._interval = interval
        is_live = console.is_terminal and console.is_interactive
        self._display = _Display(tally, console) if is_live else None
        self._next = tally.clock() + (0 if is_live else interval)
        self._ended = False

    def __enter__(self) -> Self:
        if self._display:
            self._display.live.start()
            self.show()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._display:
            self._display.draw()
            self._display.live.stop()

    def show(self) -> None:
        """Show the tally as it is now, unless that was done a moment ago."""
        now = self._tally.clock()
        is_last = not self._tally.left
        if self._ended or (now < self._next and not is_last):
            return
        self._ended = is_last
        if self._display:
            self._display.draw()
            took = self._tally.clock() - now
            self._next = now + max(_REFRESH, took * _REST)
        else:
            self._next = now + self._interval
            line = f"{self._tally.done:,} of {self._tally.total:,}: {in_a_line(self._tally)}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def in_a_line(tally: Tally) -> str:
    """How many messages came to what, how fast, and what is left."""
    counts = ", ".join(f"{tally.number(status):,} {status}" for status in _STATUSES[:4])
    if not tally.left:
        return f"{counts}; took {duration(tally.clock() - tally.began)}"
    reached, plan = tally.rates()
    rate = f"{_rate(reached or 0.0, plan)}/s of the plan's {_rate(plan, plan)}/s"
    return f"{counts}; {rate}; {_left_of(tally)}"


def _left_of(tally: Tally) -> str:
    paused = tally.paused
    if paused and tally.all_paused(paused):
        return _PAUSED
    seconds, why = tally.longest()
    time_left = f"{duration(seconds)} left{f' ({why})' if why else ''}"
    return f"{time_left}; {_several_paused(paused)}" if paused else time_left


class _Display:
    """Draws a tally: a row for each lane, as many as there is room for, and a row for all."""

    def __init__(self, tally: Tally, console: Console) -> None:
        # Drawn by whoever calls `draw`: a thread of Live's own would write between two writes.
        self.live = Live(console=console, auto_refresh=False)
        self._tally = tally
        self._console = console
        self._names = {lane.account: _shown(lane.account, console) for lane in tally.lanes}
        self._chosen: list[LaneTally] = []
        self._choose_at = -math.inf

    def draw(self) -> None:
        """Put the tally, as it is now, in the place of what was drawn before."""
        self.live.update(self._picture(), refresh=True)

    def _picture(self) -> Text:
        """The tally as it is now, in lines that fit the console."""
        paused = self._tally.paused
        rows = self._rows(paused)
        lines = [*_lines(_fitted(rows, self._console))]
        lines += [Text(note, "yellow") for note in self._notes(paused)]
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    def _rows(self, paused: Collection[str]) -> list[_Row]:
        lanes = self._lanes()
        several = len(self._names) > 1
        rows = [self._row(lane, paused, several=several) for lane in lanes]
        more = len(self._tally.lanes) - len(lanes)
        if more:
            rows.append(_Row(operation=f"and {more:,} more"))
        if len(self._tally.lanes) != 1:
            rows.append(self._row_of_all(paused))
        return rows

    def _lanes(self) -> list[LaneTally]:
        """Those that take longest, in the list's order; for a while the same, to be read."""
        now, lanes = self._tally.clock(), self._tally.lanes
        room = max(1, min(_MOST_LANES, self._console.height - _OTHER_LINES))
        if len(lanes) <= room:
            return lanes
        is_over = any(not lane.left for lane in self._chosen) and self._tally.left
        if now >= self._choose_at or is_over or len(self._chosen) != room:
            longest = heapq.nlargest(room, range(len(lanes)), key=self._length)
            self._chosen = [lanes[index] for index in sorted(longest)]
            self._choose_at = now + _CHOOSE
        return self._chosen

    def _length(self, index: int) -> tuple[float, int]:
        lane = self._tally.lanes[index]
        return lane.seconds_left(self._tally.left)[0], lane.left

    def _row(self, lane: LaneTally, paused: Collection[str], *, several: bool) -> _Row:
        left = min(lane.left, self._tally.left)
        seconds, why = lane.seconds_left(left)
        is_paused = lane.account in paused
        return _Row(
            self._names[lane.account] if several else "",
            lane.operation,
            (lane.rate(self._tally.clock()), lane.plan.rate) if left else None,
            lane.counts,
            left,
            _time_left(left, seconds, is_paused=is_paused),
            "" if is_paused else why,
        )

    def _row_of_all(self, paused: Collection[str]) -> _Row:
        tally = self._tally
        seconds, why = tally.longest()
        is_paused = bool(paused) and tally.all_paused(paused)
        return _Row(
            "",
            "all",
            tally.rates() if tally.left else None,
            {status: tally.number(status) for status in _STATUSES},
            tally.left,
            _time_left(tally.left, seconds, is_paused=is_paused),
            "" if is_paused else why,
        )

    def _notes(self, paused: Collection[str]) -> Iterator[str]:
        tally = self._tally
        if paused:
            yield _PAUSED if tally.all_paused(paused) else _several_paused(paused)
        if not tally.left:
            messages = "1 message" if tally.total == 1 else f"{tally.total:,} messages"
            yield f"{messages} took {duration(tally.clock() - tally.began)}"


@frozen
class _Row:
    """What is told of a lane, before it is known what there is room for."""

    account: str = ""
    operation: str = ""
    rates: tuple[float | None, float] | None = None
    counts: Mapping[str, int] = Factory(dict)
    left: int | None = None
    time_left: str = ""
    why: str = ""


@frozen
class _Column:
    """A head, and a cell for each row."""

    head: str
    cells: Sequence[str | Text]
    style: str = ""
    is_left: bool = False

    @property
    def width(self) -> int:
        """In cells of the terminal."""
        return max(cell_len(self.head), *map(_width, self.cells))


@frozen
class _Layout:
    """How much is told where there is less and less room.

    statuses: which have a column of their own: all, those that any message has, or only "sent".
    bar, account: the least width of these columns; a bar of 0 is left out.
    heads: shorter ones.
    rate: whether it is told in numbers.
    """

    statuses: Literal["all", "any", "sent"]
    bar: int
    account: int
    heads: Mapping[str, str] = Factory(dict)
    rate: bool = True


_SHORT = {
    "rate": "rate/s",
    "skipped": "skip",
    "rejected": "rej.",
    "unknown": "unk.",
    "time left": "time",
}
_LAYOUTS = (
    _Layout("all", 12, 40),
    _Layout("any", 4, 16),
    _Layout("any", 4, 8, _SHORT),
    _Layout("sent", 4, 6, _SHORT),
    _Layout("sent", 0, 6, _SHORT),
    _Layout("sent", 0, 2, _SHORT, rate=False),
)
_WIDEST_BAR = 40
_NOT_SENT: tuple[OutcomeStatus, ...] = ("skipped", "rejected", "unknown")


def _fitted(rows: Sequence[_Row], console: Console) -> list[_Column]:
    """The columns of the richest layout that there is room for."""
    has_rates = any(row.rates for row in rows)
    accounts = _Column("account", [row.account for row in rows], is_left=True)
    wanted = accounts.width + 1 if any(row.account for row in rows) else 0
    columns, room, bar = list[_Column](), 0, 0
    for layout in _LAYOUTS:
        columns = _columns(rows, layout)
        room = console.width - sum(column.width + 1 for column in columns) + 1
        bar = layout.bar + 1 if layout.bar and has_rates else 0
        if room >= min(wanted, layout.account + 1) + bar:
            break
    # The bar gives way first, down to its least width, and then the names of accounts.
    bar = min(_WIDEST_BAR, max(bar, room - wanted))
    if bar > 1 and has_rates:
        columns.insert(1, _bars(rows, bar - 1, console))
        room -= bar
    if wanted:
        columns.insert(0, _shortened(accounts, max(1, min(wanted, room) - 1), console))
    return columns


def _columns(rows: Sequence[_Row], layout: _Layout) -> list[_Column]:
    """Those whose width does not depend on the room."""
    heads = layout.heads
    columns = [_Column("operation", [row.operation for row in rows], is_left=True)]
    if layout.rate and any(row.rates for row in rows):
        unit = "" if "rate" in heads else "/s"
        columns.append(
            _Column(heads.get("rate", "rate"), [_of_plan(row.rates, unit) for row in rows])
        )
    columns.append(_Column("sent", [_counted(row, ("sent",)) for row in rows], _STYLES["sent"]))
    for head, statuses in _not_sent(rows[-1], layout).items():
        cells = [_counted(row, statuses) for row in rows]
        columns.append(_Column(heads.get(head, head), cells, _STYLES.get(head, "")))
    left = ["" if row.left is None else f"{row.left:,}" for row in rows]
    columns.append(_Column("left", left))
    times = [row.time_left for row in rows]
    columns.append(_Column(heads.get("time left", "time left"), times))
    if any(row.why for row in rows):
        columns.append(_Column("bound by", [row.why for row in rows], is_left=True))
    return columns


def _not_sent(row_of_all: _Row, layout: _Layout) -> Mapping[str, Sequence[OutcomeStatus]]:
    """The statuses that have a column, by its head."""
    found: list[OutcomeStatus] = [each for each in _NOT_SENT if row_of_all.counts.get(each)]
    if layout.statuses == "sent" and len(found) > 1:
        return {"other": _NOT_SENT}
    return {status: (status,) for status in (_NOT_SENT if layout.statuses == "all" else found)}


def _counted(row: _Row, statuses: Sequence[OutcomeStatus]) -> str:
    if row.left is None:
        return ""
    return f"{sum(row.counts.get(status, 0) for status in statuses):,}"


def _of_plan(rates: tuple[float | None, float] | None, unit: str) -> str:
    if rates is None:
        return ""
    reached, plan = rates
    told = "-" if reached is None else _rate(reached, plan)
    return f"{told} of {_rate(plan, plan).removesuffix('.0')}{unit}"


def _rate(rate: float, plan: float) -> str:
    """With as many digits as a plan needs to be told from another."""
    digits = 0 if plan >= 100 else max(1, 1 - math.floor(math.log10(plan)))
    return f"{rate:,.{digits}f}"


def _bars(rows: Sequence[_Row], width: int, console: Console) -> _Column:
    return _Column("", [_bar(row.rates, width, console) for row in rows], is_left=True)


def _bar(rates: tuple[float | None, float] | None, width: int, console: Console) -> Text:
    """The rate reached, of a width that is the plan's."""
    bar = Text()
    if rates is None:
        return bar
    reached, plan = rates
    halves = round(2 * width * min(1.0, (reached or 0.0) / plan))
    full, half, rest = "=-." if console.options.ascii_only else "━╸─"
    bar.append(full * (halves // 2) + half * (halves % 2), "green")
    bar.append(rest * (width - bar.cell_len), "bright_black")
    return bar


def _shortened(accounts: _Column, width: int, console: Console) -> _Column:
    mark = "~" if console.options.ascii_only else "…"
    cells = [_short(str(cell), width, mark) for cell in accounts.cells]
    return _Column(_short(accounts.head, width, mark), cells, is_left=True)


def _short(name: str, width: int, mark: str) -> str:
    """A name of so many cells, without its middle: many differ in their last letters only."""
    if cell_len(name) <= width:
        return name
    after = (width - 1) // 2
    end = set_cell_size(name[::-1], after)[::-1]
    return set_cell_size(name, width - 1 - after) + mark + end


def _lines(columns: Sequence[_Column]) -> Iterator[Text]:
    widths = [column.width for column in columns]
    yield _line([Text(column.head, "dim") for column in columns], columns, widths)
    for cells in zip(*(column.cells for column in columns), strict=True):
        yield _line(cells, columns, widths)


def _line(cells: Sequence[str | Text], columns: Sequence[_Column], widths: Sequence[int]) -> Text:
    line = Text()
    for cell, column, width in zip(cells, columns, widths, strict=True):
        pad = " " * (width - _width(cell))
        if not column.is_left:
            line.append(pad)
        if isinstance(cell, Text):
            line.append_text(cell)
        else:
            line.append(cell, "" if cell == "0" else column.style)
        line.append(pad + " " if column.is_left else " ")
    line.rstrip()
    return line


def _width(cell: str | Text) -> int:
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)


def _shown(name: str, console: Console) -> str:
    """A name that anybody may have given, without what would steer or stop the terminal."""
    safe = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return safe.encode(console.encoding, "replace").decode(console.encoding)


def _time_left(left: int, seconds: float, *, is_paused: bool) -> str:
    if not left:
        return "done"
    return "paused" if is_paused else duration(seconds)


def _several_paused(paused: Collection[str]) -> str:
    accounts = "1 account" if len(paused) == 1 else f"{len(paused):,} accounts"
    return f"{accounts} {_PAUSED}"


def closing_table(tally: Tally) -> Table:
    """What became of the messages, by operation."""
    shown: list[OutcomeStatus] = ["sent", *filter(tally.number, _STATUSES[1:])]
    table = Table()
    table.add_column("operation", no_wrap=True)
    for status in shown:
        table.add_column(status, justify="right", style=_STYLES.get(status, ""))
    for operation, counts in sorted(tally.by_operation.items()):
        table.add_row(operation, *(f"{counts[status]:,}" for status in shown))
    table.add_section()
    table.add_row("all", *(f"{tally.number(status):,}" for status in shown))
    return table


def duration(seconds: float) -> str:
    """Seconds as minutes:seconds, with hours where there are any; days and hours from a day on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days:
        return f"{days:,} d {hours_of_day} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
