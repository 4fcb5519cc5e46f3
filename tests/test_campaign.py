"""A list's way through the ledger: faults, outages, accounts, limits; against the sandbox."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from attrs import field, frozen

import sp_messaging_async.bulk.campaign
from sp_messaging_async import (
    AuthenticationError,
    CreateUnexpectedProblemRequest,
    Credentials,
    Forbidden,
    InvalidOrderList,
    LocalThrottle,
    Marketplace,
    Message,
    MessageRequest,
    MessagingSession,
    Outcome,
    OutcomeUnknown,
    PlanKey,
    RetryPolicy,
    SQLiteLedger,
    TransportError,
    UnreadableFile,
    UsagePlan,
)
from sp_messaging_async.bulk.campaign import CampaignRun, enrol
from sp_messaging_async.bulk.order_list import Reading
from sp_messaging_async.bulk.outage import Outage
from sp_messaging_async.bulk.template import Template
from sp_messaging_async.ledger import Enrolled, Lane, Ledger
from sp_messaging_async.models import Buyer, GetAttributesResponse
from sp_messaging_async.operations import MESSAGING, UPLOAD
from sp_messaging_async.sandbox import Fault, Sandbox

from .conftest import FAST, Open, run_virtually
from .postgres import Postgres

SOON = RetryPolicy(attempts=5, base_delay=0.001, max_delay=0.005)
OTHER = "111-1111111-1111111"
NAME = "createUnexpectedProblem"
IN_FLIGHT = 100  # of one seller and operation at the most, by README


@frozen
class Campaign:
    """A list that can be written, enrolled and sent."""

    ledger: Ledger
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
async def campaign(
    request: pytest.FixtureRequest, tmp_path: Path, sandbox: Sandbox
) -> AsyncIterator[Campaign]:
    """A campaign with a ledger of its own, in SQLite unless a test asks for another."""
    if getattr(request, "param", "sqlite") == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        async with server.ledger() as shared:
            yield Campaign(shared, tmp_path / "orders.csv", sandbox)
        return
    async with SQLiteLedger(tmp_path / "ledger") as ledger:
        yield Campaign(ledger, tmp_path / "orders.csv", sandbox)


on_both_ledgers = pytest.mark.parametrize("campaign", ["sqlite", "postgres"], indirect=True)


def fail(sandbox: Sandbox, choose: Callable[[str], Fault | None]) -> None:
    """Let a function choose the fault of each request that is not for a token."""
    sandbox.faults.add(Fault.HANG)  # an empty script is not asked
    sandbox.faults.take = (  # type: ignore[method-assign]
        lambda operation, _: None if operation == "token" else choose(operation)
    )


NO_ANSWER = [
    *(Fault.INTERNAL_FAILURE, Fault.INTERNAL_FAILURE_AFTER, Fault.UNAVAILABLE, Fault.BAD_GATEWAY),
    *(Fault.UNAVAILABLE_AFTER, Fault.DROPPED, Fault.DROPPED_AFTER, Fault.HANG, Fault.HANG_AFTER),
    *(Fault.HTML_AFTER, Fault.TRUNCATED_AFTER, Fault.CUT_AFTER, Fault.ERRORS_AFTER),
]
HARMLESS = [Fault.THROTTLED, Fault.EXPIRED_TOKEN, Fault.EMPTY_AFTER]


@on_both_ledgers
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

    campaign.sandbox.faults.add(Fault.HANG)  # an empty script is not asked
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


@pytest.mark.parametrize("orders", [25, pytest.param(500, marks=pytest.mark.long)])
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


async def test_a_role_that_is_missing_stops_its_seller(
    campaign: Campaign, session: MessagingSession
) -> None:
    """A few messages are refused for good before it is clear that all would be; the rest wait."""
    fail(
        campaign.sandbox,
        lambda operation: Fault.DENIED if MESSAGING[operation].messages_buyer else None,
    )
    campaign.write(300)
    run, _ = await campaign.send(session)
    counts = await campaign.ledger.counts()
    assert counts.keys() == {"planned", "rejected"}
    assert 5 <= counts["rejected"] <= 105  # and what was in flight then
    assert isinstance(run.unsent["default"], Forbidden)


async def test_look_ups_that_are_denied_refuse_no_message(
    campaign: Campaign, session: MessagingSession
) -> None:
    """They say nothing of the messages, which stay planned; the seller is stopped."""
    fail(
        campaign.sandbox,
        lambda operation: None if MESSAGING[operation].messages_buyer else Fault.DENIED,
    )
    campaign.write(300)
    run, _ = await campaign.send(session, check_actions=True)
    assert await campaign.ledger.counts() == {"planned": 300}
    assert isinstance(run.unsent["default"], Forbidden)
    assert campaign.delivered() == {}


@on_both_ledgers
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


@on_both_ledgers
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


@on_both_ledgers
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


@on_both_ledgers
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


@on_both_ledgers
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


@on_both_ledgers
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


# Templates: what is asked before a message, and when

QUESTION = "confirmCustomizationDetails"
TEXTS = {"en": "Dear {{ name }}", "de": "Hallo {{ name }}", "pt": "Oi {{ name }}"}
LOCALES = {"de-AT": "Hallo", "pt-BR": "Oi", "en-GB": "Dear", "nb-NO": "Dear", "": "Dear"}


def template_in(folder: Path, texts: dict[str, str]) -> Template:
    lines = [f'operation = "{QUESTION}"', 'default_locale = "en"', "[text]"]
    lines += [f'{locale} = "{text}"' for locale, text in texts.items()]
    (folder / "t.toml").write_text("\n".join(lines), encoding="utf-8")
    return Template.load(folder / "t.toml")


def order(number: int) -> str:
    return f"111-2222222-{number:07}"


@frozen
class Written:
    """A campaign whose texts a template writes."""

    campaign: Campaign

    def write(self, orders: int, attachments: str = "") -> None:
        """Write a list with a name for every order."""
        rows = [f"{order(number)},Ann {number},{attachments}\n" for number in range(orders)]
        self.campaign.path.write_text("order_id,name,attachments\n" + "".join(rows))

    async def enrol(self, texts: dict[str, str]) -> tuple[Template, str]:
        """Bring the ledger up to the list, with a template of these texts."""
        template = template_in(self.campaign.path.parent, texts)
        return template, (await self.campaign.enrol(reading=Reading(template=template))).run

    async def send(self, session: MessagingSession, **options: Any) -> dict[str, Outcome]:
        """Enrol and send; the outcomes by order."""
        template, run_name = await self.enrol(TEXTS)
        run = CampaignRun(
            *(self.campaign.ledger, run_name, {"default": session}),
            **{"template": template, "pause": 0.01, **options},
        )
        async with run.outcomes() as outcomes:
            return {found.message.amazon_order_id: found async for found in outcomes}

    def texts(self) -> dict[str, str]:
        """What reached the buyers, once each."""
        assert set(self.campaign.delivered().values()) <= {1}
        delivered = self.campaign.sandbox.delivered
        return {each.amazon_order_id: getattr(each.request, "text", "") for each in delivered}


@pytest.fixture
def written(campaign: Campaign) -> Written:
    """A campaign with a template."""
    return Written(campaign)


async def test_each_buyer_in_their_language(written: Written, session: MessagingSession) -> None:
    """The text of a buyer's language goes to them, with what their row says."""
    written.write(10)
    for number in range(10):
        locale = list(LOCALES)[number % 5]
        written.campaign.sandbox.orders.set(order(number), locale=locale or None)
    found = await written.send(session)
    assert {outcome.status for outcome in found.values()} == {"sent"}
    greetings = list(LOCALES.values())
    assert written.texts() == {
        order(number): f"{greetings[number % 5]} Ann {number}" for number in range(10)
    }


