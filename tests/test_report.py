"""Reports: cells that no spreadsheet runs, and the page's chart, groups and escaping."""

from __future__ import annotations

import builtins
import csv
import io
import json
import re
import shlex
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sp_messaging_async import (
    ApiError,
    AuthenticationError,
    ConfigurationError,
    Error,
    Finding,
    InvalidMessage,
    LedgerRow,
    MessagingError,
    OutcomeUnknown,
    TransportError,
    UsagePlan,
    wire,
)
from sp_messaging_async.bulk.report import write_csv, write_html, write_json
from sp_messaging_async.bulk.report_chart import Timeline, draw
from sp_messaging_async.errors import CallContext
from sp_messaging_async.ledger import NotOffered, SentElsewhere, Settlement, Status
from sp_messaging_async.operations import MESSAGING, Operation

from .conftest import ORDER

NAME = "createUnexpectedProblem"
START = datetime(2026, 5, 14, 9, 0, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'&\u202e"


def row(status: Status = "sent", error: MessagingError | None = None, **changes: Any) -> LedgerRow:
    """A row of a ledger."""
    failure = None if error is None else Settlement.of_error(error, status).failure
    values: dict[str, Any] = {
        "id": 1,
        "campaign": "default",
        "amazon_order_id": ORDER,
        "operation": NAME,
        "account": "default",
        "marketplace": None,
        "status": status,
        "content": None,
        "attempts": 1,
        "request_id": "request-1",
        "failure": failure,
        "deadline": None,
        "enrolled_at": START,
        "changed_at": START,
        "sent_at": START if status == "sent" else None,
        **changes,
    }
    return LedgerRow(**values)


async def each(rows: Iterable[LedgerRow]) -> AsyncIterator[LedgerRow]:
    """Rows as a ledger gives them."""
    for one in rows:
        yield one


async def page(*rows: LedgerRow, campaign: str | None = None, ledger: Path | None = None) -> str:
    """The page of a report, of whatever is a space only one."""
    file = io.StringIO()
    await write_html(each(rows), file, campaign=campaign, made_at=START, ledger=ledger)
    return re.sub(r"\s+", " ", file.getvalue())


def refusal(status: int, code: str, message: str | None, details: str | None = None) -> ApiError:
    """Amazon's answer."""
    return wire.api_error(status, [Error(code, message, details)], "request-1")


# CSV


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
async def test_no_cell_is_a_formula(start: str) -> None:
    """A cell that a spreadsheet would run begins with an apostrophe, in whatever column it is."""
    formula = start + "cmd|' /C calc'!A0"
    hostile = row(
        "rejected",
        error=MessagingError(formula),
        campaign=formula,
        amazon_order_id=formula,
        account=formula,
        marketplace=formula,
        request_id=formula,
        content=formula,
    )
    file = io.StringIO()
    await write_csv(each([hostile]), file, show_text=True)
    (read,) = csv.DictReader(io.StringIO(file.getvalue().removeprefix("\ufeff"), newline=""))
    assert [value for value in read.values() if value.endswith("calc'!A0")] == ["'" + formula] * 7


async def test_other_cells_are_as_they_were() -> None:
    """An apostrophe stands before nothing that is harmless; what is unknown is empty."""
    file = io.StringIO()
    await write_csv(each([row(account="a=b", marketplace=None)]), file)
    (read,) = csv.DictReader(io.StringIO(file.getvalue().removeprefix("\ufeff"), newline=""))
    assert (read["account"], read["order_id"], read["marketplace"]) == ("a=b", ORDER, "")
    assert (read["attempts"], read["sent_at"]) == ("1", START.isoformat())


async def test_a_csv_says_that_it_is_utf_8() -> None:
    """It begins with one byte order mark, rows or none."""
    for rows in ([], [row(account="Zoë")]):
        file = io.StringIO()
        await write_csv(each(rows), file)
        assert file.getvalue().startswith("\ufefforder_id,")
        assert file.getvalue().count("\ufeff") == 1


async def test_json_is_left_as_it_is() -> None:
    """No spreadsheet reads JSON: values stand there as they are, with no mark before them."""
    file = io.StringIO()
    await write_json({"sent": 1}, each([row(account="=1")]), file)
    assert json.loads(file.getvalue())["rows"][0]["account"] == "=1"


# The page as a file


async def test_a_page_of_nothing() -> None:
    """An empty ledger gives a whole page, on which all counts are 0 and nothing is drawn."""
    text = await page()
    assert set(re.findall(r'data-count="\w+">([\d,]+)<', text)) == {"0"}
    assert "Nothing was sent yet." in text
    assert text.endswith("</html>")
    assert "<figure" not in text
    assert "<ul" not in text


async def test_the_counts_are_those_of_the_rows() -> None:
    """Every status has its count, and all have one, in digits that are grouped."""
    rows = [row("sent")] * 1234 + [row("sending")] * 2 + [row("planned")]
    found = dict(re.findall(r'data-count="(\w+)">([\d,]+)<', await page(*rows)))
    assert found == {
        "all": "1,237",
        "sent": "1,234",
        "skipped": "0",
        "rejected": "0",
        "unknown": "0",
        "planned": "1",
        "sending": "2",
    }


STATUSES: list[Status] = ["sent", "skipped", "rejected", "unknown", "planned", "sending"]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    "error",
    [
        None,
        MessagingError(HOSTILE),
        InvalidMessage(Finding(HOSTILE, HOSTILE)),
        TransportError(HOSTILE, True),
        refusal(400, HOSTILE, HOSTILE, HOSTILE),
        wire.api_error(418, [], None, HOSTILE),
    ],
    ids=["none", "text", "finding", "transport", "answer", "explanation"],
)
async def test_nothing_of_a_row_is_markup(status: Status, error: MessagingError | None) -> None:
    """Whatever a row or an option holds is text on the page, without what would turn its order."""
    names = ("campaign", "amazon_order_id", "account", "marketplace", "request_id", "content")
    hostile = row(status, error, **dict.fromkeys(names, HOSTILE))
    text = await page(hostile, campaign=HOSTILE, ledger=Path(HOSTILE))
    assert "<script" not in text
    assert "alert(1)" in text
    assert "\u202e" not in text


