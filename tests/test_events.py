"""Events and hooks: what is seen of a session from outside, and that seeing changes nothing."""

from __future__ import annotations

import asyncio
import itertools
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from sp_messaging_async import (
    ConfigurationError,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    Endpoint,
    ExchangeEvent,
    InvalidMessage,
    LocalFile,
    LocalThrottle,
    LoggingHook,
    MessageEvent,
    MessagingError,
    MessagingSession,
    OutcomeUnknown,
    PlanKey,
    RedisThrottle,
    RetryPolicy,
    SQLiteLedger,
    TransportError,
    UsagePlan,
    events,
    send_all,
    wire,
)
from sp_messaging_async.bulk import Message
from sp_messaging_async.models import CreateUploadDestinationResponse, UploadDestination
from sp_messaging_async.operations import OPERATIONS
from sp_messaging_async.sandbox import Fault, Sandbox

from .conftest import ORDER, Open
from .servers import RedisServer, free_port, redis_server
from .test_cancellation import Moment, at_every_moment

__all__ = ["redis_server"]  # a fixture

TEXT = "Sold out. Would grey do?"
PROBLEM = CreateUnexpectedProblemRequest(text=TEXT)
OPERATION = "createUnexpectedProblem"
ONE = dict.fromkeys(OPERATIONS, UsagePlan(rate=0.01, burst=1))  # and the next in 100 s


class Seen(list[events.Event]):
    """A hook that keeps what it is told."""

    def __call__(self, event: events.Event) -> None:
        self.append(event)

    @property
    def messages(self) -> list[MessageEvent]:
        return [event for event in self if isinstance(event, MessageEvent)]

    @property
    def exchanges(self) -> list[ExchangeEvent]:
        return [event for event in self if isinstance(event, ExchangeEvent)]


@pytest.fixture
def seen() -> Seen:
    """What a hook was told."""
    return Seen()


@pytest.fixture
def watched(open_session: Open, seen: Seen) -> MessagingSession:
    """A session with that hook, and no other."""
    return open_session(hooks=[seen])


# What is told


async def test_a_message_that_is_sent(
    sandbox: Sandbox, watched: MessagingSession, seen: Seen
) -> None:
    """Its exchange is told, then the message with that exchange, each with all that is known."""
    before = datetime.now(UTC)
    await watched.create_unexpected_problem(ORDER, PROBLEM, marketplace="CA")
    exchange, message = seen
    assert isinstance(exchange, ExchangeEvent)
    assert isinstance(message, MessageEvent)
    assert message.exchanges == (exchange,)
    for event in (exchange, message):
        assert event.operation == OPERATION
        assert event.amazon_order_id == ORDER
        assert (event.account, event.marketplace) == ("default", "CA")
        assert (event.status, event.codes, event.error) == (201, (), None)
        assert event.request_id
        assert 0 <= event.waited < message.took
        assert before <= event.began <= datetime.now(UTC)
    assert (exchange.outcome, exchange.attempt, exchange.part_of) == ("succeeded", 1, OPERATION)
    assert exchange.method == "POST"
    path = "/messaging/v1/orders/{amazonOrderId}/messages/unexpectedProblem"
    assert exchange.url == sandbox.endpoint.api_url + path
    assert (message.outcome, message.attempts, message.cancelled) == ("sent", 1, False)
    assert message.request is PROBLEM
    assert 0 < exchange.took == message.on_wire < message.took
    assert message.began <= exchange.began
    assert exchange.began + timedelta(seconds=exchange.took) <= (
        message.began + timedelta(seconds=message.took)
    )


async def test_events_cannot_be_changed(watched: MessagingSession, seen: Seen) -> None:
    """What one hook is told, the next one is told too."""
    await watched.send(ORDER, PROBLEM)
    for event in seen:
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            event.outcome = "unknown"  # type: ignore[misc]


async def test_an_event_does_not_show_the_text(watched: MessagingSession, seen: Seen) -> None:
    """Who prints an event does not print what was written to the buyer."""
    await watched.send(ORDER, PROBLEM)
    assert TEXT not in repr(seen)


