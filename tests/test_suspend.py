"""A machine that sleeps for 20 minutes: what is stale is renewed, and nothing is sent twice.

On Linux and macOS the clock that timers go by stands still meanwhile, elsewhere it goes on. The
time of day goes on everywhere, and may be set by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp.connector
import pytest

from sp_messaging_async import (
    BadRequest,
    CreateUnexpectedProblemRequest,
    InvoiceRequest,
    LocalFile,
    LocalThrottle,
    Message,
    MessagingSession,
    OutcomeUnknown,
    PlanKey,
    SQLiteLedger,
    UsagePlan,
    attachments,
    send_all,
)
from sp_messaging_async.ledger import Entry
from sp_messaging_async.operations import UPLOAD
from sp_messaging_async.sandbox import Sandbox

from .conftest import FAST, ORDER, Open, run_virtually
from .test_auth import Login, source

TEXT = CreateUnexpectedProblemRequest("Sold out.")
A_WHILE = 20 * 60.0  # seconds
LIFE = 600  # seconds of an access token here, so that it ends meanwhile
SHORT = 0.5  # seconds for an exchange that is never answered


class Machine:
    """The clocks of a machine that may sleep, and what has become of Amazon's side meanwhile.

    stands_still: whether the monotonic clock does, while it sleeps.
    """

    def __init__(self, patch: pytest.MonkeyPatch, sandbox: Sandbox, *, stands_still: bool) -> None:
        self._sandbox = sandbox
        self._stands_still = stands_still
        self._day = self._monotonic = 0.0
        usual, usual_monotonic = time.time, time.monotonic

        def monotonic() -> float:
            return usual_monotonic() + self._monotonic

        patch.setattr(time, "time", lambda: usual() + self._day)
        patch.setattr(time, "monotonic", monotonic)
        patch.setattr(aiohttp.connector, "monotonic", monotonic)

    def set_clock(self, seconds: float) -> None:
        """Somebody sets the time of day."""
        self._day += seconds

    def sleep(self) -> None:
        """Sleep, and wake."""
        self._day += A_WHILE
        if not self._stands_still:
            self._monotonic += A_WHILE
        self._sandbox.login.expire_all()
        for upload in self._sandbox._uploads._uploads.values():
            upload.expires = 0
        for transport in self.connections():  # what is written there arrives nowhere
            transport.pause_reading()

    def connections(self) -> list[asyncio.Transport]:
        """Amazon's ends of them."""
        server = self._sandbox._runner.server
        assert server is not None
        return [each.transport for each in server.connections if each.transport is not None]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A local Amazon whose tokens end while the machine sleeps."""
    async with Sandbox(plans=FAST, token_lifetime=LIFE) as local:
        yield local


@pytest.fixture(params=[True, False], ids=["stood still", "went on"])
def machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> Machine:
    """A machine, of either kind."""
    return Machine(monkeypatch, sandbox, stands_still=request.param)


def statuses(sandbox: Sandbox) -> list[int | None]:
    """What Amazon has answered, in order."""
    return [each.status for each in sandbox.journal.since(0)]


def order(number: int) -> str:
    return f"111-2222222-{number:07}"


def delivered(sandbox: Sandbox) -> Counter[str]:
    """How often the buyer of each order was messaged."""
    return Counter(each.amazon_order_id for each in sandbox.delivered)


class Sleepy(LocalThrottle):
    """A throttle in whose queue calls of an operation stand while the machine sleeps, once."""

    def __init__(self, operation: str, sleep: Callable[[], object]) -> None:
        super().__init__(FAST, headroom=0)
        self._operation = operation
        self._sleep: Callable[[], object] | None = sleep

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        await super().acquire(key, again=again)
        if key.operation == self._operation and self._sleep is not None:
            sleep, self._sleep = self._sleep, None
            sleep()


class Held:
    """Messages that Amazon has taken, and whose answers do not come before they are released."""

    def __init__(self, sandbox: Sandbox, patch: pytest.MonkeyPatch, *orders: str) -> None:
        self.go_on = asyncio.Event()
        self.arrived = 0
        usual = sandbox.messaging._answer

        async def answer(operation: Any, request: Any, seller: str) -> Any:
            answered = await usual(operation, request, seller)
            if request.match_info.get("amazonOrderId") in orders:
                self.arrived += 1
                await self.go_on.wait()
            return answered

        patch.setattr(sandbox.messaging, "_answer", answer)

    async def all_arrived(self, number: int) -> None:
        """Return when so many have come."""
        while self.arrived < number:
            await asyncio.sleep(0.001)


# Access tokens


async def test_a_token_that_ended_meanwhile_is_renewed_before_it_is_used(
    sandbox: Sandbox, open_session: Open, machine: Machine
) -> None:
    """The first call afterwards asks for a new one, and Amazon never sees the old."""
    session = open_session()
    await session.send(order(1), TEXT)
    machine.sleep()
    await session.send(order(2), TEXT)
    assert sandbox.login.requests == 2
    assert 403 not in statuses(sandbox)


async def test_a_token_that_ended_in_the_queue_is_renewed(
    sandbox: Sandbox, open_session: Open, machine: Machine
) -> None:
    """A call whose turn came while the machine slept goes with a token that serves."""
    session = open_session(throttle=Sleepy("createUnexpectedProblem", machine.sleep))
    await session.send(ORDER, TEXT)
    assert sandbox.login.requests == 2
    assert 403 not in statuses(sandbox)


def test_a_token_by_a_clock_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set back, a token ends when it ends; set ahead, it is renewed once and not at each call."""

    async def main() -> None:
        day = 1_800_000_000.0
        monkeypatch.setattr(time, "time", lambda: day)
        login, tokens = Login(), source()
        assert await tokens.token(login, 30) == "token 1"
        day -= 86_400
        await asyncio.sleep(3000)
        assert await tokens.token(login, 30) == "token 1"
        await asyncio.sleep(600)
        assert await tokens.token(login, 30) == "token 2"
        day += 2 * 86_400
        assert tokens.is_stale()
        assert [await tokens.token(login, 30) for _ in range(3)] == ["token 3"] * 3
        assert not tokens.is_stale()

    run_virtually(main())


