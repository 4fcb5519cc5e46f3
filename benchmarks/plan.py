"""What becomes of the usage plan over a cold and jittery connection, in real time (goal 2).

    python -m benchmarks plan

A local Amazon enforces 1 send a second with a burst of 5. The first connections to it are 300 ms
late, and every request 0 to 200 ms. Handed over at once are 30 sends and 300 (about 300 seconds);
and in bursts of 12 every 30 seconds, 1,200 sends, by five sellers with twenty bursts each, in which
all times are halved: the shorter they are, the less may the machine stand still. Beside
`MessagingSession` stand aiolimiter alone, as most would use it, 5 at 1/s, and the other clients
with 30 sends. All run at once, as all but wait, each client in a process of its own against a
bucket of its own. An ideal client lets 5 go at once, and then one a second.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import aiohttp
from aiolimiter import AsyncLimiter
from attrs import frozen

from benchmarks import peers
from benchmarks.child import Child, ChildFailed, answers
from benchmarks.table import Row, met
from sp_messaging_async import (
    CreateConfirmDeliveryDetailsRequest,
    Credentials,
    Endpoint,
    LocalThrottle,
    MessagingSession,
    PlanKey,
    UsagePlan,
)
from sp_messaging_async.sandbox import Sandbox

OPERATION = "createConfirmDeliveryDetails"
TEXT = "We deliver on Thursday between 9 and 12. Is somebody at home then?"
LATE, JITTER = 0.3, 0.2  # seconds
SHORTER = 2
WATCHED = 0.01  # seconds

LATEST = "≤ 1.05"  # seconds after the ideal

OURS, ALONE = "ours", "aiolimiter alone"
PEERS = {
    "amzn-sp-api": "it knows no plan and repeats nothing: a loop",
    "amzn-selling-partner": "all handed to its bucket at once; it repeats after a 429, twice",
    "python-amazon-sp-api": "its async client knows no plan: all handed to it at once",
    "python-amazon-sp-api, sync": "a loop with its throttle_retry, which is for this client only",
}
NOTE = "the other clients: " + "; ".join(f"{name}: {how}" for name, how in PEERS.items())


@frozen
class Scenario:
    """`times` bursts of `size` sends, every so many seconds, by each of `sellers`."""

    size: int
    times: int = 1
    every: float = 0.0
    shorter: float = 1.0
    sellers: int = 1

    @property
    def plan(self) -> UsagePlan:
        return UsagePlan(self.shorter, 5)

    @property
    def count(self) -> int:
        """Sends of a seller."""
        return self.size * self.times

    def __str__(self) -> str:
        if self.times == 1:
            return f"{self.count} sends at {self.plan.rate:g}/s"
        every = self.every * self.shorter
        return f"{self.count * self.sellers:,} in bursts of {self.size} every {every:g} s"

    def words(self) -> tuple[object, ...]:
        """What a client is told of it."""
        return (self.size,) if self.times == 1 else (self.size, self.times, self.every)

    def ideal(self) -> float:
        """Seconds until an ideal client lets the last one go."""
        bucket, now = self.plan.burst, 0.0
        for number in range(self.count):
            due = max(now, number // self.size * self.every)
            bucket = min(self.plan.burst, bucket + (due - now) * self.plan.rate)
            now = due + max(0.0, 1 - bucket) / self.plan.rate
            bucket = max(0.0, bucket - 1)
        return now


@frozen(kw_only=True)
class Result:
    """What became of a client in a scenario.

    refused: 429s, as the server counts them.
    last: seconds from the first release to the last, where they can be seen.
    late: seconds that the client's loop, and the server's, stood still at the most.
    """

    refused: int
    failed: int
    seconds: float
    last: float | None = None
    late: float | None = None
    server_late: float


SHORT, LONG = Scenario(30), Scenario(300)
BURSTS = Scenario(12, times=20, every=30 / SHORTER, shorter=SHORTER, sellers=5)
QUICK = Scenario(7)

Command = Callable[[str, str], list[str]]
Send = Callable[[str], Awaitable[None]]


# The server's side


@asynccontextmanager
async def amazon(scenario: Scenario) -> AsyncIterator[tuple[Sandbox, str]]:
    """A local Amazon that enforces the plan, and the address at which it is hard to reach."""
    async with Sandbox(plans={OPERATION: scenario.plan}) as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        async with await relay(port, scenario.shorter) as server:
            yield sandbox, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def relay(port: int, shorter: float) -> asyncio.Server:
    """A way to the port on which connections and requests are late."""
    chance = random.Random(1)
    connections = 0

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: bool) -> None:
        while data := await reader.read(65536):
            if late:
                await asyncio.sleep(chance.uniform(0, JITTER) / shorter)
            writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections <= 4:
            await asyncio.sleep(LATE / shorter)
        onward = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            carry(reader, onward[1], True), carry(onward[0], writer, False), return_exceptions=True
        )

    return await asyncio.start_server(connect, "127.0.0.1", 0)


async def played(scenario: Scenario, command: Command, start: asyncio.Barrier) -> Result | str:
    """What becomes of a scenario, or why it could not be played."""
    async with amazon(scenario) as (sandbox, url):
        with Child(command(url, sandbox.endpoint.token_url)) as child:
            try:
                await asyncio.to_thread(child.answer)
            except ChildFailed as error:
                await start.wait()
                return str(error)
            # Starting a client takes more of the machine than all that comes after it.
            await start.wait()
            try:
                async with Lateness() as late:
                    found = await asyncio.to_thread(child.ask, "plan", *scenario.words())
            except ChildFailed as error:
                return str(error)
        refused = sum(bucket.refused for bucket in sandbox.plans.buckets().values())
        return Result(refused=refused, server_late=late.most, **found)


class Lateness:
    """How long this event loop stood still, at the most: others use the machine too."""

    def __init__(self) -> None:
        self.most = 0.0

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            await asyncio.sleep(WATCHED)
            self.most = max(self.most, clock() - began - WATCHED)

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watching.cancel()


# The clients' side


class Measures:
    """What a child does: the messages of a scenario, by one of `CLIENTS`."""

    def __init__(self, client: str, api_url: str, token_url: str, rate: str) -> None:
        self._open = CLIENTS[client]
        self._endpoint = Endpoint(api_url, token_url)
        self._plan = UsagePlan(float(rate), 5)

    def plan(self, size: str, times: str = "1", every: str = "0") -> dict[str, float]:
        return asyncio.run(self._all(int(size), int(times), float(every)))

    async def _all(self, size: int, times: int, every: float) -> dict[str, float]:
        clock = asyncio.get_running_loop().time
        released: list[float] = []
        async with self._open(self._endpoint, self._plan, released) as send:
            began = clock()

            async def burst(number: int) -> list[BaseException | None]:
                await asyncio.sleep(began + number * every - clock())
                orders = (f"111-{number:07}-{each:07}" for each in range(size))
                return await asyncio.gather(*map(send, orders), return_exceptions=True)

            async with Lateness() as late:
                done = await asyncio.gather(*map(burst, range(times)))
            seconds = clock() - began
        failed = sum(isinstance(each, BaseException) for sent in done for each in sent)
        return {
            "failed": failed,
            "seconds": seconds,
            "last": max(released) - min(released),  # the login before is no part of the plan
            "late": late.most,
        }


class Noted(LocalThrottle):
    """A LocalThrottle that notes when calls were let go."""

    def __init__(self, plan: UsagePlan, released: list[float]) -> None:
        super().__init__({OPERATION: plan})
        self._released = released

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        await super().acquire(key, again=again)
        self._released.append(asyncio.get_running_loop().time())


@asynccontextmanager
async def session(
    endpoint: Endpoint, plan: UsagePlan, released: list[float]
) -> AsyncIterator[Send]:
    async with MessagingSession(
        Credentials("client", "secret", "refresh"),
        marketplace="US",
        endpoint=endpoint,
        throttle=Noted(plan, released),
    ) as messaging:

        async def send(order: str) -> None:
            request = CreateConfirmDeliveryDetailsRequest(text=TEXT)
            await messaging.create_confirm_delivery_details(order, request)

        yield send


@asynccontextmanager
async def aiolimiter_alone(
    endpoint: Endpoint, plan: UsagePlan, released: list[float]
) -> AsyncIterator[Send]:
    limiter = AsyncLimiter(plan.burst, plan.burst / plan.rate)
    form = {"grant_type": "refresh_token", "client_id": "client", "client_secret": "secret"}
    async with aiohttp.ClientSession() as http:
        async with http.post(endpoint.token_url, data={**form, "refresh_token": "r"}) as answer:
            headers = {"x-amz-access-token": (await answer.json())["access_token"]}

        async def send(order: str) -> None:
            url = f"{endpoint.api_url}/messaging/v1/orders/{order}/messages/confirmDeliveryDetails"
            query = {"marketplaceIds": "ATVPDKIKX0DER"}
            async with limiter:
                released.append(asyncio.get_running_loop().time())
            async with http.post(
                url, params=query, json={"text": TEXT}, headers=headers, raise_for_status=True
            ) as answer:
                await answer.read()

        yield send


CLIENTS = {OURS: session, ALONE: aiolimiter_alone}


# The table


Contestant = tuple[str, Scenario]


async def results(contestants: Sequence[Contestant]) -> dict[Contestant, Result | str]:
    """What became of every client in its scenario."""
    players = [each for each in contestants for _ in range(each[1].sellers)]
    threads = ThreadPoolExecutor(len(players))
    asyncio.get_running_loop().set_default_executor(threads)
    start = asyncio.Barrier(len(players))
    found = await asyncio.gather(
        *(played(scenario, _command(name, scenario), start) for name, scenario in players)
    )
    by_contestant: dict[Contestant, list[Result | str]] = {}
    for player, result in zip(players, found, strict=True):
        by_contestant.setdefault(player, []).append(result)
    return {contestant: _together(each) for contestant, each in by_contestant.items()}


def _together(found: list[Result | str]) -> Result | str:
    """The results of one client for all sellers as one."""
    results = [each for each in found if isinstance(each, Result)]
    if len(results) < len(found):
        return next(each for each in found if isinstance(each, str))
    return Result(
        refused=sum(each.refused for each in results),
        failed=sum(each.failed for each in results),
        seconds=max(each.seconds for each in results),
        last=_latest(each.last for each in results),
        late=_latest(each.late for each in results),
        server_late=max(each.server_late for each in results),
    )


def _latest(seconds: Iterable[float | None]) -> float | None:
    return max((each for each in seconds if each is not None), default=None)


def _command(name: str, scenario: Scenario) -> Command:
    if name in CLIENTS:
        words = [sys.executable, "-m", "benchmarks.plan", name]
        return lambda *addresses: [*words, *addresses, str(scenario.plan.rate)]
    return lambda *addresses: peers.command(name, *addresses, "throttled")


def rows(quick: bool = False) -> list[Row]:
    scenarios = [QUICK] if quick else [SHORT, LONG, BURSTS]
    contestants = [(name, each) for each in scenarios for name in (OURS, ALONE)]
    if not quick:
        peers.python()  # Installing is no part of what is measured.
        contestants += [(name, SHORT) for name in PEERS]
    found = asyncio.run(results(contestants))
    return [
        row
        for scenario in scenarios
        for row in _rows(
            scenario, {name: found[name, each] for name, each in found if each is scenario}
        )
    ]


def _rows(scenario: Scenario, found: dict[str, Result | str]) -> Iterator[Row]:
    ours = found.pop(OURS)
    assert isinstance(ours, Result), ours
    yield Row(
        goal=2,
        what=f"{scenario}: answers of 429",
        unit="x 429",
        ours=ours.refused,
        peers=_cells(found, lambda result: result.refused),
        goal_text="≤ 0",
        met=met("≤ 0", ours.refused),
        note=NOTE if scenario is SHORT else "",
    )
    yield Row(
        goal=2,
        what=f"{scenario}: messages that failed",
        unit="messages",
        ours=ours.failed,
        peers=_cells(found, lambda result: result.failed),
    )
    late = ours.last - scenario.ideal()
    yield Row(
        goal=2,
        what=f"{scenario}: last release after the ideal",
        unit="s",
        ours=late,
        peers=_cells(found, lambda result: result.last and result.last - scenario.ideal()),
        note=_stalls(ours, scenario),
        goal_text="" if scenario.times > 1 else LATEST,
        met=None if scenario.times > 1 else met(LATEST, late),
    )
    yield Row(
        goal=2,
        what=f"{scenario}: time to the end",
        unit="s",
        ours=ours.seconds,
        peers=_cells(found, lambda result: result.seconds),
    )


def _stalls(ours: Result, scenario: Scenario) -> str:
    found = [f"{seconds * 1000:.0f} ms" for seconds in (ours.late or 0.0, ours.server_late)]
    return (
        f"this machine let our loop stand still for up to {found[0]}, the server's for up to "
        f"{found[1]}; a token comes every {1000 / scenario.plan.rate:.0f} ms, and the session "
        "leaves one unused for such things"
    )


def _cells(
    found: dict[str, Result | str], value: Callable[[Result], float | None]
) -> dict[str, float | str]:
    cells = {name: each if isinstance(each, str) else value(each) for name, each in found.items()}
    return {name: cell for name, cell in cells.items() if cell is not None}


if __name__ == "__main__":
    name, *addresses, rate = sys.argv[1:]
    answers(lambda: Measures(name, *addresses, rate))
