"""What is seen of a session from outside: an event for every exchange and message, and its hooks.

A hook is a function of one argument. It is called in the event loop, in the task of the call that
it is told of, between two steps of that call: it must be quick, and must not wait. What it raises
is logged once and changes nothing. Logging is the first hook.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from attrs import field, frozen

from . import wire
from .errors import ApiError, CallContext, ConfigurationError, MessagingError, TransportError
from .models import MessageRequest
from .operations import Operation
from .retry import Verdict, judge

if TYPE_CHECKING:
    from .wire import HttpAnswer

__all__ = [
    "Event",
    "ExchangeEvent",
    "ExchangeOutcome",
    "Hook",
    "Hooks",
    "LoggingHook",
    "MessageEvent",
    "OutcomeStatus",
    "Trail",
]

_log = logging.getLogger("sp_messaging_async")

T = TypeVar("T")

ExchangeOutcome: TypeAlias = Literal["succeeded", "throttled", "refused", "failed", "unknown"]
OutcomeStatus: TypeAlias = Literal["sent", "skipped", "rejected", "unknown", "planned"]


@frozen
class ExchangeEvent:
    """One HTTP exchange has ended: an attempt of a call to Amazon's API, or of a file's upload.

    operation: Amazon's name; of a file that is put, `createUploadDestinationForResource` too.
    amazon_order_id: the order.
    account: the seller's label, as the session's credentials give it.
    marketplace: the country code of the order's marketplace.
    part_of: Amazon's name of the message's operation, where the exchange is made to send one; None
        for a read, and for an upload by itself.
    method: the HTTP verb.
    url: where to, without a query, and with the path's variables by their names; of a file that is
        put the host alone.
    attempt: which one of its call, counted from 1.
    outcome: "succeeded"; "throttled" by a 429; "refused" by another 3xx or 4xx; "unknown", where
        the buyer may or may not have the message; "failed" for all else, which did no harm.
    status: the HTTP status, or None if there was no answer.
    codes: Amazon's error codes.
    request_id: what Amazon's support asks for.
    error: what went wrong, in a word: the class of the error, or of its cause where there was no
        answer; None if nothing did.
    waited: seconds that the usage plan made this attempt wait.
    began: when it began.
    took: seconds on the wire, from connecting to the whole answer.
    """

    operation: str
    amazon_order_id: str
    account: str
    marketplace: str
    part_of: str | None
    method: str
    url: str
    attempt: int
    outcome: ExchangeOutcome
    status: int | None
    codes: tuple[str, ...]
    request_id: str | None
    error: str | None
    waited: float
    began: datetime
    took: float


@frozen
class MessageEvent:
    """A message to a buyer is settled, or its call has ended without that.

    operation: Amazon's name.
    amazon_order_id: the order.
    account: the seller's label, as the session's credentials give it.
    marketplace: the country code of the order's marketplace.
    request: what was to be sent, which may hold the text to the buyer.
    outcome: as of an `Outcome`: "sent"; "skipped", as a ledger knew what had become of it, or this
        kind is not available for the order; "rejected"; "unknown"; "planned", known to be unsent.
    error: the class of what the call raised, or None.
    cancelled: whether it was cancelled, so that no error tells its caller what became of it.
    exchanges: all that were made for it, uploads included.
    waited: seconds that usage plans made it wait, uploads included.
    began: when the call began.
    took: seconds until it ended.
    """

    operation: str
    amazon_order_id: str
    account: str
    marketplace: str
    request: MessageRequest | None = field(repr=False)
    outcome: OutcomeStatus
    error: str | None
    cancelled: bool
    exchanges: tuple[ExchangeEvent, ...]
    waited: float
    began: datetime
    took: float

    @property
    def attempts(self) -> int:
        """How many exchanges were begun for the message itself."""
        return max((made.attempt for made in self._own), default=0)

    @property
    def status(self) -> int | None:
        """The HTTP status of the last answer to the message itself."""
        return self._last.status if self._last else None

    @property
    def codes(self) -> tuple[str, ...]:
        """Amazon's error codes in the last answer to the message itself."""
        return self._last.codes if self._last else ()

    @property
    def request_id(self) -> str | None:
        """Of the last answer to the message itself."""
        return self._last.request_id if self._last else None

    @property
    def on_wire(self) -> float:
        """Seconds on the wire, uploads included."""
        return sum(made.took for made in self.exchanges)

    @property
    def _own(self) -> list[ExchangeEvent]:
        return [made for made in self.exchanges if made.operation == self.operation]

    @property
    def _last(self) -> ExchangeEvent | None:
        return self._own[-1] if self._own else None