# Connections


async def test_no_message_is_written_on_a_connection_of_before(
    sandbox: Sandbox, open_session: Open, machine: Machine
) -> None:
    """One that was idle is dead without a word: a message on it would be of unknown outcome."""
    session = open_session(timeout=SHORT)
    await session.send(order(1), TEXT)
    machine.sleep()
    await session.send(order(2), TEXT)
    assert delivered(sandbox) == {order(1): 1, order(2): 1}


async def test_a_corrected_clock_costs_no_connection(
    sandbox: Sandbox, session: MessagingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrections of a part of a second, however many, are no sleep."""
    machine = Machine(monkeypatch, sandbox, stands_still=True)
    for number in range(5):
        await session.send(order(number), TEXT)
        machine.set_clock(0.5)
    assert len(machine.connections()) == 1


async def test_an_answer_that_comes_after_all_is_heard(
    sandbox: Sandbox, open_session: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is set leaves exchanges in flight alone, and their connections are closed."""
    machine = Machine(monkeypatch, sandbox, stands_still=True)
    held = Held(sandbox, monkeypatch, order(1))
    session = open_session()
    early = asyncio.ensure_future(session.send(order(1), TEXT))
    await held.all_arrived(1)
    machine.set_clock(A_WHILE)
    await session.send(order(2), TEXT)
    assert len(machine.connections()) == 2
    held.go_on.set()
    await early
    await session.aclose()
    async with asyncio.timeout(30):
        while machine.connections():
            await asyncio.sleep(0.001)


# Uploads


async def test_an_address_that_ended_before_the_file_was_put(
    sandbox: Sandbox,
    open_session: Open,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Another is asked for, and the buyer gets the file once."""
    (tmp_path / "a.pdf").write_bytes(b"a file")
    usual, sleeps = attachments.put, [machine.sleep]

    async def put(*arguments: Any) -> None:
        if sleeps:
            sleeps.pop()()
        await usual(*arguments)

    monkeypatch.setattr(attachments, "put", put)
    session = open_session(timeout=SHORT)
    await session.send(ORDER, InvoiceRequest([LocalFile(tmp_path / "a.pdf")]))
    (message,) = sandbox.delivered
    assert [file.content for file in message.files] == [b"a file"]
    assert statuses(sandbox).count(403) == 1
    puts = [each for each in sandbox.journal.since(0) if each.verb == "PUT"]
    assert [each.status for each in puts] == [403, 200]


@pytest.mark.parametrize("vanish", [1, 2])
async def test_a_file_that_is_gone_when_its_message_comes(
    sandbox: Sandbox, open_session: Open, tmp_path: Path, vanish: int
) -> None:
    """It is uploaded once more, for the refusal says that nothing was sent; then it is final."""
    (tmp_path / "a.pdf").write_bytes(b"a file")

    class Forgetful(LocalThrottle):
        """While a message waits in it, Amazon forgets what was uploaded."""

        left = vanish

        async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
            await super().acquire(key, again=again)
            if key.operation == "sendInvoice" and self.left:
                self.left -= 1
                sandbox._uploads._uploads.clear()

    session = open_session(throttle=Forgetful(FAST, headroom=0))
    request = InvoiceRequest([LocalFile(tmp_path / "a.pdf")])
    async with SQLiteLedger(tmp_path / "ledger") as ledger:
        with contextlib.nullcontext() if vanish == 1 else pytest.raises(BadRequest):
            await session.send(ORDER, request, ledger=ledger)
        (row,) = await ledger.rows()
    assert (row.status, row.attempts) == ("sent" if vanish == 1 else "rejected", 2)
    assert [each.files[0].content for each in sandbox.delivered] == [b"a file"] * (2 - vanish)
    assert sandbox.journal.since(0)[-1].operation == "sendInvoice"
    uploads = [each for each in sandbox.journal.since(0) if each.operation == UPLOAD.name]
    assert len(uploads) == 2


# The ledger


async def test_an_intent_that_was_slept_over(
    sandbox: Sandbox,
    open_session: Open,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Who looks before its owner finds it unknown; the owner writes after a new intent only."""
    usual, path = Entry.intend, tmp_path / "ledger"
    waking: list[Callable[[], None]] = [machine.sleep]

    async def intend(entry: Entry, seconds: float) -> None:
        await usual(entry, seconds)
        if waking:
            waking.pop()()
            async with SQLiteLedger(path) as other:
                with pytest.raises(OutcomeUnknown):
                    await open_session().send(ORDER, TEXT, ledger=other)

    monkeypatch.setattr(Entry, "intend", intend)
    async with SQLiteLedger(path) as ledger:
        await open_session().send(ORDER, TEXT, ledger=ledger)
        (row,) = await ledger.rows()
    assert (row.status, row.attempts) == ("sent", 2)
    assert delivered(sandbox) == {ORDER: 1}
    assert not waking


# All of it


@pytest.mark.parametrize("recorded", [True, False])
async def test_only_what_was_in_flight_is_unknown(
    sandbox: Sandbox,
    open_session: Open,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    recorded: bool,
) -> None:
    """Three of 40 messages are of unknown outcome; what waited, or was not begun, is sent, once."""
    (tmp_path / "a.pdf").write_bytes(b"a file")
    in_flight = [order(number) for number in (4, 9, 12)]
    invoices = [order(number) for number in range(0, 40, 5)]
    held = Held(sandbox, monkeypatch, *in_flight)
    plans = FAST | {"createUnexpectedProblem": UsagePlan(rate=100, burst=5)}
    session = open_session(timeout=SHORT, throttle=LocalThrottle(plans, headroom=0))
    messages = [
        Message(
            name,
            InvoiceRequest([LocalFile(tmp_path / "a.pdf")]) if name in invoices else TEXT,
        )
        for name in map(order, range(40))
    ]
    found: dict[str, str] = {}
    async with contextlib.AsyncExitStack() as stack:
        ledger = SQLiteLedger(tmp_path / "ledger") if recorded else None
        if ledger is not None:
            await stack.enter_async_context(ledger)

        async def run() -> None:
            async with send_all(session, messages, ledger=ledger, concurrency=15) as outcomes:
                async for outcome in outcomes:
                    found[outcome.message.amazon_order_id] = outcome.status

        running = asyncio.ensure_future(run())
        await held.all_arrived(3)
        while len(session._in_flight) > 3:  # another message on its way
            await asyncio.sleep(0)
        machine.sleep()
        await running
        held.go_on.set()
    unknown = sorted(name for name, status in found.items() if status == "unknown")
    assert unknown == in_flight
    assert Counter(found.values()) == {"sent": 37, "unknown": 3}
    assert delivered(sandbox) == dict.fromkeys(map(order, range(40)), 1)
