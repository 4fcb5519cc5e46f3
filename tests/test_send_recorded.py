"""`send` with a ledger: a repeat sends nothing, and the row and the buyer's inbox always agree."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest

from sp_messaging_async import (
    ApiError,
    AuthenticationError,
    CreateNegativeFeedbackRemovalRequest,
    CreateUnexpectedProblemRequest,
    CreateUnexpectedProblemResponse,
    Credentials,
    Endpoint,
    InvalidMessage,
    InvoiceRequest,
    Ledger,
    LedgerError,
    LedgerRow,
    LocalFile,
    LocalThrottle,
    MessageNotAvailable,
    MessageRequest,
    MessagingError,
    MessagingSession,
    OutcomeUnknown,
    PlanWaitExceeded,
    RetryPolicy,
    SessionClosed,
    SQLiteLedger,
    Throttled,
    TransportError,
    sqlite_ledger,
)
from sp_messaging_async import (
    ledger as rules,
)
from sp_messaging_async.ledger import Entry, Status
from sp_messaging_async.operations import by_request
from sp_messaging_async.sandbox import Fault, Sandbox

from .conftest import AT_ONCE, FAST, ORDER, Open, fill, requests_of_every_kind
from .postgres import Postgres
from .test_cancellation import (
    A_MINUTE,
    KINDS,
    MOMENTS,
    NAME,
    SLOW,
    Call,
    Happening,
    Interrupt,
    Watched,
    cancel,
    close,
    cut_off,
    plan_key,
    tokens_left,
    until,
)
from .test_failures import AMBIGUOUS, MANY, REFUSED, STATIC_ORDER, Script, patient
from .test_ledger import told
from .test_sqlite_ledger import Inside, kill, needs_kill, process, read
from .test_transport import Server, answers

TEXT = CreateUnexpectedProblemRequest("Sold out.")
OTHER_TEXT = CreateUnexpectedProblemRequest("Back in May.")
SENT = CreateUnexpectedProblemResponse()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is."""
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
async def ledger(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[Ledger]:
    """A new ledger, in SQLite unless a test asks for another."""
    if getattr(request, "param", "sqlite") == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        async with server.ledger() as shared:
            yield shared
        return
    async with SQLiteLedger(path) as opened:
        yield opened


on_both_ledgers = pytest.mark.parametrize("ledger", ["sqlite", "postgres"], indirect=True)


async def only_row(ledger: Ledger) -> LedgerRow:
    """The one row that there is."""
    (row,) = await ledger.rows()
    return row


async def error_of(call: Awaitable[object]) -> MessagingError:
    """What a call raises that has to raise something."""
    with pytest.raises(MessagingError) as caught:
        await call
    return caught.value


# What is recorded


@pytest.mark.parametrize("request_", requests_of_every_kind(), ids=lambda it: type(it).__name__)
async def test_a_message_that_was_sent(
    sandbox: Sandbox, session: MessagingSession, ledger: Ledger, request_: MessageRequest
) -> None:
    """Its row says so, with Amazon's request id, and holds its content no more."""
    await session.send(STATIC_ORDER, request_, ledger=ledger)
    row = await only_row(ledger)
    assert (row.amazon_order_id, row.operation) == (STATIC_ORDER, by_request(request_).name)
    assert (row.status, row.attempts, row.content, row.error) == ("sent", 1, None, None)
    assert row.request_id
    assert len(sandbox.delivered) == 1


async def test_campaign_account_and_marketplace(
    sandbox: Sandbox, open_session: Open, ledger: Ledger
) -> None:
    """A row tells who sent it, where, and under which name."""
    credentials = Credentials("client", "secret", "Atzr|2", account="second")
    session = open_session(credentials=credentials)
    await session.send(ORDER, TEXT, ledger=ledger)
    await session.send("other", TEXT, ledger=ledger, marketplace="CA", campaign="spring")
    first, second = await ledger.rows()
    assert (first.campaign, first.account, first.marketplace) == ("default", "second", None)
    assert (second.campaign, second.account) == ("spring", "second")
    assert second.marketplace == "A2EUQ1WTGCTBG2"
    assert [item.marketplace.name for item in sandbox.delivered] == ["US", "CA"]


async def test_a_file_that_was_sent(
    sandbox: Sandbox, session: MessagingSession, ledger: Ledger, tmp_path: Path
) -> None:
    """A repeat neither uploads it again nor needs it any more."""
    file = tmp_path / "invoice.pdf"
    file.write_bytes(b"%PDF")
    request = InvoiceRequest([LocalFile(file)])
    await session.send(ORDER, request, ledger=ledger)
    file.unlink()
    await session.send(ORDER, request, ledger=ledger)
    assert [item.files[0].content for item in sandbox.delivered] == [b"%PDF"]


@pytest.mark.parametrize(
    ("order", "request_", "place"),
    [
        ("no/order", TEXT, None),
        (ORDER, CreateUnexpectedProblemRequest("<b>Sold out</b>"), None),
        (ORDER, TEXT, "DE"),
    ],
    ids=["order", "text", "marketplace"],
)
async def test_what_is_refused_here_is_not_recorded(
    session: MessagingSession,
    ledger: Ledger,
    order: str,
    request_: MessageRequest,
    place: str | None,
) -> None:
    """A mistake can be corrected, and the message sent after all."""
    with pytest.raises(InvalidMessage):
        await session.send(order, request_, ledger=ledger, marketplace=place)
    assert await ledger.rows() == []


@pytest.mark.parametrize("arguments", [{"campaign": "spring"}, {"again": True}])
async def test_what_is_a_ledgers_needs_one(
    sandbox: Sandbox, session: MessagingSession, arguments: dict[str, Any]
) -> None:
    """Whoever forgets the ledger is told, before anything is sent."""
    with pytest.raises(InvalidMessage, match="ledger"):
        await session.send(ORDER, TEXT, **arguments)
    assert sandbox.delivered == []


async def test_another_endpoint_is_refused(
    sandbox: Sandbox, open_session: Open, session: MessagingSession, ledger: Ledger
) -> None:
    """A ledger of one host says nothing of another's buyers, and nothing is sent to them."""
    await session.send(ORDER, TEXT, ledger=ledger)
    async with Sandbox(plans=FAST) as other:
        elsewhere = open_session(endpoint=other.endpoint, credentials=other.credentials)
        with pytest.raises(LedgerError, match=f"{sandbox.url}.*{other.url}"):
            await elsewhere.send("another", TEXT, ledger=ledger)
        assert other.delivered == []
    assert len(await ledger.rows()) == 1


# A repeat


@on_both_ledgers
async def test_a_repeat_returns_what_was_recorded(
    sandbox: Sandbox, session: MessagingSession, ledger: Ledger
) -> None:
    """A redelivery sends nothing, whatever it says, and gets the same answer."""
    assert await session.send(ORDER, TEXT, ledger=ledger) == SENT
    row = await only_row(ledger)
    assert await session.send(ORDER, TEXT, ledger=ledger) == SENT
    assert await session.send(ORDER, OTHER_TEXT, ledger=ledger, again=True) == SENT
    assert await only_row(ledger) == row
    assert len(sandbox.delivered) == 1


async def test_a_repeat_by_others(
    sandbox: Sandbox, open_session: Open, session: MessagingSession, path: Path
) -> None:
    """Another session, over a ledger that was closed meanwhile, sends nothing either."""
    for sender in (session, open_session(), session):
        async with SQLiteLedger(path) as ledger:
            assert await sender.send(ORDER, TEXT, ledger=ledger) == SENT
    assert len(sandbox.delivered) == 1


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        *((fault, "unknown") for fault in AMBIGUOUS),
        *((fault, "rejected") for fault in REFUSED if fault is not Fault.NOT_AVAILABLE),
        (Fault.NOT_AVAILABLE, "skipped"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
async def test_a_repeat_raises_what_was_recorded(
    sandbox: Sandbox, open_session: Open, ledger: Ledger, fault: Fault, status: Status
) -> None:
    """A failure that settles a message is raised again as it was, and nothing is sent."""
    script = Script(sandbox, fault)
    session = patient(open_session, fault)
    first = await error_of(session.send(ORDER, TEXT, ledger=ledger))
    assert (await only_row(ledger)).status == status
    second = await error_of(session.send(ORDER, OTHER_TEXT, ledger=ledger))
    assert second is not first
    assert told(second) == told(first)
    assert isinstance(second, ApiError | OutcomeUnknown)
    assert (second.operation, second.amazon_order_id, second.attempts) == (NAME, ORDER, 1)
    assert script.exchanges == 1
    assert len(sandbox.delivered) == fault.accepts


async def test_the_cause_of_a_recorded_doubt_tells_its_call(
    sandbox: Sandbox, session: MessagingSession, ledger: Ledger
) -> None:
    """Whoever logs the cause of what is raised again sees which message it is about."""
    sandbox.faults.add(Fault.DROPPED_AFTER)
    for _ in range(2):
        error = await error_of(session.send(ORDER, TEXT, ledger=ledger))
        assert isinstance(error, OutcomeUnknown)
        assert (error.cause.operation, error.cause.amazon_order_id) == (NAME, ORDER)


@on_both_ledgers
async def test_a_resolved_message_is_returned_or_sent(
    sandbox: Sandbox, session: MessagingSession, ledger: Ledger
) -> None:
    """After a look in Seller Central an unknown message is sent once more, or never."""
    sandbox.faults.add(Fault.DROPPED, Fault.DROPPED_AFTER)
    for order in ("not sent", "sent"):
        with pytest.raises(OutcomeUnknown):
            await session.send(order.replace(" ", "-"), TEXT, ledger=ledger)
    await ledger.resolve("not-sent", NAME, sent=False)
    await ledger.resolve("sent", NAME, sent=True)
    for order in ("not-sent", "sent"):
        assert await session.send(order, TEXT, ledger=ledger) == SENT
    assert sorted(item.amazon_order_id for item in sandbox.delivered) == ["not-sent", "sent"]


@on_both_ledgers
async def test_what_another_campaign_has_sent(
    sandbox: Sandbox, session: MessagingSession, ledger: Ledger
) -> None:
    """It is returned, unless `again` is said, which sends it once more and no oftener."""
    await session.send(ORDER, TEXT, ledger=ledger, campaign="spring")
    await session.send(ORDER, TEXT, ledger=ledger, campaign="summer")
    assert len(sandbox.delivered) == 1
    for _ in range(2):
        await session.send(ORDER, TEXT, ledger=ledger, campaign="summer", again=True)
    assert len(sandbox.delivered) == 2
    assert [row.campaign for row in await ledger.rows()] == ["spring", "summer"]


async def test_another_kind_or_order_is_sent(
    sandbox: Sandbox, session: MessagingSession, ledger: Ledger
) -> None:
    """The order and the operation make the message."""
    await session.send(ORDER, TEXT, ledger=ledger)
    await session.send("another", TEXT, ledger=ledger)
    await session.send(ORDER, CreateNegativeFeedbackRemovalRequest(), ledger=ledger)
    assert len(sandbox.delivered) == 3


# Known to be unsent


Unsent: TypeAlias = Callable[[Sandbox, Open, Ledger], Awaitable[MessagingError]]


async def always_throttled(sandbox: Sandbox, open_session: Open, ledger: Ledger) -> MessagingError:
    """Every attempt is answered 429."""
    sandbox.faults.add(*[Fault.THROTTLED] * AT_ONCE.attempts)
    return await error_of(open_session().send(ORDER, TEXT, ledger=ledger))


async def always_refused(sandbox: Sandbox, open_session: Open, ledger: Ledger) -> MessagingError:
    """Nobody listens."""
    session = open_session()
    await session.get_attributes(ORDER)  # for the token
    async with sandbox.faults.refused():
        return await error_of(session.send(ORDER, TEXT, ledger=ledger))


async def no_turn(sandbox: Sandbox, open_session: Open, ledger: Ledger) -> MessagingError:
    """The plan does not let it go in time."""
    throttle = LocalThrottle({NAME: SLOW}, headroom=0)
    await tokens_left(throttle, plan_key(sandbox))
    session = open_session(throttle=throttle)
    return await error_of(session.send(ORDER, TEXT, ledger=ledger, max_wait=0))


async def no_token(sandbox: Sandbox, open_session: Open, ledger: Ledger) -> MessagingError:
    """The seller has withdrawn its leave."""
    session = open_session(credentials=Credentials("client", "secret", "revoked"))
    return await error_of(session.send(ORDER, TEXT, ledger=ledger))


async def closed(sandbox: Sandbox, open_session: Open, ledger: Ledger) -> MessagingError:
    """The session is closed before it is sent."""
    session = open_session()
    await session.aclose()
    return await error_of(session.send(ORDER, TEXT, ledger=ledger))


@pytest.mark.parametrize(
    ("fail", "error", "attempts"),
    [
        (always_throttled, Throttled, AT_ONCE.attempts),
        (always_refused, TransportError, AT_ONCE.attempts),
        (no_turn, PlanWaitExceeded, 0),
        (no_token, AuthenticationError, 0),
        (closed, SessionClosed, 0),
    ],
)
@on_both_ledgers
async def test_what_is_known_to_be_unsent_is_sent_by_a_repeat(
    sandbox: Sandbox,
    open_session: Open,
    ledger: Ledger,
    fail: Unsent,
    error: type[MessagingError],
    attempts: int,
) -> None:
    """Its row is planned, tells why, and counts the intents; the next call sends it."""
    assert type(await fail(sandbox, open_session, ledger)) is error
    row = await only_row(ledger)
    assert (row.status, row.attempts, row.request) == ("planned", attempts, TEXT)
    assert row.error is not None
    assert sandbox.delivered == []
    assert await open_session().send(ORDER, OTHER_TEXT, ledger=ledger) == SENT
    assert [item.request for item in sandbox.delivered] == [OTHER_TEXT]
    assert (await only_row(ledger)).status == "sent"


@on_both_ledgers
async def test_the_row_before_the_first_turn(
    sandbox: Sandbox, open_session: Open, ledger: Ledger
) -> None:
    """A message that waits for its plan is planned, and nobody has intended it."""
    throttle = LocalThrottle({NAME: SLOW}, headroom=0)
    await tokens_left(throttle, plan_key(sandbox))
    task = asyncio.ensure_future(open_session(throttle=throttle).send(ORDER, TEXT, ledger=ledger))
    await turning(lambda: throttle.waiting(plan_key(sandbox)) == 1)
    row = await only_row(ledger)
    assert (row.status, row.attempts) == ("planned", 0)
    await cancelled(task)


async def turning(condition: Callable[[], bool]) -> None:
    """Let time pass until something is so."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task that is to take it."""
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


@on_both_ledgers
async def test_the_row_after_a_429(sandbox: Sandbox, open_session: Open, ledger: Ledger) -> None:
    """A message that was throttled is planned while it waits for another turn."""
    throttle = LocalThrottle({NAME: SLOW}, headroom=0)
    sandbox.faults.add(Fault.THROTTLED)
    task = asyncio.ensure_future(open_session(throttle=throttle).send(ORDER, TEXT, ledger=ledger))
    await turning(lambda: throttle.waiting(plan_key(sandbox)) == 1)
    assert len(sandbox.faults) == 0
    row = await only_row(ledger)
    assert (row.status, row.attempts) == ("planned", 1)
    assert isinstance(row.error, Throttled)
    await cancelled(task)
    assert (await only_row(ledger)).status == "planned"


@on_both_ledgers
async def test_the_row_after_a_refused_connection(
    sandbox: Sandbox, open_session: Open, ledger: Ledger
) -> None:
    """A message that did not get through is planned while it waits for another attempt."""
    await open_session().get_attributes(ORDER)  # for the token, which is shared
    watched = Watched("on_request_exception")
    async with watched.http() as http:
        session = open_session(http=http, retry=A_MINUTE)
        async with sandbox.faults.refused():
            task = asyncio.ensure_future(session.send(ORDER, TEXT, ledger=ledger))
            await turning(watched.reached.is_set)
            async with asyncio.timeout(5):
                while (row := await only_row(ledger)).status != "planned":
                    await asyncio.sleep(0.001)
        assert row.attempts == 1
        assert isinstance(row.error, TransportError)
        assert not task.done()
        await cancelled(task)
    assert (await only_row(ledger)).status == "planned"


@on_both_ledgers
async def test_a_message_that_gets_through_in_the_end(
    sandbox: Sandbox, session: MessagingSession, ledger: Ledger
) -> None:
    """Each attempt has an intent of its own, and the last one settles the row."""
    sandbox.faults.add(Fault.THROTTLED, Fault.EXPIRED_TOKEN, Fault.THROTTLED)
    assert await session.send(ORDER, TEXT, ledger=ledger) == SENT
    row = await only_row(ledger)
    assert (row.status, row.attempts, row.error) == ("sent", 4, None)


# The intent


async def test_the_intent_is_in_the_file_before_the_message_is_out(
    sandbox: Sandbox, open_session: Open, ledger: Ledger, path: Path
) -> None:
    """As soon as the server has the request, anyone who reads the file finds it `sending`."""
    sandbox.faults.add(Fault.HANG)
    task = asyncio.ensure_future(open_session().send(ORDER, TEXT, ledger=ledger))
    await turning(lambda: len(sandbox.faults) == 0)
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert read(other) == ["sending"]
    row = await only_row(ledger)
    assert row.deadline is not None
    assert row.deadline.timestamp() > time.time() + 20  # the exchange's timeout
    await cancelled(task)
    assert (await only_row(ledger)).status == "unknown"


@asynccontextmanager
async def bare_server(sandbox: Sandbox) -> AsyncIterator[tuple[Server, Endpoint]]:
    """A server that notes every connection; the sandbox gives the tokens for it."""
    async with Server(answers).listening() as server:
        yield server, Endpoint(server.url, sandbox.endpoint.token_url)


@on_both_ledgers
async def test_an_intent_that_lapsed_writes_nothing(
    sandbox: Sandbox,
    open_session: Open,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A deadline that passes before the write stops it, and the message is known to be unsent."""
    monkeypatch.setattr(Entry, "lapsed", lambda _: True)
    async with bare_server(sandbox) as (server, endpoint):
        session = open_session(endpoint=endpoint, retry=RetryPolicy(2, 0, 0))
        error = await error_of(session.send(ORDER, TEXT, ledger=ledger))
        assert server.received == []
    assert isinstance(error, TransportError)
    assert not error.write_began
    row = await only_row(ledger)
    assert (row.status, row.attempts) == ("planned", 2)


@on_both_ledgers
async def test_a_machine_that_slept_before_the_write(
    sandbox: Sandbox, open_session: Open, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intent that has lapsed by then is made anew, and the message is sent once."""
    connecting = Watched("on_request_start", holds=True)
    await open_session().get_attributes(ORDER)  # for the token, which is shared
    async with connecting.http() as http:
        task = asyncio.ensure_future(open_session(http=http).send(ORDER, TEXT, ledger=ledger))
        await turning(connecting.reached.is_set)
        assert (await only_row(ledger)).status == "sending"
        monkeypatch.setattr(rules, "time", Clock(ahead=3600))
        connecting.go_on.set()
        assert await task == SENT
    row = await only_row(ledger)
    assert (row.status, row.attempts) == ("sent", 2)
    assert len(sandbox.delivered) == 1


class Clock:
    """The time of day, some seconds ahead."""

    def __init__(self, ahead: float) -> None:
        self._ahead = ahead

    def time(self) -> float:
        """Seconds since 1970."""
        return time.time() + self._ahead

    def monotonic(self) -> float:
        """Seconds that a clock counts which stood still meanwhile."""
        return time.monotonic()


async def test_a_row_that_lapsed_while_its_answer_was_awaited(
    sandbox: Sandbox, open_session: Open, ledger: Ledger, path: Path
) -> None:
    """Who looks finds it unknown; when the answer comes, it is known after all."""
    held = Watched("on_request_end", holds=True)
    async with held.http() as http:
        task = asyncio.ensure_future(open_session(http=http).send(ORDER, TEXT, ledger=ledger))
        await turning(held.reached.is_set)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("UPDATE messages SET deadline = 1")
        with pytest.raises(OutcomeUnknown):
            await open_session().send(ORDER, TEXT, ledger=ledger)
        held.go_on.set()
        assert await task == SENT
    assert await open_session().send(ORDER, TEXT, ledger=ledger) == SENT
    assert len(sandbox.delivered) == 1


# Many at once


@on_both_ledgers
async def test_many_at_once_send_once(
    sandbox: Sandbox, session: MessagingSession, ledger: Ledger
) -> None:
    """However many want to send a message, one does, and all get its answer."""
    calls = [session.send(ORDER, TEXT, ledger=ledger) for _ in range(20)]
    assert await asyncio.gather(*calls) == [SENT] * 20
    assert len(sandbox.delivered) == 1


async def test_many_sessions_and_ledgers_at_once(
    sandbox: Sandbox, open_session: Open, path: Path
) -> None:
    """It is the file that counts, not the objects."""
    async with contextlib.AsyncExitStack() as stack:
        ledgers = [await stack.enter_async_context(SQLiteLedger(path)) for _ in range(4)]
        calls = [
            open_session().send(f"order-{number}", TEXT, ledger=ledger, campaign=campaign)
            for number in range(5)
            for ledger in ledgers
            for campaign in ("spring", "summer")
        ]
        assert await asyncio.gather(*calls) == [SENT] * len(calls)
    assert Counter(item.amazon_order_id for item in sandbox.delivered) == {
        f"order-{number}": 1 for number in range(5)
    }


@pytest.mark.parametrize(
    ("fault", "error"),
    [(Fault.DROPPED_AFTER, OutcomeUnknown), (Fault.NOT_AVAILABLE, MessageNotAvailable)],
)
@on_both_ledgers
async def test_many_at_once_fail_alike(
    sandbox: Sandbox,
    session: MessagingSession,
    ledger: Ledger,
    fault: Fault,
    error: type[MessagingError],
) -> None:
    """What settles the message settles it for all, after one exchange."""
    sandbox.faults.add(*[fault] * MANY)
    calls = [session.send(ORDER, TEXT, ledger=ledger) for _ in range(20)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(one) for one in ended} == {error}
    assert len(sandbox.faults) == MANY - 1


@on_both_ledgers
async def test_many_at_once_through_throttling(
    sandbox: Sandbox, session: MessagingSession, ledger: Ledger
) -> None:
    """A message that goes back to planned may be another caller's, and is sent once."""
    sandbox.faults.add(*[Fault.THROTTLED] * 10)
    calls = [session.send(ORDER, TEXT, ledger=ledger) for _ in range(20)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(one) for one in ended} <= {CreateUnexpectedProblemResponse, Throttled}
    assert await session.send(ORDER, TEXT, ledger=ledger) == SENT
    assert len(sandbox.delivered) == 1


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_AFTER])
@on_both_ledgers
async def test_the_one_who_sends_is_cancelled(
    sandbox: Sandbox, open_session: Open, ledger: Ledger, fault: Fault
) -> None:
    """Those who wait for its answer are told that nobody knows, and send nothing."""
    sandbox.faults.add(fault)
    sends = asyncio.ensure_future(open_session().send(ORDER, TEXT, ledger=ledger))
    await turning(lambda: len(sandbox.faults) == 0)
    waits = [
        asyncio.ensure_future(open_session().send(ORDER, TEXT, ledger=ledger)) for _ in range(3)
    ]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waits)
    await cancelled(sends)
    ended = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(one) for one in ended} == {OutcomeUnknown}
    assert len(sandbox.delivered) == fault.accepts


