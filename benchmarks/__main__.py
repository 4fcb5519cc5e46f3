"""Runs the benchmarks and prints one table; see `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console

from benchmarks import peers
from benchmarks.table import Row, as_json, as_markdown, machine, rows_of, show

NAMES = ("cost", "plan", "guest", "sellers", "bulk_ledger", "import_time")
ALONE = ("redis_throttle",)  # needs a server's program, and is run by its name only
WIDTH = 140  # where there is no terminal


def measured(names: list[str], quick: bool) -> tuple[list[Row], list[str]]:
    """All rows, and the benchmarks that broke. Each has a process, whose memory is its own."""
    found: list[Row] = []
    broken = []
    spawn = multiprocessing.get_context("spawn")
    for name in names:
        began = time.perf_counter()
        with ProcessPoolExecutor(1, spawn) as process:
            try:
                found += process.submit(rows_of, name, quick).result()
            except Exception:
                traceback.print_exc()
                broken.append(name)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return found, broken


def main() -> int:
    """The process's exit status: 1 if a benchmark broke; a goal that is not met is no error."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES + ALONE)}")
    parser.add_argument("--json", metavar="FILE|-", help="all values, every round's too")
    parser.add_argument("--markdown", metavar="FILE", help="the table, as README shows it")
    parser.add_argument("--quick", action="store_true", help="try the plumbing; means nothing")
    asked = parser.parse_args()
    if unknown := set(asked.names) - {*NAMES, *ALONE}:
        there_are = ", ".join(NAMES + ALONE)
        parser.error(f"no benchmark: {', '.join(sorted(unknown))}; there are {there_are}")
    about = machine() | peers.versions()
    rows, broken = measured(asked.names or list(NAMES), asked.quick)
    if asked.json != "-":
        console = Console()
        if not console.is_terminal:
            console.width = WIDTH
        show(rows, about, console)
    if asked.json:
        text = json.dumps(as_json(rows, about), ensure_ascii=False, indent=2) + "\n"
        if asked.json == "-":
            sys.stdout.write(text)
        else:
            Path(asked.json).write_text(text, encoding="utf-8")
    if asked.markdown:
        Path(asked.markdown).write_text(as_markdown(rows, about), encoding="utf-8")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
