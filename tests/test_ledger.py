"""The contract of a ledger: what every one of them records, permits and refuses."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import pytest
from attrs import define, field
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sp_messaging_async import (
    ApiError,
    AuthenticationError,
    BadRequest,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    Error,
    Finding,
    Forbidden,
    InvalidMessage,
    InvoiceRequest,
    Ledger,
    LedgerError,
    LedgerRow,
    LocalFile,
    MessageRequest,
    MessagingError,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    ServerError,
    SessionClosed,
    SQLiteLedger,
    Throttled,
    TransportError,
    UnsupportedMediaType,
    wire,
)
from sp_messaging_async.ledger import (
    Conflict,
    Enrolled,
    Lane,
    LeftAlone,
    NotOffered,
    Planned,
    SentElsewhere,
    Settlement,
    Status,
    new_owner,
)
from sp_messaging_async.operations import by_request

from .conftest import ORDER, requests_of_every_kind
from .postgres import Postgres

REALM = "Amazon"
NAME = "createUnexpectedProblem"
TEXT = CreateUnexpectedProblemRequest("Sold out.")
OTHER_TEXT = CreateUnexpectedProblemRequest("Back in May.")
ME, SHE = "call:me", "call:she"

FINAL: list[Status] = ["sent", "skipped", "rejected"]
MESSAGED: list[Status] = ["sending", "sent", "unknown"]
NOT_MESSAGED: list[Status] = ["planned", "skipped", "rejected"]
SETTLED: list[Status] = ["sent", "skipped", "rejected", "unknown"]
EVERY: list[Status] = ["planned", "sending", *SETTLED]

MakeLedger: TypeAlias = Callable[[], AbstractAsyncContextManager[Ledger]]


@pytest.fixture(params=["sqlite", "postgres"])
def make_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> MakeLedger:
    """Makes ledgers of a kind, each new and empty."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        return server.ledger
    numbers = itertools.count()
    return lambda: SQLiteLedger(tmp_path / f"{next(numbers)}.sqlite3")


@pytest.fixture
async def ledger(make_ledger: MakeLedger) -> AsyncIterator[Ledger]:
    """A new ledger."""
    async with make_ledger() as opened:
        yield opened


def planned(
    order: str = ORDER,
    request: MessageRequest = TEXT,
    account: str = "default",
    marketplace: str | None = None,
) -> Planned:
    """A message that is to be sent."""
    return Planned(order, request, account, marketplace)


def soon() -> float:
    """A deadline that does not pass during a test."""
    return time.time() + 1000


def gone() -> float:
    """A deadline that has passed."""
    return time.time() - 1


async def put(
    ledger: Ledger, status: Status, campaign: str = "default", order: str = ORDER
) -> LedgerRow:
    """A row that went the usual way to a status; its intent, if it has one, is mine."""
    row = await ledger.plan(planned(order), campaign, REALM)
    assert (row.status, row.campaign) == ("planned", campaign)
    if status != "planned":
        assert await ledger.intend(row.id, ME, soon())
    if status not in ("planned", "sending"):
        await ledger.settle(row.id, ME, Settlement(status))
    return await ledger.row(row.id)


async def statuses(ledger: Ledger) -> list[Status]:
    """Of all rows, by id."""
    return [row.status for row in await ledger.rows()]


# Planning


