"""A list's way through the ledger: faults, outages, accounts, limits; against the sandbox."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import frozen

import sp_messaging_async.bulk.campaign
from sp_messaging_async import (
    AuthenticationError,
    CreateUnexpectedProblemRequest,
    Credentials,
    InvalidOrderList,
    LocalThrottle,
    Marketplace,
    Message,
    MessagingSession,
    Outcome,
    OutcomeUnknown,
    RetryPolicy,
    SQLiteLedger,
    TransportError,
    UsagePlan,
)
from sp_messaging_async.bulk.campaign import CampaignRun, enrol
from sp_messaging_async.bulk.outage import Outage
from sp_messaging_async.ledger import Enrolled
from sp_messaging_async.operations import MESSAGING
from sp_messaging_async.sandbox import Fault, Sandbox

from .conftest import Open, run_virtually

SOON = RetryPolicy(attempts=5, base_delay=0.01, max_delay=0.05)
OTHER = "111-1111111-1111111"
NAME = "createUnexpectedProblem"
IN_FLIGHT = 100  # of one seller and operation at the most, by README


@frozen
class Campaign:
    """A list that can be written, enrolled and sent."""

    ledger: SQLiteLedger
    path: Path
    sandbox: Sandbox

    def write(self, orders: int, *, accounts: tuple[str, ...] = ("",), text: str = "Hi.") -> None:
        """Write a list, sorted by account."""
        rows = [
            f"111-222222{place}-{number:07},{NAME},{text},{account}\n"
            for place, account in enumerate(accounts)
            for number in range(orders)
        ]
        self.path.write_text("order_id,operation,text,account\n" + "".join(rows))

    def write_with_files(self, orders: int) -> None:
        """Write a list of invoices, each with a file."""
        self.path.with_name("a.pdf").write_bytes(b"%PDF-1.4")
        rows = [f"111-2222222-{number:07},sendInvoice,a.pdf\n" for number in range(orders)]
        self.path.write_text("order_id,operation,attachments\n" + "".join(rows))

    async def enrol(self, **options: Any) -> Enrolled:
        """Bring the ledger up to the list."""
        realm = self.sandbox.endpoint.realm
        enrolled, _, _ = await enrol(
            self.path, Marketplace.US, self.ledger, "default", realm, **options
        )
        return enrolled

    async def send(
        self, *sessions: MessagingSession, again: bool = False, **options: Any
    ) -> tuple[CampaignRun, list[Outcome]]:
        """Enrol and send."""
        enrolled = await self.enrol(again=again)
        by_account = {session.account: session for session in sessions}
        run = CampaignRun(self.ledger, enrolled.run, by_account, pause=0.01, **options)
        async with run.outcomes() as outcomes:
            return run, [outcome async for outcome in outcomes]

    def delivered(self) -> Counter[str]:
        """How often each order's message reached its buyer."""
        return Counter(each.amazon_order_id for each in self.sandbox.delivered)


@pytest.fixture
async def campaign(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Campaign]:
    """A campaign with a ledger of its own."""
    async with SQLiteLedger(tmp_path / "ledger") as ledger:
        yield Campaign(ledger, tmp_path / "orders.csv", sandbox)


def fail(sandbox: Sandbox, choose: Callable[[str], Fault | None]) -> None:
    """Let a function choose the fault of each request that is not for a token."""
    sandbox.faults.take = (  # type: ignore[method-assign]
        lambda operation, _: None if operation == "token" else choose(operation)
    )


NO_ANSWER = [
    *(Fault.INTERNAL_FAILURE, Fault.INTERNAL_FAILURE_AFTER, Fault.UNAVAILABLE, Fault.BAD_GATEWAY),
    *(Fault.UNAVAILABLE_AFTER, Fault.DROPPED, Fault.DROPPED_AFTER, Fault.HANG, Fault.HANG_AFTER),
    *(Fault.HTML_AFTER, Fault.TRUNCATED_AFTER, Fault.CUT_AFTER, Fault.ERRORS_AFTER),
]
HARMLESS = [Fault.THROTTLED, Fault.EXPIRED_TOKEN, Fault.EMPTY_AFTER]


