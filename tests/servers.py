"""Private servers for tests: Debian's programs, on loopback, in a folder that goes away."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

__all__ = ["RedisServer", "own_redis", "redis_server"]

PATIENCE = 30.0  # seconds before a server that does not start or end is a failure


class RedisServer:
    """A Redis that keeps nothing, and may be killed, started again, and held still."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._program = found("redis-server")
        self._folder = folder
        self._options = options
        self.port = free_port()
        self.socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Begin, and answer; at the same port again after it was killed."""
        said = self._folder / "redis.log"
        with said.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    *("--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--unixsocket", str(self.socket), "--dir", str(self._folder)),
                    *("--save", "", "--appendonly", "no"),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, said.read_text(errors="replace")[-2000:]
            assert time.monotonic() < give_up, "redis-server does not answer"
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE)
            asking.connect(str(self.socket))
            asking.sendall(b"PING\r\n")
            return asking.recv(64) == b"+PONG\r\n"
        return False

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def hold(self) -> None:
        """Let it stand still: connections are taken by the system, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def let_go(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that tests share; each has plans of its own in it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of one test, which may do with it what it likes."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


def found(command: str) -> str:
    """The path of a program; where there is none, a test is skipped, in CI it fails."""
    path = shutil.which(command)
    if path is not None:
        return path
    reason = f"there is no {command}; on Debian: apt-get install {command}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