async def test_a_new_message_is_planned(ledger: Ledger) -> None:
    """Its row holds what was said of it, and nothing of an attempt."""
    began = datetime.now(UTC)
    message = planned(account="second", marketplace="A2EUQ1WTGCTBG2")
    row = await ledger.plan(message, "spring", REALM)
    assert row == await ledger.row(row.id)
    assert (row.campaign, row.amazon_order_id, row.operation) == ("spring", ORDER, NAME)
    assert (row.account, row.marketplace) == ("second", "A2EUQ1WTGCTBG2")
    assert (row.status, row.request, row.attempts) == ("planned", TEXT, 0)
    assert (row.request_id, row.error, row.deadline, row.sent_at) == (None, None, None, None)
    assert began <= row.enrolled_at == row.changed_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    "request_",
    [
        *requests_of_every_kind(),
        InvoiceRequest([LocalFile(Path("bills") / "May.pdf", "Your bill.pdf")]),
        CreateUnexpectedProblemRequest("„日本“ \x00 \U0001f600 '; DROP TABLE messages; --"),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_a_request_is_kept_as_it_was(ledger: Ledger, request_: MessageRequest) -> None:
    """Every kind of message, with whatever characters, is read back equal."""
    row = await ledger.plan(planned(request=request_), "default", REALM)
    assert (await ledger.row(row.id)).request == request_
    assert row.operation == by_request(request_).name


async def test_a_planned_message_may_change(ledger: Ledger) -> None:
    """Planned again, the same row holds what was said last."""
    first = await ledger.plan(planned(), "default", REALM)
    message = planned(request=OTHER_TEXT, account="second", marketplace="A2EUQ1WTGCTBG2")
    second = await ledger.plan(message, "default", REALM)
    assert (second.id, second.status, second.request) == (first.id, "planned", OTHER_TEXT)
    assert (second.account, second.marketplace) == ("second", "A2EUQ1WTGCTBG2")
    assert second == await ledger.row(first.id)


@pytest.mark.parametrize("status", ["sending", *SETTLED])
async def test_a_settled_message_is_not_planned_again(ledger: Ledger, status: Status) -> None:
    """The row that there is is returned, and holds what it held."""
    row = await put(ledger, status)
    assert await ledger.plan(planned(request=OTHER_TEXT), "default", REALM) == row
    assert await ledger.row(row.id) == row


@pytest.mark.parametrize("status", MESSAGED)
async def test_what_another_campaign_has_sent_decides(ledger: Ledger, status: Status) -> None:
    """A message that was, is being or may have been sent is not planned by any campaign."""
    row = await put(ledger, status, "spring")
    assert await ledger.plan(planned(), "summer", REALM) == row
    assert len(await ledger.rows()) == 1


@pytest.mark.parametrize("status", NOT_MESSAGED)
async def test_what_another_campaign_has_not_sent_is_planned(
    ledger: Ledger, status: Status
) -> None:
    """A message that reached nobody in one campaign is another's to send."""
    row = await put(ledger, status, "spring")
    other = await ledger.plan(planned(), "summer", REALM)
    assert (other.campaign, other.status) == ("summer", "planned")
    assert await ledger.row(row.id) == row


@pytest.mark.parametrize("status", MESSAGED)
async def test_another_campaign_decides_over_a_plan_of_its_own(
    ledger: Ledger, status: Status
) -> None:
    """A campaign that planned first is told once the other has sent."""
    await put(ledger, "planned", "summer")
    row = await put(ledger, status, "spring")
    assert await ledger.plan(planned(), "summer", REALM) == row


async def test_other_kinds_and_orders_are_other_messages(ledger: Ledger) -> None:
    """A message sent stops neither another kind for its order nor its kind for another order."""
    await put(ledger, "sent")
    warranty = requests_of_every_kind()[7]
    assert (await ledger.plan(planned(request=warranty), "default", REALM)).status == "planned"
    assert (await ledger.plan(planned("another"), "default", REALM)).status == "planned"


@pytest.mark.parametrize("status", ["sent", "unknown"])
async def test_again_sends_what_another_campaign_has_sent(ledger: Ledger, status: Status) -> None:
    """Planned `again`, a pair may be intended once more, in a campaign of its own."""
    await put(ledger, status, "spring")
    row = await ledger.plan(planned(), "summer", REALM, again=True)
    assert (row.status, row.campaign) == ("planned", "summer")
    assert await ledger.intend(row.id, ME, soon())


async def test_again_may_be_said_of_a_plan(ledger: Ledger) -> None:
    """A row that was planned already is permitted as a new one is."""
    row = await put(ledger, "planned", "summer")
    await put(ledger, "sent", "spring")
    assert not await ledger.intend(row.id, ME, soon())
    await ledger.plan(planned(), "summer", REALM, again=True)
    assert await ledger.intend(row.id, ME, soon())


@pytest.mark.parametrize("status", ["sending", *SETTLED])
async def test_again_opens_nothing_of_its_own_campaign(ledger: Ledger, status: Status) -> None:
    """A redelivery that says `again` is still a redelivery."""
    row = await put(ledger, status)
    assert await ledger.plan(planned(), "default", REALM, again=True) == row
    assert not await ledger.intend(row.id, SHE, soon())


async def test_a_ledger_keeps_to_its_endpoint(ledger: Ledger) -> None:
    """Another endpoint's messages are neither planned nor enrolled, and the error names both."""
    await ledger.plan(planned("first"), "default", "Amazon")
    with pytest.raises(LedgerError, match=r"Amazon.*http://127\.0\.0\.1:1"):
        await ledger.plan(planned(), "default", "http://127.0.0.1:1")
    with pytest.raises(LedgerError, match=r"Amazon.*http://127\.0\.0\.1:1"):
        async with ledger.enrolment("default", "http://127.0.0.1:1"):
            pass
    assert [row.amazon_order_id for row in await ledger.rows()] == ["first"]


async def test_an_enrolment_too_gives_a_ledger_its_endpoint(ledger: Ledger) -> None:
    """The endpoint is recorded by whoever comes first."""
    await enrol(ledger, ["first"])
    with pytest.raises(LedgerError, match="Amazon"):
        await ledger.plan(planned(), "default", "http://127.0.0.1:1")


# Intents


async def test_an_intent_is_recorded(ledger: Ledger) -> None:
    """The row is `sending`, counts the attempt and tells until when the intent holds."""
    row = await put(ledger, "planned")
    deadline, asked = soon(), time.time()
    assert await ledger.intend(row.id, ME, deadline)
    took = time.time() - asked
    row = await ledger.row(row.id)
    assert (row.status, row.attempts, row.request) == ("sending", 1, TEXT)
    assert row.deadline is not None
    # A clock of the ledger's own begins to count when the intent has come there, and not before.
    assert -0.001 <= row.deadline.timestamp() - deadline <= took + 0.001


@pytest.mark.parametrize("status", ["sending", *SETTLED])
@pytest.mark.parametrize("owner", [ME, SHE])
async def test_only_what_is_planned_is_intended(ledger: Ledger, status: Status, owner: str) -> None:
    """Any other row is refused to everyone, and stays as it is."""
    row = await put(ledger, status)
    assert not await ledger.intend(row.id, owner, soon())
    assert await ledger.row(row.id) == row


@pytest.mark.parametrize("status", EVERY)
async def test_an_intent_heeds_the_other_campaigns(ledger: Ledger, status: Status) -> None:
    """It is refused where another campaign's message was, is being or may have been sent."""
    row = await put(ledger, "planned", "summer")
    await put(ledger, status, "spring")
    assert await ledger.intend(row.id, SHE, soon()) == (status in NOT_MESSAGED)


async def test_of_many_intents_at_once_one_is_permitted(ledger: Ledger) -> None:
    """However many want to send a message, one may."""
    row = await put(ledger, "planned")
    owners = [new_owner("call") for _ in range(50)]
    permitted = await asyncio.gather(*(ledger.intend(row.id, owner, soon()) for owner in owners))
    assert Counter(permitted) == {True: 1, False: 49}
    assert (await ledger.row(row.id)).attempts == 1


@pytest.mark.parametrize("again", [False, True])
async def test_of_many_campaigns_at_once_one_is_permitted(ledger: Ledger, again: bool) -> None:
    """However many campaigns plan a pair, and with leave to repeat it, one sends at a time."""
    rows = [
        await ledger.plan(planned(), f"campaign {number}", REALM, again=again)
        for number in range(10)
    ]
    deadline = soon()
    permitted = await asyncio.gather(*(ledger.intend(row.id, ME, deadline) for row in rows))
    assert Counter(permitted) == {True: 1, False: 9}
    assert Counter(await statuses(ledger)) == {"sending": 1, "planned": 9}


async def test_an_intent_is_refused_to_who_has_it(ledger: Ledger) -> None:
    """Asked for twice, it is its owner's yet, who can give it back."""
    row = await put(ledger, "sending")
    assert not await ledger.intend(row.id, ME, soon())
    await ledger.settle(row.id, ME, Settlement("planned"))
    assert await statuses(ledger) == ["planned"]


async def test_intents_at_once_are_told_apart(ledger: Ledger) -> None:
    """Each of many that are committed together learns of its own row, be it permitted or not."""
    rows = [await put(ledger, "planned", order=f"order-{number}") for number in range(40)]
    taken = rows[::3]
    for row in taken:
        assert await ledger.intend(row.id, SHE, soon())
    intents = [ledger.intend(row.id, ME, soon() + row.id / 7) for row in rows]
    assert await asyncio.gather(*intents) == [row not in taken for row in rows]


async def test_no_intent_without_a_row(ledger: Ledger) -> None:
    """What is not in the ledger may not be sent."""
    row = await put(ledger, "planned")
    assert not await ledger.intend(row.id + 1, ME, soon())


async def test_calls_take_effect_in_their_order(ledger: Ledger) -> None:
    """An intent given back before anyone waited for it is given back."""
    row = await put(ledger, "planned")
    waits = [
        ledger.intend(row.id, ME, soon()),
        ledger.settle(row.id, ME, Settlement("planned")),
        ledger.intend(row.id, SHE, soon()),
    ]
    assert [await wait for wait in waits] == [True, None, True]
    assert (await ledger.row(row.id)).status == "sending"


async def test_what_nobody_waits_for_takes_effect(ledger: Ledger) -> None:
    """Who is cancelled may still give its intent back, and may still record what was sent."""
    row = await put(ledger, "planned")
    asyncio.ensure_future(ledger.intend(row.id, ME, soon())).cancel()
    asyncio.ensure_future(ledger.settle(row.id, ME, Settlement("sent"))).cancel()
    assert (await ledger.row(row.id)).status == "sent"


# What became of an attempt


@pytest.mark.parametrize("status", SETTLED)
async def test_an_attempt_is_settled(ledger: Ledger, status: Status) -> None:
    """The row tells how, with Amazon's request id, and when it was sent if it was."""
    row = await put(ledger, "sending")
    await ledger.settle(row.id, ME, Settlement(status, "request-1"))
    row = await ledger.row(row.id)
    assert (row.status, row.request_id, row.attempts) == (status, "request-1", 1)
    assert row.deadline is None
    assert (row.sent_at is not None) == (status == "sent")


async def test_an_attempt_that_was_not_processed_is_planned_again(ledger: Ledger) -> None:
    """Anyone may intend it anew, and the attempts are counted."""
    row = await put(ledger, "sending")
    await ledger.settle(row.id, ME, Settlement.of_error(Throttled(429, (), "request-1")))
    row = await ledger.row(row.id)
    assert (row.status, row.request, row.attempts) == ("planned", TEXT, 1)
    assert isinstance(row.error, Throttled)
    assert await ledger.intend(row.id, SHE, soon())
    assert (await ledger.row(row.id)).attempts == 2


@pytest.mark.parametrize("status", FINAL)
async def test_the_content_of_a_final_row_is_erased(ledger: Ledger, status: Status) -> None:
    """The buyer's text is gone with the answer, and the error that says so names the order."""
    row = await put(ledger, status)
    assert row.content is None
    with pytest.raises(LedgerError, match=ORDER):
        row.request  # noqa: B018 - reading it raises


@pytest.mark.parametrize("status", ["planned", "sending", "unknown"])
async def test_the_content_of_other_rows_is_kept(ledger: Ledger, status: Status) -> None:
    """What is to be sent, or may have to be, can be read."""
    assert (await put(ledger, status)).request == TEXT


async def test_a_row_that_was_never_written_is_settled(ledger: Ledger) -> None:
    """A message that is found not to be available needs no intent to be skipped."""
    row = await put(ledger, "planned")
    await ledger.settle(row.id, ME, Settlement("skipped"))
    row = await ledger.row(row.id)
    assert (row.status, row.attempts) == ("skipped", 0)


@pytest.mark.parametrize("late", ["planned", *SETTLED])
@pytest.mark.parametrize("status", ["sending", *SETTLED])
async def test_nobody_settles_for_somebody_else(
    ledger: Ledger, status: Status, late: Status
) -> None:
    """An intent is its owner's, and what is settled stays."""
    row = await put(ledger, status)
    await ledger.settle(row.id, SHE, Settlement(late, "request-2"))
    assert await ledger.row(row.id) == row


@pytest.mark.parametrize("late", ["planned", *SETTLED])
@pytest.mark.parametrize("status", SETTLED)
async def test_an_attempt_is_settled_once(ledger: Ledger, status: Status, late: Status) -> None:
    """Its owner too cannot take back what it said."""
    row = await put(ledger, status)
    await ledger.settle(row.id, ME, Settlement(late, "request-2"))
    assert await ledger.row(row.id) == row


async def test_answers_at_once_are_told_apart(ledger: Ledger) -> None:
    """Each of many that are committed together settles its own row."""
    said: list[Status] = ["planned", *SETTLED] * 8
    rows = [await put(ledger, "sending", order=f"order-{n}") for n in range(len(said))]
    await asyncio.gather(
        *(
            ledger.settle(row.id, ME, Settlement(status, f"request-{row.id}"))
            for row, status in zip(rows, said, strict=True)
        )
    )
    found = await ledger.rows()
    assert [row.status for row in found] == said
    assert [row.request_id for row in found] == [f"request-{row.id}" for row in rows]


@pytest.mark.parametrize(
    ("first", "second", "stays"),
    [("unknown", "sent", "unknown"), ("planned", "rejected", "rejected")],
)
async def test_answers_for_one_row_at_once(
    ledger: Ledger, first: Status, second: Status, stays: Status
) -> None:
    """They take effect in their order, also where they are committed together."""
    rows = [await put(ledger, "sending", order=f"order-{number}") for number in range(20)]
    await asyncio.gather(
        *(
            ledger.settle(row.id, ME, Settlement(status))
            for status in (first, second)
            for row in rows
        )
    )
    assert await statuses(ledger) == [stays] * 20


ANSWERS = (Error("InvalidInput", "It is „wrong“.", "text"), Error(None, "and\nagain", None))
ERRORS: list[tuple[MessagingError, Status]] = [
    (BadRequest(400, ANSWERS, "request-1"), "rejected"),
    (Forbidden(403, ANSWERS[:1], "request-1"), "rejected"),
    (NotFound(404, (), None, "a body without Amazon's errors"), "rejected"),
    (PayloadTooLarge(413, (), "request-1"), "rejected"),
    (UnsupportedMediaType(415, (), "request-1"), "rejected"),
    (ApiError(307, (), None, "a redirect, which is not followed"), "rejected"),
    (InvalidMessage(Finding("text", "is empty"), Finding("text", "HTML", 3)), "rejected"),
    (
        wire.api_error(
            403, [Error("Unauthorized", "Invalid amazonOrderId and template combination.")], "r"
        ),
        "skipped",
    ),
    (OutcomeUnknown(ServerError(503, ANSWERS, "request-1")), "unknown"),
    (OutcomeUnknown(ApiError(201, ANSWERS, "request-1", "a success that holds errors")), "unknown"),
    (OutcomeUnknown(TransportError("ServerDisconnectedError", True)), "unknown"),
    (OutcomeUnknown(TransportError("the session was closed", True, False)), "unknown"),
    (Throttled(429, ANSWERS[:1], "request-1"), "planned"),
    (TransportError("ClientConnectorError (ECONNREFUSED)", False), "planned"),
    (TransportError("the certificate", False, False), "planned"),
    (ServerError(503, (), "request-1"), "planned"),
    (ApiError(200, (), "request-1", "an unreadable body"), "planned"),
    (AuthenticationError("Login with Amazon refuses", "invalid_grant"), "planned"),
    (NotOffered("not available for this order now"), "planned"),
    (SentElsewhere("it was sent meanwhile"), "planned"),
]


def told(error: MessagingError | None) -> object:
    """All that an error tells, and what its cause does, but for the call that it belongs to."""
    if isinstance(error, OutcomeUnknown):
        return type(error), str(error), fields_of(error.cause)
    return str(error), fields_of(error)


def fields_of(error: MessagingError | None) -> object:
    """An error's class and fields."""
    answered = ("status", "errors", "request_id", "explanation")
    names = (*answered, "findings", "reason", "write_began", "text", "code")
    return type(error), [getattr(error, name, None) for name in names]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=lambda value: str(value)[:40])
