"""Commands about one order, lists as sellers have them, and where credentials are found."""

from __future__ import annotations

import csv
import functools
import json
import re
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sp_messaging_async import (
    CreateUnexpectedProblemRequest,
    Message,
    MessagingError,
    MessagingSession,
    Outcome,
    TransportError,
)
from sp_messaging_async.cli import exchanges, lists, options, orders, terminal
from sp_messaging_async.errors import CallContext
from sp_messaging_async.operations import OPERATIONS
from sp_messaging_async.sandbox import Fault
from sp_messaging_async.sandbox.uploads import Uploads

from .commands import (
    ANYWHERE,
    HEADER,
    NAME,
    PATIENCE,
    SECRETS,
    TEXT,
    Command,
    command,
    order,
    row,
    unix,
)
from .conftest import AT_ONCE

__all__ = ["command"]  # a fixture

ORDER = order(1)
NOTHING_SET = {"LWA_APP_ID": "", "LWA_CLIENT_SECRET": "", "SP_API_REFRESH_TOKEN": ""}


def one_line(errors: str) -> str:
    """The only line of an error."""
    (line,) = errors.splitlines()
    return line


# What may be sent, and in which language


def test_actions(command: Command) -> None:
    """Operations are shown by Amazon's names, with the names that Amazon has for them here."""
    command.sandbox.orders.set(ORDER, available=["createWarranty", "sendInvoice"])
    status, output = command("actions", ORDER)
    assert status == 0
    assert re.findall(r"│ (\w+) +│ ([\w, ]+\w) +│", output) == [
        ("createWarranty", "warranty"),
        ("sendInvoice", "invoice, sendInvoice"),
    ]
    assert command.delivered() == []


def test_actions_that_are_disabled(command: Command) -> None:
    """Of a kind that cannot be sent now, Amazon's reason is shown, and steers no terminal."""
    schema = {"disabled": True, "disabledReason": "too \x1b[2Jlate [b]"}
    action = {"payload": {"name": "confirmOrderDetails"}, "_embedded": {"schema": schema}}
    command.sandbox.messaging._read = lambda *_: {  # type: ignore[method-assign,assignment]
        "_links": {"actions": [{"href": "/", "name": "warranty"}]},
        "_embedded": {"actions": [action]},
    }
    status, output = command("actions", ORDER)
    assert status == 0
    assert "\x1b" not in output
    late = r"too .\[2Jlate \[b\]"
    assert re.search(rf"createConfirmOrderDetails │ confirmOrderDetails +│ {late} +│", output)
    assert re.search(r"createWarranty +│ warranty +│ +│", output)


def test_no_actions(command: Command) -> None:
    """An order to which nothing may be sent is told in a sentence."""
    command.sandbox.orders.set(ORDER, available=[])
    expected = f"no kind of message may be sent for order {ORDER} now\n"
    assert command("actions", ORDER) == (0, expected)


def test_attributes(command: Command) -> None:
    """The buyer's language is shown."""
    command.sandbox.orders.set(ORDER, locale="de-DE")
    assert command("attributes", ORDER) == (0, "locale: de-DE\n")


def test_attributes_without_a_language(command: Command) -> None:
    """Where Amazon tells no language, that is said."""
    command.sandbox.messaging._read = lambda *_: {"buyer": {}}  # type: ignore[method-assign,assignment]
    assert command("attributes", ORDER) == (0, "locale: Amazon does not tell\n")


@pytest.mark.parametrize("name", ["actions", "attributes"])
def test_questions_that_amazon_refuses(command: Command, name: str) -> None:
    """A refusal is told in a line with the order and Amazon's words, and the status is 2."""
    command.sandbox.faults.add(Fault.DENIED)
    status, output, errors = command.apart(name, ORDER)
    assert (status, output) == (2, "")
    assert ORDER in one_line(errors)
    assert "Amazon answered 403" in errors


# Sending one message


def test_send_a_text(command: Command) -> None:
    """A text reaches the buyer once; again sends nothing and says so, and --again sends."""
    words = ("send", NAME, ORDER, "--text", "Ausverkauft, schön.")
    assert command(*words) == (0, "sent\n")
    assert [d.request for d in command.sandbox.delivered] == [_problem("Ausverkauft, schön.")]
    before = "sent before, as the ledger knows; nothing was sent now\n"
    assert command(*words) == (0, before)
    assert command("send", "create_unexpected_problem", ORDER, "--text", "another") == (0, before)
    assert len(command.sandbox.delivered) == 1
    assert command(*words, "--again") == (0, "sent\n")
    assert command(*words) == (0, before)
    assert command(*words, "--again") == (0, "sent\n")
    assert len(command.sandbox.delivered) == 3


def _problem(text: str) -> Any:
    return CreateUnexpectedProblemRequest(text)


def test_send_and_bulk_know_of_each_other(command: Command) -> None:
    """What either sent, the other does not send again."""
    command("send", NAME, order(1), "--text", TEXT)
    status, output = command("bulk", command.write(HEADER + row(1) + row(2)))
    assert (status, command.delivered()) == (0, [order(1), order(2)])
    assert f"{NAME} for {order(1)}: sent in campaign 'send'" in output
    assert "sent before" in command("send", NAME, order(2), "--text", TEXT)[1]
    assert len(command.sandbox.delivered) == 2


def test_send_files(command: Command) -> None:
    """Files are uploaded and attached, in their order, under their names."""
    for name in ("one.pdf", "two.pdf"):
        command.write(f"%PDF {name}", name)
    words = ("--attach", "one.pdf", "--attach", "two.pdf")
    assert command("send", "sendInvoice", ORDER, *words) == (0, "sent\n")
    (delivered,) = command.sandbox.delivered
    files = [(file.name, file.content) for file in delivered.files]
    assert files == [("one.pdf", b"%PDF one.pdf"), ("two.pdf", b"%PDF two.pdf")]


def test_send_a_warranty(command: Command) -> None:
    """Dates alone are whole days of the zone that is named."""
    command.write("%PDF", "warranty.pdf")
    dates = ("--coverage-start-date", "2026-02-01", "--coverage-end-date", "2028-07-31")
    words = ("--attach", "warranty.pdf", *dates, "--timezone", "Europe/Berlin")
    assert command("send", "createWarranty", ORDER, *words) == (0, "sent\n")
    (delivered,) = command.sandbox.delivered
    request: Any = delivered.request
    assert request.coverage_start_date == datetime(2026, 1, 31, 23, tzinfo=UTC)
    assert request.coverage_end_date == datetime(2028, 7, 31, 21, 59, 59, tzinfo=UTC)


