"""A server that gives every seller a token of its own, and keeps each to a plan of 1/s, burst 5.

A raw protocol on uvloop in a process of its own: five thousand sellers must fit on its core.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

RATE, BURST = 1.0, 5.0

_REFRESH_TOKEN = re.compile(rb"refresh_token=([^&]+)")
_ACCESS_TOKEN = re.compile(rb"x-amz-access-token: ([^\r]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def _answer(status: bytes, body: bytes) -> bytes:
    head = (
        b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"x-amzn-RateLimit-Limit: 1.0\r\n\r\n"
    )
    return head % (status, len(body)) + body


_CREATED = _answer(b"201 Created", b"{}")
_REFUSED = _answer(b"429 Too Many Requests", b'{"errors":[{"code":"QuotaExceeded"}]}')


class Plans:
    """A bucket for every access token, and what came of all requests."""

    def __init__(self) -> None:
        self.accepted = self.refused = 0
        self._buckets: dict[bytes, tuple[float, float]] = {}  # tokens, and when there were as many

    def take(self, token: bytes) -> bool:
        now = time.monotonic()
        tokens, then = self._buckets.get(token, (BURST, now))
        tokens = min(BURST, tokens + (now - then) * RATE)
        is_allowed = tokens >= 1
        self._buckets[token] = (tokens - is_allowed, now)
        self.accepted += is_allowed
        self.refused += not is_allowed
        return is_allowed


class Enforcing(asyncio.Protocol):
    """One connection; a request is complete when its Content-Length has arrived."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n") + 4) > 3:
            length = _LENGTH.search(self._received, 0, end)
            size = int(length[1]) if length else 0
            if len(self._received) < end + size:
                return
            head, body = self._received[:end], self._received[end : end + size]
            self._received = self._received[end + size :]
            self._transport.write(self._answer_to(head, body))

    def _answer_to(self, head: bytes, body: bytes) -> bytes:
        if token := _ACCESS_TOKEN.search(head):
            return _CREATED if self._plans.take(token[1]) else _REFUSED
        if seller := _REFRESH_TOKEN.search(body):
            granted = b'{"access_token":"%s","token_type":"bearer","expires_in":3600}'
            return _answer(b"200 OK", granted % seller[1])
        return _answer(b"200 OK", b"%d %d" % (self._plans.accepted, self._plans.refused))


@contextmanager
def enforcing() -> Iterator[str]:
    """The address of such a server."""
    command = [sys.executable, __file__]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def counts(url: str) -> tuple[int, int]:
    """Requests that a server has accepted so far, and those that it refused."""
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - it is ours
        accepted, refused = answer.read().split()
    return int(accepted), int(refused)


async def _serve() -> None:
    plans = Plans()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Enforcing(plans), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
