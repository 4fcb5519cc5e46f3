"""The report's page in a real browser, made from a real ledger."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from sp_messaging_async import (
    CreateUnexpectedProblemRequest,
    Error,
    Finding,
    InvalidMessage,
    LedgerRow,
    MessagingError,
    OutcomeUnknown,
    SQLiteLedger,
    TransportError,
    wire,
)
from sp_messaging_async.bulk.report import write_html
from sp_messaging_async.ledger import Planned, Settlement, Status

from .browser import Browser

TEXT = CreateUnexpectedProblemRequest("Sold out.")
LONG = "a-name-without-any-space-" * 20
FAILURES: list[MessagingError] = [
    wire.api_error(
        403, [Error("Unauthorized", "Invalid amazonOrderId and template combination.")], LONG
    ),
    wire.api_error(400, [Error("InvalidInput", LONG)], "request-1"),
    wire.api_error(400, [Error("InvalidInput", "<img src=x onerror=alert(1)>")], "request-2"),
    InvalidMessage(Finding("attachments", "is empty")),
    OutcomeUnknown(TransportError("no answer within 30 s", True)),
    OutcomeUnknown(wire.api_error(500, [Error("InternalFailure", "Sorry.")], None)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ledger and the page lie."""
    return tmp_path_factory.mktemp("report")


@pytest.fixture
async def written(folder: Path) -> tuple[Path, dict[Status, int]]:
    """A page, and the counts of the ledger that it is of."""
    path = folder / "report.html"
    async with SQLiteLedger(folder / "ledger.sqlite3") as ledger:
        if not path.exists():
            await fill(ledger)
        with path.open("w", encoding="utf-8") as file:
            made_at = datetime.now(UTC)
            await write_html(every(ledger), file, campaign=None, made_at=made_at)
        return path, dict(await ledger.counts())


async def fill(ledger: SQLiteLedger) -> None:
    """Forty messages of two accounts, of every status."""
    for number in range(40):
        account = LONG if number % 2 else "<script>alert(1)</script>"
        message = Planned(f"111-0000000-{number:07}", TEXT, account)
        row = await ledger.plan(message, "spring", "Amazon")
        if number >= 35:
            continue  # planned
        assert await ledger.intend(row.id, "call:me", time.time() + 1000)
        if number < 33:
            failure = FAILURES[number % 6] if number < 15 else None
            settled = Settlement.of_error(failure) if failure else Settlement("sent", "r")
            await ledger.settle(row.id, "call:me", settled)


async def every(ledger: SQLiteLedger) -> AsyncIterator[LedgerRow]:
    """The rows of a ledger."""
    for row in await ledger.rows():
        yield row


def numbers(browser: Browser) -> dict[str, int]:
    """The counts that can be read on the page."""
    found = browser.driver.find_elements(By.CSS_SELECTOR, "[data-count]")
    return {str(one.get_attribute("data-count")): int(one.text.replace(",", "")) for one in found}


def test_the_numbers_are_the_ledgers(
    browser: Browser, written: tuple[Path, dict[Status, int]]
) -> None:
    """Every count on the page is the ledger's, and groups and lists add up to them."""
    path, counts = written
    browser.open(path)
    shown = numbers(browser)
    assert shown.pop("all") == sum(counts.values()) == 40
    assert {status: number for status, number in shown.items() if number} == counts
    grouped: Counter[str] = Counter()
    for group in browser.driver.find_elements(By.CSS_SELECTOR, "[data-group]"):
        number = group.find_element(By.CLASS_NAME, "number").text
        grouped[str(group.get_attribute("data-group"))] += int(number)
    unknown = browser.driver.find_elements(By.CSS_SELECTOR, "[data-unknown]")
    assert {**grouped, "unknown": len(unknown), "sent": counts["sent"]} == counts


def test_a_page_asks_for_nothing(browser: Browser, written: tuple[Path, dict[Status, int]]) -> None:
    """The browser reads the one file, notes no error, and runs none of what the rows hold."""
    path, _ = written
    browser.open(path)
    assert browser.requests() == [path.as_uri()]
    assert browser.errors() == []
    assert browser.driver.find_elements(By.CSS_SELECTOR, "script, img, [onerror]") == []


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, written: tuple[Path, dict[Status, int]], width: int
) -> None:
    """Neither a telephone nor a desk needs to scroll to the side, whatever the names, all open."""
    path, _ = written
    browser.open(path, width)
    browser.driver.execute_script(
        "document.querySelectorAll('details').forEach(one => one.open = true)"
    )
    wide, inner = browser.driver.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= inner <= width


def test_the_chart_is_drawn(browser: Browser, written: tuple[Path, dict[Status, int]]) -> None:
    """The bars and the plan's line have a size on the screen, and a name for a screen reader."""
    path, counts = written
    browser.open(path, 400)
    chart = browser.driver.find_element(By.CSS_SELECTOR, "figure svg[role=img]")
    assert chart.accessible_name.startswith("Messages sent each second, ")
    bars = chart.find_elements(By.CSS_SELECTOR, "rect.bar")
    assert max(bar.size["height"] for bar in bars) > 50
    assert chart.find_element(By.CSS_SELECTOR, "path.planned").size["width"] > 10
    summary = browser.driver.find_element(By.CSS_SELECTOR, "figcaption").text
    assert f"{counts['sent']} sent in " in summary


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(
    browser: Browser, written: tuple[Path, dict[Status, int]], scheme: str
) -> None:
    """In either scheme, text has a contrast of 4.5 and lines of the chart one of 3."""
    path, _ = written
    browser.open(path, scheme=scheme)
    colours: dict[str, str] = browser.driver.execute_script(
        "const style = getComputedStyle(document.documentElement);"
        "return Object.fromEntries(['page', 'panel', 'text', 'soft', 'bar', 'plan'].map("
        "name => [name, style.getPropertyValue('--' + name).trim()]))"
    )
    for text in ("text", "soft"):
        assert contrast(colours[text], colours["page"]) >= 4.5
        assert contrast(colours[text], colours["panel"]) >= 4.5
    for line in ("bar", "plan"):
        assert contrast(colours[line], colours["page"]) >= 3


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as the Web Content Accessibility Guidelines define it."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Of a colour #rrggbb, from 0 to 1."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
