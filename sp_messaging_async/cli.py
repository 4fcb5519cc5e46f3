"""The `sp-messaging` command."""

from __future__ import annotations

import asyncio
import importlib.resources
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from . import __version__
from .bulk import Message, order_list, send_all
from .bulk.messages import DEFAULT_ACCOUNT
from .bulk.progress import Tally, Watch, closing_table
from .credentials import Credentials
from .errors import ConfigurationError, MessagingError, RetiredOperationWarning
from .marketplaces import Endpoint, Marketplace
from .operations import OPERATIONS
from .sandbox import Sandbox
from .session import MessagingSession

__all__ = ["app", "run"]

ALL_SENT, SOME_NOT_SENT, WRONG_USAGE, SOME_UNKNOWN, STOPPED = range(5)

app = App(
    name="sp-messaging",
    help="Message Amazon buyers through the Selling Partner API, within the usage plan.",
    version=__version__,
    result_action="return_value",
)
_out = Console()
_err = Console(stderr=True, soft_wrap=True, highlight=False)


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status. An error is one line with its remedy."""
    try:
        status: int | None = app(arguments, exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        return STOPPED
    except CycloptsError as error:
        return _fail(f"{error} Try sp-messaging --help.")
    except MessagingError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.strerror or type(error).__name__}: {error.filename or error}")
    return status or 0


def _fail(text: str) -> int:
    _err.print(text, markup=False)
    return WRONG_USAGE


@app.command
def operations() -> None:
    """Show the operations of the Messaging API, and their usage plans."""
    table = Table("operation", "takes", "plan", "retired")
    for row in OPERATIONS.values():
        takes = ["text"] * row.takes_text + ["files"] * row.takes_attachments
        table.add_row(
            row.name,
            ", ".join(takes),
            f"{row.plan.rate:g}/s, burst {row.plan.burst:g}",
            str(row.retired_on or ""),
        )
    _out.print(table)


@app.command
async def sandbox(*, port: int = 8085) -> None:
    """Run a local Amazon on this machine until it is stopped.

    Parameters
    ----------
    port:
        Where to listen, on loopback; 0 takes any free port.
    """
    async with Sandbox(port=port) as local:
        _out.print(
            f"A local Amazon listens on {local.url}; it messages nobody. Point a client at it:"
        )
        for name, value in _environment(local).items():
            _out.print(f"  export {name}='{value}'", markup=False, highlight=False)
        _out.print("Ctrl-C stops it.")
        await asyncio.Event().wait()


def _environment(local: Sandbox) -> Mapping[str, str]:
    return {
        "SP_MESSAGING_API_URL": local.endpoint.api_url,
        "SP_MESSAGING_TOKEN_URL": local.endpoint.token_url,
        "LWA_APP_ID": "any",
        "LWA_CLIENT_SECRET": "any",
        "SP_API_REFRESH_TOKEN": "any",
    }


@app.command
async def bulk(
    orders: Path | None = None,
    /,
    *,
    sandbox: Annotated[bool, Parameter(negative=())] = False,
    marketplace: str | None = None,
) -> int:
    """Send a list of messages: CSV, or JSON Lines.

    Until there is a ledger of what was sent, it sends to this machine only.

    Parameters
    ----------
    orders:
        The list. With --sandbox it may be left out, for the sample that comes with the package.
    sandbox:
        Send to a local Amazon of the command's own, with no credentials.
    marketplace:
        Where orders are whose row names no marketplace; SP_API_DEFAULT_MARKETPLACE unless given.
    """
    place = _marketplace(marketplace, sandbox)
    path = orders or _sample(sandbox)
    summary = await asyncio.to_thread(order_list.check, path, place)
    tally = Tally(summary)
    try:
        async with AsyncExitStack() as stack:
            sessions = await _sessions(stack, summary.accounts, place, sandbox)
            await _send_list(sessions, order_list.messages(path, place), tally)
    finally:
        _close(tally)
    return _status(tally)


def _marketplace(given: str | None, sandbox: bool) -> Marketplace:
    name = given or os.environ.get("SP_API_DEFAULT_MARKETPLACE") or ("US" if sandbox else None)
    if name is None:
        raise ConfigurationError(
            "no marketplace: give --marketplace, or set SP_API_DEFAULT_MARKETPLACE"
        )
    return Marketplace.of(name)


def _sample(sandbox: bool) -> Path:
    if not sandbox:
        raise ConfigurationError(
            "no order list: name a file, or add --sandbox to try the sample that comes along"
        )
    return Path(str(importlib.resources.files("sp_messaging_async.bulk") / "sample/orders.csv"))


async def _sessions(
    stack: AsyncExitStack, accounts: Sequence[str], place: Marketplace, sandbox: bool
) -> Mapping[str, MessagingSession]:
    """A session for every account, on a sandbox of the command's own or where the user says."""
    if sandbox:
        local = await stack.enter_async_context(Sandbox())
        endpoint = local.endpoint
        credentials = {
            name: Credentials("sandbox", "sandbox", f"sandbox-{name}", name) for name in accounts
        }
    else:
        endpoint = _loopback(Endpoint.from_env(place.region))
        credentials = {name: _credentials(name) for name in accounts}
    return {
        name: await stack.enter_async_context(
            MessagingSession(credentials[name], marketplace=place, endpoint=endpoint)
        )
        for name in accounts
    }


