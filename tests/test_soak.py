"""Very many messages while everything goes wrong: each goes once, and nothing of them stays.

Amazon is a process of its own, so that what is measured here is the client's alone.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import logging
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from attrs import define, field, frozen

from sp_messaging_async import (
    CreateConfirmCustomizationDetailsRequest,
    CreateConfirmOrderDetailsRequest,
    CreateNegativeFeedbackRemovalRequest,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    Credentials,
    InvoiceRequest,
    LocalFile,
    Message,
    MessageRequest,
    MessagingError,
    MessagingSession,
    Outcome,
    OutcomeUnknown,
    RetryPolicy,
    SQLiteLedger,
    send_all,
)
from sp_messaging_async import session as pipeline

from .amazon import Amazon, number_of, order

resource = pytest.importorskip("resource", reason="Windows counts otherwise")

FAULTS = 0.05  # of all exchanges
A_SESSION = 50  # messages
AT_ONCE = 40  # sessions, unless a test says otherwise
SOURCES = 1024  # token sources that are kept at most, by session.py
BUCKETS = 2 * AT_ONCE * 12 * 2  # that are kept at most: twice those of the sessions that are open
RETRY = RetryPolicy(attempts=5, base_delay=0.02, max_delay=0.2)

_log = logging.getLogger(__name__)


# What became of each message, by the number of its order

BEGUN, SENT, UNSENT, UNKNOWN = 1, 2, 3, 4
_FATES = {"sent": SENT, "unknown": UNKNOWN, "planned": UNSENT, "rejected": UNSENT}
_FATES["skipped"] = UNSENT


@define
class Soak:
    """Sessions that are opened, used in many ways, and closed.

    folder: of ledgers and attachments.
    """

    amazon: Amazon
    folder: Path
    chance: random.Random
    timeout: float  # seconds, of an exchange
    at_once: int  # sessions
    fates: bytearray
    doubted: set[int] = field(factory=set)
    _sellers: Iterator[int] = field(factory=itertools.count)
    _rounds: Iterator[int] = field(factory=itertools.count)

    async def round(self, numbers: range) -> None:
        """Message these orders, some sessions at a time; all of them are closed then."""
        path = self.folder / "ledger" / str(next(self._rounds))
        room = asyncio.Semaphore(self.at_once)
        async with SQLiteLedger(path) as ledger, aiohttp.ClientSession() as http:
            ways = itertools.cycle(self._ways(ledger))

            async def one(numbers: range, way: _Way, http: aiohttp.ClientSession | None) -> None:
                async with room, self._session(http) as session:
                    await way(session, numbers)

            async with asyncio.TaskGroup() as group:
                for first in numbers[::A_SESSION]:
                    own = None if first % 7 else http
                    part = range(first, min(first + A_SESSION, numbers.stop))
                    group.create_task(one(part, next(ways), own))
            await self._compare(ledger)

    def _ways(self, ledger: SQLiteLedger) -> Sequence[_Way]:
        return [
            self._together,
            self._listed,
            functools.partial(self._recorded, ledger),
            self._left_early,
            functools.partial(self._cancelled, None),
            functools.partial(self._cancelled, ledger),
            self._closed,
            self._impatient,
        ]

    def _session(self, http: aiohttp.ClientSession | None) -> MessagingSession:
        seller = Credentials("client", "secret", f"seller {next(self._sellers)}")
        return MessagingSession(
            seller,
            marketplace="US",
            endpoint=self.amazon.endpoint,
            retry=RETRY,
            timeout=self.timeout,
            http=http,
        )

    async def _together(self, session: MessagingSession, numbers: range) -> None:
        """A handler's calls: a read, then the message."""

        async def call(number: int) -> None:
            if number % 10 == 0:
                with_error = session.get_messaging_actions_for_order(order(number))
                await asyncio.gather(with_error, return_exceptions=True)
            await self._send(session, number)

        await asyncio.gather(*map(call, numbers))

    async def _listed(self, session: MessagingSession, numbers: range) -> None:
        async with send_all(session, self._messages(numbers), concurrency=20) as outcomes:
            async for outcome in outcomes:
                self._note(outcome)

    async def _recorded(
        self, ledger: SQLiteLedger, session: MessagingSession, numbers: range
    ) -> None:
        """A run, and the same once more, in which nothing goes that may have gone."""
        before: dict[int, int] = {}
        for _ in range(2):
            async for outcome in send_all(session, self._messages(numbers), ledger=ledger):
                number = number_of(outcome.message.amazon_order_id)
                if before.get(number) == SENT:
                    assert outcome.status == "skipped", outcome
                elif before.get(number) == UNKNOWN:
                    assert outcome.status == "unknown", outcome
                else:
                    self._note(outcome)
            before = {number: self.fates[number] for number in numbers}

    async def _left_early(self, session: MessagingSession, numbers: range) -> None:
        left = self.chance.randrange(len(numbers))
        async with send_all(session, self._messages(numbers)) as outcomes:
            async for outcome in outcomes:
                self._note(outcome)
                left -= 1
                if left <= 0:
                    break
        async for outcome in outcomes:  # of what was in flight
            self._note(outcome)

    async def _cancelled(
        self, ledger: SQLiteLedger | None, session: MessagingSession, numbers: range
    ) -> None:
        """Of the tasks, some are cancelled at any moment, those that have ended too."""
        tasks = [asyncio.ensure_future(self._send(session, number, ledger)) for number in numbers]
        for task in tasks:
            if self.chance.random() < 0.2:
                await asyncio.sleep(self.chance.uniform(0, 0.02))
                task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _closed(self, session: MessagingSession, numbers: range) -> None:
        """It is closed under its calls, and does not wait long for those in flight."""
        sending = asyncio.gather(*(self._send(session, number) for number in numbers))
        await asyncio.sleep(self.chance.uniform(0, 0.3))
        await session.aclose(grace=self.chance.choice((0, 0.05)))
        await sending

    async def _impatient(self, session: MessagingSession, numbers: range) -> None:
        sends = [self._send(session, number, max_wait=0.05) for number in numbers]
        await asyncio.gather(*sends)

    async def _send(
        self, session: MessagingSession, number: int, ledger: SQLiteLedger | None = None, **how: Any
    ) -> None:
        self.fates[number] = BEGUN
        try:
            await session.send(order(number), self._request(number), ledger=ledger, **how)
        except OutcomeUnknown:
            self.fates[number] = UNKNOWN
        except MessagingError:
            self.fates[number] = UNSENT
        except asyncio.CancelledError:
            # Of a send that was recorded, the ledger knows; of another, the log.
            is_unknown = number in self.doubted
            self.fates[number] = UNKNOWN if is_unknown else BEGUN if ledger else UNSENT
            raise
        else:
            self.fates[number] = SENT

    def _note(self, outcome: Outcome) -> None:
        self.fates[number_of(outcome.message.amazon_order_id)] = _FATES[outcome.status]

    async def _compare(self, ledger: SQLiteLedger) -> None:
        """What callers were told is what is recorded, and of the cancelled it is what counts."""
        after = 0
        while rows := await ledger.rows(after=after):
            after = rows[-1].id
            for row in rows:
                number, recorded = number_of(row.amazon_order_id), _FATES[row.status]
                if self.fates[number] == BEGUN:
                    self.fates[number] = recorded
                assert self.fates[number] == recorded, row

    def _messages(self, numbers: range) -> Iterator[Message]:
        for number in numbers:
            self.fates[number] = self.fates[number] or UNSENT  # unless its outcome says more
            yield Message(order(number), self._request(number))

    def _request(self, number: int) -> MessageRequest:
        """Of any kind; one in eight has a file."""
        if number % 8 == 0:
            name = "large.pdf" if number % 4000 == 0 else f"{number % 3}.pdf"
            files = [LocalFile(self.folder / "files" / name)]
            if number % 16:
                return InvoiceRequest(files)
            day = datetime(2026, 1, 1, tzinfo=UTC)
            return CreateWarrantyRequest(files, day, day.replace(year=2028))
        text = f"Of order {number}: "
        match number % 5:
            case 0:
                return CreateUnexpectedProblemRequest(text + "it is sold out.")
            case 1:
                return CreateConfirmOrderDetailsRequest(text + "two of them?")
            case 2:
                return CreateConfirmCustomizationDetailsRequest(text + "in red?")
            case 3:
                return CreateNegativeFeedbackRemovalRequest()
        return CreateConfirmOrderDetailsRequest(text + "left or right?" * 20)


