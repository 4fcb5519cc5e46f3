"""What a benchmark found, as rows of one table: for people on a terminal, or as JSON.

A benchmark is a module with `rows(quick: bool = False) -> list[Row]`; `quick` is a trial of the
plumbing in seconds, whose numbers mean nothing.
"""

from __future__ import annotations

import importlib
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text


@attrs.frozen(kw_only=True)
class Row:
    """One measure; every value is a median over rounds where there are rounds."""

    goal: int
    """The goal's number; 0 is a measure without one."""
    what: str
    unit: str
    ours: float
    bare: float | None = None
    """Bare aiohttp, or what else stands below us, as the note says."""
    peers: dict[str, float | str] = attrs.field(factory=dict)
    """By name; a text where there is no number tells why."""
    ratio: float | None = None
    goal_text: str = ""
    """Such as "≤ 0.95"."""
    met: bool | None = None
    note: str = ""
    rounds: dict[str, list[float]] = attrs.field(factory=dict)
    """Every round's value, by whose it is."""


def rows_of(name: str, quick: bool) -> list[Row]:
    """What the benchmark of a name found."""
    rows: list[Row] = importlib.import_module(f"benchmarks.{name}").rows(quick)
    return rows


def met(goal_text: str, value: float | None) -> bool | None:
    """Whether a value is within a goal such as "≤ 0.95" or "≥ 0.5"; None without either."""
    if not goal_text or value is None:
        return None
    sign, number = goal_text.split()[:2]
    limit = float(number.replace(",", ""))
    return value <= limit if sign == "≤" else value >= limit


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios: neighbours in time were slowed by the same neighbours."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def machine() -> dict[str, str]:
    """When and where this was measured, and with which versions."""
    found = {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
        "system": platform.platform(),
    }
    found["python"] = platform.python_version()
    for package in ("aiohttp", "uvloop", "aiolimiter"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _cpu() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def as_json(rows: Iterable[Row], about: dict[str, str]) -> dict[str, Any]:
    """`{"about": …, "rows": […]}`, a row with the names that it has here."""
    return {"about": about, "rows": [attrs.asdict(row) for row in rows]}


def show(rows: Sequence[Row], about: dict[str, str], console: Console) -> None:
    """The table, then what would not fit into it."""
    table = Table(title=", ".join(f"{name} {value}" for name, value in about.items()))
    for heading in ("goal", "what", "unit"):
        table.add_column(heading)
    for heading in ("ours", "bare"):
        table.add_column(heading, justify="right")
    table.add_column("others (ratio to bare)")
    for heading in ("ratio", "goal", "met"):
        table.add_column(heading, justify="right")
    said: list[str] = []
    for row in rows:
        mark = f" [{_noted(row.note, said)}]" if row.note else ""
        table.add_row(
            str(row.goal or ""),
            Text(row.what + mark),
            row.unit,
            _number(row.ours),
            _number(row.bare),
            _others(row, said),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.goal_text,
            {True: "yes", False: "NO", None: ""}[row.met],
            end_section=True,
        )
    console.print(table)
    for number, text in enumerate(said, 1):
        console.print(Text(f"[{number}] {text}"))


def as_markdown(rows: Iterable[Row], about: dict[str, str]) -> str:
    """The table as README shows it."""
    lines = [
        "| what | ours | bare aiohttp | others | ratio | goal | met |",
        "|---|--:|--:|---|--:|--:|---|",
    ]
    for row in rows:
        others = ", ".join(
            f"{name} {'–' if isinstance(value, str) else _number(value)}"
            for name, value in row.peers.items()
        )
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        verdict = {True: "yes", False: "**no**", None: ""}[row.met]
        what = f"{row.what}, {row.unit}" if row.unit else row.what
        cells = (what, _number(row.ours), _number(row.bare), others, ratio, row.goal_text, verdict)
        lines.append(f"| {' | '.join(cells)} |")
    where = ", ".join(f"{name} {value}" for name, value in about.items())
    return "\n".join([*lines, "", f"Measured with {where}.", ""])


def _others(row: Row, said: list[str]) -> Table:
    """A line for each of the others, aligned."""
    lines = Table.grid(padding=(0, 1))
    lines.add_column()
    lines.add_column(justify="right")
    lines.add_column(justify="right")
    for name, value in row.peers.items():
        if isinstance(value, str):
            lines.add_row(name, Text(f"– [{_noted(f'{name}: {value}', said)}]"))
        else:
            lines.add_row(name, _number(value), f"({value / row.bare:.2f})" if row.bare else "")
    return lines


def _noted(text: str, said: list[str]) -> int:
    """The number of a note; the same text is said once."""
    if text not in said:
        said.append(text)
    return said.index(text) + 1


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