async def test_an_edited_template(written: Written, session: MessagingSession) -> None:
    """What is planned yet follows the template, as it follows the list."""
    written.write(2)
    await written.enrol({"en": "Old {{ name }}", "de": "Alt"})
    written.campaign.sandbox.orders.set(order(1), locale="de-DE")
    await written.send(session)
    assert written.texts() == {order(0): "Dear Ann 0", order(1): "Hallo Ann 1"}


@pytest.mark.parametrize("kind", ["getAttributes", "getMessagingActionsForOrder"])
async def test_look_ups_that_fail(written: Written, open_session: Open, kind: str) -> None:
    """They are tried again, and their message is taken up again, until it is sent once."""
    written.write(5)
    faults = [Fault.UNAVAILABLE, Fault.THROTTLED, Fault.DROPPED, Fault.BAD_GATEWAY]
    written.campaign.sandbox.faults.add(*faults, operation=kind, amazon_order_id=order(0))
    lasting = [Fault.INTERNAL_FAILURE] * (SOON.attempts + 2)
    written.campaign.sandbox.faults.add(*lasting, operation=kind, amazon_order_id=order(1))
    found = await written.send(open_session(retry=SOON), check_actions=True)
    assert [outcome.status for outcome in found.values()] == ["sent"] * 5
    assert len(written.texts()) == 5
    assert not written.campaign.sandbox.faults.script