Event: TypeAlias = ExchangeEvent | MessageEvent
Hook: TypeAlias = Callable[[Event], object]


class LoggingHook:
    """Logs to `sp_messaging_async`: every event at DEBUG, and at WARNING what nobody else tells.

    order_ids: whether lines at DEBUG name the order.
    texts: whether they show what is written to the buyer.

    The warning is of a message that was cancelled after its write began: no error tells of it, so
    that the warning names the order always.
    """

    def __init__(self, *, order_ids: bool = False, texts: bool = False) -> None:
        self._order_ids = order_ids
        self._texts = texts

    def __call__(self, event: Event) -> None:
        """Log an event."""
        if isinstance(event, MessageEvent) and event.cancelled and event.outcome == "unknown":
            self._warn(event)
        if _log.isEnabledFor(logging.DEBUG):
            self._tell(event)

    def _warn(self, event: MessageEvent) -> None:
        _log.warning(
            "%s was cancelled after its write began: the buyer may or may not have this message",
            CallContext(event.operation, event.amazon_order_id, event.attempts),
            extra={
                "event": "unknown",
                "operation": event.operation,
                "amazon_order_id": event.amazon_order_id,
            },
        )

    def _tell(self, event: Event) -> None:
        told: dict[str, object] = {
            "event": "message" if isinstance(event, MessageEvent) else "exchange",
            "operation": event.operation,
            "account": event.account,
            "marketplace": event.marketplace,
            "outcome": event.outcome,
            "status": event.status,
            "codes": event.codes,
            "request_id": event.request_id,
            "error": event.error,
            "waited": event.waited,
            "took": event.took,
        }
        if isinstance(event, ExchangeEvent):
            told |= {"method": event.method, "attempt": event.attempt}
        else:
            told["attempts"] = event.attempts
        if self._order_ids:
            told["amazon_order_id"] = event.amazon_order_id
        if self._texts and isinstance(event, MessageEvent):
            told["text"] = getattr(event.request, "text", None)
        words = ", ".join(f"{name} {_in_words(value)}" for name, value in told.items() if value)
        _log.debug("%s", words, extra=told)


def _in_words(value: object) -> str:
    match value:
        case float():
            return f"{value:.3f} s"
        case tuple():
            return "/".join(map(str, value))
        case _:
            return str(value)


class Hooks:
    """The hooks of a session. Raises ConfigurationError for one that cannot be called as such."""

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._hooks = tuple(hooks)
        for hook in self._hooks:
            if not callable(hook) or _is_awaited(hook):
                raise ConfigurationError(f"{hook!r} is no hook: give functions of one argument")
        self._want_all = any(type(hook) is not LoggingHook for hook in self._hooks)
        self._log_something = bool(self._hooks)
        self._failed: set[int] = set()

    def are_awake(self) -> bool:
        """Whether anybody wants every event; else only a warning of the log's would be told."""
        return self._want_all or (self._log_something and _log.isEnabledFor(logging.DEBUG))

    def tell(self, event: Event) -> None:
        """Hand an event to each of them."""
        for number, hook in enumerate(self._hooks):
            try:
                hook(event)
            # What it raises must not end a send, nor pass for the cancellation of one.
            except (Exception, asyncio.CancelledError):
                if number not in self._failed:
                    self._failed.add(number)
                    _log.exception("the hook %r failed; it is told on, and this not logged", hook)


def _is_awaited(hook: Hook) -> bool:
    called = type(hook).__call__  # of an object
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(called)


