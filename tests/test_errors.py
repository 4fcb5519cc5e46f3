"""Errors: the tree that the docstring draws, their words, and their way through a task queue."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sp_messaging_async
from sp_messaging_async import (
    ApiError,
    AuthenticationError,
    BadRequest,
    Error,
    Finding,
    Forbidden,
    InvalidMessage,
    InvalidOrderList,
    MessageNotAvailable,
    MessagingError,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    PlanWaitExceeded,
    Problem,
    RetiredOperationWarning,
    ServerError,
    SessionClosed,
    Throttled,
    TransportError,
    UnreadableFile,
    UnsupportedMediaType,
    errors,
)
from sp_messaging_async.errors import CallContext
from sp_messaging_async.operations import MESSAGING
from sp_messaging_async.wire import HttpAnswer, read

from .conftest import ORDER

EXCEPTIONS: dict[str, type[BaseException]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, BaseException) and not name.startswith("_")
}


# The tree


def drawn() -> dict[str, tuple[str | None, str]]:
    """The docstring's tree: the parent of every name, and what stands beside it."""
    tree: dict[str, tuple[str | None, str]] = {}
    above: dict[int, str] = {}  # the last name at each depth
    for line in str(errors.__doc__).splitlines():
        match = re.match(r"((?:│   |    )*(?:[├└]── )?)([A-Z]\w+)(?: {2,}(.*))?$", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        above[depth] = match[2]
        tree[match[2]] = (above[depth - 1] if depth else None, match[3] or "")
    return tree


def parent(cls: type[BaseException]) -> str | None:
    """The nearest public class of the package that a class derives from."""
    return next((base.__name__ for base in cls.__mro__[1:] if base.__name__ in EXCEPTIONS), None)


def test_the_docstring_draws_the_tree() -> None:
    """Every class stands in the docstring under its parent, and nothing else stands there."""
    assert {name: above for name, (above, _) in drawn().items()} == {
        name: parent(cls) for name, cls in EXCEPTIONS.items()
    }
    assert list(drawn()) == list(dict.fromkeys(drawn()))


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_the_docstring_tells_what_is_a_value_error(name: str) -> None:
    """Who catches ValueError catches the errors that the docstring says, and no others."""
    assert issubclass(EXCEPTIONS[name], ValueError) == ("a ValueError" in drawn()[name][1])


def test_the_docstring_tells_the_status() -> None:
    """The status beside a class is the one that raises it; others raise ApiError itself."""
    by_word = {words.split()[0]: name for name, (_, words) in drawn().items() if words}
    for status in range(300, 700):
        named = by_word.get(str(status)) or by_word.get(f"{status // 100}xx") or "ApiError"
        with pytest.raises(ApiError) as caught:
            read(MESSAGING["getAttributes"], HttpAnswer(status, {}, b""))
        assert type(caught.value).__name__ == named


def test_all_are_public() -> None:
    """The package exports every class of the tree, and no exception from elsewhere."""
    exported = {
        name
        for name in sp_messaging_async.__all__
        if isinstance(value := getattr(sp_messaging_async, name), type)
        and issubclass(value, BaseException)
    }
    assert exported == set(EXCEPTIONS) == set(errors.__all__) - {"Error", "Finding", "Problem"}


def test_one_root() -> None:
    """Everything raised derives from MessagingError; a warning is a UserWarning."""
    others = {name for name, cls in EXCEPTIONS.items() if not issubclass(cls, MessagingError)}
    assert others == {"RetiredOperationWarning"}
    assert issubclass(RetiredOperationWarning, UserWarning)


# Words


CONTEXT = CallContext("createWarranty", ORDER, attempts=3)
TOO_LONG = Finding("text", "is too long", 801)
DENIED = Error("Unauthorized", "Denied.", "It is late.")
CALL = f"createWarranty for order {ORDER}, attempt 3: "
SAID = "Unauthorized: Denied. (It is late.); request id id-1"


def of_call(error: Any) -> MessagingError:
    """The error as a session raises it, with its call."""
    error.context = CONTEXT
    result: MessagingError = error
    return result


# Those that hold words, and nothing else.
PLAIN = [
    cls
    for cls in EXCEPTIONS.values()
    if not isinstance(cls.__init__, FunctionType) and not hasattr(cls, "context")
]
# One of every class, as it is raised, and its text.
EXAMPLES: list[tuple[BaseException, str]] = [
    *((cls("Words."), "Words.") for cls in PLAIN),
    (InvalidMessage(TOO_LONG), "text, character 801: is too long"),
    (UnreadableFile(Finding("attachments", "is away")), "attachments: is away"),
    (
        InvalidMessage(TOO_LONG, Finding("attachments", "holds 6")),
        "text, character 801: is too long; attachments: holds 6",
    ),
    (
        InvalidOrderList("a.csv", [Problem(2, 3, "operation", "is none")]),
        "a.csv: line 2:3, operation: is none",
    ),
    (
        InvalidOrderList("a.csv", (Problem(1, None, "list", "is empty"),), total=21),
        "a.csv: line 1, list: is empty\nand 20 more",
    ),
    (of_call(AuthenticationError("It answered 400", "invalid_grant")), f"{CALL}It answered 400"),
    (of_call(PlanWaitExceeded("Too long.")), f"{CALL}Too long."),
    (of_call(SessionClosed("Closed.")), f"{CALL}Closed."),
    (of_call(TransportError("TimeoutError", False)), f"{CALL}TimeoutError"),
    (
        of_call(OutcomeUnknown(TransportError("TimeoutError", True))),
        f"{CALL}the buyer may or may not have this message; TimeoutError",
    ),
    (
        of_call(OutcomeUnknown(ServerError(500, [DENIED], "id-1"))),
        f"{CALL}the buyer may or may not have this message; Amazon answered 500; {SAID}",
    ),
    (
        of_call(ApiError(301, explanation="a redirect, which is not followed")),
        f"{CALL}Amazon answered 301; a redirect, which is not followed",
    ),
    (
        of_call(BadRequest(400, (Error("InvalidInput"), DENIED), "id-1")),
        f"{CALL}Amazon answered 400; InvalidInput; {SAID}",
    ),
    (of_call(Forbidden(403)), f"{CALL}Amazon answered 403"),
    (
        of_call(MessageNotAvailable(403, [Error(message="No.")], "id-1", "ask first")),
        f"{CALL}Amazon answered 403; No.; ask first; request id id-1",
    ),
    (of_call(NotFound(404)), f"{CALL}Amazon answered 404"),
    (of_call(PayloadTooLarge(413)), f"{CALL}Amazon answered 413"),
    (of_call(UnsupportedMediaType(415)), f"{CALL}Amazon answered 415"),
    (
        of_call(Throttled(429, [Error("QuotaExceeded")])),
        f"{CALL}Amazon answered 429; QuotaExceeded",
    ),
    (of_call(ServerError(503)), f"{CALL}Amazon answered 503"),
]
every_example = pytest.mark.parametrize(
    ("error", "text"), EXAMPLES, ids=[type(error).__name__ for error, _ in EXAMPLES]
)


def test_every_error_has_an_example() -> None:
    """The examples here are of every class that there is."""
    assert {type(error) for error, _ in EXAMPLES} == set(EXCEPTIONS.values())


@every_example
def test_text(error: BaseException, text: str) -> None:
    """An error's text tells the call with its attempts, what happened, and what Amazon said."""
    assert str(error) == text


def test_the_call_can_be_read() -> None:
    """Operation, order and attempts are attributes too."""
    error = ServerError(503)
    error.context = CONTEXT
    assert (error.operation, error.amazon_order_id, error.attempts) == ("createWarranty", ORDER, 3)


def test_without_a_call() -> None:
    """An error that was never completed with a call has no operation and no order."""
    error = ServerError(503)
    assert (error.operation, error.amazon_order_id, error.attempts) == (None, None, 1)
    assert str(error) == "Amazon answered 503"


@pytest.mark.parametrize(("attempts", "shown"), [(0, ""), (1, ""), (2, ", attempt 2")])
def test_attempts_are_shown_where_there_were_several(attempts: int, shown: str) -> None:
    """A call that failed at once, or before its first exchange, has no attempts to speak of."""
    error = PlanWaitExceeded("Too long.")
    error.context = CallContext("sendInvoice", ORDER, attempts)
    assert error.attempts == attempts
    assert str(error) == f"sendInvoice for order {ORDER}{shown}: Too long."


def test_codes() -> None:
    """Amazon's codes stand by themselves, without those it left out."""
    error = ApiError(400, [Error("A"), Error(message="Words."), Error("B")])
    assert error.codes == ("A", "B")
    assert ApiError(503).codes == ()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Error(), ""),
        (Error("A"), "A"),
        (Error(message="Words."), "Words."),
        (Error("A", "Words."), "A: Words."),
        (Error("A", "Words.", "More."), "A: Words. (More.)"),
    ],
)
def test_text_of_amazons_error(error: Error, text: str) -> None:
    """Amazon's code, message and details make one line, whichever it gave."""
    assert str(error) == text


