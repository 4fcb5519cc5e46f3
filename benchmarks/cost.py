"""CPU of one send through the whole pipeline, beside bare aiohttp and the other clients (goal 1).

    python -m benchmarks cost

Counted is the CPU time of the client's process alone; the responder has another one. In turn, round
by round, and with 50 sends in flight and with one: bare aiohttp (`session.post(url, params=…,
json=…)`, and the answer read), `MessagingSession`, a protocol of asyncio's that writes prepared
bytes and looks for the answer's end, which is the floor; the first two on uvloop; every third
round, the other clients. Before each round come some sends that are not counted.

Clients have one core and the responder has another, where the system can do that. A send to a
process on a core that sleeps costs the sender more than one to a core at work, so that a machine on
which nothing else runs shows higher numbers, and more of a gain by uvloop.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import aiohttp

from benchmarks import cpu, peers
from benchmarks.child import Child, ChildFailed, answers
from benchmarks.responder import responder
from benchmarks.table import Row, median_ratio, met
from sp_messaging_async import (
    CreateConfirmDeliveryDetailsRequest,
    Credentials,
    Endpoint,
    LocalThrottle,
    MessagingSession,
    UsagePlan,
)

TEXT = "We deliver on Thursday between 9 and 12. Is somebody at home then?"
PATH = "/messaging/v1/orders/{}/messages/confirmDeliveryDetails"
US = "ATVPDKIKX0DER"
NO_LIMIT = UsagePlan(1e9, 1e9)

ROUNDS, SENDS = 9, 1_250
PEER_ROUNDS, PEER_SENDS = 3, 250
IN_FLIGHT = (50, 1)

NOTE = (
    "the other clients are given the same orders and texts, a fixed token and no plan to keep to; "
    + "; ".join(f"{name}: {how}" for name, how in peers.VARIANTS.items())
)


def order(number: int) -> str:
    return f"111-2222222-{number:07}"


class RawConnection(asyncio.Protocol):
    """One request after the other, from prepared bytes, to the responder's fixed answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._received = b""

    def post(self, request: bytes) -> asyncio.Future[None]:
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(b"\r\n\r\n{}"):
            self._received = b""
            self._answered.set_result(None)


class Measures:
    """What a child measures: in one process and on one loop, so that only the client differs."""

    def __init__(self, url: str, on_uvloop: bool) -> None:
        self._url = url
        self._runner = asyncio.Runner(loop_factory=_uvloop() if on_uvloop else None)
        self._runner.run(self._open())

    async def _open(self) -> None:
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._session = MessagingSession(
            Credentials("client", "secret", "refresh"),
            marketplace="US",
            endpoint=Endpoint(self._url, f"{self._url}/auth/o2/token"),
            throttle=LocalThrottle({"createConfirmDeliveryDetails": NO_LIMIT}),
        )
        address = urlsplit(self._url)
        body = f'{{"text": "{TEXT}"}}'
        self._head = f"POST {PATH}?marketplaceIds={US} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        self._rest = (
            "x-amz-access-token: token\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        self._idle: list[RawConnection] = []
        for _ in range(max(IN_FLIGHT)):
            _, connection = await asyncio.get_running_loop().create_connection(
                RawConnection, address.hostname, address.port
            )
            self._idle.append(connection)

    async def _bare(self, number: int) -> None:
        async with self._http.post(
            self._url + PATH.format(order(number)),
            params={"marketplaceIds": US},
            json={"text": TEXT},
            headers={"x-amz-access-token": "token"},
        ) as answer:
            await answer.read()

    async def _ours(self, number: int) -> None:
        request = CreateConfirmDeliveryDetailsRequest(text=TEXT)
        await self._session.create_confirm_delivery_details(order(number), request)

    async def _raw(self, number: int) -> None:
        connection = self._idle.pop()
        await connection.post((self._head.format(order(number)) + self._rest).encode())
        self._idle.append(connection)

    def bare(self, count: str, in_flight: str) -> float:
        return self._runner.run(cpu.of_tasks(self._bare, int(count), int(in_flight)))

    def ours(self, count: str, in_flight: str) -> float:
        return self._runner.run(cpu.of_tasks(self._ours, int(count), int(in_flight)))

    def raw(self, count: str, in_flight: str) -> float:
        return self._runner.run(cpu.of_tasks(self._raw, int(count), int(in_flight)))


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


