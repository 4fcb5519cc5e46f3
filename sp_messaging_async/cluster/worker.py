"""Campaigns on many machines: `enqueue` shares a run out, and any number of `Worker`s send it.

A job is one seller's part of a run in one region. One job of a seller and region is done at a time,
by one worker, whatever their campaigns, and so that worker's own count of the usage plans suffices.
A job holds no secret. What was sent is the ledger's to say, and no job is ever asked: one that is
done twice sends nothing twice.

Of a worker that dies, others take the jobs over within one and a half times the ledger's `lease`:
30 seconds, unless it was made with another. It is given up after 20 seconds without a word; others
look every 5; and who finds the share still leased tries again within 5. What it was sending then
becomes `unknown` when its intents expire, 30 seconds after its exchanges would have ended. One that
was merely stopped, and wakes, finds that its shares are others': it permits itself no intent more,
and goes on with other jobs.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp
import attrs
from attrs import define, field, frozen

from ..bulk.campaign import CampaignRun
from ..bulk.template import Template
from ..credentials import Credentials
from ..errors import (
    AuthenticationError,
    ConfigurationError,
    LedgerError,
    MessagingError,
    PlanWaitExceeded,
    ServerError,
    SessionClosed,
    Throttled,
    TransportError,
)
from ..ledger import Lane, Status
from ..marketplaces import Endpoint, Marketplace, Region
from ..session import MessagingSession
from ..throttle import LocalThrottle, Throttle
from ..transport import connector
from .health import Health, State, served
from .postgres_ledger import PostgresLedger, Share, ended

if TYPE_CHECKING:  # Procrastinate, an extra, which is imported when it is needed
    from .jobs import Engine, Job, Queue, Taken

__all__ = [
    "CampaignStatus",
    "ClusterStatus",
    "CredentialsOf",
    "Worker",
    "credentials_of",
    "enqueue",
    "init",
    "status",
]

CredentialsOf: TypeAlias = Callable[[str], Credentials | Awaitable[Credentials]]
"""Finds an account's credentials; a coroutine function, or a function that takes no time."""

_LATER = 30.0  # seconds before a seller is tried again whose messages Amazon did not take
_GRACE = 60.0  # seconds that jobs may take to end, beside their exchanges
_POLL = 1.0  # seconds between looks for jobs of which nobody told
_FAILED = 20  # failed jobs that are told

_log = logging.getLogger("sp_messaging_async.cluster")


async def init(dsn: str, *, schema: str = "sp_messaging") -> tuple[int, str]:
    """Make the ledger's tables and those of the jobs, or bring them up; returns their versions.

    May be called by any number of processes, again and at once. Raises LedgerError.
    """
    jobs = _jobs()
    ledger = PostgresLedger(dsn, schema=schema)
    version = await ledger.create()
    of_jobs: str = await jobs.make_tables(ledger)
    return version, of_jobs


async def enqueue(
    ledger: PostgresLedger,
    run: str,
    *,
    marketplace: Marketplace | str | None = None,
    template: Template | None = None,
    check_actions: bool = False,
) -> int:
    """Share out to workers what a run has yet to send; returns the number of new jobs.

    run: as the enrolment named it.
    marketplace: where orders are that name none, as they were enrolled.
    template: what the list was enrolled with.
    check_actions: ask first whether this kind of message is available for the order.

    Enqueued again, what is waiting already is left as it is, and what had failed is tried again.
    Files that are attached must be found under the same names by every worker. Raises LedgerError,
    and ConfigurationError where a marketplace is needed and none was given.
    """
    jobs = _jobs()
    place = None if marketplace is None else Marketplace.of(marketplace)
    realm = await ledger.realm() or ""
    said = None if template is None else _Said.of(template)
    parts = [
        _Part(run, share.account, region.value, place and place.id, realm, said, check_actions)
        for share in await ledger.shares(run)
        for region in _regions(share, place)
    ]
    async with jobs.Queue.open(ledger) as queue:
        number: int = await queue.enqueue(
            [
                jobs.a_job(
                    attrs.asdict(part),
                    lock=f"{part.account} {part.region}",
                    queueing_lock=f"{part.run} {part.account} {part.region}",
                )
                for part in parts
            ]
        )
    return number


def _regions(share: Share, place: Marketplace | None) -> list[Region]:
    """Where a share's orders are."""
    found = set()
    for name in share.marketplaces:
        if name is None and place is None:
            raise ConfigurationError(
                f"messages of account {share.account} name no marketplace; give enqueue() the "
                "marketplace that the list was enrolled with"
            )
        found.add(Marketplace.of(name or place).region)  # type: ignore[arg-type]
    return sorted(found, key=lambda region: region.value)