async def test_a_look_up_that_is_refused(written: Written, session: MessagingSession) -> None:
    """Its message is rejected with Amazon's reason, and the others are sent."""
    written.write(3)
    written.campaign.sandbox.faults.add(
        Fault.HTML_ERROR, operation="getAttributes", amazon_order_id=order(1)
    )
    found = await written.send(session)
    assert [found[order(number)].status for number in range(3)] == ["sent", "rejected", "sent"]
    assert "getAttributes for order" in str(found[order(1)].error)
    assert written.texts().keys() == {order(0), order(2)}
    assert await written.campaign.ledger.counts() == {"sent": 2, "rejected": 1}


@pytest.mark.parametrize("check_actions", [False, True], ids=["sent", "asked"])
async def test_orders_for_which_it_is_not_available(
    written: Written, session: MessagingSession, check_actions: bool
) -> None:
    """They are skipped, whether Amazon was asked first or says so of the message."""
    written.write(3)
    written.campaign.sandbox.orders.set(order(1), available=["createWarranty"])
    found = await written.send(session, check_actions=check_actions)
    assert [found[order(number)].status for number in range(3)] == ["sent", "skipped", "sent"]
    assert written.texts().keys() == {order(0), order(2)}
    if check_actions:
        assert "available: createWarranty" in str(found[order(1)].error)


class Held(LocalThrottle):
    """Lets messages go one by one, as they are let; counts what comes for a plan."""

    def __init__(self) -> None:
        super().__init__(FAST, headroom=0)
        self.came: Counter[str] = Counter()
        self.gate = asyncio.Semaphore(0)
        self._changed = asyncio.Event()

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        """Return when the message is let go."""
        self.came[key.operation] += 1
        self._changed.set()
        if MESSAGING.get(key.operation) and MESSAGING[key.operation].messages_buyer:
            await self.gate.acquire()
        await super().acquire(key, again=again)

    async def have_come(self, number: int, operation: str) -> None:
        """Return when so many have come for a plan."""
        while self.came[operation] < number:
            self._changed.clear()
            await self._changed.wait()


async def test_uploads_and_look_ups_ahead(written: Written, open_session: Open) -> None:
    """While messages wait for their plan look-ups go on, and files of ten of them are uploaded."""
    written.write(40, "a.pdf")
    written.campaign.path.with_name("a.pdf").write_bytes(b"%PDF-1.4")
    template, run_name = await written.enrol(TEXTS)
    held = Held()
    sessions = {"default": open_session(throttle=held)}
    run = CampaignRun(written.campaign.ledger, run_name, sessions, template=template)
    async with asyncio.timeout(60), run.outcomes() as outcomes:
        await held.have_come(40, "getAttributes")
        for sent in range(40):
            await held.have_come(min(40, sent + 10), QUESTION)
            assert held.came[UPLOAD.name] == held.came[QUESTION] == min(40, sent + 10)
            assert len(written.campaign.sandbox.delivered) == sent
            held.gate.release()
            assert (await anext(outcomes)).status == "sent"
    assert len(written.texts()) == 40


