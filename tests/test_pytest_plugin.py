"""The fixture for other people's tests, used as they would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sp_messaging_async.pytest_plugin import MessagingSandbox
from sp_messaging_async.sandbox import Sandbox

README = Path(__file__).parents[1] / "README.md"

PATIENCE = 60.0  # seconds before a run of pytest that hangs is a failure

HEAD = """
    import asyncio
    import pytest
    from sp_messaging_async import *
    from sp_messaging_async.pytest_plugin import RealAmazonIsBlocked
    from sp_messaging_async.sandbox import Fault

    ORDER = "111-2222222-3333333"
    SOLD_OUT = CreateUnexpectedProblemRequest(text="Sold out.")

    async def tell(order=ORDER):  # the code that is tested: it knows nothing of the sandbox
        async with MessagingSession(Credentials.from_env(), marketplace="US") as session:
            await session.create_unexpected_problem(order, SOLD_OUT)
"""


FILES: dict[str, dict[str, str]] = {"strict": {}, "auto": {}}  # by mode of pytest-asyncio, and name


def user_file(name: str, source: str, mode: str = "strict", head: str = HEAD) -> str:
    """A user's file of tests, to be run with all those of its mode; returns its name."""
    FILES[mode][name] = textwrap.dedent(head + source)
    return name


class Runs:
    """What users' tests come to: one run of pytest for each mode, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._printed: dict[str, str] = {}

    def printed(self, mode: str = "strict") -> str:
        """All that the run of a mode printed."""
        if mode not in self._printed:
            self._printed[mode] = self._run(mode)
        return self._printed[mode]

    def outcomes(self, name: str, mode: str = "strict") -> dict[str, int]:
        """How many tests of a file passed, failed or had an error."""
        told = re.findall(rf"^([A-Z]+) {name}\.py::", self.printed(mode), re.MULTILINE)
        return dict(Counter(word.lower() for word in told))

    def _run(self, mode: str) -> str:
        folder = self._folder / mode
        folder.mkdir()
        for name, source in FILES[mode].items():
            (folder / f"{name}.py").write_text(source, encoding="utf-8")
        options = ("-rap", "--color=no", "-p", "no:cacheprovider", "-W", "error")
        modes = (f"asyncio_mode={mode}", "asyncio_default_fixture_loop_scope=function")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, "-o", modes[0], "-o", modes[1]],
            cwd=folder,
            env={**os.environ, "PYTEST_ADDOPTS": ""},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs of all users' tests."""
    return Runs(tmp_path_factory.mktemp("users"))


PLAIN_TESTS = user_file(
    "test_plain_tests",
    """
    def test_one(messaging_sandbox):
        asyncio.run(tell())
        assert messaging_sandbox.delivered_to(ORDER) == [SOLD_OUT]

    def test_another(messaging_sandbox):
        assert messaging_sandbox.delivered == []
        asyncio.run(tell("111-2222222-4444444"))
        (message,) = messaging_sandbox.delivered
        assert message.operation == "createUnexpectedProblem"
        messaging_sandbox.reset()
        assert messaging_sandbox.delivered == []
""",
)


def test_plain_tests(runs: Runs) -> None:
    """A test without an event loop runs its own; each test begins with an empty inbox."""
    assert runs.outcomes(PLAIN_TESTS) == {"passed": 2}, runs.printed()


FOR_ASYNCIO = """
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def session(messaging_sandbox):
        async with messaging_sandbox.session(user_agent="shop/1.0") as session:
            yield session

    {mark}
    async def test_it(messaging_sandbox, session):
        await asyncio.gather(*(session.send(f"111-2222222-{{n:07}}", SOLD_OUT) for n in range(30)))
        await tell()
        assert len(messaging_sandbox.delivered) == 31
"""
PYTEST_ASYNCIO = {
    mode: user_file("test_pytest_asyncio", FOR_ASYNCIO.format(mark=mark), mode)
    for mode, mark in (("strict", "@pytest.mark.asyncio"), ("auto", ""))
}