@frozen
class _Said:
    """What a template says."""

    name: str
    operation: str
    default_locale: str
    texts: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, template: Template) -> _Said:
        operation = template.operation.name
        return cls(template.name, operation, template.default_locale, dict(template.texts))


@frozen
class _Part:
    """What a job holds: one seller's messages of a run, in one region, and how to send them.

    marketplace: the id of that of orders which name none.
    realm: what the ledger calls the endpoint.
    """

    run: str
    account: str
    region: str
    marketplace: str | None
    realm: str
    template: _Said | None
    check_actions: bool

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> _Part:
        said = arguments["template"]
        return cls(**{**arguments, "template": said and _Said(**said)})

    def __str__(self) -> str:
        return f"account {self.account} in region {self.region.upper()}"

    @property
    def of_region(self) -> list[Marketplace]:
        """All marketplaces of the region."""
        return [place for place in Marketplace if place.region.value == self.region]

    @property
    def place(self) -> Marketplace:
        """Where orders are that name no marketplace; any of the region where there are none."""
        named = Marketplace.of(self.marketplace) if self.marketplace else None
        return named if named in self.of_region and named else self.of_region[0]

    @property
    def marketplaces(self) -> list[str | None]:
        """What a share is told apart by: all of the region, the same for every run of it."""
        ids: list[str | None] = [place.id for place in self.of_region]
        return [*ids, None] if self.marketplace in ids else ids

    def written(self) -> Template | None:
        """The template."""
        said = self.template
        if said is None:
            return None
        return Template.of(said.name, said.operation, said.default_locale, said.texts)


def credentials_of(source: str | Path) -> CredentialsOf:
    """What finds credentials: a file (see `Credentials.from_file`), or module:function.

    The file is read anew for every job, so accounts may be added to it; with thousands of them a
    function is better. Raises ConfigurationError for a function that cannot be imported.
    """
    named = re.fullmatch(r"([\w.]+):(\w+)", str(source))
    if named and not Path(source).exists():
        return _imported(str(source), *named.groups())

    async def of_file(account: str) -> Credentials:
        return await asyncio.to_thread(Credentials.from_file, source, account)

    if not Path(source).exists():
        raise ConfigurationError(f"there is no file of credentials {source}")
    return of_file


def _imported(source: str, module: str, name: str) -> CredentialsOf:
    try:
        function: CredentialsOf = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"credentials {source} cannot be imported: {error}") from None
    if not callable(function):
        raise ConfigurationError(f"credentials {source} is no function")
    return function