async def test_patience_with_who_sends(
    sandbox: Sandbox, open_session: Open, ledger: Ledger
) -> None:
    """A call that may not wait long does not wait long for somebody else's answer."""
    sandbox.faults.add(Fault.HANG_AFTER)
    sends = asyncio.ensure_future(open_session().send(ORDER, TEXT, ledger=ledger))
    await turning(lambda: len(sandbox.faults) == 0)
    with pytest.raises(PlanWaitExceeded):
        await open_session().send(ORDER, TEXT, ledger=ledger, max_wait=0.2)
    assert (await only_row(ledger)).status == "sending"
    await cancelled(sends)
    assert len(sandbox.delivered) == 1


@on_both_ledgers
async def test_a_session_that_is_closed_under_who_waits(
    sandbox: Sandbox, open_session: Open, ledger: Ledger
) -> None:
    """It is told so at once, and the one who sends goes on."""
    sandbox.faults.add(Fault.HANG_AFTER)
    sends = asyncio.ensure_future(open_session().send(ORDER, TEXT, ledger=ledger))
    await turning(lambda: len(sandbox.faults) == 0)
    session = open_session()
    waits = asyncio.ensure_future(session.send(ORDER, TEXT, ledger=ledger))
    await asyncio.sleep(0.05)
    await session.aclose()
    assert type(await error_of(waits)) is SessionClosed
    assert (await only_row(ledger)).status == "sending"
    await cancelled(sends)


