"""Commands about one order: what may be sent, in which language, and to send it."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, Any

from attrs import NOTHING, evolve, fields_dict, frozen
from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from .. import attachments, content
from ..bulk.campaign import available_now
from ..bulk.order_list import checked_order_id, moment
from ..errors import (
    ApiError,
    AuthenticationError,
    Finding,
    Forbidden,
    InvalidMessage,
    LedgerError,
    MessageNotAvailable,
    MessagingError,
    TransportError,
)
from ..ledger import Ledger, Planned, status_of
from ..models import LocalFile, MessageRequest
from ..operations import OPERATIONS, Operation, by_action, named
from ..session import MessagingSession, Patience
from ..wire import names_token
from . import terminal
from .app import ALL_SENT, SOME_NOT_SENT, SOME_UNKNOWN, STOPPED, app
from .exchanges import Answers
from .options import Flag, Pace, Record, Seller, source_of, time_zone
from .terminal import say, shown, tell

__all__ = ["actions", "attributes", "check", "send"]

_MADE_UP = "000-0000000-0000000"
_LARGEST_SKEW = 300.0  # seconds
_READ = "getMessagingActionsForOrder"


@app.command
async def actions(order: str, /, *, seller: Seller = Seller()) -> None:
    """Show which kinds of message may be sent for an order now.

    Parameters
    ----------
    order:
        The order id.
    """
    async with AsyncExitStack() as stack:
        session = await (await seller.open(stack)).session(seller.account)
        answer = await session.get_messaging_actions_for_order(order)
    disabled = {action.name: action.disabled for action in answer.embedded.actions if action.name}
    names = answer.names | disabled.keys()
    if not names:
        say(f"no kind of message may be sent for order {order} now")
        return
    table = Table("operation", "Amazon's names here", "not now, because")
    for operation, named_so in itertools.groupby(sorted(names, key=_operation_of), _operation_of):
        called = sorted(named_so)
        reasons = (disabled.get(name) for name in called)
        reason = next(filter(None, reasons), "")
        table.add_row(operation, Text(shown(", ".join(called))), Text(shown(reason)))
    terminal.out.print(table)


def _operation_of(action: str) -> str:
    operation = by_action(action)
    return operation.name if operation else ""


@app.command
async def attributes(order: str, /, *, seller: Seller = Seller()) -> None:
    """Show the language of an order's buyer.

    Parameters
    ----------
    order:
        The order id.
    """
    async with AsyncExitStack() as stack:
        session = await (await seller.open(stack)).session(seller.account)
        answer = await session.get_attributes(order)
    say(f"locale: {answer.buyer.locale or 'Amazon does not tell'}")


@app.command
async def send(
    operation: str,
    order: str,
    /,
    *,
    text: str | None = None,
    attach: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)] = (),
    coverage_start_date: str | None = None,
    coverage_end_date: str | None = None,
    timezone: str | None = None,
    any_order_id: Flag = False,
    again: Flag = False,
    seller: Seller = Seller(),
    pace: Pace = Pace(),
    record: Record = Record(),
) -> int:
    """Send one message to the buyer of an order, if no such message was sent to it before.

    Parameters
    ----------
    operation:
        Amazon's name of the operation, or its snake_case.
    order:
        The order id.
    text:
        The text, where the operation takes one.
    attach:
        A file to attach, where the operation takes any; repeat it for more.
    coverage_start_date:
        Of a warranty, as in 2026-01-31T00:00:00+01:00.
    coverage_end_date:
        Of a warranty.
    timezone:
        Of dates without an offset, such as Europe/Berlin. A date alone is then its whole day.
    any_order_id:
        Take an order id of another form than 3-7-7 digits.
    again:
        Send it though the ledger knows that such a message was, or may have been, sent before.
    """
    with _by_option():
        order_id = checked_order_id(order, any_form=any_order_id)
        zone = time_zone(timezone)
        days = {"coverage_start_date": coverage_start_date, "coverage_end_date": coverage_end_date}
        given: dict[str, object] = {
            name: moment(name, day, zone) for name, day in days.items() if day is not None
        }
        if text is not None:
            given["text"] = text
        request = _request(named(operation), given, attach)
    async with AsyncExitStack() as stack:
        amazon = await seller.open(stack, pace=pace)
        session = await amazon.session(seller.account)
        book = await record.open(stack, throwaway=seller.sandbox and record.ledger is None)
        message = Planned(order_id, request, seller.account)
        campaign = await _campaign(message, book, amazon.realm, again=again)
        try:
            _, is_new = await session.deliver_once(
                message, book, campaign, Patience(), again=again, realm=amazon.realm
            )
        except (InvalidMessage, LedgerError):
            raise
        except MessagingError as error:
            return await _unsent(error, session, message, record)
    say("sent" if is_new else "sent before, as the ledger knows; nothing was sent now")
    return ALL_SENT


_OPTIONS = {
    "order_id": "ORDER",
    "amazon_order_id": "ORDER",
    "operation": "OPERATION",
    "text": "--text",
    "attachments": "--attach",
    "file_name": "--attach",
    "coverage_start_date": "--coverage-start-date",
    "coverage_end_date": "--coverage-end-date",
}


@contextmanager
def _by_option() -> Iterator[None]:
    """What is wrong with a message, by the names of the options."""
    try:
        yield
    except InvalidMessage as error:
        found = (
            evolve(each, field=_OPTIONS.get(each.field, each.field)) for each in error.findings
        )
        raise InvalidMessage(*found) from None


def _request(
    operation: Operation, values: Mapping[str, object], attach: Sequence[Path]
) -> MessageRequest:
    """The request of these values and files, checked before anything is opened."""
    make: Any = operation.request
    if make is None:
        reason = f"{operation.name} messages nobody; give one that does, such as sendInvoice"
        raise InvalidMessage(Finding("operation", reason))
    takes = fields_dict(make)
    given = [*values, *["attachments"] * bool(attach)]
    needed = [name for name, field in takes.items() if field.default is NOTHING]
    missing = [name for name in needed if name not in given]
    superfluous = [name for name in given if name not in takes]
    if missing or superfluous:
        raise InvalidMessage(
            *(Finding(name, f"is missing; {operation.name} needs it") for name in missing),
            *(Finding(name, f"{operation.name} sends none; leave it out") for name in superfluous),
        )
    attachments.check_all(attach)
    files = {"attachments": [LocalFile(path) for path in attach]} if attach else {}
    request: MessageRequest = make(**values, **files)
    content.check(request)
    return request


async def _campaign(message: Planned, book: Ledger, realm: str, *, again: bool) -> str:
    """Where to record it: "send", or the next one where it was refused, so that it may be mended.

    What was left planned there is taken up.
    """
    settled = ("rejected", "skipped", "sent", "unknown") if again else ("rejected", "skipped")
    campaigns = itertools.chain(["send"], (f"send {number}" for number in itertools.count(2)))
    while True:
        campaign = next(campaigns)
        row = await book.plan(message, campaign, realm, again=again)
        if row.status not in settled:
            return campaign


async def _unsent(
    error: MessagingError, session: MessagingSession, message: Planned, record: Record
) -> int:
    """Tell what became of a message that was not sent, or is not known to be."""
    order_id = message.amazon_order_id
    tell(f"{error}{await available_now(error, session, order_id)}")
    match status_of(error):
        case "unknown":
            of = f"{shlex.quote(order_id)} {message.operation}"
            settle = f"ledger resolve {of} sent{record.of_ledger}"
            tell(f"look at the order in Seller Central, and then: sp-messaging {settle}")
            tell("or not-sent in place of sent, and then send it again")
            return SOME_UNKNOWN
        case "planned":
            tell("it was not sent; the same command again sends it")
            return STOPPED
        case _:
            return SOME_NOT_SENT


# What a seller's access is fit for


@app.command
async def check(*, order: str | None = None, seller: Seller = Seller()) -> int:
    """Check credentials, role, clock and usage plan. Messages nobody.

    Parameters
    ----------
    order:
        An order of the account's to ask about. Without one a made-up order is asked about, which
        tells less.
    """
    answers = Answers()
    async with AsyncExitStack() as stack:
        amazon = await seller.open(stack, answers.trace)
        session = await amazon.session(seller.account)
        error = await _error_of(session.get_messaging_actions_for_order(order or _MADE_UP))
    source = "a sandbox of the command's own"
    if not seller.sandbox:
        source = source_of(seller.account, seller.credentials)
    head = answers.heads.get(session.endpoint.api_url.rstrip("/"), {})
    findings = [
        _Found("credentials", True, f"account {seller.account}, from {source}"),
        _of_token(error),
        _of_clock(answers.heads.values()),
        *_of_access(error, order),
        _of_plan(head.get("x-amzn-RateLimit-Limit")),
    ]
    for found in findings:
        say(str(found))
    # Amazon need not tell the rate.
    is_well = all(found.is_well for found in findings if found.what != "plan")
    return ALL_SENT if is_well else SOME_NOT_SENT


@frozen
class _Found:
    """One thing that was looked at. `is_well` is None where nobody can tell."""

    what: str
    is_well: bool | None
    words: str

    def __str__(self) -> str:
        verdict = {True: "well", False: "WRONG", None: "?"}[self.is_well]
        return f"{self.what:<12} {verdict:<6} {self.words}"


async def _error_of(call: Awaitable[object]) -> MessagingError | None:
    try:
        await call
    except MessagingError as error:
        return error
    return None


def _of_token(error: MessagingError | None) -> _Found:
    if isinstance(error, AuthenticationError):
        return _Found("token", False, error.text)
    if isinstance(error, ApiError) and names_token(error):
        words = f"Amazon refuses the access token: {error}; authorize the application again"
        return _Found("token", False, words)
    if isinstance(error, TransportError):
        return _Found("token", None, f"Amazon was not reached: {error.reason}")
    return _Found("token", True, "Login with Amazon gave one, and Amazon takes it")


def _of_clock(heads: Iterable[Mapping[str, str]]) -> _Found:
    date = next((head["Date"] for head in heads if "Date" in head), None)
    if date is None:
        return _Found("clock", None, "Amazon told no time")
    skew = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    if abs(skew) <= _LARGEST_SKEW:
        return _Found("clock", True, "is right, or nearly so")
    words = f"is {abs(skew):,.0f} s {'ahead' if skew > 0 else 'behind'}; set it, as by NTP"
    return _Found("clock", False, words)


def _of_access(error: MessagingError | None, order: str | None) -> Iterator[_Found]:
    """The role, as far as an answer about an order tells it, and the order."""
    is_of_token = isinstance(error, ApiError) and names_token(error)
    is_refused = isinstance(error, ApiError) and error.status < 429 and not is_of_token
    is_denied = isinstance(error, Forbidden) and not isinstance(error, MessageNotAvailable)
    if is_of_token or isinstance(error, AuthenticationError):
        yield _Found("role", None, "cannot be told before the token is well")
    elif is_denied:
        words = (
            f"{error}. The application needs the role Buyer Communication; when it was given, the "
            "seller authorizes the application anew. The marketplace must be the seller's, too"
        )
        yield _Found("role", False, words)
    elif error is None or is_refused:
        asked = "" if order else " to a question about a made-up order; --order makes it sure"
        yield _Found("role", True, f"Amazon answered{asked}")
    else:
        yield _Found("role", None, str(error))
    if order and error is None:
        yield _Found("order", True, f"Amazon tells what may be sent for {order}")
    elif order and is_refused and not is_denied:
        yield _Found("order", False, f"Amazon tells nothing of {order}: {error}")
    elif order:
        yield _Found("order", None, "cannot be told before the rest is well")


def _of_plan(told: str | None) -> _Found:
    usual = OPERATIONS[_READ].plan
    if told is None:
        words = (
            f"Amazon told no rate; its default is {usual.rate:g} a second, burst {usual.burst:g}"
        )
        return _Found("plan", None, words)
    return _Found("plan", True, f"{told} requests a second of {_READ}, as Amazon tells")
