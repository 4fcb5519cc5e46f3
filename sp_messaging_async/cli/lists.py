"""Commands about order lists: to send one, and to look at what it would send."""

from __future__ import annotations

import asyncio
import importlib.resources
import json
import os
import shutil
import signal
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal

import attrs
from attrs import define, evolve, frozen
from rich.table import Table
from rich.text import Text

from ..bulk import Outcome
from ..bulk.campaign import CampaignRun, Problems, available_now, enrol
from ..bulk.order_list import Reading
from ..bulk.progress import Tally, seconds_by_plans
from ..credentials import DEFAULT_ACCOUNT
from ..errors import ConfigurationError, MessageNotAvailable, MessagingError, PlanWaitExceeded
from ..ledger import Enrolled, Lane, Ledger, LedgerRow, LeftAlone, Status
from ..marketplaces import Marketplace
from ..operations import by_request
from ..session import MessagingSession
from .app import ALL_SENT, SOME_NOT_SENT, SOME_UNKNOWN, STOPPED, WRONG_USAGE, app
from .display import Watch, closing_table, duration
from .ledgers import LedgerDatabase
from .options import Amazon, Flag, Listing, Pace, Place, Recording, Where, throwaway_ledger
from .terminal import Talk, hush, plural, say, shown

__all__ = ["bulk", "preview"]

_ASKED = 5  # orders of which Amazon is asked what is available, at the end of a run


@app.command
async def bulk(
    orders: Path | None = None,
    /,
    *,
    keep_going: Flag = False,
    dry_run: Flag = False,
    limit: int | None = None,
    check_actions: Flag = False,
    enqueue: Flag = False,
    yes: Flag = False,
    quiet: Flag = False,
    format: Literal["text", "jsonl"] = "text",  # noqa: A002 - the option's name
    listing: Listing = Listing(),
    where: Where = Where(),
    pace: Pace = Pace(),
    recording: Recording = Recording(),
) -> int:
    """Send a list of messages, each once: CSV, JSON Lines or a workbook.

    The list has the columns order_id and operation, and where the operation needs them text,
    attachments (paths, with ; between them), coverage_start_date, coverage_end_date, marketplace
    and account. What is sent is recorded. The same command again resumes a run that broke off, and
    sends nothing once all was sent.

    Parameters
    ----------
    orders:
        The list. With --sandbox it may be left out, for the sample that comes with the package.
    keep_going:
        Send the good rows of a list that has problems too.
    dry_run:
        Check all of the list, and tell how long the usage plans will take; send nothing.
    limit:
        The most messages to send in this run.
    check_actions:
        Ask first, for each order, whether this kind of message is available.
    enqueue:
        Hand the messages to the workers of a ledger in PostgreSQL, and do not wait for them. The
        exit status says what else was found; it is 0 if all is handed over.
    yes:
        Do not ask before sending to buyers.
    quiet:
        Show only what somebody has to act on.
    format:
        With jsonl, each outcome is a line of JSON on standard output as soon as it is known, and
        all else is on standard error.
    """
    _check_limit(limit)
    beside = {
        "--limit": limit,
        "--dry-run": dry_run,
        "--sandbox": where.sandbox,
        "--throttle": pace.throttle,
        "--format jsonl": format == "jsonl",
    }
    workers = _workers(recording, beside) if enqueue else None
    path = orders or _sample(where.sandbox)
    reading = listing.reading()
    talk = Talk(format == "jsonl", quiet)
    _advise(reading, where.place, talk)
    _stop_on_sigterm()
    async with AsyncExitStack() as stack:
        stack.enter_context(talk.going_on())
        amazon = await where.open(stack, pace=pace)
        enrolment = _Enrolment(path, reading, amazon, recording, talk, keep_going)
        if workers is not None:
            return await _enqueue(enrolment, workers, check_actions=check_actions, yes=yes)
        is_thrown_away = dry_run or (where.sandbox and recording.ledger is None)
        throwaway = throwaway_ledger(stack) if is_thrown_away else None
        book = await stack.enter_async_context((throwaway or recording.place).opened())
        await stack.enter_async_context(book.campaign_lock(recording.campaign))
        enrolled, problems, lanes = await enrolment.into(book)
        if not (lanes or enrolled.left_alone or problems.total):
            talk.insist(_NO_ROWS)
            return SOME_NOT_SENT
        taken = _limited(lanes, limit)
        lookups = _lookups(reading, check_actions)
        if dry_run:
            _show_plan(talk, taken, lookups)
            return _status_of_dry_run(talk, amazon, lanes, problems)
        is_heard = True
        if lanes:
            sessions = await amazon.sessions(sorted({lane.account for lane in lanes}))
            if not (yes or amazon.messages_nobody):
                await _confirm(talk, book, enrolled.run, taken, lookups, amazon)
            run = CampaignRun(
                book,
                enrolled.run,
                sessions,
                limit=limit,
                check_actions=check_actions,
                template=reading.template,
            )
            rates = _Rates(amazon, sessions)
            tally = Tally(lanes, lookups=lookups, rate_of=rates, paused=run.paused, limit=limit)
            kept = None if throwaway else recording
            discard = throwaway.path.parent if throwaway else None
            sending = _Run(run, tally, talk, sessions, kept, discard)
            await sending.send()
            is_heard = sending.is_heard
        else:
            await book.end_run(enrolled.run)  # of one that was killed before it could
            if not (problems.total or enrolled.missing):
                talk.mention("nothing left to send")
        status = _status(await book.counts(run=enrolled.run), enrolled, problems)
        if status == SOME_UNKNOWN and not throwaway:
            _show_how_to_resolve(talk, recording)
        return status if is_heard or status == SOME_UNKNOWN else STOPPED


