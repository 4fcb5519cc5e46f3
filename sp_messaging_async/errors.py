"""Every exception of the package.

MessagingError
├── InvalidMessage            refused here, before anything was sent (also a ValueError)
│   └── UnreadableFile        a file to attach could not be read (also a ValueError)
├── InvalidOrderList          a list of orders was refused before anything was sent (a ValueError)
├── ConfigurationError        credentials or endpoint are incomplete (also a ValueError)
├── LedgerError               the ledger refused or could not be used; nothing is sent without it
├── AuthenticationError       Login with Amazon refused the credentials; nothing was sent
├── PlanWaitExceeded          the usage plan took longer than max_wait; nothing was sent
├── SessionClosed             the session was closed before the call was sent
├── TransportError            no answer; for an operation that messages a buyer: known unsent
├── OutcomeUnknown            the message may or may not have reached the buyer
└── ApiError                  Amazon answered, and not with success
    ├── BadRequest            400
    ├── Forbidden             403
    │   └── MessageNotAvailable   this kind of message is not available for this order
    ├── NotFound              404
    ├── PayloadTooLarge       413
    ├── UnsupportedMediaType  415
    ├── Throttled             429
    └── ServerError           5xx

RetiredOperationWarning       Amazon has taken the operation out of its current model
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

__all__ = [
    "ApiError",
    "AuthenticationError",
    "BadRequest",
    "ConfigurationError",
    "Error",
    "Finding",
    "Forbidden",
    "InvalidMessage",
    "InvalidOrderList",
    "LedgerError",
    "MessageNotAvailable",
    "MessagingError",
    "NotFound",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "PlanWaitExceeded",
    "Problem",
    "RetiredOperationWarning",
    "ServerError",
    "SessionClosed",
    "Throttled",
    "TransportError",
    "UnreadableFile",
    "UnsupportedMediaType",
]


class MessagingError(Exception):
    """The root of every error that this package raises."""


@frozen
class Finding:
    """One reason why a message is refused.

    field: the argument's or payload field's name.
    reason: what is wrong, and the remedy.
    position: where in the field's text it begins, in characters counted from 1, if it has a place.
    """

    field: str
    reason: str
    position: int | None = None

    def __str__(self) -> str:
        place = "" if self.position is None else f", character {self.position}"
        return f"{self.field}{place}: {self.reason}"


class InvalidMessage(MessagingError, ValueError):
    """The message was refused before anything was sent; `findings` tells all that is wrong."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__(*findings)
        self.findings: tuple[Finding, ...] = findings

    def __str__(self) -> str:
        return "; ".join(map(str, self.findings))


@frozen
class Problem:
    """One thing that is wrong in an order list.

    line: counted from 1, in the file; of the first line where a row has several.
    column: counted from 1: of a table's cells, or in the text of a line that cannot be read.
    field: the column's name, or what else cannot be used.
    reason: what is wrong, and the remedy.
    """

    line: int
    column: int | None
    field: str
    reason: str

    def __str__(self) -> str:
        place = f"line {self.line}" if self.column is None else f"line {self.line}:{self.column}"
        return f"{place}, {self.field}: {self.reason}"


class UnreadableFile(InvalidMessage):
    """A file to attach could not be read, or changed while it was; it may do later."""


class InvalidOrderList(MessagingError, ValueError):
    """An order list was refused before anything was sent.

    problems: the first of them, in the order of the lines.
    total: how many there are.
    """

    def __init__(self, path: str, problems: Sequence[Problem], total: int | None = None) -> None:
        super().__init__(path, problems, total)
        self.path = path
        self.problems = tuple(problems)
        self.total = len(self.problems) if total is None else total

    def __str__(self) -> str:
        more = self.total - len(self.problems)
        lines = [f"{self.path}: {problem}" for problem in self.problems]
        return "\n".join([*lines, f"and {more} more"] if more else lines)


class ConfigurationError(MessagingError, ValueError):
    """Credentials, endpoint or environment are incomplete or contradict each other."""

    @classmethod
    def of_missing_extra(cls, need: str, extra: str) -> ConfigurationError:
        """What needs an extra that is not installed, such as "templates need the", and which."""
        return cls(f'{need} {extra} extra: pip install "sp-messaging-async[{extra}]"')


class LedgerError(MessagingError):
    """The ledger refused, or could not be read or written. Nothing is sent without it."""


@frozen
class Error:
    """One entry of the `errors` in Amazon's answer."""

    code: str | None = None
    message: str | None = None
    details: str | None = None

    def __str__(self) -> str:
        text = ": ".join(filter(None, (self.code, self.message)))
        return f"{text} ({self.details})" if self.details else text


