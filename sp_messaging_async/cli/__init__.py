"""The `sp-messaging` command.

`app` is the command itself, `options` what several commands take, `ledgers` which ledger they mean,
`terminal` how they talk. The commands: `lists` sends order lists, `orders` looks at one order and
messages its buyer, `records` shows and settles what a ledger knows, `local` runs a local Amazon,
`cluster` sends from many machines.
"""

from . import cluster, lists, local, orders, records
from .app import app, run

__all__ = ["app", "cluster", "lists", "local", "orders", "records", "run"]