def test_send_nothing_but_the_order(command: Command) -> None:
    """An operation that takes nothing needs nothing."""
    assert command("send", "createNegativeFeedbackRemoval", ORDER)[0] == 0
    assert command.delivered() == [ORDER]


START, END = "--coverage-start-date", "--coverage-end-date"
BACKWARDS = [START, "2026-02-01", END, "2026-01-01"]
WRONG = [
    ([NAME, ORDER], f"--text: is missing; {NAME} needs it"),
    ([NAME, ORDER, "--text", ""], "--text: "),
    ([NAME, ORDER, "--text", "a@b.example"], "--text, character 1: an e-mail address"),
    ([NAME, ORDER, "--text", "<b>"], "--text, character 1: <b> is HTML"),
    ([NAME, ORDER, "--text", "x", "--attach", "a.pdf"], f"--attach: {NAME} sends none; leave it"),
    (["sendInvoice", ORDER], "--attach: is missing; sendInvoice needs it"),
    (["sendInvoice", ORDER, "--attach", "a.pdf", "--text", "x"], "--text: sendInvoice sends none"),
    (["sendInvoice", ORDER, "--attach", "none.pdf"], "--attach: none.pdf cannot be read: No such"),
    (["sendInvoice", ORDER, "--attach", "."], "--attach: . is no file"),
    (["sendInvoice", ORDER, "--attach", "empty.pdf"], "--attach: empty.pdf is empty"),
    (["nothing", ORDER], "OPERATION: 'nothing' is no operation; give one of "),
    (["getAttributes", ORDER], "OPERATION: getAttributes messages nobody"),
    ([NAME, "12", "--text", "x"], "ORDER: '12' is no order id of 3-7-7 digits"),
    ([NAME, "1/2", "--text", "x", "--any-order-id"], "ORDER: '1/2' is no order id"),
    ([NAME, "", "--text", "x"], "ORDER: "),
    ([NAME, ORDER, "--text", "x", START, "2026-01-01Z"], f"{START}: '2026-01-01Z' is no date"),
    ([NAME, ORDER, "--text", "x", START, ""], f"{START}: '' is no date"),
    ([NAME, ORDER, "--text", "x", START, "2026-01-01"], f"{START}: '2026-01-01' has no offset"),
    (
        ["createWarranty", ORDER, "--attach", "a.pdf", START, "2026-02-01Z", END, "2026-01-01"],
        f"{START}: '2026-02-01Z' is no date",
    ),
    (
        [*["createWarranty", ORDER, "--attach", "a.pdf", "--timezone", "UTC"], *BACKWARDS],
        f"{END}: 2026-01-01T23:59:59+00:00 lies before",
    ),
    ([NAME, ORDER, "--text", "x", "--timezone", "Berlin"], "--timezone 'Berlin' is none; name one"),
    ([NAME, ORDER, "--text", "x", "--timezone", ""], "--timezone '' is none"),
    ([NAME], "ORDER"),
    ([], "OPERATION"),
]


@pytest.mark.parametrize(
    ("words", "match"), WRONG, ids=[" ".join(words).replace(NAME, "N") or "-" for words, _ in WRONG]
)
def test_send_tells_what_is_wrong(command: Command, words: list[str], match: str) -> None:
    """What is missing, superfluous or wrong is told by its option, in a line; nothing is done."""
    command.write("%PDF", "a.pdf")
    command.write("", "empty.pdf")
    status, output, errors = command.apart("send", *words)
    assert (status, output) == (2, "")
    assert match in one_line(errors)
    assert command.sandbox.login.requests == 0
    assert not (command.folder / "data").exists()


def test_send_tells_all_that_is_wrong(command: Command) -> None:
    """Options that are missing and options that are superfluous are told together."""
    _, _, errors = command.apart("send", "sendInvoice", ORDER, "--text", "x")
    expected = (
        "--attach: is missing; sendInvoice needs it; --text: sendInvoice sends none; leave it out"
    )
    assert one_line(errors) == expected


def test_a_missing_file_is_not_recorded(command: Command) -> None:
    """Once a file that was missing is there, the same command sends it."""
    words = ("send", "sendInvoice", ORDER, "--attach", "a.pdf")
    assert command(*words)[0] == 2
    command.write("%PDF", "a.pdf")
    assert command(*words) == (0, "sent\n")
    assert command.report()["counts"] == {"sent": 1}


def test_what_was_rejected_may_be_mended(command: Command) -> None:
    """A message that Amazon refused has status 1, and may be sent otherwise, as often as needed."""
    command.sandbox.faults.add(Fault.HTML_ERROR, Fault.HTML_ERROR)
    for text in ("one", "two"):
        status, output, errors = command.apart("send", NAME, ORDER, "--text", text)
        assert (status, output) == (1, "")
        assert f"{NAME} for order {ORDER}: Amazon answered 400" in one_line(errors)
    assert command("send", NAME, ORDER, "--text", "three") == (0, "sent\n")
    assert "sent before" in command("send", NAME, ORDER, "--text", "four")[1]
    assert [d.request for d in command.sandbox.delivered] == [_problem("three")]


def test_what_is_available_instead(command: Command) -> None:
    """Of a kind that is not available, the status is 1 and those that are, are named."""
    available = ["createWarranty", "sendInvoice"]
    command.sandbox.orders.set(ORDER, available=available)
    status, output, errors = command.apart("send", NAME, ORDER, "--text", TEXT)
    assert (status, output) == (1, "")
    assert one_line(errors).endswith("; available now: createWarranty, sendInvoice")
    command.sandbox.orders.set(ORDER)
    assert command("send", NAME, ORDER, "--text", TEXT) == (0, "sent\n")


