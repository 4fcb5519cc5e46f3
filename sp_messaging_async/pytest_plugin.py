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
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from .credentials import Credentials
    from .marketplaces import Endpoint
    from .models import MessageRequest
    from .operations import UsagePlan
    from .sandbox import Delivered, Fault, Sandbox
    from .session import MessagingSession
    from .throttle import LocalThrottle

__all__ = [
    "MessagingSandbox",
    "RealAmazonIsBlocked",
    "SandboxFaults",
    "SandboxOrders",
    "messaging_sandbox",
]

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
    credentials: for a session; the same that `Credentials.from_env()` gives.
    blocked: hosts of Amazon's that somebody tried to reach.
    faults: what is to go wrong.
    orders: what is known of orders.

    Raises what kept the sandbox from starting.
    """

    def __init__(self) -> None:
        self.blocked: list[str] = []
        self._thread = threading.Thread(target=self._run, name="messaging_sandbox", daemon=True)
        self._started: Future[Sandbox] = Future()
        self._thread.start()
        self._sandbox = self._started.result()
        self.url: str = self._sandbox.url
        self.endpoint: Endpoint = self._sandbox.endpoint
        self.credentials = _credentials(self.environment())
        self.faults = SandboxFaults(self)
        self.orders = SandboxOrders(self)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        from .sandbox import Sandbox

        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()
        async with Sandbox(plans=_fast()) as sandbox:
            self._started.set_result(sandbox)
            await self._closed.wait()

    def close(self) -> None:
        """Stop it, and wait for its thread."""
        with contextlib.suppress(RuntimeError):  # it was closed before
            self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()

    def environment(self) -> dict[str, str]:
        """The variables that lead a client to it."""
        return self._sandbox.environment()

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


class SandboxFaults:
    """What is to go wrong in a `MessagingSandbox`; as `Faults`, but for any thread."""

    def __init__(self, local: MessagingSandbox) -> None:
        self._local = local

    def add(
        self, *faults: Fault, operation: str | None = None, amazon_order_id: str | None = None
    ) -> None:
        """Let the next requests fail, one fault each, in this order.

        operation: Amazon's name of the only operation meant, "token" for Login with Amazon, or
            "upload" for the PUT of a file; all 13 operations of messaging unless given.
        amazon_order_id: the only order meant.

        Raises ValueError for a name that is no operation.
        """
        only = {"operation": operation, "amazon_order_id": amazon_order_id}
        self._local._do(lambda sandbox: sandbox.faults.add(*faults, **only))

    def add_chance(self, fault: Fault, probability: float, *, operation: str | None = None) -> None:
        """Let any request fail with a probability from 0 to 1, from now on.

        operation: as with `add`. Raises ValueError for a name that is no operation, or a number
            that is no probability.
        """
        self._local._do(
            lambda sandbox: sandbox.faults.add_chance(fault, probability, operation=operation)
        )

    def clear(self) -> None:
        """Forget those that have not struck, and what was left to chance."""
        self._local._do(lambda sandbox: sandbox.faults.clear())

    def __len__(self) -> int:
        return self._local._do(lambda sandbox: len(sandbox.faults))


class SandboxOrders:
    """What is known of orders in a `MessagingSandbox`; as `Orders`, but for any thread."""

    def __init__(self, local: MessagingSandbox) -> None:
        self._local = local

    def set(
        self,
        amazon_order_id: str,
        *,
        locale: str | None = None,
        available: Iterable[str] | None = None,
    ) -> None:
        """Say what is so of an order, in place of what was said before.

        available: Amazon's names of the operations that may be sent, all unless given. Raises
            ValueError for a name that is none of them.
        """
        named = {} if available is None else {"available": list(available)}
        self._local._do(lambda sandbox: sandbox.orders.set(amazon_order_id, locale=locale, **named))


def _credentials(environment: dict[str, str]) -> Credentials:
    from .credentials import Credentials

    names = ("LWA_APP_ID", "LWA_CLIENT_SECRET", "SP_API_REFRESH_TOKEN")
    return Credentials(*(environment[name] for name in names))


def _fast() -> dict[str, UsagePlan]:
    from .operations import OPERATIONS, UsagePlan

    return dict.fromkeys(OPERATIONS, UsagePlan(_FASTER_THAN_ANY, _FASTER_THAN_ANY))


def _tireless() -> LocalThrottle:
    from .throttle import LocalThrottle

    return LocalThrottle(_fast(), headroom=0)


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
