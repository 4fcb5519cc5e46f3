"""The table of failures, row by row, over sockets: what is raised, and what reached the buyer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sp_messaging_async import (
    ApiError,
    AuthenticationError,
    BadRequest,
    CreateUnexpectedProblemRequest,
    Credentials,
    Forbidden,
    InvoiceRequest,
    LocalFile,
    LocalThrottle,
    MessageNotAvailable,
    MessagingError,
    MessagingSession,
    OutcomeUnknown,
    RetryPolicy,
    ServerError,
    Throttled,
    TransportError,
    UsagePlan,
)
from sp_messaging_async.operations import MESSAGING, UPLOAD, Operation, by_request
from sp_messaging_async.sandbox import Fault, Sandbox

from .conftest import FAST, ORDER, Open, requests_of_every_kind

TEXT = CreateUnexpectedProblemRequest("Sold out.")
PUT = "upload"
STATIC_ORDER = "123-1234567-1234567"  # Amazon's, which takes attachments that nobody uploaded
SHORT = 0.25  # seconds; for faults that hang
MANY = 20  # more faults than any call meets


class Expected(NamedTuple):
    """What a fault looks like to whoever calls: the class of the error, and its fields."""

    error: type[ApiError | TransportError]
    status: int | None = None
    codes: tuple[str, ...] = ()
    has_request_id: bool = False

    def check(self, error: BaseException) -> None:
        """Hold an error against this, field by field."""
        assert type(error) is self.error
        if isinstance(error, ApiError):
            assert error.status == self.status
            assert error.codes == self.codes
            assert (error.request_id is not None) == self.has_request_id

    def of_read(self) -> Expected:
        """The same where the success that was spoilt is a read's."""
        return self._replace(status=200) if self.status == 201 else self


def _has_twin(fault: Fault) -> bool:
    return fault.accepts and fault.name.removesuffix("_AFTER") in Fault.__members__


INTERNAL = Expected(ServerError, 500, ("InternalFailure",), has_request_id=True)
UNAVAILABLE = Expected(ServerError, 503, ("ServiceUnavailable",), has_request_id=True)
LOST = Expected(TransportError)
UNREADABLE = Expected(ApiError, 201)

AMBIGUOUS = {
    Fault.INTERNAL_FAILURE: INTERNAL,
    Fault.INTERNAL_FAILURE_AFTER: INTERNAL,
    Fault.UNAVAILABLE: UNAVAILABLE,
    Fault.UNAVAILABLE_AFTER: UNAVAILABLE,
    Fault.BAD_GATEWAY: Expected(ServerError, 502),
    Fault.DROPPED: LOST,
    Fault.DROPPED_AFTER: LOST,
    Fault.HANG: LOST,
    Fault.HANG_AFTER: LOST,
    Fault.CUT_AFTER: LOST,
    Fault.HTML_AFTER: UNREADABLE,
    Fault.TRUNCATED_AFTER: UNREADABLE,
    Fault.ERRORS_AFTER: Expected(ApiError, 201, ("InternalFailure",), has_request_id=True),
}
# What has no effect fails alike before and after it was accepted.
REPEATABLE = {
    **{fault: row for fault, row in AMBIGUOUS.items() if not _has_twin(fault)},
    Fault.EMPTY_AFTER: UNREADABLE,
}
REFUSED = {
    Fault.HTML_ERROR: Expected(BadRequest, 400),
    Fault.REDIRECT: Expected(ApiError, 307),
    Fault.DENIED: Expected(Forbidden, 403, ("Unauthorized",), has_request_id=True),
    Fault.NOT_AVAILABLE: Expected(MessageNotAvailable, 403, ("Unauthorized",), has_request_id=True),
}
THROTTLED = Expected(Throttled, 429, ("QuotaExceeded",), has_request_id=True)
TOKEN_REFUSED = Expected(Forbidden, 403, ("Unauthorized",), has_request_id=True)