@pytest.mark.parametrize(
    ("faults", "exchanges", "message"),
    [
        ([Fault.THROTTLED], ["throttled", "succeeded"], ("sent", None)),
        ([Fault.THROTTLED] * 5, ["throttled"] * 5, ("planned", "Throttled")),
        ([Fault.EXPIRED_TOKEN], ["refused", "succeeded"], ("sent", None)),
        ([Fault.HTML_ERROR], ["refused"], ("rejected", "BadRequest")),
        ([Fault.REDIRECT], ["refused"], ("rejected", "ApiError")),
        ([Fault.NOT_AVAILABLE], ["refused"], ("skipped", "MessageNotAvailable")),
        ([Fault.UNAVAILABLE], ["unknown"], ("unknown", "OutcomeUnknown")),
        ([Fault.DROPPED_AFTER], ["unknown"], ("unknown", "OutcomeUnknown")),
        ([Fault.ERRORS_AFTER], ["unknown"], ("unknown", "OutcomeUnknown")),
        ([Fault.EMPTY_AFTER], ["succeeded"], ("sent", None)),
    ],
    ids=str,
)
async def test_outcomes(
    sandbox: Sandbox,
    watched: MessagingSession,
    seen: Seen,
    faults: list[Fault],
    exchanges: list[str],
    message: tuple[str, str | None],
) -> None:
    """Each exchange and the message have the outcome that the table of failures gives them."""
    sandbox.faults.add(*faults)
    raised = None
    try:
        await watched.send(ORDER, PROBLEM)
    except MessagingError as error:
        raised = type(error).__name__
    assert [event.outcome for event in seen.exchanges] == exchanges
    assert [event.attempt for event in seen.exchanges] == list(range(1, len(exchanges) + 1))
    (told,) = seen.messages
    assert (told.outcome, told.error) == message
    assert told.error == raised
    assert told.attempts == len(exchanges)
    assert told.exchanges == tuple(seen.exchanges)


async def test_amazons_codes(sandbox: Sandbox, watched: MessagingSession, seen: Seen) -> None:
    """What Amazon's answer says of itself is in both events."""
    sandbox.faults.add(Fault.NOT_AVAILABLE)
    with pytest.raises(MessagingError):
        await watched.send(ORDER, PROBLEM)
    for event in seen:
        assert (event.status, event.codes) == (403, ("Unauthorized",))
        assert event.request_id
    assert seen.exchanges[0].error == "MessageNotAvailable"


async def test_nobody_answers(open_session: Open, sandbox: Sandbox, seen: Seen) -> None:
    """An exchange without an answer names its cause, and no address; the message is unsent."""
    endpoint = Endpoint(f"http://127.0.0.1:{free_port()}", sandbox.endpoint.token_url)
    session = open_session(hooks=[seen], endpoint=endpoint, retry=RetryPolicy(1))
    with pytest.raises(MessagingError):
        await session.send(ORDER, PROBLEM)
    exchange, message = seen
    assert (exchange.outcome, exchange.status, exchange.request_id) == ("failed", None, None)
    assert exchange.error == "ClientConnectorError (ECONNREFUSED)"
    assert (message.outcome, message.error) == ("planned", "TransportError")


async def test_what_is_refused_here(watched: MessagingSession, seen: Seen) -> None:
    """A message that is refused before anything is sent is told, without an exchange."""
    with pytest.raises(InvalidMessage):
        await watched.send(ORDER, CreateUnexpectedProblemRequest(text="Write to me@example.com"))
    (message,) = seen
    assert isinstance(message, MessageEvent)
    assert (message.outcome, message.error) == ("rejected", "InvalidMessage")
    assert (message.exchanges, message.attempts, message.status) == ((), 0, None)
    assert (message.codes, message.request_id, message.on_wire) == ((), None, 0)


async def test_reads(sandbox: Sandbox, watched: MessagingSession, seen: Seen) -> None:
    """A read is no message: only its exchanges are told."""
    sandbox.faults.add(Fault.UNAVAILABLE)
    await watched.get_attributes(ORDER)
    assert [event.outcome for event in seen.exchanges] == ["failed", "succeeded"]
    assert {(event.operation, event.part_of, event.method) for event in seen.exchanges} == {
        ("getAttributes", None, "GET")
    }
    assert seen.messages == []


