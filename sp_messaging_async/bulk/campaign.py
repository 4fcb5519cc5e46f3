"""A list's way through a ledger: enrolled as a whole, then sent, all sellers side by side."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

from attrs import evolve

from .. import attachments
from ..credentials import DEFAULT_ACCOUNT
from ..errors import (
    ApiError,
    AuthenticationError,
    Forbidden,
    InvalidOrderList,
    LedgerError,
    MessageNotAvailable,
    MessagingError,
    Problem,
    SessionClosed,
    UnreadableFile,
)
from ..ledger import (
    Conflict,
    Enrolled,
    Entry,
    Lane,
    Ledger,
    LedgerRow,
    NotOffered,
    NotPlanned,
    Planned,
    SentElsewhere,
)
from ..marketplaces import Marketplace
from ..models import GetAttributesResponse, GetMessagingActionsForOrderResponse, MessageRequest
from ..operations import MESSAGING, by_action
from ..session import MessagingSession, Patience
from ..wire import names_token
from . import order_list
from .messages import Message, Outcome
from .order_list import Listed, Reading
from .outage import IN_A_ROW, Outage
from .template import Template

__all__ = ["CampaignRun", "Problems", "available_now", "enrol"]

_BATCH = 1000  # rows that are read, checked and staged together
_SHOWN = 20  # problems that are told
_PAGE = 100  # rows that are read from the ledger together
_IN_LANE = 100  # messages at work for one seller and operation, and so the most intents
_AT_WORK = 5000  # for all of them, where there are many
_READY = 10  # messages of a lane whose files are uploaded and that wait for their turn to be sent
_PASSES = 5  # times that a message is taken up in one run, while it is known to be unsent


class Problems:
    """Problems of a list, or advice: the first of them, and the number of all and of their rows."""

    def __init__(self) -> None:
        self.first: list[Problem] = []
        self.total = 0
        self.rows = 0

    def add(self, problems: Sequence[Problem], total: int | None = None) -> None:
        """Add problems; `total`, if there are more than these."""
        self.total += len(problems) if total is None else total
        self.rows += len({problem.line for problem in problems}) if total is None else total
        self.first = sorted((*self.first, *problems), key=lambda problem: problem.line)[:_SHOWN]


async def enrol(
    path: Path,
    place: Marketplace,
    ledger: Ledger,
    campaign: str,
    realm: str,
    *,
    reading: Reading | None = None,
    again: bool = False,
    keep_going: bool = False,
) -> tuple[Enrolled, Problems, Problems]:
    """Bring a ledger up to a list, and begin a run of it. Sends nothing.

    place: the marketplace of rows that name none.
    realm: what the ledger is to call the endpoint.
    reading: how to read the list, where that is not as usual.
    again: see `Enrolment.merge`.
    keep_going: enrol the good rows of a list that has problems too.

    Returns what it found, the problems, and what was advised against and is sent. Raises
    InvalidOrderList, with problems of all the list, and nothing is enrolled.
    """
    reading = reading or Reading()
    problems, advice = Problems(), Problems()
    rows = order_list.rows(path, place, reading)
    template = reading.template.digest if reading.template else None
    async with ledger.enrolment(campaign, realm) as enrolment:
        while batch := await asyncio.to_thread(_batch, rows):
            problems.add([row for row in batch if isinstance(row, Problem)])
            listed = [row for row in batch if isinstance(row, Listed)]
            advice.add([found for row in listed for found in row.advice])
            await enrolment.stage([_planned(row, template) for row in listed])
        conflicts, number = await enrolment.conflicts(_SHOWN)
        problems.add([_conflict(found) for found in conflicts], number)
        if problems.total and not keep_going:
            raise InvalidOrderList(str(path), problems.first, problems.total)
        return await enrolment.merge(again=again), problems, advice


def _batch(rows: Iterator[Listed | Problem]) -> list[Listed | Problem]:
    return list(itertools.islice(rows, _BATCH))


def _planned(row: Listed, template: str | None) -> tuple[int, Planned]:
    message = row.message
    place = None if message.marketplace is None else Marketplace.of(message.marketplace).id
    return row.line, Planned(
        message.amazon_order_id,
        message.request,
        message.account or DEFAULT_ACCOUNT,
        place,
        row.variables,
        template,
    )


def _conflict(found: Conflict) -> Problem:
    reason = (
        f"{found.operation} for {found.amazon_order_id} stands in line {found.first_line} with "
        "other content; keep one of them"
    )
    return Problem(found.line, None, "order_id", reason)


class CampaignRun:
    """The sending of what an enrolment planned: an async iterator of the outcomes.

    run: as the enrolment named it.
    sessions: by account; each seller's plans are used to the full, side by side.
    limit: the most messages to take up.
    check_actions: ask first whether this kind of message is available for the order.
    template: what the list was enrolled with; each buyer's language is asked for first.
    pause: seconds before the first read in an outage.

    Messages known to be unsent stay planned, and are taken up again up to five times; `unsent`
    holds the last reason for each account. Raises LedgerError, which is kept as `error`, when the
    ledger fails: nothing more is written then.
    """

    def __init__(
        self,
        ledger: Ledger,
        run: str,
        sessions: Mapping[str, MessagingSession],
        *,
        limit: int | None = None,
        check_actions: bool = False,
        template: Template | None = None,
        pause: float = 1.0,
    ) -> None:
        self.unsent: dict[str, MessagingError] = {}
        self._ledger = ledger
        self._run = run
        self._sessions = sessions
        self._left = limit
        self._check_actions = check_actions
        self._template = template
        self._files = attachments.Files(follows_links=False)
        self._outages = {name: Outage(session, pause) for name, session in sessions.items()}
        self._waiting: dict[str, set[Patience]] = {name: set() for name in sessions}
        self._stopped: set[str] = set()
        self._hindrances: Counter[str] = Counter()
        self._outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue(_BATCH)
        self.error: LedgerError | None = None

    def stop(self, accounts: Sequence[str] | None = None) -> None:
        """Take up no more, for these accounts or all; exchanges in flight go on to their end."""
        for account in self._sessions if accounts is None else accounts:
            self._stopped.add(account)
            for patience in self._waiting[account]:
                patience.withdraw()

    def paused(self) -> list[str]:
        """The accounts that wait for Amazon to answer again."""
        return [name for name, outage in self._outages.items() if outage.is_closed]

    @asynccontextmanager
    async def outcomes(self) -> AsyncIterator[AsyncIterator[Outcome]]:
        """The outcomes as they are settled, while the context manager is open."""
        lanes = await self._ledger.lanes(self._run)
        work = asyncio.create_task(self._work(lanes))
        try:
            yield _Settled(self._outcomes, self)
        finally:
            self.stop()
            work.cancel()
            await asyncio.wait((work,))
            await asyncio.gather(*(outage.aclose() for outage in self._outages.values()))

    async def _work(self, lanes: list[Lane]) -> None:
        in_lane = max(4, min(_IN_LANE, _AT_WORK // max(1, len(lanes))))
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(self._send_lane(lane, in_lane))
        with self._stops_all():
            await self._ledger.end_run(self._run)
        await self._outcomes.put(None)

    @contextmanager
    def _stops_all(self) -> Iterator[None]:
        """A ledger that fails stops the run; what is in flight goes on to its end."""
        try:
            yield
        except LedgerError as error:
            self.error = self.error or error
            self.stop()

    async def _send_lane(self, lane: Lane, in_lane: int) -> None:
        ready = asyncio.Semaphore(_READY)
        for _ in range(_PASSES):
            slots = asyncio.Semaphore(in_lane)
            async with asyncio.TaskGroup() as group:
                with self._stops_all():
                    async for row in self._rows(lane):
                        await slots.acquire()
                        if not self._may_take(lane.account):
                            return
                        group.create_task(self._send(row, slots, ready))
                        if self._left is not None:
                            await asyncio.sleep(0)  # the other lanes take theirs of a limit, too

    async def _rows(self, lane: Lane) -> AsyncIterator[LedgerRow]:
        after = 0
        while rows := await self._ledger.to_send(self._run, lane, after, _PAGE):
            for row in rows:
                yield row
            after = rows[-1].id

    def _may_take(self, account: str) -> bool:
        if account in self._stopped or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        return True

    async def _send(
        self, row: LedgerRow, slots: asyncio.Semaphore, ready: asyncio.Semaphore
    ) -> None:
        outage = self._outages[row.account]
        patience = Patience()
        self._waiting[row.account].add(patience)
        outcome = None
        try:
            with self._stops_all():
                outcome = await self._outcome(row, patience, ready)
        finally:
            self._waiting[row.account].discard(patience)
            slots.release()
        if outcome is None:
            return
        outage.noted(outcome)
        self._count_hindrances(row.account, outcome)
        if outcome.status != "planned":
            await self._outcomes.put(outcome)
        elif outcome.error is not None:
            self._note_unsent(row.account, outcome.error)

    async def _outcome(
        self, row: LedgerRow, patience: Patience, ready: asyncio.Semaphore
    ) -> Outcome:
        message = Message(row.amazon_order_id, row.request, row.marketplace, row.account)
        entry = Entry(self._ledger, row, self._run)
        try:
            request = await self._written(row, message.request, patience)
        except NotOffered as missing:
            await entry.skipped(missing)
            return Outcome(message, "skipped", None, missing)
        except LedgerError:
            raise
        except MessagingError as error:
            if _is_denied(error):  # which says nothing of the message
                await entry.planned_again(error)
                return Outcome(message, "planned", None, error)
            await entry.failed(error)
            return Outcome.of_error(message, error)
        try:
            response = await self._deliver(row, request, patience, entry, ready)
        except NotPlanned:
            beaten = SentElsewhere("it was sent meanwhile, or by another campaign of the ledger")
            await entry.skipped(beaten)
            return Outcome(message, "skipped", None, beaten)
        except LedgerError:
            raise
        except MessagingError as error:
            return Outcome.of_error(message, error)
        return Outcome(message, "sent", response)

    async def _deliver(
        self,
        row: LedgerRow,
        request: MessageRequest,
        patience: Patience,
        entry: Entry,
        ready: asyncio.Semaphore,
    ) -> Any:
        # Files are uploaded just before the send, for what Amazon keeps of them is short-lived.
        async with ready if getattr(request, "attachments", ()) else nullcontext():
            return await self._sessions[row.account].deliver(
                row.amazon_order_id,
                request,
                row.marketplace,
                patience,
                entry,
                self._outages[row.account],
                self._files,
            )

    async def _written(
        self, row: LedgerRow, request: MessageRequest, patience: Patience
    ) -> MessageRequest:
        """What to send: in the language of the buyer, where there is a template."""
        session, outage = self._sessions[row.account], self._outages[row.account]
        if self._check_actions:
            await _check_available(session, row, patience, outage)
        if self._template is None:
            return request
        answer: GetAttributesResponse = await session.ask(
            "getAttributes", row.amazon_order_id, row.marketplace, patience, outage
        )
        locale = self._template.locale_for(answer.buyer.locale)
        text = self._template.text(locale, row.variables)
        written: MessageRequest = evolve(cast("Any", request), text=text)
        return written

    def _count_hindrances(self, account: str, outcome: Outcome) -> None:
        """Stop a seller whose application is denied, or files are away, again and again."""
        error = outcome.error
        if error is not None and (_is_denied(error) or isinstance(error, UnreadableFile)):
            self._hindrances[account] += 1
            if self._hindrances[account] == IN_A_ROW:
                self.unsent[account] = error
                self.stop([account])
        elif outcome.status != "planned":
            self._hindrances[account] = 0

    def _note_unsent(self, account: str, error: MessagingError) -> None:
        if account in self._stopped and account in self.unsent:
            return  # the reason for stopping says more than that the others were withdrawn
        self.unsent[account] = error
        if _ends_a_seller(error):
            self.stop([account])


def _is_denied(error: MessagingError) -> bool:
    """Whether the application may not do this: its role or the seller's authorization is amiss."""
    if not isinstance(error, Forbidden) or isinstance(error, MessageNotAvailable):
        return False
    return not names_token(error)