@frozen
class CallContext:
    """Which call an error belongs to, for the error's text and for whoever catches it."""

    operation: str
    amazon_order_id: str
    attempts: int = 1

    def __str__(self) -> str:
        tried = "" if self.attempts <= 1 else f", attempt {self.attempts}"
        return f"{self.operation} for order {self.amazon_order_id}{tried}"


class _CallError(MessagingError):
    """An error of one call; the session completes it with the call's context."""

    context: CallContext | None = None

    def __str__(self) -> str:
        text = self._reason()
        return text if self.context is None else f"{self.context}: {text}"

    def _reason(self) -> str:
        return super().__str__()

    @property
    def operation(self) -> str | None:
        """Amazon's name of the operation."""
        return self.context.operation if self.context else None

    @property
    def amazon_order_id(self) -> str | None:
        """The order the call was for."""
        return self.context.amazon_order_id if self.context else None

    @property
    def attempts(self) -> int:
        """How many exchanges were begun for this call."""
        return self.context.attempts if self.context else 1


class AuthenticationError(_CallError):
    """Login with Amazon gave no access token; nothing was sent.

    code: Login with Amazon's `error`, such as `invalid_grant`, or None if it gave none.
    repeatable: True where it failed and did not refuse, so that a later call may succeed.
    """

    def __init__(self, text: str, code: str | None = None, repeatable: bool = False) -> None:
        super().__init__(text, code, repeatable)
        self.text = text
        self.code = code
        self.repeatable = repeatable

    def _reason(self) -> str:
        return self.text


class PlanWaitExceeded(_CallError):
    """`max_wait` passed before the usage plan let the call go; nothing was sent."""


class SessionClosed(_CallError):
    """The session was closed before the call was sent; nothing was sent."""


class TransportError(_CallError):
    """No answer was received.

    For an operation that messages a buyer this means that the message is known to be unsent; a
    send whose fate is unknown raises `OutcomeUnknown` instead.

    reason: the kind of failure, without addresses or credentials.
    write_began: whether any of the request may have reached the server.
    repeatable: False where another attempt cannot help, as with a refused certificate.
    """

    def __init__(self, reason: str, write_began: bool, repeatable: bool = True) -> None:
        super().__init__(reason, write_began, repeatable)
        self.reason = reason
        self.write_began = write_began
        self.repeatable = repeatable

    def _reason(self) -> str:
        return self.reason


class OutcomeUnknown(_CallError):
    """The request was written and no answer settles its fate: the buyer may have the message.

    Never send it again unseen: look at the order in Seller Central first.

    cause: the `TransportError` (no answer) or `ApiError` (5xx, or an unreadable answer) behind it.
    """

    def __init__(self, cause: TransportError | ApiError) -> None:
        super().__init__(cause)
        self.cause = cause

    def _reason(self) -> str:
        return f"the buyer may or may not have this message; {self.cause._reason()}"


class ApiError(_CallError):
    """Amazon answered, and the answer is no success.

    status: the HTTP status.
    errors: Amazon's own errors, empty if the body held none.
    request_id: the `x-amzn-RequestId` header, which Amazon's support asks for.
    explanation: what this package has to say about the answer, or "".
    """

    def __init__(
        self,
        status: int,
        errors: Sequence[Error] = (),
        request_id: str | None = None,
        explanation: str = "",
    ) -> None:
        super().__init__(status, errors, request_id, explanation)
        self.status = status
        self.errors = tuple(errors)
        self.request_id = request_id
        self.explanation = explanation

    @property
    def codes(self) -> tuple[str, ...]:
        """Amazon's error codes, such as `InvalidInput`."""
        return tuple(error.code for error in self.errors if error.code)

    def _reason(self) -> str:
        parts = [f"Amazon answered {self.status}", *map(str, self.errors)]
        if self.explanation:
            parts.append(self.explanation)
        if self.request_id:
            parts.append(f"request id {self.request_id}")
        return "; ".join(parts)


class BadRequest(ApiError):
    """400: Amazon refused the request's content."""


class Forbidden(ApiError):
    """403: the token, the role or the seller's authorization does not allow it."""


class MessageNotAvailable(Forbidden):
    """403 "Invalid amazonOrderId and template combination."

    This kind of message is not available for this order now; the credentials are fine.
    `get_messaging_actions_for_order` tells which kinds are.
    """


class NotFound(ApiError):
    """404: Amazon knows no such resource."""


class PayloadTooLarge(ApiError):
    """413: the request was larger than Amazon takes."""


class UnsupportedMediaType(ApiError):
    """415: the request's content type was refused."""


class Throttled(ApiError):
    """429: the usage plan was exceeded on every attempt; known not to have been processed."""


class ServerError(ApiError):
    """5xx: Amazon failed."""


class RetiredOperationWarning(UserWarning):
    """The operation is gone from Amazon's current model, and may stop answering at any time."""
