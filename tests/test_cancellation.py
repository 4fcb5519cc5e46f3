"""Calls that end before their answer: cancelled at every await, closed, or out of patience."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest
from attrs import frozen

from sp_messaging_async import (
    CreateNegativeFeedbackRemovalRequest,
    CreateUnexpectedProblemRequest,
    Credentials,
    Endpoint,
    InvoiceRequest,
    LocalFile,
    LocalThrottle,
    MessageRequest,
    MessagingSession,
    OutcomeUnknown,
    PlanKey,
    PlanWaitExceeded,
    RetryPolicy,
    SessionClosed,
    TransportError,
    UsagePlan,
)
from sp_messaging_async.operations import OPERATIONS, UPLOAD, by_request
from sp_messaging_async.sandbox import Fault, Sandbox

from .conftest import FAST, ORDER, Open
from .test_transport import UNSENT

TEXT = CreateUnexpectedProblemRequest("Sold out.")
NAME = "createUnexpectedProblem"
BURST = 3
SLOW = UsagePlan(rate=0.001, burst=BURST)  # what is taken does not come back during a test
A_MINUTE = RetryPolicy(attempts=5, base_delay=60, max_delay=60)
SOON = 5  # seconds in which what ends at once has surely ended


# Something happens at one moment of a call

Call: TypeAlias = Coroutine[Any, Any, Any]
Happening: TypeAlias = Callable[[asyncio.Task[Any]], object]
Moment: TypeAlias = Callable[[Call, int, Happening], Awaitable[tuple[asyncio.Task[Any], bool]]]
"""How the moments of a call are counted: runs it, and tells whether it had so many of them."""


class AtAwait:
    """Awaits a call, and lets something happen to its task at one of its awaits.

    number: of the await, from 0.
    late: not when it begins to wait, but when what it waits for has come, and it is to be woken.
    """

    def __init__(self, call: Call, number: int, happening: Happening, *, late: bool) -> None:
        self.reached = False
        self._call = call
        self._number = number
        self._happening = happening
        self._late = late

    def __await__(self) -> Generator[Any, Any, Any]:
        resume = functools.partial(self._call.send, None)
        for number in itertools.count():
            try:
                awaited = resume()
            except StopIteration as end:
                return end.value
            if number == self._number:
                self._happen(awaited)
            try:
                yield awaited
            except BaseException as error:  # the call's, to be thrown where it waits
                resume = functools.partial(self._call.throw, error)
            else:
                resume = functools.partial(self._call.send, None)

    def _happen(self, awaited: asyncio.Future[Any] | None) -> None:
        self.reached = True
        task = asyncio.current_task()
        assert task is not None
        if self._late and awaited is not None:
            awaited.add_done_callback(lambda _: self._happening(task))
        else:
            self._happening(task)


def _at_await(*, late: bool) -> Moment:
    async def run(call: Call, number: int, happening: Happening) -> tuple[asyncio.Task[Any], bool]:
        at_await = AtAwait(call, number, happening, late=late)
        task = asyncio.ensure_future(at_await)
        await asyncio.wait((task,))
        return task, at_await.reached

    return run


async def at_turn(call: Call, number: int, happening: Happening) -> tuple[asyncio.Task[Any], bool]:
    """After so many turns of the event loop."""
    task = asyncio.create_task(call)
    for _ in range(number):
        await asyncio.sleep(0)
    reached = not task.done()
    if reached:
        happening(task)
    await asyncio.wait((task,))
    return task, reached


MOMENTS: dict[str, Moment] = {
    "as it waits": _at_await(late=False),
    "as it is woken": _at_await(late=True),
    "at any turn": at_turn,
}
at_every_moment = pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)

KINDS: dict[str, Callable[[Path], MessageRequest]] = {
    "text": lambda _: TEXT,
    "no body": lambda _: CreateNegativeFeedbackRemovalRequest(),
    "file": lambda path: InvoiceRequest([LocalFile(path)]),
}
of_every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@frozen
class Ended:
    """What came of one send.

    error: None if it returned.
    wrote: whether aiohttp began to write the message, as a trace config told.
    delivered: how often the buyer has it.
    logged: by the package.
    tokens: what is left of the operation's plan.
    """

    amazon_order_id: str
    error: BaseException | None
    wrote: bool
    delivered: int
    logged: list[logging.LogRecord]
    tokens: int


Interrupt: TypeAlias = Callable[[MessagingSession, asyncio.Task[Any]], list[asyncio.Task[Any]]]
"""What happens to a session and the task that sends over it; returns the tasks that it began."""


class Interrupted:
    """Sends over cold sessions, each to an order of its own, and interrupts each a moment later."""

    def __init__(
        self, sandbox: Sandbox, open_session: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        self._sandbox = sandbox
        self._open = open_session
        self._caplog = caplog
        self.own_http = False  # the sessions' own connections, and not the ones that are traced

    async def sends(
        self, request: MessageRequest, moment: Moment, interrupt: Interrupt
    ) -> list[Ended]:
        """What came of them; the last one ended before its moment had come."""
        ended: list[Ended] = []
        reached = True
        while reached:
            one, reached = await self._send(len(ended), request, moment, interrupt)
            ended.append(one)
        return ended

    async def _send(
        self, number: int, request: MessageRequest, moment: Moment, interrupt: Interrupt
    ) -> tuple[Ended, bool]:
        order = f"111-0000000-{number:07}"
        credentials = Credentials("client", "secret", f"Atzr|{number}")
        throttle = LocalThrottle(dict.fromkeys(OPERATIONS, SLOW), headroom=0)
        wrote: list[str] = []
        began: list[asyncio.Task[Any]] = []
        self._caplog.clear()
        async with aiohttp.ClientSession(
            # A connection for each request, so that connecting is among the moments.
            connector=aiohttp.TCPConnector(force_close=True),
            trace_configs=[_noting_writes(wrote)],
        ) as http:
            session = self._open(
                credentials=credentials, throttle=throttle, http=None if self.own_http else http
            )
            call = session.send(order, request)
            task, reached = await moment(
                call, number, lambda task: began.extend(interrupt(session, task))
            )
            await _pass()
            await asyncio.gather(*began)
            await session.aclose()
        key = PlanKey(self._sandbox.url, credentials.seller, by_request(request).name)
        ended = Ended(
            order,
            asyncio.CancelledError() if task.cancelled() else task.exception(),
            bool(wrote),
            sum(item.amazon_order_id == order for item in self._sandbox.delivered),
            [item for item in self._caplog.records if item.name == "sp_messaging_async"],
            await tokens_left(throttle, key),
        )
        return ended, reached


def _noting_writes(wrote: list[str]) -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()

    async def note(_: object, __: object, chunk: aiohttp.TraceRequestChunkSentParams) -> None:
        if chunk.url.path.startswith("/messaging/"):
            wrote.append(chunk.method)

    trace.on_request_chunk_sent.append(note)
    return trace


async def tokens_left(throttle: LocalThrottle, key: PlanKey) -> int:
    """How many requests the plan lets go at once, which takes them."""
    count = 0
    try:
        while True:
            async with asyncio.timeout(0):
                await throttle.acquire(key)
            count += 1
    except TimeoutError:
        return count


async def _pass() -> None:
    """Let what has happened on loopback be noticed, and dealt with."""
    for _ in range(30):
        await asyncio.sleep(0)


@pytest.fixture
def interrupted(
    sandbox: Sandbox, open_session: Open, caplog: pytest.LogCaptureFixture
) -> Interrupted:
    """Sends that are interrupted at every moment."""
    return Interrupted(sandbox, open_session, caplog)


@pytest.fixture
def invoice(tmp_path: Path) -> Path:
    """A file to attach."""
    path = tmp_path / "invoice.pdf"
    path.write_bytes(b"%PDF")
    return path


# Cancellation


def cancel(session: MessagingSession, task: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    """Cancel the send."""
    task.cancel()
    return []


def check_told(ended: Ended, operation: str) -> None:
    """One warning names the order whose message may or may not have been sent."""
    (record,) = ended.logged
    assert record.levelno == logging.WARNING
    extra = record.__dict__
    assert extra["event"] == "unknown"
    assert extra["operation"] == operation
    assert extra["amazon_order_id"] == ended.amazon_order_id
    assert ended.amazon_order_id in record.getMessage()


@at_every_moment
@of_every_kind
async def test_cancellation_at_every_moment(
    interrupted: Interrupted, invoice: Path, make: Callable[[Path], MessageRequest], moment: Moment
) -> None:
    """Before the write nothing is sent and nothing logged; after it, one warning, sent once."""
    request = make(invoice)
    *cancelled, left_alone = await interrupted.sends(request, moment, cancel)
    assert (left_alone.error, left_alone.delivered, left_alone.logged) == (None, 1, [])
    for ended in cancelled:
        assert isinstance(ended.error, asyncio.CancelledError)
        if ended.wrote:
            assert ended.delivered <= 1
            check_told(ended, by_request(request).name)
        else:
            assert ended.delivered == 0
            assert ended.logged == []


@of_every_kind
async def test_moments_lie_before_and_after_the_write(
    interrupted: Interrupted, invoice: Path, make: Callable[[Path], MessageRequest]
) -> None:
    """The tests around this one see what they are about."""
    cancelled = await interrupted.sends(make(invoice), MOMENTS["as it waits"], cancel)
    assert [ended.wrote for ended in cancelled] == sorted(ended.wrote for ended in cancelled)
    assert {ended.wrote for ended in cancelled[:-1]} == {False, True}


# What a call may wait for


@frozen
class Waiting:
    """A call that waits before its send."""

    session: MessagingSession
    task: asyncio.Task[Any]
    operation: str
    attempts: int


class Watched:
    """A trace config that notes when one of its hooks is called, and may hold the request there."""

    def __init__(self, hook: str, *, holds: bool = False) -> None:
        self.config = aiohttp.TraceConfig()
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        if not holds:
            self.go_on.set()
        getattr(self.config, hook).append(self._called)

    async def _called(self, _: object, __: object, params: Any) -> None:
        if params.url.path.startswith(("/messaging/", "/uploads/")):
            self.reached.set()
            await self.go_on.wait()

    @asynccontextmanager
    async def http(self) -> AsyncIterator[aiohttp.ClientSession]:
        """An aiohttp session that is watched."""
        async with aiohttp.ClientSession(trace_configs=[self.config]) as http:
            yield http


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until something is so."""
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0)
    await _pass()