@pytest.mark.parametrize(
    "orders", [600, pytest.param(10_000, marks=pytest.mark.long)], ids="{:,}".format
)
async def test_random_faults(campaign: Campaign, open_session: Open, orders: int) -> None:
    """With a fault in a fifth of all exchanges: no duplicate, none lost, ambiguous ones unknown."""
    chance = random.Random(7)
    ambiguous, expired = 0, set()

    def choose(operation: str, order: str | None) -> Fault | None:
        nonlocal ambiguous
        if operation != NAME or chance.random() >= 0.2:
            return None
        fault = chance.choice(NO_ANSWER + HARMLESS)
        if fault is Fault.EXPIRED_TOKEN and order in expired:
            return Fault.THROTTLED  # the token is renewed once for a message
        expired.update({order} if fault is Fault.EXPIRED_TOKEN else ())
        ambiguous += fault in NO_ANSWER
        return fault

    campaign.sandbox.faults.take = choose  # type: ignore[method-assign]
    campaign.write(orders)
    _, outcomes = await campaign.send(open_session(timeout=2, retry=SOON))
    found = Counter(outcome.status for outcome in outcomes)
    assert found == {"sent": orders - ambiguous, "unknown": ambiguous}
    assert await campaign.ledger.counts() == dict(found)
    delivered = campaign.delivered()
    assert set(delivered.values()) == {1}
    sent = {o.message.amazon_order_id for o in outcomes if o.status == "sent"}
    assert sent <= delivered.keys()


class Watched(Outage):
    """Counts the messages in flight when it closed first, and those let through after that."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.in_flight: int | None = None
        self.trials = 0
        self._under_way = 0

    def enter(self) -> bool:
        may_go = super().enter()
        self._under_way += may_go
        self.trials += may_go and self._on_trial
        return may_go

    def noted(self, outcome: Outcome) -> Outcome:
        self._under_way -= 1
        super().noted(outcome)
        if self.in_flight is None and self._state == "closed":
            self.in_flight = self._under_way
        return outcome


@pytest.mark.parametrize("of_reads", [True, False], ids=["reads fail too", "reads answer"])
async def test_an_outage(
    campaign: Campaign, open_session: Open, of_reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes five unknowns beyond those in flight, and the run goes on by itself."""
    monkeypatch.setattr(sp_messaging_async.bulk.campaign, "Outage", Watched)
    asked = 0

    def choose(operation: str) -> Fault | None:
        nonlocal asked
        is_read = not MESSAGING[operation].messages_buyer
        asked += is_read
        over = asked > 4 * SOON.attempts if of_reads else asked > 3
        return None if over or (is_read and not of_reads) else Fault.UNAVAILABLE

    fail(campaign.sandbox, choose)
    campaign.write(800)
    run, outcomes = await campaign.send(open_session(retry=SOON))
    found = Counter(outcome.status for outcome in outcomes)
    outage = run._outages["default"]
    assert isinstance(outage, Watched)
    assert outage.in_flight is not None
    assert outage.in_flight <= IN_FLIGHT
    # A read that answers lets one message go and see; three do here, in vain.
    in_vain = 0 if of_reads else 3
    assert 5 <= found["unknown"] <= 5 + outage.in_flight + in_vain
    assert found["sent"] == 800 - found["unknown"]
    assert set(campaign.delivered().values()) == {1}


class AlwaysAnswers:
    """A session's reads, in an outage of the sends only."""

    async def get_attributes(self, amazon_order_id: str) -> None:
        """Answer."""


def test_an_hour_in_which_only_sends_fail() -> None:
    """Its reads being answered, a seller goes to see ever more seldom: a dozen times."""

    async def unknowns() -> int:
        loop, number = asyncio.get_running_loop(), 0
        outage = Outage(cast("MessagingSession", AlwaysAnswers()))
        message = Message("1", CreateUnexpectedProblemRequest("Hi."))
        began = loop.time()
        while True:
            await outage.opens()
            if loop.time() - began > 3600:
                break
            if outage.enter():
                number += 1
                outage.noted(Outcome.of_error(message, OutcomeUnknown(TransportError("x", True))))
        await outage.aclose()
        return number

    assert run_virtually(unknowns()) <= 5 + 15


def test_a_pause_leaves_nothing_behind() -> None:
    """However often a seller pauses, no read goes on once its pauses are ended."""

    async def left() -> int:
        outage = Outage(cast("MessagingSession", AlwaysAnswers()))
        message = Message("1", CreateUnexpectedProblemRequest("Hi."))
        failed = Outcome.of_error(message, OutcomeUnknown(TransportError("x", True)))
        for _ in range(2):
            for _ in range(5):
                outage.noted(failed)
            outage.noted(Outcome(message, "sent"))  # it was in flight
        await outage.aclose()
        return len(asyncio.all_tasks()) - 1

    assert run_virtually(left()) == 0