def _name(value: object) -> str:
    return getattr(value, "name", str(value))


def _rows(table: dict[Fault, Expected]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("fault", "expected"), table.items(), ids=map(_name, table))


def _faults(*faults: Fault) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", faults, ids=_name)


def patient(open_session: Open, fault: Fault, **changes: Any) -> MessagingSession:
    """A session whose exchanges are cut short where the fault would let them hang."""
    if fault.name.startswith("HANG"):
        changes["timeout"] = SHORT
    return open_session(**changes)


def check_context(error: BaseException, operation: str, attempts: int, order: str = ORDER) -> None:
    """Hold what an error tells of its call against the call."""
    assert isinstance(error, ApiError | TransportError | OutcomeUnknown | AuthenticationError)
    assert (error.operation, error.amazon_order_id) == (operation, order)
    assert error.attempts == attempts
    assert str(error).startswith(f"{operation} for order {order}")


class Script:
    """Faults in the sandbox, more than will be met, so that each exchange spends one."""

    def __init__(self, sandbox: Sandbox, fault: Fault, operation: str | None = None) -> None:
        self._sandbox = sandbox
        sandbox.faults.add(*[fault] * MANY, operation=operation)

    @property
    def exchanges(self) -> int:
        """How many requests of the operation the sandbox received."""
        return MANY - len(self._sandbox.faults)


# A message to a buyer


@_rows(AMBIGUOUS)
async def test_a_message_whose_fate_nobody_knows(
    sandbox: Sandbox, open_session: Open, fault: Fault, expected: Expected
) -> None:
    """One exchange, and OutcomeUnknown with its cause; delivered once if Amazon accepted it."""
    script = Script(sandbox, fault)
    with pytest.raises(OutcomeUnknown) as caught:
        await patient(open_session, fault).send(ORDER, TEXT)
    check_context(caught.value, "createUnexpectedProblem", attempts=1)
    expected.check(caught.value.cause)
    if isinstance(caught.value.cause, TransportError):
        assert caught.value.cause.write_began
    assert script.exchanges == 1
    assert len(sandbox.delivered) == fault.accepts


BUYER_OPERATIONS = [row for row in MESSAGING.values() if row.messages_buyer]


@pytest.mark.parametrize("operation", BUYER_OPERATIONS, ids=_name)
@_faults(Fault.DROPPED_AFTER, Fault.UNAVAILABLE_AFTER)
async def test_every_kind_of_message_is_posted_once(
    sandbox: Sandbox, session: MessagingSession, operation: Operation, fault: Fault
) -> None:
    """None of the operations that message a buyer repeats what may have been sent."""
    requests = {by_request(request).name: request for request in requests_of_every_kind()}
    script = Script(sandbox, fault, operation.name)
    with pytest.raises(OutcomeUnknown) as caught:
        await session.send(STATIC_ORDER, requests[operation.name])
    check_context(caught.value, operation.name, attempts=1, order=STATIC_ORDER)
    assert script.exchanges == 1
    assert [item.operation for item in sandbox.delivered] == [operation.name]


async def test_a_success_without_a_body_is_a_message_sent(
    sandbox: Sandbox, session: MessagingSession
) -> None:
    """An empty 2xx is what Amazon may send for a message that it took."""
    script = Script(sandbox, Fault.EMPTY_AFTER)
    answer = await session.send(ORDER, TEXT)
    assert type(answer) is MESSAGING["createUnexpectedProblem"].response
    assert script.exchanges == len(sandbox.delivered) == 1


@_rows(REFUSED)
async def test_a_message_that_amazon_refuses(
    sandbox: Sandbox, session: MessagingSession, fault: Fault, expected: Expected
) -> None:
    """One exchange, no new token, and the error of its status; known not to be sent."""
    script = Script(sandbox, fault)
    with pytest.raises(ApiError) as caught:
        await session.send(ORDER, TEXT)
    check_context(caught.value, "createUnexpectedProblem", attempts=1)
    expected.check(caught.value)
    assert script.exchanges == sandbox.login.requests == 1
    assert sandbox.delivered == []


