"""What tests share: a sandbox whose plans do not wait, sessions on it, and a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sp_messaging_async import (
    CreateAmazonMotorsRequest,
    CreateConfirmCustomizationDetailsRequest,
    CreateConfirmDeliveryDetailsRequest,
    CreateConfirmOrderDetailsRequest,
    CreateConfirmServiceDetailsRequest,
    CreateDigitalAccessKeyRequest,
    CreateLegalDisclosureRequest,
    CreateNegativeFeedbackRemovalRequest,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    InvoiceRequest,
    LocalThrottle,
    MessageRequest,
    MessagingSession,
    RetryPolicy,
    UsagePlan,
    operations,
)
from sp_messaging_async.models import Attachment
from sp_messaging_async.operations import OPERATIONS
from sp_messaging_async.sandbox import Sandbox

from .browser import browser
from .postgres import postgres

__all__ = ["browser", "postgres"]  # fixtures, of which there is one for all modules

T = TypeVar("T")

ORDER = "111-2222222-3333333"
FAST = dict.fromkeys(OPERATIONS, UsagePlan(rate=100_000, burst=100_000))
AT_ONCE = RetryPolicy(attempts=5, base_delay=0, max_delay=0)
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of its user's own in it
ENOUGH = 1 << 30  # bytes; the tests write a tenth of it
PATIENCE = 120  # seconds before a test that waits for something is a failure; most take none


def pytest_configure(config: pytest.Config) -> None:
    """Ledgers lie in memory where there is some: no test takes the power away, and disks are slow.

    Who names another place, by --basetemp or PYTEST_DEBUG_TEMPROOT, has it.
    """
    with contextlib.suppress(OSError):
        if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > ENOUGH:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One process for chosen tests, which are few, and for the long ones, which look at the clock.

    None leaves it to xdist, which takes one for each core.
    """
    is_whole_suite = config.args == config.getini("testpaths")
    looks_at_the_clock = config.option.markexpr in ("long", "clients")
    return None if is_whole_suite and not looks_at_the_clock else 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that waits for what never comes fails, and tells where every thread stands."""
    if sys.platform == "win32" or item.get_closest_marker("long"):
        return (yield)
    if item.get_closest_marker("clients"):
        return (yield)

    def fail(*signal_and_frame: object) -> None:
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(sys.stderr)
        pytest.fail(f"nothing came for {PATIENCE} s")

    usual = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where Python is to leave no bytecode, processes of the tests share some that goes away."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the credentials or hosts of whoever runs it, nor a warning given before."""
    for name in list(os.environ):
        if name.startswith(("SP_API_", "SP_MESSAGING_", "LWA_")) or name == "AWS_ENV":
            monkeypatch.delenv(name)
    monkeypatch.setattr(operations, "_WARNED", {row.name for row in OPERATIONS.values()})


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A local Amazon whose plans do not wait."""
    async with Sandbox(plans=FAST) as local:
        yield local


Open = Callable[..., MessagingSession]


@pytest.fixture
async def open_session(sandbox: Sandbox) -> AsyncIterator[Open]:
    """Opens sessions on the sandbox that retry at once; closed when the test ends."""
    sessions: list[MessagingSession] = []

    def open_(**changes: Any) -> MessagingSession:
        arguments: dict[str, Any] = {
            "marketplace": "US",
            "endpoint": sandbox.endpoint,
            "throttle": LocalThrottle(FAST, headroom=0),
            "retry": AT_ONCE,
            "timeout": 20.0,
            **changes,
        }
        credentials = arguments.pop("credentials", sandbox.credentials)
        session = MessagingSession(credentials, **arguments)
        sessions.append(session)
        return session

    yield open_
    for session in sessions:
        await session.aclose()


@pytest.fixture
async def session(open_session: Open) -> MessagingSession:
    """A session on the sandbox."""
    return open_session()


def requests_of_every_kind() -> list[MessageRequest]:
    """One request for each of the 11 operations that message a buyer."""
    from datetime import UTC, datetime

    file = (Attachment("sc/0", "a.pdf"),)
    return [
        CreateConfirmCustomizationDetailsRequest("Is this right?", file),
        CreateConfirmDeliveryDetailsRequest("When?"),
        CreateLegalDisclosureRequest(file),
        CreateNegativeFeedbackRemovalRequest(),
        CreateConfirmOrderDetailsRequest("Two of them?"),
        CreateConfirmServiceDetailsRequest("How wide?"),
        CreateAmazonMotorsRequest(file),
        CreateWarrantyRequest(
            file, datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
        ),
        CreateDigitalAccessKeyRequest("KEY", file),
        CreateUnexpectedProblemRequest("Sold out."),
        InvoiceRequest(file),
    ]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of eight megabytes: SQLite lets a WAL grow to four."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no command mount on this system")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all that is left of a disk."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    return filler


class _VirtualSelector(selectors.DefaultSelector):
    """Passes the time instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing would ever wake it")
        self.now += max(timeout, 0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer. For code without sockets."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a virtual clock; hours take milliseconds."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
