"""A pytest fixture for code that messages buyers: `messaging_sandbox`, a local Amazon.

Pytest finds it by itself where the package is installed. It is synchronous and has a thread and an
event loop of its own, and so serves tests of any kind: plain ones, and those of pytest-asyncio and
anyio. Until a test asks for it, nothing but this file is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

if TYPE_CHECKING:
    from .credentials import Credentials
    from .marketplaces import Endpoint
    from .models import MessageRequest
    from .operations import UsagePlan
    from .sandbox import Delivered, Faults, Sandbox
    from .sandbox.orders import Orders
    from .session import MessagingSession

__all__ = ["MessagingSandbox", "RealAmazonIsBlocked", "messaging_sandbox"]

_FASTER_THAN_ANY = 1_000_000  # requests a second, and at once

T = TypeVar("T")


@pytest.fixture
def messaging_sandbox(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MessagingSandbox]:
    """A local Amazon for this test; the environment leads to it, and Amazon's hosts are blocked.

    Its usage plans do not make anybody wait, unless `use_amazons_plans` or `change_plan` says so.
    """
    local = MessagingSandbox()
    request.node.stash[_KEY] = local
    try:
        for name, value in local.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_ENV", raising=False)
        monkeypatch.setattr(socket, "getaddrinfo", _blocking(socket.getaddrinfo, local.blocked))
        yield local
    finally:
        local.close()


class RealAmazonIsBlocked(socket.gaierror):
    """A test that uses `messaging_sandbox` tried to reach Amazon itself."""


class MessagingSandbox:
    """A `Sandbox` in a thread of its own; its methods may be called from any other.

    url: scheme, host and port.
    endpoint: for a session's `endpoint`. One that is made without goes there too.
    credentials: for a session. `Credentials.from_env()` gives some too.
    blocked: hosts of Amazon's that somebody tried to reach.
    """

    def __init__(self) -> None:
        self.blocked: list[str] = []
        self._started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="messaging_sandbox", daemon=True
        )
        self._thread.start()
        self._started.wait()
        self.url: str = self._sandbox.url
        self.endpoint: Endpoint = self._sandbox.endpoint
        self.credentials: Credentials = self._sandbox.credentials

    async def _serve(self) -> None:
        from .operations import OPERATIONS, UsagePlan
        from .sandbox import Sandbox

        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()
        fast = dict.fromkeys(OPERATIONS, UsagePlan(_FASTER_THAN_ANY, _FASTER_THAN_ANY))
        async with Sandbox(plans=fast) as self._sandbox:
            self._started.set()
            await self._closed.wait()

    def close(self) -> None:
        """Stop it, and wait for its thread."""
        with contextlib.suppress(RuntimeError):  # it was closed before
            self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()

    def environment(self) -> dict[str, str]:
        """The variables that lead a client to it."""
        return {
            "SP_MESSAGING_API_URL": self.endpoint.api_url,
            "SP_MESSAGING_TOKEN_URL": self.endpoint.token_url,
            "LWA_APP_ID": self.credentials.client_id,
            "LWA_CLIENT_SECRET": self.credentials.client_secret,
            "SP_API_REFRESH_TOKEN": self.credentials.refresh_token,
            "SP_API_DEFAULT_MARKETPLACE": "US",
        }

    def session(self, **arguments: Any) -> MessagingSession:
        """A `MessagingSession` on it, for marketplace US; to be closed by whoever asked for it.

        arguments: as of `MessagingSession`, in place of those that it would have.
        """
        from .session import MessagingSession

        usual = {"marketplace": "US", "endpoint": self.endpoint, "throttle": _tireless()}
        credentials = arguments.pop("credentials", self.credentials)
        return MessagingSession(credentials, **{**usual, **arguments})

    @property
    def delivered(self) -> list[Delivered]:
        """Every message that reached a buyer, in order."""
        return self._do(lambda sandbox: list(sandbox.delivered))

    def delivered_to(self, amazon_order_id: str) -> list[MessageRequest]:
        """What the buyer of an order was sent, in order."""
        return [each.request for each in self.delivered if each.amazon_order_id == amazon_order_id]

    @property
    def faults(self) -> Faults:
        """What is to go wrong: `add`, `add_chance` and `clear`, as of a `Sandbox`."""
        return cast("Faults", _Elsewhere(self, "faults"))

    @property
    def orders(self) -> Orders:
        """What is known of orders: `set`, as of a `Sandbox`."""
        return cast("Orders", _Elsewhere(self, "orders"))

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """While it is open, connections are refused."""
        refusing = self._do(lambda sandbox: sandbox.faults.refused())
        self._await(refusing.__aenter__)
        try:
            yield
        finally:
            self._await(lambda: refusing.__aexit__(None, None, None))

    def use_amazons_plans(self) -> None:
        """Amazon's own usage plans from now on: 1 request a second, burst 5."""
        from .operations import OPERATIONS

        for row in OPERATIONS.values():
            self.change_plan(row.name, row.plan)

    def change_plan(self, operation: str, plan: UsagePlan) -> None:
        """Another usage plan for an operation, named as by Amazon."""
        self._do(lambda sandbox: sandbox.plans.change(operation, plan))

    def reset(self) -> None:
        """As it was at first."""
        self._do(lambda sandbox: sandbox.reset())

    def exchanges(self) -> list[str]:
        """The last requests and their answers, a line for each."""
        found = self._do(lambda sandbox: sandbox.journal.since(0))
        return [
            f"{each.verb} {each.path.partition('?')[0]} → {each.status or 'no answer'}"
            for each in found
        ]

    def _do(self, work: Callable[[Sandbox], T]) -> T:
        """Do something in the sandbox's thread."""

        async def do() -> T:
            return work(self._sandbox)

        return self._await(do)

    def _await(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()


class _Elsewhere:
    """Something of the sandbox's, whose methods are called in the sandbox's thread."""

    def __init__(self, sandbox: MessagingSandbox, name: str) -> None:
        self._sandbox = sandbox
        self._name = name

    def __getattr__(self, method: str) -> Any:
        def found(sandbox: Sandbox) -> Any:
            return getattr(getattr(sandbox, self._name), method)

        value = self._sandbox._do(found)
        if not callable(value):
            return value
        return lambda *given, **named: self._sandbox._do(lambda _: value(*given, **named))

    def __len__(self) -> int:
        return int(self._sandbox._do(lambda sandbox: len(getattr(sandbox, self._name))))


def _tireless() -> Any:
    from .operations import OPERATIONS, UsagePlan
    from .throttle import LocalThrottle

    fast = UsagePlan(_FASTER_THAN_ANY, _FASTER_THAN_ANY)
    return LocalThrottle(dict.fromkeys(OPERATIONS, fast), headroom=0)


def _blocking(getaddrinfo: Callable[..., Any], blocked: list[str]) -> Callable[..., Any]:
    """`getaddrinfo`, but for Amazon's hosts."""
    from .marketplaces import is_of_amazon

    def guarded(host: Any, *arguments: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and is_of_amazon(name):
            blocked.append(name)
            text = f"{name} is Amazon itself; a test with messaging_sandbox does not go there"
            raise RealAmazonIsBlocked(socket.EAI_NONAME, text)
        return getaddrinfo(host, *arguments, **named)

    return guarded


# What is told of a test that fails

_KEY = pytest.StashKey[MessagingSandbox]()
_MOST_LINES = 20


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell what was delivered, and asked, in a test that fails."""
    report = yield
    local = item.stash.get(_KEY, None)
    if local is not None and report.when == "call" and report.failed:
        report.sections.append(("messages delivered to buyers", _listed(_deliveries(local))))
        report.sections.append(("exchanges with the sandbox", _listed(local.exchanges())))
        if local.blocked:
            report.sections.append(("blocked hosts of Amazon", _listed(local.blocked)))
    return report


def _deliveries(local: MessagingSandbox) -> list[str]:
    return [
        f"{each.operation} for {each.amazon_order_id} in {each.marketplace.name}: {each.request}"
        for each in local.delivered
    ]


def _listed(lines: list[str]) -> str:
    if not lines:
        return "none"
    more = len(lines) - _MOST_LINES
    return "\n".join([*([f"({more} more)"] if more > 0 else []), *lines[-_MOST_LINES:]])
