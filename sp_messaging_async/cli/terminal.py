"""How the command talks: results to standard output, and what goes wrong to standard error."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen
from rich.console import Console, RenderableType

from ..credentials import ReadableByOthersWarning
from ..errors import RetiredOperationWarning

__all__ = ["Talk", "err", "notes", "out", "plural", "say", "shown", "tell"]

out = Console()
err = Console(stderr=True, soft_wrap=True, highlight=False)


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
    def console(self) -> Console:
        """Where it is told."""
        return err if self.of_results else out

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