async def test_an_error_is_kept_as_it_was(
    ledger: Ledger, error: MessagingError, status: Status
) -> None:
    """It settles its message as the design says, and is read back with its class and fields."""
    row = await put(ledger, "sending")
    await ledger.settle(row.id, ME, Settlement.of_error(error))
    row = await ledger.row(row.id)
    assert row.status == status
    assert told(row.error) == told(error)


async def test_an_error_of_another_class_is_kept_by_its_words(ledger: Ledger) -> None:
    """A row that is planned tells why it was not sent."""
    row = await put(ledger, "sending")
    await ledger.settle(row.id, ME, Settlement.of_error(SessionClosed("the session was closed")))
    row = await ledger.row(row.id)
    assert row.status == "planned"
    assert str(row.error) == "the session was closed"


@pytest.mark.parametrize("text", ["half of a pair: \ud83d", "\udcff", "\x00", "\u2028", "'\"\\"])
async def test_whatever_amazon_says_can_be_read_again(ledger: Ledger, text: str) -> None:
    """No text or request id of an answer makes a ledger unreadable, nor a message unsent."""
    row = await put(ledger, "sending")
    other = await put(ledger, "sending", order="another")
    failure = Settlement.of_error(BadRequest(400, (Error("InvalidInput", text),), text))
    sent = Settlement("sent", text)
    await asyncio.gather(ledger.settle(row.id, ME, failure), ledger.settle(other.id, ME, sent))
    assert await statuses(ledger) == ["rejected", "sent"]
    error = (await ledger.row(row.id)).error
    assert isinstance(error, BadRequest)


# Deadlines


async def test_an_intent_holds_until_its_deadline(ledger: Ledger) -> None:
    """Until then nobody may say what became of it but its owner."""
    row = await put(ledger, "sending")
    assert (await ledger.plan(planned(), "default", REALM)).status == "sending"
    assert (await ledger.row(row.id)).status == "sending"
    assert await ledger.resolve(ORDER, NAME, sent=False) == 0


async def lapse(ledger: Ledger) -> int:
    """A row whose intent, mine, has lapsed; nobody has looked at it."""
    row = await put(ledger, "planned")
    assert await ledger.intend(row.id, ME, gone())
    return row.id


async def test_an_intent_that_lapsed_is_unknown(ledger: Ledger) -> None:
    """Its row becomes `unknown` when it is looked at, with the reason, and is not sent again."""
    row = await ledger.row(await lapse(ledger))
    assert (row.status, row.request) == ("unknown", TEXT)
    assert isinstance(row.error, OutcomeUnknown)
    assert isinstance(row.error.cause, TransportError)
    assert row.error.cause.write_began
    assert not await ledger.intend(row.id, SHE, soon())


@pytest.mark.parametrize("campaign", ["default", "another"])
async def test_an_intent_that_lapsed_is_unknown_to_who_plans(ledger: Ledger, campaign: str) -> None:
    """Whoever would send the message is told, in any campaign."""
    row_id = await lapse(ledger)
    row = await ledger.plan(planned(), campaign, REALM)
    assert (row.id, row.status) == (row_id, "unknown")


async def test_an_intent_that_lapsed_is_listed_as_unknown(ledger: Ledger) -> None:
    """What a person asks for are the messages that nobody can tell of, and these are among them."""
    row_id = await lapse(ledger)
    assert [row.id for row in await ledger.rows(status="unknown")] == [row_id]
    assert await statuses(ledger) == ["unknown"]


async def test_an_intent_that_lapsed_is_counted_as_unknown(ledger: Ledger) -> None:
    """Nobody who sums up a ledger is told that a message is still being sent."""
    await lapse(ledger)
    assert await ledger.counts() == {"unknown": 1}


@pytest.mark.parametrize("sent", [True, False])
async def test_an_intent_that_lapsed_can_be_resolved(ledger: Ledger, sent: bool) -> None:
    """A person need not wait for somebody else to look at the row first."""
    row_id = await lapse(ledger)
    assert await ledger.resolve(ORDER, NAME, sent=sent) == 1
    assert (await ledger.row(row_id)).status == ("sent" if sent else "planned")