async def send_orders(inside: Inside, path: Path, url: str, orders: int) -> None:
    """Send to so many orders from another process, each several times at once."""
    session = MessagingSession(
        Credentials("client", "secret", f"Atzr|{os.getpid()}"),
        marketplace="US",
        endpoint=Endpoint(url, f"{url}/auth/o2/token"),
        throttle=LocalThrottle(FAST, headroom=0),
        retry=AT_ONCE,
    )
    async with SQLiteLedger(path) as ledger, session:
        inside.tell()
        await inside.told()
        calls = [
            session.send(f"order-{number}", TEXT, ledger=ledger)
            for number in range(orders)
            for _ in range(3)
        ]
        inside.tell(await asyncio.gather(*calls) == [SENT] * len(calls))


async def test_many_processes_at_once(sandbox: Sandbox, path: Path) -> None:
    """Each of a machine's processes gets the answer, and the buyer one message."""
    async with contextlib.AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(process(send_orders, path, sandbox.url, 10))
            for _ in range(3)
        ]
        for other in others:
            await other.told()
        for other in others:
            other.tell()
        assert [await other.told() for other in others] == [True] * 3
        assert [await other.ended() for other in others] == [0] * 3
    assert Counter(item.amazon_order_id for item in sandbox.delivered) == {
        f"order-{number}": 1 for number in range(10)
    }


