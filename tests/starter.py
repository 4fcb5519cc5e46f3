"""Processes of their own for a program that is imported once: each is forked from one that waits.

A program that calls `serve` waits there; what was forked of it returns from there.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn, Self

PATIENCE = 60.0  # seconds before a process that does not start or end is a failure
ROOM = 1 << 17  # bytes of a request


class Forked:
    """A process: what tests need of an asyncio.subprocess.Process."""

    def __init__(self, pid: int, output: asyncio.StreamReader, told: asyncio.StreamReader) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._output = output
        self._ended = asyncio.ensure_future(self._end(told))

    async def _end(self, told: asyncio.StreamReader) -> None:
        self.returncode = int(await told.readline())

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        self.send_signal(signal.SIGKILL)

    async def communicate(self) -> bytes:
        """All that it printed, once it has ended."""
        async with asyncio.timeout(PATIENCE):
            output = await self._output.read()
            await self._ended
        return output


class Starter:
    """A module of tests that waits in `serve`, and the processes that are forked of it."""

    def __init__(self, module: str) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=Path(__file__).parents[1],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._ours.close()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()

    @asynccontextmanager
    async def process(self, *words: str, variables: Mapping[str, str]) -> AsyncIterator[Forked]:
        """A process with these words and no other variables, killed at the end if it goes on."""
        control, theirs = socket.socketpair()
        readable, writable = os.pipe()
        request = json.dumps([words, dict(variables)]).encode()
        assert len(request) <= ROOM
        socket.send_fds(self._ours, [request], [theirs.fileno(), writable])
        theirs.close()
        os.close(writable)
        output = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(readable, "rb", 0)
        )
        told, until_closed = await asyncio.open_connection(sock=control)
        try:
            pid = int(await asyncio.wait_for(told.readline(), PATIENCE))
            process = Forked(pid, output, told)
            try:
                yield process
            finally:
                process.kill()
                await process.communicate()
        finally:
            pipe.close()
            until_closed.close()


def serve() -> list[str]:
    """Wait, and return the words of a process in it; end with the tests."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    asked = socket.socket(fileno=sys.stdin.fileno())
    while True:
        request, descriptors, _, _ = socket.recv_fds(asked, ROOM, 2)
        if not request:
            asked.detach()
            sys.exit()
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    asked.detach()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control, output = descriptors
    if pid := os.fork():
        os.close(output)
        _tell(pid, control)
    os.close(control)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, theirs in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(ours, theirs)
    os.close(nothing)
    os.close(output)
    words, variables = json.loads(request)
    os.environ.clear()
    os.environ.update(variables)
    return list(words)


def _tell(pid: int, control: int) -> NoReturn:
    """Tell of a process that it is there, and how it ended; its number is its own until closed."""
    with socket.socket(fileno=control) as told:
        told.sendall(f"{pid}\n".encode())
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        told.sendall(f"{status}\n".encode())
        told.recv(1)
    os.waitpid(pid, 0)
    os._exit(0)