Send = Callable[[MessagingSession], Awaitable[Any]]


def _message(session: MessagingSession) -> Awaitable[Any]:
    return session.send(ORDER, TEXT)


def _attributes(session: MessagingSession) -> Awaitable[Any]:
    return session.get_attributes(ORDER)


def _actions(session: MessagingSession) -> Awaitable[Any]:
    return session.get_messaging_actions_for_order(ORDER)


MESSAGE_AND_READS = [
    pytest.param(_message, "createUnexpectedProblem", id="message"),
    pytest.param(_attributes, "getAttributes", id="attributes"),
    pytest.param(_actions, "getMessagingActionsForOrder", id="actions"),
]
READS = MESSAGE_AND_READS[1:]


@pytest.mark.parametrize(("call", "operation"), MESSAGE_AND_READS)
@pytest.mark.parametrize(
    "faults",
    [
        (Fault.THROTTLED,),
        (Fault.THROTTLED,) * 4,
        (Fault.EXPIRED_TOKEN,),
        (Fault.REVOKED_TOKEN,),
        (Fault.THROTTLED, Fault.EXPIRED_TOKEN, Fault.THROTTLED),
    ],
)
async def test_what_is_known_to_be_unprocessed_is_tried_again(
    sandbox: Sandbox,
    session: MessagingSession,
    call: Send,
    operation: str,
    faults: tuple[Fault, ...],
) -> None:
    """A 429, or a token that was refused, costs an attempt and nothing else."""
    sandbox.faults.add(*faults, operation=operation)
    await call(session)
    assert len(sandbox.faults) == 0
    assert len(sandbox.delivered) == (call is _message)


@pytest.mark.parametrize(("call", "operation"), MESSAGE_AND_READS)
@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_429_to_the_end(
    sandbox: Sandbox, open_session: Open, call: Send, operation: str, attempts: int
) -> None:
    """When the attempts are used up, it is Throttled, and known not to be sent."""
    script = Script(sandbox, Fault.THROTTLED, operation)
    session = open_session(retry=RetryPolicy(attempts, base_delay=0, max_delay=0))
    with pytest.raises(Throttled) as caught:
        await call(session)
    check_context(caught.value, operation, attempts)
    THROTTLED.check(caught.value)
    assert script.exchanges == attempts
    assert sandbox.delivered == []


async def test_an_attempt_after_429_goes_before_those_who_queue(
    sandbox: Sandbox, open_session: Open
) -> None:
    """Calls are delivered in the order in which they were made, the refused one first."""
    throttle = LocalThrottle({"createUnexpectedProblem": UsagePlan(20, 1)}, headroom=0)
    session = open_session(throttle=throttle)
    orders = [f"111-2222222-000000{number}" for number in range(3)]
    sandbox.faults.add(Fault.THROTTLED, amazon_order_id=orders[0])
    await asyncio.gather(*(session.send(order, TEXT) for order in orders))
    assert [item.amazon_order_id for item in sandbox.delivered] == orders


@pytest.mark.parametrize(("call", "operation"), MESSAGE_AND_READS)
@_faults(Fault.EXPIRED_TOKEN, Fault.REVOKED_TOKEN)
async def test_a_token_is_renewed_once(
    sandbox: Sandbox, session: MessagingSession, call: Send, operation: str, fault: Fault
) -> None:
    """A new token that is refused too is Forbidden, after two exchanges and two tokens."""
    script = Script(sandbox, fault, operation)
    with pytest.raises(Forbidden) as caught:
        await call(session)
    check_context(caught.value, operation, attempts=2)
    TOKEN_REFUSED.check(caught.value)
    assert script.exchanges == sandbox.login.requests == 2
    assert sandbox.delivered == []