@pytest.mark.parametrize("mode", PYTEST_ASYNCIO)
def test_pytest_asyncio(runs: Runs, mode: str) -> None:
    """It serves tests and fixtures of pytest-asyncio in either mode."""
    assert runs.outcomes(PYTEST_ASYNCIO[mode], mode) == {"passed": 1}, runs.printed(mode)


ANYIO = user_file(
    "test_anyio",
    """
    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    async def test_it(messaging_sandbox):
        await tell()
        assert messaging_sandbox.delivered_to(ORDER) == [SOLD_OUT]
""",
)


def test_anyio(runs: Runs) -> None:
    """It serves tests of anyio's plugin on asyncio."""
    assert runs.outcomes(ANYIO) == {"passed": 1}, runs.printed()


WHAT_GOES_WRONG = user_file(
    "test_what_goes_wrong",
    """
    @pytest.mark.asyncio
    async def test_faults(messaging_sandbox):
        messaging_sandbox.faults.add(Fault.DROPPED_AFTER)
        assert len(messaging_sandbox.faults) == 1
        with pytest.raises(OutcomeUnknown):
            await tell()
        assert len(messaging_sandbox.delivered) == 1
        messaging_sandbox.faults.add_chance(Fault.DENIED, 1)
        with pytest.raises(Forbidden):
            await tell()
        messaging_sandbox.faults.clear()
        await tell()

    @pytest.mark.asyncio
    async def test_orders(messaging_sandbox):
        messaging_sandbox.orders.set(ORDER, locale="pt-BR", available=["createWarranty"])
        with pytest.raises(MessageNotAvailable):
            await tell()
        async with messaging_sandbox.session() as session:
            assert (await session.get_attributes(ORDER)).buyer.locale == "pt-BR"

    @pytest.mark.asyncio
    async def test_plans(messaging_sandbox):
        messaging_sandbox.use_amazons_plans()
        retry = RetryPolicy(attempts=1)
        async with messaging_sandbox.session(retry=retry) as session:
            sends = (session.send(f"111-2222222-{n:07}", SOLD_OUT) for n in range(9))
            results = await asyncio.gather(*sends, return_exceptions=True)
        assert sum(isinstance(each, Throttled) for each in results) >= 3

    @pytest.mark.asyncio
    async def test_an_outage(messaging_sandbox):
        retry = RetryPolicy(attempts=2, base_delay=0, max_delay=0)
        async with messaging_sandbox.session(retry=retry) as session:
            with messaging_sandbox.down():
                with pytest.raises((TransportError, AuthenticationError)):
                    await session.send(ORDER, SOLD_OUT)
            await session.send(ORDER, SOLD_OUT)
        assert len(messaging_sandbox.delivered) == 1
""",
)


def test_what_goes_wrong(runs: Runs) -> None:
    """Faults, orders, plans and an outage are set from a test, while its own loop waits or not."""
    assert runs.outcomes(WHAT_GOES_WRONG) == {"passed": 4}, runs.printed()


AMAZON_IS_BLOCKED = user_file(
    "test_amazon_is_blocked",
    """
    import socket

    def test_it(messaging_sandbox):
        with pytest.raises(RealAmazonIsBlocked, match="sellingpartnerapi-na.amazon.com"):
            socket.create_connection(("sellingpartnerapi-na.amazon.com", 443))
        async def go():
            endpoint = Endpoint.production(Region.EU)
            retry = RetryPolicy(attempts=1)
            async with messaging_sandbox.session(
                marketplace="DE", endpoint=endpoint, retry=retry
            ) as session:
                await session.send(ORDER, SOLD_OUT)
        with pytest.raises(TransportError):
            asyncio.run(go())
        assert "api.amazon.com" in messaging_sandbox.blocked

    def test_without_it():
        assert socket.getaddrinfo.__module__ == "socket"
""",
)


def test_amazon_is_blocked(runs: Runs) -> None:
    """A client that goes to Amazon itself is stopped before it looks up the name."""
    assert runs.outcomes(AMAZON_IS_BLOCKED) == {"passed": 2}, runs.printed()