class Trail:
    """What one call leaves behind for hooks: an event for each exchange, and of a message its own.

    operation: of the call; where files are uploaded to send a message, the message's.
    """

    def __init__(
        self,
        hooks: Hooks,
        operation: Operation,
        amazon_order_id: str,
        account: str,
        marketplace: str,
        api_url: str,
        request: MessageRequest | None = None,
    ) -> None:
        self.marketplace = marketplace
        self.was_settled = False  # before the call, says the ledger
        self._hooks = hooks
        self._operation = operation
        self._amazon_order_id = amazon_order_id
        self._account = account
        self._api_url = api_url
        self._request = request
        self._exchanges: list[ExchangeEvent] = []
        self._waited = self._waited_before = 0.0
        self._began = datetime.now(UTC)
        self._start = perf_counter()

    async def waiting(self, turn: Callable[[], Awaitable[T]]) -> T:
        """Wait for a turn, which is time that the usage plan takes."""
        began = perf_counter()
        try:
            return await turn()
        finally:
            self._waited += perf_counter() - began

    def exchanged(
        self,
        operation: Operation,
        attempt: int,
        took: float,
        end: HttpAnswer | TransportError | ApiError,
        put_to: str | None = None,
    ) -> None:
        """Tell that an exchange has ended now.

        took: seconds on the wire.
        end: the answer, if it is a success, or what went wrong.
        put_to: the host, where a file was put.
        """
        answered = None if isinstance(end, TransportError) else end
        event = ExchangeEvent(
            operation=operation.name,
            amazon_order_id=self._amazon_order_id,
            account=self._account,
            marketplace=self.marketplace,
            part_of=self._operation.name if self._operation.messages_buyer else None,
            method=operation.verb if put_to is None else "PUT",
            url=self._api_url + operation.path if put_to is None else put_to,
            attempt=attempt,
            outcome=_outcome_of(end, messages_buyer=operation.messages_buyer),
            status=answered.status if answered else None,
            codes=end.codes if isinstance(end, ApiError) else (),
            request_id=_request_id(end),
            error=_error_of(end),
            waited=self._waited - self._waited_before,
            began=self._ago(took),
            took=took,
        )
        self._waited_before = self._waited
        self._exchanges.append(event)
        self._hooks.tell(event)

    async def told(self, sending: Awaitable[T]) -> T:
        """Await the sending of a message, and tell what became of it."""
        try:
            result = await sending
        except BaseException as error:
            self.ended(error)
            raise
        self.ended()
        return result

    def ended(self, error: BaseException | None = None) -> None:
        """Tell what became of a message now that its call has ended."""
        event = MessageEvent(
            operation=self._operation.name,
            amazon_order_id=self._amazon_order_id,
            account=self._account,
            marketplace=self.marketplace,
            request=self._request,
            outcome=self._outcome(error),
            error=type(error).__name__ if error else None,
            cancelled=error is not None and not isinstance(error, Exception),
            exchanges=tuple(self._exchanges),
            waited=self._waited,
            began=self._began,
            took=perf_counter() - self._start,
        )
        self._hooks.tell(event)

    def _outcome(self, error: BaseException | None) -> OutcomeStatus:
        # The last exchange knows it, whatever came after it: a ledger that could not record it, or
        # a cancellation while it did.
        own = [made for made in self._exchanges if made.operation == self._operation.name]
        last = own[-1].outcome if own else None
        if self.was_settled:
            return "skipped"
        if last == "unknown":
            return "unknown"
        if error is None or last == "succeeded":
            return "sent"
        return _status_of(error)

    def _ago(self, seconds: float) -> datetime:
        # By a clock that nobody sets, so that no exchange lies outside of its message.
        return self._began + timedelta(seconds=perf_counter() - self._start - seconds)


def _outcome_of(
    end: HttpAnswer | TransportError | ApiError, *, messages_buyer: bool
) -> ExchangeOutcome:
    if not isinstance(end, TransportError | ApiError):
        return "succeeded"
    verdict = judge(end, messages_buyer=messages_buyer)
    if verdict is Verdict.UNKNOWN:
        return "unknown"
    if verdict is Verdict.AGAIN_WHEN_PLAN_ALLOWS:
        return "throttled"
    return "refused" if isinstance(end, ApiError) and 300 <= end.status < 500 else "failed"


def _request_id(end: HttpAnswer | TransportError | ApiError) -> str | None:
    if isinstance(end, TransportError):
        return None
    return end.request_id if isinstance(end, ApiError) else wire.request_id(end)


def _error_of(end: HttpAnswer | TransportError | ApiError) -> str | None:
    if isinstance(end, TransportError):
        return end.reason.partition(":")[0]
    return type(end).__name__ if isinstance(end, ApiError) else None


def _status_of(error: BaseException) -> OutcomeStatus:
    from .ledger import NotPlanned, status_of  # here, for most calls succeed

    if isinstance(error, MessagingError):
        return status_of(error)
    return "skipped" if isinstance(error, NotPlanned) else "planned"