async def test_what_cannot_be_encoded_is_shown_otherwise() -> None:
    """Halves of surrogate pairs and control characters do not keep the page from being written."""
    text = await page(row("unknown", account="a\udc80b\x00c\x1b"))
    assert "a\ufffdb\ufffdc\ufffd" in text
    text.encode()


async def test_no_text_of_a_message_is_on_the_page() -> None:
    """Neither what is to be sent, nor what a finding quotes of it."""
    quoting = InvalidMessage(Finding("text", "<Ann is here> is HTML, which Amazon refuses", 3))
    text = await page(
        row("planned", content='{"text": "Dear Ann"}'),
        row("rejected", quoting),
        row("rejected", InvalidMessage(Finding("attachments", "'Ann.pdf' cannot be read"))),
    )
    assert "Ann" not in text
    assert "HTML, which Amazon refuses" in text
    assert "cannot be read" in text


async def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where jinja2 is missing, one line names the command that installs it, and nothing is read."""
    real_import = builtins.__import__

    def without_jinja(name: str, *rest: Any) -> Any:
        if name == "jinja2":
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_jinja)
    file, rows = io.StringIO(), each([row()])
    with pytest.raises(ConfigurationError, match=r'pip install "sp-messaging-async\[bulk\]"$'):
        await write_html(rows, file, campaign=None, made_at=START)
    assert file.getvalue() == ""
    assert [one async for one in rows] == [row()]


def test_the_template_ships() -> None:
    """It lies beside the code, and names no address that a browser would ask."""
    template = files("sp_messaging_async.bulk").joinpath("report.html.jinja").read_text("utf-8")
    assert "://" not in template
    assert "default-src 'none'" in template


# Groups


async def groups(*rows: LedgerRow) -> list[tuple[str, str, int]]:
    """The title, the words and the number of each group on the page."""
    found = re.findall(
        r'data-group="\w+"> <div class="head"><h3>(.*?)</h3><span class="number">([\d,]+)</span>'
        r"</div> (?:<p class=\"soft\">.*?<bdi>(.*?)</bdi></p>)?",
        await page(*rows),
    )
    return [(title, words, int(number.replace(",", ""))) for title, number, words in found]


DENIED = "Access to requested resource is denied."
EXPIRED = "The access token you provided has expired."


@pytest.mark.parametrize(
    ("status", "error", "title", "words"),
    [
        (
            "skipped",
            refusal(403, "Unauthorized", "Invalid amazonOrderId and template combination."),
            "Not available for the order",
            "403 Unauthorized: Invalid amazonOrderId and template combination.",
        ),
        (
            "skipped",
            NotOffered("not available for this order now; available: warranty"),
            "Not available for the order",
            "not available for this order now",
        ),
        (
            "skipped",
            SentElsewhere("it was sent meanwhile, or by another campaign of the ledger"),
            "Sent before",
            "it was sent meanwhile, or by another campaign of the ledger",
        ),
        (
            "rejected",
            refusal(400, "InvalidInput", "Attachment with ID sc/123-ab does not exist"),
            "The attachment did not arrive",
            "400 InvalidInput: Attachment with ID … does not exist",
        ),
        (
            "rejected",
            refusal(400, "InvalidInput", "text is too long"),
            "Amazon refused the content",
            "400 InvalidInput: text is too long",
        ),
        (
            "rejected",
            refusal(403, "Unauthorized", DENIED),
            "Not allowed to your application",
            f"403 Unauthorized: {DENIED}",
        ),
        (
            "planned",
            refusal(403, "Unauthorized", DENIED, EXPIRED),
            "The access token was refused",
            f"403 Unauthorized: {DENIED}",
        ),
        (
            "planned",
            refusal(429, "QuotaExceeded", "You exceeded your quota."),
            "Too many requests",
            "429 QuotaExceeded: You exceeded your quota.",
        ),
        (
            "rejected",
            InvalidMessage(Finding("attachments", "holds 6 where Amazon takes 0 to 5")),
            "Refused here, before it was sent",
            "attachments: holds 6 where Amazon takes 0 to 5",
        ),
        (
            "rejected",
            refusal(404, "NotFound", "No such order."),
            "Other answers",
            "404 NotFound: No such order.",
        ),
        ("rejected", wire.api_error(413, [], None, "an empty body"), "Other answers", None),
        ("planned", refusal(503, "Busy", "Later."), "Amazon failed", "503 Busy: Later."),
        ("planned", TransportError("refused", False), "No connection", "refused"),
        (
            "planned",
            AuthenticationError("Login with Amazon answered 400 invalid_grant"),
            "Login with Amazon gave no token",
            "Login with Amazon answered 400 invalid_grant",
        ),
        ("planned", MessagingError("it was withdrawn before it was sent"), "Put off", None),
        ("planned", None, "Not tried yet", ""),
        ("sending", None, "On their way", ""),
    ],
)
async def test_a_failure_has_its_advice(
    status: Status, error: MessagingError | None, title: str, words: str | None
) -> None:
    """Each kind of failure stands under a title of its own, with Amazon's first code and words."""
    ((found_title, found_words, number),) = await groups(row(status, error))
    assert (found_title, number) == (title, 1)
    assert words is None or found_words == words