# Interrupted at every moment


async def at_turn_of_the_exchange(
    call: Call, number: int, happening: Happening, watched: Watched
) -> tuple[asyncio.Task[Any], bool]:
    """After so many turns of the event loop since the intent was committed."""
    task = asyncio.create_task(call)
    await asyncio.wait_for(watched.reached.wait(), 5)
    for _ in range(number):
        await asyncio.sleep(0)
    reached = not task.done()
    if reached:
        happening(task)
    await asyncio.wait((task,))
    return task, reached


def as_it_waits(
    call: Call, number: int, happening: Happening, _: Watched
) -> Awaitable[tuple[asyncio.Task[Any], bool]]:
    """When it begins its await of this number."""
    return MOMENTS["as it waits"](call, number, happening)


def as_it_is_woken(
    call: Call, number: int, happening: Happening, _: Watched
) -> Awaitable[tuple[asyncio.Task[Any], bool]]:
    """When what its await of this number waits for has come."""
    return MOMENTS["as it is woken"](call, number, happening)


at_every_moment = pytest.mark.parametrize(
    ("kind", "moment"),
    [
        ("text", as_it_waits),
        ("text", as_it_is_woken),
        ("text", at_turn_of_the_exchange),
        ("file", as_it_waits),
        ("file", as_it_is_woken),
    ],
)
AGREES: dict[Status | None, set[int]] = {
    None: {0},
    "planned": {0},
    "sent": {1},
    "unknown": {0, 1},
}


