"""`send_all`: every message once, no more at work than was asked for, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import logging
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sp_messaging_async import (
    ApiError,
    AuthenticationError,
    BadRequest,
    ConfigurationError,
    CreateConfirmOrderDetailsRequest,
    CreateUnexpectedProblemRequest,
    CreateUnexpectedProblemResponse,
    Credentials,
    Endpoint,
    Forbidden,
    InvalidMessage,
    InvoiceRequest,
    LocalFile,
    LocalThrottle,
    Message,
    MessageNotAvailable,
    MessagingError,
    MessagingSession,
    Outcome,
    OutcomeUnknown,
    PlanKey,
    PlanWaitExceeded,
    SendAll,
    ServerError,
    SessionClosed,
    Throttled,
    TransportError,
    UnreadableFile,
    UsagePlan,
    send_all,
)
from sp_messaging_async.sandbox import Fault, Sandbox

from .conftest import AT_ONCE, FAST, ORDER, Open

TEXT = CreateUnexpectedProblemRequest("Sold out.")
LONG = 10.0  # seconds after which a test gives up; none waits so long when it passes

T = TypeVar("T")
Kind: TypeAlias = Callable[[Iterable[Any]], Any]


# What the tests are made of


def order(number: int) -> str:
    return f"111-2222222-{number:07}"


def messages(count: int) -> list[Message]:
    return [Message(order(number), TEXT) for number in range(count)]


async def slowly(items: Iterable[Any]) -> AsyncIterator[Any]:
    """An async generator that lets others run before each item."""
    for item in items:
        await asyncio.sleep(0)
        yield item


class OnlyAsyncIterable:
    """Has `__aiter__`, and is no iterator itself."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = list(items)

    def __aiter__(self) -> AsyncIterator[Any]:
        return slowly(self._items)


def lazily(items: Iterable[Any]) -> Iterator[Any]:
    yield from items


KINDS = (list, tuple, iter, lazily, slowly, OnlyAsyncIterable)
BOTH = pytest.mark.parametrize("kind", [lazily, slowly])


class Counted:
    """Counts what was taken from an iterable."""

    def __init__(self, items: Iterable[Message]) -> None:
        self._items = items
        self.given = 0

    def __iter__(self) -> Iterator[Message]:
        for item in self._items:
            self.given += 1
            yield item


class Gate:
    """A throttle that lets through as many calls as it was told to."""

    def __init__(self, passes: int = 0) -> None:
        self._passes = asyncio.Semaphore(passes)
        self.waiting = 0

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        self.waiting += 1
        try:
            await self._passes.acquire()
        finally:
            self.waiting -= 1

    def let(self, calls: int) -> None:
        for _ in range(calls):
            self._passes.release()

    def throttled(self, key: PlanKey) -> None:
        pass

    def learned(self, key: PlanKey, rate: float) -> None:
        pass