@app.command
async def preview(
    orders: Path | None = None,
    /,
    *,
    limit: int = 3,
    listing: Listing = Listing(),
    where: Place = Place(),
) -> int:
    """Show what a list would send, in every language; nothing is sent, and Amazon not asked.

    Parameters
    ----------
    orders:
        The list. With --sandbox it may be left out, for the sample that comes with the package.
    limit:
        The most messages to show. All rows are checked.
    """
    _check_limit(limit)
    reading = listing.reading()
    path = orders or _sample(where.sandbox)
    _advise(reading, where.place, Talk())
    async with AsyncExitStack() as stack:
        book = await Recording().open(stack, throwaway=True)
        _, problems, advice = await enrol(
            path, where.place, book, "preview", "a preview", reading=reading, keep_going=True
        )
        if problems.total:
            _show_problems(say, f"{plural(problems.total, 'problem')}:", problems)
        if advice.total:
            _show_problems(say, f"advice about {plural(advice.rows, 'row')}:", advice)
        for row in await book.rows(limit=limit):
            _show_message(row, reading)
        total = sum((await book.counts()).values())
        has_rows = total or problems.total
        say(f"{plural(total, 'message')} in all; nothing was sent" if has_rows else _NO_ROWS)
    return SOME_NOT_SENT if problems.total or not total else ALL_SENT


_NO_ROWS = "the list has no rows"


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ConfigurationError(f"--limit {limit} is too few; give 1 or more")


def _sample(sandbox: bool) -> Path:
    if not sandbox:
        raise ConfigurationError(
            "no order list: name a file, or add --sandbox to try the sample that comes along"
        )
    return Path(str(importlib.resources.files("sp_messaging_async.bulk") / "sample/orders.csv"))


def _lookups(reading: Reading, check_actions: bool) -> list[str]:
    """The operations that are asked for each order before its message goes."""
    asked = {
        "getMessagingActionsForOrder": check_actions,
        "getAttributes": reading.template is not None,
    }
    return [name for name, is_asked in asked.items() if is_asked]