class Worker:
    """Sends what was enqueued, from one of any number of processes and machines.

    ledger: the same for all of them; its `lease` decides how soon a dead one's jobs are taken over.
    credentials: finds an account's; what it raises ends the job, and its messages stay planned.
    throttle: shared with whoever else messages for the same sellers; its own unless given.
    concurrency: sellers that are served at once.
    timeout: seconds for one exchange.
    health_port: where to tell its health over HTTP; 0 takes a free port, which `health_port` is
        then. Nowhere unless given.
    health_host: an address of this machine.

    The endpoint is what the environment says (see `Endpoint.from_env`); a job of a ledger of
    another one fails. Raises ConfigurationError if the extra `postgres` is not installed.
    """

    def __init__(
        self,
        ledger: PostgresLedger,
        credentials: CredentialsOf,
        *,
        throttle: Throttle | None = None,
        concurrency: int = 100,
        timeout: float = 30.0,
        health_port: int | None = None,
        health_host: str = "127.0.0.1",
    ) -> None:
        if concurrency < 1:
            raise ConfigurationError(f"a concurrency of {concurrency} is none; give 1 or more")
        self.health_port = health_port
        self._health_host = health_host
        self._jobs = _jobs()
        self._ledger = ledger
        self._credentials = credentials
        self._throttle = throttle
        self._concurrency = concurrency
        self._timeout = timeout
        self._beat = ledger.lease / 4  # seconds between its words, and its looks at others
        self._engine: Engine | None = None
        self._http: aiohttp.ClientSession | None = None
        self._serving: dict[Taken, _Serving] = {}
        self._outcomes: Counter[str] = Counter()
        self._last_heartbeat: datetime | None = None
        self._heard_at = 0.0
        self._stopping = asyncio.Event()
        self._ended = False

    async def run(self) -> None:
        """Take jobs and do them until `stop` is called. Cancelled, it stops too before it ends.

        Raises LedgerError if the database cannot be used when it begins; later it waits for it.
        """
        serving = asyncio.create_task(self._run())
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self.stop()
            await serving
            raise

    def stop(self) -> None:
        """Take no more jobs, let exchanges in flight end, and put back what is not at its end."""
        self._stopping.set()
        self._stop_jobs()

    @property
    def health(self) -> Health:
        """How it is, and what it has done."""
        return Health(self._state, len(self._serving), self._outcomes.copy(), self._last_heartbeat)

    @property
    def _state(self) -> State:
        if self._ended:
            return "stopped"
        if self._stopping.is_set():
            return "stopping"
        if self._last_heartbeat is None:
            return "starting"
        silent = asyncio.get_running_loop().time() - self._heard_at
        return "serving" if silent < self._ledger.lease else "cut off"

    async def _run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                if self.health_port is not None:
                    told = served(self._health_host, self.health_port, lambda: self.health)
                    self.health_port = await stack.enter_async_context(told)
                await self._ledger.realm()  # which tells best what is amiss with it
                queue = await stack.enter_async_context(self._jobs.Queue.open(self._ledger))
                queue.serve(self._do)
                self._throttle = self._throttle or LocalThrottle()
                self._http = await stack.enter_async_context(_http())
                await stack.enter_async_context(self._looking(queue))
                while not self._stopping.is_set():
                    await self._take_jobs(queue)
        finally:
            self._ended = True

    async def _take_jobs(self, queue: Queue) -> None:
        """Take jobs until it is to stop, or was given up by others, or the database is away."""
        self._engine = queue.worker(
            concurrency=self._concurrency,
            pause=min(_POLL, self._beat),
            stalled=self._ledger.lease,
            grace=self._timeout + _GRACE,
        )
        try:
            with queue.told():
                await self._engine.run()
        except LedgerError as error:
            _log.warning("no jobs are taken: %s", error)
        finally:
            self._engine = None
        if not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._beat)

    def _stop_jobs(self) -> None:
        if self._engine is not None:
            self._engine.stop()
        for serving in self._serving.values():
            serving.stop()

    # A look at others, and a word to them

    @asynccontextmanager
    async def _looking(self, queue: Queue) -> AsyncIterator[None]:
        looking = asyncio.create_task(self._look(queue))
        try:
            yield
        finally:
            await ended(looking)

    async def _look(self, queue: Queue) -> None:
        unheard: set[Taken] = set()
        while True:
            try:
                await self._tell(queue)
                unheard = await self._put_back_unheard(queue, unheard)
                if number := await queue.take_over(self._ledger.lease):
                    _log.warning("%d jobs of a worker that is gone are taken over", number)
            except LedgerError as error:
                _log.warning("%s", error)
            await asyncio.sleep(self._beat)

    async def _tell(self, queue: Queue) -> None:
        worker_id = self._engine.worker_id if self._engine else None
        if worker_id is None:
            return
        heard = await queue.still_here(worker_id)
        if heard is None:
            _log.warning("not heard of for too long; what was begun ends, and others go on with it")
            self._stop_jobs()
            return
        self._last_heartbeat, self._heard_at = heard, asyncio.get_running_loop().time()

    async def _put_back_unheard(self, queue: Queue, before: set[Taken]) -> set[Taken]:
        """Put back jobs that were taken by a commit whose answer was lost.

        They are told by this: at two looks they are this worker's, and it does not do them.
        """
        worker_id = self._engine.worker_id if self._engine else None
        if worker_id is None:
            return set()
        jobs = await queue.of_worker(worker_id)
        unheard = jobs.keys() - self._serving.keys()
        for taken in unheard & before:
            await queue.jobs.put_back(jobs[taken], 0)
        return unheard - before

    # A job

    async def _do(self, job: Job) -> float | None:
        """Do a job; returns after how many seconds it is to be put back, or None at its end."""
        part = _Part.of(job.task_kwargs)
        taken = (job.id or 0, job.attempts)
        serving = self._serving[taken] = _Serving()
        if self._stopping.is_set():
            serving.stop()
        try:
            return await self._send(part, serving)
        except LedgerError as error:  # a share that is another's passes, and so does an outage
            _log.info("%s: %s; tried again soon", part, error)
            return 0.0 if serving.is_stopped else self._ledger.lease / 5
        except MessagingError as error:
            _log.error("%s is left, and its messages stay planned: %s", part, error)
            raise
        finally:
            del self._serving[taken]

    async def _send(self, part: _Part, serving: _Serving) -> float | None:
        endpoint = Endpoint.from_env(part.place.region)
        if endpoint.realm != part.realm:
            raise ConfigurationError(
                f"the ledger is of {part.realm}, and this worker sends to {endpoint.realm}"
            )
        credentials = await self._credentials_of(part.account)
        async with self._ledger.share(part.run, part.account, part.marketplaces) as share:
            session = MessagingSession(
                credentials,
                marketplace=part.place,
                endpoint=endpoint,
                throttle=self._throttle,
                timeout=self._timeout,
                http=self._http,
            )
            async with session:
                run = CampaignRun(
                    share,
                    part.run,
                    {part.account: session},
                    check_actions=part.check_actions,
                    template=part.written(),
                )
                await serving.send(run, self._outcomes)
                left: Sequence[Lane] = await share.lanes(part.run)
        if not left:
            return None
        if serving.is_stopped:
            return 0.0
        return await self._again(part, run.unsent.get(part.account), credentials)

    async def _again(self, part: _Part, reason: MessagingError | None, used: Credentials) -> float:
        """After how many seconds to try again; raises the reason where that would not help."""
        if isinstance(reason, AuthenticationError) and not reason.repeatable:
            if await self._credentials_of(part.account) == used:
                raise reason
            return 0.0  # they were renewed meanwhile
        if reason is not None and not _passes(reason):
            raise reason
        _log.warning("%s: %s; tried again in %d s", part, reason or "some are left", _LATER)
        return _LATER

    async def _credentials_of(self, account: str) -> Credentials:
        try:
            found = self._credentials(account)
            credentials = await found if inspect.isawaitable(found) else found
        except MessagingError:
            raise
        except Exception as error:  # whatever it is, its text may hold a secret
            kind = type(error).__name__
            raise ConfigurationError(f"no credentials for account {account!r} ({kind})") from None
        if not isinstance(credentials, Credentials):
            raise ConfigurationError(f"no credentials for account {account!r}")
        return credentials