@at_every_moment
@pytest.mark.parametrize("interrupt", [cancel, close, cut_off])
async def test_row_and_inbox_agree_at_every_moment(
    sandbox: Sandbox,
    open_session: Open,
    ledger: Ledger,
    tmp_path: Path,
    kind: str,
    moment: Any,
    interrupt: Interrupt,
) -> None:
    """Wherever a send ends: planned and not delivered, sent and delivered once, or unknown."""
    file = tmp_path / "invoice.pdf"
    file.write_bytes(b"%PDF")
    request = KINDS[kind](file)
    found: Counter[Status | None] = Counter()
    reached = True
    while reached:
        number = found.total()
        order = f"order-{number:03}"
        began: list[asyncio.Task[Any]] = []
        watched = Watched("on_request_start")
        async with aiohttp.ClientSession(
            # A connection for each request, so that connecting is among the moments.
            connector=aiohttp.TCPConnector(force_close=True),
            trace_configs=[watched.config],
        ) as http:
            session = open_session(
                credentials=Credentials("client", "secret", f"Atzr|{number}"), http=http
            )
            call = session.send(order, request, ledger=ledger)
            happening = partial(happens, interrupt, session, began)
            task, reached = await moment(call, number, happening, watched)
            await asyncio.gather(*began)
            await session.aclose()
        status = await status_of(ledger, order)
        delivered = sum(item.amazon_order_id == order for item in sandbox.delivered)
        assert delivered in AGREES[status], f"{status} at moment {number}"
        check_told(task, status)
        found[status] += 1
    assert found["planned"] > 1 or moment is at_turn_of_the_exchange
    assert found["sent"] + found["unknown"] > 1
    await check_repeats(sandbox, open_session(), ledger, request, found.total())