async def test_an_intent_that_lapsed_is_unknown_to_a_list(ledger: Ledger) -> None:
    """A list leaves it alone as such, and `again` sends it once more."""
    await lapse(ledger)
    assert (await enrol(ledger, [ORDER])).left_alone == {"unknown": 1}
    assert await send(ledger, (await enrol(ledger, [ORDER], again=True)).run) == [ORDER]


@pytest.mark.parametrize("late", ["planned", *SETTLED])
async def test_a_late_answer_is_recorded(ledger: Ledger, late: Status) -> None:
    """The owner of an intent that lapsed knows better than `unknown`."""
    row_id = await lapse(ledger)
    assert (await ledger.row(row_id)).status == "unknown"
    assert not await ledger.intend(row_id, SHE, soon())
    await ledger.settle(row_id, ME, Settlement(late))
    assert (await ledger.row(row_id)).status == late


async def test_a_late_answer_is_not_another_owners(ledger: Ledger) -> None:
    """What lapsed is not settled by whoever else has something to say."""
    row_id = await lapse(ledger)
    assert not await ledger.intend(row_id, SHE, soon())
    await ledger.settle(row_id, SHE, Settlement("planned"))
    assert (await ledger.row(row_id)).status == "unknown"


async def test_a_late_answer_after_a_resolution(ledger: Ledger) -> None:
    """A message that was resolved as not sent, and then is told to be, is not sent again."""
    row_id = await lapse(ledger)
    assert (await ledger.row(row_id)).status == "unknown"
    await ledger.resolve(ORDER, NAME, sent=False)
    await ledger.settle(row_id, ME, Settlement("sent"))
    assert not await ledger.intend(row_id, SHE, soon())


# Resolving


async def test_resolved_as_sent(ledger: Ledger) -> None:
    """The row is final: its content is erased, it raises nothing, it is never sent."""
    row = await put(ledger, "unknown")
    assert await ledger.resolve(ORDER, NAME, sent=True) == 1
    row = await ledger.row(row.id)
    assert (row.status, row.content, row.error) == ("sent", None, None)
    assert not await ledger.intend(row.id, ME, soon())


async def test_resolved_as_not_sent(ledger: Ledger) -> None:
    """The row is planned with what it was to say, and may be intended once."""
    row = await put(ledger, "unknown")
    assert await ledger.resolve(ORDER, NAME, sent=False) == 1
    row = await ledger.row(row.id)
    assert (row.status, row.request) == ("planned", TEXT)
    assert await ledger.intend(row.id, SHE, soon())
    assert not await ledger.intend(row.id, ME, soon())


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("status", ["planned", "sending", *FINAL])
async def test_only_what_is_unknown_is_resolved(ledger: Ledger, status: Status, sent: bool) -> None:
    """Any other row stays as it is, and none is counted."""
    row = await put(ledger, status)
    assert await ledger.resolve(ORDER, NAME, sent=sent) == 0
    assert await ledger.row(row.id) == row


async def test_another_kind_or_order_is_not_resolved(ledger: Ledger) -> None:
    """The pair that is named is meant, and none that is like it."""
    row = await put(ledger, "unknown")
    assert await ledger.resolve(ORDER, "createWarranty", sent=False) == 0
    assert await ledger.resolve(ORDER + "1", NAME, sent=False) == 0
    assert await ledger.row(row.id) == row


async def test_resolving_in_all_campaigns_or_one(ledger: Ledger) -> None:
    """A campaign that is named is meant alone; else all are."""
    for campaign in ("spring", "summer", "autumn"):
        row = await ledger.plan(planned(), campaign, REALM, again=True)
        assert await ledger.intend(row.id, ME, soon())
        await ledger.settle(row.id, ME, Settlement("unknown"))
    assert await ledger.resolve(ORDER, NAME, sent=True, campaign="summer") == 1
    assert await statuses(ledger) == ["unknown", "sent", "unknown"]
    assert await ledger.resolve(ORDER, NAME, sent=False) == 2
    assert await statuses(ledger) == ["planned", "sent", "planned"]


# Purging


def later() -> datetime:
    """After all that has changed."""
    return datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize("status", EVERY)
async def test_final_rows_are_purged(ledger: Ledger, status: Status) -> None:
    """What is settled is forgotten; what is not, or not surely, is kept."""
    await put(ledger, status)
    assert await ledger.purge(later()) == (status in FINAL)
    assert await statuses(ledger) == ([] if status in FINAL else [status])


async def test_what_changed_since_is_not_purged(ledger: Ledger) -> None:
    """A row is as old as its last change."""
    row = await put(ledger, "sent")
    assert await ledger.purge(row.changed_at - timedelta(milliseconds=1)) == 0
    assert await ledger.purge(row.changed_at + timedelta(milliseconds=1)) == 1


async def test_what_was_purged_is_not_planned(ledger: Ledger) -> None:
    """That it was sent is still known, in all campaigns, and the error names the message."""
    await put(ledger, "sent", "spring")
    await ledger.purge(later())
    for campaign in ("spring", "summer"):
        with pytest.raises(LedgerError, match=f"{NAME}.*{ORDER}"):
            await ledger.plan(planned(), campaign, REALM)
    assert await ledger.rows() == []


async def test_what_was_purged_is_not_enrolled(ledger: Ledger) -> None:
    """It is named as sent before, in a campaign that nobody knows any more."""
    await put(ledger, "sent")
    await ledger.purge(later())
    enrolled = await enrol(ledger, [ORDER, "another"])
    assert enrolled.left_alone == {"sent": 1}
    assert list(enrolled.some_left_alone) == [LeftAlone(1, ORDER, NAME, "sent", None)]
    assert [row.amazon_order_id for row in await ledger.rows()] == ["another"]


async def test_what_was_purged_is_not_intended(ledger: Ledger) -> None:
    """A campaign that planned the pair before does not send it because the other's row is gone."""
    row = await put(ledger, "planned", "summer")
    await put(ledger, "sent", "spring")
    await ledger.purge(later())
    assert not await ledger.intend(row.id, ME, soon())


async def test_what_was_purged_is_sent_again_if_said_so(ledger: Ledger) -> None:
    """`again` is about what was sent, be its row there or not."""
    await put(ledger, "sent")
    await ledger.purge(later())
    row = await ledger.plan(planned(), "default", REALM, again=True)
    assert await ledger.intend(row.id, ME, soon())


@pytest.mark.parametrize("status", ["skipped", "rejected"])
async def test_what_was_never_sent_may_be_planned_after_a_purge(
    ledger: Ledger, status: Status
) -> None:
    """Only what reached a buyer is remembered."""
    await put(ledger, status)
    await ledger.purge(later())
    assert (await ledger.plan(planned(), "default", REALM)).status == "planned"


async def test_other_messages_of_a_purged_order(ledger: Ledger) -> None:
    """The digest is of order and operation together."""
    await put(ledger, "sent")
    await ledger.purge(later())
    warranty = requests_of_every_kind()[7]
    assert (await ledger.plan(planned(request=warranty), "default", REALM)).status == "planned"
    assert (await ledger.plan(planned("another"), "default", REALM)).status == "planned"


# Lists of rows


async def test_rows_by_pages(ledger: Ledger) -> None:
    """Pages follow each other by id, without gap or repetition, and end."""
    ids = [(await put(ledger, "planned", order=f"order-{number}")).id for number in range(7)]
    found: list[int] = []
    while page := await ledger.rows(after=found[-1] if found else 0, limit=3):
        found += [row.id for row in page]
    assert found == sorted(ids)


async def test_rows_of_a_campaign_or_status(ledger: Ledger) -> None:
    """A filter leaves out all others; two leave out both."""
    for status, campaign in itertools.product(EVERY, ("spring", "summer")):
        await put(ledger, status, campaign, f"{campaign}-{status}")
    assert len(await ledger.rows()) == 2 * len(EVERY)
    assert {row.campaign for row in await ledger.rows(campaign="spring")} == {"spring"}
    assert {row.status for row in await ledger.rows(status="unknown")} == {"unknown"}
    (row,) = await ledger.rows(campaign="summer", status="sent")
    assert row.amazon_order_id == "summer-sent"