A_TEST_THAT_FAILS = user_file(
    "test_a_test_that_fails",
    """
    def test_it(messaging_sandbox):
        asyncio.run(tell())
        assert messaging_sandbox.delivered_to(ORDER) == []

    def test_nothing(messaging_sandbox):
        assert messaging_sandbox.delivered
""",
)


def test_a_test_that_fails(runs: Runs) -> None:
    """A failure shows what was delivered and what was asked, and no token."""
    assert runs.outcomes(A_TEST_THAT_FAILS) == {"failed": 2}, runs.printed()
    pytest.LineMatcher(runs.printed().splitlines()).fnmatch_lines(
        [
            "*messages delivered to buyers*",
            "createUnexpectedProblem for 111-2222222-3333333 in US: *Sold out.*",
            "*exchanges with the sandbox*",
            "POST /auth/o2/token → 200",
            "POST /messaging/v1/orders/*/messages/unexpectedProblem → 201",
        ]
    )
    assert "Atz" not in runs.printed()


@pytest.mark.parametrize("error", [OSError("no such port"), KeyboardInterrupt()], ids=repr)
def test_a_sandbox_that_cannot_start(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """What kept the sandbox from starting is raised in the test, and its thread ends."""

    async def fail(sandbox: Sandbox) -> Sandbox:
        raise error

    monkeypatch.setattr(Sandbox, "__aenter__", fail)
    with pytest.raises(type(error)) as raised:
        MessagingSandbox()
    assert raised.value is error
    for thread in threading.enumerate():
        if thread.name == "messaging_sandbox":
            thread.join(5)
            assert not thread.is_alive()


WHAT_IS_NO_OPERATION = user_file(
    "test_what_is_no_operation",
    """
    def test_it(messaging_sandbox):
        local = messaging_sandbox
        with pytest.raises(ValueError, match="'createNothing' is no operation"):
            local.faults.add(Fault.DENIED, operation="createNothing")
        with pytest.raises(ValueError, match="2 is no probability"):
            local.faults.add_chance(Fault.DENIED, 2)
        with pytest.raises(ValueError, match="'createNothing' is no operation"):
            local.orders.set(ORDER, available=["createNothing"])
        assert len(local.faults) == 0

    def test_one_seller(messaging_sandbox):
        assert Credentials.from_env() == messaging_sandbox.credentials
""",
)


def test_what_is_no_operation(runs: Runs) -> None:
    """A name or a probability that is none is a ValueError where the test says it."""
    assert runs.outcomes(WHAT_IS_NO_OPERATION) == {"passed": 2}, runs.printed()


BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
(READMES,) = [block for block in BLOCKS if "messaging_sandbox" in block]
READMES_TEST = user_file("test_readmes", READMES, "auto", head="")


def test_readmes_test(runs: Runs) -> None:
    """The test that README shows passes as it stands."""
    assert runs.outcomes(READMES_TEST, "auto").keys() == {"passed"}, runs.printed("auto")


def test_it_costs_nothing_until_it_is_used(tmp_path: Path) -> None:
    """Where the package is merely installed, a run of pytest imports no more than the plugin."""
    (tmp_path / "test_user.py").write_text("def test_it(): pass\n")
    code = (
        "import sys, pytest\n"
        "assert pytest.main(['-q', '-p', 'no:cacheprovider']) == 0\n"
        "ours = {name for name in sys.modules if name.startswith('sp_messaging_async')}\n"
        "assert ours == {'sp_messaging_async', 'sp_messaging_async.pytest_plugin'}, ours\n"
        "assert not {'aiohttp', 'attr', 'cattrs'} & sys.modules.keys()\n"
    )
    options: dict[str, Any] = {
        "cwd": tmp_path,
        "capture_output": True,
        "text": True,
        "check": False,
        "timeout": PATIENCE,
    }
    bare: dict[str, Any] = {
        "env": {"PYTEST_ADDOPTS": "-p no:hypothesispytest -p no:anyio", "PATH": ""}
    }
    done = subprocess.run([sys.executable, "-c", code], **options, **bare)
    assert done.returncode == 0, done.stdout + done.stderr
