"""The local Amazon beside a bare aiohttp.web handler that returns the same bytes, and a soak.

    python benchmarks/sandbox.py [REQUESTS]

Both servers run in this process and are asked by another one, in turn. Requests are counted by
second of this process's CPU, which says the same on a machine that is busy with other things.
Then the local Amazon alone answers REQUESTS (100,000): every answer must be 201, and memory flat.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from sp_messaging_async import UsagePlan
from sp_messaging_async.operations import OPERATIONS
from sp_messaging_async.sandbox import Sandbox

PATH = "/messaging/v1/orders/111-2222222-3333333/messages/confirmOrderDetails"
QUERY = "?marketplaceIds=ATVPDKIKX0DER"
BODY = b'{"text":"Shall we gift-wrap it?"}'
FAST = dict.fromkeys(OPERATIONS, UsagePlan(1_000_000, 1_000_000))
ROUNDS, IN_A_ROUND, CONNECTIONS = 7, 6_400, 32


async def ask(url: str, token: str, count: int) -> None:
    """Ask as fast as possible; nothing but 201 will do. Runs in a process of its own."""
    address = urlsplit(url)
    head = (
        f"POST {PATH}{QUERY} HTTP/1.1\r\nHost: {address.netloc}\r\nx-amz-access-token: {token}\r\n"
        "User-Agent: benchmark/1 (Language=Python)\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    request = head.encode() + BODY

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        for _ in range(count // CONNECTIONS):
            writer.write(request)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert b" 201 " in answer.partition(b"\r\n")[0], answer
            length = answer.partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()

    await asyncio.gather(*(one_connection() for _ in range(CONNECTIONS)))


async def rate(url: str, token: str, count: int) -> float:
    """Requests answered for a second of this process's CPU."""
    words = [sys.executable, __file__, "ask", url, token, str(count)]
    began = time.process_time()
    asker = await asyncio.create_subprocess_exec(*words)
    assert await asker.wait() == 0
    return count / (time.process_time() - began)


async def access_token(sandbox: Sandbox) -> str:
    form = {"grant_type": "refresh_token", "client_id": "c", "client_secret": "s"}
    async with aiohttp.ClientSession() as http:
        url = sandbox.endpoint.token_url
        async with http.post(url, data={**form, "refresh_token": "r"}) as answer:
            return str((await answer.json())["access_token"])


async def answer_of(url: str, token: str) -> tuple[bytes, dict[str, str]]:
    """What the local Amazon answers, as a body and the headers that are its own."""
    headers = {"x-amz-access-token": token, "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(url + PATH + QUERY, data=BODY, headers=headers) as answer,
    ):
        own = answer.headers.keys() - {"Content-Length", "Date", "Server"}
        return await answer.read(), {name: answer.headers[name] for name in own}


@asynccontextmanager
async def bare_server(body: bytes, headers: dict[str, str]) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=body, status=201, headers=headers)

    app = web.Application()
    app.router.add_post(PATH.replace("111-2222222-3333333", "{order}"), handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def main(count: int) -> None:
    async with Sandbox(plans=FAST, keep=1000) as sandbox:
        token = await access_token(sandbox)
        async with bare_server(*await answer_of(sandbox.url, token)) as bare:
            ratios = []
            for _ in range(ROUNDS):
                ours, theirs = [await rate(url, token, IN_A_ROUND) for url in (sandbox.url, bare)]
                ratios.append(ours / theirs)
                print(f"{ours:8,.0f}/s  bare {theirs:8,.0f}/s  ratio {ours / theirs:.2f}")
        print(f"median ratio {statistics.median(ratios):.2f}, goal at least 0.50")
        await rate(sandbox.url, token, count // 5)
        before = megabytes()
        await rate(sandbox.url, token, count)
        print(
            f"{count:,} requests without an error; peak memory {before:.1f} → {megabytes():.1f} MB"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["ask"]:
        asyncio.run(ask(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