async def test_files(
    sandbox: Sandbox, watched: MessagingSession, seen: Seen, tmp_path: Path
) -> None:
    """An upload is two exchanges of the message that it is for, and no event holds its address."""
    path = tmp_path / "warranty.pdf"
    path.write_bytes(b"%PDF")
    await watched.create_warranty(ORDER, CreateWarrantyRequest(attachments=[LocalFile(path)]))
    (message,) = seen.messages
    assert [(made.operation, made.method) for made in message.exchanges] == [
        ("createUploadDestinationForResource", "POST"),
        ("createUploadDestinationForResource", "PUT"),
        ("createWarranty", "POST"),
    ]
    assert {made.part_of for made in message.exchanges} == {"createWarranty"}
    assert message.attempts == 1
    assert message.exchanges[1].url == str(sandbox.endpoint.api_url)
    assert message.on_wire == sum(made.took for made in message.exchanges)


async def test_a_file_by_itself(sandbox: Sandbox, watched: MessagingSession, seen: Seen) -> None:
    """An upload without a message is part of none; each attempt to put the file is told."""
    sandbox.faults.add(Fault.UNAVAILABLE, operation="upload")
    await watched.upload_attachment(ORDER, CreateWarrantyRequest, b"%PDF", "a.pdf")
    assert [(made.method, made.attempt, made.outcome) for made in seen.exchanges] == [
        ("POST", 1, "succeeded"),
        ("PUT", 1, "failed"),
        ("PUT", 2, "succeeded"),
    ]
    assert {made.part_of for made in seen.exchanges} == {None}
    assert seen.messages == []