def happens(
    interrupt: Interrupt,
    session: MessagingSession,
    began: list[asyncio.Task[Any]],
    task: asyncio.Task[Any],
) -> None:
    """Interrupt a send, and note what that began."""
    began += interrupt(session, task)


async def status_of(ledger: Ledger, order: str) -> Status | None:
    """What the ledger knows of an order, once all that was begun has taken effect."""
    rows = [row for row in await ledger.rows(limit=10_000) if row.amazon_order_id == order]
    return rows[0].status if rows else None


def check_told(task: asyncio.Task[Any], status: Status | None) -> None:
    """What the caller was told, unless it was cancelled, is what was recorded."""
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        assert status == "sent"
    else:
        assert isinstance(error, OutcomeUnknown) == (status == "unknown")


async def check_repeats(
    sandbox: Sandbox,
    session: MessagingSession,
    ledger: Ledger,
    request: MessageRequest,
    number: int,
) -> None:
    """Repeat all sends: none is delivered twice, none is lost but those that nobody knows of."""
    orders = [f"order-{one:03}" for one in range(number)]
    calls = [session.send(order, request, ledger=ledger) for order in orders]
    for order, answer in zip(
        orders, await asyncio.gather(*calls, return_exceptions=True), strict=True
    ):
        delivered = sum(item.amazon_order_id == order for item in sandbox.delivered)
        assert delivered == 1 or (isinstance(answer, OutcomeUnknown) and delivered == 0)