async def test_counts(ledger: Ledger) -> None:
    """They are of all rows, of a campaign's, or of a run's list, and name what there is."""
    for number, status in enumerate(EVERY):
        for repeat in range(number + 1):
            await put(ledger, status, "spring", f"{status}-{repeat}")
    run = (await enrol(ledger, ["one", "two"], campaign="summer")).run
    spring = {status: number + 1 for number, status in enumerate(EVERY)}
    assert await ledger.counts(campaign="spring") == spring
    assert await ledger.counts() == {**spring, "planned": 3}
    assert await ledger.counts(run=run) == {"planned": 2}
    assert await ledger.counts(campaign="none") == {}


async def test_a_row_that_is_not_there(ledger: Ledger) -> None:
    """Asking for it is an error, and of no other kind than the ledger's."""
    with pytest.raises(LedgerError):
        await ledger.row(1)


# Enrolment

List: TypeAlias = Sequence[str | Planned]


def lines(rows: List, first: int = 1) -> list[tuple[int, Planned]]:
    """Rows of a list with their lines; an order alone stands for the usual message."""
    messages = [row if isinstance(row, Planned) else planned(row) for row in rows]
    return list(enumerate(messages, first))


async def enrol(
    ledger: Ledger, rows: List, *, campaign: str = "default", again: bool = False
) -> Enrolled:
    """Enrol a list."""
    async with ledger.enrolment(campaign, REALM) as enrolment:
        await enrolment.stage(lines(rows))
        return await enrolment.merge(again=again)


async def to_send(ledger: Ledger, run: str) -> list[str]:
    """The orders that a run has yet to send."""
    return [
        row.amazon_order_id
        for lane in await ledger.lanes(run)
        for row in await ledger.to_send(run, lane, 0, 1000)
    ]


async def send(ledger: Ledger, run: str, count: int = 1000, status: Status = "sent") -> list[str]:
    """Send so many of a run's messages, and tell of which orders."""
    sent: list[str] = []
    for lane in await ledger.lanes(run):
        for row in (await ledger.to_send(run, lane, 0, 1000))[: count - len(sent)]:
            if await ledger.intend(row.id, run, soon()):
                await ledger.settle(row.id, run, Settlement(status))
                sent.append(row.amazon_order_id)
    return sent


async def test_a_list_is_planned(ledger: Ledger) -> None:
    """Each row becomes a planned one of the campaign, in the order of the lines."""
    message = planned("two", OTHER_TEXT, "second", "A2EUQ1WTGCTBG2")
    enrolled = await enrol(ledger, ["one", message, "three"], campaign="spring")
    assert (enrolled.merged, enrolled.changed, enrolled.left_alone) == (0, 0, {})
    rows = await ledger.rows()
    assert [row.amazon_order_id for row in rows] == ["one", "two", "three"]
    assert {(row.campaign, row.status, row.attempts) for row in rows} == {("spring", "planned", 0)}
    assert (rows[1].request, rows[1].account) == (OTHER_TEXT, "second")
    assert rows[1].marketplace == "A2EUQ1WTGCTBG2"


async def test_a_list_is_staged_in_parts(ledger: Ledger) -> None:
    """What is said in one part counts in the others."""
    async with ledger.enrolment("default", REALM) as enrolment:
        await enrolment.stage(lines(["one", "two"]))
        await enrolment.stage(lines(["two", "three"], first=3))
        enrolled = await enrolment.merge(again=False)
    assert enrolled.merged == 1
    assert await to_send(ledger, enrolled.run) == ["one", "two", "three"]


async def test_a_list_that_is_not_merged_changes_nothing(ledger: Ledger) -> None:
    """A list that is refused leaves the ledger as it was, and the next list is itself alone."""
    async with ledger.enrolment("default", REALM) as enrolment:
        await enrolment.stage(lines(["one", "two"]))
    assert await ledger.rows() == []
    assert await to_send(ledger, (await enrol(ledger, ["three"])).run) == ["three"]


async def test_lists_at_once_do_not_mix(ledger: Ledger) -> None:
    """Two callers who enrol at the same time get each their own list."""

    async def call(campaign: str) -> list[str]:
        orders = [f"{campaign}-{number}" for number in range(5)]
        return await to_send(ledger, (await enrol(ledger, orders, campaign=campaign)).run)

    spring, summer = await asyncio.gather(call("spring"), call("summer"))
    assert spring == [f"spring-{number}" for number in range(5)]
    assert summer == [f"summer-{number}" for number in range(5)]


async def test_a_cancelled_enrolment_leaves_the_ledger_fit_for_the_next(ledger: Ledger) -> None:
    """It may be cancelled at any moment: the next list is enrolled, and itself alone."""
    ended = False
    for turns in itertools.count():
        task = asyncio.create_task(enrol(ledger, ["cancelled"], campaign="spring"))
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001 * (turns % 5))
        ended = task.done() or turns > 100
        task.cancel()
        await asyncio.wait((task,))
        enrolled = await enrol(ledger, ["next"], campaign="summer")
        assert await to_send(ledger, enrolled.run) == ["next"]
        if ended:
            break


async def test_identical_rows_are_merged(ledger: Ledger) -> None:
    """A row that repeats another is counted, and sent once."""
    enrolled = await enrol(ledger, ["one", "two", "one", "one", "two", "three"])
    assert enrolled.merged == 3
    assert await to_send(ledger, enrolled.run) == ["one", "two", "three"]


DIFFERENT = {
    "text": planned("one", OTHER_TEXT),
    "account": planned("one", account="second"),
    "marketplace": planned("one", marketplace="A2EUQ1WTGCTBG2"),
}
differing = pytest.mark.parametrize("other", DIFFERENT.values(), ids=DIFFERENT)


@differing
async def test_rows_that_differ_are_conflicts(ledger: Ledger, other: Planned) -> None:
    """A row that contradicts an earlier one of its order and kind is named with both lines."""
    async with ledger.enrolment("default", REALM) as enrolment:
        await enrolment.stage(lines(["zero", "one", "two", other, "one", other]))
        found = await enrolment.conflicts(10)
    assert found == ([Conflict(4, 2, "one", NAME), Conflict(6, 2, "one", NAME)], 2)


async def test_files_and_dates_that_differ_are_conflicts(ledger: Ledger) -> None:
    """What is attached and what it covers are part of what a row says."""
    years = [datetime(year, 1, 1, tzinfo=UTC) for year in (2026, 2027, 2028)]
    may, june = ([LocalFile(Path(name))] for name in ("May.pdf", "June.pdf"))
    rows = [
        planned("one", InvoiceRequest(may)),
        planned("one", InvoiceRequest(june)),
        planned("two", CreateWarrantyRequest(may, years[0], years[1])),
        planned("two", CreateWarrantyRequest(may, years[0], years[2])),
    ]
    async with ledger.enrolment("default", REALM) as enrolment:
        await enrolment.stage(lines(rows))
        conflicts, total = await enrolment.conflicts(10)
    assert [(found.first_line, found.line) for found in conflicts] == [(1, 2), (3, 4)]
    assert total == 2


async def test_two_files_of_one_name_are_a_conflict(ledger: Ledger) -> None:
    """Two invoices for one order that differ in their folder are not taken for one."""
    rows = [
        planned("one", InvoiceRequest([LocalFile(Path(folder) / "invoice.pdf")]))
        for folder in ("first parcel", "second parcel")
    ]
    async with ledger.enrolment("default", REALM) as enrolment:
        await enrolment.stage(lines(rows))
        conflicts, _ = await enrolment.conflicts(10)
    assert [(found.first_line, found.line) for found in conflicts] == [(1, 2)]


async def test_kinds_and_orders_of_a_list_do_not_conflict(ledger: Ledger) -> None:
    """Messages of all kinds for an order, and of a kind for all orders, stand side by side."""
    rows = [planned("one", request) for request in requests_of_every_kind()]
    async with ledger.enrolment("default", REALM) as enrolment:
        await enrolment.stage(lines([*rows, "two"]))
        assert await enrolment.conflicts(10) == ([], 0)


