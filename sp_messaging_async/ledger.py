"""The record of what was sent, which is why no message is sent twice.

A ledger holds one row for each message; its key is (campaign, order, operation).

    planned → sending → sent | skipped | rejected | unknown

The intent, `sending`, is committed before the first byte is written. A row goes back to `planned`
when its message is known not to have been processed. What is found `sending` when its owner is gone
becomes `unknown`, and is never sent again by itself.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

from attrs import field, frozen

from . import codec, wire
from .errors import (
    ApiError,
    AuthenticationError,
    Error,
    Finding,
    InvalidMessage,
    LedgerError,
    MessageNotAvailable,
    MessagingError,
    OutcomeUnknown,
    Throttled,
    TransportError,
    UnreadableFile,
)
from .models import LocalFile, MessageRequest, MessageResponse
from .operations import MESSAGING, Operation, by_request

__all__ = [
    "DEFAULT_CAMPAIGN",
    "Conflict",
    "Enrolled",
    "Enrolment",
    "Entry",
    "Lane",
    "Ledger",
    "LedgerRow",
    "LeftAlone",
    "NotOffered",
    "NotPlanned",
    "Planned",
    "SentElsewhere",
    "Settlement",
    "Status",
    "new_owner",
    "status_of",
    "stored_interruption",
]

Status: TypeAlias = Literal["planned", "sending", "sent", "skipped", "rejected", "unknown"]

DEFAULT_CAMPAIGN = "default"
INTERRUPTED = "the sender ended before the answer was recorded"

_VARIABLES = "variables"  # beside the request's own fields
_MARGIN = 30.0  # seconds that an intent holds longer than its exchange may take


@frozen
class Planned:
    """A message that is to be sent.

    account: the seller's name.
    marketplace: the order's marketplace id, if it is another than the session's.
    variables: what a template, known by its digest, needs to write the text again in another
        language; None without one.
    """

    amazon_order_id: str
    request: MessageRequest = field(repr=False)
    account: str
    marketplace: str | None = None
    variables: Mapping[str, object] | None = field(default=None, repr=False)
    template: str | None = None

    @property
    def operation(self) -> str:
        """Amazon's name of the operation."""
        return by_request(self.request).name

    def digest(self) -> bytes:
        """Of all that the user wrote. Of a file it is the name, wherever its folder was moved."""
        text = getattr(self.request, "text", None)
        attached = getattr(self.request, "attachments", ())
        files = [
            item.file_name if isinstance(item, LocalFile) else item.upload_destination_id
            for item in attached
        ]
        dates = [
            str(getattr(self.request, name, None))
            for name in ("coverage_start_date", "coverage_end_date")
        ]
        written = [self.operation, self.account, self.marketplace, text, files, dates]
        if self.variables is not None:
            written += [self.template, self.variables]
        return hashlib.sha256(json.dumps(written).encode()).digest()

    def content(self) -> str:
        """What is to be sent, as a ledger keeps it."""
        stored = codec.store(self.request)
        if self.variables is None:
            return stored
        return json.dumps({**json.loads(stored), _VARIABLES: self.variables}, ensure_ascii=False)