@define(eq=False)
class _Serving:
    """A job that is being done."""

    is_stopped: bool = False
    _run: CampaignRun | None = None

    def stop(self) -> None:
        """Take up no more of it."""
        self.is_stopped = True
        if self._run is not None:
            self._run.stop()

    async def send(self, run: CampaignRun, counted: Counter[str]) -> None:
        """Send what there is, and count what became of it."""
        if self.is_stopped:
            return
        self._run = run
        async with run.outcomes() as outcomes:
            async for outcome in outcomes:
                counted[outcome.status] += 1


def _passes(reason: MessagingError) -> bool:
    """Whether a seller's messages may be sent later, without anybody's doing."""
    if isinstance(reason, TransportError | AuthenticationError):
        return reason.repeatable
    return isinstance(
        reason, Throttled | ServerError | PlanWaitExceeded | SessionClosed | LedgerError
    )


def _http() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector(), cookie_jar=aiohttp.DummyCookieJar())


# What a person asks


@frozen
class CampaignStatus:
    """How a campaign stands.

    counts: its messages by status.
    lately: how many of them were sent in the last minute.
    lanes: what is left.
    """

    name: str
    counts: Mapping[Status, int]
    lately: int
    lanes: Sequence[Lane]


@frozen
class ClusterStatus:
    """How all campaigns of a ledger stand, and who sends them.

    workers: those that were heard of lately.
    waiting, running, failed: jobs.
    some_failed: the account, region and campaign of some that failed.
    """

    campaigns: Sequence[CampaignStatus]
    workers: int
    waiting: int
    running: int
    failed: int
    some_failed: Sequence[tuple[str, str, str]]


async def status(ledger: PostgresLedger) -> ClusterStatus:
    """How all campaigns of a ledger stand, and who sends them. Raises LedgerError."""
    jobs = _jobs()
    await ledger.realm()  # which tells best what is amiss with it
    async with jobs.Queue.open(ledger) as queue:
        campaigns = await _campaigns(queue)
        (workers,) = await queue.found("workers", seconds=ledger.lease)
        (numbers,) = await queue.found("jobs", task_name=jobs.TASK)
        failed = await queue.found("failed", task_name=jobs.TASK, limit=_FAILED)
    some = [(row["account"], row["region"], row["campaign"] or "?") for row in failed]
    return ClusterStatus(campaigns, workers["number"], **numbers, some_failed=some)


async def _campaigns(queue: Queue) -> list[CampaignStatus]:
    counts: dict[str, dict[Status, int]] = {}
    lately: Counter[str] = Counter()
    lanes: dict[str, list[Lane]] = {}
    for row in await queue.found("campaigns"):
        counts.setdefault(row["campaign"], {})[row["status"]] = row["number"]
        lately[row["campaign"]] += row["lately"]
    for row in await queue.found("planned"):
        lanes.setdefault(row.pop("campaign"), []).append(Lane(**row))
    return [
        CampaignStatus(name, number, lately[name], lanes.get(name, ()))
        for name, number in counts.items()
    ]


def _jobs() -> ModuleType:
    """What is done with Procrastinate. Raises ConfigurationError where it is not installed."""
    try:
        from . import jobs
    except ImportError:
        raise ConfigurationError.of_missing_extra("workers need the", "postgres") from None
    return jobs
