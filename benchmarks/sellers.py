"""Many sellers in one process: what their sessions cost, and whether each gets its whole plan.

    python -m benchmarks sellers

Ten thousand sessions on one shared `aiohttp.ClientSession` are made, and then each sends a message;
beside them, as many bare ClientSessions are made. Kilobytes are the growth of the process's
resident memory; the credentials are the caller's, and made before.

Then five thousand sellers, each with a token and so a bucket of its own, send one message after
another to a server that enforces every bucket. They come in one by one and spend their bursts;
counted are the seconds after that, against one message a second for each of them. Beside them, as
many tasks post through bare aiohttp and sleep for the rest of their second. All is on uvloop.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable

import aiohttp
import uvloop

from benchmarks import peers
from benchmarks.alone import alone, resident, run_one
from benchmarks.enforcing import counts, enforcing
from benchmarks.table import Row, median_ratio, met
from sp_messaging_async import (
    CreateUnexpectedProblemRequest,
    Credentials,
    Endpoint,
    MessagingSession,
)

ORDER, TEXT = "111-2222222-3333333", "Sold out."
PATH = f"/messaging/v1/orders/{ORDER}/messages/unexpectedProblem"
AT_ONCE = 100  # sessions that send their first message at the same time
COMING_IN = 0.002  # seconds from one seller to the next

PEER = "python-amazon-sp-api"
PEERS_CLIENTS = """
import json, time
from sp_api.api import Messaging
from sp_api.base import Marketplaces

def client(number):
    keys = {"refresh_token": f"seller-{number}", "lwa_app_id": "a", "lwa_client_secret": "b"}
    return Messaging(marketplace=Marketplaces.US, credentials=keys)

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if "VmRSS" in line)

