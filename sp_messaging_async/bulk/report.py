"""What became of all messages: a table, JSON or CSV, written row by row, or a page for people."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from ..ledger import LedgerRow, Status
from .report_page import Page

__all__ = ["write_csv", "write_html", "write_json", "write_table"]

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
    for status, number in sorted(counts.items()):
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
    file.write(f'{{"counts": {json.dumps(dict(sorted(counts.items())))}, "rows": [')
    separator = "\n"
    async for row in rows:
        file.write(separator + json.dumps(_values(row, show_text=show_text), ensure_ascii=False))
        separator = ",\n"
    file.write("\n]}\n")


async def write_csv(
    rows: AsyncIterator[LedgerRow], file: TextIO, *, show_text: bool = False
) -> None:
    """A line for every message, under a header.

    It begins with a byte order mark, without which a spreadsheet takes UTF-8 for another encoding.
    """
    file.write("\ufeff")
    columns: tuple[str, ...] = (*_COLUMNS, "content") if show_text else _COLUMNS
    writer: csv.DictWriter[str] = csv.DictWriter(file, columns)
    writer.writeheader()
    async for row in rows:
        values = _values(row, show_text=show_text)
        writer.writerow({name: _harmless(value) for name, value in values.items()})


async def write_html(
    rows: AsyncIterator[LedgerRow],
    file: TextIO,
    *,
    campaign: str | None,
    made_at: datetime,
    ledger: Path | str | None = None,
) -> None:
    """One page that needs nothing beside it, for a browser. It counts for itself.

    campaign: the only one that the rows are of, or None.
    made_at: when, aware.
    ledger: its file or address, where the commands on the page must name it.

    Raises ConfigurationError, with nothing read or written, if the extra `bulk` is not installed.
    """
    page = Page(campaign, made_at, ledger)
    async for row in rows:
        page.add(row)
    file.write(page.html())


# What makes a spreadsheet run a cell; the wide forms do so in some languages.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def _harmless(value: object) -> object:
    """A cell that no spreadsheet runs as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


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
