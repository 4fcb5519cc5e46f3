"""The fixture for other people's tests, used as they would."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sp_messaging_async.pytest_plugin import MessagingSandbox
from sp_messaging_async.sandbox import Sandbox

README = Path(__file__).parents[1] / "README.md"

pytest_plugins = ["pytester"]

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


def run(
    pytester: pytest.Pytester, *tests: str, mode: str = "strict", head: str = HEAD
) -> pytest.RunResult:
    """What a user's test file comes to, in a process of its own."""
    pytester.makepyfile(head + "".join(tests))
    options = ("-p", "no:cacheprovider", "-W", "error", "-o", f"asyncio_mode={mode}")
    loop_scope = ("-o", "asyncio_default_fixture_loop_scope=function")
    return pytester.runpytest_subprocess(*options, *loop_scope)


def test_plain_tests(pytester: pytest.Pytester) -> None:
    """A test without an event loop runs its own; each test begins with an empty inbox."""
    result = run(
        pytester,
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
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    """It serves tests and fixtures of pytest-asyncio in either mode."""
    mark = "@pytest.mark.asyncio" if mode == "strict" else ""
    fixture = "import pytest_asyncio\n    @pytest_asyncio.fixture"
    result = run(
        pytester,
        f"""
    {fixture}
    async def session(messaging_sandbox):
        async with messaging_sandbox.session(user_agent="shop/1.0") as session:
            yield session

    {mark}
    async def test_it(messaging_sandbox, session):
        await asyncio.gather(*(session.send(f"111-2222222-{{n:07}}", SOLD_OUT) for n in range(30)))
        await tell()
        assert len(messaging_sandbox.delivered) == 31
""",
        mode=mode,
    )
    result.assert_outcomes(passed=1)


def test_anyio(pytester: pytest.Pytester) -> None:
    """It serves tests of anyio's plugin on asyncio."""
    result = run(
        pytester,
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
    result.assert_outcomes(passed=1)


def test_what_goes_wrong(pytester: pytest.Pytester) -> None:
    """Faults, orders, plans and an outage are set from a test, while its own loop waits or not."""
    result = run(
        pytester,
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
    result.assert_outcomes(passed=4)


def test_amazon_is_blocked(pytester: pytest.Pytester) -> None:
    """A client that goes to Amazon itself is stopped before it looks up the name."""
    result = run(
        pytester,
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
    result.assert_outcomes(passed=2)


def test_a_test_that_fails(pytester: pytest.Pytester) -> None:
    """A failure shows what was delivered and what was asked, and no token."""
    result = run(
        pytester,
        """
    def test_it(messaging_sandbox):
        asyncio.run(tell())
        assert messaging_sandbox.delivered_to(ORDER) == []

    def test_nothing(messaging_sandbox):
        assert messaging_sandbox.delivered
""",
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*messages delivered to buyers*",
            "createUnexpectedProblem for 111-2222222-3333333 in US: *Sold out.*",
            "*exchanges with the sandbox*",
            "POST /auth/o2/token → 200",
            "POST /messaging/v1/orders/*/messages/unexpectedProblem → 201",
        ]
    )
    assert "Atz" not in result.stdout.str()


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


def test_what_is_no_operation(pytester: pytest.Pytester) -> None:
    """A name or a probability that is none is a ValueError where the test says it."""
    result = run(
        pytester,
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
    result.assert_outcomes(passed=2)


def test_readmes_test(pytester: pytest.Pytester) -> None:
    """The test that README shows passes as it stands."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (source,) = [block for block in blocks if "messaging_sandbox" in block]
    result = run(pytester, mode="auto", head=source)
    passed = result.parseoutcomes()
    assert passed.keys() == {"passed"}


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
    }
    bare: dict[str, Any] = {
        "env": {"PYTEST_ADDOPTS": "-p no:hypothesispytest -p no:anyio", "PATH": ""}
    }
    done = subprocess.run([sys.executable, "-c", code], **options, **bare)
    assert done.returncode == 0, done.stdout + done.stderr