class Rounds:
    """Every round's value, by whose it is and how many were in flight."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, int], list[float]] = {}
        self.failed: dict[str, str] = {}

    def measure(self, name: str, child: Child, measure: str, count: int) -> None:
        """A round of one client."""
        for in_flight in IN_FLIGHT:
            value = child.ask(measure, count, in_flight)
            self._values.setdefault((name, in_flight), []).append(value)

    def measure_other(self, name: str, child: Child) -> None:
        """A round of another client, unless it failed before."""
        if name not in self.failed:
            try:
                self.measure(name, child, "cost", PEER_SENDS)
            except ChildFailed as error:
                self.failed[name] = str(error)

    def of(self, name: str, in_flight: int) -> list[float]:
        return self._values[name, in_flight]

    def median(self, name: str, in_flight: int) -> float:
        return statistics.median(self.of(name, in_flight))

    def with_in_flight(self, in_flight: int) -> dict[str, list[float]]:
        return {name: kept for (name, among), kept in self._values.items() if among == in_flight}


def measured(quick: bool) -> Rounds:
    found = Rounds()
    rounds, sends = (1, 100) if quick else (ROUNDS, SENDS)
    with ExitStack() as stack:
        with on_core(-1):
            url = stack.enter_context(responder())
        stack.enter_context(on_core(0))
        children = {}
        for loop in ("asyncio", "uvloop") if _uvloop() else ("asyncio",):
            child = Child([sys.executable, "-m", "benchmarks.cost", loop, url])
            children[loop] = stack.enter_context(child)
            child.answer()
        others = {} if quick else _others(url, stack, found)
        for number in range(rounds):
            found.measure("bare", children["asyncio"], "bare", sends)
            found.measure("ours", children["asyncio"], "ours", sends)
            found.measure("raw protocol", children["asyncio"], "raw", sends)
            if "uvloop" in children:
                found.measure("bare on uvloop", children["uvloop"], "bare", sends)
                found.measure("ours on uvloop", children["uvloop"], "ours", sends)
            if number % (ROUNDS // PEER_ROUNDS) == 0:
                for name, child in others.items():
                    found.measure_other(name, child)
    return found


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """Processes that are begun meanwhile stay on one core, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _others(url: str, stack: ExitStack, found: Rounds) -> dict[str, Child]:
    """The other clients, each in a process of its own; those that do not start are noted."""
    others = {}
    for name in peers.VARIANTS:
        child = stack.enter_context(Child(peers.command(name, url, f"{url}/auth/o2/token")))
        try:
            child.answer()
        except ChildFailed as error:
            found.failed[name] = str(error)
        others[name] = child
    return others


def rows(quick: bool = False) -> list[Row]:
    found = measured(quick)
    return [row for in_flight in IN_FLIGHT for row in _rows(found, in_flight)]


def _rows(found: Rounds, in_flight: int) -> Iterator[Row]:
    of = found.with_in_flight(in_flight)
    others: dict[str, float | str] = {
        name: found.failed.get(name) or found.median(name, in_flight)
        for name in ("raw protocol", *peers.VARIANTS)
        if name in of or name in found.failed  # none of the other clients if it is to be quick
    }
    ratio = median_ratio(of["ours"], of["bare"])
    note = ""
    if in_flight == IN_FLIGHT[0] and (leaking := of.get("amzn-sp-api, leaking")):
        note = (
            f"{NOTE}, from {leaking[0]:.0f} µs in its first round to {leaking[-1]:.0f} in its last"
        )
    yield Row(
        goal=1,
        what=f"send, {in_flight} in flight",
        unit="µs CPU",
        ours=found.median("ours", in_flight),
        bare=found.median("bare", in_flight),
        peers=others,
        ratio=ratio,
        goal_text="≤ 0.95",
        met=met("≤ 0.95", ratio),
        note=note,
        rounds=of,
    )
    if "ours on uvloop" in of:
        ratio = median_ratio(of["ours on uvloop"], of["bare"])
        same_loop = median_ratio(of["ours on uvloop"], of["bare on uvloop"])
        yield Row(
            goal=1,
            what=f"send, {in_flight} in flight, ours on uvloop",
            unit="µs CPU",
            ours=found.median("ours on uvloop", in_flight),
            bare=found.median("bare", in_flight),
            ratio=ratio,
            goal_text="≤ 0.75",
            met=met("≤ 0.75", ratio),
            note=f"bare aiohttp is on asyncio here; on uvloop it takes "
            f"{found.median('bare on uvloop', in_flight):.0f} µs, the ratio to that is "
            f"{same_loop:.2f}",
        )


if __name__ == "__main__":
    loop, url = sys.argv[1:]
    answers(lambda: Measures(url, on_uvloop=loop == "uvloop"))