@pytest.mark.parametrize("fault", [Fault.DROPPED_AFTER, Fault.UNAVAILABLE], ids=lambda f: f.name)
def test_a_send_of_unknown_outcome(command: Command, fault: Fault) -> None:
    """The status is 3, again too, and the command that settles it is told as it stands."""
    command.sandbox.faults.add(fault)
    words = ("send", NAME, ORDER, "--text", TEXT, "--ledger", "my ledger")
    for _ in range(2):
        status, output, errors = command.apart(*words)
        assert (status, output) == (3, "")
        assert "the buyer may or may not have this message" in errors
        settle = f"ledger resolve {ORDER} {NAME} sent --ledger 'my ledger'"
        assert f"look at the order in Seller Central, and then: sp-messaging {settle}" in errors
    before = len(command.sandbox.delivered)
    resolve = ("ledger", "resolve", ORDER, NAME, "not-sent", "--ledger", "my ledger")
    assert command(*resolve)[0] == 0
    assert command(*words) == (0, "sent\n")
    assert len(command.sandbox.delivered) == before + 1
    assert command.report("--ledger", "my ledger")["counts"] == {"sent": 1}


def test_a_send_that_is_known_unsent(command: Command) -> None:
    """The status is 4, and the same command again sends it, leaving nothing planned."""
    words = ("send", NAME, ORDER, "--text", TEXT)
    status, output, errors = command.apart(*words, SP_API_REFRESH_TOKEN="revoked")
    assert (status, output) == (4, "")
    assert "invalid_grant" in errors
    assert errors.endswith("\nit was not sent; the same command again sends it\n")
    assert command(*words) == (0, "sent\n")
    assert command.report()["counts"] == {"sent": 1}


def test_send_to_the_commands_own_sandbox(command: Command) -> None:
    """With --sandbox nothing else is needed, nothing is kept, and a ledger that is named is."""
    words = ("send", NAME, ORDER, "--text", TEXT, "--sandbox")
    nothing = dict.fromkeys(command.environment().keys() - {"HOME", "XDG_DATA_HOME"}, "")
    assert command(*words, **nothing) == (0, "sent\n")
    assert command(*words, **nothing) == (0, "sent\n")
    assert not (command.folder / "data").exists()
    kept = (*words, "--ledger", "trial")
    assert command(*kept, **nothing) == (0, "sent\n")
    status, output = command(*kept, **nothing)
    assert (status, "sent before" in output) == (0, True)
    assert command.delivered() == []


def test_a_ledger_of_another_host(command: Command) -> None:
    """A ledger that is of another endpoint is refused, and nothing is sent."""
    words = ("send", NAME, ORDER, "--text", TEXT, "--ledger", "ledger")
    command(*words)
    status, output, errors = command.apart(*words, "--sandbox")
    assert (status, output) == (2, "")
    assert "name another ledger" in one_line(errors)


# What a seller's access is fit for


def verdicts(output: str) -> dict[str, str]:
    """What `check` found of each thing."""
    lines = [line.split(maxsplit=2) for line in output.splitlines()]
    return {what: verdict for what, verdict, _ in lines}


@pytest.mark.parametrize("words", [[], ["--order", ORDER], ["--sandbox"]], ids=str)
def test_all_is_well(command: Command, words: list[str]) -> None:
    """With all in order the status is 0; without an order a made-up one is asked about."""
    status, output = command("check", *words)
    assert status == 0
    assert set(verdicts(output).values()) == {"well"}
    assert ("made-up" in output) is ("--order" not in words)
    assert ("order        well" in output) is ("--order" in words)
    assert command.delivered() == []


@pytest.mark.parametrize("words", [[], ["--order", ORDER]], ids=str)
@pytest.mark.parametrize(
    ("variables", "fault", "wrong", "match"),
    [
        ({"LWA_CLIENT_SECRET": "invalid"}, None, "token", "401 invalid_client; check the client"),
        ({"SP_API_REFRESH_TOKEN": "revoked"}, None, "token", "400 invalid_grant; check the client"),
        ({}, Fault.REVOKED_TOKEN, "token", "refuses the access token"),
        ({}, Fault.DENIED, "role", "needs the role Buyer Communication"),
    ],
    ids=["secret", "revoked", "access token", "role"],
)
def test_what_is_wrong(
    command: Command,
    variables: dict[str, str],
    fault: Fault | None,
    wrong: str,
    match: str,
    words: list[str],
) -> None:
    """What is wrong is named once, with its remedy; what cannot be told for that is left open."""
    if fault is not None:
        command.sandbox.faults.add(fault, fault)
    status, output, errors = command.apart("check", *words, **variables)
    assert (status, errors) == (1, "")
    found = verdicts(output)
    assert [what for what, verdict in found.items() if verdict == "WRONG"] == [wrong]
    assert re.search(rf"^{wrong} +WRONG .*{match}", output, re.MULTILINE)
    assert found["clock"] == "well"
    assert found.get("order", "?") == "?"
    assert found["role"] != "well"
    assert command.delivered() == []


def test_an_order_that_amazon_does_not_know(command: Command) -> None:
    """What Amazon says of the order is told, and of the role that it answered."""
    command.sandbox.faults.add(Fault.HTML_ERROR)
    status, output = command("check", "--order", ORDER)
    assert status == 1
    assert verdicts(output) | {"plan": ""} == {
        **dict.fromkeys(("credentials", "token", "clock", "role"), "well"),
        "order": "WRONG",
        "plan": "",
    }


@pytest.mark.parametrize(
    ("hours", "match"), [(-1, "3,[56]\\d\\d s ahead"), (1, "s behind; set it")]
)
def test_a_clock_that_is_wrong(
    command: Command, monkeypatch: pytest.MonkeyPatch, hours: int, match: str
) -> None:
    """A clock that differs from Amazon's by more than minutes is told, and which way."""
    real = orders.parsedate_to_datetime
    monkeypatch.setattr(
        orders, "parsedate_to_datetime", lambda text: real(text) + timedelta(hours=hours)
    )
    status, output = command("check")
    assert status == 1
    assert [what for what, verdict in verdicts(output).items() if verdict != "well"] == ["clock"]
    assert re.search(match, output)