Arrangement: TypeAlias = Callable[[Sandbox, Open, Path], Any]


def plan_key(sandbox: Sandbox, operation: str = NAME) -> PlanKey:
    """The plan of the sandbox's own seller."""
    return PlanKey(sandbox.url, sandbox.credentials.seller, operation)


@asynccontextmanager
async def for_the_plan(sandbox: Sandbox, open_session: Open, _: Path) -> AsyncIterator[Waiting]:
    """Its usage plan has no token left."""
    throttle = LocalThrottle({NAME: SLOW}, headroom=0)
    await tokens_left(throttle, plan_key(sandbox))
    session = open_session(throttle=throttle)
    task = asyncio.ensure_future(session.send(ORDER, TEXT))
    await until(lambda: throttle.waiting(plan_key(sandbox)) == 1)
    yield Waiting(session, task, NAME, 0)
    assert throttle.waiting(plan_key(sandbox)) == 0


@asynccontextmanager
async def for_the_token(sandbox: Sandbox, open_session: Open, _: Path) -> AsyncIterator[Waiting]:
    """Login with Amazon does not answer."""
    sandbox.faults.add(Fault.HANG, operation="token")
    session = open_session()
    task = asyncio.ensure_future(session.send(ORDER, TEXT))
    await until(lambda: len(sandbox.faults) == 0)
    yield Waiting(session, task, NAME, 0)