@pytest.mark.parametrize(
    ("orders", "needs"),
    [
        (300, "nothing"),
        (10, "nothing"),
        (10, "actions"),
        (10, "a file"),
    ],
)
async def test_an_outage_in_which_nothing_is_written(
    campaign: Campaign, open_session: Open, orders: int, needs: str
) -> None:
    """While connections are refused nothing is unknown, and all is sent when they are not."""
    if needs == "a file":
        campaign.write_with_files(orders)
    else:
        campaign.write(orders)
    session = open_session(retry=SOON)
    enrolled = await campaign.enrol()
    run = CampaignRun(
        *(campaign.ledger, enrolled.run, {"default": session}),
        pause=0.01,
        check_actions=needs == "actions",
    )
    reads = 0
    read = session.get_attributes

    async def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 5:
            over.set()
        return await read(*args, **kwargs)

    session.get_attributes = count  # type: ignore[method-assign]
    over = asyncio.Event()
    found: Counter[str] = Counter()

    async def send() -> None:
        async with run.outcomes() as outcomes:
            found.update([outcome.status async for outcome in outcomes])

    async with campaign.sandbox.faults.refused():
        sending, outage = asyncio.create_task(send()), asyncio.create_task(over.wait())
        await asyncio.wait((sending, outage), return_when=asyncio.FIRST_COMPLETED)
        gave_up = sending.done()
    outage.cancel()
    await sending
    assert not gave_up, "the run ended before the outage did"
    assert found == {"sent": orders}
    assert set(campaign.delivered().values()) == {1}


@pytest.mark.parametrize("needs", ["actions", "a file"])
async def test_an_outage_before_the_message(
    campaign: Campaign, open_session: Open, needs: str
) -> None:
    """503s for what is asked before each message pause the run too, and all is sent after it."""
    if needs == "a file":
        campaign.write_with_files(20)
    else:
        campaign.write(20)
    pauses = 0

    def choose(operation: str) -> Fault | None:
        nonlocal pauses
        pauses += operation == "getAttributes"
        return Fault.UNAVAILABLE if pauses < 2 * SOON.attempts else None

    fail(campaign.sandbox, choose)
    _, outcomes = await campaign.send(open_session(retry=SOON), check_actions=needs == "actions")
    assert Counter(outcome.status for outcome in outcomes) == {"sent": 20}


@pytest.mark.parametrize("orders", [40, pytest.param(500, marks=pytest.mark.long)])
async def test_two_sellers_side_by_side(campaign: Campaign, orders: int) -> None:
    """Each runs at its own full plan, though the list is sorted by seller, and without a 429."""
    plan = UsagePlan(rate=20, burst=5)
    campaign.write(orders, accounts=("a", "b"))
    async with Sandbox(plans={NAME: plan}) as sandbox:
        sessions = [
            MessagingSession(
                Credentials("c", "s", name, name),
                marketplace="US",
                endpoint=sandbox.endpoint,
                throttle=LocalThrottle({NAME: plan}),
            )
            for name in "ab"
        ]
        run = CampaignRun(
            campaign.ledger, (await campaign.enrol()).run, {s.account: s for s in sessions}
        )
        async with run.outcomes() as outcomes:
            assert {outcome.status async for outcome in outcomes} == {"sent"}
        times = {name: [d.at for d in sandbox.delivered if d.seller == name] for name in "ab"}
        for session in sessions:
            await session.aclose()
    counts = [row.attempts for row in await campaign.ledger.rows()]
    assert set(counts) == {1}, "somebody was throttled"
    starts, ends = ([times[n][at] for n in "ab"] for at in (0, -1))
    assert max(starts) < min(ends), "one waited for the other"
    ideal = (orders - plan.burst) / plan.rate
    if orders > 100:  # less, and what the machine does else is more than 2 % of it
        assert max(end - start for start, end in zip(starts, ends, strict=True)) <= 1.02 * ideal


async def test_revoked_credentials_stop_their_seller_only(
    campaign: Campaign, open_session: Open
) -> None:
    """The other seller's messages are sent; those of the one stay planned, with the reason."""
    campaign.write(20, accounts=("good", "bad"))
    sessions = [
        open_session(credentials=Credentials("c", "s", token, name))
        for token, name in (("fine", "good"), ("revoked", "bad"))
    ]
    run, outcomes = await campaign.send(*sessions)
    assert [outcome.status for outcome in outcomes] == ["sent"] * 20
    assert await campaign.ledger.counts() == {"sent": 20, "planned": 20}
    assert isinstance(run.unsent["bad"], AuthenticationError)
    assert campaign.sandbox.login.requests == 2