def test_a_rate_that_amazon_does_not_tell(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the answer names no rate, the usual one is told, and all else may be well."""
    monkeypatch.setattr(orders.Answers, "_note", _without_rate(orders.Answers._note))
    status, output = command("check")
    assert status == 0
    assert re.search(
        r"^plan +\? +Amazon told no rate; its default is 1 a second, burst 5$", output, re.MULTILINE
    )


def _without_rate(note: Any) -> Any:
    async def noted(answers: orders.Answers, *told: Any) -> None:
        await note(answers, *told)
        for host, head in answers.heads.items():
            answers.heads[host] = {"Date": head["Date"]}

    return noted


def test_an_amazon_that_is_not_reached(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that nobody reaches is told, and nothing is called wrong that nobody could see."""
    at_once = functools.partial(MessagingSession, retry=AT_ONCE)
    monkeypatch.setattr(options, "MessagingSession", at_once)
    for name in ("SP_MESSAGING_TOKEN_URL", "SP_MESSAGING_API_URL"):
        status, output = command("check", "--order", ORDER, **{name: "http://127.0.0.1:1"})
        assert status == 1
        assert "WRONG" not in output
        assert re.search(r"Amazon was not reached: .*ClientConnectorError", output)


def test_check_names_where_credentials_are(command: Command) -> None:
    """The account and the place of its credentials are shown; none at all are told in a line."""
    assert "account default, from the environment" in command("check")[1]
    path = credentials_file(command, "mine.toml", {"acme": "of acme"})
    words = ("check", "--credentials", path, "--account", "acme")
    assert "account acme, from mine.toml" in command(*words)[1]
    status, output, errors = command.apart("check", "--account", "nobody")
    assert (status, output) == (2, "")
    assert "SP_API_REFRESH_TOKEN_NOBODY is not set; set it, or write" in one_line(errors)


# Every exchange


def test_verbose_shows_every_exchange(command: Command) -> None:
    """Token, upload and message are shown with status, time, request id and rate; no secrets."""
    command.write("canary-content", "picture.png")
    text = 'canary-text "ä"'
    words = ("confirmCustomizationDetails", ORDER, "--text", text, "--attach", "picture.png")
    status, output, errors = command.apart("send", *words, "--verbose")
    assert (status, output) == (0, "sent\n")
    lines = errors.splitlines()
    assert [line.split()[0] for line in lines] == ["POST", "POST", "PUT", "POST"]
    assert re.search(r"/auth/o2/token \(\d+ bytes\) → 200, \d+ ms$", lines[0])
    assert re.search(r"&contentMD5=\S+ → 201, request id \S+, rate \S+, \d+ ms$", lines[1])
    assert re.search(r"/_uploads/\w+\?… \(14 bytes\) → 200, \d+ ms$", lines[2])
    assert re.search(r'"text": "\(15 characters\)".* → 201, request id \S+, rate ', lines[3])
    assert '"fileName": "picture.png"' in lines[3]
    assert "canary" not in errors


@pytest.mark.parametrize("content", ['{"text": "canary", "other": "canary"}', "42", "[1]"])
def test_verbose_shows_no_file(command: Command, content: str) -> None:
    """A file that happens to be JSON is sent, and shown by its size alone."""
    command.write(content, "notes.txt")
    words = ("confirmCustomizationDetails", ORDER, "--text", TEXT, "--attach", "notes.txt")
    status, output, errors = command.apart("send", *words, "--verbose")
    assert (status, output) == (0, "sent\n")
    assert f"?… ({len(content)} bytes) → 200" in errors
    assert "canary" not in errors


async def test_verbose_fails_no_exchange(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be told, as on a standard error that is full, is no failure of the exchange."""

    def full(text: str) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(terminal, "tell", full)
    http = exchanges.traced(exchanges.telling())
    async with http, http.get(command.sandbox.url) as answer:
        assert answer.status == 200


def test_verbose_shows_what_fails(command: Command) -> None:
    """A refusal is shown with Amazon's errors, and an answer that never came by its kind."""
    command.sandbox.faults.add(Fault.DENIED, Fault.DROPPED)
    denied = command.apart("send", NAME, order(1), "--text", "canary", "--verbose")[2]
    assert re.search(r" → 403, .*ms\n    Unauthorized: Access to requested resource", denied)
    dropped = command.apart("send", NAME, order(2), "--text", "canary", "--verbose")[2]
    assert re.search(r" → ServerDisconnectedError, \d+ ms\n", dropped)
    refused = command.apart("check", "--verbose", LWA_CLIENT_SECRET="invalid")[2]
    assert re.search(r"/auth/o2/token \(\d+ bytes\) → 401, \d+ ms\n", refused)
    assert "canary" not in denied + dropped + refused


def secrets_seen(command: Command, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every access token and presigned signature that the sandbox will give."""
    seen: list[str] = []
    create = Uploads.create

    def noted(*args: Any) -> Any:
        payload = create(*args)
        seen.extend(re.findall(r"[?&]X-Amz-\w+=([^&]{12,})", str(payload)))
        return payload

    monkeypatch.setattr(Uploads, "create", noted)
    return seen


def test_verbose_shows_no_secret_of_a_run(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run shows its exchanges on standard error, with no token, signature, file or text."""
    signatures = secrets_seen(command, monkeypatch)
    command.write("canary-content", "a.pdf")
    rows = f"{ORDER},confirmCustomizationDetails,canary-text,a.pdf\n"
    listed = command.write("order_id,operation,text,attachments\n" + rows)
    status, output, errors = command.apart("bulk", listed, "--verbose")
    assert (status, "canary" in output + errors) == (0, False)
    assert [line.split()[0] for line in errors.splitlines()] == ["POST", "POST", "PUT", "POST"]
    assert signatures
    for secret in (*signatures, *command.sandbox.login._tokens, "Atza"):
        assert secret not in output + errors


# A look at what would be sent

TEMPLATE = """
operation = "createConfirmOrderDetails"
default_locale = "en"

[text]
en = "Shall we wrap the {{ product }}?"
de = "Sollen wir {{ product }} einpacken?"
"""
PRODUCTS = f"order_id,product\n{order(1)},lamp\n{order(2)},vase\n"


def offline(command: Command, *words: str) -> tuple[int, str, str]:
    """A command without credentials or a ledger of its own; it asks Amazon nothing."""
    result = command.apart(*words, **NOTHING_SET)
    assert command.sandbox.login.requests == 0
    assert not (command.folder / "data").exists()
    return result


def test_preview(command: Command) -> None:
    """Each message is shown as it would be sent, up to a limit, and Amazon is asked nothing."""
    listed = command.write(HEADER + "".join(row(n, f"text {n}") for n in range(1, 6)))
    status, output, errors = offline(command, "preview", listed)
    assert (status, errors) == (0, "")
    assert [f"text {n}" in output for n in range(1, 6)] == [True, True, True, False, False]
    assert f"{NAME} for order {order(1)}\n  text 1\n" in output
    assert output.endswith("\n5 messages in all; nothing was sent\n")
    assert "text 5" in offline(command, "preview", listed, "--limit", "9")[1]


def test_preview_of_every_language(command: Command) -> None:
    """Each row is shown in every language of the template, and the default one is marked."""
    words = (command.write(PRODUCTS), "--template", command.write(TEMPLATE, "gift.toml"))
    status, output, _ = offline(command, "preview", *words, "--limit", "1")
    assert status == 0
    assert output == (
        f"createConfirmOrderDetails for order {order(1)}\n"
        "  [en, and for all other languages]\n  Shall we wrap the lamp?\n"
        "  [de]\n  Sollen wir lamp einpacken?\n\n"
        "2 messages in all; nothing was sent\n"
    )


def test_preview_of_files_and_dates(command: Command) -> None:
    """Files, coverage dates and the account are shown."""
    command.write("%PDF", "a.pdf")
    listed = command.write(
        "order_id,operation,attachments,coverage_start_date,account\n"
        f"{ORDER},createWarranty,a.pdf,2026-02-01T00:00:00+01:00,acme\n"
    )
    output = offline(command, "preview", listed)[1]
    assert f"createWarranty for order {ORDER}, account acme\n  file: a.pdf\n" in output
    assert "  coverage_start_date: 2026-0" in output
    assert output.endswith("\n1 message in all; nothing was sent\n")


def test_preview_tells_problems(command: Command) -> None:
    """Problems are told with their places, the good rows are shown, and the status is 1."""
    listed = command.write(HEADER + row(1) + row(2, "<b>") + row(3, "www.example.com"))
    status, output, _ = offline(command, "preview", listed)
    assert status == 1
    assert re.search(r"^  line 3:3, text: .*<b> is HTML", output, re.MULTILINE)
    assert re.search(r"^advice about 1 row:\n  line 4:3, text: ", output, re.MULTILINE)
    assert TEXT in output
    assert output.endswith("\n2 messages in all; nothing was sent\n")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], "no order list: name a file, or add --sandbox"),
        (["none.csv"], "none.csv cannot be read: No such file"),
        (["orders.csv", "--marketplace", "XX"], "XX"),
        (["orders.csv", "--template", "none.toml"], "none.toml"),
        (["orders.csv", "--timezone", "Mars"], "--timezone 'Mars' is none"),
        (["orders.csv", "--map", "text"], "--map 'text': write it as"),
        (["orders.csv", "--operation", "nothing"], "--operation 'nothing' is no operation"),
        (["orders.csv", "--operation", ""], "--operation '' is no operation"),
        (["orders.csv", "--operation", "getAttributes"], "getAttributes messages nobody"),
        (["orders.csv", "--attachments-from", "none"], "--attachments-from 'none' is no folder"),
        (["orders.csv", "--encoding", "utf-99"], "utf-99"),
    ],
    ids=str,
)
def test_preview_refuses(command: Command, words: list[str], match: str) -> None:
    """A wrong option is told in a line that names it, and the status is 2."""
    command.write(HEADER + row(1))
    status, output, errors = offline(command, "preview", *words)
    assert (status, output) == (2, "")
    assert match in one_line(errors)


