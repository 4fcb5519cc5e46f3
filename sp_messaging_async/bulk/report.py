"""What became of all messages: a table, JSON or CSV, written row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator, Mapping
from typing import TextIO

from rich.console import Console
from rich.table import Table

from ..ledger import LedgerRow, Status

__all__ = ["write_csv", "write_json", "write_table"]

_COLUMNS = (
    "order_id",
    "operation",
    "account",
    "marketplace",
    "campaign",
    "status",
    "request_id",
    "error",
    "attempts",
    "enrolled_at",
    "changed_at",
    "sent_at",
)


def write_table(counts: Mapping[Status, int], file: TextIO) -> None:
    """The number of messages of each status."""
    table = Table("status", "messages")
    for status, number in counts.items():
        table.add_row(status, str(number))
    table.add_section()
    table.add_row("all", str(sum(counts.values())))
    Console(file=file).print(table)


async def write_json(
    counts: Mapping[Status, int],
    rows: AsyncIterator[LedgerRow],
    file: TextIO,
    *,
    show_text: bool = False,
) -> None:
    """One object: {"counts": {status: number}, "rows": [{"order_id": …}]}."""
    file.write(f'{{"counts": {json.dumps(dict(counts))}, "rows": [')
    separator = "\n"
    async for row in rows:
        file.write(separator + json.dumps(_values(row, show_text=show_text), ensure_ascii=False))
        separator = ",\n"
    file.write("\n]}\n")


async def write_csv(
    counts: Mapping[Status, int],
    rows: AsyncIterator[LedgerRow],
    file: TextIO,
    *,
    show_text: bool = False,
) -> None:
    """A line for every message, under a header. Of the counts it has no need."""
    columns = (*_COLUMNS, "content") if show_text else _COLUMNS
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    async for row in rows:
        writer.writerow(_values(row, show_text=show_text))


def _values(row: LedgerRow, *, show_text: bool) -> dict[str, object]:
    values: dict[str, object] = {
        "order_id": row.amazon_order_id,
        "operation": row.operation,
        "account": row.account,
        "marketplace": row.marketplace,
        "campaign": row.campaign,
        "status": row.status,
        "request_id": row.request_id,
        "error": str(row.error) if row.error else None,
        "attempts": row.attempts,
        "enrolled_at": row.enrolled_at.isoformat(),
        "changed_at": row.changed_at.isoformat(),
        "sent_at": row.sent_at.isoformat() if row.sent_at else None,
    }
    return {**values, "content": row.content} if show_text else values