def _limited(lanes: Sequence[Lane], limit: int | None) -> list[Lane]:
    """What a run with a limit takes up of each lane; they take turns."""
    if limit is None:
        return list(lanes)

    def number(turns: int) -> int:
        return sum(min(lane.number, turns) for lane in lanes)

    turns = bisect_right(range(limit + 1), limit, key=number) - 1
    rest = limit - number(turns)
    taken: list[Lane] = []
    for lane in lanes:
        more = 1 if rest and lane.number > turns else 0
        rest -= more
        most = min(lane.number, turns) + more
        if most:
            taken.append(evolve(lane, number=most, files=round(lane.files * most / lane.number)))
    return taken


@frozen
class _Rates:
    """What the plans allow now, as far as Amazon has told."""

    amazon: Amazon
    sessions: Mapping[str, MessagingSession]

    def __call__(self, account: str, operation: str) -> float:
        return self.amazon.throttle.rate(self.sessions[account].plan_key(operation))


# Before anything is sent


@frozen
class _Enrolment:
    """A list that is to go into a ledger, and what is told of that."""

    path: Path
    reading: Reading
    amazon: Amazon
    recording: Recording
    talk: Talk
    keep_going: bool

    async def into(self, book: Ledger) -> tuple[Enrolled, Problems, list[Lane]]:
        """Enrol it, and tell what of it is not sent; returns what is yet to be sent, too."""
        campaign = self.recording.campaign
        enrolled, problems, advice = await enrol(
            self.path,
            self.amazon.place,
            book,
            campaign,
            self.amazon.realm,
            reading=self.reading,
            again=self.recording.again,
            keep_going=self.keep_going,
        )
        _show_enrolled(self.talk, enrolled, problems, advice, campaign)
        return enrolled, problems, await book.lanes(enrolled.run)


def _advise(reading: Reading, place: Marketplace, talk: Talk) -> None:
    """Tell what is amiss in a template's own words; with --strict, refuse it."""
    template = reading.template
    found = list(template.advice(place.country)) if template else []
    lines = [f"{template.name if template else ''}, {finding}" for finding in found]
    if lines and reading.strict:
        raise ConfigurationError("\n".join(lines))
    for line in lines:
        talk.mention(f"advice: {line}")


def _show_enrolled(
    talk: Talk, enrolled: Enrolled, problems: Problems, advice: Problems, campaign: str
) -> None:
    """What of the list is not sent, and why; nothing where there is nothing to say."""
    if problems.total:
        are = "is" if problems.rows == 1 else "are"
        _show_problems(
            talk.insist, f"{plural(problems.rows, 'row')} with problems {are} left out:", problems
        )
    if advice.total:
        _show_problems(talk.mention, f"advice about {plural(advice.rows, 'row')}:", advice)
    if enrolled.merged:
        repeat, go = ("repeats", "goes") if enrolled.merged == 1 else ("repeat", "go")
        talk.mention(f"{plural(enrolled.merged, 'row')} {repeat} an earlier row, and {go} with it")
    _show_left_alone(talk, enrolled, campaign)


def _show_left_alone(talk: Talk, enrolled: Enrolled, campaign: str) -> None:
    if enrolled.left_alone:
        found = sorted(enrolled.left_alone.items())
        counts = ", ".join(f"{number:,} {name}" for name, number in found)
        talk.mention(f"left alone, by what the ledger knows: {counts}")
        for row in enrolled.some_left_alone:
            if row.status != "sent" or row.campaign not in (None, campaign):
                talk.mention(_named(row, campaign))
    if enrolled.changed:
        _show_changed(talk, enrolled, campaign)
    if enrolled.missing:
        talk.insist(
            f"--again waits for an earlier run, which has {plural(enrolled.missing, 'message')} "
            f"left that this list does not name (order {enrolled.first_missing}); put it back, "
            "or use another --campaign"
        )