async def test_a_file_without_a_host(
    watched: MessagingSession, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place for a file that is no address is told without a host, and the error is the usual."""

    def read(*_: object) -> CreateUploadDestinationResponse:
        return CreateUploadDestinationResponse(UploadDestination("sc/1", "http://[", {}))

    monkeypatch.setattr(wire, "read", read)
    with pytest.raises(TransportError, match="cannot be used"):
        await watched.upload_attachment(ORDER, CreateWarrantyRequest, b"%PDF", "a.pdf")
    put = seen.exchanges[-1]
    assert (put.method, put.url, put.outcome) == ("PUT", "", "failed")


# With a ledger


async def test_sent_before(watched: MessagingSession, seen: Seen, tmp_path: Path) -> None:
    """What a ledger knows to be sent is skipped, without an exchange."""
    async with SQLiteLedger(tmp_path / "ledger") as ledger:
        for _ in range(2):
            await watched.send(ORDER, PROBLEM, marketplace="CA", ledger=ledger)
    assert [(event.outcome, event.attempts) for event in seen.messages] == [
        ("sent", 1),
        ("skipped", 0),
    ]
    assert {event.marketplace for event in seen} == {"CA"}


async def test_unknown_before(
    sandbox: Sandbox, watched: MessagingSession, seen: Seen, tmp_path: Path
) -> None:
    """An unknown outcome is told once; a repeat that sends nothing is skipped."""
    sandbox.faults.add(Fault.DROPPED_AFTER)
    async with SQLiteLedger(tmp_path / "ledger") as ledger:
        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                await watched.send(ORDER, PROBLEM, ledger=ledger)
    assert [(event.outcome, event.error) for event in seen.messages] == [
        ("unknown", "OutcomeUnknown"),
        ("skipped", "OutcomeUnknown"),
    ]


async def test_in_bulk(sandbox: Sandbox, watched: MessagingSession, seen: Seen) -> None:
    """Every message of a bulk run is told, with the outcome that the run tells."""
    orders = [f"111-2222222-{number:07}" for number in range(9)]
    sandbox.faults.add(Fault.UNAVAILABLE, amazon_order_id=orders[3])
    told = {}
    async with send_all(watched, [Message(order, PROBLEM) for order in orders]) as outcomes:
        async for outcome in outcomes:
            told[outcome.message.amazon_order_id] = outcome.status
    assert {event.amazon_order_id: event.outcome for event in seen.messages} == told
    assert len(seen.messages) == 9


# Cancelled


@at_every_moment
async def test_cancellation(
    sandbox: Sandbox, open_session: Open, caplog: pytest.LogCaptureFixture, moment: Moment
) -> None:
    """Whenever a send is cancelled, it is told once, with what the buyer may have of it."""
    reached, outcomes = True, set()
    for number in itertools.count():
        seen, order = Seen(), f"111-0000000-{number:07}"
        caplog.clear()
        session = open_session(hooks=[LoggingHook(), seen])
        task, reached = await moment(
            session.send(order, PROBLEM), number, lambda task: task.cancel()
        )
        await session.aclose()
        for _ in range(30):  # let what has happened on loopback be noticed
            await asyncio.sleep(0)
        delivered = any(item.amazon_order_id == order for item in sandbox.delivered)
        told = [(event.outcome, event.cancelled) for event in seen.messages]
        outcomes.update(told)
        if not task.cancelled():
            assert told == [("sent", False)]
            break
        assert delivered <= (told != [("planned", True)])
        assert len(caplog.records) == (told == [("unknown", True)])
    assert not reached
    assert {("planned", True), ("unknown", True)} <= outcomes


async def test_the_warning_needs_no_other_hook(
    sandbox: Sandbox, session: MessagingSession, caplog: pytest.LogCaptureFixture
) -> None:
    """With logging alone, above DEBUG, a cancelled send of unknown outcome names its order."""
    sandbox.faults.add(Fault.HANG_AFTER)
    task = asyncio.create_task(session.send(ORDER, PROBLEM))
    while not sandbox.delivered:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{OPERATION} for order {ORDER} was cancelled" in record.getMessage()
    assert record.__dict__["event"] == "unknown"


@pytest.mark.parametrize("others", [0, 1])
async def test_cancelled_while_it_is_recorded(
    sandbox: Sandbox,
    open_session: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    others: int,
) -> None:
    """An unknown outcome whose error a cancellation hides is warned of, as no caller is told."""
    sandbox.faults.add(Fault.UNAVAILABLE)
    recording = asyncio.Event()
    async with SQLiteLedger(tmp_path / "ledger") as ledger:
        settle = ledger.settle

        async def slowly(*args: Any) -> None:
            recording.set()
            await asyncio.shield(settle(*args))
            await asyncio.sleep(30)

        monkeypatch.setattr(ledger, "settle", slowly)
        session = open_session(hooks=[LoggingHook(), *[Seen() for _ in range(others)]])
        task = asyncio.create_task(session.send(ORDER, PROBLEM, ledger=ledger))
        await asyncio.wait_for(recording.wait(), 30)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
    (record,) = caplog.records
    assert f"{OPERATION} for order {ORDER} was cancelled" in record.getMessage()


# Time


async def test_time_waited_for_the_plan(
    open_session: Open, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a plan makes an attempt wait is that attempt's, and together the message's."""
    clock = [0.0]
    monkeypatch.setattr(events, "perf_counter", lambda: clock[0])

    class Slow:
        """Lets a call go after three seconds, and one that comes again after five."""

        async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
            clock[0] += 5 if again else 3

        def throttled(self, key: PlanKey) -> None: ...

        def learned(self, key: PlanKey, rate: float) -> None: ...

    session = open_session(hooks=[seen], throttle=Slow())
    await session.get_attributes(ORDER)
    await session.send(ORDER, PROBLEM)
    assert [event.waited for event in seen] == [3, 3, 3]
    assert seen.messages[0].took == 3


async def test_time_waited_in_vain(open_session: Open, seen: Seen) -> None:
    """A message whose turn did not come in time has waited, and had no exchange."""
    session = open_session(hooks=[seen], throttle=LocalThrottle(ONE, headroom=0))
    await session.send(ORDER, PROBLEM)
    with pytest.raises(MessagingError):
        await session.send(ORDER, PROBLEM, max_wait=0.01)
    message = seen.messages[1]
    assert (message.outcome, message.error) == ("planned", "PlanWaitExceeded")
    assert 0 < message.waited <= message.took
    assert message.exchanges == ()


# Hooks


@pytest.mark.parametrize("error", [ValueError("broken"), asyncio.CancelledError(), OSError()])
async def test_a_hook_that_raises(
    sandbox: Sandbox,
    open_session: Open,
    seen: Seen,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    """Sends go on, the other hooks are told, and the failure is logged once."""

    def broken(event: events.Event) -> None:
        raise error

    session = open_session(hooks=[broken, seen])
    for _ in range(3):
        await session.send(ORDER, PROBLEM)
    assert len(sandbox.delivered) == 3
    assert len(seen) == 6
    (record,) = caplog.records
    assert "broken" in record.getMessage()
    assert record.exc_info is not None


async def awaited(event: events.Event) -> None: ...


class Awaited:
    async def __call__(self, event: events.Event) -> None: ...


@pytest.mark.parametrize("hook", [None, "log", awaited, Awaited()])
async def test_what_is_no_hook(open_session: Open, hook: Any) -> None:
    """Something that cannot be called, or that would have to be awaited, is refused at once."""
    with pytest.raises(ConfigurationError, match="is no hook"):
        open_session(hooks=[hook])


# Logging


@pytest.mark.parametrize(
    ("hook", "shown", "hidden"),
    [
        (LoggingHook(), [], [ORDER, TEXT]),
        (LoggingHook(order_ids=True), [ORDER], [TEXT]),
        (LoggingHook(texts=True), [TEXT], [ORDER]),
    ],
)
async def test_the_log(
    sandbox: Sandbox,
    open_session: Open,
    caplog: pytest.LogCaptureFixture,
    hook: LoggingHook,
    shown: list[str],
    hidden: list[str],
) -> None:
    """At DEBUG there is a line for each event; the order and the text are in it when asked for."""
    caplog.set_level(logging.DEBUG, "sp_messaging_async")
    sandbox.faults.add(Fault.THROTTLED)
    await open_session(hooks=[hook]).send(ORDER, PROBLEM)
    lines = [item.getMessage() for item in caplog.records if item.name == "sp_messaging_async"]
    assert len(lines) == 3
    assert "outcome throttled, status 429" in lines[0]
    assert "outcome succeeded, status 201" in lines[1]
    assert "event message" in lines[2]
    assert "outcome sent" in lines[2]
    everything = "\n".join(f"{item.getMessage()} {item.__dict__}" for item in caplog.records)
    assert all(text in everything for text in shown)
    assert not any(text in everything for text in hidden)


async def test_the_log_above_debug(
    session: MessagingSession, caplog: pytest.LogCaptureFixture
) -> None:
    """Above DEBUG, a send that goes as it should leaves no line."""
    caplog.set_level(logging.INFO, "sp_messaging_async")
    await session.send(ORDER, PROBLEM)
    assert caplog.records == []


# The queue


async def queued(session: MessagingSession, count: int) -> list[asyncio.Task[Any]]:
    """So many calls that wait for their plan."""
    tasks = [asyncio.create_task(session.send(ORDER, PROBLEM)) for _ in range(count)]
    async with asyncio.timeout(30):
        while session.waiting(OPERATION) < count:
            await asyncio.sleep(0.001)
    return tasks


@pytest.mark.parametrize("kind", [LocalThrottle, RedisThrottle])
async def test_waiting(open_session: Open, redis_server: RedisServer, kind: type) -> None:
    """A session tells how many calls wait for a plan, those of its seller's other sessions too."""
    where = {"url": redis_server.url} if kind is RedisThrottle else {}
    throttle = kind(plans=ONE, headroom=0, **where)
    session, other = (open_session(throttle=throttle) for _ in range(2))
    assert session.waiting(OPERATION) == 0
    await session.send(ORDER, PROBLEM)
    tasks = await queued(session, 3)
    assert other.waiting(OPERATION) == 3
    assert session.waiting("create_unexpected_problem") == 3
    assert session.waiting("createUploadDestinationForResource") == 0
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert session.waiting(OPERATION) == 0
    if isinstance(throttle, RedisThrottle):
        await throttle.aclose()


async def test_waiting_of_a_seller_yet_unknown(sandbox: Sandbox, open_session: Open) -> None:
    """Where credentials are fetched with the first token, nobody waits for a plan before that."""

    async def fetched() -> Any:
        return sandbox.credentials

    session = open_session(credentials=fetched)
    assert session.waiting(OPERATION) == 0
    await session.send(ORDER, PROBLEM)
    assert session.waiting(OPERATION) == 0


async def test_waiting_for_what_is_no_operation(session: MessagingSession) -> None:
    """A name that Amazon does not know is an error, and not a queue that is empty."""
    with pytest.raises(InvalidMessage, match="did you mean createWarranty"):
        session.waiting("createWaranty")


async def test_a_throttle_without_waiting(sandbox: Sandbox, open_session: Open) -> None:
    """A caller's own throttle need not tell who waits: it serves, and asking is refused."""

    class Own:
        async def acquire(self, key: PlanKey, *, again: bool = False) -> None: ...

        def throttled(self, key: PlanKey) -> None: ...

        def learned(self, key: PlanKey, rate: float) -> None: ...

    session = open_session(throttle=Own())
    await session.send(ORDER, PROBLEM)
    assert len(sandbox.delivered) == 1
    with pytest.raises(ConfigurationError, match="Own does not tell who waits"):
        session.waiting(OPERATION)