async def test_what_differs_from_order_to_order_makes_no_group() -> None:
    """Failures that differ in ids, file names, orders or offers alone are one group."""

    def called(order: int) -> MessagingError:
        error = AuthenticationError("Login with Amazon answered 401")
        error.context = CallContext(NAME, f"111-{order}", order)
        return error

    for make in (
        lambda n: refusal(400, "InvalidInput", f"Attachment with ID sc/{n}-9999 does not exist"),
        lambda n: InvalidMessage(Finding("attachments", f"'{n}.pdf' cannot be read")),
        lambda n: InvalidMessage(Finding("text", f"<b{n}> is HTML, which Amazon refuses", n)),
        lambda n: NotOffered(f"not available for this order now; available: kind{n}"),
        called,
    ):
        assert len(await groups(*(row("rejected", make(n)) for n in range(1, 4)))) == 1


async def test_the_largest_group_comes_first() -> None:
    """Groups stand by their numbers, and each shows ten orders at most."""
    few = [row("rejected", refusal(404, "NotFound", "Gone."))] * 2
    many = [
        row("rejected", refusal(400, "InvalidInput", "Bad."), amazon_order_id=f"order-{n}")
        for n in range(11)
    ]
    assert [number for _, _, number in await groups(*few, *many)] == [11, 2]
    text = await page(*few, *many)
    assert "order-9<" in text
    assert "order-10<" not in text
    assert "The first 10 orders" in text