def test_preview_of_the_sample(command: Command) -> None:
    """With --sandbox and no list, the sample that comes along is shown."""
    status, output, _ = offline(command, "preview", "--sandbox")
    assert status == 0
    assert "messages in all" in output


# Lists as sellers have them


def texts(command: Command) -> dict[str, str]:
    """What each buyer was sent."""
    return {d.amazon_order_id: getattr(d.request, "text", "") for d in command.sandbox.delivered}


def test_a_template_is_sent_in_the_buyers_language(command: Command) -> None:
    """Each buyer gets the text of their own language, or the default one; again sends nothing."""
    command.sandbox.orders.set(order(2), locale="de-AT")
    words = (command.write(PRODUCTS), "--template", command.write(TEMPLATE, "gift.toml"))
    assert command("bulk", *words)[0] == 0
    expected = {order(1): "Shall we wrap the lamp?", order(2): "Sollen wir vase einpacken?"}
    assert texts(command) == expected
    status, output = command("bulk", *words)
    assert (status, "nothing left to send" in output) == (0, True)
    assert len(command.sandbox.delivered) == 2


@pytest.mark.parametrize(
    ("content", "words", "match"),
    [
        ("operation = ", [], "gift.toml is no TOML"),
        (TEMPLATE.replace("en =", "xx-y-z ="), [], "text.xx-y-z"),
        (TEMPLATE.replace('"en"', '"fr"'), [], "default_locale: 'fr' has no text"),
        (TEMPLATE.replace("createConfirmOrderDetails", "sendInvoice"), [], "sends no text"),
        (TEMPLATE.replace("{{ product }}?", "{{ product"), [], "text.en, line 1"),
        (TEMPLATE, ["--text", "x"], "gift.toml says operation and text; leave"),
        (TEMPLATE, ["--operation", NAME], "gift.toml says operation and text; leave"),
    ],
    ids=["toml", "locale", "default", "operation", "jinja", "text", "and operation"],
)
def test_a_template_that_is_none(
    command: Command, content: str, words: list[str], match: str
) -> None:
    """What is wrong with a template is told in a line with its place."""
    template = command.write(content, "gift.toml")
    listed = command.write(PRODUCTS)
    status, output, errors = command.apart("bulk", listed, "--template", template, *words)
    assert (status, output) == (2, "")
    assert match in one_line(errors)


def test_a_list_without_operation_and_text(command: Command) -> None:
    """Operation, text and column names may come from options, and the list stays as it is."""
    listed = command.write(f"Bestellung;Kunde\n{order(1)};Ärger\n{order(2)};Öl\n")
    words = ("--map", "Bestellung=order_id", "--operation", "create_unexpected_problem")
    assert command("bulk", listed, *words, "--text", "Ausverkauft.")[0] == 0
    assert texts(command) == {order(1): "Ausverkauft.", order(2): "Ausverkauft."}


def test_a_list_in_another_encoding(command: Command) -> None:
    """A list in the encoding that is named is read as it was meant; without it, it is refused."""
    (command.folder / "orders.csv").write_bytes((HEADER + row(1, "schön")).encode("cp1252"))
    status, _, errors = command.apart("bulk", "orders.csv")
    assert status == 2
    assert "line 2" in errors
    assert command("bulk", "orders.csv", "--encoding", "windows-1252")[0] == 0
    assert texts(command) == {order(1): "schön"}