async def test_the_first_conflicts_are_told_and_all_counted(ledger: Ledger) -> None:
    """A list with many is told of a few, by line, and how many there are."""
    async with ledger.enrolment("default", REALM) as enrolment:
        await enrolment.stage(lines([f"order-{number}" for number in range(50)]))
        await enrolment.stage(
            lines([planned(f"order-{number}", OTHER_TEXT) for number in range(50)], first=51)
        )
        conflicts, total = await enrolment.conflicts(3)
    assert [found.line for found in conflicts] == [51, 52, 53]
    assert total == 50


async def test_rows_in_conflict_are_left_out(ledger: Ledger) -> None:
    """All rows of the pair are, for nobody knows which of them is meant."""
    enrolled = await enrol(ledger, ["one", "two", planned("one", OTHER_TEXT), "one", "two"])
    assert enrolled.merged == 1
    assert await to_send(ledger, enrolled.run) == ["two"]


@differing
async def test_a_list_that_was_edited_changes_planned_rows(ledger: Ledger, other: Planned) -> None:
    """What was enrolled and not yet sent is sent as the list says now."""
    await enrol(ledger, ["one", "two"])
    enrolled = await enrol(ledger, [other, "two"])
    assert (enrolled.changed, enrolled.left_alone) == (0, {})
    one, two = await ledger.rows()
    assert (one.request, one.account, one.marketplace) == (
        other.request,
        other.account,
        other.marketplace,
    )
    assert two.request == TEXT
    assert sorted(await to_send(ledger, enrolled.run)) == ["one", "two"]


async def test_a_file_that_was_corrected_in_a_list_is_the_one_that_is_sent(
    ledger: Ledger,
) -> None:
    """A planned row attaches the file that the list names now, though it be called the same."""
    wrong, right = (
        planned("one", InvoiceRequest([LocalFile(Path(folder) / "invoice.pdf")]))
        for folder in ("wrong", "right")
    )
    await enrol(ledger, [wrong])
    await enrol(ledger, [right])
    (row,) = await ledger.rows()
    assert row.request == right.request


@pytest.mark.parametrize("status", ["sending", *SETTLED])
async def test_a_list_that_was_edited_changes_no_other_row(ledger: Ledger, status: Status) -> None:
    """Those it would change are named, counted, and left as they are."""
    await put(ledger, status, order="one")
    rows = await ledger.rows()
    enrolled = await enrol(ledger, ["zero", planned("one", OTHER_TEXT)])
    assert enrolled.changed == 1
    assert list(enrolled.some_changed) == [LeftAlone(2, "one", NAME, status, "default")]
    assert enrolled.left_alone == {status: 1}
    assert [row for row in await ledger.rows() if row.amazon_order_id == "one"] == rows


@pytest.mark.parametrize("status", ["sending", *SETTLED])
async def test_rows_that_need_not_be_sent_are_left_alone(ledger: Ledger, status: Status) -> None:
    """The list's own campaign knows them, and they are told with their lines."""
    await put(ledger, status, order="one")
    enrolled = await enrol(ledger, ["zero", "one"])
    assert (enrolled.changed, enrolled.left_alone) == (0, {status: 1})
    assert list(enrolled.some_left_alone) == [LeftAlone(2, "one", NAME, status, "default")]
    assert await to_send(ledger, enrolled.run) == ["zero"]


@pytest.mark.parametrize("status", EVERY)
async def test_rows_of_other_campaigns(ledger: Ledger, status: Status) -> None:
    """A pair that another campaign has messaged is left alone; its rows stay as they are."""
    row = await put(ledger, status, "spring", "one")
    enrolled = await enrol(ledger, ["zero", planned("one", OTHER_TEXT)], campaign="summer")
    assert await ledger.row(row.id) == row
    if status in MESSAGED:
        found = [LeftAlone(2, "one", NAME, status, "spring")]
        assert (list(enrolled.some_left_alone), list(enrolled.some_changed)) == (found, found)
        assert await to_send(ledger, enrolled.run) == ["zero"]
    else:
        assert (enrolled.left_alone, enrolled.changed) == ({}, 0)
        assert sorted(await to_send(ledger, enrolled.run)) == ["one", "zero"]


@pytest.mark.parametrize("status", MESSAGED)
async def test_the_same_of_other_campaigns(ledger: Ledger, status: Status) -> None:
    """What another campaign has messaged with the same content is no change."""
    await put(ledger, status, "spring", "one")
    enrolled = await enrol(ledger, ["one"], campaign="summer")
    assert (enrolled.left_alone, enrolled.changed) == ({status: 1}, 0)


async def test_what_was_sent_here_is_named_last(ledger: Ledger) -> None:
    """Those named first are what a person may not expect: other statuses, other campaigns."""
    await put(ledger, "sent", "spring", "four")
    await put(ledger, "sent", order="one")
    await put(ledger, "rejected", order="two")
    await put(ledger, "sent", order="three")
    enrolled = await enrol(ledger, ["one", "two", "three", "four"])
    assert [found.line for found in enrolled.some_left_alone] == [2, 4, 1, 3]


async def test_a_plan_that_another_campaign_has_overtaken(ledger: Ledger) -> None:
    """A row of one's own that may not be sent any more is told as left alone."""
    await put(ledger, "planned", "summer", "one")
    await put(ledger, "sent", "spring", "one")
    enrolled = await enrol(ledger, ["one"], campaign="summer")
    assert list(enrolled.some_left_alone) == [LeftAlone(1, "one", NAME, "sent", "spring")]
    assert await send(ledger, enrolled.run) == []


async def test_many_left_alone_are_counted_and_the_first_named(ledger: Ledger) -> None:
    """A report stays short, however long the list."""
    orders = [f"order-{number:03}" for number in range(100)]
    await send(ledger, (await enrol(ledger, orders)).run)
    enrolled = await enrol(ledger, [planned(order, OTHER_TEXT) for order in orders])
    assert (enrolled.left_alone, enrolled.changed) == ({"sent": 100}, 100)
    for some in (enrolled.some_left_alone, enrolled.some_changed):
        assert 1 <= len(some) < 100
        assert [found.line for found in some] == list(range(1, len(some) + 1))


async def test_an_empty_list(ledger: Ledger) -> None:
    """It begins a run that has nothing to send."""
    enrolled = await enrol(ledger, [])
    assert await ledger.lanes(enrolled.run) == []
    await ledger.end_run(enrolled.run)


# Sending a list once, resuming, and sending it again


async def test_a_list_is_sent_once(ledger: Ledger) -> None:
    """Enrolled again after its end, it has nothing to send."""
    run = (await enrol(ledger, ["one", "two"])).run
    assert await send(ledger, run) == ["one", "two"]
    await ledger.end_run(run)
    run = (await enrol(ledger, ["one", "two"])).run
    assert await ledger.lanes(run) == []
    assert await ledger.counts(run=run) == {"sent": 2}


async def test_a_list_resumes(ledger: Ledger) -> None:
    """Enrolled again after a crash, it sends what is left, and a new row too."""
    await send(ledger, (await enrol(ledger, ["one", "two", "three"])).run, 1)
    run = (await enrol(ledger, ["one", "two", "three", "four"])).run
    assert sorted(await send(ledger, run)) == ["four", "three", "two"]
    assert await ledger.counts() == {"sent": 4}


@pytest.mark.parametrize("status", SETTLED)
async def test_again_reopens_what_was_settled(ledger: Ledger, status: Status) -> None:
    """Once its run has ended it is sent once more, as if it never had been."""
    run = (await enrol(ledger, ["one"])).run
    await send(ledger, run, status=status)
    await ledger.end_run(run)
    enrolled = await enrol(ledger, [planned("one", OTHER_TEXT)], again=True)
    assert (enrolled.left_alone, enrolled.changed) == ({}, 0)
    (row,) = await ledger.rows()
    assert (row.status, row.request, row.attempts) == ("planned", OTHER_TEXT, 0)
    assert (row.request_id, row.error, row.sent_at) == (None, None, None)
    assert await send(ledger, enrolled.run) == ["one"]


async def test_again_leaves_what_is_being_sent(ledger: Ledger) -> None:
    """An intent that holds is nobody else's, whatever is said."""
    row = await put(ledger, "sending", order="one")
    enrolled = await enrol(ledger, ["one"], again=True)
    assert enrolled.left_alone == {"sending": 1}
    assert await ledger.row(row.id) == row


