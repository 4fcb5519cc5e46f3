"""Commands about order lists: to send one, and to look at what it would send."""

from __future__ import annotations

import asyncio
import importlib.resources
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

import attrs
from attrs import frozen
from rich.table import Table
from rich.text import Text

from ..bulk import Outcome
from ..bulk.campaign import CampaignRun, Problems, available_now, enrol
from ..bulk.order_list import Reading
from ..bulk.progress import Tally, Watch, closing_table, duration, seconds_by_plans
from ..credentials import DEFAULT_ACCOUNT
from ..errors import ConfigurationError, MessagingError
from ..ledger import Enrolled, Lane, LedgerRow, LeftAlone
from ..marketplaces import Marketplace
from ..operations import by_request
from ..session import MessagingSession
from ..sqlite_ledger import SQLiteLedger
from .app import ALL_SENT, SOME_NOT_SENT, SOME_UNKNOWN, STOPPED, app
from .options import Amazon, Flag, Listing, Recording, Where
from .terminal import Talk, plural, say, shown

__all__ = ["bulk", "preview"]


@app.command
async def bulk(
    orders: Path | None = None,
    /,
    *,
    keep_going: Flag = False,
    dry_run: Flag = False,
    limit: int | None = None,
    check_actions: Flag = False,
    yes: Flag = False,
    quiet: Flag = False,
    format: Literal["text", "jsonl"] = "text",  # noqa: A002 - the option's name
    listing: Listing = Listing(),
    where: Where = Where(),
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
    yes:
        Do not ask before sending to buyers.
    quiet:
        Show only what somebody has to act on.
    format:
        With jsonl, each outcome is a line of JSON on standard output as soon as it is known, and
        all else is on standard error.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"--limit {limit} is too few; give 1 or more")
    path = orders or _sample(where.sandbox)
    reading = listing.reading()
    talk = Talk(format == "jsonl", quiet)
    _advise(reading, where.place, talk)
    _stop_on_sigterm()
    async with AsyncExitStack() as stack:
        amazon = await where.open(stack)
        throwaway = dry_run or (where.sandbox and recording.ledger is None)
        book = await recording.open(stack, throwaway=throwaway)
        await stack.enter_async_context(book.campaign_lock(recording.campaign))
        enrolled, problems, advice = await enrol(
            path,
            amazon.place,
            book,
            recording.campaign,
            amazon.realm,
            reading=reading,
            again=recording.again,
            keep_going=keep_going,
        )
        _show_enrolled(talk, enrolled, problems, advice, recording.campaign)
        lanes = await book.lanes(enrolled.run)
        lookups = _lookups(reading, check_actions)
        if dry_run:
            _show_plan(talk, lanes, lookups)
            _show_credentials(talk, amazon, lanes)
            return SOME_NOT_SENT if problems.total else ALL_SENT
        if lanes:
            number = int(min(limit or math.inf, sum(lane.number for lane in lanes)))
            sessions = await amazon.sessions(sorted({lane.account for lane in lanes}))
            if not (yes or amazon.messages_nobody):
                await _confirm(talk, book, enrolled.run, lanes, lookups, number, amazon)
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
            await _Run(run, tally, talk, book.path.parent if throwaway else None).send(sessions)
        elif not problems.total:
            talk.mention("nothing left to send")
        return await _status(book, enrolled, problems)


@app.command
async def preview(
    orders: Path | None = None,
    /,
    *,
    limit: int = 3,
    listing: Listing = Listing(),
    where: Where = Where(),
) -> int:
    """Show what a list would send, in every language; nothing is sent, and Amazon not asked.

    Parameters
    ----------
    orders:
        The list. With --sandbox it may be left out, for the sample that comes with the package.
    limit:
        The most messages to show. All rows are checked.
    """
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
        for row in await book.rows(limit=max(0, limit)):
            _show_message(row, reading)
        total = sum((await book.counts()).values())
        say(f"{plural(total, 'message')} in all; nothing was sent")
    return SOME_NOT_SENT if problems.total else ALL_SENT


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


@frozen
class _Rates:
    """What the plans allow now, as far as Amazon has told."""

    amazon: Amazon
    sessions: Mapping[str, MessagingSession]

    def __call__(self, account: str, operation: str) -> float:
        return self.amazon.throttle.rate(self.sessions[account].plan_key(operation))


# Before anything is sent


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
        counts = ", ".join(f"{number:,} {name}" for name, number in enrolled.left_alone.items())
        talk.mention(f"left alone, by what the ledger knows: {counts}")
        for row in enrolled.some_left_alone:
            where = "" if row.campaign in (None, campaign) else f" in campaign {row.campaign!r}"
            talk.mention(_named(row) + where)
    if enrolled.changed:
        differ, change = ("differs", "changes") if enrolled.changed == 1 else ("differ", "change")
        rows = plural(enrolled.changed, "row")
        talk.insist(f"{rows} {differ} from what was enrolled, and {change} nothing any more:")
        for row in enrolled.some_changed:
            talk.insist(_named(row))


def _show_problems(say: Callable[[str], None], title: str, problems: Problems) -> None:
    say(title)
    for problem in problems.first:
        say(f"  {problem}")
    if more := problems.total - len(problems.first):
        say(f"  and {more:,} more")


def _named(row: LeftAlone) -> str:
    return f"  line {row.line}: {row.operation} for {row.amazon_order_id}: {row.status}"