def test_a_list_of_invoices(command: Command) -> None:
    """Files may be named by a column, and a file that is missing is told with its row."""
    (command.folder / "invoices").mkdir()
    command.write("%PDF 1", f"invoices/{order(1)}.pdf")
    listed = command.write(f"order_id\n{order(1)}\n{order(2)}\n")
    words = (listed, "--operation", "sendInvoice", "--attach", "invoices/{order_id}.pdf")
    status, _, errors = command.apart("bulk", *words)
    assert status == 2
    assert re.search(rf"line 3.*, attachments: .*{order(2)}.pdf cannot be read", one_line(errors))
    command.write("%PDF 2", f"invoices/{order(2)}.pdf")
    assert command("bulk", *words)[0] == 0
    files = {d.amazon_order_id: [f.content for f in d.files] for d in command.sandbox.delivered}
    assert files == {order(1): [b"%PDF 1"], order(2): [b"%PDF 2"]}


def test_a_list_of_days(command: Command) -> None:
    """Dates without an offset are of the zone that is named, and refused without one."""
    command.write("%PDF", "a.pdf")
    listed = command.write(f"order_id,coverage_start_date\n{ORDER},2026-02-01\n")
    words = (listed, "--operation", "createWarranty", "--attach", "a.pdf")
    status, _, errors = command.apart("bulk", *words)
    assert status == 2
    assert "line 2:2, coverage_start_date: '2026-02-01' has no offset" in one_line(errors)
    assert command("bulk", *words, "--timezone", "Europe/Berlin")[0] == 0
    (delivered,) = command.sandbox.delivered
    request: Any = delivered.request
    assert request.coverage_start_date == datetime(2026, 1, 31, 23, tzinfo=UTC)


def test_advice_and_strict(command: Command) -> None:
    """What is advised against is sent with a note, and with --strict refused with its place."""
    listed = command.write(HEADER + row(1, "See www.example.com"))
    status, output, errors = command.apart("bulk", listed, "--strict")
    assert (status, output) == (2, "")
    assert "line 2:3, text: " in one_line(errors)
    status, output = command("bulk", listed)
    assert (status, command.delivered()) == (0, [ORDER])
    assert re.search(r"^advice about 1 row:\n  line 2:3, text: ", output, re.MULTILINE)


def test_advice_about_a_template(command: Command) -> None:
    """A template in another language than it says is noted, and with --strict refused."""
    text = "Sollen wir Ihre Bestellung als Geschenk verpacken? Bitte antworten Sie uns bald."
    template = command.write(re.sub("en = .*", f'en = "{text}"', TEMPLATE), "gift.toml")
    words = (command.write(PRODUCTS), "--template", template)
    status, output, errors = command.apart("bulk", *words, "--strict")
    assert (status, output) == (2, "")
    assert one_line(errors).startswith("gift.toml, text.en")
    status, output = command("bulk", *words, "--dry-run")
    assert status == 0
    assert "advice: gift.toml, text.en" in output


def test_quiet(command: Command) -> None:
    """With --quiet nothing is told of what went well, and what did not is."""
    listed = command.write(HEADER + row(1) + row(2) + row(1))
    assert command("bulk", listed, "--quiet") == (0, "")
    assert command("bulk", listed, "--quiet") == (0, "")
    command.sandbox.orders.set(order(3), available=["createWarranty"])
    status, output = command("bulk", command.write(HEADER + row(3) + row(4)), "--quiet")
    assert status == 1
    assert re.fullmatch(rf"skipped: .*\norder {order(3)}: available now: createWarranty\n", output)


def test_skipped_ones_name_what_is_available(command: Command) -> None:
    """After all reasons, the kinds that are available are named, or that none is."""
    command.sandbox.orders.set(order(1), available=["createWarranty", "sendInvoice"])
    command.sandbox.orders.set(order(2), available=[])
    status, output = command("bulk", command.write(HEADER + row(1) + row(2) + row(3)))
    assert (status, command.delivered()) == (1, [order(3)])
    lines = output.splitlines()
    assert [line.partition(":")[0] for line in lines[-4:-2]] == ["skipped", "skipped"]
    assert sorted(lines[-2:]) == [
        f"order {order(1)}: available now: createWarranty, sendInvoice",
        f"order {order(2)}: available now: none",
    ]


def test_many_skipped_ones(command: Command) -> None:
    """Amazon is asked about five; the rest is told where to look, with the options it needs."""
    for number in range(25):
        command.sandbox.orders.set(order(number), available=["createWarranty"])
    # Only from what it took does Amazon's rate become known.
    listed = command.write(HEADER + row(99) + "".join(map(row, range(25))))
    words = ("--ledger", "my ledger", "--campaign", "spring")
    status, output = command("bulk", listed, *words)
    assert status == 1
    assert len(re.findall(rf"^skipped: {NAME} for order", output, re.MULTILINE)) == 20
    listing = "sp-messaging ledger list --status skipped --ledger 'my ledger' --campaign spring"
    assert f"\nand 5 more skipped; see {listing}\n" in output
    assert output.count("available now: createWarranty") == 5
    assert output.endswith("\nwhat is available for an order: sp-messaging actions ORDER\n")


def test_an_outcome_names_its_message() -> None:
    """Whatever the reason says, operation and order stand before it, and not twice."""
    message = Message(ORDER, CreateUnexpectedProblemRequest("text"))
    context = CallContext(NAME, ORDER, 2)
    known = TransportError("no answer", write_began=False)
    known.context = context
    for error, reason in (
        (
            MessagingError("it was sent meanwhile"),
            f"{NAME} for order {ORDER}: it was sent meanwhile",
        ),
        (known, f"{NAME} for order {ORDER}, attempt 2: no answer"),
    ):
        assert lists._reason(Outcome(message, "skipped", None, error)) == reason


def test_unknown_ones_tell_how_they_are_settled(command: Command) -> None:
    """One line names the commands that list and settle what is unknown, again as well."""
    command.sandbox.faults.add(Fault.UNAVAILABLE)
    listed = command.write(HEADER + row(1))
    for _ in range(2):
        status, output = command("bulk", listed, "--ledger", "my ledger", "--quiet")
        assert status == 3
        last = output.splitlines()[-1]
        assert "sp-messaging ledger list --status unknown --ledger 'my ledger' " in last
        assert "ledger resolve ORDER OPERATION sent|not-sent --ledger 'my ledger'" in last