async def test_tokens_that_the_api_refuses_stop_their_seller(
    campaign: Campaign, session: MessagingSession
) -> None:
    """Though Login with Amazon gives new ones: messages stay planned, none is rejected for good."""
    fail(
        campaign.sandbox,
        lambda operation: Fault.REVOKED_TOKEN if MESSAGING[operation].messages_buyer else None,
    )
    campaign.write(300)
    await campaign.send(session)
    assert await campaign.ledger.counts() == {"planned": 300}
    assert campaign.sandbox.login.requests < 300


async def test_a_limit(campaign: Campaign, session: MessagingSession) -> None:
    """No more than the limit are taken up, and the next run sends the rest."""
    campaign.write(30)
    _, first = await campaign.send(session, limit=10)
    _, second = await campaign.send(session)
    assert (len(first), len(second)) == (10, 20)
    assert set(campaign.delivered().values()) == {1}


async def test_actions_are_asked_for(campaign: Campaign, session: MessagingSession) -> None:
    """Kinds that are not available for an order are skipped, and are not sent."""
    campaign.write(3)
    messaging = campaign.sandbox.messaging
    messaging._read = (  # type: ignore[method-assign]
        lambda operation, order, place: {"_links": {"actions": [{"href": "/", "name": "warranty"}]}}
    )
    _, outcomes = await campaign.send(session, check_actions=True)
    assert [outcome.status for outcome in outcomes] == ["skipped"] * 3
    assert "available: createWarranty" in str(outcomes[0].error)
    assert campaign.sandbox.delivered == []


async def test_actions_that_are_available(campaign: Campaign, session: MessagingSession) -> None:
    """Kinds that are available are sent, once each."""
    campaign.write(3)
    _, outcomes = await campaign.send(session, check_actions=True)
    assert [outcome.status for outcome in outcomes] == ["sent"] * 3
    assert list(campaign.delivered().values()) == [1] * 3


async def test_a_run_that_is_stopped(campaign: Campaign, open_session: Open) -> None:
    """What is in flight is settled, what waits stays planned, and the next run sends the rest."""
    campaign.write(300)
    slow = LocalThrottle({NAME: UsagePlan(rate=200, burst=5)}, headroom=0)
    enrolled = await campaign.enrol()
    run = CampaignRun(campaign.ledger, enrolled.run, {"default": open_session(throttle=slow)})
    found: Counter[str] = Counter()
    async with run.outcomes() as outcomes:
        async for outcome in outcomes:
            found[outcome.status] += 1
            if found.total() == 20:
                run.stop()
    assert found == {"sent": len(campaign.sandbox.delivered)}
    assert 20 <= found["sent"] < 300
    counts = await campaign.ledger.counts()
    assert counts == {"sent": found["sent"], "planned": 300 - found["sent"]}
    await campaign.send(open_session())
    assert list(campaign.delivered().values()) == [1] * 300


async def test_a_run_that_is_left(campaign: Campaign, session: MessagingSession) -> None:
    """Left early, its messages are sent, unknown or planned, and the next run sends the planned."""
    campaign.write(300)
    enrolled = await campaign.enrol()
    run = CampaignRun(campaign.ledger, enrolled.run, {"default": session})
    async with run.outcomes() as outcomes:
        await anext(outcomes)
    counts = await campaign.ledger.counts()
    assert counts.keys() <= {"sent", "unknown", "planned"}
    assert counts.get("unknown", 0) <= IN_FLIGHT
    unknown = {row.amazon_order_id for row in await campaign.ledger.rows(status="unknown")}
    await campaign.send(session)
    delivered = campaign.delivered()
    assert set(delivered.values()) == {1}
    assert 300 - len(delivered) <= len(unknown)


async def test_an_edited_list(campaign: Campaign, session: MessagingSession) -> None:
    """Rows that are planned yet follow the list; those that were sent stay as they were."""
    campaign.write(6)
    await campaign.send(session, limit=2)
    campaign.write(6, text="Hello.")
    assert (await campaign.enrol()).changed == 2
    await campaign.send(session)
    texts = Counter(getattr(each.request, "text", None) for each in campaign.sandbox.delivered)
    assert texts == {"Hi.": 2, "Hello.": 4}


async def test_a_row_that_was_taken_out(campaign: Campaign, session: MessagingSession) -> None:
    """What the list names no more is not sent."""
    campaign.write(6)
    await campaign.enrol()
    campaign.write(4)
    _, outcomes = await campaign.send(session)
    assert len(outcomes) == len(campaign.sandbox.delivered) == 4
    assert await campaign.ledger.counts() == {"sent": 4, "planned": 2}


