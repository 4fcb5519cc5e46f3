"""Commands that need no account: the operations, and a local Amazon."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from rich.table import Table

from ..errors import ConfigurationError
from ..operations import OPERATIONS
from ..sandbox import Sandbox
from . import terminal
from .app import app

__all__ = ["operations", "sandbox"]


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
    terminal.out.print(table)


@app.command
async def sandbox(*, port: int = 8085) -> None:
    """Run a local Amazon on this machine until it is stopped.

    Parameters
    ----------
    port:
        Where to listen, on loopback; 0 takes any free port.
    """
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"--port {port} is no port; give a number from 0 to 65535")
    async with Sandbox(port=port) as local:
        terminal.say(
            f"A local Amazon listens on {local.url}; it messages nobody. Point a client at it:"
        )
        for name, value in _environment(local).items():
            terminal.say(f"  export {name}='{value}'")
        terminal.say("Ctrl-C stops it.")
        await asyncio.Event().wait()


def _environment(local: Sandbox) -> Mapping[str, str]:
    return {
        "SP_MESSAGING_API_URL": local.endpoint.api_url,
        "SP_MESSAGING_TOKEN_URL": local.endpoint.token_url,
        "LWA_APP_ID": "any",
        "LWA_CLIENT_SECRET": "any",
        "SP_API_REFRESH_TOKEN": "any",
        "SP_API_DEFAULT_MARKETPLACE": "US",
    }