async def test_again_reopens_what_single_calls_have_sent(ledger: Ledger) -> None:
    """A message of no list at all is held by no run."""
    await put(ledger, "sent", order="one")
    assert await send(ledger, (await enrol(ledger, ["one"], again=True)).run) == ["one"]


async def test_again_sends_what_other_campaigns_have_sent(ledger: Ledger) -> None:
    """Their rows stay, and the campaign gets one of its own."""
    row = await put(ledger, "sent", "spring", "one")
    enrolled = await enrol(ledger, ["one"], campaign="summer", again=True)
    assert enrolled.left_alone == {}
    assert await send(ledger, enrolled.run) == ["one"]
    assert await ledger.row(row.id) == row


async def test_again_permits_what_was_planned(ledger: Ledger) -> None:
    """A row that another campaign has overtaken may be sent."""
    await put(ledger, "planned", "summer", "one")
    await put(ledger, "sent", "spring", "one")
    enrolled = await enrol(ledger, ["one"], campaign="summer", again=True)
    assert enrolled.left_alone == {}
    assert await send(ledger, enrolled.run) == ["one"]


async def test_again_sends_what_was_purged(ledger: Ledger) -> None:
    """Its row is made anew."""
    await put(ledger, "sent", order="one")
    await ledger.purge(later())
    assert await send(ledger, (await enrol(ledger, ["one"], again=True)).run) == ["one"]


ORDERS = ["one", "two", "three", "four"]


async def sent_and_ended(ledger: Ledger) -> None:
    """All orders sent by a run that ended."""
    run = (await enrol(ledger, ORDERS)).run
    assert await send(ledger, run) == ORDERS
    await ledger.end_run(run)


async def test_again_resumes_after_a_crash(ledger: Ledger) -> None:
    """The same call, made again and again, sends the rest, nothing twice, and then ends."""
    await sent_and_ended(ledger)
    sent: list[str] = []
    for _ in ORDERS:
        sent += await send(ledger, (await enrol(ledger, ORDERS, again=True)).run, 1)
    assert sorted(sent) == sorted(ORDERS)
    enrolled = await enrol(ledger, ORDERS, again=True)
    assert await send(ledger, enrolled.run) == []
    await ledger.end_run(enrolled.run)
    assert sorted(await send(ledger, (await enrol(ledger, ORDERS, again=True)).run)) == sorted(
        ORDERS
    )


async def test_again_after_a_run_that_has_not_ended(ledger: Ledger) -> None:
    """What an unfinished run has sent is not sent by the next one that says `again`."""
    await send(ledger, (await enrol(ledger, ORDERS)).run, 2)
    run = (await enrol(ledger, ORDERS, again=True)).run
    assert sorted(await send(ledger, run)) == ["four", "three"]
    await ledger.end_run(run)
    run = (await enrol(ledger, ORDERS, again=True)).run
    assert sorted(await send(ledger, run)) == sorted(ORDERS)


async def test_without_again_an_again_run_resumes_too(ledger: Ledger) -> None:
    """What it has left is sent by a call that does not repeat the word."""
    await sent_and_ended(ledger)
    sent = await send(ledger, (await enrol(ledger, ORDERS, again=True)).run, 2)
    sent += await send(ledger, (await enrol(ledger, ORDERS)).run)
    assert sorted(sent) == sorted(ORDERS)


async def test_another_list_in_between_does_not_make_again_send_twice(ledger: Ledger) -> None:
    """A run of some of the orders, ended meanwhile, does not open what the broken one has sent."""
    await sent_and_ended(ledger)
    sent = await send(ledger, (await enrol(ledger, ORDERS, again=True)).run, 2)
    between = (await enrol(ledger, sent)).run
    assert await send(ledger, between) == []
    await ledger.end_run(between)
    sent += await send(ledger, (await enrol(ledger, ORDERS, again=True)).run)
    assert sorted(sent) == sorted(ORDERS)


async def test_again_with_a_list_that_lacks_what_is_left(ledger: Ledger) -> None:
    """What keeps its rows from being sent again is counted and named, until it was sent."""
    await sent_and_ended(ledger)
    enrolled = await enrol(ledger, ORDERS, again=True)
    assert (enrolled.missing, enrolled.first_missing) == (0, None)
    sent = await send(ledger, enrolled.run, len(ORDERS) - 1)
    (left,) = set(ORDERS) - set(sent)
    assert (await enrol(ledger, sent)).missing == 0, "nothing was to be sent again"
    enrolled = await enrol(ledger, sent, again=True)
    assert (enrolled.missing, enrolled.first_missing) == (1, left)
    assert await send(ledger, enrolled.run) == []
    await ledger.end_run(enrolled.run)
    enrolled = await enrol(ledger, ["another"], again=True)
    assert enrolled.missing == 0, "it keeps back nothing of this list"
    await send(ledger, enrolled.run)
    enrolled = await enrol(ledger, ORDERS, again=True)
    assert (enrolled.missing, await send(ledger, enrolled.run)) == (0, [left])


# Runs


async def test_lanes(ledger: Ledger) -> None:
    """There is one for each account and operation that has something to send, with its number."""
    warranty = requests_of_every_kind()[7]
    run = (
        await enrol(
            ledger,
            [
                planned("one", account="b"),
                planned("two", account="a"),
                planned("two", warranty, "a"),
                planned("three", account="a"),
                planned("four", account="a"),
            ],
        )
    ).run
    (row, *_) = [row for row in await ledger.rows() if row.amazon_order_id == "four"]
    await ledger.settle(row.id, ME, Settlement("skipped"))
    found = [(lane.account, lane.operation, lane.number) for lane in await ledger.lanes(run)]
    assert found == [("a", NAME, 2), ("a", "createWarranty", 1), ("b", NAME, 1)]


async def test_lanes_are_of_a_runs_list(ledger: Ledger) -> None:
    """What another list or a single call has planned is not the run's to send."""
    await enrol(ledger, ["one", "two"])
    await put(ledger, "planned", order="three")
    run = (await enrol(ledger, ["two", "four"])).run
    assert sorted(await to_send(ledger, run)) == ["four", "two"]


async def test_a_lane_is_read_by_pages(ledger: Ledger) -> None:
    """Pages follow each other by id; what is settled meanwhile is not among them."""
    run = (await enrol(ledger, [f"order-{number}" for number in range(7)])).run
    (lane,) = await ledger.lanes(run)
    first = await ledger.to_send(run, lane, 0, 3)
    assert [row.amazon_order_id for row in first] == ["order-0", "order-1", "order-2"]
    for row in await ledger.rows():
        if row.amazon_order_id == "order-4":
            await ledger.settle(row.id, ME, Settlement("skipped"))
    rest = await ledger.to_send(run, lane, first[-1].id, 100)
    assert [row.amazon_order_id for row in rest] == ["order-3", "order-5", "order-6"]
    assert await ledger.to_send(run, lane, rest[-1].id, 100) == []


async def test_a_lane_of_another_account_or_operation(ledger: Ledger) -> None:
    """A lane holds its own messages alone."""
    run = (await enrol(ledger, [planned("one", account="a"), planned("two", account="b")])).run
    (row,) = await ledger.to_send(run, Lane("b", NAME, 1), 0, 10)
    assert row.amazon_order_id == "two"
    assert await ledger.to_send(run, Lane("a", "createWarranty", 1), 0, 10) == []


@pytest.mark.parametrize("status", EVERY)
async def test_a_run_ends_when_nothing_is_left_to_send(ledger: Ledger, status: Status) -> None:
    """One with a message planned or on its way does not: what it has sent is not opened."""
    run = (await enrol(ledger, ["one", "two"])).run
    first, second = await ledger.rows()
    for row in (first, second):
        await ledger.intend(row.id, run, soon())
    await ledger.settle(first.id, run, Settlement("sent"))
    if status != "sending":
        await ledger.settle(second.id, run, Settlement(status))
    await ledger.end_run(run)
    reopened = "one" in await to_send(ledger, (await enrol(ledger, ["one"], again=True)).run)
    assert reopened == (status not in ("planned", "sending"))


# A campaign's lock