_Way = Callable[[MessagingSession, range], Awaitable[None]]


# What must not stay

# Files to attach, their folders, and what stands beside a ledger that is closed.
_STAYS = re.compile(r"files|ledger|\w+\.pdf|\d+(\.lock|\.door|\.tail)?$")
_KEPT = re.compile(r"(asyncio|uvloop)_\d+$")


@frozen
class Left:
    """What a loop and a process hold."""

    tasks: Sequence[str]
    timers: Sequence[str]
    threads: Sequence[str]
    open_files: int
    files: Sequence[str]

    @classmethod
    def now(cls, folder: Path) -> Left:
        """Of this process and its running loop."""
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        timers = getattr(loop, "_scheduled", ())  # uvloop's are its own
        named = [thread.name for thread in threading.enumerate()]
        return cls(
            tasks=[repr(task) for task in asyncio.all_tasks() if task is not me],
            timers=[repr(timer) for timer in timers if not timer.cancelled()],
            # asyncio.to_thread keeps a few for whoever comes next.
            threads=sorted(name for name in named if not _KEPT.match(name)),
            open_files=len(list(Path("/dev/fd").iterdir())),
            files=sorted(path.name for path in folder.rglob("*") if not _STAYS.match(path.name)),
        )


async def _check_left(before: Left, folder: Path) -> None:
    """What was closed is gone, after a moment in which sockets close."""
    give_up = time.monotonic() + 30
    while (left := Left.now(folder)) != before and time.monotonic() < give_up:
        await asyncio.sleep(0.01)
    assert left == before