def _show_changed(talk: Talk, enrolled: Enrolled, campaign: str) -> None:
    one = enrolled.changed == 1
    differ, are, it = ("differs", "is", "it") if one else ("differ", "are", "them")
    some = enrolled.some_changed
    statuses = {row.status for row in some}
    was = "sent" if statuses == {"sent"} else "recorded"
    again = "" if statuses & {"sending", "unknown"} else f"; --again sends {it}"
    places = {row.campaign for row in some} - {campaign}
    where = f" (in campaign {', '.join(map(repr, sorted(map(str, places))))})" if places else ""
    rows = plural(enrolled.changed, "row")
    talk.insist(f"{rows} {differ} from what was {was}{where}, and {are} not sent{again}:")
    for row in some:
        talk.insist(_named(row, campaign))


def _show_problems(say: Callable[[str], None], title: str, problems: Problems) -> None:
    say(title)
    for problem in problems.first:
        say(f"  {problem}")
    if more := problems.total - len(problems.first):
        say(f"  and {more:,} more")


def _named(row: LeftAlone, campaign: str) -> str:
    where = "" if row.campaign in (None, campaign) else f" in campaign {row.campaign!r}"
    return f"  line {row.line}: {row.operation} for {row.amazon_order_id}: {row.status}{where}"


def _show_plan(talk: Talk, lanes: Sequence[Lane], lookups: Sequence[str]) -> None:
    talk.insist(_table_of(lanes, lookups))
    total = plural(sum(lane.number for lane in lanes), "message")
    time = duration(_longest(lanes, lookups))
    talk.insist(f"{total}, {time} by the usage plans; nothing was sent")
    talk.mention("What a ledger knows to be sent already is not taken into account.")


def _longest(lanes: Sequence[Lane], lookups: Sequence[str]) -> float:
    return max(seconds_by_plans(lanes, lookups).values(), default=0.0)


def _status_of_dry_run(
    talk: Talk, amazon: Amazon, lanes: Sequence[Lane], problems: Problems
) -> int:
    """Tell which accounts could not be used."""
    status = SOME_NOT_SENT if problems.total else ALL_SENT
    for account in sorted({lane.account for lane in lanes}):
        try:
            amazon.credentials(account)
        except MessagingError as error:
            talk.insist(f"account {account}: {error}")
            status = WRONG_USAGE
    return status


async def _confirm(
    talk: Talk,
    book: Ledger,
    run: str,
    lanes: Sequence[Lane],
    lookups: Sequence[str],
    amazon: Amazon,
) -> None:
    """Show what is about to reach buyers, and ask."""
    talk.insist(_table_of(lanes, lookups))
    named_places = await book.marketplaces(run)
    places = {amazon.place if found is None else Marketplace.of(found) for found in named_places}
    talk.insist("marketplaces: " + ", ".join(sorted(found.name for found in places)))
    (first, *_) = await book.to_send(run, lanes[0], 0, 1)
    talk.insist(f"first: {first.operation} to order {first.amazon_order_id}")
    for name, value in attrs.asdict(first.request, recurse=False).items():
        talk.insist(f"  {name}: {value}")
    total = sum(lane.number for lane in lanes)
    messages = plural(total, "message")
    if sys.stdin is None or not sys.stdin.isatty():
        would = f"{messages} would go to buyers at {amazon.endpoint.api_url}"
        raise ConfigurationError(f"{would}; add --yes to send")
    time = duration(_longest(lanes, lookups))
    talk.insist(f"{messages} to buyers at {amazon.endpoint.api_url}, in {time}")
    if _asked(talk, f"Type {total} to send: ") != str(total):
        raise ConfigurationError("that is another number; nothing was sent")