async def test_a_token_that_expired_at_amazon_is_renewed(
    sandbox: Sandbox, session: MessagingSession
) -> None:
    """Tokens that Amazon drops early are replaced, and the message goes once."""
    await session.get_attributes(ORDER)
    sandbox.login.expire_all()
    await session.send(ORDER, TEXT)
    assert sandbox.login.requests == 2
    assert len(sandbox.delivered) == 1


@pytest.mark.parametrize(("call", "operation"), MESSAGE_AND_READS)
async def test_refused_connections(
    sandbox: Sandbox, open_session: Open, call: Send, operation: str
) -> None:
    """They are tried to the end, known unsent; once connections are taken, the same call goes."""
    await open_session().get_attributes(ORDER)  # for the token, which is shared
    session = open_session()
    async with sandbox.faults.refused():
        with pytest.raises(TransportError, match="ECONNREFUSED") as caught:
            await call(session)
    check_context(caught.value, operation, attempts=5)
    assert sandbox.delivered == []
    await call(session)
    assert len(sandbox.delivered) == (call is _message)


@pytest.mark.parametrize(
    ("faults", "attempts"),
    [
        ((Fault.THROTTLED, Fault.INTERNAL_FAILURE_AFTER), 2),
        ((Fault.EXPIRED_TOKEN, Fault.DROPPED_AFTER), 2),
        ((Fault.THROTTLED, Fault.REVOKED_TOKEN, Fault.THROTTLED, Fault.CUT_AFTER), 4),
        ((*[Fault.THROTTLED] * 4, Fault.TRUNCATED_AFTER), 5),
    ],
)
async def test_an_unknown_outcome_after_attempts_that_were_not_processed(
    sandbox: Sandbox, session: MessagingSession, faults: tuple[Fault, ...], attempts: int
) -> None:
    """The attempt that may have been sent is the last, and all are counted."""
    sandbox.faults.add(*faults)
    with pytest.raises(OutcomeUnknown) as caught:
        await session.send(ORDER, TEXT)
    check_context(caught.value, "createUnexpectedProblem", attempts)
    assert f", attempt {attempts}: " in str(caught.value)
    assert len(sandbox.delivered) == 1


NOT_HANGING = [fault for fault in Fault if not fault.name.startswith("HANG")]


@settings(deadline=None, max_examples=40)
@given(script=st.lists(st.sampled_from(NOT_HANGING), max_size=6), attempts=st.integers(1, 4))
def test_whatever_fails_nobody_is_messaged_twice(script: list[Fault], attempts: int) -> None:
    """Returned: delivered once. Any error but OutcomeUnknown: not delivered. Never twice."""

    async def main() -> None:
        retry = RetryPolicy(attempts, base_delay=0, max_delay=0)
        async with (
            Sandbox(plans=FAST) as sandbox,
            MessagingSession(
                sandbox.credentials,
                marketplace="US",
                endpoint=sandbox.endpoint,
                throttle=LocalThrottle(FAST, headroom=0),
                retry=retry,
            ) as session,
        ):
            sandbox.faults.add(*script)
            try:
                await session.send(ORDER, TEXT)
            except OutcomeUnknown:
                assert len(sandbox.delivered) <= 1
            except MessagingError:
                assert sandbox.delivered == []
            else:
                assert len(sandbox.delivered) == 1

    asyncio.run(main())


# A read


@pytest.mark.parametrize(("call", "operation"), READS)
@_faults(*REPEATABLE)
async def test_a_read_is_tried_again(
    sandbox: Sandbox, open_session: Open, call: Send, operation: str, fault: Fault
) -> None:
    """A read that failed in whatever way is made again, and answers."""
    sandbox.faults.add(fault, operation=operation)
    answer = await call(patient(open_session, fault))
    assert type(answer) is MESSAGING[operation].response
    assert len(sandbox.faults) == 0


