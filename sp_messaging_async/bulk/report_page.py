"""What became of all messages, as a page for people: one file that needs nothing beside it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import Factory, define, frozen

from ..errors import (
    ApiError,
    AuthenticationError,
    BadRequest,
    ConfigurationError,
    Forbidden,
    InvalidMessage,
    MessageNotAvailable,
    MessagingError,
    OutcomeUnknown,
    Throttled,
    TransportError,
)
from ..ledger import DEFAULT_CAMPAIGN, LedgerRow, NotOffered, SentElsewhere, Status
from ..wire import names_token
from .report_chart import Timeline, draw

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["Page"]

_MOST_UNKNOWN = 500
_MOST_GROUPS = 50  # of a status, before their words are no longer told apart
_MOST_EXAMPLES = 10
_MOST_CHARTS = 3

_STATUSES: Mapping[Status, str] = {
    "sent": "Amazon took the message",
    "skipped": "not to be sent to this order",
    "rejected": "refused; the buyer has nothing",
    "unknown": "the buyer may or may not have it",
    "planned": "not sent yet",
    "sending": "on its way when this was written",
}


class Page:
    """The page of a report, made from its rows as they come. Keeps counts and few examples.

    campaign: the only one that it is about, or None for all.
    ledger: its file or address, where commands must name it.

    Raises ConfigurationError if the extra `bulk` is not installed.
    """

    def __init__(
        self, campaign: str | None, made_at: datetime, ledger: Path | str | None = None
    ) -> None:
        self._template = _template()
        self._campaign = campaign
        self._made_at = made_at
        self._ledger = ledger
        self._counts: Counter[Status] = Counter()
        self._timeline = Timeline()
        self._untimed = 0
        self._groups: dict[Status, _Groups] = {
            "rejected": _Groups(),
            "skipped": _Groups(),
            "planned": _Groups(),
            "sending": _Groups(),
        }
        self._unknown: list[_Unknown] = []

    def add(self, row: LedgerRow) -> None:
        """Count a row."""
        self._counts[row.status] += 1
        if row.sent_at is not None:
            self._timeline.add(row.account, row.operation, row.sent_at)
        elif row.status == "sent":
            self._untimed += 1
        if row.status in self._groups:
            self._groups[row.status].add(row)
        elif row.status == "unknown" and len(self._unknown) < _MOST_UNKNOWN:
            self._unknown.append(self._unknown_of(row))

    def html(self) -> str:
        """The page."""
        spans, earlier = self._timeline.spans(_MOST_CHARTS)
        return self._template.render(
            campaign=self._campaign,
            made_at=f"{self._made_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            total=self._counts.total(),
            counts={status: self._counts[status] for status in _STATUSES},
            meanings=_STATUSES,
            charts=[draw(span) for span in spans],
            earlier=earlier,
            untimed=self._untimed,
            groups={status: groups.sorted() for status, groups in self._groups.items()},
            unknown=self._unknown,
            more_unknown=self._counts["unknown"] - len(self._unknown),
            list_unknown=self._command(
                "ledger", "list", "--status", "unknown", campaign=self._campaign
            ),
            resolve_many=self._command(
                "ledger", "resolve", "--from-csv", "answers.csv", campaign=self._campaign
            ),
            send_mended=self._command("bulk", "LIST.csv", campaign="NEW-NAME"),
        )

    def _unknown_of(self, row: LedgerRow) -> _Unknown:
        resolve = ("ledger", "resolve", row.amazon_order_id, row.operation)
        campaign = None if row.campaign == DEFAULT_CAMPAIGN else row.campaign
        return _Unknown(
            row=_Example.of(row),
            campaign=campaign,
            reason=_doubt(row.error),
            at=f"{row.changed_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            was_sent=self._command(*resolve, "sent", campaign=campaign),
            was_not_sent=self._command(*resolve, "not-sent", campaign=campaign),
        )

    def _command(self, *words: str, campaign: str | None = None) -> str:
        """A command, ready to be pasted."""
        options = [] if campaign is None else ["--campaign", campaign]
        if self._ledger is not None:
            options += ["--ledger", str(self._ledger)]
        return _quoted(["sp-messaging", *words, *options])


def _quoted(words: Sequence[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise ConfigurationError.of_missing_extra("a report in html needs the", "bulk") from None
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = Path(__file__).with_name("report.html.jinja").read_text("utf-8")
    return environment.from_string(source)


def _shown(value: object) -> object:
    """Numbers as people write them, and text without what would turn or hide the rest of a line."""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, str) or hasattr(value, "__html__"):  # the template's own
        return value
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in value
    )


# Unknown outcomes


@frozen
class _Example:
    """One message, as far as a page shows it."""

    amazon_order_id: str
    operation: str
    account: str
    request_id: str | None

    @classmethod
    def of(cls, row: LedgerRow) -> _Example:
        return cls(row.amazon_order_id, row.operation, row.account, row.request_id)


@frozen
class _Unknown:
    """A message of unknown outcome, and the commands that settle it."""

    row: _Example
    campaign: str | None
    reason: str
    at: str
    was_sent: str
    was_not_sent: str


def _doubt(error: MessagingError | None) -> str:
    cause = error.cause if isinstance(error, OutcomeUnknown) else error
    return "no reason was recorded" if cause is None else str(cause)


# Groups


@frozen
class _Advice:
    """What a kind of failure means, and what to do about it.

    command: what to type, if that helps; ORDER stands for an order id.
    """

    title: str
    remedy: str
    command: str | None = None


@define
class _Group:
    """Messages that failed alike."""

    advice: _Advice
    words: str
    number: int = 0
    examples: list[_Example] = Factory(list)


class _Groups:
    """The messages of one status, by what was said of them."""

    def __init__(self) -> None:
        self._groups: dict[tuple[_Advice, str], _Group] = {}

    def add(self, row: LedgerRow) -> None:
        error = row.error
        advice = _UNDER_WAY if row.status == "sending" else _advice(error)
        group = self._group(advice, _words(error))
        group.number += 1
        if len(group.examples) < _MOST_EXAMPLES:
            group.examples.append(_Example.of(row))

    def sorted(self) -> list[_Group]:
        """The largest first."""
        return sorted(self._groups.values(), key=lambda group: -group.number)

    def _group(self, advice: _Advice, words: str) -> _Group:
        if (advice, words) not in self._groups and len(self._groups) >= _MOST_GROUPS:
            words = "in various words"
        return self._groups.setdefault((advice, words), _Group(advice, words))


# How to try again depends on the status, and stands above the groups of each.
_UNDER_WAY = _Advice(
    "On their way",
    "A run was sending these when the report was written. If none is at work any more, they were "
    "interrupted, and the next run lists them as unknown.",
)
_NEVER_TRIED = _Advice("Not tried yet", "Their turn did not come.")
_WAITED = _Advice("Put off", "They were not sent before the run ended.")
_NOT_AVAILABLE = _Advice(
    "Not available for the order",
    "Amazon does not offer this kind of message for these orders now; your credentials are fine. "
    "See what it offers, and send another kind, or nothing:",
    "sp-messaging actions ORDER",
)
_BEATEN = _Advice("Sent before", "Nothing to do: another run has sent it, or was about to.")
_UPLOAD = _Advice(
    "The attachment did not arrive",
    "Amazon does not know the uploaded file. Try again, which uploads it again; if that fails too, "
    "look whether the file opens and is of a type that Amazon takes.",
)
_TOKEN = _Advice(
    "The access token was refused",
    "Try again. If it stays so, have the seller authorize your application anew in Seller "
    "Central, and put the new refresh token in place.",
)
_ROLE = _Advice(
    "Not allowed to your application",
    'Give your application the role "Buyer Communication", then have the seller authorize it '
    "anew: an authorization does not grow with the roles.",
)
_LOGIN = _Advice(
    "Login with Amazon gave no token",
    "Check the client id, the client secret and the refresh token of the account.",
)
_THROTTLED = _Advice(
    "Too many requests",
    "Other programs use the same application and seller, and with them the usage plan. Try again "
    "when they rest.",
)
_INVALID_INPUT = _Advice(
    "Amazon refused the content",
    "Amazon's words name what it does not take. Look at the order id, the marketplace, the text "
    "and the files in your list, and mend its rows.",
)
_LOCAL = _Advice(
    "Refused here, before it was sent",
    "Amazon would have refused these. Mend the rows of your list as the words say.",
)
_NO_ANSWER = _Advice(
    "No connection",
    "Amazon was not reached, and nothing was sent. Check the network and the proxy.",
)
_SERVER = _Advice("Amazon failed", "Nothing was sent. Try again later.")
_SUPPORT = _Advice(
    "Other answers",
    "If Amazon's words do not tell what to mend, ask its developer support for selling partners, "
    "and give the request id.",
)


def _advice(error: MessagingError | None) -> _Advice:
    match error:
        case None:
            return _NEVER_TRIED
        case OutcomeUnknown():
            return _advice(error.cause)
        case ApiError():
            return _advice_on_answer(error)
        case _:
            found = (advice for kind, advice in _BY_KIND.items() if isinstance(error, kind))
            return next(found, _WAITED)


_BY_KIND = {
    InvalidMessage: _LOCAL,
    TransportError: _NO_ANSWER,
    AuthenticationError: _LOGIN,
    NotOffered: _NOT_AVAILABLE,
    SentElsewhere: _BEATEN,
}


def _advice_on_answer(error: ApiError) -> _Advice:
    match error:
        case MessageNotAvailable():
            return _NOT_AVAILABLE
        case Forbidden():
            return _TOKEN if names_token(error) else _ROLE
        case BadRequest():
            lost = any(_LOST_FILE.search(item.message or "") for item in error.errors)
            return _UPLOAD if lost else _INVALID_INPUT
        case Throttled():
            return _THROTTLED
        case _ if error.status >= 500:
            return _SERVER
        case _:
            return _SUPPORT


_LOST_FILE = re.compile(r"attachment\b.*\bdoes not exist", re.IGNORECASE | re.DOTALL)


def _words(error: MessagingError | None) -> str:
    """What was said, without what differs from order to order."""
    match error:
        case None:
            return ""
        case InvalidMessage(findings=(first, *_)):
            return f"{first.field}: {_rule(first.field, first.reason)}"
        case ApiError(errors=(first, *_)):
            said = ": ".join(filter(None, (first.code, first.message)))
            return f"{error.status} {_ID.sub('…', said)}"
        case ApiError():
            return f"{error.status} {error.explanation}"
        case _:
            return _ID.sub("…", _CALL.sub("", str(error)).partition("; available:")[0])


_ID = re.compile(r"(?=\S*\d)\S{6,}")
_CALL = re.compile(r"^\w+ for order \S+(, attempt \d+)?: ")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def _rule(field: str, reason: str) -> str:
    """A finding's reason without what it quotes: no word of a buyer's message is on the page."""
    if field == "text":
        return reason.rpartition(" is ")[2]
    return _QUOTED.sub("…", reason)
