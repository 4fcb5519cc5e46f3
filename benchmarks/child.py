"""A measure in a process of its own: it is told what to do by lines, and answers with JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]


class ChildFailed(Exception):
    """The last thing that a process said before it ended."""


class Child:
    """Begins at once; its first answer is "ready"."""

    def __init__(self, command: Sequence[str]) -> None:
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed on exit
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            cwd=ROOT,
        )

    def ask(self, *words: object) -> Any:
        """What it answers to a line of words. Raises ChildFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(" ".join(map(str, words)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(self._last_words()) from None
        return self.answer()

    def answer(self) -> Any:
        """What it says next. Raises ChildFailed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        self._process.wait()
        self._said.seek(0)
        lines = [line.strip() for line in self._said if line.strip()]
        return lines[-1] if lines else f"ended with {self._process.returncode}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()


def answers(measures: Callable[[], object]) -> None:
    """The child's side: for every line, calls the measure that it names and prints its answer.

    What anything else prints goes to standard error.
    """
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found = measures()
    print(json.dumps("ready"), file=said, flush=True)
    for line in sys.stdin:
        name, *words = line.split()
        print(json.dumps(getattr(found, name)(*words)), file=said, flush=True)