class Hold:
    """Keeps exchanges in flight: what Amazon answered is held back until `let` is set.

    part: of the path of the requests that are meant.
    """

    def __init__(self, part: str = "/messages/") -> None:
        self.part = part
        self.let = asyncio.Event()
        self.held = 0
        self.trace = aiohttp.TraceConfig()
        self.trace.on_request_end.append(self._hold)

    async def _hold(
        self, http: object, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        if self.part in params.url.path:
            self.held += 1
            await self.let.wait()


@pytest.fixture
async def hold() -> Hold:
    return Hold()


@pytest.fixture
async def http(hold: Hold) -> AsyncIterator[aiohttp.ClientSession]:
    """An aiohttp session whose answers are held."""
    async with aiohttp.ClientSession(trace_configs=[hold.trace]) as held:
        yield held


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():
            await asyncio.sleep(0.001)


async def ended(work: Awaitable[T]) -> T:
    async with asyncio.timeout(LONG):
        return await work


async def outcomes_of(sending: SendAll) -> list[Outcome]:
    async with asyncio.timeout(LONG):
        return [outcome async for outcome in sending]


def statuses(outcomes: Iterable[Outcome]) -> Counter[str]:
    return Counter(outcome.status for outcome in outcomes)


def delivered(sandbox: Sandbox) -> list[str]:
    return sorted(message.amazon_order_id for message in sandbox.delivered)


# Every message once


@pytest.mark.parametrize("kind", KINDS)
async def test_every_message_is_sent_once(
    sandbox: Sandbox, session: MessagingSession, kind: Kind
) -> None:
    """Whatever kind of iterable they come from, each message arrives once and has its outcome."""
    given = messages(25)
    outcomes = await outcomes_of(send_all(session, kind(given), concurrency=4))
    assert sorted(delivered(sandbox)) == [message.amazon_order_id for message in given]
    assert {id(outcome.message) for outcome in outcomes} == set(map(id, given))
    assert len(outcomes) == 25
    for outcome in outcomes:
        assert outcome.status == "sent"
        assert type(outcome.response) is CreateUnexpectedProblemResponse
        assert outcome.error is None


@pytest.mark.parametrize("kind", KINDS)
async def test_no_messages(session: MessagingSession, kind: Kind) -> None:
    """An empty iterable has no outcomes, however often they are asked for."""
    sending = send_all(session, kind([]))
    assert await outcomes_of(sending) == []
    assert await outcomes_of(sending) == []


FIVE_TIMES = 5  # as often as the fixture's sessions try


@pytest.mark.parametrize(
    ("faults", "status", "error", "arrived"),
    [
        ([], "sent", None, 1),
        ([Fault.EMPTY_AFTER], "sent", None, 1),
        ([Fault.THROTTLED], "sent", None, 1),
        ([Fault.EXPIRED_TOKEN], "sent", None, 1),
        ([Fault.REVOKED_TOKEN, Fault.THROTTLED], "sent", None, 1),
        ([Fault.NOT_AVAILABLE], "skipped", MessageNotAvailable, 0),
        ([Fault.HTML_ERROR], "rejected", BadRequest, 0),
        ([Fault.DENIED], "rejected", Forbidden, 0),
        ([Fault.REDIRECT], "rejected", ApiError, 0),
        ([Fault.INTERNAL_FAILURE], "unknown", OutcomeUnknown, 0),
        ([Fault.INTERNAL_FAILURE_AFTER], "unknown", OutcomeUnknown, 1),
        ([Fault.UNAVAILABLE], "unknown", OutcomeUnknown, 0),
        ([Fault.UNAVAILABLE_AFTER], "unknown", OutcomeUnknown, 1),
        ([Fault.BAD_GATEWAY], "unknown", OutcomeUnknown, 0),
        ([Fault.DROPPED], "unknown", OutcomeUnknown, 0),
        ([Fault.DROPPED_AFTER], "unknown", OutcomeUnknown, 1),
        ([Fault.HTML_AFTER], "unknown", OutcomeUnknown, 1),
        ([Fault.TRUNCATED_AFTER], "unknown", OutcomeUnknown, 1),
        ([Fault.CUT_AFTER], "unknown", OutcomeUnknown, 1),
        ([Fault.ERRORS_AFTER], "unknown", OutcomeUnknown, 1),
        ([Fault.THROTTLED, Fault.DROPPED_AFTER], "unknown", OutcomeUnknown, 1),
        ([Fault.THROTTLED] * FIVE_TIMES, "planned", Throttled, 0),
    ],
    ids=lambda value: "+".join(f.name for f in value) if isinstance(value, list) else "",
)
async def test_the_status_of_each_failure(
    sandbox: Sandbox,
    session: MessagingSession,
    faults: list[Fault],
    status: str,
    error: type[MessagingError] | None,
    arrived: int,
) -> None:
    """A failure gives its message the status of the design's table, and the others are sent."""
    sandbox.faults.add(*faults, amazon_order_id=order(1))
    outcomes = await outcomes_of(send_all(session, messages(3)))
    (affected,) = (o for o in outcomes if o.message.amazon_order_id == order(1))
    assert affected.status == status
    assert type(affected.error) is (error or type(None))
    assert (affected.response is None) == (status != "sent")
    assert statuses(outcomes)["sent"] == 2 + (status == "sent")
    assert delivered(sandbox).count(order(1)) == arrived
    assert len(sandbox.faults) == 0


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_AFTER])
async def test_a_message_without_an_answer_is_unknown(
    sandbox: Sandbox, open_session: Open, fault: Fault
) -> None:
    """A hang ends by the timeout; nobody can tell whether the buyer has the message."""
    sandbox.faults.add(fault, amazon_order_id=ORDER)
    (outcome,) = await outcomes_of(send_all(open_session(timeout=0.3), [Message(ORDER, TEXT)]))
    assert outcome.status == "unknown"
    assert isinstance(outcome.error, OutcomeUnknown)
    assert outcome.error.amazon_order_id == ORDER


async def test_refused_credentials_leave_messages_planned(
    sandbox: Sandbox, open_session: Open
) -> None:
    """Without an access token nothing is sent, and every message may be run again."""
    session = open_session(credentials=Credentials("client", "secret", "revoked"))
    outcomes = await outcomes_of(send_all(session, messages(3)))
    assert statuses(outcomes) == {"planned": 3}
    assert {type(outcome.error) for outcome in outcomes} == {AuthenticationError}
    assert sandbox.delivered == []


async def test_refused_connections_leave_messages_planned(
    sandbox: Sandbox, open_session: Open
) -> None:
    """Where no connection is made nothing is sent, and every message may be run again."""
    connector = aiohttp.TCPConnector(force_close=True)  # an old connection is no refused one
    async with aiohttp.ClientSession(connector=connector) as http:
        session = open_session(http=http)
        await session.send(ORDER, TEXT)
        async with sandbox.faults.refused():
            outcomes = await outcomes_of(send_all(session, messages(3)))
    assert statuses(outcomes) == {"planned": 3}
    assert {type(outcome.error) for outcome in outcomes} == {TransportError}
    assert delivered(sandbox) == [ORDER]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (Message("", TEXT), "amazon_order_id"),
        (Message("1/2", TEXT), "amazon_order_id"),
        (Message(ORDER, CreateUnexpectedProblemRequest("<b>Hi")), "text"),
        (Message(ORDER, CreateUnexpectedProblemRequest("a@example.com")), "text"),
        (Message(ORDER, TEXT, marketplace="XX"), "marketplace"),
        (Message(ORDER, TEXT, marketplace="DE"), "marketplace"),
        (Message(ORDER, TEXT, account="other"), "account"),
        (Message(ORDER, "Sold out."), "request"),  # type: ignore[arg-type]
        (Message(None, TEXT), "amazon_order_id"),  # type: ignore[arg-type]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_refused_here_is_rejected(
    sandbox: Sandbox, session: MessagingSession, bad: Message, field: str
) -> None:
    """A message that Amazon would refuse is never sent, and stops no other."""
    outcomes = await outcomes_of(send_all(session, [bad, *messages(2)]))
    (rejected,) = (outcome for outcome in outcomes if outcome.status == "rejected")
    assert rejected.message is bad
    assert isinstance(rejected.error, InvalidMessage)
    assert [finding.field for finding in rejected.error.findings] == [field]
    assert delivered(sandbox) == [order(0), order(1)]


