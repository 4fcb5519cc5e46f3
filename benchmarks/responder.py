"""A server that does as little as possible: it answers every request at once with 201 and {}.

On uvloop where that is installed, so that it is faster than any client.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TOKEN = b'{"access_token":"token","token_type":"bearer","expires_in":3600}'


def _answer(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


_GRANTED, _CREATED = _answer(b"200 OK", _TOKEN), _answer(b"201 Created", b"{}")


class Responder(asyncio.Protocol):
    """One connection; a request is complete when its Content-Length has arrived."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            _, _, length = head.partition(b"content-length:")
            size = int(length.split(b"\r\n", 1)[0]) if length else 0
            if len(self._received) < end + 4 + size:
                return
            self._received = self._received[end + 4 + size :]
            is_token = head.startswith(b"post /auth/")
            self._transport.write(_GRANTED if is_token else _CREATED)


@contextmanager
def responder() -> Iterator[str]:
    """The address of a responder in a process of its own."""
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(_serve())