def _check_shared() -> None:
    """Of a thousand sellers, the plans and tokens of those that are gone are forgotten."""
    shared = pipeline._shared()
    assert len(shared._sources) <= SOURCES
    assert len(shared.throttle._buckets) <= BUCKETS
    assert sum(bucket.waiting for bucket in shared.throttle._buckets.values()) == 0


def _blocks() -> int:
    """Blocks of memory that Python has given out, but for what sessions share."""
    pipeline._SHARED.clear()
    for _ in range(3):
        gc.collect()
    return sys.getallocatedblocks()


@contextmanager
def _heard(soak: Soak) -> Iterator[list[str]]:
    """What asyncio complains of; unknown outcomes that only the log can tell go to the soak."""
    complaints: list[str] = []

    class Unknown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "event", None) == "unknown":
                soak.doubted.add(number_of(record.amazon_order_id))  # type: ignore[attr-defined]

    class Complaint(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complaints.append(record.getMessage())

    ours, asyncios = logging.getLogger("sp_messaging_async"), logging.getLogger("asyncio")
    handlers = {ours: Unknown(), asyncios: Complaint(logging.WARNING)}
    for logger, handler in handlers.items():
        logger.addHandler(handler)
    ours.propagate = False  # what collects for a test's report would keep every line
    try:
        yield complaints
    finally:
        ours.propagate = True
        for logger, handler in handlers.items():
            logger.removeHandler(handler)


async def _soak(soak: Soak, parts: Sequence[int], least: float, a_send: float) -> None:
    """Rounds of so many messages; from the first one on, memory is as it was.

    least: blocks of memory by which it may differ whatever is sent.
    a_send: more of them, for each message.
    """
    # uvloop keeps a file of its own from the first connection on.
    await soak.round(range(1))
    before = Left.now(soak.folder)
    sent, sizes, peaks = 1, [], []
    for number, part in enumerate(parts):
        began = time.monotonic()
        await soak.round(range(sent, sent + part))
        sent += part
        await _check_left(before, soak.folder)
        _check_shared()
        # A bytearray was there before; a set of numbers grows by them alone.
        soak.doubted.clear()
        if number in (0, len(parts) - 1):
            sizes.append(_blocks())
        peaks.append(_peak())
        _log.info(
            "%d messages, %.1f s; %d MB at most, %s blocks",
            *(sent, time.monotonic() - began, peaks[-1] // 2**20, sizes),
        )
    assert sizes[-1] - sizes[0] <= least + a_send * sum(parts[1:])
    # What others than Python hold. The moment at which its garbage is collected moves it too.
    assert peaks[-1] - peaks[0] <= 16 * 2**20


def _peak() -> int:
    """The most memory that the process has had, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@pytest.fixture
def amazon() -> Iterator[Amazon]:
    """A local Amazon where a twentieth of all exchanges goes wrong."""
    started = Amazon.start(FAULTS, seed=7)
    yield started
    started.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files to attach, and room for ledgers."""
    (tmp_path / "files").mkdir()
    (tmp_path / "ledger").mkdir()
    for number in range(3):
        (tmp_path / "files" / f"{number}.pdf").write_bytes(b"a file %d " % number * 100)
    (tmp_path / "files" / "large.pdf").write_bytes(bytes(2**20 + 1))
    return tmp_path


def _loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    found: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    try:
        import uvloop
    except ImportError:
        return found
    return found | {"uvloop": uvloop.new_event_loop}


def _check(
    amazon: Amazon,
    folder: Path,
    parts: Sequence[int],
    *,
    timeout: float,
    loop: str = "asyncio",
    debug: bool = False,
    at_once: int = AT_ONCE,
    least: float = 3000,
    a_send: float = 0.01,
) -> None:
    """Everything that this module is about."""
    soak = Soak(amazon, folder, random.Random(7), timeout, at_once, bytearray(1 + sum(parts)))
    peak, began = _peak(), time.monotonic()
    with _heard(soak) as complaints:
        with asyncio.Runner(debug=debug, loop_factory=_loops()[loop]) as runner:
            runner.get_loop().slow_callback_duration = 1.0  # seconds; machines may be slow
            runner.run(_soak(soak, parts, least, a_send))
        pipeline._SHARED.clear()
        gc.collect()
    assert complaints == []
    deliveries = amazon.deliveries()
    fates = Counter(soak.fates)
    _log.info(
        "%d messages in %.0f s, %d MB more at most: %d sent, %d known unsent, %d unknown",
        *(len(soak.fates), time.monotonic() - began, (_peak() - peak) // 2**20),
        *(fates[SENT], fates[UNSENT], fates[UNKNOWN]),
    )
    assert set(deliveries.values()) == {1}
    told = {fate: {n for n, known in enumerate(soak.fates) if known == fate} for fate in fates}
    assert told[SENT] <= deliveries.keys()
    assert not told[UNSENT] & deliveries.keys()
    assert fates[SENT] + fates[UNSENT] + fates[UNKNOWN] == len(soak.fates)
    assert min(fates[SENT], fates[UNSENT], fates[UNKNOWN]) > 0


def test_a_thousand_messages(amazon: Amazon, folder: Path) -> None:
    """Each is told true and goes once at most, and nothing of the sessions is left."""
    _check(amazon, folder, [400, 600], timeout=0.5)


@pytest.mark.long
def test_a_hundred_thousand_messages(amazon: Amazon, folder: Path) -> None:
    """The same at length: nothing is left after any tenth, and memory is as after the first."""
    _check(amazon, folder, [10_000] * 10, timeout=2)


@pytest.mark.long
@pytest.mark.parametrize("loop", _loops())
def test_in_debug_mode(amazon: Amazon, folder: Path, loop: str) -> None:
    """What asyncio finds when it looks closely, on its own loop and on uvloop, is nothing."""
    _check(amazon, folder, [1_500] * 3, timeout=5, loop=loop, debug=True, at_once=8)