def test_a_ledger_that_is_thrown_away_is_not_named(command: Command) -> None:
    """Where nothing is kept, no command is named that would need it."""
    listed = command.write(HEADER + row(1) + row(2))
    status, output = command("bulk", listed, "--sandbox", "--limit", "1")
    assert status == 4
    assert output.endswith("1 message was not sent\n")


@unix
def test_a_run_that_is_stopped_asks_nothing_more(command: Command) -> None:
    """After Ctrl-C Amazon is not asked what is available, and nothing is said of withdrawals."""
    command.sandbox.plans.change(NAME, OPERATIONS[NAME].plan)
    command.sandbox.orders.set(order(0), available=["createWarranty"])
    listed = command.write(HEADER + "".join(map(row, range(50))))
    with command.started("bulk", listed, "--format", "jsonl") as process:
        process.until('"skipped"')
        process.popen.send_signal(signal.SIGINT)
        status, output = process.end()
    assert status == 4
    assert "withdrawn" not in output
    assert "available now" not in output
    assert "were not sent; the same command again sends what is left" in output
    assert output.endswith("what is available for an order: sp-messaging actions ORDER\n")


@unix
def test_ctrl_c_after_the_last_message(command: Command) -> None:
    """Ctrl-C ends the questions about what is available, and is no reason for another status."""
    command.sandbox.faults.add(Fault.HANG, operation="getMessagingActionsForOrder")
    command.sandbox.orders.set(ORDER, available=["createWarranty"])
    with command.started("bulk", command.write(HEADER + row(1))) as process:
        process.until("skipped: ")
        ends = time.monotonic() + PATIENCE
        while len(command.sandbox.faults):
            assert time.monotonic() < ends, "it does not ask what is available"
            time.sleep(0.01)
        process.popen.send_signal(signal.SIGINT)
        status, output = process.end()
    assert (status, "available now" in output) == (1, False)


# Outcomes as JSON Lines


def outcomes(output: str) -> dict[str, dict[str, Any]]:
    """The outcome of each order; each has one line, and there is nothing else."""
    found = [json.loads(line) for line in output.splitlines()]
    assert all(
        set(each) == {"order_id", "operation", "account", "status", "error"} for each in found
    )
    by_order = {each["order_id"]: each for each in found}
    assert len(by_order) == len(found)
    return by_order


@pytest.mark.parametrize("words", [[], ["--quiet"], ["--verbose"]], ids=str)
def test_json_lines_of_outcomes(command: Command, words: list[str]) -> None:
    """Standard output holds each outcome once and nothing else; all else is on standard error."""
    command.sandbox.faults.add(Fault.NOT_AVAILABLE, amazon_order_id=order(2))
    command.sandbox.faults.add(Fault.UNAVAILABLE, amazon_order_id=order(3))
    listed = command.write(HEADER + row(1) + row(2) + row(3) + row(1))
    status, output, errors = command.apart("bulk", listed, "--format", "jsonl", *words)
    assert status == 3
    found = outcomes(output)
    assert {key: each["status"] for key, each in found.items()} == {
        order(1): "sent",
        order(2): "skipped",
        order(3): "unknown",
    }
    assert (found[order(1)]["operation"], found[order(1)]["account"]) == (NAME, "default")
    assert found[order(1)]["error"] is None
    assert "not available" in found[order(2)]["error"]
    assert re.search(rf"^unknown: .*{order(3)}", errors, re.MULTILINE)
    assert ("1 row repeats an earlier row" in errors) is (words != ["--quiet"])
    status, output, errors = command.apart("bulk", listed, "--format", "jsonl", *words)
    assert (status, output) == (3, "")


def test_json_lines_of_a_dry_run(command: Command) -> None:
    """A dry run has no outcomes, and so nothing on standard output."""
    listed = command.write(HEADER + row(1))
    status, output, errors = command.apart("bulk", listed, "--dry-run", "--format", "jsonl")
    assert (status, output) == (0, "")
    assert "nothing was sent" in errors


def test_json_lines_before_a_refusal(command: Command) -> None:
    """What is shown before it asks is on standard error too."""
    listed = command.write(HEADER + row(1))
    status, output, errors = command.apart("bulk", listed, "--format", "jsonl", **ANYWHERE)
    assert (status, output) == (2, "")
    assert "add --yes to send" in errors


@unix
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_json_lines_of_a_run_that_is_stopped(command: Command, how: str) -> None:
    """Every outcome so far is there in whole lines, each once, however the run ends."""
    command.sandbox.plans.change(NAME, OPERATIONS[NAME].plan)
    listed = command.write(HEADER + "".join(map(row, range(50))))
    with command.started("bulk", listed, "--format", "jsonl", errors=subprocess.DEVNULL) as process:
        process.until('"sent"')
        process.popen.send_signal(getattr(signal, how))
        status, output = process.end()
    assert status == (-signal.SIGKILL if how == "SIGKILL" else 4)
    found = outcomes(output)
    sent = {key for key, each in found.items() if each["status"] == "sent"}
    if how == "SIGKILL":
        assert sent <= set(command.delivered())
    else:
        assert sorted(sent) == command.delivered()
        assert command.report()["counts"] == {"planned": 50 - len(sent), "sent": len(sent)}


# Reports