async def test_groups_do_not_grow_without_end() -> None:
    """A server that says each time something else makes few groups, and no message is lost."""
    rows = [row("rejected", refusal(400, "X", f"word {'x' * n}")) for n in range(200)]
    found = await groups(*rows)
    assert len(found) == 51
    assert sum(number for _, _, number in found) == 200
    assert found[0][1:] == ("in various words", 150)


# Unknown outcomes


async def test_an_unknown_outcome_has_its_commands() -> None:
    """It says why and when, with a line for either answer that settles this one message."""
    doubt = OutcomeUnknown(TransportError("no answer within 30 s", True))
    text = await page(row("unknown", doubt))
    assert "<p>no answer within 30 s</p>" in text
    assert "2026-05-14 09:00:00 UTC" in text
    for answer in ("sent", "not-sent"):
        assert f">sp-messaging ledger resolve {ORDER} {NAME} {answer}</code>" in text


async def test_commands_name_campaign_and_ledger() -> None:
    """Another campaign than the default one, and a ledger that was named, stand in the commands."""
    text = await page(row("unknown", campaign="spring"), ledger=Path("my books/ledger"))
    command = f"sp-messaging ledger resolve {ORDER} {NAME} sent --campaign spring --ledger "
    assert command + shlex.quote("my books/ledger").replace("'", "&#39;") in text


async def test_hostile_words_of_a_command_are_quoted() -> None:
    """What is pasted into a shell runs nothing that stands in a row."""
    text = await page(row("unknown", amazon_order_id="1; rm -rf ~", campaign="$(reboot)"))
    assert "resolve &#39;1; rm -rf ~&#39;" in text
    assert "--campaign &#39;$(reboot)&#39;" in text


async def test_many_unknown_outcomes() -> None:
    """After 500 the page counts them only, and names the command that lists all."""
    text = await page(*[row("unknown")] * 1502)
    assert text.count("<li data-unknown>") == 500
    assert "And 1,002 more:" in text
    assert ">sp-messaging ledger list --status unknown</code>" in text


# The chart


def timeline(seconds: Iterable[float], account: str = "default", **options: int) -> Timeline:
    """Sends at so many seconds after the start."""
    line = Timeline(**options)
    for second in seconds:
        line.add(account, NAME, START + timedelta(seconds=second))
    return line


def test_each_send_is_in_its_bar() -> None:
    """A short run has a bar for each second, and silence within it is a bar without sends."""
    (span,), earlier = timeline([0, 0.5, 1, 3.9]).spans(3)
    assert (list(span.sends), span.seconds, earlier) == ([2, 1, 0, 1], 1, 0)
    assert span.first == START.timestamp()


def test_buckets_double_and_lose_nothing() -> None:
    """When there are too many, two become one, as often as it takes."""
    line = timeline(range(1000), most_buckets=64)
    assert line.width == 16
    (span,), _ = line.spans(3)
    assert sum(span.sends) == 1000
    assert span.rates() == pytest.approx([1] * len(span.sends), abs=0.5)


@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=80), st.integers(1, 40))
def test_whatever_the_order_the_chart_is_the_same(seconds: list[int], most: int) -> None:
    """Bars hold every send and the plan covers each, in whatever order the rows came."""
    spans, earlier = timeline(seconds, most_buckets=most).spans(1000)
    assert (spans, earlier) == timeline(sorted(seconds), most_buckets=most).spans(1000)
    assert sum(sum(span.sends) for span in spans) == len(seconds)
    assert all(
        plan >= 1
        for span in spans
        for sends, plan in zip(span.sends, span.plan, strict=True)
        if sends
    )


def test_a_long_run_has_few_bars() -> None:
    """No span has more than 100 bars, and the last one is as long as what is left."""
    (span,), _ = timeline(range(250)).spans(3)
    assert (len(span.sends), span.seconds) == (84, 3)
    assert (span.sends[-1], span.lengths()[-1], span.rates()[-1]) == (1, 1, 1)