async def test_a_file_that_is_away(sandbox: Sandbox, session: MessagingSession) -> None:
    """Its message is known to be unsent and may be run again, and the others are sent."""
    bad = Message(ORDER, InvoiceRequest([LocalFile("none.pdf")]))
    outcomes = await outcomes_of(send_all(session, [bad, *messages(2)]))
    (unsent,) = (outcome for outcome in outcomes if outcome.status == "planned")
    assert unsent.message is bad
    assert isinstance(unsent.error, UnreadableFile)
    assert delivered(sandbox) == [order(0), order(1)]


@pytest.mark.parametrize(
    ("place", "fault", "error"),
    [
        ("createUploadDestinationForResource", Fault.UNAVAILABLE, ServerError),
        ("createUploadDestinationForResource", Fault.THROTTLED, Throttled),
        ("createUploadDestinationForResource", Fault.DROPPED, TransportError),
        ("createUploadDestinationForResource", Fault.HTML_AFTER, ApiError),
        ("createUploadDestinationForResource", Fault.TRUNCATED_AFTER, ApiError),
        ("upload", Fault.UNAVAILABLE, ServerError),
        ("upload", Fault.DROPPED, TransportError),
    ],
)
async def test_an_upload_that_fails_leaves_its_message_planned(
    sandbox: Sandbox,
    session: MessagingSession,
    tmp_path: Path,
    place: str,
    fault: Fault,
    error: type[MessagingError],
) -> None:
    """A message whose file was not taken, for no fault of its own, may be run again."""
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    request = InvoiceRequest([LocalFile(tmp_path / "a.pdf")])
    sandbox.faults.add(*[fault] * FIVE_TIMES * 2, operation=place)  # aiohttp itself repeats a PUT
    (outcome,) = await outcomes_of(send_all(session, [Message(ORDER, request)]))
    assert type(outcome.error) is error
    assert outcome.status == "planned"
    assert sandbox.delivered == []


SCRIPTS = [
    [],
    [Fault.THROTTLED],
    [Fault.EXPIRED_TOKEN],
    [Fault.NOT_AVAILABLE],
    [Fault.HTML_ERROR],
    [Fault.UNAVAILABLE],
    [Fault.UNAVAILABLE_AFTER],
    [Fault.DROPPED_AFTER],
    [Fault.THROTTLED, Fault.TRUNCATED_AFTER],
    [Fault.THROTTLED] * FIVE_TIMES,
]


@settings(max_examples=30, deadline=None)
@given(
    scripts=st.lists(st.sampled_from(SCRIPTS), max_size=12),
    kind=st.sampled_from([lazily, slowly]),
    concurrency=st.integers(1, 6),
    leave_after=st.integers(1, 12),
)
def test_nobody_is_messaged_twice_and_every_outcome_is_true(
    scripts: list[list[Fault]], kind: Kind, concurrency: int, leave_after: int
) -> None:
    """Whatever fails and whenever it is left: what was taken up has one outcome, and a true one."""
    counted = Counted(messages(len(scripts)))

    async def run() -> tuple[list[Outcome], list[str]]:
        async with (
            Sandbox(plans=FAST) as sandbox,
            MessagingSession(
                sandbox.credentials,
                marketplace="US",
                endpoint=sandbox.endpoint,
                throttle=LocalThrottle(FAST, headroom=0),
                retry=AT_ONCE,
            ) as session,
        ):
            for number, script in enumerate(scripts):
                sandbox.faults.add(*script, amazon_order_id=order(number))
            outcomes = []
            async with send_all(session, kind(counted), concurrency=concurrency) as sending:
                async for outcome in sending:
                    outcomes.append(outcome)
                    if len(outcomes) == leave_after:
                        break
            arrived = delivered(sandbox)
            outcomes += await outcomes_of(sending)
            assert delivered(sandbox) == arrived
            return outcomes, arrived

    outcomes, arrived = asyncio.run(run())
    told = {outcome.message.amazon_order_id: outcome.status for outcome in outcomes}
    assert len(told) == len(outcomes)
    assert counted.given - len(told) in ((0, 1) if kind is slowly else (0,))  # one read ahead
    assert len(set(arrived)) == len(arrived)
    sent = {name for name, status in told.items() if status == "sent"}
    unknown = {name for name, status in told.items() if status == "unknown"}
    assert sent <= set(arrived) <= sent | unknown


# Which session sends


