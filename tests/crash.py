"""The command, on plans that do not wait, in a process that may be killed at a named point.

    CRASH_AT="the intent is committed:3" python -m tests.crash bulk orders.csv …

A program of tests/test_kill.py's, not a test. Without words it waits for processes to start.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sp_messaging_async import LocalThrottle, UsagePlan, sqlite_ledger, transport
from sp_messaging_async.cli import options, run
from sp_messaging_async.ledger import Entry
from sp_messaging_async.operations import OPERATIONS

from .starter import serve

FAST = dict.fromkeys(OPERATIONS, UsagePlan(rate=100_000, burst=100_000))


class Point:
    """Kills this process the n-th time that it is passed."""

    def __init__(self, number: int) -> None:
        self._left = number

    def passed(self) -> None:
        """Count, and die when it is time."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def at_commit(of: Callable[..., Any], *, after: bool) -> Callable[[Point], None]:
    """Before or after the commit of a group that does something."""

    def arm(point: Point) -> None:
        commit = sqlite_ledger._commit

        def watched(database: Any, group: list[Any]) -> None:
            is_meant = any(job.work is of for job in group)
            if is_meant and not after:
                point.passed()
            commit(database, group)
            if is_meant and after:
                point.passed()

        sqlite_ledger._commit = watched

    return arm


def within(name: str) -> Callable[[Point], None]:
    """Within a transaction, when a function of the ledger's has done its work."""

    def arm(point: Point) -> None:
        work = getattr(sqlite_ledger, name)

        def watched(*args: Any) -> Any:
            result = work(*args)
            point.passed()
            return result

        setattr(sqlite_ledger, name, watched)

    return arm


def around(name: str, argument: str = "", *, after: bool) -> Callable[[Point], None]:
    """Before or after a method of the database's, if it is called with that argument."""

    def arm(point: Point) -> None:
        method = getattr(sqlite_ledger._Database, name)

        def watched(database: Any, *args: Any, **kwargs: Any) -> Any:
            is_meant = not argument or argument in args
            if is_meant and not after:
                point.passed()
            result = method(database, *args, **kwargs)
            if is_meant and after:
                point.passed()
            return result

        setattr(sqlite_ledger._Database, name, watched)

    return arm


def before_the_write(point: Point) -> None:
    lapsed = Entry.lapsed

    def watched(entry: Entry) -> bool:
        point.passed()
        return lapsed(entry)

    Entry.lapsed = watched  # type: ignore[method-assign]


def in_the_middle_of_the_body(point: Point) -> None:
    write = transport._WatchedPayload.write_with_length

    async def watched(payload: Any, writer: Any, length: int | None) -> None:
        if payload.lapsed is not None:  # of a message
            half = bytes(payload._value)[: len(payload._value) // 2]
            await writer.write(half)
            await writer.drain()
            point.passed()
            await writer.write(bytes(payload._value)[len(half) :])
        else:
            await write(payload, writer, length)

    transport._WatchedPayload.write_with_length = watched  # type: ignore[method-assign]


def after_the_answer(point: Point) -> None:
    sent = Entry.sent

    def watched(entry: Entry, request_id: str | None) -> Any:
        point.passed()
        return sent(entry, request_id)

    Entry.sent = watched  # type: ignore[method-assign]


POINTS: dict[str, Callable[[Point], None]] = {
    "the list is being read": within("_stage"),
    "the list is enrolled": within("_merge"),
    "the campaign is taken": within("_take_campaign"),
    "the intent is not committed": at_commit(sqlite_ledger._intend, after=False),
    "the intent is committed": at_commit(sqlite_ledger._intend, after=True),
    "the write has not begun": before_the_write,
    "half of the body is written": in_the_middle_of_the_body,
    "the answer is there": after_the_answer,
    "the answer is not recorded": at_commit(sqlite_ledger._settle, after=False),
    "the answer is recorded": at_commit(sqlite_ledger._settle, after=True),
    "the ledger is being closed": around("checkpoint", "TRUNCATE", after=False),
}

# What a run passes when it finds the ledger of one that was killed.
RECOVERY: dict[str, Callable[[Point], None]] = {
    "the files are looked at": around("is_whole", after=False),
    "the interrupted are not committed": around("run", "interrupt all", after=True),
    "the interrupted are committed": around("checkpoint", "FULL", after=False),
    "the ledger is marked open": around("checkpoint", "FULL", after=True),
    "the campaign is taken": POINTS["the campaign is taken"],
}


def main() -> int:
    """Run the command, armed as CRASH_AT says."""
    words = sys.argv[1:] or serve()
    name, _, number = os.environ.get("CRASH_AT", "").partition(":")
    if name:
        {**POINTS, **RECOVERY}[name](Point(int(number)))
    options.Amazon.__init__ = _without_waiting  # type: ignore[method-assign]
    return run(words)


_usual = options.Amazon.__init__


def _without_waiting(amazon: options.Amazon, *args: Any) -> None:
    *others, _ = args  # the throttle is the last
    _usual(amazon, *others, LocalThrottle(FAST, headroom=0))


if __name__ == "__main__":
    sys.exit(main())
