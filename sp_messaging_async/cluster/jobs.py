"""Jobs of workers: Procrastinate's tables in the ledger's schema, and what it leaves to be done.

Procrastinate takes a job back from a worker that is silent, but lets one that wakes settle a job
which is another's meanwhile, refuses to put back a job that was enqueued again, loses a job whose
taking was committed and not heard of, and ends with the database. `Jobs` is without that.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from procrastinate import App, PsycopgConnector, exceptions
from procrastinate.connector import Notify
from procrastinate.job_context import JobContext
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager, get_channel_for_queues
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from procrastinate.schema import SchemaManager
from procrastinate.sql import queries
from procrastinate.worker import Worker
from psycopg import errors, sql
from psycopg.rows import dict_row

from ..errors import LedgerError
from .postgres_ledger import PostgresLedger, _Address, _may_pass

if TYPE_CHECKING:
    from psycopg import AsyncConnection, AsyncCursor

__all__ = ["TASK", "Engine", "Job", "Jobs", "Queue", "Taken", "a_job", "make_tables"]

T = TypeVar("T")
Found: TypeAlias = dict[str, Any]
Cursor: TypeAlias = "AsyncCursor[Found]"
Taken: TypeAlias = tuple[int, int]
"""A job's number, and how often it had been put back when it was taken."""

TASK = "sp_messaging_async: send a share"

_QUEUE = "shares"
_FACT = "procrastinate"  # the ledger's name for the version of Procrastinate's tables
_PAUSE = 0.5  # seconds between attempts to reach a database that is away
_RECONNECT = 3.0  # seconds after which a connection is asked for anew
_BATCH = 1000  # jobs that are enqueued together
_ROUNDS = 20  # times that jobs are enqueued anew because others enqueue the same

_log = logging.getLogger("sp_messaging_async.cluster")


class Queue:
    """The jobs beside a ledger.

    Raises LedgerError where the database cannot be used, or has not the tables of this version.
    """

    def __init__(self, ledger: PostgresLedger, connections: int) -> None:
        self._address = ledger._address
        connector = _Connector(self._address, connections)
        self.app = App(connector=connector)
        self.jobs = self.app.job_manager = Jobs(connector, self._address)

    @classmethod
    @asynccontextmanager
    async def open(cls, ledger: PostgresLedger, *, connections: int = 2) -> AsyncIterator[Queue]:
        """The jobs beside a ledger, for as long as the context lasts."""
        queue = cls(ledger, connections)
        await queue._refuse_other_version()
        try:
            with queue.told():
                await queue.app.open_async()
            yield queue
        finally:
            with contextlib.suppress(exceptions.ConnectorException):
                await queue.app.close_async()

    async def enqueue(self, jobs: Sequence[Job]) -> int:
        """Let jobs be done that are not waiting already; returns how many those are."""
        number = 0
        with self.told():
            for first in range(0, len(jobs), _BATCH):
                number += await self._enqueue(jobs[first : first + _BATCH])
        return number

    async def _enqueue(self, jobs: Sequence[Job]) -> int:
        locks = [job.queueing_lock for job in jobs]
        await self.jobs.found("forget ended", locks=locks)
        for _ in range(_ROUNDS):
            waiting = {each["queueing_lock"] for each in await self.found("waiting", locks=locks)}
            new = [job for job in jobs if job.queueing_lock not in waiting]
            with contextlib.suppress(exceptions.AlreadyEnqueued):
                if new:
                    await self.jobs.batch_defer_jobs_async(new)
                return len(new)
        raise LedgerError("too many enqueue the same run; do it once more")

    # For a worker

    def serve(self, do: Callable[[Job], Awaitable[float | None]]) -> None:
        """Have jobs done: what does one tells after how many seconds to put it back, or None."""

        async def task(context: JobContext, /, **arguments: object) -> None:
            seconds = await do(context.job)
            if seconds is not None:
                raise _NotAtItsEnd(seconds)

        self.app.task(name=TASK, pass_context=True, retry=_PutBack())(task)

    def worker(self, *, concurrency: int, pause: float, stalled: float, grace: float) -> Engine:
        """Who takes jobs until it is stopped.

        pause: seconds between looks for jobs of which nobody told.
        stalled: seconds without a word after which others' jobs may be taken.
        grace: seconds for jobs to end in, once stopped.
        """
        return Engine(
            self.app,
            name=None,
            concurrency=concurrency,
            fetch_job_polling_interval=pause,
            shutdown_graceful_timeout=grace,
            delete_jobs="successful",
            install_signal_handlers=False,
            stalled_worker_timeout=stalled,
        )

    async def still_here(self, worker_id: int) -> datetime | None:
        """Tell that a worker lives; None if it was given up, and its jobs are others'."""
        found = await self.found("still here", worker_id=worker_id)
        return found[0]["last_heartbeat"].astimezone(UTC) if found else None

    async def of_worker(self, worker_id: int) -> Mapping[Taken, Job]:
        """The jobs that the tables say a worker does."""
        rows = await self.found("jobs of worker", worker_id=worker_id)
        return {
            (row["id"], row["attempts"]): Job(
                id=row["id"],
                attempts=row["attempts"],
                lock=row["lock"],
                worker_id=worker_id,
                queue=_QUEUE,
                queueing_lock=None,
                task_name=TASK,
            )
            for row in rows
        }

    async def take_over(self, seconds: float) -> int:
        """Put back what workers did that were silent for so long; returns how many jobs."""
        with self.told():
            await self.jobs.prune_stalled_workers(seconds)
            stalled = list(await self.jobs.get_stalled_jobs(seconds_since_heartbeat=seconds))
            for job in stalled:
                await self.jobs.put_back(job, 0)
            return len(stalled)

    async def found(self, statement: str, **values: object) -> list[Found]:
        """What a statement of jobs.sql finds."""
        with self.told():
            return await self.jobs.found(statement, **values)

    async def _refuse_other_version(self) -> None:
        connection = await self._address.connect()
        with self.told():
            async with connection:
                version = await _version(connection, self._address)
        if version == _newest():
            return
        what = "has no" if version is None else "has another version of the"
        raise LedgerError(
            f"the ledger {self._address} {what} tables for workers; make them with 'sp-messaging "
            "cluster init --ledger …' of the newest version in use"
        )

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Whatever goes wrong meanwhile is the ledger's."""
        try:
            yield
        except LedgerError:
            raise
        except Exception as error:  # whatever it is, it is told as the ledger's
            raise self._address.error(error.__cause__ or error) from None


