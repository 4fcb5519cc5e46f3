"""Workers: processes that share campaigns, and are killed, stopped and cut off at their work."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from attrs import evolve, frozen

from sp_messaging_async import (
    ConfigurationError,
    CreateUnexpectedProblemRequest,
    Credentials,
    LedgerError,
    LocalThrottle,
    Marketplace,
    PostgresLedger,
    UsagePlan,
)
from sp_messaging_async.cluster import jobs
from sp_messaging_async.cluster.worker import Worker, credentials_of, enqueue, init, status
from sp_messaging_async.ledger import Planned
from sp_messaging_async.operations import OPERATIONS
from sp_messaging_async.sandbox import Sandbox

from .conftest import FAST
from .postgres import Postgres, Proxy, postgres, proxy_to
from .starter import Forked, Starter

__all__ = ["postgres"]  # a fixture

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

LEASE = 2.0  # seconds; a worker's jobs are taken over within half as much again
LATENCY = 0.02  # seconds
PATIENCE = 60.0  # seconds before what does not come is a failure

_log = logging.getLogger(__name__)
_databases = itertools.count(1)


@frozen
class Cluster:
    """A ledger in a database of its own, and the local Amazon that workers send to."""

    postgres: Postgres
    sandbox: Sandbox
    starter: Starter
    ledger: PostgresLedger
    name: str

    def dsn(self, port: int | None = None) -> str:
        """Where the ledger is."""
        return f"postgresql://postgres@127.0.0.1:{port or self.postgres.port}/{self.name}"

    async def enrol(self, messages: Mapping[str, int], campaign: str = "default") -> str:
        """Plan so many messages for each account; returns the run."""
        first = sum((await self.ledger.counts()).values())
        numbers = itertools.count(first)
        rows = [
            (line, message(next(numbers), account))
            for line, account in enumerate(
                account for account, number in messages.items() for _ in range(number)
            )
        ]
        async with self.ledger.enrolment(campaign, self.sandbox.endpoint.realm) as enrolment:
            await enrolment.stage(rows)
            return (await enrolment.merge(again=False)).run

    async def enqueue(self, messages: Mapping[str, int], campaign: str = "default") -> str:
        """The same, and share it out."""
        run = await self.enrol(messages, campaign)
        assert await enqueue(self.ledger, run, marketplace="US") == len(messages)
        return run

    def worker(
        self, *options: str, port: int | None = None, plan: tuple[float, float] | None = None
    ) -> AbstractAsyncContextManager[Forked]:
        """A process that works."""
        words = ("worker", "--ledger", self.dsn(port), "--takeover", str(LEASE))
        words += ("--credentials", "tests.workers:credentials", *options)
        return self.starter.process(*words, variables=self.environment(plan))

    async def command(self, *words: str) -> tuple[int, str]:
        """The exit status of a command about the ledger, and what it printed."""
        words = (*words, "--ledger", self.dsn())
        async with self.starter.process(*words, variables=self.environment()) as process:
            return await end_of(process)

    def environment(self, plan: tuple[float, float] | None = None) -> dict[str, str]:
        """A process's."""
        plans = {"PLAN": json.dumps(plan)} if plan else {}
        return {**os.environ, **self.sandbox.environment(), **plans, "COLUMNS": "200"}

    def of(self, statement: str) -> list[Any]:
        """What a statement finds in the ledger's tables."""
        import psycopg

        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute("SET search_path TO sp_messaging")
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def delivered(self) -> Counter[tuple[str, str]]:
        """How often each order and operation reached its buyer."""
        return Counter((each.amazon_order_id, each.operation) for each in self.sandbox.delivered)

    async def delivers(self, number: int) -> None:
        """Return when so many messages have reached their buyers."""
        await until(lambda: len(self.sandbox.delivered) >= number)

    async def is_drained(self) -> None:
        """Return when no job is left, nor a message to be sent."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(LedgerError):
                    found = await status(self.ledger)
                    planned = sum(each.counts.get("planned", 0) for each in found.campaigns)
                    if not (found.waiting or found.running or planned):
                        return
                await asyncio.sleep(0.05)

    async def in_flight(self) -> int:
        """How many exchanges may be going on, those of a process included that just ended."""
        await asyncio.sleep(0.1)  # what it has told the database has arrived by now
        (found,) = self.of("SELECT count(*) FROM messages WHERE status = 'sending'")
        return int(found[0])

    async def rows(self) -> dict[tuple[str, str], str]:
        """The status of each order and operation, long after its sender has ended."""
        self.of("UPDATE messages SET deadline = now() - interval '1 ms' WHERE status = 'sending'")
        return {
            (row.amazon_order_id, row.operation): row.status
            for row in await self.ledger.rows(limit=10_000)
        }


def message(number: int, account: str) -> Planned:
    request = CreateUnexpectedProblemRequest(text=f"A problem with number {number}.")
    return Planned(f"111-2222222-{number:07}", request, account)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not is_so():
            await asyncio.sleep(0.01)


async def end_of(process: Forked) -> tuple[int, str]:
    """The exit status of a process, and what it printed."""
    output = (await process.communicate()).decode()
    assert process.returncode is not None
    assert "Traceback" not in output, output
    assert "canary" not in output, output
    return process.returncode, output


async def stopped(process: Forked) -> str:
    """What a process printed that is stopped as it should be."""
    process.send_signal(signal.SIGTERM)
    exit_status, output = await end_of(process)
    assert exit_status == 0, output
    return output


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    """What starts the processes."""
    with Starter("tests.workers") as starter:
        yield starter


@asynccontextmanager
async def a_cluster(
    postgres: Postgres, starter: Starter, plans: Mapping[str, UsagePlan]
) -> AsyncIterator[Cluster]:
    name = f"worker_{next(_databases)}"
    postgres.execute(f"CREATE DATABASE {name}")
    dsn = f"postgresql://postgres@127.0.0.1:{postgres.port}/{name}"
    await init(dsn)
    async with Sandbox(plans=plans) as sandbox, PostgresLedger(dsn, lease=LEASE) as ledger:
        answer = sandbox.messaging._answer

        async def late(*args: Any) -> Any:
            await asyncio.sleep(LATENCY)
            return await answer(*args)

        sandbox.messaging._answer = late  # type: ignore[method-assign]
        yield Cluster(postgres, sandbox, starter, ledger, name)


@pytest.fixture
async def cluster(postgres: Postgres, starter: Starter) -> AsyncIterator[Cluster]:
    """A ledger that has tables and nothing in them, and an Amazon whose plans do not wait."""
    async with a_cluster(postgres, starter, FAST) as opened:
        yield opened


# All at once


SELLERS, EACH = 20, 100
SCALED = (25.0, 10.0)  # a second, and a burst


async def a_round(cluster: Cluster, chance: random.Random) -> int:
    """A campaign on three workers, with all that may go wrong; returns how many are unknown."""
    await cluster.enqueue({f"seller-{number}": EACH for number in range(SELLERS)})
    async with contextlib.AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(cluster.worker("--concurrency", "8", plan=SCALED))
            for _ in range(3)
        ]
        asleep, killed, _ = workers
        await cluster.delivers(chance.randrange(100, 500))
        asleep.send_signal(signal.SIGSTOP)
        slept = asyncio.get_running_loop().time()
        in_flight = await cluster.in_flight()
        await cluster.delivers(len(cluster.sandbox.delivered) + chance.randrange(50, 300))
        killed.kill()
        in_flight += await cluster.in_flight()
        await cluster.delivers(len(cluster.sandbox.delivered) + chance.randrange(50, 200))
        await asyncio.to_thread(restart, cluster.postgres, chance.choice(["immediate", "fast"]))
        in_flight += await cluster.in_flight()
        # Longer than the takeover.
        await asyncio.sleep(slept + 1.5 * LEASE + 0.5 - asyncio.get_running_loop().time())
        asleep.send_signal(signal.SIGCONT)
        await cluster.is_drained()
        for process in (asleep, workers[2]):
            await stopped(process)
    rows, delivered = await cluster.rows(), cluster.delivered()
    assert len(rows) == SELLERS * EACH
    assert set(delivered.values()) == {1}, "somebody was messaged twice"
    counts = Counter(rows.values())
    assert counts.keys() <= {"sent", "unknown"}, counts
    assert {pair for pair, found in rows.items() if found == "sent"} <= delivered.keys()
    named = {row.amazon_order_id for row in await cluster.ledger.rows(status="unknown")}
    assert len(named) == counts["unknown"] <= in_flight
    return counts["unknown"]


def restart(postgres: Postgres, how: str) -> None:
    postgres.stop(how)
    postgres.start()


async def test_a_round(postgres: Postgres, starter: Starter) -> None:
    """However workers and the database fail, nobody is messaged twice and nothing is lost."""
    plans = dict.fromkeys(OPERATIONS, UsagePlan(*SCALED))
    async with a_cluster(postgres, starter, plans) as cluster:
        await a_round(cluster, random.Random(7))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
async def test_many_rounds(postgres: Postgres, starter: Starter, seed: int) -> None:
    """Nor is anybody, or anything, at other moments."""
    plans = dict.fromkeys(OPERATIONS, UsagePlan(*SCALED))
    async with a_cluster(postgres, starter, plans) as cluster:
        unknown = await a_round(cluster, random.Random(seed))
        _log.info("round %d: %d unknown", seed, unknown)


# One at a time


SLOW = (10.0, 2.0)  # a second, and a burst


async def test_a_clean_stop(cluster: Cluster) -> None:
    """What is in flight ends, no message becomes unknown, and another worker goes on at once."""
    await cluster.enqueue({"a": 30, "b": 30})
    async with cluster.worker(plan=SLOW) as first:
        await cluster.delivers(6)
        await stopped(first)
    found = await status(cluster.ledger)
    assert (found.workers, found.running, found.waiting) == (0, 0, 2)
    assert (await cluster.ledger.counts()).keys() == {"sent", "planned"}
    async with cluster.worker() as second:
        await cluster.is_drained()
        await stopped(second)
    assert await cluster.ledger.counts() == {"sent": 60}
    assert set(cluster.delivered().values()) == {1}


@asynccontextmanager
async def at_work(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, plan: UsagePlan | None = None, **options: Any
) -> AsyncIterator[Worker]:
    """A worker in this process."""
    for name, value in cluster.sandbox.environment().items():
        monkeypatch.setenv(name, value)

    async def credentials(account: str) -> Credentials:
        return Credentials("client", "secret", f"token-{account}", account)

    throttle = LocalThrottle(dict.fromkeys(OPERATIONS, plan)) if plan else LocalThrottle(FAST)
    async with PostgresLedger(cluster.dsn(), lease=LEASE) as ledger:
        options = {"credentials": credentials, "throttle": throttle, **options}
        worker = Worker(ledger, **options)
        working = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            await asyncio.wait_for(working, PATIENCE)


async def test_one_worker_serves_a_seller(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two campaigns of one seller are sent one after the other, whoever is idle meanwhile."""
    await cluster.enqueue({"a": 20}, "first")
    await cluster.enqueue({"a": 20}, "second")
    plan, most = UsagePlan(40, 3), 0
    async with (
        at_work(cluster, monkeypatch, plan) as one,
        at_work(cluster, monkeypatch, plan) as other,
    ):
        async with asyncio.timeout(PATIENCE):
            while len(cluster.sandbox.delivered) < 40:
                most = max(most, one.health.jobs + other.health.jobs)
                await asyncio.sleep(0.001)
        await cluster.is_drained()
    assert most == 1
    campaigns = [row.campaign for row in await cluster.ledger.rows()]
    by_order = {row.amazon_order_id: row.campaign for row in await cluster.ledger.rows()}
    sent = [by_order[each.amazon_order_id] for each in cluster.sandbox.delivered]
    assert sent == sorted(campaigns)