# Through a process border


def pickled(protocol: int) -> Callable[[Any], Any]:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))  # noqa: S301


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {number}": pickled(number) for number in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def everything(error: BaseException) -> object:
    """What an error is and holds, errors inside it included, in a form that can be compared."""
    fields = {
        name: everything(value) if isinstance(value, BaseException) else value
        for name, value in vars(error).items()
    }
    return type(error), fields, str(error)


@every_example
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_errors_cross_process_borders(
    error: BaseException, text: str, way: Callable[[Any], Any]
) -> None:
    """A pickled or copied error is another object with the same class, fields, call and text."""
    arrived = way(error)
    assert arrived is not error
    assert everything(arrived) == everything(error)
    assert str(arrived) == text


TEXT = st.none() | st.text()


@given(
    status=st.integers(100, 999),
    found=st.lists(st.builds(Error, TEXT, TEXT, TEXT), max_size=3),
    request_id=TEXT,
    explanation=st.text(),
    context=st.none() | st.builds(CallContext, st.text(), st.text(), st.integers(0, 9)),
    is_unknown=st.booleans(),
)
@settings(deadline=None)
def test_any_error_of_a_call_crosses(
    status: int,
    found: list[Error],
    request_id: str | None,
    explanation: str,
    context: CallContext | None,
    is_unknown: bool,
) -> None:
    """Whatever Amazon said and whichever the call, nothing is lost on the way."""
    cause = ApiError(status, found, request_id, explanation)
    error = OutcomeUnknown(cause) if is_unknown else cause
    error.context = context
    for way in WAYS.values():
        assert everything(way(error)) == everything(error)


def test_an_error_can_be_raised_again_elsewhere() -> None:
    """A copy can be raised with a call of its own, and leaves the first one's alone."""
    first = AuthenticationError("It answered 400", "invalid_grant")
    second = copy.copy(first)
    first.context, second.context = CONTEXT, CallContext("getAttributes", ORDER)
    assert (first.operation, second.operation) == ("createWarranty", "getAttributes")
    assert second.code == "invalid_grant"