@frozen
class LedgerRow:
    """One message, and what is known of it. Times are aware.

    status: "planned", "sending", "sent", "skipped", "rejected" or "unknown".
    content: the request as the codec stores it; None once the row is final.
    attempts: intents to write that were committed.
    request_id: Amazon's, of the answer that settled it.
    deadline: until when an intent holds, if the row is `sending`.
    """

    id: int
    campaign: str
    amazon_order_id: str
    operation: str
    account: str
    marketplace: str | None
    status: Status
    content: str | None = field(repr=False)
    attempts: int
    request_id: str | None
    failure: str | None = field(repr=False)
    deadline: datetime | None
    enrolled_at: datetime
    changed_at: datetime
    sent_at: datetime | None

    @property
    def request(self) -> MessageRequest:
        """What is to be sent. Raises LedgerError once it was erased."""
        request_class = self._operation.request
        if self.content is None or request_class is None:
            raise LedgerError(f"what was sent to order {self.amazon_order_id} has been erased")
        return codec.restore(self.content, request_class)

    @property
    def variables(self) -> Mapping[str, object]:
        """What its template needs; nothing without a template, or once it was erased."""
        found: Mapping[str, object] = json.loads(self.content or "{}").get(_VARIABLES) or {}
        return found

    @property
    def response(self) -> MessageResponse:
        """Amazon's answer to a message that was sent, which says no more than that."""
        response: MessageResponse = self._operation.response()
        return response

    @property
    def error(self) -> MessagingError | None:
        """Why it was not sent, or is not known to be; of a planned row, the last failure."""
        failure = None if self.failure is None else _restored_failure(self.failure, self.request_id)
        if self.status == "unknown" and isinstance(failure, TransportError | ApiError):
            return OutcomeUnknown(failure)
        return failure

    @property
    def _operation(self) -> Operation:
        return MESSAGING[self.operation]


def _storable(text: str | None) -> str | None:
    """Text without halves of surrogate pairs, which a header may hold and no database takes."""
    return None if text is None else text.encode("utf-8", "replace").decode()


@frozen
class Settlement:
    """What became of an attempt."""

    status: Status
    request_id: str | None = field(default=None, converter=_storable)
    failure: str | None = field(default=None, repr=False)

    @classmethod
    def of_error(cls, error: MessagingError, status: Status | None = None) -> Settlement:
        """What an error settles."""
        cause = error.cause if isinstance(error, OutcomeUnknown) else error
        request_id = cause.request_id if isinstance(cause, ApiError) else None
        return cls(status or status_of(error), request_id, _stored_failure(cause))


def status_of(error: MessagingError) -> Literal["planned", "skipped", "rejected", "unknown"]:
    """What becomes of a message whose sending raised an error; `planned` is known to be unsent."""
    match error:
        case MessageNotAvailable():
            return "skipped"
        case OutcomeUnknown():
            return "unknown"
        # Of an upload, for a message raises none of these two:
        case ApiError(status=status) if status >= 500 or 200 <= status < 300:
            return "planned"
        case Throttled():
            return "planned"
        case ApiError() if wire.names_token(error):  # the seller's trouble, and not the message's
            return "planned"
        case UnreadableFile():  # a drive that was away, most often, and no fault of the message's
            return "planned"
        case ApiError() | InvalidMessage():
            return "rejected"
        case _:
            return "planned"