def account_of(outcome: Outcome, sandbox: Sandbox) -> str | None:
    """The refresh token that an outcome's message was sent with."""
    sellers = {message.amazon_order_id: message.seller for message in sandbox.delivered}
    return sellers.get(outcome.message.amazon_order_id)


@pytest.mark.parametrize(
    ("sessions", "account", "sent_by"),
    [
        (["de", "fr"], "de", "de"),
        (["de", "fr"], "fr", "fr"),
        (["default", "fr"], None, "default"),
        (["default", "fr"], "default", "default"),
        (["fr"], None, "fr"),
        (["de", "fr"], None, None),
        (["de", "fr"], "it", None),
        (["fr"], "de", None),
    ],
)
async def test_the_account_names_the_session(
    sandbox: Sandbox,
    open_session: Open,
    sessions: list[str],
    account: str | None,
    sent_by: str | None,
) -> None:
    """A message goes out by its account's session, and one whose account has none by no other."""
    mapping = {name: open_session(credentials=Credentials("c", "s", name)) for name in sessions}
    (outcome,) = await outcomes_of(send_all(mapping, [Message(ORDER, TEXT, account=account)]))
    assert account_of(outcome, sandbox) == sent_by
    assert outcome.status == ("sent" if sent_by else "rejected")
    if not sent_by:
        assert f"'{account or 'default'}' has no session; there are" in str(outcome.error)


@pytest.mark.parametrize("account", ["shop", None])
async def test_a_single_session_sends_for_its_own_account(
    open_session: Open, account: str | None
) -> None:
    """The name in its credentials is the account of a session that stands alone."""
    session = open_session(credentials=Credentials("c", "s", "r", account="shop"))
    (outcome,) = await outcomes_of(send_all(session, [Message(ORDER, TEXT, account=account)]))
    assert outcome.status == "sent"


async def test_a_single_session_sends_for_no_other_account(
    sandbox: Sandbox, open_session: Open
) -> None:
    """A message of another seller is not sent with the credentials at hand."""
    session = open_session(credentials=Credentials("c", "s", "r", account="shop"))
    (outcome,) = await outcomes_of(send_all(session, [Message(ORDER, TEXT, account="default")]))
    assert outcome.status == "rejected"
    assert sandbox.delivered == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"concurrency": 0},
        {"concurrency": -1},
        {"sessions": {}},
        {"sessions": None},
        {"sessions": "default"},
        {"sessions": {"default": None}},
        {"messages": None},
        {"messages": 5},
    ],
    ids=str,
)
async def test_arguments_that_cannot_be_used(
    session: MessagingSession, arguments: dict[str, Any]
) -> None:
    """What could send nothing is refused at the call, and not at the first message."""
    given = {"sessions": session, "messages": [], **arguments}
    with pytest.raises(ConfigurationError):
        send_all(given.pop("sessions"), given.pop("messages"), **given)


# How much is at work


@BOTH
async def test_nothing_is_taken_up_outside_of_iteration(
    sandbox: Sandbox, session: MessagingSession, kind: Kind
) -> None:
    """Before the first outcome is asked for, and while nobody asks for the next, nothing begins."""
    counted = Counted(messages(10))
    async with send_all(session, kind(counted), concurrency=2) as sending:
        for _ in range(20):
            await asyncio.sleep(0)
        assert counted.given == 0
        await anext(sending)
        given = counted.given
        await until(lambda: len(sandbox.delivered) == given)
        for _ in range(20):
            await asyncio.sleep(0)
        assert counted.given == given <= 3
        assert len(sandbox.delivered) == given
        assert statuses(await outcomes_of(sending)) == {"sent": 9}


@BOTH
@pytest.mark.parametrize("concurrency", [1, 3, 8])
async def test_no_more_at_work_than_asked_for(
    session: MessagingSession, kind: Kind, concurrency: int
) -> None:
    """What was taken up and not yet handed out never exceeds `concurrency`."""
    counted = Counted(messages(40))
    most = read = 0
    async for _ in send_all(session, kind(counted), concurrency=concurrency):
        most = max(most, counted.given - read)
        read += 1
    assert read == 40
    assert most == concurrency


@BOTH
async def test_waiting_for_the_plan_counts_as_work(open_session: Open, kind: Kind) -> None:
    """However long the plan takes, no more messages are read than may be at work."""
    gate = Gate()
    counted = Counted(messages(40))
    sending = send_all(open_session(throttle=gate), kind(counted), concurrency=7)
    first = asyncio.ensure_future(anext(sending))
    await until(lambda: gate.waiting == 7)
    for _ in range(20):
        await asyncio.sleep(0)
    assert counted.given == gate.waiting == 7
    gate.let(40)
    await ended(first)
    assert statuses(await outcomes_of(sending)) == {"sent": 39}


@pytest.mark.parametrize("number", [1, 2])
async def test_a_hundred_messages_for_each_session_unless_told(
    open_session: Open, number: int
) -> None:
    """Without `concurrency`, as many are at work as the documentation says."""
    gate = Gate()
    sessions = {str(n): open_session(throttle=gate) for n in range(number)}
    given = (Message(order(n), TEXT, account=str(n % number)) for n in range(500))
    counted = Counted(given)
    async with send_all(sessions, counted) as sending:
        first = asyncio.ensure_future(anext(sending))
        await until(lambda: gate.waiting == 100 * number)
        assert counted.given == 100 * number
        await ended(sending.aclose())
        assert (await ended(first)).status == "planned"


