"""Commands that need no account: the operations, and a local Amazon."""

from __future__ import annotations

import asyncio
import webbrowser

from rich.table import Table

from ..errors import ConfigurationError
from ..marketplaces import is_loopback
from ..operations import OPERATIONS
from . import terminal
from .app import app
from .options import Flag

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
async def sandbox(
    *,
    port: int = 8085,
    host: str = "127.0.0.1",
    allow_remote: Flag = False,
    open: Flag = False,  # noqa: A002 - the option's name
) -> None:
    """Run a local Amazon on this machine until it is stopped; its page shows the buyers' inbox.

    Parameters
    ----------
    port:
        Where to listen; 0 takes any free port.
    host:
        Where to listen: an address of this machine. Others than loopback need --allow-remote.
    allow_remote:
        Let other machines in, as a container must. Whoever reaches it sees and changes all.
    open:
        Open the page in a browser.
    """
    from ..sandbox import Sandbox  # a web server, for whoever asks for it

    if not 0 <= port <= 65535:
        raise ConfigurationError(f"--port {port} is no port; give a number from 0 to 65535")
    if not (allow_remote or is_loopback(host)):
        raise ConfigurationError(
            f"--host {host} lets other machines in; add --allow-remote if they may come"
        )
    async with Sandbox(host, port) as local:
        terminal.say(f"A local Amazon listens on {local.url}; it messages nobody.")
        terminal.say(f"Open {local.url}/ to see what buyers get. Point a client at it:")
        for name, value in local.environment().items():
            terminal.say(f"  export {name}='{value}'")
        terminal.say("Ctrl-C stops it.")
        if open:
            await asyncio.to_thread(webbrowser.open, f"{local.url}/")
        await asyncio.Event().wait()