# Killed at named points


def _killing(hook: str) -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()

    async def die(_: object, __: object, params: Any) -> None:
        if not hasattr(params, "url") or params.url.path.startswith("/messaging/"):
            kill()

    getattr(trace, hook).append(die)
    return trace


async def die_sending(inside: Inside, path: Path, url: str, point: str) -> None:
    """Send a message, and be killed at a point of it."""
    if point in ("plan", "intend", "settle"):
        setattr(SQLiteLedger, point, lambda *_, **__: kill())
    traces = [_killing(point)] if point.startswith("on_") else []
    async with aiohttp.ClientSession(trace_configs=traces) as http:
        session = MessagingSession(
            Credentials("client", "secret", "Atzr|1"),
            marketplace="US",
            endpoint=Endpoint(url, f"{url}/auth/o2/token"),
            throttle=LocalThrottle(FAST, headroom=0),
            http=http,
        )
        await session.send(ORDER, TEXT, ledger=SQLiteLedger(path))


@needs_kill
@pytest.mark.parametrize(
    ("point", "status", "delivered"),
    [
        ("plan", None, {0}),
        ("intend", "planned", {0}),
        ("on_request_start", "unknown", {0}),
        ("on_request_chunk_sent", "unknown", {0, 1}),
        ("on_request_end", "unknown", {1}),
        ("settle", "unknown", {1}),
    ],
)
async def test_killed_at_a_point_of_a_send(
    sandbox: Sandbox,
    session: MessagingSession,
    path: Path,
    point: str,
    status: Status | None,
    delivered: set[int],
) -> None:
    """What was never written is sent by the next one; what may have been is not."""
    async with process(die_sending, path, sandbox.url, point) as other:
        assert await other.ended() == -signal.SIGKILL
    await until(lambda: True)
    assert len(sandbox.delivered) in delivered
    async with SQLiteLedger(path) as ledger:
        assert await status_of(ledger, ORDER) == status
        if status == "unknown":
            assert type(await error_of(session.send(ORDER, TEXT, ledger=ledger))) is OutcomeUnknown
            assert len(sandbox.delivered) in delivered
        else:
            assert await session.send(ORDER, TEXT, ledger=ledger) == SENT
            assert len(sandbox.delivered) == 1


# A ledger that fails


@contextlib.contextmanager
def locked(path: Path) -> Any:
    """While it is open, another program writes, so that no commit gets through."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits half a minute for another program's commit."""
    monkeypatch.setattr(sqlite_ledger, "_BUSY", 0.2)


@pytest.mark.usefixtures("_impatient")
async def test_a_plan_that_cannot_be_written(
    sandbox: Sandbox, open_session: Open, path: Path
) -> None:
    """Nothing reaches the server, not even a connection; when it can be, the message is sent."""
    async with bare_server(sandbox) as (server, endpoint), SQLiteLedger(path) as ledger:
        session = open_session(endpoint=endpoint)
        with locked(path):
            assert type(await error_of(session.send(ORDER, TEXT, ledger=ledger))) is LedgerError
            assert server.connections == 0
        assert await session.send(ORDER, TEXT, ledger=ledger) == SENT
        assert len(server.received) == 1


