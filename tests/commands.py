"""The command as tests run it: beside a local Amazon, in this process or one of its own."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from attrs import field, frozen

from sp_messaging_async import cli
from sp_messaging_async.cli import terminal
from sp_messaging_async.sandbox import Sandbox

from .conftest import FAST

NAME = "createUnexpectedProblem"
HEADER = "order_id,operation,text\n"
TEXT = "marmalade"
SECRETS = {"LWA_CLIENT_SECRET": "canary-secret", "SP_API_REFRESH_TOKEN": "canary-token"}
PATIENCE = 30.0  # seconds before a command that hangs is a failure
ANYWHERE = {"SP_MESSAGING_API_URL": "", "SP_MESSAGING_TOKEN_URL": ""}  # Amazon's own hosts

unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminal or signal")


def order(number: int) -> str:
    return f"111-2222222-{number:07}"


def row(number: int, text: str = TEXT) -> str:
    return f"{order(number)},{NAME},{text}\n"


class LocalAmazon:
    """A sandbox whose plans do not wait, in a thread, for the command has an event loop itself."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        async with Sandbox(plans=FAST) as self.sandbox:
            self._ready.set()
            await self._ended.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the sandbox does not close"


@frozen
class Command:
    """The command of somebody who uses a local Amazon, in a folder of their own."""

    folder: Path
    sandbox: Sandbox
    capsys: pytest.CaptureFixture[str] = field(repr=False)

    def __call__(self, *words: str, **variables: str) -> tuple[int, str]:
        """The exit status, and all that it printed; run within this process."""
        status, output, errors = self.apart(*words, **variables)
        return status, output + errors

    def apart(self, *words: str, **variables: str) -> tuple[int, str, str]:
        """The exit status, and what it printed as output and as errors."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**self.environment(), **variables}.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(terminal, "out", terminal.Terminal(width=200))
            patch.setattr(terminal, "err", terminal.Terminal(width=200, stderr=True))
            status = cli.run(words)
        output, errors = self.capsys.readouterr()
        return status, checked(output), checked(errors)

    def process(self, *words: str, **variables: str) -> tuple[int, str]:
        """The exit status, and all that it printed; run as users run it."""
        done = subprocess.run(
            [sys.executable, "-m", "sp_messaging_async", *words],
            **self.setting(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, checked(done.stdout.decode())

    def started(
        self,
        *words: str,
        output: int = subprocess.PIPE,
        errors: int = subprocess.STDOUT,
        ignores_sigint: bool = False,
        **variables: str,
    ) -> AbstractContextManager[Process]:
        """A process of its own that goes on meanwhile.

        output, errors: where its standard output and error go, as subprocess says it.
        ignores_sigint: as a script has it of what it begins with &.
        """
        return Process.of(
            *words,
            **self.setting(**variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            preexec_fn=_ignore_sigint if ignores_sigint else None,
        )

    @contextmanager
    def terminal(self, *words: str, **variables: str) -> Iterator[Process]:
        """The same on a terminal of 80 columns."""
        import fcntl
        import pty
        import struct
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        setting = self.setting(TERM="xterm", **variables)
        with Process.of(*words, **setting, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            process.terminal = ours
            try:
                yield process
            finally:
                os.close(ours)

    def setting(self, **variables: str) -> dict[str, Any]:
        """A process's folder and environment."""
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        return {"cwd": self.folder, "env": {**environ, **self.environment(), **variables}}

    def environment(self) -> dict[str, str]:
        """Credentials, hosts and a data folder."""
        return {
            "SP_MESSAGING_API_URL": self.sandbox.endpoint.api_url,
            "SP_MESSAGING_TOKEN_URL": self.sandbox.endpoint.token_url,
            "SP_API_DEFAULT_MARKETPLACE": "US",
            "LWA_APP_ID": "client",
            **SECRETS,
            "HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_DATA_HOME": str(self.folder / "data"),
        }

    def elsewhere(self) -> dict[str, str]:
        """The same local Amazon, by an address that the command does not take for this machine."""
        url = self.sandbox.url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104 - a destination
        return {
            "SP_MESSAGING_API_URL": url,
            "SP_MESSAGING_TOKEN_URL": f"{url}/auth/o2/token",
            "SP_MESSAGING_ALLOW_HTTP": "1",
        }

    def write(self, content: str, name: str = "orders.csv") -> str:
        """Write a file; returns its name."""
        (self.folder / name).write_text(content, encoding="utf-8")
        return name

    def delivered(self) -> list[str]:
        """The orders whose buyers were messaged."""
        return sorted(each.amazon_order_id for each in self.sandbox.delivered)

    def report(self, *words: str) -> dict[str, Any]:
        """What became of all messages."""
        status, output = self("report", "--format", "json", *words)
        assert status == 0
        found: dict[str, Any] = json.loads(output)
        return found

    def statuses(self, *words: str) -> dict[str, str]:
        """The status of each order."""
        return {found["order_id"]: found["status"] for found in self.report(*words)["rows"]}


def _ignore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def checked(text: str) -> str:
    """What was printed, which holds no secret and no traceback."""
    assert "Traceback" not in text, text
    assert not any(secret in text for secret in SECRETS.values())
    return text


class Process:
    """A command that goes on while the test does; killed at the end if it still does."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen
        self.terminal: int | None = None
        self.output = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    @classmethod
    def of(cls, *words: str, **setting: Any) -> Self:
        command = [sys.executable, "-m", "sp_messaging_async", *words]
        return cls(subprocess.Popen(command, **setting))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(PATIENCE)
        if self.popen.stdout is not None:
            self.popen.stdout.close()

    def until(self, text: str, times: int = 1) -> str:
        """All that was printed, once a text is among it so many times."""
        ends = time.monotonic() + PATIENCE
        while self.output.count(text) < times:
            left = max(0.0, ends - time.monotonic())
            ready, _, _ = select.select([self._descriptor()], [], [], left)
            assert ready, f"{text!r} does not come: {self.output}"
            assert self._read(), self.output
        return self.output

    def sleeps(self) -> None:
        """Wait until it waits for something itself, where that can be known."""
        stat = Path(f"/proc/{self.popen.pid}/stat")
        ends = time.monotonic() + PATIENCE
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < ends, "it is always at work"
            time.sleep(0.001)

    def type(self, text: str) -> None:
        """Type at its terminal."""
        assert self.terminal is not None
        os.write(self.terminal, text.encode())

    def end(self, seconds: float = PATIENCE) -> tuple[int, str]:
        """The exit status, and all that was printed."""
        killer = threading.Timer(seconds, self.popen.kill)
        killer.start()
        while self._read():
            pass
        status = self.popen.wait(PATIENCE)
        killer.cancel()
        return status, checked(self.output)

    def _descriptor(self) -> int:
        if self.terminal is not None:
            return self.terminal
        assert self.popen.stdout is not None
        return self.popen.stdout.fileno()

    def _read(self) -> bool:
        try:
            read = os.read(self._descriptor(), 65536)
        except OSError:  # how a terminal ends
            read = b""
        self.output += self._decoder.decode(read)
        return bool(read)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """The command beside a sandbox whose plans do not wait."""
    handler = signal.getsignal(signal.SIGTERM)  # the command sets its own
    local = LocalAmazon()
    yield Command(tmp_path, local.sandbox, capsys)
    local.close()
    signal.signal(signal.SIGTERM, handler)