async def test_again_goes_on_where_it_broke_off(
    campaign: Campaign, session: MessagingSession
) -> None:
    """Repeated before its end it sends the rest of its cycle; after it, everything once more."""
    campaign.write(10)
    await campaign.send(session)
    await campaign.send(session, again=True, limit=4)
    assert Counter(campaign.delivered().values()) == {2: 4, 1: 6}
    await campaign.send(session, again=True, limit=4)
    await campaign.send(session, again=True)
    assert Counter(campaign.delivered().values()) == {2: 10}
    await campaign.send(session, again=True)
    assert Counter(campaign.delivered().values()) == {3: 10}


async def test_identical_rows_are_merged(campaign: Campaign, session: MessagingSession) -> None:
    """They are counted, and sent once."""
    row = f"111-2222222-0000001,{NAME},one"
    campaign.path.write_text("\n".join(["order_id,operation,text", row, row, row]))
    assert (await campaign.enrol()).merged == 2
    await campaign.send(session)
    assert list(campaign.delivered().values()) == [1]


async def peak_of(campaign: Campaign, session: MessagingSession, orders: int) -> int:
    """The most bytes that Python held while so many messages were enrolled and sent."""
    campaign.write(orders)
    tracemalloc.start()
    try:
        run = CampaignRun(campaign.ledger, (await campaign.enrol()).run, {"default": session})
        async with run.outcomes() as outcomes:
            async for _ in outcomes:
                campaign.sandbox.delivered.clear()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.long
async def test_memory_is_flat(campaign: Campaign, session: MessagingSession) -> None:
    """Ten times as many messages take hardly more of it."""
    few = await peak_of(campaign, session, 2_000)
    many = await peak_of(campaign, session, 22_000)  # of which 2,000 are sent already
    assert many <= few + 2**20


async def test_a_second_run_sends_nothing(campaign: Campaign, session: MessagingSession) -> None:
    """What was sent is left alone, with the number of it; an edited row is named."""
    campaign.write(5)
    await campaign.send(session)
    campaign.write(5, text="Hello.")
    enrolled = await campaign.enrol()
    assert enrolled.left_alone == {"sent": 5}
    assert enrolled.changed == 5
    _, outcomes = await campaign.send(session)
    assert outcomes == []
    _, outcomes = await campaign.send(session, again=True)
    assert len(outcomes) == 5
    assert set(campaign.delivered().values()) == {2}


async def test_problems_and_conflicts_are_told_together(campaign: Campaign) -> None:
    """Nothing is enrolled of a list with problems, unless it is to go on."""
    row = f"111-2222222-0000001,{NAME}"
    lines = [f"{row},one", f"{row},one", f"{row},two", f"1/2,{NAME},x", f"{OTHER},{NAME},fine"]
    campaign.path.write_text("\n".join(["order_id,operation,text", *lines]))
    with pytest.raises(InvalidOrderList) as caught:
        await campaign.enrol()
    assert [problem.line for problem in caught.value.problems] == [4, 5]
    assert "line 2" in caught.value.problems[0].reason
    assert await campaign.ledger.counts() == {}
    enrolled = await campaign.enrol(keep_going=True)
    assert enrolled.merged == 0
    assert [row.amazon_order_id for row in await campaign.ledger.rows()] == [OTHER]


async def test_a_ledger_that_fails_stops_the_run(
    campaign: Campaign, session: MessagingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is written, and the run raises why."""
    from sp_messaging_async import LedgerError, sqlite_ledger

    campaign.write(500)
    commit = sqlite_ledger._commit

    def fail_later(database: Any, group: Any) -> None:
        if len(campaign.sandbox.delivered) >= 50:
            sqlite_ledger._fail(group, LedgerError("the disk is full"))
        else:
            commit(database, group)

    enrolled = await campaign.enrol()
    monkeypatch.setattr(sqlite_ledger, "_commit", fail_later)
    run = CampaignRun(campaign.ledger, enrolled.run, {"default": session})

    async def send() -> None:
        async with run.outcomes() as outcomes:
            async for _ in outcomes:
                pass

    with pytest.raises(LedgerError, match="the disk is full"):
        await send()
    assert len(campaign.sandbox.delivered) <= 50 + IN_FLIGHT
    monkeypatch.undo()
    assert (await campaign.ledger.counts())["planned"] >= 500 - 50 - 2 * IN_FLIGHT