@_rows(REPEATABLE)
async def test_a_read_that_fails_to_the_end(
    sandbox: Sandbox, open_session: Open, fault: Fault, expected: Expected
) -> None:
    """When the attempts are used up, the last failure is raised, with its own fields."""
    Script(sandbox, fault, "getAttributes")
    retry = RetryPolicy(attempts=2, base_delay=0, max_delay=0)
    with pytest.raises((ApiError, TransportError)) as caught:
        await patient(open_session, fault, retry=retry).get_attributes(ORDER)
    check_context(caught.value, "getAttributes", attempts=2)
    expected.of_read().check(caught.value)


async def test_the_last_of_different_failures_is_raised(
    sandbox: Sandbox, session: MessagingSession
) -> None:
    """It is the last attempt's failure that a caller learns of, not the first's."""
    sandbox.faults.add(
        Fault.CUT_AFTER,
        Fault.INTERNAL_FAILURE,
        Fault.THROTTLED,
        Fault.TRUNCATED_AFTER,
        Fault.BAD_GATEWAY,
    )
    with pytest.raises(ServerError) as caught:
        await session.get_attributes(ORDER)
    check_context(caught.value, "getAttributes", attempts=5)
    assert caught.value.status == 502


@pytest.mark.parametrize(("call", "operation"), READS)
@_rows(REFUSED)
async def test_a_read_that_amazon_refuses(
    sandbox: Sandbox,
    session: MessagingSession,
    call: Send,
    operation: str,
    fault: Fault,
    expected: Expected,
) -> None:
    """A refusal is final for a read too."""
    script = Script(sandbox, fault, operation)
    with pytest.raises(ApiError) as caught:
        await call(session)
    check_context(caught.value, operation, attempts=1)
    expected.check(caught.value)
    assert script.exchanges == 1


# An upload: its destination, and the file


FILE = b"%PDF-1.7 an invoice"


async def send_with_file(session: MessagingSession, content: bytes = FILE) -> None:
    """Upload a file and send it."""
    file = await session.upload_attachment(ORDER, InvoiceRequest, content, "invoice.pdf")
    await session.send_invoice(ORDER, InvoiceRequest([file]))


def check_file_arrived(sandbox: Sandbox, content: bytes = FILE) -> None:
    """One message reached the buyer, with the whole file."""
    (delivered,) = sandbox.delivered
    assert [file.content for file in delivered.files] == [content]


PUT_TROUBLE = {
    Fault.INTERNAL_FAILURE: INTERNAL,
    Fault.INTERNAL_FAILURE_AFTER: INTERNAL,
    Fault.UNAVAILABLE: UNAVAILABLE,
    Fault.UNAVAILABLE_AFTER: UNAVAILABLE,
    Fault.BAD_GATEWAY: Expected(ServerError, 502),
    Fault.DROPPED: LOST,
    Fault.DROPPED_AFTER: LOST,
    Fault.CUT_AFTER: LOST,
    Fault.THROTTLED: THROTTLED,
}
PUT_REFUSED = {
    Fault.HTML_ERROR: Expected(BadRequest, 400),
    Fault.REDIRECT: Expected(ApiError, 307),
    Fault.DENIED: Expected(Forbidden, 403, ("Unauthorized",), has_request_id=True),
    Fault.EXPIRED_TOKEN: Expected(Forbidden, 403, ("Unauthorized",), has_request_id=True),
}


@_faults(*REPEATABLE, Fault.THROTTLED, Fault.EXPIRED_TOKEN)
async def test_an_upload_destination_is_asked_for_again(
    sandbox: Sandbox, open_session: Open, fault: Fault
) -> None:
    """Whatever may be repeated is, and the message arrives once, with its file."""
    sandbox.faults.add(fault, operation=UPLOAD.name)
    await send_with_file(patient(open_session, fault))
    assert len(sandbox.faults) == 0
    check_file_arrived(sandbox)