def _loopback(endpoint: Endpoint) -> Endpoint:
    if not endpoint.is_loopback:
        raise ConfigurationError(
            f"bulk does not send to {endpoint.api_url}: without a ledger, a run that breaks off "
            "could message buyers twice. Use --sandbox, or point SP_MESSAGING_API_URL and "
            "SP_MESSAGING_TOKEN_URL at this machine (see sp-messaging sandbox)"
        )
    return endpoint


def _credentials(account: str) -> Credentials:
    return Credentials.from_env(None if account == DEFAULT_ACCOUNT else account)


async def _send_list(
    sessions: Mapping[str, MessagingSession], messages: Iterator[Message], tally: Tally
) -> None:
    with _notes(), Watch(tally, _out) as watch:
        async with send_all(sessions, messages, concurrency=_CONCURRENCY) as outcomes:
            try:
                async for outcome in outcomes:
                    tally.count(outcome)
                    watch.show()
            except asyncio.CancelledError:  # Ctrl-C: what is in flight ends, and is counted
                await outcomes.aclose()
                async for outcome in outcomes:
                    tally.count(outcome)
                raise


# The plans of all kinds of message are used side by side as far as the list mixes them this far.
_CONCURRENCY = 1000


@contextmanager
def _notes() -> Iterator[None]:
    """Warnings about retired operations, as lines of their own."""

    def note(message: Warning | str, category: type[Warning], *place: object) -> None:
        if issubclass(category, RetiredOperationWarning):
            _out.print(f"note: {message}", style="yellow")

    with warnings.catch_warnings():
        warnings.simplefilter("always", RetiredOperationWarning)
        warnings.showwarning = note  # type: ignore[assignment]
        yield


def _close(tally: Tally) -> None:
    if not tally.number():
        return
    _out.print(closing_table(tally))
    for outcome in tally.named:
        order, reason = outcome.message.amazon_order_id, outcome.error
        _out.print(f"{outcome.status}: {reason or order}", markup=False, soft_wrap=True)
    left = tally.number() - tally.number("sent") - len(tally.named)
    if left:
        _out.print(f"and {left} more that were not sent")


def _status(tally: Tally) -> int:
    if tally.number("unknown"):
        return SOME_UNKNOWN
    if tally.number("planned"):
        return STOPPED
    return ALL_SENT if tally.number("sent") == tally.total else SOME_NOT_SENT