def a_job(arguments: Mapping[str, Any], *, lock: str, queueing_lock: str) -> Job:
    """A job to be enqueued."""
    return Job(
        queue=_QUEUE,
        lock=lock,
        queueing_lock=queueing_lock,
        task_name=TASK,
        task_kwargs=dict(arguments),
    )


class Engine(Worker):
    """A worker of Procrastinate's."""

    async def run(self) -> None:
        """Take jobs, and have them done, until it is stopped and they have ended."""
        await super().run()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Take no more."""
        super().stop()  # type: ignore[no-untyped-call]


class _NotAtItsEnd(Exception):
    """A job is to be put back."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class _PutBack(BaseRetryStrategy):
    """Jobs that were not at their end, or were cut off, are done again; those that failed not."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Whether to put a job back, and when it may be taken."""
        if isinstance(exception, _NotAtItsEnd):
            return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=exception.seconds))
        if isinstance(exception, Exception):
            return None
        return RetryDecision()  # cancelled, by a worker that stops


class _Connector(PsycopgConnector):
    """Procrastinate's connections, which find its tables in a schema and outlive the database."""

    def __init__(self, address: _Address, connections: int) -> None:
        path = sql.SQL("SET search_path TO {}").format(sql.Identifier(address.schema))

        async def configure(connection: AsyncConnection[Any]) -> None:
            await connection.execute(path)
            await connection.commit()

        super().__init__(
            conninfo=address.conninfo,
            kwargs={"prepare_threshold": None},
            configure=configure,
            min_size=1,
            max_size=connections,
            timeout=_RECONNECT,
            reconnect_timeout=_RECONNECT,  # or it would wait ever longer
            name=f"jobs of {address}",
        )

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Listen, however often the connection is lost; what is missed meanwhile is polled for."""
        task = asyncio.current_task()
        # One that is cancelled while its connection is lost is told of the connection only.
        while task is None or not task.cancelling():
            with contextlib.suppress(exceptions.ConnectorException):
                await super().listen_notify(on_notification, channels)
            await asyncio.sleep(_PAUSE)


class Jobs(JobManager):
    """What a worker of Procrastinate's asks of its tables, and the rest."""

    def __init__(self, connector: _Connector, address: _Address) -> None:
        super().__init__(connector)
        self._pool_of = connector
        self._address = address
        self._patience = 30.0
        (self._channel,) = get_channel_for_queues(None)

    # What Procrastinate asks

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Take a job, if there is one, and the database answers. It is asked again soon."""
        try:
            return await super().fetch_job(queues, worker_id)
        except exceptions.ConnectorException as error:
            _log.debug("no job could be taken: %s", self._address.error(error.__cause__ or error))
            return None

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """Settle a job that ended, if it is still this worker's."""

        async def work(cursor: Cursor) -> None:
            if await self._lock(cursor, job, 0) is not None:
                await self._finish(cursor, job, status, delete_job=delete_job)

        await self._persist(job, work)

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Put a job back, if it is still this worker's."""
        seconds = 0.0 if retry_at is None else (retry_at - datetime.now(UTC)).total_seconds()
        await self.put_back(job, max(0.0, seconds))

    async def update_heartbeat(self, worker_id: int) -> None:
        """Nothing: a worker tells it itself, also while it stops; see `still_here`."""

    async def unregister_worker(self, worker_id: int) -> None:
        """Be no worker any more, if the database answers; else others find it out."""
        with contextlib.suppress(exceptions.ConnectorException):
            await super().unregister_worker(worker_id)

    # And the rest

    async def put_back(self, job: Job, seconds: float) -> None:
        """Let a job be done by whoever takes it, after some seconds; if it is still whose it was.

        One that was enqueued again meanwhile ends, and the other is done in its place.
        """

        async def work(cursor: Cursor) -> None:
            locked = await self._lock(cursor, job, seconds)
            if locked is None:
                return
            if locked["waits_again"]:
                await self._finish(cursor, job, Status.SUCCEEDED, delete_job=True)
                return
            values = {"job_id": job.id, "retry_at": locked["due"]}
            values |= dict.fromkeys(("new_priority", "new_queue_name", "new_lock"))
            await cursor.execute(queries["retry_job"], values)
            await self._wake(cursor, job)

        await self._persist(job, work)

    async def found(self, statement: str, **values: object) -> list[Found]:
        """What a statement of jobs.sql finds."""

        async def work(cursor: Cursor) -> list[Found]:
            await _execute(cursor, statement, **values)
            return await cursor.fetchall() if cursor.description else []

        return await self._within(work)

    async def _lock(self, cursor: Cursor, job: Job, seconds: float) -> Found | None:
        await _execute(
            cursor,
            "lock job",
            job_id=job.id,
            attempts=job.attempts,
            worker_id=job.worker_id,
            seconds=seconds,
        )
        return await cursor.fetchone()

    async def _finish(self, cursor: Cursor, job: Job, status: Status, *, delete_job: bool) -> None:
        values = {"job_id": job.id, "status": status.value, "delete_job": delete_job}
        await cursor.execute(queries["finish_job"], values)
        await self._wake(cursor, job)

    async def _wake(self, cursor: Cursor, job: Job) -> None:
        await _execute(cursor, "wake", job_id=job.id, lock=job.lock, channel=self._channel)

    async def _persist(self, job: Job, work: Callable[[Cursor], Awaitable[None]]) -> None:
        """Do it however often the connection is lost; after that, whoever looks for it does."""
        until = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                await self._within(work)
            except Exception as error:
                # Enqueued again between the look and the write: the next look sees it.
                passes = _may_pass(error) or isinstance(error, errors.UniqueViolation)
                if not passes or asyncio.get_running_loop().time() > until:
                    _log.warning("job %s is left: %s", job.id, self._address.error(error))
                    return
            else:
                return
            await asyncio.sleep(_PAUSE)

    async def _within(self, work: Callable[[Cursor], Awaitable[T]]) -> T:
        """Do work in a transaction."""
        async with (
            self._pool_of.pool.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return await work(cursor)


async def _execute(cursor: Cursor, statement: str, **values: object) -> None:
    await cursor.execute(_statements()[statement], values or None)


@functools.cache
def _statements() -> Mapping[str, bytes]:
    text = Path(__file__).with_name("jobs.sql").read_text("utf-8")
    blocks = (block.partition("\n") for block in text.split("\n-- ")[1:])
    return {name: statement.strip().encode() for name, _, statement in blocks}


# The tables


async def make_tables(ledger: PostgresLedger) -> str:
    """Make Procrastinate's tables beside a ledger's, or bring them up; returns their version.

    May be called by any number of processes, again and at once.
    """
    address = ledger._address
    connection = await address.connect()
    try:
        async with connection, connection.transaction():
            values = {"schema": address.schema}
            await connection.execute(address.statement("lock schema"), values)
            path = sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(address.schema))
            await connection.execute(path)
            version = await _version(connection, address)
            for statements in _missing(version, address):
                await connection.execute(statements.encode())
            fact = {"name": _FACT, "value": _newest()}
            await connection.execute(address.statement("set fact"), fact)
    except LedgerError:
        raise
    except Exception as error:  # whatever it is, it is told as the ledger's
        raise address.error(error) from None
    return _newest()


def _missing(version: str | None, address: _Address) -> list[str]:
    """What is to be said so that the tables are of the newest version."""
    if version is None:
        return [SchemaManager.get_schema()]
    if version > _newest():
        raise LedgerError(
            f"the tables for workers in {address} were made by a newer version of Procrastinate "
            f"({version}, known here is {_newest()}); update it"
        )
    return [path.read_text("utf-8") for path in _migrations() if path.stem > version]


async def _version(connection: AsyncConnection[Found], address: _Address) -> str | None:
    cursor = await connection.execute(address.statement("fact"), {"name": _FACT})
    found = await cursor.fetchone()
    return found["value"] if found else None


def _newest() -> str:
    return _migrations()[-1].stem


@functools.cache
def _migrations() -> Sequence[Path]:
    """Procrastinate's, whose names stand in the order in which they are made."""
    return sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))