@_rows({**REPEATABLE, Fault.THROTTLED: THROTTLED})
async def test_an_upload_destination_that_is_not_to_be_had(
    sandbox: Sandbox, open_session: Open, fault: Fault, expected: Expected
) -> None:
    """The last failure is raised, and names the upload; nothing was sent to the buyer."""
    Script(sandbox, fault, UPLOAD.name)
    retry = RetryPolicy(attempts=2, base_delay=0, max_delay=0)
    with pytest.raises((ApiError, TransportError)) as caught:
        await send_with_file(patient(open_session, fault, retry=retry))
    check_context(caught.value, UPLOAD.name, attempts=2)
    expected.check(caught.value)
    assert sandbox.delivered == []


@_rows(REFUSED)
async def test_an_upload_destination_that_is_refused(
    sandbox: Sandbox, session: MessagingSession, fault: Fault, expected: Expected
) -> None:
    """A refusal is final, and nothing was sent to the buyer."""
    script = Script(sandbox, fault, UPLOAD.name)
    with pytest.raises(ApiError) as caught:
        await send_with_file(session)
    check_context(caught.value, UPLOAD.name, attempts=1)
    expected.check(caught.value)
    assert script.exchanges == 1
    assert sandbox.delivered == []


@_faults(*PUT_TROUBLE, Fault.HANG)
async def test_a_file_is_put_again(sandbox: Sandbox, open_session: Open, fault: Fault) -> None:
    """A PUT that failed is repeated with the whole file."""
    sandbox.faults.add(fault, operation=PUT)
    await send_with_file(patient(open_session, fault))
    assert len(sandbox.faults) == 0
    check_file_arrived(sandbox)


@_faults(Fault.DROPPED, Fault.CUT_AFTER, Fault.UNAVAILABLE)
async def test_a_large_file_is_put_again(
    sandbox: Sandbox, session: MessagingSession, fault: Fault
) -> None:
    """One that is written in pieces is repeated from its beginning."""
    content = bytes(range(256)) * 8000
    sandbox.faults.add(fault, operation=PUT)
    await send_with_file(session, content)
    check_file_arrived(sandbox, content)


@_rows(dict.fromkeys((Fault.EMPTY_AFTER, Fault.HTML_AFTER, Fault.TRUNCATED_AFTER), LOST))
async def test_a_put_needs_no_readable_answer(
    sandbox: Sandbox, session: MessagingSession, fault: Fault, expected: Expected
) -> None:
    """Any 2xx to a PUT is a success, as its body says nothing."""
    script = Script(sandbox, fault, PUT)
    await send_with_file(session)
    assert script.exchanges == 1
    check_file_arrived(sandbox)


@_rows(PUT_TROUBLE)
async def test_a_file_that_cannot_be_put(
    sandbox: Sandbox, open_session: Open, fault: Fault, expected: Expected
) -> None:
    """The last failure is raised, and names the upload; nothing was sent to the buyer."""
    Script(sandbox, fault, PUT)
    retry = RetryPolicy(attempts=2, base_delay=0, max_delay=0)
    with pytest.raises((ApiError, TransportError)) as caught:
        await send_with_file(open_session(retry=retry))
    expected.check(caught.value)
    assert (caught.value.operation, caught.value.amazon_order_id) == (UPLOAD.name, ORDER)
    assert sandbox.delivered == []


async def test_a_put_counts_its_attempts(sandbox: Sandbox, session: MessagingSession) -> None:
    """The error of a file that could not be put tells how often that was tried."""
    script = Script(sandbox, Fault.INTERNAL_FAILURE, PUT)
    with pytest.raises(ServerError) as caught:
        await send_with_file(session)
    assert caught.value.attempts == script.exchanges == 5


@_rows(PUT_REFUSED)
async def test_a_put_that_is_refused(
    sandbox: Sandbox, session: MessagingSession, fault: Fault, expected: Expected
) -> None:
    """A refusal is final, but for one address that is asked for anew; no token is renewed."""
    script = Script(sandbox, fault, PUT)
    with pytest.raises(ApiError) as caught:
        await send_with_file(session)
    check_context(caught.value, UPLOAD.name, attempts=1)
    expected.check(caught.value)
    assert script.exchanges == (2 if isinstance(caught.value, Forbidden) else 1)
    assert sandbox.login.requests == 1
    assert sandbox.delivered == []


