"""A measure in a process of its own, and what that process holds in memory (Linux)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

Measure = Callable[..., Coroutine[Any, Any, tuple[float, ...]]]

_ROOT = Path(__file__).parents[1]


def alone(module: str, measure: str, *arguments: object) -> list[float]:
    """The numbers of one measure of a module, which hands its measures to `run_one`."""
    command = [sys.executable, "-m", module, measure, *map(str, arguments)]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def run_one(measures: Mapping[str, Measure], run: Callable[..., Any] = asyncio.run) -> None:
    """Run the measure that the command line names in an event loop, and print its numbers."""
    _, measure, *given = sys.argv
    arguments = [int(text) if text.isdigit() else text for text in given]
    print(*run(measures[measure](*arguments)))


def resident() -> float:
    """Megabytes that this process holds now."""
    return _from_status("VmRSS")


def peak_resident() -> float:
    """The most megabytes that this process has held."""
    # Not getrusage: its ru_maxrss begins with what the parent held.
    return _from_status("VmHWM")


def _from_status(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise LookupError(name)
