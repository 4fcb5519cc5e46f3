"""What `import sp_messaging_async` costs, beside the libraries that it cannot do without (goal 6).

    python -m benchmarks import_time

Every import has a process of its own, theirs and ours in turn, with the bytecode compiled before,
as pip does it. Compared are the medians of CPU time, which hardly depends on who else uses the
machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.table import Row, met

THEIRS = "aiohttp, attrs, cattrs, aiolimiter"
OURS = "sp_messaging_async"
PAIRS = 15

ROOT = Path(__file__).parents[1]
TIMED = "import time; began = time.process_time(); import {}; print(time.process_time() - began)"


def seconds(modules: str, bytecode: str) -> float:
    """CPU seconds of one import in a new process. `bytecode`: the folder where it is kept."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", TIMED.format(modules)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def seconds_in_turn(pairs: int, ours: str) -> tuple[list[float], list[float]]:
    """So many imports, of theirs and of ours."""
    with tempfile.TemporaryDirectory() as bytecode:
        for modules in (THEIRS, ours):
            seconds(modules, bytecode)  # compiles
        taken = [(seconds(THEIRS, bytecode), seconds(ours, bytecode)) for _ in range(pairs)]
    of_theirs, of_ours = zip(*taken, strict=True)
    return list(of_theirs), list(of_ours)


def compare(pairs: int, ours: str = OURS) -> tuple[float, float]:
    """The medians of so many imports: theirs and ours."""
    of_theirs, of_ours = seconds_in_turn(pairs, ours)
    return statistics.median(of_theirs), statistics.median(of_ours)


def rows(quick: bool = False) -> list[Row]:
    # A name is imported with all that it needs when it is asked for first.
    return [
        _row(ours, 1 if quick else PAIRS) for ours in (OURS, f"{OURS}; {OURS}.MessagingSession")
    ]


def _row(ours: str, pairs: int) -> Row:
    theirs, taken = seconds_in_turn(pairs, ours)
    bare, own = statistics.median(theirs), statistics.median(taken)
    return Row(
        goal=6,
        what=f"import {ours}",
        unit="ms CPU",
        ours=own * 1000,
        bare=bare * 1000,
        ratio=own / bare,
        goal_text="≤ 1.05",
        met=met("≤ 1.05", own / bare),
        note=f"bare is here: import {THEIRS}",
        rounds={"ours": taken, "bare": theirs},
    )