@asynccontextmanager
async def for_another_attempt(
    sandbox: Sandbox, open_session: Open, _: Path
) -> AsyncIterator[Waiting]:
    """Its connection was refused a moment ago."""
    await open_session().get_attributes(ORDER)  # for the token, which is shared
    watched = Watched("on_request_exception")
    async with watched.http() as http:
        session = open_session(http=http, retry=A_MINUTE)
        async with sandbox.faults.refused():
            task = asyncio.ensure_future(session.send(ORDER, TEXT))
            await until(watched.reached.is_set)
        yield Waiting(session, task, NAME, 1)


@asynccontextmanager
async def for_an_upload(sandbox: Sandbox, open_session: Open, path: Path) -> AsyncIterator[Waiting]:
    """The host that takes its file does not answer."""
    sandbox.faults.add(Fault.HANG, operation="upload")
    session = open_session()
    task = asyncio.ensure_future(session.send(ORDER, InvoiceRequest([LocalFile(path)])))
    await until(lambda: len(sandbox.faults) == 0)
    yield Waiting(session, task, UPLOAD.name, 1)


waits = pytest.mark.parametrize(
    "waits", [for_the_plan, for_the_token, for_another_attempt, for_an_upload]
)


@waits
async def test_cancellation_of_a_call_that_waits(
    sandbox: Sandbox,
    open_session: Open,
    invoice: Path,
    caplog: pytest.LogCaptureFixture,
    waits: Arrangement,
) -> None:
    """The cancellation goes through, nothing is sent, nothing logged."""
    async with waits(sandbox, open_session, invoice) as waiting:
        waiting.task.cancel()
        await asyncio.wait((waiting.task,), timeout=SOON)
        assert waiting.task.cancelled()
        await _pass()
    assert sandbox.delivered == []
    assert caplog.records == []