async def test_outcomes_come_as_they_are_settled(open_session: Open) -> None:
    """A message whose plan is slow holds up no other kind, and its own outcome comes last."""
    slow = LocalThrottle({**FAST, "createConfirmOrderDetails": UsagePlan(0.001, 1)}, headroom=0)
    question = CreateConfirmOrderDetailsRequest("Two of them?")
    waiting = [Message(order(number), question) for number in range(6)]
    others = messages(40)
    async with send_all(open_session(throttle=slow), [*waiting, *others], concurrency=6) as sending:
        sent = []
        async with asyncio.timeout(LONG):
            async for outcome in sending:
                sent.append(outcome)
                if len(sent) == 41:
                    break
    assert statuses(sent) == {"sent": 41}
    assert statuses(await outcomes_of(sending)) == {"planned": 5}


async def test_a_window_full_of_one_plan_is_a_bound(open_session: Open) -> None:
    """Only messages inside the window are at work: beyond it, other kinds wait for a place."""
    slow = LocalThrottle({**FAST, "createConfirmOrderDetails": UsagePlan(0.001, 1)}, headroom=0)
    question = CreateConfirmOrderDetailsRequest("Two of them?")
    counted = Counted([*(Message(order(n), question) for n in range(5)), *messages(5)])
    async with send_all(open_session(throttle=slow), counted, concurrency=4) as sending:
        assert (await anext(sending)).message.request is question
        second = asyncio.ensure_future(anext(sending))
        await until(lambda: counted.given == 5)
        await ended(sending.aclose())
        assert (await ended(second)).status == "planned"
    assert counted.given == 5


@BOTH
async def test_the_event_loop_is_not_kept_waiting(session: MessagingSession, kind: Kind) -> None:
    """Between two turns of a bot's ticker, no more messages are taken up than may be at work."""
    bad = CreateUnexpectedProblemRequest("<b>")  # is settled at once, without a wait anywhere
    counted = Counted([Message(order(number), bad) for number in range(500)])
    steps: list[int] = []

    async def tick() -> None:
        while True:
            before = counted.given
            await asyncio.sleep(0)
            steps.append(counted.given - before)

    ticker = asyncio.create_task(tick())
    outcomes = await outcomes_of(send_all(session, kind(counted), concurrency=20))
    ticker.cancel()
    assert statuses(outcomes) == {"rejected": 500}
    assert sum(steps) >= 500 - 20
    assert max(steps) <= 20


# Memory


def watched(count: int, live: weakref.WeakSet[Message]) -> Iterator[Message]:
    for number in range(count):
        message = Message(f"111-{number // 10_000_000:07}-{number % 10_000_000:07}", TEXT)
        live.add(message)
        yield message
        del message


class Refusing(Gate):
    """A throttle for which no turn ever comes."""

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        raise PlanWaitExceeded("no turn ever comes")


async def most_alive(session: MessagingSession, count: int, status: str) -> int:
    """How many messages were alive at once, at the most."""
    live: weakref.WeakSet[Message] = weakref.WeakSet()
    most = number = 0
    async for outcome in send_all(session, watched(count, live), concurrency=50):
        assert outcome.status == status, outcome.error
        number += 1
        most = max(most, len(live))
        del outcome
    assert number == count
    return most


async def test_messages_are_let_go_when_they_are_sent(session: MessagingSession) -> None:
    """Of many messages, only those at work are in memory, and the one that was handed out."""
    assert await most_alive(session, 2500, "sent") <= 52


async def test_messages_are_let_go_when_they_fail(open_session: Open) -> None:
    """An error holds on to nothing once its outcome is let go: there are no cycles to collect."""
    gc.disable()
    try:
        assert await most_alive(open_session(throttle=Refusing()), 2500, "planned") <= 52
    finally:
        gc.enable()


@pytest.mark.long
async def test_memory_stays_flat_for_a_million_messages() -> None:
    """A million messages over sockets leave the process no larger than the first tenth did."""
    resource = pytest.importorskip("resource")
    path = Path(__file__).parents[1] / "benchmarks" / "responder.py"
    process = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        async with MessagingSession(
            Credentials("client", "secret", "refresh"),
            marketplace="US",
            endpoint=Endpoint(url, f"{url}/auth/o2/token"),
            throttle=LocalThrottle({"createUnexpectedProblem": UsagePlan(1e9, 1e9)}),
        ) as session:
            assert await most_alive(session, 100_000, "sent") <= 52
            early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            assert await most_alive(session, 900_000, "sent") <= 52
            late = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    finally:
        process.kill()
        process.communicate()
    assert late <= 1.05 * early


# Mistakes in the iterable


async def outcomes_until_error(sending: SendAll) -> tuple[list[Outcome], Exception | None]:
    """What was told, and what was raised then; a TimeoutError where the run stood still."""
    outcomes = []
    try:
        async with asyncio.timeout(1):
            async for outcome in sending:
                outcomes.append(outcome)  # noqa: PERF401 - kept when the iteration raises
    except Exception as error:
        return outcomes, error
    return outcomes, None


class Broken(Exception):
    pass