async def test_a_file_of_all_messages_is_read_once(
    written: Written, session: MessagingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run reads a file that all messages carry once, and uploads it for each."""
    written.write(20, "a.pdf")
    written.campaign.path.with_name("a.pdf").write_bytes(b"%PDF-1.4")
    reads = 0
    read = sp_messaging_async.attachments._read

    def count(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        return read(*args)

    monkeypatch.setattr(sp_messaging_async.attachments, "_read", count)
    await written.send(session)
    assert len(written.texts()) == 20
    assert reads == 1


EXCHANGE = 10.0  # seconds, on a virtual clock


@frozen
class Plain:
    """A ledger in memory, and a session on a virtual clock, of one lane."""

    rows: dict[int, Any]
    throttle: LocalThrottle
    times: list[float] = field(factory=list)

    async def lanes(self, run: str) -> list[Lane]:
        """The only one."""
        return [Lane("default", QUESTION, len(self.rows))]

    async def to_send(self, run: str, lane: Lane, after: int, limit: int) -> list[Any]:
        """The next of those that were not sent."""
        return [row for number, row in self.rows.items() if number > after][:limit]

    async def end_run(self, run: str) -> None:
        """End."""

    async def ask(self, name: str, *args: Any) -> GetAttributesResponse:
        """Answer when the plan for look-ups allows it."""
        await self.throttle.acquire(PlanKey("", "", name))
        await asyncio.sleep(EXCHANGE)
        return GetAttributesResponse(Buyer("de-DE"))

    async def deliver(self, amazon_order_id: str, request: MessageRequest, *args: Any) -> None:
        """Send when the plan for messages allows it."""
        await self.throttle.acquire(PlanKey("", "", QUESTION))
        assert getattr(request, "text", "").startswith("Hallo Ann")
        self.times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(EXCHANGE)
        self.rows.pop(int(amazon_order_id))


@pytest.mark.parametrize(("look_ups", "sends"), [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (0.1, 5.0)])
def test_a_run_takes_as_long_as_its_slower_plan(
    tmp_path: Path, look_ups: float, sends: float
) -> None:
    """Look-ups go on beside the sends, so that two plans take no longer than one."""
    template = template_in(tmp_path, TEXTS)
    request = MESSAGING[QUESTION].request("-")  # type: ignore[misc, call-arg]
    number = 500

    async def seconds() -> float:
        rows = {
            at: SimpleNamespace(
                id=at,
                amazon_order_id=str(at),
                request=request,
                marketplace=None,
                account="default",
                operation=QUESTION,
                variables={"name": f"Ann {at}"},
            )
            for at in range(1, number + 1)
        }
        plans = {"getAttributes": UsagePlan(look_ups, 1), QUESTION: UsagePlan(sends, 1)}
        plain = Plain(rows, LocalThrottle(plans, headroom=0))
        began = asyncio.get_running_loop().time()
        sessions = {"default": cast("MessagingSession", plain)}
        run = CampaignRun(cast("Ledger", plain), "run", sessions, template=template)
        async with run.outcomes() as outcomes:
            assert [outcome.status async for outcome in outcomes] == ["sent"] * number
        return plain.times[-1] - began

    slower, faster = sorted((look_ups, sends))
    expected = (number - 1) / slower
    assert expected - 1 <= run_virtually(seconds()) <= expected + 2 / faster + EXCHANGE


FILES = "createLegalDisclosure"


@pytest.fixture
async def filed(campaign: Campaign) -> Campaign:
    """A campaign of 40 messages, each with a file of its own in a folder beside the list."""
    folder = campaign.path.parent / "files"
    folder.mkdir()
    lines = ["order_id,operation,attachments"]
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"content of {number}")
        lines.append(f"{order(number)},{FILES},files/{number}.txt")
    campaign.path.write_text("\n".join(lines))
    return campaign


async def test_a_folder_that_goes_away(filed: Campaign, session: MessagingSession) -> None:
    """Nothing is rejected for it: the seller stops, and the same list goes on when it is back."""
    folder = filed.path.parent / "files"
    enrolled = await filed.enrol()
    folder.rename(folder.with_name("gone"))
    run = CampaignRun(filed.ledger, enrolled.run, {"default": session})
    async with run.outcomes() as outcomes:
        assert [outcome async for outcome in outcomes] == []
    assert await filed.ledger.counts() == {"planned": 40}
    assert isinstance(run.unsent["default"], UnreadableFile)
    folder.with_name("gone").rename(folder)
    await filed.send(session)
    assert await filed.ledger.counts() == {"sent": 40}
    assert set(filed.delivered().values()) == {1}


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_a_path_that_became_a_link(
    filed: Campaign, session: MessagingSession, tmp_path_factory: pytest.TempPathFactory, what: str
) -> None:
    """What it leads to now was not looked at when the list was read, and reaches no buyer."""
    folder, other = filed.path.parent / "files", tmp_path_factory.mktemp("other")
    for number in range(40):
        (other / f"{number}.txt").write_text("a secret")
    enrolled = await filed.enrol()
    if what == "folder":
        folder.rename(folder.with_name("gone"))
        folder.symlink_to(other)
    else:
        (folder / "7.txt").unlink()
        (folder / "7.txt").symlink_to(other / "7.txt")
    run = CampaignRun(filed.ledger, enrolled.run, {"default": session})
    async with run.outcomes() as outcomes:
        found = {each.message.amazon_order_id: each async for each in outcomes}
    refused = [order(7)] if what == "file" else [order(number) for number in range(40)]
    assert sorted(key for key, each in found.items() if each.status == "rejected") == refused
    assert "leads elsewhere" in str(found[order(7)].error)
    sent = [file.content for each in filed.sandbox.delivered for file in each.files]
    assert b"a secret" not in sent
    assert len(sent) == 40 - len(refused)
