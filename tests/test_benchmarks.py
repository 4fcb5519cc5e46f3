"""The benchmarks' table and command; what they measure is for `python -m benchmarks` to say."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from rich.console import Console

from benchmarks import peers
from benchmarks.__main__ import NAMES
from benchmarks.plan import BURSTS, LONG, SHORT
from benchmarks.table import Row, as_json, as_markdown, median_ratio, met, show

ROOT = Path(__file__).parents[1]
ROW = Row(
    goal=1,
    what="send",
    unit="µs CPU",
    ours=95.0,
    bare=100.0,
    peers={"slow": 300.0, "absent": "cannot be installed"},
    ratio=0.95,
    goal_text="≤ 0.95",
    met=True,
    note="in flight: 50",
    rounds={"ours": [94.0, 95.0, 99.0]},
)


def benchmarks(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def shown(*rows: Row) -> str:
    console = Console(file=io.StringIO(), width=140)
    show(rows, {"python": "3.11"}, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        ("≤ 0.95", 0.95, True),
        ("≤ 0.95", 0.951, False),
        ("≥ 0.5", 0.5, True),
        ("≥ 0.5", 0.49, False),
        ("≤ 0", 0, True),
        ("≤ 6 kB", 6.1, False),
        ("≤ 1,000", 999, True),
        ("", 1.0, None),
        ("≤ 1", None, None),
    ],
)
def test_a_verdict(goal: str, value: float | None, verdict: bool | None) -> None:
    """A goal is met at its limit and not beyond; without a goal or a value there is no verdict."""
    assert met(goal, value) is verdict


def test_a_ratio_is_of_neighbours() -> None:
    """A round that was slow for both does not count more than another."""
    assert median_ratio([10, 90, 11], [10, 100, 10]) == 1.0


def test_the_table_shows_every_value() -> None:
    """Ours, bare, the others with their ratios, goal, verdict, and in notes why one is absent."""
    table = shown(ROW, attrs.evolve(ROW, what="other", met=False))
    for text in ("95", "100", "300", "(3.00)", "≤ 0.95", "yes", "NO", "python 3.11"):
        assert text in table
    assert table.count("absent: cannot be installed") == 1
    assert table.count("in flight: 50") == 1


def test_json_has_all_there_is() -> None:
    """Rows keep every value, each round's too, and come back as they were."""
    told = json.loads(json.dumps(as_json([ROW], {"python": "3.11"})))
    assert told["about"] == {"python": "3.11"}
    assert [Row(**row) for row in told["rows"]] == [ROW]


def test_markdown_for_readme() -> None:
    """A line for each row, with the others' values, and then where it was measured."""
    text = as_markdown([ROW, attrs.evolve(ROW, what="other", met=False)], {"python": "3.11"})
    first, second = text.splitlines()[2:4]
    assert first == "| send, µs CPU | 95 | 100 | slow 300, absent – | 0.95 | ≤ 0.95 | yes |"
    assert second.endswith("| **no** |")
    assert text.endswith("\nMeasured with python 3.11.\n")


def test_the_ideal_of_a_scenario() -> None:
    """Five go at once, then one each time the rate allows; bursts wait for their time."""
    assert SHORT.ideal() == pytest.approx(25)
    assert LONG.ideal() == pytest.approx(295)
    assert BURSTS.ideal() == pytest.approx(19 * 15 + 3.5)


def test_other_clients_are_pinned() -> None:
    """Each of the other clients has a version."""
    named = {name.partition(",")[0] for name in peers.VARIANTS}
    assert named <= peers.versions().keys()


def test_the_command_prints_json() -> None:
    """`--json -` prints nothing but JSON, with the machine, the versions and a benchmark's rows."""
    done = benchmarks("--quick", "import_time", "--json", "-")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"cpu", "cores", "python", "aiohttp", "uvloop", "amzn-sp-api"} <= told["about"].keys()
    assert {row["goal"] for row in told["rows"]} == {6}
    for row in told["rows"]:
        assert row.keys() == {field.name for field in attrs.fields(Row)}
        assert len(row["rounds"]["ours"]) == 1


def test_an_unknown_benchmark_is_named() -> None:
    """A name that is none ends the command with the names that there are."""
    done = benchmarks("speed")
    assert done.returncode == 2
    assert "speed" in done.stderr
    assert NAMES[0] in done.stderr