# Closing


@waits
async def test_closing_under_a_call_that_waits(
    sandbox: Sandbox, open_session: Open, invoice: Path, waits: Arrangement
) -> None:
    """It fails with SessionClosed, and nothing was sent; closing does not wait for it."""
    async with waits(sandbox, open_session, invoice) as waiting:
        await asyncio.wait_for(waiting.session.aclose(), SOON)
        await asyncio.wait((waiting.task,), timeout=SOON)
        with pytest.raises(SessionClosed) as caught:
            waiting.task.result()
    assert caught.value.operation == waiting.operation
    assert caught.value.amazon_order_id == ORDER
    assert caught.value.attempts == waiting.attempts
    assert sandbox.delivered == []


def close(session: MessagingSession, task: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    """Close the session under the send."""
    return [asyncio.ensure_future(session.aclose())]


def cut_off(session: MessagingSession, task: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    """Close the session under the send, and give it no time."""
    return [asyncio.ensure_future(session.aclose(grace=0))]


whose_http = pytest.mark.parametrize("own_http", [True, False], ids=["own", "caller's"])


@at_every_moment
@of_every_kind
@whose_http
async def test_closing_at_every_moment(
    interrupted: Interrupted,
    invoice: Path,
    make: Callable[[Path], MessageRequest],
    moment: Moment,
    own_http: bool,
) -> None:
    """A send either raises SessionClosed, and was not sent, or is awaited, and sent."""
    interrupted.own_http = own_http
    *closed, _ = await interrupted.sends(make(invoice), moment, close)
    for ended in closed:
        assert type(ended.error) in (type(None), SessionClosed)
        assert ended.delivered == (ended.error is None)
        assert ended.logged == []


@at_every_moment
@of_every_kind
@whose_http
async def test_closing_without_grace_at_every_moment(
    interrupted: Interrupted,
    invoice: Path,
    make: Callable[[Path], MessageRequest],
    moment: Moment,
    own_http: bool,
) -> None:
    """A message whose exchange is cut off is unknown; what was not written is known unsent."""
    interrupted.own_http = own_http
    *closed, _ = await interrupted.sends(make(invoice), moment, cut_off)
    for ended in closed:
        assert type(ended.error) in (type(None), SessionClosed, TransportError, OutcomeUnknown)
        if not isinstance(ended.error, OutcomeUnknown):
            assert ended.delivered == (ended.error is None)
        assert ended.delivered <= 1


async def test_closing_awaits_an_exchange_in_flight(sandbox: Sandbox, open_session: Open) -> None:
    """Its answer is had and returned, while new calls are refused already."""
    held = Watched("on_request_end", holds=True)
    async with held.http() as http:
        session = open_session(http=http)
        sending = asyncio.ensure_future(session.send(ORDER, TEXT))
        await held.reached.wait()
        closing = asyncio.ensure_future(session.aclose())
        await _pass()
        assert not closing.done()
        with pytest.raises(SessionClosed):
            await session.send(ORDER, TEXT)
        held.go_on.set()
        await asyncio.gather(sending, closing)
    assert len(sandbox.delivered) == 1


async def test_leaving_the_context_manager_is_closing(sandbox: Sandbox, open_session: Open) -> None:
    """It awaits what is in flight, and fails what waits."""
    throttle = LocalThrottle({NAME: UsagePlan(0.001, 1)}, headroom=0)
    held = Watched("on_request_end", holds=True)
    async with held.http() as http:
        async with open_session(http=http, throttle=throttle) as session:
            in_flight = asyncio.ensure_future(session.send(ORDER, TEXT))
            await held.reached.wait()
            waits = asyncio.ensure_future(session.send(ORDER, TEXT))
            await until(lambda: throttle.waiting(plan_key(sandbox)) == 1)
            waits.add_done_callback(lambda _: held.go_on.set())
        await in_flight
        with pytest.raises(SessionClosed):
            await waits
    assert len(sandbox.delivered) == 1


async def test_an_exchange_that_fails_while_its_session_closes(
    sandbox: Sandbox, open_session: Open
) -> None:
    """There is no other attempt: the call ends at once, and not after the delay before it."""
    held = Watched("on_request_end", holds=True)
    sandbox.faults.add(Fault.INTERNAL_FAILURE)
    async with held.http() as http:
        session = open_session(http=http, retry=A_MINUTE)
        reading = asyncio.ensure_future(session.get_attributes(ORDER))
        await held.reached.wait()
        closing = asyncio.ensure_future(session.aclose())
        await _pass()
        held.go_on.set()
        await closing
        assert type(await error_soon(reading)) is SessionClosed


async def error_soon(task: asyncio.Task[Any]) -> BaseException | None:
    """What a task raises that must have ended by now or in a moment."""
    await asyncio.wait((task,), timeout=1)
    ended = task.done()
    task.cancel()
    await asyncio.wait((task,))
    assert ended, "it goes on"
    assert not task.cancelled(), "it was cancelled, and by nobody"
    return task.exception()


async def test_no_file_is_put_once_the_session_closes(
    sandbox: Sandbox, open_session: Open, invoice: Path
) -> None:
    """The exchange for its destination is awaited, and begins nothing new."""
    held = Watched("on_request_end", holds=True)
    sandbox.faults.add(Fault.EMPTY_AFTER, operation="upload")
    async with held.http() as http:
        session = open_session(http=http)
        sending = asyncio.ensure_future(session.send(ORDER, InvoiceRequest([LocalFile(invoice)])))
        await held.reached.wait()
        closing = asyncio.ensure_future(session.aclose())
        await _pass()
        held.go_on.set()
        await closing
        assert type(await error_soon(sending)) is SessionClosed
    assert len(sandbox.faults) == 1


@whose_http
async def test_grace_cuts_a_message_off(
    sandbox: Sandbox, open_session: Open, own_http: bool
) -> None:
    """A message that hangs when it is over is unknown, with the loss as its cause."""
    sandbox.faults.add(Fault.HANG_AFTER)
    async with aiohttp.ClientSession() as http:
        session = open_session(http=None if own_http else http)
        sending = asyncio.ensure_future(session.send(ORDER, TEXT))
        await until(lambda: len(sandbox.delivered) == 1)
        await session.aclose(grace=0.1)
        error = await error_soon(sending)
        assert isinstance(error, OutcomeUnknown)
        assert isinstance(error.cause, TransportError)
        assert error.cause.write_began
        assert not http.closed
    assert len(sandbox.delivered) == 1


async def test_grace_cuts_a_read_off(sandbox: Sandbox, open_session: Open) -> None:
    """A read that hangs is not made again."""
    sandbox.faults.add(Fault.HANG)
    session = open_session()
    reading = asyncio.ensure_future(session.get_attributes(ORDER))
    await until(lambda: len(sandbox.faults) == 0)
    await session.aclose(grace=0.1)
    assert type(await error_soon(reading)) in (SessionClosed, TransportError)


async def test_grace_cuts_a_connect_off(sandbox: Sandbox, open_session: Open) -> None:
    """A message whose connection is not made yet is known to be unsent."""
    await open_session().get_attributes(ORDER)  # for the token, which is shared
    async with UNSENT["hung connect"]() as place:
        endpoint = Endpoint(place.api_url, sandbox.endpoint.token_url)
        session = open_session(endpoint=endpoint)
        sending = asyncio.ensure_future(session.send(ORDER, TEXT))
        await _pass()
        await session.aclose(grace=0.1)
        assert type(await error_soon(sending)) in (SessionClosed, TransportError)


async def test_grace_cuts_the_look_up_of_a_name_off(sandbox: Sandbox, open_session: Open) -> None:
    """A message whose host is not found yet is known to be unsent, and not said to be cancelled."""
    await open_session().get_attributes(ORDER)  # for the token, which is shared
    answered = threading.Event()
    with ThreadPoolExecutor(1) as names:
        asyncio.get_running_loop().set_default_executor(names)
        names.submit(answered.wait)  # a look-up stands behind it
        session = open_session(endpoint=Endpoint("https://localhost:1", sandbox.endpoint.token_url))
        sending = asyncio.ensure_future(session.send(ORDER, TEXT))
        await _pass()
        try:
            await session.aclose(grace=0.1)
            assert type(await error_soon(sending)) in (SessionClosed, TransportError)
        finally:
            answered.set()


async def test_closing_leaves_other_sessions_in_the_queue(
    sandbox: Sandbox, open_session: Open
) -> None:
    """Sessions that share a throttle go on in their order, when one before them is closed."""
    throttle = LocalThrottle({NAME: UsagePlan(20, 1)}, headroom=0)
    first, second = open_session(throttle=throttle), open_session(throttle=throttle)
    await first.get_attributes(ORDER)
    await throttle.acquire(plan_key(sandbox))
    closed = [asyncio.ensure_future(first.send(ORDER, TEXT)) for _ in range(3)]
    await until(lambda: throttle.waiting(plan_key(sandbox)) == 3)
    stays = asyncio.ensure_future(second.send(ORDER, TEXT))
    await first.aclose()
    await asyncio.wait_for(stays, SOON)
    assert {type(await error_soon(task)) for task in closed} == {SessionClosed}
    assert len(sandbox.delivered) == 1


# Patience


async def test_max_wait_for_the_plan(sandbox: Sandbox, open_session: Open) -> None:
    """A turn that does not come in time is given up, and the place in the queue with it."""
    throttle = LocalThrottle({NAME: SLOW}, headroom=0)
    await tokens_left(throttle, plan_key(sandbox))
    with pytest.raises(PlanWaitExceeded, match=r"within 0\.05 s") as caught:
        await open_session(throttle=throttle).send(ORDER, TEXT, max_wait=0.05)
    assert (caught.value.operation, caught.value.amazon_order_id) == (NAME, ORDER)
    assert caught.value.attempts == 0
    assert throttle.waiting(plan_key(sandbox)) == 0
    assert sandbox.delivered == []


async def test_max_wait_of_nothing(sandbox: Sandbox, open_session: Open) -> None:
    """A call that may not wait goes if its plan lets it go at once, and else not at all."""
    throttle = LocalThrottle({NAME: SLOW}, headroom=0)
    session = open_session(throttle=throttle)
    for _ in range(BURST):
        await session.send(ORDER, TEXT, max_wait=0)
    with pytest.raises(PlanWaitExceeded):
        await session.send(ORDER, TEXT, max_wait=0)
    assert len(sandbox.delivered) == BURST


async def test_max_wait_for_another_attempt(sandbox: Sandbox, open_session: Open) -> None:
    """The delays between attempts count as waiting."""
    sandbox.faults.add(Fault.INTERNAL_FAILURE)
    with pytest.raises(PlanWaitExceeded) as caught:
        await open_session(retry=A_MINUTE).get_attributes(ORDER, max_wait=0.05)
    assert caught.value.attempts == 1


async def test_max_wait_for_another_put(
    sandbox: Sandbox, open_session: Open, invoice: Path
) -> None:
    """So do the delays before a file is put again."""
    sandbox.faults.add(Fault.INTERNAL_FAILURE, operation="upload")
    session, request = open_session(retry=A_MINUTE), InvoiceRequest([LocalFile(invoice)])
    sending = asyncio.ensure_future(session.send(ORDER, request, max_wait=0.05))
    await until(lambda: len(sandbox.faults) == 0)
    assert type(await error_soon(sending)) is PlanWaitExceeded
    assert sandbox.delivered == []


async def test_max_wait_is_for_all_the_waiting_of_a_call(
    sandbox: Sandbox, open_session: Open
) -> None:
    """Waits that are each short enough add up over the attempts."""
    throttle = LocalThrottle({NAME: UsagePlan(10, 1)}, headroom=0)
    sandbox.faults.add(*[Fault.THROTTLED] * 20)
    retry = RetryPolicy(attempts=20, base_delay=0, max_delay=0)
    with pytest.raises(PlanWaitExceeded) as caught:
        await open_session(throttle=throttle, retry=retry).send(ORDER, TEXT, max_wait=0.25)
    assert caught.value.attempts <= 3
    assert sandbox.delivered == []


async def test_max_wait_covers_the_uploads_of_a_message(
    sandbox: Sandbox, open_session: Open, invoice: Path
) -> None:
    """A message that had its file uploaded and then waits too long is not sent."""
    throttle = LocalThrottle({"sendInvoice": SLOW}, headroom=0)
    await tokens_left(throttle, plan_key(sandbox, "sendInvoice"))
    request = InvoiceRequest([LocalFile(invoice)])
    with pytest.raises(PlanWaitExceeded) as caught:
        await open_session(throttle=throttle).send(ORDER, request, max_wait=0.05)
    assert caught.value.operation == "sendInvoice"
    assert sandbox.delivered == []


async def test_max_wait_does_not_count_exchanges(sandbox: Sandbox, open_session: Open) -> None:
    """An exchange may take longer than a call may wait, and the call may still wait after it."""
    held = Watched("on_request_end", holds=True)
    sandbox.faults.add(Fault.THROTTLED)
    async with held.http() as http:
        session = open_session(http=http, throttle=LocalThrottle(FAST, headroom=0))
        sending = asyncio.ensure_future(session.send(ORDER, TEXT, max_wait=0.1))
        await held.reached.wait()
        await asyncio.sleep(0.2)
        held.go_on.set()
        await sending
    assert len(sandbox.delivered) == 1