kept = [client(0)]
before, began = resident(), time.perf_counter()
kept += map(client, range(50))
print(json.dumps([(resident() - before) / 50, (time.perf_counter() - began) / 50]))
"""


def rows(quick: bool = False) -> list[Row]:
    of_sessions = _of_sessions(*((1, 100) if quick else (3, 10_000)))
    return of_sessions + _of_plans(*((50, 1, 1) if quick else (5_000, 10, 20)))


def _of_sessions(rounds: int, count: int) -> list[Row]:
    ours, bare = [], []
    with enforcing() as url:
        for _ in range(rounds):
            bare.append(alone(__name__, "bare_made", count))
            ours.append(alone(__name__, "made", url, count))
    size, taken, used = (list(each) for each in zip(*ours, strict=True))
    bare_size, bare_taken = (list(each) for each in zip(*bare, strict=True))
    peer_size, peer_taken = _peers_clients()
    size_goal, time_goal = "≤ 6 kB", "≤ 2"
    note = f"{count:,} on one shared ClientSession; 50 of {PEER}'s clients"
    return [
        Row(
            goal=4,
            what="an idle session",
            unit="kB",
            ours=statistics.median(size),
            bare=statistics.median(bare_size),
            peers={PEER: peer_size},
            goal_text=size_goal,
            met=met(size_goal, statistics.median(size)),
            note=note,
            rounds={"ours": size, "bare": bare_size},
        ),
        Row(
            goal=4,
            what="an idle session that has sent a message",
            unit="kB",
            ours=statistics.median(used),
            goal_text=size_goal,
            met=met(size_goal, statistics.median(used)),
            note="its access token and its usage plan's bucket are in it",
            rounds={"ours": used},
        ),
        Row(
            goal=4,
            what="making a session",
            unit="µs",
            ours=statistics.median(taken),
            bare=statistics.median(bare_taken),
            peers={PEER: peer_taken},
            ratio=median_ratio(taken, bare_taken),
            goal_text=time_goal,
            met=met(time_goal, median_ratio(taken, bare_taken)),
            note=note,
            rounds={"ours": taken, "bare": bare_taken},
        ),
    ]


def _of_plans(count: int, warming: int, seconds: int) -> list[Row]:
    found = {}
    for whose in ("bare_paced", "kept_to_plan"):
        with enforcing() as url:
            found[whose] = alone(__name__, whose, url, count, warming, seconds)
    rate, share, refused = found["kept_to_plan"]
    bare_rate, bare_share, _ = found["bare_paced"]
    cost, bare_cost = share / rate * 1e6, bare_share / bare_rate * 1e6
    plan_goal, refused_goal = f"≥ {0.95 * count:,.0f}", "≤ 0"
    return [
        Row(
            goal=4,
            what=f"{count:,} sellers at 1/s each on one core",
            unit="messages/s",
            ours=rate,
            bare=bare_rate,
            ratio=rate / bare_rate,
            goal_text=plan_goal,
            met=met(plan_goal, rate),
            note=f"counted for {seconds} s after the bursts; bare aiohttp keeps to no plan, its "
            f"tasks sleep; of its core, ours used {share:.0%}, bare {bare_share:.0%}",
        ),
        Row(
            goal=4,
            what=f"{count:,} sellers at 1/s each: answers of 429",
            unit="",
            ours=refused,
            goal_text=refused_goal,
            met=met(refused_goal, refused),
            note="from the first message on, the bursts included",
        ),
        Row(
            goal=0,
            what=f"{count:,} sellers at 1/s each: CPU of a message",
            unit="µs",
            ours=cost,
            bare=bare_cost,
            ratio=cost / bare_cost,
        ),
    ]


def _peers_clients() -> tuple[float, float]:
    """Kilobytes of one client, and microseconds that it takes to make."""
    command = [str(peers.python()), "-c", PEERS_CLIENTS]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    kilobytes, seconds = json.loads(done.stdout)
    return kilobytes, 1e6 * seconds


# The measures, each in a process of its own


async def made(url: str, count: int) -> tuple[float, ...]:
    """Kilobytes of a session, microseconds of its making, kilobytes when it has sent a message."""
    sellers = credentials(count)
    async with shared_http() as http:
        await send_once(session(url, sellers[0], http))  # brings in what all share
        gc.collect()
        before, began = resident(), time.perf_counter()
        sessions = [session(url, seller, http) for seller in sellers]
        seconds, idle = time.perf_counter() - began, resident()
        for first in range(0, count, AT_ONCE):
            await asyncio.gather(*map(send_once, sessions[first : first + AT_ONCE]))
        gc.collect()
        used = resident()
    return 1024 * (idle - before) / count, 1e6 * seconds / count, 1024 * (used - before) / count


async def bare_made(count: int) -> tuple[float, ...]:
    """Kilobytes of a bare ClientSession, and microseconds of its making."""
    async with aiohttp.ClientSession():
        gc.collect()
    before, began = resident(), time.perf_counter()
    sessions = [aiohttp.ClientSession() for _ in range(count)]
    seconds, idle = time.perf_counter() - began, resident()
    for each in sessions:
        await each.close()
    return 1024 * (idle - before) / count, 1e6 * seconds / count


async def kept_to_plan(url: str, count: int, *seconds: int) -> tuple[float, ...]:
    async with shared_http() as http:
        sessions = [session(url, seller, http) for seller in credentials(count)]

        async def send_on(number: int, over: asyncio.Event) -> None:
            while not over.is_set():
                await send_once(sessions[number])

        return await counted(url, send_on, count, *seconds)


async def bare_paced(url: str, count: int, *seconds: int) -> tuple[float, ...]:
    async with shared_http() as http:

        async def post_on(number: int, over: asyncio.Event) -> None:
            clock = asyncio.get_running_loop().time
            due = clock()
            query, body = {"marketplaceIds": "ATVPDKIKX0DER"}, {"text": TEXT}
            headers = {"x-amz-access-token": f"seller-{number}"}
            while not over.is_set():
                async with http.post(
                    url + PATH, params=query, json=body, headers=headers
                ) as answer:
                    await answer.read()
                due = max(due + 1, clock())
                await asyncio.sleep(due - clock())

        return await counted(url, post_on, count, *seconds)


async def counted(
    url: str,
    work: Callable[[int, asyncio.Event], Awaitable[None]],
    count: int,
    warming: int,
    seconds: int,
) -> tuple[float, ...]:
    """Messages a second while they are counted, the share of a core, and all answers of 429.

    warming: seconds from the last seller's coming until they are counted.
    """
    over = asyncio.Event()
    working = []
    first = time.perf_counter()
    for number in range(count):
        working.append(asyncio.ensure_future(work(number, over)))
        # By the clock: one for each turn of a loop that is busy would take minutes.
        if (early := first + number * COMING_IN - time.perf_counter()) > 0:
            await asyncio.sleep(early)
    await asyncio.sleep(warming)
    before, _ = await asyncio.to_thread(counts, url)
    began, busy = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    after, refused = await asyncio.to_thread(counts, url)
    took, busy = time.perf_counter() - began, time.process_time() - busy
    over.set()
    await asyncio.gather(*working)
    return (after - before) / took, busy / took, refused


def credentials(count: int) -> list[Credentials]:
    return [Credentials("client", "secret", f"seller-{number}") for number in range(count)]


def shared_http() -> aiohttp.ClientSession:
    # As an application has one, with aiohttp's limit of a hundred connections. Without a limit, a
    # loop that falls behind opens thousands, each cold in every cache, and stays behind.
    return aiohttp.ClientSession()


def session(url: str, seller: Credentials, http: aiohttp.ClientSession) -> MessagingSession:
    endpoint = Endpoint(url, f"{url}/auth/o2/token")
    return MessagingSession(seller, marketplace="US", endpoint=endpoint, http=http)


async def send_once(messaging: MessagingSession) -> None:
    await messaging.send(ORDER, CreateUnexpectedProblemRequest(TEXT))


if __name__ == "__main__":
    measures = (made, bare_made, kept_to_plan, bare_paced)
    run_one({measure.__name__: measure for measure in measures}, uvloop.run)