def breaking(items: Iterable[Message]) -> Iterator[Message]:
    yield from items
    raise Broken


@BOTH
async def test_an_error_of_the_iterable_comes_last(
    sandbox: Sandbox, session: MessagingSession, kind: Kind
) -> None:
    """What the iterable raises is raised once, after all that it gave before was settled."""
    sandbox.faults.add(Fault.NOT_AVAILABLE, amazon_order_id=order(2))
    sending = send_all(session, kind(breaking(messages(10))), concurrency=3)
    outcomes, error = await outcomes_until_error(sending)
    assert type(error) is Broken
    assert statuses(outcomes) == {"sent": 9, "skipped": 1}
    assert await outcomes_of(sending) == []


@BOTH
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("mistake", [None, "a text", 5, ORDER.encode()], ids=repr)
async def test_what_is_no_message_is_a_mistake(
    sandbox: Sandbox, session: MessagingSession, kind: Kind, mistake: object, before: int
) -> None:
    """Something else among the messages is raised, not passed over, and what was sent is told."""
    sending = send_all(session, kind([*messages(before), mistake]))
    outcomes, error = await outcomes_until_error(sending)
    assert isinstance(error, TypeError | AttributeError | MessagingError)
    outcomes += await outcomes_of(sending)
    assert statuses(outcomes)["sent"] == len(outcomes) == before
    assert len(sandbox.delivered) == before


async def test_a_cancellation_inside_the_iterable_is_not_its_end(
    session: MessagingSession,
) -> None:
    """A list that breaks off, as its own work was cancelled, is not taken for a whole one."""

    async def broken_off() -> AsyncIterator[Message]:
        yield Message(ORDER, TEXT)
        raise asyncio.CancelledError
        yield Message(ORDER, TEXT)

    sending = send_all(session, broken_off())
    assert (await anext(sending)).status == "sent"
    with pytest.raises(asyncio.CancelledError):
        await anext(sending)


async def test_an_async_generator_keeps_its_context(session: MessagingSession) -> None:
    """A context variable that a generator sets while it runs is still set, and can be reset."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen = []

    async def generator() -> AsyncIterator[Message]:
        token = variable.set("set")
        for message in messages(3):
            yield message
            seen.append(variable.get())
        variable.reset(token)

    assert statuses(await outcomes_of(send_all(session, generator()))) == {"sent": 3}
    assert seen == ["set"] * 3


# Leaving early


BAD = Message("1/2", TEXT)  # is settled at once


@pytest.fixture
def gate() -> Gate:
    return Gate(2)


@pytest.fixture
async def held(
    open_session: Open, http: aiohttp.ClientSession, gate: Gate, hold: Hold
) -> AsyncIterator[MessagingSession]:
    """A session that lets two messages go, and whose answers are held back."""
    yield open_session(throttle=gate, http=http)
    hold.let.set()


@BOTH
async def test_leaving_withdraws_what_waits_and_awaits_what_is_in_flight(
    sandbox: Sandbox, held: MessagingSession, gate: Gate, hold: Hold, kind: Kind
) -> None:
    """After a break, the context manager ends when all exchanges have, and tells of each."""
    counted = Counted(itertools.chain(messages(4), itertools.repeat(BAD, 20_000)))
    seen = []

    async def leave() -> list[Outcome]:
        async with send_all(held, kind(counted), concurrency=6) as sending:
            async for outcome in sending:
                seen.append(outcome)
                if hold.held == 2 and gate.waiting == 2:
                    break
        return await outcomes_of(sending)

    leaving = asyncio.create_task(leave())
    await until(lambda: hold.held == 2 and not gate.waiting)
    given = counted.given
    gate.let(30)
    assert not leaving.done()
    hold.let.set()
    outcomes = await ended(leaving)
    waited = [outcome for outcome in outcomes if outcome.status == "planned"]
    assert {type(outcome.error) for outcome in waited} == {PlanWaitExceeded}
    assert statuses(seen) == {"rejected": len(seen)}
    assert statuses(outcomes)["sent"] == len(waited) == 2
    assert delivered(sandbox) == [order(0), order(1)]
    assert counted.given == given


async def test_what_was_read_ahead_is_not_sent_after_leaving(
    sandbox: Sandbox, session: MessagingSession
) -> None:
    """Reading the outcomes that are left begins nothing, not even what was read ahead."""
    go_on, read = asyncio.Event(), asyncio.Event()

    async def steered() -> AsyncIterator[Message]:
        yield BAD
        await go_on.wait()
        read.set()
        yield Message(ORDER, TEXT)

    async with send_all(session, steered()) as sending:
        await anext(sending)
        go_on.set()
        await read.wait()
        await asyncio.sleep(0)
    outcomes = await outcomes_of(sending)
    assert sandbox.delivered == []
    assert set(statuses(outcomes)) <= {"planned"}


async def test_what_is_given_after_leaving_is_not_sent(
    sandbox: Sandbox, session: MessagingSession
) -> None:
    """A generator that gives one message more instead of being cancelled gives it to nobody."""

    async def stubborn() -> AsyncIterator[Message]:
        yield BAD
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield Message(ORDER, TEXT)

    async with send_all(session, stubborn()) as sending:
        await anext(sending)
        for _ in range(5):
            await asyncio.sleep(0)
    assert await outcomes_of(sending) == []
    assert sandbox.delivered == []


async def test_a_break_alone_withdraws_what_waits(
    sandbox: Sandbox, held: MessagingSession, gate: Gate, hold: Hold
) -> None:
    """Without the context manager too, what waits is not sent, and what is in flight ends."""
    async for _ in send_all(held, [BAD, *messages(30)], concurrency=6):
        await until(lambda: hold.held == 2)
        break
    await until(lambda: not gate.waiting)
    gate.let(30)
    hold.let.set()
    await ended(held.aclose())
    await until(lambda: len(asyncio.all_tasks() - servers()) == 1)
    assert len(sandbox.delivered) == 2


async def test_an_unknown_outcome_that_nobody_can_read_is_logged(
    sandbox: Sandbox, session: MessagingSession, caplog: pytest.LogCaptureFixture
) -> None:
    """After a break alone, a send whose fate is unknown is reported all the same, by its order."""
    sandbox.faults.add(Fault.HANG_AFTER, amazon_order_id=ORDER)
    with caplog.at_level(logging.WARNING, "sp_messaging_async"):
        async for _ in send_all(session, [BAD, Message(ORDER, TEXT)]):
            await until(lambda: len(sandbox.delivered) == 1)
            break
        sandbox.faults.release()
        await until(lambda: len(asyncio.all_tasks() - servers()) == 1)
    (record,) = caplog.records
    assert ORDER in record.getMessage()
    assert vars(record)["event"] == "unknown"
    assert vars(record)["amazon_order_id"] == ORDER
    assert vars(record)["operation"] == "createUnexpectedProblem"


async def test_a_mistake_that_nobody_can_be_told_is_logged(
    open_session: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """After a break alone, what a part of the caller's own raised is not swallowed."""

    class Breaking(Gate):
        async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
            await super().acquire(key, again=again)
            raise Broken("the throttle")

    gate = Breaking()
    async for _ in send_all(open_session(throttle=gate), [BAD, Message(ORDER, TEXT)]):
        await until(lambda: gate.waiting == 1)
        gate.let(1)
        await until(lambda: not gate.waiting)
        break
    await until(lambda: len(asyncio.all_tasks() - servers()) == 1)
    assert "Broken: the throttle" in caplog.text


