"""The command, its exit statuses, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from .. import __version__
from ..errors import MessagingError
from . import terminal

__all__ = ["ALL_SENT", "SOME_NOT_SENT", "SOME_UNKNOWN", "STOPPED", "WRONG_USAGE", "app", "run"]

ALL_SENT, SOME_NOT_SENT, WRONG_USAGE, SOME_UNKNOWN, STOPPED = range(5)

app = App(
    name="sp-messaging",
    help="Message Amazon buyers through the Selling Partner API, within the usage plan.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status. An error is one line with its remedy."""
    try:
        with terminal.notes():
            status: int | None = app(arguments, exit_on_error=False, print_error=False)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return STOPPED
    except CycloptsError as error:
        return _fail(f"{error} Try sp-messaging --help.")
    except MessagingError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(_of_system(error))
    return status or 0


def _fail(text: str) -> int:
    terminal.tell(_PASSWORD.sub(r"\1…@", text))
    return WRONG_USAGE


# Of an address that stands where none belongs, and is repeated as what is wrong.
_PASSWORD = re.compile(r"([a-z]:/{1,2}[^:/@\s]*:)\S*@")


def _of_system(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"{what}: {error.filename}" if error.filename else what