def _ends_a_seller(error: MessagingError) -> bool:
    """Whether no further message of the seller's can be sent in this run."""
    match error:
        case AuthenticationError():
            return not error.repeatable
        case ApiError():
            return names_token(error)
        case _:
            return isinstance(error, SessionClosed)


class _Settled(AsyncIterator[Outcome]):
    """Outcomes as they come. No generator, which a cancellation of its reader would end."""

    def __init__(self, outcomes: asyncio.Queue[Outcome | None], run: CampaignRun) -> None:
        self._outcomes = outcomes
        self._run = run
        self._ended = False

    async def __anext__(self) -> Outcome:
        outcome = None if self._ended else await self._outcomes.get()
        if outcome is not None:
            return outcome
        self._ended = True
        if self._run.error is not None:
            raise self._run.error
        raise StopAsyncIteration


async def _check_available(
    session: MessagingSession, row: LedgerRow, patience: Patience, outage: Outage
) -> None:
    """Raise NotOffered if a kind of message cannot be sent to an order."""
    answer: GetMessagingActionsForOrderResponse = await session.ask(
        "getMessagingActionsForOrder", row.amazon_order_id, row.marketplace, patience, outage
    )
    if not MESSAGING[row.operation].action_names & answer.names:
        names = ", ".join(_operation_names(answer)) or "none"
        raise NotOffered(f"not available for this order now; available: {names}")


async def available_now(
    error: MessagingError | None,
    session: MessagingSession,
    amazon_order_id: str,
    marketplace: Marketplace | str | None = None,
) -> str:
    """Of a kind that is not available for an order: which ones are, to be put behind the error."""
    if not isinstance(error, MessageNotAvailable):
        return ""
    try:
        answer = await session.get_messaging_actions_for_order(
            amazon_order_id, marketplace=marketplace
        )
    except MessagingError:
        return ""  # the error says enough
    return f"; available now: {', '.join(_operation_names(answer)) or 'none'}"


def _operation_names(answer: GetMessagingActionsForOrderResponse) -> list[str]:
    """The kinds of message that may be sent, by their operations' names where there are any."""
    operations = ((name, by_action(name)) for name in answer.names)
    return sorted({operation.name if operation else name for name, operation in operations})