def _asked(talk: Talk, question: str) -> str:
    """What a person types; nothing else is at work meanwhile. Ctrl-C ends it as everywhere."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        talk.console.print(question, end="", markup=False, highlight=False)
        return input().strip()
    except EOFError:
        return ""
    finally:
        signal.signal(signal.SIGINT, usual)


def _table_of(lanes: Sequence[Lane], lookups: Sequence[str]) -> Table:
    table = Table("account", "operation", "messages", "time by plan")
    for lane in Tally(lanes, lookups=lookups).lanes:
        seconds, _ = lane.seconds_left(lane.number)
        account = Text(shown(lane.account))
        table.add_row(account, lane.operation, f"{lane.number:,}", duration(seconds))
    return table


# Handing it over, in place of sending


def _workers(recording: Recording, beside: Mapping[str, object]) -> LedgerDatabase:
    """The ledger whose workers are to send. Raises ConfigurationError where that makes no sense."""
    senseless = ", ".join(option for option, value in beside.items() if value)
    if senseless:
        raise ConfigurationError(
            f"--enqueue only hands a list over to the workers; leave {senseless} out"
        )
    return recording.database("--enqueue")


async def _enqueue(
    enrolment: _Enrolment, workers: LedgerDatabase, *, check_actions: bool, yes: bool
) -> int:
    """Enrol a list, and share its messages out to the workers of the ledger."""
    talk, amazon, recording = enrolment.talk, enrolment.amazon, enrolment.recording
    template = enrolment.reading.template
    async with workers.opened() as book:
        async with book.campaign_lock(recording.campaign):
            enrolled, problems, lanes = await enrolment.into(book)
            if lanes and not (yes or amazon.messages_nobody):
                lookups = _lookups(enrolment.reading, check_actions)
                await _confirm(talk, book, enrolled.run, lanes, lookups, amazon)
        # No more than the campaign's lock permits may workers do, so they are told without it.
        if lanes:
            await workers.enqueue(
                enrolled.run, amazon.place, template=template, check_actions=check_actions
            )
            _show_enqueued(talk, lanes, recording)
        else:
            await book.end_run(enrolled.run)
            if not (enrolled.left_alone or problems.total):
                talk.insist(_NO_ROWS)
                return SOME_NOT_SENT
            if not (problems.total or enrolled.missing):
                talk.mention("nothing left to send")
        counts = await book.counts(run=enrolled.run)
    handed_over = ("planned", "sending")
    settled: dict[Status, int] = {
        each: number for each, number in counts.items() if each not in handed_over
    }
    status = _status(settled, enrolled, problems)
    if status == SOME_UNKNOWN:
        _show_how_to_resolve(talk, recording)
    return status


def _show_enqueued(talk: Talk, lanes: Sequence[Lane], recording: Recording) -> None:
    accounts = plural(len({lane.account for lane in lanes}), "account")
    messages = plural(sum(lane.number for lane in lanes), "message")
    talk.insist(f"{messages} of {accounts} handed over to the workers:")
    for lane in lanes:
        talk.insist(f"  account {lane.account}: {lane.number:,} {lane.operation}")
    if any(lane.files for lane in lanes):
        talk.insist("workers read the files to attach from the same paths as this command does")
    of = recording.of_ledger
    talk.insist(f"follow it with: sp-messaging cluster status{of}")
    talk.insist(f"what sends it, on any machine: sp-messaging worker --credentials FILE{of}")


def _show_message(row: LedgerRow, reading: Reading) -> None:
    account = "" if row.account == DEFAULT_ACCOUNT else f", account {row.account}"
    say(f"{row.operation} for order {row.amazon_order_id}{account}")
    template = reading.template
    texts = {"": getattr(row.request, "text", "")}
    if template:
        texts = {locale: template.text(locale, row.variables) for locale in template.texts}
    for locale, text in texts.items():
        is_default = template is not None and locale == template.default_locale
        label = f"[{locale}{', and for all other languages' if is_default else ''}]"
        for line in (label if locale else "", *text.splitlines()):
            if line or locale:
                say(f"  {line}".rstrip())
    for file in getattr(row.request, "attachments", ()):
        say(f"  file: {file.file_name}")
    for name in ("coverage_start_date", "coverage_end_date"):
        if moment := getattr(row.request, name, None):
            say(f"  {name}: {moment}")
    say("")


# While it goes on


def _stop_on_sigterm() -> None:
    """Let SIGTERM stop a run as Ctrl-C does.

    What a script begins with & has SIGINT ignored, and asyncio no handler for it.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def stop(*_: object) -> None:
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)
        elif task is not None:
            loop.call_soon_threadsafe(task.cancel)

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def _signals(do: Callable[[], object]) -> Iterator[None]:
    """What Ctrl-C and SIGTERM do meanwhile, unless they are ignored."""
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = {number: handler for number, handler in usual.items() if callable(handler)}
    for number in heeded:
        signal.signal(number, lambda *_: do())
    try:
        yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