def test_a_silence_ends_a_span() -> None:
    """A run that was resumed days later is two spans; a pause of a quarter of an hour is none."""
    days = 3 * 86_400
    spans, _ = timeline([0, 10, 900, days, days + 5]).spans(3)
    assert [sum(span.sends) for span in spans] == [3, 2]
    assert [span.end - span.first for span in spans] == [901, 6]


def test_only_the_last_spans_are_drawn() -> None:
    """How many were before them is told."""
    spans, earlier = timeline(range(0, 50_000, 10_000)).spans(3)
    assert [span.first - START.timestamp() for span in spans] == [20_000, 30_000, 40_000]
    assert earlier == 2


def test_the_plan_adds_up_the_lanes_then_active() -> None:
    """Each account and operation counts from its first send of the span to its last."""
    line = timeline(range(10))
    for second in range(3, 6):
        line.add("other", NAME, START + timedelta(seconds=second))
        line.add("other", "sendInvoice", START + timedelta(seconds=second))
    line.add("other", NAME, START + timedelta(days=1))
    first, second = line.spans(3)[0]
    assert list(first.plan) == [1, 1, 1, 3, 3, 3, 1, 1, 1, 1]
    assert list(second.plan) == [1]


def test_the_plan_is_that_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane's rate is its operation's, as `operations` has it."""
    known = MESSAGING[NAME]
    faster = Operation(
        NAME, "POST", known.path, known.request, known.response, plan=UsagePlan(rate=7, burst=9)
    )
    monkeypatch.setattr("sp_messaging_async.bulk.report_chart.OPERATIONS", {NAME: faster})
    ((span,), _) = timeline([0, 1]).spans(3)
    assert list(span.plan) == [7, 7]


def test_the_axis_holds_bars_and_plan() -> None:
    """The top is a round number at or above both, with its half and 0 below."""
    chart = draw(timeline([0] * 7 + [1]).spans(1)[0][0])
    assert [(tick.place, tick.label) for tick in chart.rates] == [(100, "0"), (50, "4"), (0, "8")]
    assert (chart.bars[0].height, chart.bars[0].y) == (87.5, 12.5)
    assert chart.plan.startswith("M0.00 87.50H100.00L")


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        ([0], ["09:00:00", "09:00:05", "09:00:10"]),
        ([0, 899], ["09:00", "09:05", "09:10", "09:15"]),
        (range(0, 200_000, 600), ["05-15 00:00", "05-16 00:00"]),
    ],
)
def test_times_are_readable(seconds: Iterable[float], labels: list[str]) -> None:
    """Labels stand at round times, few of them, with the date where there is more than one day."""
    chart = draw(timeline(seconds).spans(1)[0][0])
    assert [tick.label for tick in chart.times] == labels
    assert all(0 <= tick.place <= 100 for tick in chart.times)


def test_a_chart_in_words() -> None:
    """Its title names the time, and its summary what was sent and what the plan allows."""
    chart = draw(timeline(range(120)).spans(1)[0][0])
    assert chart.title == "2026-05-14 09:00:00 to 09:02:00 UTC"
    sent = "120 sent in 2 min: 1.00 a second on average"
    assert chart.summary == f"{sent}; the default plan allows up to 1 a second."


def test_the_plan_in_words_is_the_highest() -> None:
    """What the plans allow is their highest sum, which a time with less to send does not lower."""
    line = timeline(range(100))
    line.add("other", NAME, START)
    chart = draw(line.spans(1)[0][0])
    assert chart.summary.endswith("; the default plan allows up to 2 a second.")


async def test_a_page_says_whose_plan_it_is() -> None:
    """The plan that is drawn is Amazon's default, and an account may have been granted more."""
    text = await page(row("sent"))
    assert "Amazon's default plan" in text
    assert "Amazon may grant an account more" in text


async def test_what_was_settled_by_hand_is_in_no_chart() -> None:
    """A message that was found in Seller Central has no time, which the page says."""
    text = await page(row("sent"), row("sent", sent_at=None))
    assert "1 sent in 1 s" in text
    assert "1 more were found in Seller Central" in text