async def test_enqueued_twice(cluster: Cluster) -> None:
    """It changes nothing, also while it is sent; a job that is put back then is no obstacle."""
    run = await cluster.enqueue({"a": 40, "b": 40})
    assert await enqueue(cluster.ledger, run, marketplace="US") == 0
    async with cluster.worker(plan=SLOW) as first:
        await cluster.delivers(4)
        await until(lambda: cluster.of(DOING) == [(2,)])
        assert await enqueue(cluster.ledger, run, marketplace="US") == 2
        await stopped(first)
    found = await status(cluster.ledger)
    assert (found.running, found.waiting) == (0, 2)
    async with cluster.worker() as second:
        await cluster.is_drained()
        await stopped(second)
    assert await cluster.ledger.counts() == {"sent": 80}


DOING = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing'"


async def test_missing_credentials(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """They end that job with the reason, its messages stay planned, and it can be tried again."""
    run = await cluster.enqueue({"nobody": 3, "a": 3})
    async with cluster.worker() as process:
        await cluster.delivers(3)
        await until(lambda: cluster.of(DOING) == [(0,)])
        output = await stopped(process)
    assert "account nobody in region NA is left" in output
    assert "no credentials for account 'nobody'" in output
    assert await cluster.ledger.counts() == {"sent": 3, "planned": 3}
    found = await status(cluster.ledger)
    assert (found.waiting, found.failed) == (0, 1)
    assert found.some_failed == [("nobody", "na", "default")]
    assert await enqueue(cluster.ledger, run, marketplace="US") == 1
    async with at_work(cluster, monkeypatch):
        await cluster.is_drained()
    assert await cluster.ledger.counts() == {"sent": 6}
    assert (await status(cluster.ledger)).failed == 0


async def test_another_endpoint(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is led to another Amazon than the ledger is of sends nothing."""
    await cluster.enqueue({"a": 3})
    async with Sandbox(plans=FAST) as other:
        async with at_work(evolve(cluster, sandbox=other), monkeypatch):
            await until(lambda: cluster.of(FAILED) == [(1,)])
        assert not other.delivered
    assert await cluster.ledger.counts() == {"planned": 3}


FAILED = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'failed'"


async def test_cut_off_from_the_database(cluster: Cluster, postgres: Postgres) -> None:
    """A worker writes nothing of which the intent is not committed, and others take over."""
    await cluster.enqueue({"a": 200, "b": 200})
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxy_to(postgres.port))
        working = cluster.worker(port=proxy.port, plan=(50, 5))
        first = await stack.enter_async_context(working)
        await cluster.delivers(40)
        cut(proxy)
        async with cluster.worker(plan=(200, 20)) as second:
            await cluster.delivers(200)  # so somebody else does
            delivered = set(cluster.delivered())  # each of which was intended before
            planned = await cluster.ledger.rows(status="planned")
            assert not delivered & {(row.amazon_order_id, row.operation) for row in planned}
            await cluster.is_drained()
            await stopped(second)
        proxy.refuses = False
        await stopped(first)
    rows = await cluster.rows()
    assert set(Counter(rows.values())) <= {"sent", "unknown"}
    assert set(cluster.delivered().values()) == {1}


def cut(proxy: Proxy) -> None:
    proxy.refuses = True
    proxy.drop()


async def test_a_job_that_was_taken_unheard(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose taking was committed and never heard of is done all the same."""
    await cluster.enqueue({"a": 3})
    fetch, is_lost = jobs.Jobs.fetch_job, False

    async def unheard(self: jobs.Jobs, queues: Any, worker_id: int) -> Any:
        nonlocal is_lost
        job = await fetch(self, queues, worker_id)
        if job is not None and not is_lost:
            is_lost, job = True, None
        return job

    monkeypatch.setattr(jobs.Jobs, "fetch_job", unheard)
    async with at_work(cluster, monkeypatch):
        await cluster.is_drained()
    assert is_lost
    assert await cluster.ledger.counts() == {"sent": 3}


async def test_health(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is ready while the database hears of it, and alive until it ends."""
    await cluster.enqueue({"a": 3})
    async with proxy_to(cluster.postgres.port) as proxy:
        monkeypatch.setattr(Cluster, "dsn", lambda self, port=0: dsn_at(self, proxy.port))
        async with (
            at_work(cluster, monkeypatch, health_port=0) as worker,
            aiohttp.ClientSession() as http,
        ):
            await cluster.delivers(3)
            await until(lambda: worker.health.outcomes["sent"] == 3)
            await until(lambda: worker.health.state == "serving")
            answer = await ask(http, worker, "ready")
            assert answer.pop("last_heartbeat")
            counts = {"sent": 3, "unknown": 0, "rejected": 0, "skipped": 0}
            assert answer.pop("jobs") in (0, 1)
            assert answer == {"status": 200, "state": "serving", **counts}
            cut(proxy)
            await until(lambda: worker.health.state == "cut off")
            assert (await ask(http, worker, "ready"))["status"] == 503
            assert (await ask(http, worker, "live"))["status"] == 200
            proxy.refuses = False
            await until(lambda: worker.health.state == "serving")


def dsn_at(cluster: Cluster, port: int) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/{cluster.name}"


async def ask(http: aiohttp.ClientSession, worker: Worker, path: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{worker.health_port}/{path}"
    async with http.get(url) as response:
        return {"status": response.status, **await response.json()}


# The commands


async def test_init_at_once_and_again(cluster: Cluster) -> None:
    """The tables are made once, by however many at once; what is in them stays."""
    cluster.of("DROP SCHEMA sp_messaging CASCADE")
    versions = await asyncio.gather(*(init(cluster.dsn()) for _ in range(4)))
    assert len(set(versions)) == 1
    await cluster.enqueue({"a": 1})
    exit_status, output = await cluster.command("cluster", "init")
    assert exit_status == 0, output
    assert "ready" in output
    assert (await status(cluster.ledger)).waiting == 1


async def test_without_tables(cluster: Cluster) -> None:
    """A worker without its tables says how to make them."""
    cluster.of("DELETE FROM facts WHERE name = 'procrastinate'")
    async with cluster.worker() as process:
        exit_status, output = await end_of(process)
    assert exit_status == 2
    assert "cluster init" in output


async def test_status(cluster: Cluster) -> None:
    """It shows campaigns with their counts, what is left by the plans, workers and jobs."""
    await cluster.enqueue({"a": 60}, "gifts")
    async with cluster.worker(plan=SLOW) as process:
        await cluster.delivers(5)
        await until(lambda: cluster.of(DOING) == [(1,)])
        exit_status, output = await cluster.command("cluster", "status")
        await stopped(process)
    assert exit_status == 0, output
    assert "gifts" in output
    assert "time left by plans" in output
    assert "1 worker alive; 1 job running, 0 waiting, 0 failed" in output


async def test_the_missing_extra(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names what to install."""
    monkeypatch.setitem(sys.modules, "sp_messaging_async.cluster.jobs", None)
    monkeypatch.delattr("sp_messaging_async.cluster.jobs", raising=False)
    with pytest.raises(ConfigurationError, match=r"sp-messaging-async\[postgres\]"):
        await init(cluster.dsn())


async def test_credentials_that_cannot_be_found() -> None:
    """A file or function that is not there is told at once."""
    for source in ("nowhere.toml", "nowhere.at.all:credentials", "json:nothing"):
        with pytest.raises(ConfigurationError, match=source.partition(":")[0]):
            credentials_of(source)


async def test_a_marketplace_that_is_needed(cluster: Cluster) -> None:
    """Nothing is enqueued where nobody knows in which region the orders are."""
    run = await cluster.enrol({"a": 1})
    with pytest.raises(ConfigurationError, match="marketplace"):
        await enqueue(cluster.ledger, run)
    assert await enqueue(cluster.ledger, run, marketplace=Marketplace.DE) == 1