def servers() -> set[asyncio.Task[Any]]:
    """The sandbox's own tasks, one for each connection."""
    return {task for task in asyncio.all_tasks() if "RequestHandler" in repr(task.get_coro())}


@pytest.mark.parametrize("turns", [0, 2])
async def test_a_message_in_flight_is_not_tried_again(
    sandbox: Sandbox, held: MessagingSession, gate: Gate, hold: Hold, turns: int
) -> None:
    """A 429 that comes after the run was left leaves its message planned, plan or no plan."""
    sandbox.faults.add(Fault.THROTTLED, Fault.THROTTLED)
    sending = send_all(held, messages(2))
    reading = asyncio.create_task(outcomes_of(sending))
    await until(lambda: hold.held == 2)
    leaving = asyncio.create_task(sending.aclose())
    await asyncio.sleep(0)
    gate.let(turns)
    hold.let.set()
    await ended(leaving)
    outcomes = await ended(reading)
    assert statuses(outcomes) == {"planned": 2}
    assert {type(outcome.error) for outcome in outcomes} == {PlanWaitExceeded}
    assert sandbox.delivered == []


@pytest.mark.parametrize("part", ["/uploads/", "/_uploads/"])
async def test_a_message_whose_upload_is_in_flight_is_not_sent(
    sandbox: Sandbox, open_session: Open, tmp_path: Path, part: str
) -> None:
    """An upload that ends after the run was left is not followed by its message."""
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    hold = Hold(part)
    async with aiohttp.ClientSession(trace_configs=[hold.trace]) as http:
        request = InvoiceRequest([LocalFile(tmp_path / "a.pdf")])
        sending = send_all(open_session(http=http), [Message(ORDER, request)])
        first = asyncio.ensure_future(anext(sending))
        await until(lambda: hold.held == 1)
        leaving = asyncio.ensure_future(sending.aclose())
        await asyncio.sleep(0)
        hold.let.set()
        await ended(leaving)
        assert (await ended(first)).status == "planned"
    assert sandbox.delivered == []


async def test_leaving_does_not_wait_for_an_access_token(
    sandbox: Sandbox, session: MessagingSession
) -> None:
    """Messages that wait for Login with Amazon are withdrawn at once: no exchange is theirs."""
    sandbox.faults.add(Fault.HANG, operation="token")
    sending = send_all(session, [BAD, *messages(5)])
    assert (await anext(sending)).status == "rejected"
    await until(lambda: len(sandbox.faults) == 0)
    leaving = asyncio.ensure_future(sending.aclose())
    done, _ = await asyncio.wait([leaving], timeout=2)
    sandbox.faults.release()
    await ended(leaving)
    assert statuses(await outcomes_of(sending)) == {"planned": 5}
    assert done == {leaving}


async def test_closing_before_the_first_outcome(session: MessagingSession) -> None:
    """A run that was closed, however often, takes nothing up and has no outcomes."""
    counted = Counted(messages(3))
    sending = send_all(session, counted)
    await ended(sending.aclose())
    await ended(sending.aclose())
    assert await outcomes_of(sending) == []
    assert counted.given == 0