@define
class _Run:
    """A run, and how it is shown.

    sessions: by account.
    kept: where it is recorded; None if that is thrown away.
    discard: a folder that goes with the run, however it ends.
    is_stopped: whether it was, before its end, by the user or by a reader that went away.
    is_heard: whether standard output takes the results.
    """

    run: CampaignRun
    tally: Tally
    talk: Talk
    sessions: Mapping[str, MessagingSession]
    kept: Recording | None
    discard: Path | None
    is_stopped: bool = False
    is_heard: bool = True

    async def send(self) -> None:
        """Send all, and tell what became of it."""
        with _signals(self._interrupter()):
            try:
                async with self.run.outcomes() as outcomes, self._shown() as watch:
                    try:
                        await self._count(outcomes, watch)
                    except asyncio.CancelledError:  # Ctrl-C: what is in flight ends, and is counted
                        self._stop()
                        await self._count(outcomes, watch)
            finally:
                self.tally.count_unsent()
                self._tell()
        await self._tell_available()

    def _interrupter(self) -> Callable[[], None]:
        """What Ctrl-C does: at first it stops the run, and then it ends the process.

        That is as abrupt as a kill, and as safe: what is in flight will be unknown. Asyncio's own
        answer to a second Ctrl-C is a KeyboardInterrupt in whichever task is running.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        is_first = True

        def interrupt() -> None:
            nonlocal is_first
            if not is_first:
                self._exit_at_once()
            is_first = False
            loop.call_soon_threadsafe(task.cancel)  # type: ignore[union-attr]

        return interrupt

    @asynccontextmanager
    async def _shown(self) -> AsyncIterator[Watch | None]:
        """What shows the run, also while nothing happens: a plan's wait may be long."""
        if self.talk.quiet:
            yield None
            return
        with Watch(self.tally, self.talk.console) as watch:
            ticking = asyncio.create_task(_tick(watch))
            try:
                yield watch
            finally:
                ticking.cancel()

    async def _count(self, outcomes: AsyncIterator[Outcome], watch: Watch | None) -> None:
        async for outcome in outcomes:
            self.tally.count(outcome)
            if self.talk.of_results and self.is_heard:
                self._hand_out(outcome)
            if watch is not None:
                watch.show()

    def _hand_out(self, outcome: Outcome) -> None:
        try:
            print(_as_json(outcome), flush=True)  # noqa: T201 - the result itself
        except OSError as error:
            is_closed = isinstance(error, BrokenPipeError)
            what = "was closed" if is_closed else f"takes no more ({error.strerror})"
            self.is_heard, self.is_stopped = False, True
            hush(sys.stdout)
            self.run.stop()
            self.talk.insist(f"standard output {what}; exchanges in flight end, and no more begin")

    def _stop(self) -> None:
        asyncio.current_task().uncancel()  # type: ignore[union-attr]
        self.is_stopped = True
        self.run.stop()
        self.talk.insist("stopping: exchanges in flight end first; Ctrl-C again stops at once")

    def _exit_at_once(self) -> None:
        self.talk.console.show_cursor()
        if self.discard is not None:
            shutil.rmtree(self.discard, ignore_errors=True)
        os._exit(STOPPED)

    def _tell(self) -> None:
        """What became of all, and of which orders it was nothing good."""
        tally = self.tally
        if not tally.number():
            return
        self.talk.mention(closing_table(tally))
        for outcome in tally.named:
            self.talk.insist(f"{outcome.status}: {_reason(outcome)}")
        told = Counter(outcome.status for outcome in tally.named)
        for status in ("skipped", "rejected", "unknown"):
            if self.kept and (more := tally.number(status) - told[status]):
                words = f"ledger list --status {status}{self.kept.of_campaign}"
                self.talk.insist(f"and {more:,} more {status}; see sp-messaging {words}")
        if unsent := tally.number("planned"):
            self._tell_unsent(unsent)

    def _tell_unsent(self, number: int) -> None:
        for account, reason in self.run.unsent.items():
            if not (self.is_stopped and isinstance(reason, PlanWaitExceeded)):  # withdrawn
                self.talk.insist(f"account {account}: {reason}")
        were = "was" if number == 1 else "were"
        how = "; the same command again sends what is left" if self.kept else ""
        self.talk.insist(f"{plural(number, 'message')} {were} not sent{how}")

    async def _tell_available(self) -> None:
        """Of kinds that are not available for an order: which ones are."""
        denied = [
            outcome
            for outcome in self.tally.named
            if isinstance(outcome.error, MessageNotAvailable)
        ]
        asked = [] if self.is_stopped else denied[:_ASKED]
        answers = await self._available(asked)
        for outcome, available in zip(asked, answers, strict=False):
            if available:
                order = outcome.message.amazon_order_id
                self.talk.insist(f"order {order}: {available.removeprefix('; ')}")
        if len(denied) > len(answers):
            self.talk.insist("what is available for an order: sp-messaging actions ORDER")

    async def _available(self, outcomes: Sequence[Outcome]) -> list[str]:
        """Ask Amazon; nothing if Ctrl-C ends it, which is no end of the run."""
        asking = asyncio.gather(*map(self._available_of, outcomes))
        loop = asyncio.get_running_loop()
        with _signals(lambda: loop.call_soon_threadsafe(asking.cancel)):
            try:
                return await asking
            except asyncio.CancelledError:
                return []

    def _available_of(self, outcome: Outcome) -> Awaitable[str]:
        message = outcome.message
        session = self.sessions[message.account or DEFAULT_ACCOUNT]
        return available_now(outcome.error, session, message.amazon_order_id, message.marketplace)