async def test_a_file_that_is_sent_is_not_uploaded_again(
    sandbox: Sandbox, session: MessagingSession, tmp_path: Path
) -> None:
    """Attempts at the message repeat neither the upload nor what it cost of its plan."""
    path = tmp_path / "invoice.pdf"
    path.write_bytes(FILE)
    puts = Script(sandbox, Fault.EMPTY_AFTER, PUT)
    sandbox.faults.add(Fault.THROTTLED, Fault.EXPIRED_TOKEN, operation="sendInvoice")
    await session.send(ORDER, InvoiceRequest([LocalFile(path)]))
    assert puts.exchanges == 1
    check_file_arrived(sandbox)


# Login with Amazon, before any of them


TOKEN = "token"
LOGIN_TROUBLE: dict[Fault, type[MessagingError]] = {
    Fault.INTERNAL_FAILURE: AuthenticationError,
    Fault.BAD_GATEWAY: AuthenticationError,
    Fault.THROTTLED: AuthenticationError,
    Fault.TEMPORARILY_UNAVAILABLE: AuthenticationError,
    Fault.DROPPED: TransportError,
    Fault.DROPPED_AFTER: TransportError,
    Fault.CUT_AFTER: TransportError,
}


@_faults(*LOGIN_TROUBLE, Fault.HANG)
async def test_login_is_tried_again(sandbox: Sandbox, open_session: Open, fault: Fault) -> None:
    """A token request that failed in passing is repeated, and the message goes once."""
    sandbox.faults.add(fault, operation=TOKEN)
    await patient(open_session, fault).send(ORDER, TEXT)
    assert len(sandbox.faults) == 0
    assert len(sandbox.delivered) == 1


@_faults(*LOGIN_TROUBLE)
async def test_login_that_fails_to_the_end(
    sandbox: Sandbox, open_session: Open, fault: Fault
) -> None:
    """Without a token nothing is sent, so the outcome is known: no exchange was begun."""
    retry = RetryPolicy(attempts=2, base_delay=0, max_delay=0)
    script = Script(sandbox, fault, TOKEN)
    with pytest.raises(LOGIN_TROUBLE[fault], match="Login with Amazon") as caught:
        await open_session(retry=retry).send(ORDER, TEXT)
    check_context(caught.value, "createUnexpectedProblem", attempts=0)
    assert script.exchanges == 2
    assert sandbox.delivered == []


@pytest.mark.parametrize(
    ("secret", "refresh_token", "code"),
    [("invalid", "Atzr|1", "invalid_client"), ("secret", "revoked", "invalid_grant")],
)
async def test_credentials_that_login_refuses(
    sandbox: Sandbox, open_session: Open, secret: str, refresh_token: str, code: str
) -> None:
    """They are refused at the first try, with the code and the remedy; nothing is sent."""
    session = open_session(credentials=Credentials("client", secret, refresh_token))
    with pytest.raises(AuthenticationError, match="check the client id") as caught:
        await session.send(ORDER, TEXT)
    assert caught.value.code == code
    assert sandbox.login.requests == 1
    assert sandbox.delivered == []


async def test_a_new_token_that_is_not_to_be_had(sandbox: Sandbox, open_session: Open) -> None:
    """After a refused token, Login's failure is what is raised, with the attempt made."""
    session = open_session()
    await session.get_attributes(ORDER)
    sandbox.faults.add(Fault.EXPIRED_TOKEN)
    sandbox.faults.add(*[Fault.INTERNAL_FAILURE] * MANY, operation=TOKEN)
    with pytest.raises(AuthenticationError) as caught:
        await session.send(ORDER, TEXT)
    check_context(caught.value, "createUnexpectedProblem", attempts=1)
    assert sandbox.delivered == []