class Ledger(Protocol):
    """What a session and a bulk run ask of a ledger. Every method raises LedgerError.

    `intend` and `settle` take effect in the order of their calls, whether or not the caller waits:
    a caller that is cancelled may still give its intent back.
    """

    async def plan(
        self, message: Planned, campaign: str, endpoint: str, *, again: bool = False
    ) -> LedgerRow:
        """The row that decides what becomes of a message; a new one, if there was none.

        That is a row of any campaign if its message was, is being or may have been sent, unless
        `again`; else the campaign's own. Refuses an endpoint other than the ledger's.
        """
        ...

    async def row(self, row_id: int) -> LedgerRow:
        """A row as it stands now."""
        ...

    def intend(self, row_id: int, owner: str, deadline: float) -> Awaitable[bool]:
        """Commit the intent to send a planned row; False if it may not be sent (any more).

        deadline: seconds since 1970, by this machine's clock, after which the owner does not write.
        """
        ...

    def settle(self, row_id: int, owner: str, settlement: Settlement) -> Awaitable[None]:
        """Record what became of an owner's intent, or of a row that was never written."""
        ...

    def campaign_lock(self, campaign: str) -> AbstractAsyncContextManager[None]:
        """Held while a run sends a campaign's rows; refused while another process holds it."""
        ...

    def enrolment(self, campaign: str, endpoint: str) -> AbstractAsyncContextManager[Enrolment]:
        """A list on its way into the ledger."""
        ...

    async def lanes(self, run: str) -> list[Lane]:
        """What a run has yet to send, for each account and operation."""
        ...

    async def marketplaces(self, run: str) -> list[str | None]:
        """The marketplaces of what a run has yet to send; None where the list names none."""
        ...

    async def to_send(self, run: str, lane: Lane, after: int, limit: int) -> list[LedgerRow]:
        """A lane's next planned rows, by id."""
        ...

    async def end_run(self, run: str) -> None:
        """Note that a run has ended, if nothing of its list is left to send."""

    async def counts(
        self, *, campaign: str | None = None, run: str | None = None
    ) -> Mapping[Status, int]:
        """How many rows of each status: of a campaign, of a run's list, or of all."""
        ...

    async def rows(
        self,
        *,
        campaign: str | None = None,
        status: Status | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> list[LedgerRow]:
        """Rows by id, a page at a time."""
        ...

    async def resolve(
        self, amazon_order_id: str, operation: str, *, sent: bool, campaign: str | None = None
    ) -> int:
        """Settle `unknown` rows after a look in Seller Central; returns how many there were.

        One that was not sent is planned again.
        """
        ...

    async def purge(self, before: datetime) -> int:
        """Forget final rows that last changed before; returns how many.

        A keyed digest of what was sent stays, so that it is not sent again.
        """
        ...

    async def aclose(self) -> None:
        """Finish what was begun, and close."""


class Enrolment(Protocol):
    """A list on its way into the ledger: staged row by row, then merged in one step."""

    async def stage(self, rows: Sequence[tuple[int, Planned]]) -> None:
        """Take rows with their lines, which grow."""

    async def conflicts(self, limit: int) -> tuple[list[Conflict], int]:
        """Rows that name the order and operation of an earlier one, and differ; and how many."""
        ...

    async def merge(self, *, again: bool) -> Enrolled:
        """Bring the ledger up to the list. Pairs in conflict are left out, all their rows.

        again: send what was sent before once more, unless a run that was to do so has not ended.
        """
        ...


@frozen
class Conflict:
    """Two rows of a list that say different things of one order and operation."""

    line: int
    first_line: int
    amazon_order_id: str
    operation: str


@frozen
class LeftAlone:
    """A row of a list that is not sent, because of what the ledger knows.

    campaign: the one that it was sent in, or None if that was purged.
    """

    line: int
    amazon_order_id: str
    operation: str
    status: Status
    campaign: str | None


@frozen
class Enrolled:
    """What a list and the ledger had to say to each other.

    run: names this run.
    merged: rows of the list that repeated an earlier one.
    left_alone: how many are not sent, by the status that decides it.
    some_left_alone: the first of them, those last that this campaign sent.
    changed: how many of them differ from what the row that decides it says, of whatever campaign;
        some_changed: the first.
    missing: how many messages a run with `again` has left, which keep rows of this list from being
        sent again, and which the list does not name; first_missing: the order of one.
    """

    run: str
    merged: int
    left_alone: Mapping[Status, int]
    some_left_alone: Sequence[LeftAlone]
    changed: int
    some_changed: Sequence[LeftAlone]
    missing: int = 0
    first_missing: str | None = None


@frozen
class Lane:
    """The messages of one account and operation, which have a usage plan to themselves.

    files: how many are to be uploaded for them, on the account's plan for uploads.
    """

    account: str
    operation: str
    number: int
    files: int = 0


def new_owner(kind: Literal["run", "call"]) -> str:
    """A name for whoever makes intents. A run's lives no longer than its campaign's lock."""
    return f"{kind}:{uuid.uuid4().hex}"


class NotOffered(MessagingError):
    """Amazon does not offer this kind of message for the order now."""


class SentElsewhere(MessagingError):
    """Somebody else has sent the message, or was about to."""


class NotPlanned(Exception):
    """A row may not be sent: it is no longer planned, or another campaign has messaged its pair."""


class Entry:
    """A row whose message is under way: the intent before each write, and what became of it."""

    def __init__(self, ledger: Ledger, row: LedgerRow, owner: str) -> None:
        self.row = row
        self._ledger = ledger
        self._owner = owner
        self._deadline = self._limit = 0.0

    async def intend(self, seconds: float) -> None:
        """Commit the intent to write within so many seconds.

        Raises NotPlanned if the message may not be sent (any more), and LedgerError if the commit
        failed or is in doubt, which permits no write either.
        """
        # Counted from before the ledger is asked; by two clocks, for one stands still while a
        # machine sleeps, and the other can be set.
        self._deadline = time.time() + seconds + _MARGIN
        self._limit = time.monotonic() + seconds + _MARGIN
        pending = self._ledger.intend(self.row.id, self._owner, self._deadline)
        try:
            is_mine = await pending
        except BaseException:  # a cancellation, or a commit in doubt: nothing will be written
            self._settle(Settlement("planned"))
            raise
        if not is_mine:
            raise NotPlanned(self.row)

    def lapsed(self) -> bool:
        """Whether the intent no longer holds, as after a machine was suspended."""
        return time.time() >= self._deadline or time.monotonic() >= self._limit

    # What became of it is recorded even if nobody waits for that.

    def sent(self, request_id: str | None) -> Awaitable[None]:
        """Amazon took the message."""
        return self._settle(Settlement("sent", request_id))

    def failed(self, error: MessagingError) -> Awaitable[None]:
        """The send raised an error, which says what became of the message."""
        return self._settle(Settlement.of_error(error))

    def planned_again(self, error: MessagingError) -> Awaitable[None]:
        """The attempt is known not to have been processed, and another will follow."""
        return self._settle(Settlement.of_error(error, "planned"))

    def skipped(self, error: MessagingError) -> Awaitable[None]:
        """The message is not to be sent."""
        return self._settle(Settlement.of_error(error, "skipped"))

    def _settle(self, settlement: Settlement) -> Awaitable[None]:
        return self._ledger.settle(self.row.id, self._owner, settlement)


# Failures, as rows keep them


def _stored_failure(error: MessagingError) -> str:
    stored: dict[str, Any]
    match error:
        case ApiError():
            errors = [[item.code, item.message, item.details] for item in error.errors]
            stored = {
                "status": error.status,
                "errors": errors,
                "explanation": error.explanation,
            }
        case InvalidMessage():
            stored = {"findings": [[f.field, f.reason, f.position] for f in error.findings]}
        case TransportError():
            stored = {"reason": error.reason, "write_began": error.write_began}
        case AuthenticationError():
            stored = {"login": error.text, "code": error.code}
        case _:
            stored = {"text": str(error), "kind": type(error).__name__}
    return json.dumps(stored)


def stored_interruption() -> str:
    """The failure of a row whose sender ended before the answer was recorded."""
    return _stored_failure(TransportError(INTERRUPTED, True))


def _restored_failure(stored: str, request_id: str | None) -> MessagingError:
    match json.loads(stored):
        case {"status": status, "errors": errors, "explanation": explanation}:
            listed = [Error(*item) for item in errors]
            return wire.api_error(status, listed, request_id, explanation)
        case {"findings": findings}:
            return InvalidMessage(*(Finding(*item) for item in findings))
        case {"reason": reason, "write_began": write_began}:
            return TransportError(reason, write_began)
        case {"login": text, "code": code}:
            return AuthenticationError(text, code)
        case other:
            return _KINDS.get(other.get("kind"), MessagingError)(other["text"])


# Failures that are known again by their kind; the others are words for people.
_KINDS: Mapping[str | None, type[MessagingError]] = {
    cls.__name__: cls for cls in (NotOffered, SentElsewhere)
}
