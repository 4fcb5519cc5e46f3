"""A seller's pause in an outage, as `send_all` meets it: who goes first when it ends."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from pathlib import Path

import pytest

from sp_messaging_async import (
    CreateUnexpectedProblemRequest,
    Message,
    MessagingSession,
    OutcomeUnknown,
    SQLiteLedger,
    TransportError,
    send_all,
)
from sp_messaging_async.bulk import sending
from sp_messaging_async.bulk.outage import IN_A_ROW, Outage
from sp_messaging_async.ledger import Entry, NotPlanned
from sp_messaging_async.sandbox import Fault, Sandbox

NAME = "createUnexpectedProblem"
A_MOMENT = 0.01  # seconds
NEVER = 1000.0  # seconds, in which no test ends


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr(sending, "Outage", functools.partial(Outage, pause=A_MOMENT))


@pytest.fixture
def no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause does not end."""
    monkeypatch.setattr(sending, "Outage", functools.partial(Outage, pause=NEVER))


def messages(first: int, number: int, text: str = "Sold out.") -> list[Message]:
    """To as many orders, from the first one on."""
    return [
        Message(f"111-2222222-{first + n:07}", CreateUnexpectedProblemRequest(text))
        for n in range(number)
    ]


async def found(
    session: MessagingSession, listed: list[Message], ledger: SQLiteLedger | None = None
) -> Counter[str]:
    """What becomes of messages, a few at a time."""
    async with send_all(session, listed, ledger=ledger, concurrency=3) as outcomes:
        return Counter([outcome.status async for outcome in outcomes])


@pytest.mark.usefixtures("pause")
@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.EXPIRED_TOKEN], ids=str)
async def test_the_first_after_a_pause_is_tried_again(
    sandbox: Sandbox, session: MessagingSession, fault: Fault
) -> None:
    """A failure of it that is known to be unsent holds up neither itself nor the others."""
    down = [Fault.UNAVAILABLE] * (IN_A_ROW + 2)  # three are under way when the fifth fails
    sandbox.faults.add(*down, fault, operation=NAME)
    assert await found(session, messages(0, 20)) == {"unknown": len(down), "sent": 13}


@pytest.mark.usefixtures("pause")
async def test_the_first_after_a_pause_is_sent_by_another(
    sandbox: Sandbox,
    session: MessagingSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that the ledger does not let go makes room for the others."""
    usual, intents = Entry.intend, 0

    async def intend(entry: Entry, seconds: float) -> None:
        nonlocal intents
        intents += 1
        await usual(entry, seconds)
        if intents == IN_A_ROW + 3:
            await entry.failed(OutcomeUnknown(TransportError("lost", True)))
            raise NotPlanned(entry.row)

    monkeypatch.setattr(Entry, "intend", intend)
    sandbox.faults.add(*[Fault.UNAVAILABLE] * (IN_A_ROW + 2), operation=NAME)
    async with SQLiteLedger(tmp_path / "ledger") as ledger:
        assert await found(session, messages(0, 20), ledger) == {"unknown": 8, "sent": 12}


@pytest.mark.usefixtures("no_end")
async def test_what_was_recorded_is_no_outage(
    sandbox: Sandbox, session: MessagingSession, tmp_path: Path
) -> None:
    """However many were unknown in an earlier run, this one does not pause for them."""
    async with SQLiteLedger(tmp_path / "ledger") as ledger:
        for message in messages(0, IN_A_ROW + 1):
            sandbox.faults.add(Fault.UNAVAILABLE, operation=NAME)
            with pytest.raises(OutcomeUnknown):
                await session.send(message.amazon_order_id, message.request, ledger=ledger)
        counts = await found(session, messages(0, 20), ledger)
    assert counts == {"unknown": IN_A_ROW + 1, "sent": 14}


@pytest.mark.usefixtures("no_end")
@pytest.mark.parametrize("between", ["sent before", "refused here"])
async def test_what_nobody_was_asked_about_ends_no_outage(
    sandbox: Sandbox, session: MessagingSession, tmp_path: Path, between: str
) -> None:
    """Messages that were sent before, or cannot be sent, do not hide five failures in a row."""
    async with SQLiteLedger(tmp_path / "ledger") as ledger:
        if between == "sent before":
            others = messages(100, 20)
            await found(session, others, ledger)
        else:
            others = messages(100, 20, text="<b>Sold out.</b>")
        sandbox.faults.add(*[Fault.UNAVAILABLE] * 20, operation=NAME)
        mixed = [message for pair in zip(messages(0, 20), others, strict=True) for message in pair]
        unknown = 0
        async with send_all(session, mixed, ledger=ledger, concurrency=1) as outcomes:
            while unknown < IN_A_ROW:
                unknown += (await anext(outcomes)).status == "unknown"
            pausing = next(iter(outcomes._work._outages.values()))
            assert pausing.is_closed
            await asyncio.sleep(0)
    assert len(sandbox.faults) == 20 - IN_A_ROW