@pytest.mark.usefixtures("_impatient")
async def test_an_intent_that_cannot_be_written(
    sandbox: Sandbox, open_session: Open, path: Path
) -> None:
    """A message that was planned and has its turn is not sent, and no connection is made."""
    throttle = LocalThrottle({NAME: SLOW}, headroom=0)
    async with bare_server(sandbox) as (server, endpoint), SQLiteLedger(path) as ledger:
        session = open_session(endpoint=endpoint, throttle=throttle)
        held = Held()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(throttle, "acquire", held.acquire)
            patch.setattr(throttle, "acquire_now", lambda key: False)
            task = asyncio.ensure_future(session.send(ORDER, TEXT, ledger=ledger))
            await turning(held.reached.is_set)
            with locked(path):
                held.go_on.set()
                assert type(await error_of(task)) is LedgerError
        assert server.connections == 0
        assert (await only_row(ledger)).status == "planned"
        assert await session.send(ORDER, TEXT, ledger=ledger) == SENT
        assert len(server.received) == 1


class Held:
    """A turn that is waited for, until it is given."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def acquire(self, *_: object, again: bool = False) -> None:
        """As a throttle's."""
        self.reached.set()
        await self.go_on.wait()


async def test_a_full_disk_sends_nothing(sandbox: Sandbox, open_session: Open, disk: Path) -> None:
    """From where no commit gets through, no connection is made; nothing is sent without record."""
    async with (
        bare_server(sandbox) as (server, endpoint),
        SQLiteLedger(disk / "ledger.sqlite3") as ledger,
    ):
        session = open_session(endpoint=endpoint)
        await session.send("first", TEXT, ledger=ledger)
        filler = fill(disk)
        refused = 0
        for number in range(20):
            try:
                await session.send(f"order-{number}", TEXT, ledger=ledger)
            except LedgerError:
                refused += 1
        assert refused > 0
        filler.unlink()
        received = len(server.received)
        recorded = Counter(row.status for row in await ledger.rows())
        assert recorded["sent"] <= received <= recorded["sent"] + recorded["sending"]


async def test_a_file_that_is_no_ledger_sends_nothing(
    sandbox: Sandbox, open_session: Open, path: Path
) -> None:
    """No connection is made."""
    path.write_text("order_id,operation\n" * 100, encoding="utf-8")
    ledger = SQLiteLedger(path)
    async with bare_server(sandbox) as (server, endpoint):
        session = open_session(endpoint=endpoint)
        for _ in range(2):
            assert type(await error_of(session.send(ORDER, TEXT, ledger=ledger))) is LedgerError
        assert server.connections == 0
    await ledger.aclose()


@asynccontextmanager
async def answered_while_locked(
    sandbox: Sandbox, open_session: Open, path: Path
) -> AsyncIterator[asyncio.Task[Any]]:
    """A send whose answer comes when no commit gets through."""
    held = Watched("on_request_end", holds=True)
    ledger = SQLiteLedger(path)
    async with held.http() as http:
        task = asyncio.ensure_future(open_session(http=http).send(ORDER, TEXT, ledger=ledger))
        await turning(held.reached.is_set)
        with locked(path):
            held.go_on.set()
            await asyncio.wait((task,))
        yield task
    await ledger.aclose()


async def check_unknown(sandbox: Sandbox, session: MessagingSession, path: Path) -> None:
    """A message whose end was not recorded is unknown, and no repeat sends it."""
    async with SQLiteLedger(path) as ledger:
        assert (await only_row(ledger)).status == "unknown"
        assert type(await error_of(session.send(ORDER, TEXT, ledger=ledger))) is OutcomeUnknown
    assert len(sandbox.delivered) == 1


@pytest.mark.usefixtures("_impatient")
async def test_an_answer_that_cannot_be_recorded(
    sandbox: Sandbox, open_session: Open, path: Path
) -> None:
    """The error says that the message was sent, and to whom; later it is unknown."""
    async with answered_while_locked(sandbox, open_session, path) as task:
        assert type(await error_of(task)) is LedgerError
        assert f"{NAME} for order {ORDER} was sent" in str(task.exception())
    await check_unknown(sandbox, open_session(), path)


@pytest.mark.usefixtures("_impatient")
async def test_a_doubt_that_cannot_be_recorded(
    sandbox: Sandbox, open_session: Open, path: Path
) -> None:
    """The error does not say that nothing was sent, for the buyer may have it."""
    sandbox.faults.add(Fault.INTERNAL_FAILURE_AFTER)
    async with answered_while_locked(sandbox, open_session, path) as task:
        error = await error_of(task)
        assert isinstance(error, OutcomeUnknown | LedgerError)
        assert ORDER in str(error)
        assert "nothing is sent" not in str(error)
    await check_unknown(sandbox, open_session(), path)
