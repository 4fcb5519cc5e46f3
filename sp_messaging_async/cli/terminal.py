"""How the command talks: results to standard output, and what goes wrong to standard error."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO

from attrs import frozen
from rich.console import Console, RenderableType

from ..credentials import ReadableByOthersWarning
from ..errors import RetiredOperationWarning

__all__ = ["Talk", "Terminal", "err", "hush", "notes", "out", "plural", "say", "shown", "tell"]

_WIDE = 1000  # columns where there is no terminal to be narrow, and nothing is to be cut


class Terminal(Console):
    """A console that may lose its reader, or its disk, while what it tells of goes on.

    goes_on: whether that is so; else it ends the command.
    """

    def __init__(self, *, width: int | None = None, stderr: bool = False) -> None:
        super().__init__(width=width, stderr=stderr, soft_wrap=stderr, highlight=not stderr)
        self.goes_on = stderr
        if width is None and not self.is_terminal:
            self.width = _WIDE

    def on_broken_pipe(self) -> None:
        """Be silent from now on, or end the command."""
        if not self.goes_on:
            super().on_broken_pipe()
        self._fall_silent()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(exc_type, exc, traceback)
        except OSError:
            if not self.goes_on:
                raise
            self._fall_silent()

    def _fall_silent(self) -> None:
        self.quiet = True
        hush(self.file)


def hush(file: IO[str]) -> None:
    """Lead what is written to a file nowhere, also what its buffer holds at the command's end."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), file.fileno())


out = Terminal()
err = Terminal(stderr=True)


def say(text: str) -> None:
    """A line of the result."""
    _print(out, text)


def tell(text: str) -> None:
    """A line about what goes wrong."""
    _print(err, text)


@frozen
class Talk:
    """What a run tells while it goes on.

    of_results: whether standard output is for the results alone, and so this is not for it.
    quiet: leave out what nobody needs to act on.
    """

    of_results: bool = False
    quiet: bool = False

    @property
    def console(self) -> Terminal:
        """Where it is told."""
        return err if self.of_results else out

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Meanwhile, nobody needs to hear it."""
        console = self.console
        usual, console.goes_on = console.goes_on, True
        try:
            yield
        finally:
            console.goes_on = usual

    def mention(self, text: RenderableType) -> None:
        """Tell what is good to know."""
        if not self.quiet:
            self.insist(text)

    def insist(self, text: RenderableType) -> None:
        """Tell what somebody has to know."""
        if isinstance(text, str):
            _print(self.console, text)
        else:
            self.console.print(text)


def _print(console: Console, text: str) -> None:
    console.print(shown(text), markup=False, highlight=False, soft_wrap=True)


def shown(text: str) -> str:
    """Text of a list, or of an answer, without what would steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun: "1 row", "2,000 rows"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


@contextmanager
def notes() -> Iterator[None]:
    """Warnings that are for the user of a command, as lines of their own."""
    ours = (RetiredOperationWarning, ReadableByOthersWarning)
    told: set[str] = set()

    def note(message: Warning | str, category: type[Warning], *place: object) -> None:
        text = shown(str(message))
        if issubclass(category, ours) and text not in told:
            told.add(text)
            err.print(f"note: {text}", style="yellow", markup=False)

    with warnings.catch_warnings():
        for category in ours:
            warnings.simplefilter("always", category)
        warnings.showwarning = note  # type: ignore[assignment]
        yield