async def test_a_campaign_is_sent_by_one_at_a_time(ledger: Ledger) -> None:
    """The second is refused while the first goes on, and let in after it."""
    async with ledger.campaign_lock("spring"):
        with pytest.raises(LedgerError, match="spring"):
            async with ledger.campaign_lock("spring"):
                pass
        with pytest.raises(LedgerError, match="spring"):
            async with ledger.campaign_lock("spring"):
                pass
    async with ledger.campaign_lock("spring"):
        pass


async def test_campaigns_are_sent_side_by_side(ledger: Ledger) -> None:
    """The lock of one is not in the way of another."""
    async with ledger.campaign_lock("spring"), ledger.campaign_lock("summer"):
        pass


async def test_a_run_that_fails_gives_its_lock_back(ledger: Ledger) -> None:
    """An error or a cancellation leaves the campaign free."""
    with pytest.raises(ZeroDivisionError):
        async with ledger.campaign_lock("spring"):
            raise ZeroDivisionError

    async def hold() -> None:
        async with ledger.campaign_lock("spring"):
            held.set()
            await asyncio.Event().wait()

    held = asyncio.Event()
    task = asyncio.create_task(hold())
    await held.wait()
    task.cancel()
    await asyncio.wait((task,))
    async with ledger.campaign_lock("spring"):
        pass


async def test_the_lock_tells_what_earlier_runs_have_left(ledger: Ledger) -> None:
    """What a run left `sending` is unknown, at once if this is its machine; no other intent is."""
    run = new_owner("run")
    spring = await ledger.plan(planned("one"), "spring", REALM)
    summer = await ledger.plan(planned("two"), "summer", REALM)
    call = await ledger.plan(planned("three"), "spring", REALM)
    lapsed = await ledger.plan(planned("four"), "spring", REALM)
    await ledger.intend(spring.id, run, soon())
    await ledger.intend(summer.id, run, soon())
    await ledger.intend(call.id, new_owner("call"), soon())
    await ledger.intend(lapsed.id, new_owner("call"), gone())
    # A run on another machine may be cut off, and yet write until its intents have lapsed.
    left: Status = "unknown" if isinstance(ledger, SQLiteLedger) else "sending"
    async with ledger.campaign_lock("spring"):
        assert await statuses(ledger) == [left, "sending", "sending", "unknown"]
    for row in (spring, lapsed) if left == "unknown" else (lapsed,):
        assert isinstance((await ledger.row(row.id)).error, OutcomeUnknown)


async def test_a_lock_that_is_refused_settles_nothing(ledger: Ledger) -> None:
    """The run that holds it is alive, and so are its intents."""
    async with ledger.campaign_lock("spring"):
        row = await ledger.plan(planned(), "spring", REALM)
        await ledger.intend(row.id, new_owner("run"), soon())
        with pytest.raises(LedgerError):
            async with ledger.campaign_lock("spring"):
                pass
        assert await statuses(ledger) == ["sending"]


# Every transition, and no other

CAMPAIGNS = ("spring", "summer")
OWNERS = (ME, SHE)


@define
class Row:
    """A row as the design has it."""

    id: int
    repeats: bool
    status: Status = "planned"
    owner: str | None = None


@define
class Model:
    """A ledger as the design has it, of one order and operation, and what is done to both.

    given: how often the pair may have been intended, as the design counts it.
    """

    ledger: Ledger
    rows: dict[str, Row] = field(factory=dict)
    purged: bool = False
    intended: int = 0
    given: int = 1

    def others_messaged(self, campaign: str) -> bool:
        """Whether another campaign has, or may have, messaged the pair."""
        return any(row.status in MESSAGED for name, row in self.rows.items() if name != campaign)

    async def plan(self, campaign: str, again: bool) -> None:
        """Plan the pair; the row that decides is the one that the design says."""
        decides = self._deciding(campaign, again)
        if decides is None and self.purged and not again:
            with pytest.raises(LedgerError):
                await self.ledger.plan(planned(), campaign, REALM)
            return
        row = await self.ledger.plan(planned(), campaign, REALM, again=again)
        if decides is None:
            decides = self.rows[campaign] = Row(row.id, again)
        elif decides.status == "planned":
            decides.repeats |= again
        self.given += again and decides.status == "planned"
        assert (row.id, row.status) == (decides.id, decides.status)

    def _deciding(self, campaign: str, again: bool) -> Row | None:
        own = self.rows.get(campaign)
        rest = [row for name, row in self.rows.items() if name != campaign and not again]
        messaged = [row for row in (own, *rest) if row is not None and row.status in MESSAGED]
        return messaged[0] if messaged else own

    async def intend(self, campaign: str, owner: str, lapses: bool) -> None:
        """Intend a campaign's row; it is permitted if the design permits it."""
        row = self.rows.get(campaign)
        if row is None:
            return
        under_way = any(other.status == "sending" for other in self.rows.values())
        messaged = self.purged or self.others_messaged(campaign)
        permitted = row.status == "planned" and not under_way and (row.repeats or not messaged)
        deadline = gone() if lapses else soon()
        assert await self.ledger.intend(row.id, owner, deadline) == permitted
        if permitted:
            row.status, row.owner = ("unknown" if lapses else "sending"), owner
            self.intended += 1

    async def settle(self, campaign: str, owner: str, status: Status) -> None:
        """Settle a campaign's row; it counts if the intent was the owner's, or there was none."""
        row = self.rows.get(campaign)
        if row is None:
            return
        await self.ledger.settle(row.id, owner, Settlement(status))
        if row.status == "planned" or (row.status in MESSAGED and row.owner == owner):
            self.given += row.status != "planned" and status in NOT_MESSAGED
            row.status, row.owner = status, None

    async def resolve(self, campaign: str | None, sent: bool) -> None:
        """Resolve what is unknown, in a campaign or all."""
        meant = [
            row
            for name, row in self.rows.items()
            if row.status == "unknown" and campaign in (None, name)
        ]
        assert await self.ledger.resolve(ORDER, NAME, sent=sent, campaign=campaign) == len(meant)
        self.given += len(meant) * (not sent)
        for row in meant:
            row.status, row.owner = ("sent" if sent else "planned"), None

    async def purge(self) -> None:
        """Purge all that is final."""
        final = {name: row for name, row in self.rows.items() if row.status in FINAL}
        assert await self.ledger.purge(later()) == len(final)
        self.purged |= any(row.status == "sent" for row in final.values())
        for name in final:
            del self.rows[name]

    async def check(self) -> None:
        """Hold the ledger against the design; to look at what has lapsed is part of it."""
        for campaign, row in self.rows.items():
            found = await self.ledger.row(row.id)
            assert (found.campaign, found.status) == (campaign, row.status)
            assert (found.content is None) == (row.status in FINAL)
        assert len(await self.ledger.rows()) == len(self.rows)
        assert self.intended <= self.given, "a pair was intended twice"


campaigns, owners = st.sampled_from(CAMPAIGNS), st.sampled_from(OWNERS)
outcomes = st.sampled_from(["planned", *SETTLED])
STEPS: st.SearchStrategy[tuple[str, tuple[object, ...]]] = st.one_of(
    st.tuples(st.just("plan"), st.tuples(campaigns, st.booleans())),
    st.tuples(st.just("plan"), st.tuples(campaigns, st.just(False))),
    st.tuples(st.just("intend"), st.tuples(campaigns, owners, st.booleans())),
    st.tuples(st.just("intend"), st.tuples(campaigns, owners, st.just(False))),
    st.tuples(st.just("settle"), st.tuples(campaigns, owners, outcomes)),
    st.tuples(st.just("resolve"), st.tuples(st.none() | campaigns, st.booleans())),
    st.tuples(st.just("purge"), st.just(())),
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=25))
@example(
    steps=[
        ("plan", ("spring", False)),
        ("plan", ("summer", False)),
        ("intend", ("spring", ME, False)),
        ("settle", ("spring", ME, "sent")),
        ("purge", ()),
        ("intend", ("summer", SHE, False)),
    ]
)
async def test_every_transition_is_the_designs(
    make_ledger: MakeLedger, steps: list[tuple[str, tuple[object, ...]]]
) -> None:
    """Whatever happens to a pair in whatever order, its rows go the design's ways alone."""
    async with make_ledger() as ledger:
        model = Model(ledger)
        for name, arguments in steps:
            await getattr(model, name)(*arguments)
            await model.check()