@pytest.mark.parametrize("turns", [1, 2])
async def test_another_task_may_close_the_run(session: MessagingSession, turns: int) -> None:
    """Whoever waits for an outcome when the run is closed is told that there is none."""

    async def never() -> AsyncIterator[Message]:
        await asyncio.Event().wait()
        yield Message(ORDER, TEXT)

    sending = send_all(session, never())
    waiting = asyncio.create_task(outcomes_of(sending))
    for _ in range(turns):  # with one, the first message has not been asked for
        await asyncio.sleep(0)
    await ended(sending.aclose())
    assert await ended(waiting) == []


async def test_a_generator_in_the_middle_of_its_work_has_ended(session: MessagingSession) -> None:
    """After the context manager, an async generator that was waited for has cleaned up."""
    log = []

    async def rows() -> AsyncIterator[Message]:
        try:
            yield BAD
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # such as giving a database cursor back
            log.append("cleaned up")

    async with send_all(session, rows()) as sending:
        await anext(sending)
        for _ in range(5):
            await asyncio.sleep(0)
    log.append("left")
    await until(lambda: len(log) == 2)
    assert log == ["cleaned up", "left"]


@BOTH
@pytest.mark.parametrize("early", [True, False])
async def test_no_task_is_left_behind(session: MessagingSession, kind: Kind, early: bool) -> None:
    """When the context manager ends, every task that the run began has ended."""
    before = asyncio.all_tasks()
    async with send_all(session, kind(messages(20)), concurrency=5) as sending:
        async for _ in sending:
            if early:
                break
    assert asyncio.all_tasks() - before - servers() == set()


# Cancellation


@pytest.mark.parametrize("impatient", [False, True])
async def test_cancelling_the_consumer(
    sandbox: Sandbox, held: MessagingSession, gate: Gate, hold: Hold, impatient: bool
) -> None:
    """A consumer cancelled once or twice: what is in flight ends, and the others are unsent."""
    sending = send_all(held, messages(30), concurrency=6)

    async def consume() -> None:
        async with sending:
            await outcomes_of(sending)

    consumer = asyncio.create_task(consume())
    await until(lambda: hold.held == 2 and gate.waiting == 4)
    consumer.cancel()
    await until(lambda: gate.waiting == 0)
    assert not consumer.done()
    if impatient:
        consumer.cancel()
        await asyncio.wait([consumer])
    hold.let.set()
    with pytest.raises(asyncio.CancelledError):
        await ended(consumer)
    assert statuses(await outcomes_of(sending)) == {"sent": 2, "planned": 4}
    assert len(sandbox.delivered) == 2


async def test_a_cancelled_wait_for_an_outcome_loses_none(
    sandbox: Sandbox, held: MessagingSession, gate: Gate, hold: Hold
) -> None:
    """The next outcome may be waited for with a time limit, again and again."""
    sending = send_all(held, messages(2))
    for _ in range(3):
        waiting = asyncio.ensure_future(anext(sending))
        await until(lambda: hold.held == 2)
        waiting.cancel()
        await asyncio.wait([waiting])
    hold.let.set()
    assert statuses(await outcomes_of(sending)) == {"sent": 2}
    assert len(sandbox.delivered) == 2


async def test_two_consumers_share_the_outcomes(
    sandbox: Sandbox, session: MessagingSession
) -> None:
    """Each outcome goes to one of the tasks that iterate, and all of them come to the end."""
    sending = send_all(session, messages(40), concurrency=5)
    shares = await asyncio.gather(*(outcomes_of(sending) for _ in range(3)))
    told = [outcome.message.amazon_order_id for outcome in itertools.chain(*shares)]
    assert sorted(told) == delivered(sandbox) == [order(number) for number in range(40)]


# The session


async def test_closing_the_session_meanwhile(
    sandbox: Sandbox, held: MessagingSession, gate: Gate, hold: Hold
) -> None:
    """What is in flight is sent; what waits, and what comes later, is planned and tells why."""
    sending = send_all(held, messages(30), concurrency=6)
    reading = asyncio.create_task(outcomes_of(sending))
    await until(lambda: hold.held == 2 and gate.waiting == 4)
    closing = asyncio.create_task(held.aclose())
    await until(lambda: not gate.waiting)
    gate.let(30)
    hold.let.set()
    await ended(closing)
    outcomes = await ended(reading)
    assert statuses(outcomes) == {"sent": 2, "planned": 28}
    errors = {type(outcome.error) for outcome in outcomes if outcome.status == "planned"}
    assert errors == {SessionClosed}
    assert len(sandbox.delivered) == 2


async def test_a_session_of_many_closed(sandbox: Sandbox, open_session: Open) -> None:
    """Closing one account's session leaves the others' messages going."""
    sessions = {name: open_session(credentials=Credentials("c", "s", name)) for name in "ab"}
    await sessions["a"].aclose()
    given = [Message(order(n), TEXT, account="ab"[n % 2]) for n in range(20)]
    outcomes = await outcomes_of(send_all(sessions, given, concurrency=4))
    assert statuses(outcomes) == {"sent": 10, "planned": 10}
    assert {message.seller for message in sandbox.delivered} == {"b"}