def _show_plan(talk: Talk, lanes: Sequence[Lane], lookups: Sequence[str]) -> None:
    talk.insist(_table_of(lanes))
    longest = max(seconds_by_plans(lanes, lookups).values(), default=0.0)
    total = plural(sum(lane.number for lane in lanes), "message")
    talk.insist(f"{total}, {duration(longest)} by the usage plans; nothing was sent")
    talk.mention("What a ledger knows to be sent already is not taken into account.")


def _show_credentials(talk: Talk, amazon: Amazon, lanes: Sequence[Lane]) -> None:
    """Which accounts could not be used."""
    for account in sorted({lane.account for lane in lanes}):
        try:
            amazon.credentials(account)
        except MessagingError as error:
            talk.insist(f"account {account}: {error}")


async def _confirm(
    talk: Talk,
    book: SQLiteLedger,
    run: str,
    lanes: Sequence[Lane],
    lookups: Sequence[str],
    total: int,
    amazon: Amazon,
) -> None:
    """Show what is about to reach buyers, and ask."""
    talk.insist(_table_of(lanes))
    longest = max(seconds_by_plans(lanes, lookups).values(), default=0.0)
    named_places = await book.marketplaces(run)
    places = {amazon.place if found is None else Marketplace.of(found) for found in named_places}
    talk.insist("marketplaces: " + ", ".join(sorted(found.name for found in places)))
    (first, *_) = await book.to_send(run, lanes[0], 0, 1)
    talk.insist(f"first: {first.operation} to order {first.amazon_order_id}")
    for name, value in attrs.asdict(first.request, recurse=False).items():
        talk.insist(f"  {name}: {value}")
    messages = plural(total, "message")
    if sys.stdin is None or not sys.stdin.isatty():
        would = f"{messages} would go to buyers at {amazon.endpoint.api_url}"
        raise ConfigurationError(f"{would}; add --yes to send")
    talk.insist(f"{messages} to buyers at {amazon.endpoint.api_url}, in {duration(longest)}")
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


def _table_of(lanes: Sequence[Lane]) -> Table:
    table = Table("account", "operation", "messages", "time by plan")
    for lane in lanes:
        (seconds,) = seconds_by_plans([lane]).values()
        table.add_row(
            Text(shown(lane.account)), lane.operation, f"{lane.number:,}", duration(seconds)
        )
    return table


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
    """Let SIGTERM stop a run as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@frozen
class _Run:
    """A run, and how it is shown.

    discard: a folder that goes with the run, however it ends.
    """

    run: CampaignRun
    tally: Tally
    talk: Talk
    discard: Path | None

    async def send(self, sessions: Mapping[str, MessagingSession]) -> None:
        """Send all, and tell what became of it."""
        try:
            async with self.run.outcomes() as outcomes, self._shown() as watch:
                try:
                    await self._count(outcomes, watch)
                except asyncio.CancelledError:  # Ctrl-C: what is in flight ends, and is counted
                    self._stop()
                    await self._count(outcomes, watch)
        finally:
            self.tally.count_unsent()
            await self._close(sessions)

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
            if self.talk.of_results:
                print(_as_json(outcome), flush=True)  # noqa: T201 - the result itself
            if watch is not None:
                watch.show()

    def _stop(self) -> None:
        asyncio.current_task().uncancel()  # type: ignore[union-attr]
        self.run.stop()
        self.talk.insist("stopping: exchanges in flight end first; Ctrl-C again stops at once")
        # As abrupt as a kill, and as safe: what is in flight will be unknown.
        signal.signal(signal.SIGINT, lambda *_: self._exit_at_once())

    def _exit_at_once(self) -> None:
        self.talk.console.show_cursor()
        if self.discard is not None:
            shutil.rmtree(self.discard, ignore_errors=True)
        os._exit(STOPPED)

    async def _close(self, sessions: Mapping[str, MessagingSession]) -> None:
        tally = self.tally
        if not tally.number():
            return
        self.talk.mention(closing_table(tally))
        for outcome in tally.named:
            order, reason = outcome.message.amazon_order_id, outcome.error
            session = sessions[outcome.message.account or DEFAULT_ACCOUNT]
            available = await available_now(reason, session, order, outcome.message.marketplace)
            self.talk.insist(f"{outcome.status}: {reason or order}{available}")
        left = tally.number() - tally.number("sent") - tally.number("planned") - len(tally.named)
        if left:
            self.talk.insist(f"and {left:,} more; see sp-messaging report")
        if unsent := tally.number("planned"):
            for account, reason in self.run.unsent.items():
                self.talk.insist(f"account {account}: {reason}")
            were = "was" if unsent == 1 else "were"
            messages = plural(unsent, "message")
            self.talk.insist(
                f"{messages} {were} not sent; the same command again sends what is left"
            )


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


async def _status(book: SQLiteLedger, enrolled: Enrolled, problems: Problems) -> int:
    counts = await book.counts(run=enrolled.run)
    if counts.get("unknown") or enrolled.left_alone.get("unknown"):
        return SOME_UNKNOWN
    if counts.get("planned") or counts.get("sending"):
        return STOPPED
    all_sent = not problems.total and counts.keys() <= {"sent"}
    return ALL_SENT if all_sent else SOME_NOT_SENT
