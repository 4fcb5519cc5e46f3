"""What `import sp_messaging_async` costs, beside the four libraries that it cannot do without.

    python benchmarks/import_time.py [PAIRS]

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

THEIRS = "aiohttp, attrs, cattrs, aiolimiter"
OURS = "sp_messaging_async"

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


def compare(pairs: int, ours: str = OURS) -> tuple[float, float]:
    """The medians of so many imports: theirs and ours."""
    with tempfile.TemporaryDirectory() as bytecode:
        for modules in (THEIRS, ours):
            seconds(modules, bytecode)  # compiles
        taken = [(seconds(THEIRS, bytecode), seconds(ours, bytecode)) for _ in range(pairs)]
    of_theirs, of_ours = zip(*taken, strict=True)
    return statistics.median(of_theirs), statistics.median(of_ours)


def main(pairs: int) -> None:
    # A name is imported with all that it needs when it is asked for first.
    for ours in (OURS, f"{OURS}; {OURS}.MessagingSession"):
        theirs, taken = compare(pairs, ours)
        print(f"import {THEIRS}  {theirs * 1000:.0f} ms")
        print(f"import {ours}  {taken * 1000:.0f} ms, ratio {taken / theirs:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 31)