def test_a_report_for_people(command: Command) -> None:
    """An HTML report is one page with the counts, and without buyers' texts."""
    command.sandbox.faults.add(Fault.NOT_AVAILABLE, amazon_order_id=order(2))
    command("bulk", command.write(HEADER + row(1) + row(2)))
    assert command("report", "--format", "html", "--output", "report.html") == (0, "")
    page = (command.folder / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert order(2) in page
    assert TEXT not in page
    assert command("report", "--format", "html")[1].lower().startswith("<!doctype html>")


def test_a_report_for_a_spreadsheet(command: Command) -> None:
    """A CSV report has one byte order mark, and no cell that a spreadsheet runs as a formula."""
    command("bulk", command.write(HEADER + row(1)), "--campaign", "=1+2")
    assert command("report", "--format", "csv", "--output", "report.csv")[0] == 0
    written = (command.folder / "report.csv").read_bytes()
    assert written.startswith(b"\xef\xbb\xbforder_id,")
    assert written.count(b"\xef\xbb\xbf") == 1
    (found,) = csv.DictReader(written.decode("utf-8-sig").splitlines())
    assert (found["order_id"], found["campaign"]) == (ORDER, "'=1+2")
    assert command.report()["rows"][0]["campaign"] == "=1+2"


# Where credentials are found


def credentials_file(command: Command, name: str, tokens: dict[str, str], mode: int = 0o600) -> str:
    """Write a file with these refresh tokens by account; returns its name."""
    path = command.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {"lwa_app_id": "client", "lwa_client_secret": "canary-secret"}
    tables = {account: entries | {"refresh_token": token} for account, token in tokens.items()}
    if path.suffix == ".toml":
        lines = (
            [f"[{account}]", *(f'{key} = "{value}"' for key, value in table.items())]
            for account, table in tables.items()
        )
    else:
        lines = (
            [f"{account}:", *(f"  {key}: {value}" for key, value in table.items())]
            for account, table in tables.items()
        )
    path.write_text("\n".join(line for table in lines for line in table), encoding="utf-8")
    path.chmod(mode)
    return name


OWN = "config/sp-messaging/credentials.toml"
THEIRS = ".config/python-sp-api/credentials.yml"


def sellers(command: Command) -> set[str]:
    """The refresh tokens of those who sent."""
    return {each.seller for each in command.sandbox.delivered}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine.toml", ["--credentials", "mine.toml"]),
        ("mine.yaml", ["--credentials", "mine.yaml"]),
        ("mine.yml", ["--credentials", "mine.yml"]),
        (OWN, []),
        (THEIRS, []),
    ],
    ids=str,
)
@unix
def test_credentials_of_files(command: Command, name: str, words: list[str]) -> None:
    """Each kind of file serves its accounts, in lists and for single messages."""
    credentials_file(command, name, {"default": "of default", "acme": "of acme"})
    listed = command.write(HEADER.replace("\n", ",account\n") + f"{ORDER},{NAME},{TEXT},acme\n")
    assert command("bulk", listed, *words, **NOTHING_SET)[0] == 0
    assert sellers(command) == {"of acme"}
    single = ("send", NAME, order(2), "--text", TEXT, *words)
    assert command(*single, **NOTHING_SET) == (0, "sent\n")
    assert sellers(command) == {"of acme", "of default"}


@unix
def test_an_account_for_rows_that_name_none(command: Command) -> None:
    """--account is for them alone, to send as to preview."""
    credentials_file(command, OWN, {"default": "of default", "acme": "of acme", "x": "of x"})
    listed = command.write(
        HEADER.replace("\n", ",account\n")
        + f"{order(1)},{NAME},{TEXT},\n{order(2)},{NAME},{TEXT},x\n"
    )
    output = command("preview", listed, "--account", "acme")[1]
    assert f"for order {order(1)}, account acme\n" in output
    assert f"for order {order(2)}, account x\n" in output
    assert command("bulk", listed, "--account", "acme", **NOTHING_SET)[0] == 0
    assert sellers(command) == {"of acme", "of x"}


@unix
def test_credentials_in_their_order(command: Command) -> None:
    """A file that is named comes first, then the environment, the own file, and the other's."""
    for name in (THEIRS, OWN, "mine.toml"):
        credentials_file(command, name, {"default": f"of {name}"})
    send = ("send", NAME, ORDER, "--text", TEXT, "--again")
    seen = []
    for words, variables in (
        (["--credentials", "mine.toml"], {}),
        ([], {}),
        ([], NOTHING_SET),
    ):
        assert command(*send, *words, **variables)[0] == 0
        seen.append(command.sandbox.delivered[-1].seller)
    (command.folder / OWN).unlink()
    assert command(*send, **NOTHING_SET)[0] == 0
    seen.append(command.sandbox.delivered[-1].seller)
    token = SECRETS["SP_API_REFRESH_TOKEN"]
    assert seen == ["of mine.toml", token, f"of {OWN}", f"of {THEIRS}"]


TWO_ACCOUNTS = (
    f"order_id,operation,text,account\n{order(1)},{NAME},{TEXT},\n{order(2)},{NAME},{TEXT},nobody\n"
)


@unix
@pytest.mark.parametrize(
    ("name", "words", "match"),
    [
        ("", [], "SP_API_REFRESH_TOKEN_NOBODY is not set; set it, or write the account 'nobody'"),
        (OWN, [], "credentials.toml has no account 'nobody'"),
        ("mine.toml", ["--credentials", "mine.toml"], "mine.toml has no account 'nobody'"),
        ("", ["--credentials", "none.toml"], "none.toml cannot be read"),
    ],
    ids=["nowhere", "own file", "named file", "no file"],
)
def test_an_account_that_is_nowhere(
    command: Command, name: str, words: list[str], match: str
) -> None:
    """It is told with the places, on a terminal before the question, and nothing is sent to any."""
    if name:
        credentials_file(command, name, {"default": "of default"})
    listed = command.write(TWO_ACCOUNTS)
    status, output, errors = command.apart("bulk", listed, *words, **ANYWHERE)
    assert (status, output) == (2, "")
    assert match in one_line(errors)
    assert command.sandbox.login.requests == 0


@unix
def test_an_account_that_is_nowhere_is_told_before_the_question(command: Command) -> None:
    """On a terminal nobody is asked to type a number for what could not be sent anyway."""
    with command.terminal("bulk", command.write(TWO_ACCOUNTS), **command.elsewhere()) as process:
        status, output = process.end()
    assert status == 2
    assert "SP_API_REFRESH_TOKEN_NOBODY" in output
    assert "Type " not in output


def test_a_dry_run_tells_accounts_without_credentials(command: Command) -> None:
    """A dry run needs none, names the accounts that have none, and ends as the run would."""
    status, output = command("bulk", command.write(TWO_ACCOUNTS), "--dry-run")
    assert status == 2
    assert re.search(
        r"^account nobody: .*SP_API_REFRESH_TOKEN_NOBODY is not set", output, re.MULTILINE
    )
    assert "account default:" not in output


@unix
def test_a_file_that_others_can_read(command: Command) -> None:
    """It is noted on standard error, once for all accounts, and used."""
    credentials_file(command, OWN, {"default": "one", "nobody": "two"}, mode=0o644)
    words = ("bulk", command.write(TWO_ACCOUNTS), "--quiet")
    status, output, errors = command.apart(*words, **NOTHING_SET)
    assert (status, output) == (0, "")
    assert sellers(command) == {"one", "two"}
    note = f"note: {command.folder / OWN} can be read by others, and holds secrets; chmod 600 "
    assert errors == f"{note}keeps them to you\n"
    (command.folder / OWN).chmod(0o600)
    assert command.apart(*words, **NOTHING_SET) == (0, "", "")