def _reason(outcome: Outcome) -> str:
    """Why a message was not sent, or is not known to be, with its operation and order."""
    message = outcome.message
    of = f"{by_request(message.request).name} for order {message.amazon_order_id}"
    reason = str(outcome.error or "")
    return reason if reason.startswith(of) else f"{of}: {reason}"


def _show_how_to_resolve(talk: Talk, recording: Recording) -> None:
    listed = f"sp-messaging ledger list --status unknown{recording.of_ledger}"
    resolve = f"sp-messaging ledger resolve ORDER OPERATION sent|not-sent{recording.of_ledger}"
    talk.insist(f"{listed} names the unknown ones; look in Seller Central, and then: {resolve}")


async def _tick(watch: Watch) -> None:
    while True:
        await asyncio.sleep(1)
        watch.show()


def _as_json(outcome: Outcome) -> str:
    message = outcome.message
    values = {
        "order_id": message.amazon_order_id,
        "operation": by_request(message.request).name,
        "account": message.account,
        "status": outcome.status,
        "error": None if outcome.error is None else str(outcome.error),
    }
    return json.dumps(values, ensure_ascii=False)


def _status(counts: Mapping[Status, int], enrolled: Enrolled, problems: Problems) -> int:
    if counts.get("unknown") or enrolled.left_alone.get("unknown"):
        return SOME_UNKNOWN
    if counts.get("planned") or counts.get("sending") or enrolled.missing:
        return STOPPED
    all_sent = not (problems.total or enrolled.changed) and counts.keys() <= {"sent"}
    return ALL_SENT if all_sent else SOME_NOT_SENT
