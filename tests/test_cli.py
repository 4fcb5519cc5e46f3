"""The command: what it prints, what it sends, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App
from rich.console import Console

from sp_messaging_async import cli, operations
from sp_messaging_async.bulk.progress import Tally
from sp_messaging_async.cli import records
from sp_messaging_async.cli.display import Watch
from sp_messaging_async.operations import OPERATIONS
from sp_messaging_async.sandbox import Fault

from .commands import (
    ANYWHERE,
    HEADER,
    NAME,
    PATIENCE,
    SECRETS,
    TEXT,
    Command,
    checked,
    command,
    order,
    row,
    unix,
)

__all__ = ["command"]  # a fixture

FULL = Path("/dev/full")
full_disk = pytest.mark.skipif(not FULL.exists(), reason="only Linux has such a device")

# What it is


def commands(of: App) -> Iterator[App]:
    """An app and all its commands."""
    yield of
    for name in of:
        if not name.startswith("-"):
            yield from commands(of[name])


def test_every_command_and_option_is_explained() -> None:
    """Each command has a help text, and each of its options an entry in it."""
    explained = 0
    for each in commands(cli.app):
        assert each.help, each.name
        if each.default_command is not None:
            for argument in each.assemble_argument_collection(parse_docstring=True):
                if argument.name != "*":  # several options, which are arguments of their own
                    assert argument.parameter.help, (each.name, argument.name)
                    explained += 1
    assert explained > 90


@pytest.mark.parametrize("of", list(commands(cli.app)), ids=lambda of: of.name[0])
def test_help_is_for_everyone(command: Command, of: App) -> None:
    """Help is shown without credentials or a ledger, and shows nothing of those there are."""
    words = dict.fromkeys(("list", "resolve", "purge", "salvage"), "ledger")
    words |= dict.fromkeys(("init", "status"), "cluster")
    name = of.name[0]
    path = [] if name == "sp-messaging" else [word for word in (words.get(name), name) if word]
    status, output = command(*path, "--help", LWA_APP_ID="canary-client")
    assert (status, "Usage: ") == (0, output[:7])
    assert "canary" not in output


def test_operations_are_the_tables(command: Command) -> None:
    """The operations that are shown are those of the table, each in a line, with its plan."""
    status, output = command("operations")
    assert status == 0
    assert re.findall(r"│ (\w+) +│", output) == list(OPERATIONS)
    assert output.count("1/s, burst 5") == 13
    assert output.count("2025-08-04") == output.count("2026-01-30") == 1


def test_it_runs_as_a_module(command: Command) -> None:
    """`python -m sp_messaging_async` is the command, and the operations fit into 80 columns."""
    status, output = command.process("operations")
    assert status == 0
    assert re.findall(r"│ (\w+) +│", output) == list(OPERATIONS)
    assert max(map(len, output.splitlines())) <= 80


@unix
def test_the_sandbox_says_how_to_reach_it(command: Command) -> None:
    """The variables that it prints work as they stand, and Ctrl-C ends it without a word."""
    orders = command.write(HEADER + row(1))
    with command.started("sandbox", "--port", "0") as process:
        shown = process.until("Ctrl-C")
        variables = dict(re.findall(r"export (\w+)='(.+)'", shown))
        assert {"LWA_APP_ID", "SP_MESSAGING_API_URL", *SECRETS} <= variables.keys()
        status, output = command("bulk", orders, **variables)
        assert (status, command.delivered()) == (0, [])
        assert re.search(r"all +│ +1", output)
        process.popen.send_signal(signal.SIGINT)
        status, output = process.end()
        assert status >= 0
        assert len(output.splitlines()) == len(shown.splitlines())


@unix
def test_the_sandbox_opens_its_page(command: Command) -> None:
    """With --open, a browser is led to the page, which is there; --allow-remote lets others in."""
    browser = command.folder / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > opened\n')
    browser.chmod(0o700)
    words = ("sandbox", "--port", "0", "--open", "--host", "0.0.0.0", "--allow-remote")  # noqa: S104
    with command.started(*words, BROWSER=str(browser)) as process:
        shown = process.until("Ctrl-C stops it.")
        (url,) = re.findall(r"Open (http\S+/) ", shown)
        ends = time.monotonic() + PATIENCE
        while not (command.folder / "opened").exists() and time.monotonic() < ends:
            time.sleep(0.01)
        assert (command.folder / "opened").exists()
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310
            assert b"<title>" in answer.read()


MISTAKES = [
    (["nothing"], "nothing"),
    (["bulk", "orders.csv", "--nothing"], "--nothing"),
    (["bulk", "orders.csv", "other.csv"], "other.csv"),
    (["bulk"], "no order list: name a file"),
    (["bulk", "none.csv"], "cannot be read: No such file"),
    (["bulk", "."], "cannot be read: Is a directory"),
    (["bulk", "loop.csv"], "loop.csv cannot be read: "),
    (["bulk", "orders.csv", "--marketplace", "XX"], "no marketplace"),
    (["bulk", "orders.csv", "--limit", "0"], "--limit 0 is too few; give 1 or more"),
    (["bulk", "orders.csv", "--limit", "few"], "--limit"),
    (["bulk", "orders.csv", "--ledger", "none/there"], "none/there"),
    (["bulk", "orders.csv", "--ledger", "orders.csv/ledger"], "orders.csv/ledger"),
    (["bulk", "orders.csv", "--ledger", "data"], "data"),
    (["bulk", "orders.csv", "--ledger", "orders.csv"], "orders.csv is no ledger"),
    (["report"], "there is no ledger"),
    (["report", "--format", "xml"], "--format"),
    (["ledger", "list"], "there is no ledger"),
    (["ledger", "list", "--ledger", "orders.csv"], "no ledger"),
    (["ledger", "list", "--status", "lost"], "--status"),
    (["ledger", "resolve", "1"], "ORDER OPERATION"),
    (["ledger", "resolve", "1", NAME, "perhaps"], "perhaps"),
    (["ledger", "resolve", "1", "--from-csv", "orders.csv"], "in place of all three"),
    (["ledger", "resolve", "1", NAME, "sent", "--from-csv", "orders.csv"], "in place of all"),
    (["report", "--show-text"], "--show-text is not for --format table; give json or csv"),
    (["report", "--show-text", "--format", "html"], "--show-text is not for --format html"),
    (["preview", "orders.csv", "--verbose"], "--verbose"),
    (["preview", "orders.csv", "--limit", "0"], "--limit 0 is too few; give 1 or more"),
    (["ledger", "resolve", "--from-csv", "none.csv"], "none.csv"),
    (["ledger", "purge"], "--older-than"),
    (["ledger", "purge", "--older-than", "soon", "--ledger", "orders.csv"], "30d"),
    (["ledger", "salvage"], "there is no ledger"),
    (["sandbox", "--port", "many"], "--port"),
    (["sandbox", "--port", "99999"], "--port"),
    (["sandbox", "--host", "0.0.0.0"], "--allow-remote"),  # noqa: S104 - it is refused
    (["sandbox", "--host", "shop.example"], "--allow-remote"),
]


@unix
@pytest.mark.parametrize(
    ("words", "match"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES]
)
def test_mistakes_are_one_line(command: Command, words: list[str], match: str) -> None:
    """A mistake is told in a line with its remedy, the status is 2, and nothing is sent."""
    command.write(HEADER + row(1))
    (command.folder / "data").mkdir()
    (command.folder / "loop.csv").symlink_to("loop.csv")
    status, output, errors = command.apart(*words)
    assert (status, output) == (2, "")
    assert match in errors
    assert len(errors.splitlines()) == 1
    assert command.sandbox.login.requests == 0


@pytest.mark.parametrize("ledger", ["", "/"])
def test_a_folder_is_no_ledger(command: Command, ledger: str) -> None:
    """A folder, or an empty name, in place of a ledger's file is refused in a line."""
    orders = command.write(HEADER + row(1))
    with command.started("bulk", orders, "--ledger", ledger) as process:
        status, output = process.end(5)  # a hang is a failure
    assert status == 2
    assert len(output.splitlines()) == 1
    assert command.delivered() == []


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"SP_API_DEFAULT_MARKETPLACE": ""}, "SP_API_DEFAULT_MARKETPLACE"),
        ({"LWA_APP_ID": ""}, "LWA_APP_ID is not set"),
        ({"LWA_CLIENT_SECRET": ""}, "LWA_CLIENT_SECRET is not set"),
        ({"SP_API_REFRESH_TOKEN": ""}, "SP_API_REFRESH_TOKEN is not set"),
        ({"SP_MESSAGING_API_URL": "http://api.example"}, "SP_MESSAGING_ALLOW_HTTP"),
        ({"SP_MESSAGING_API_URL": "http://u:canary-secret@localhost"}, "api_url"),
        ({"SP_MESSAGING_TOKEN_URL": "http//u:canary-secret@localhost"}, "token_url"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line(
    command: Command, variables: dict[str, str], match: str
) -> None:
    """A variable that is missing or wrong is named in a line, without what it holds if secret."""
    orders = command.write(HEADER + row(1))
    status, output, errors = command.apart("bulk", orders, **variables)
    assert (status, output) == (2, "")
    assert match in errors
    assert len(errors.splitlines()) == 1
    assert command.sandbox.login.requests == 0


def test_a_data_folder_that_cannot_be_made(command: Command) -> None:
    """It is told in a line that names it."""
    orders = command.write(HEADER + row(1))
    file = str(command.folder / orders)
    status, output, errors = command.apart("bulk", orders, XDG_DATA_HOME=file)
    assert (status, output) == (2, "")
    assert file in errors
    assert len(errors.splitlines()) == 1


def test_a_missing_extra_is_one_line(command: Command) -> None:
    """Without the extra that the command needs, it says what to install."""
    program = (
        "import sys; sys.modules['cyclopts'] = None\n"
        "from sp_messaging_async.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        **command.setting(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.splitlines()) == 1
    assert b'sp-messaging needs cyclopts: pip install "sp-messaging-async[cli]"' in done.stderr


# Sending a list


def test_a_list_is_sent_once(command: Command) -> None:
    """The same command again, and the same list elsewhere, send nothing."""
    orders = command.write(HEADER + row(1) + row(2) + row(2))
    status, output = command("bulk", orders)
    assert status == 0
    assert "1 row repeats an earlier row, and goes with it" in output
    for name in (orders, command.write(HEADER + row(2) + row(1), "other.csv")):
        status, output = command("bulk", name)
        assert status == 0
        assert "2 sent" in output
        assert "nothing left to send" in output
    assert command.delivered() == [order(1), order(2)]


def test_json_lines(command: Command) -> None:
    """A list may be JSON Lines."""
    line = json.dumps({"order_id": order(1), "operation": NAME, "text": "Ausverkauft, schön."})
    assert command("bulk", command.write(line + "\n", "orders.jsonl"))[0] == 0
    (delivered,) = command.sandbox.delivered
    assert getattr(delivered.request, "text", None) == "Ausverkauft, schön."


def test_an_edited_list(command: Command) -> None:
    """An edit changes what is still planned, and what was sent is named and left alone."""
    orders = command.write(HEADER + row(1) + row(2))
    assert command("bulk", orders, "--limit", "1")[0] == 4
    (first,) = command.delivered()
    command.write(HEADER + row(1, "honey") + row(2, "honey") + row(3, "honey"))
    status, output = command("bulk", orders)
    assert status == 1
    assert "1 row differs from what was sent, and is not sent; --again sends it:" in output
    assert f"{NAME} for {first}: sent\n" in output
    texts = {d.amazon_order_id: getattr(d.request, "text", "") for d in command.sandbox.delivered}
    assert texts == {order(n): "honey" for n in (1, 2, 3)} | {first: TEXT}


def test_campaigns(command: Command) -> None:
    """A pair that was sent in a campaign is left alone in another, which is named."""
    orders = command.write(HEADER + row(1))
    command("bulk", orders, "--campaign", "first")
    status, output = command("bulk", orders, "--campaign", "second")
    assert status == 0
    assert f"line 2: {NAME} for {order(1)}: sent in campaign 'first'" in output
    assert command.delivered() == [order(1)]
    assert len(command.report("--campaign", "first")["rows"]) == 1
    assert command.report("--campaign", "second") == {"counts": {}, "rows": []}


def test_other_words_than_another_campaigns(command: Command) -> None:
    """A row that differs from what another campaign sent is insisted on, and the status is 1."""
    command("bulk", command.write(HEADER + row(1) + row(2)))
    orders = command.write(HEADER + row(1, "honey") + row(2))
    words = ("bulk", orders, "--campaign", "second")
    status, output = command(*words, "--quiet")
    assert status == 1
    assert output == (
        "1 row differs from what was sent (in campaign 'default'), and is not sent; --again sends "
        f"it:\n  line 2: {NAME} for {order(1)}: sent in campaign 'default'\n"
    )
    assert command(*words, "--again")[0] == 0
    assert len(command.sandbox.delivered) == 4


def test_other_words_than_those_of_unknown_outcome(command: Command) -> None:
    """A changed row whose message may have been sent is not told to be sent with --again."""
    command.write(HEADER + row(1, "honey"), unknown(command, 1))
    status, output = command("bulk", "orders.csv", "--quiet")
    assert status == 3
    assert "1 row differs from what was recorded, and is not sent:\n" in output
    assert "--again" not in output


def test_what_was_sent_as_it_is_makes_no_lines(command: Command) -> None:
    """Rows that the same campaign sent, unchanged, are counted and not named."""
    orders = command.write(HEADER + row(1) + row(2))
    command("bulk", orders)
    left_alone = "left alone, by what the ledger knows: 2 sent\nnothing left to send\n"
    assert command("bulk", orders) == (0, left_alone)


def test_again_with_a_shorter_list(command: Command) -> None:
    """What a run with --again has left and the list does not name is told; nothing goes twice."""
    whole = command.write(HEADER + row(1) + row(2), "whole.csv")
    command("bulk", whole)
    assert command("bulk", whole, "--again", "--limit", "1")[0] == 4
    sent = [each.amazon_order_id for each in command.sandbox.delivered][-1]
    ((number, missing),) = [(n, order(3 - n)) for n in (1, 2) if order(n) == sent]
    for words in (["--again"], ["--again", "--quiet"]):
        status, output = command("bulk", command.write(HEADER + row(number)), *words)
        assert status == 4
        assert "nothing left to send" not in output
        assert f"1 message left that this list does not name (order {missing})" in output
        assert "put it back, or use another --campaign" in output
    assert len(command.sandbox.delivered) == 3
    assert command("bulk", whole, "--again")[0] == 0
    assert command.delivered() == [order(1), order(1), order(2), order(2)]


def test_again(command: Command) -> None:
    """What was sent is sent once more with --again only, in its own campaign or another."""
    orders = command.write(HEADER + row(1))
    for number, words in enumerate(([], ["--campaign", "second"], []), start=1):
        assert command("bulk", orders, "--again", *words)[0] == 0
        assert len(command.sandbox.delivered) == number
        assert command("bulk", orders, *words)[0] == 0
        assert len(command.sandbox.delivered) == number


@pytest.mark.parametrize(
    ("fault", "expected", "match"),
    [
        (Fault.NOT_AVAILABLE, 1, "skipped: "),
        (Fault.HTML_ERROR, 1, "rejected: "),
        (Fault.UNAVAILABLE_AFTER, 3, "unknown: "),
        (Fault.DROPPED, 3, "unknown: "),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_how_it_ends(command: Command, fault: Fault, expected: int, match: str) -> None:
    """The status tells what became of the list, and the output of which order; again as well."""
    command.sandbox.faults.add(fault, amazon_order_id=order(2))
    orders = command.write(HEADER + row(1) + row(2))
    status, output = command("bulk", orders)
    assert status == expected
    assert re.search(f"{match}.*{order(2)}", output)
    before = command.delivered()
    status, output = command("bulk", orders)
    assert status == expected
    assert f"{order(2)}: {match.strip(': ')}" in output
    assert command.delivered() == before


def test_a_limit_leaves_the_rest(command: Command) -> None:
    """What is left has the status 4, and is sent by the next run."""
    orders = command.write(HEADER + "".join(map(row, range(5))))
    status, output = command("bulk", orders, "--limit", "2")
    assert (status, len(command.sandbox.delivered)) == (4, 2)
    assert "3 messages were not sent; the same command again sends what is left" in output
    assert command("bulk", orders)[0] == 0
    assert command.delivered() == [order(number) for number in range(5)]


def test_a_limit_is_what_is_shown(command: Command) -> None:
    """The table and the time are of what the limit lets go, of which the lanes take turns."""
    second = f"{order(9)},createConfirmOrderDetails,{TEXT}\n"
    orders = command.write(HEADER + "".join(map(row, range(100, 200))) + second)
    status, output = command("bulk", orders, "--dry-run", "--limit", "66")
    assert status == 0
    assert re.search(rf"default │ {NAME} +│ 65 +│ 1:01", output)
    assert re.search(r"default │ createConfirmOrderDetails +│ 1 +│ 0:00", output)
    assert "66 messages, 1:01 by the usage plans" in output
    output = command("bulk", orders, "--limit", "1", **ANYWHERE)[1]
    assert re.search(r"default │ createConfirmOrderDetails +│ 1 +│ 0:00", output)
    assert NAME not in output.split("marketplaces")[0]


def test_look_ups_are_in_the_time_by_plan(command: Command) -> None:
    """The time that is shown of an operation is with its look-ups, which lanes share."""
    second = "".join(f"{order(n)},createConfirmOrderDetails,{TEXT}\n" for n in range(35))
    orders = command.write(HEADER + "".join(map(row, range(35))) + second)
    _, output = command("bulk", orders, "--dry-run", "--check-actions")
    assert len(re.findall(r"│ 35 +│ 1:06", output)) == 2
    assert "70 messages, 1:06 by the usage plans" in output


@pytest.mark.parametrize("name", ["bulk", "preview"])
@pytest.mark.parametrize(
    ("content", "list_"), [(HEADER, "orders.csv"), ("", "orders.jsonl")], ids=["CSV", "JSON Lines"]
)
def test_a_list_without_rows(command: Command, name: str, content: str, list_: str) -> None:
    """A list that holds nothing is told as such, and the status is 1."""
    expected = (1, "the list has no rows\n")
    assert command(name, command.write(content, list_)) == expected
    if name == "bulk":
        assert command(name, list_, "--quiet") == expected
        assert command(name, list_, "--dry-run") == expected


def test_problems_are_told_together(command: Command) -> None:
    """Every problem of a list has its line and column on a line of its own; nothing is sent."""
    rows = row(1) + row(2, "<b>") + f"1/2,nothing,{TEXT}\n" + row(3, "a@b.example") + row(1, "x")
    status, output, errors = command.apart("bulk", command.write(HEADER + rows))
    assert (status, output) == (2, "")
    assert [line.split(",")[0] for line in errors.splitlines()] == [
        "orders.csv: line 3:3",
        "orders.csv: line 4:1",
        "orders.csv: line 4:2",
        "orders.csv: line 5:3",
        "orders.csv: line 6",
    ]
    assert command.report() == {"counts": {}, "rows": []}
    assert command.sandbox.login.requests == 0


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "line 1, header: is missing"),
        (b"order,operation\n", "line 1, order_id: the column is missing"),
        (HEADER.encode() + b"1,x,caf\xe9\n", "line 2:8, encoding: is not UTF-8"),
    ],
    ids=["empty", "no column", "latin-1"],
)
def test_lists_that_are_none(command: Command, content: bytes, match: str) -> None:
    """A list that cannot be read is refused with the place where that shows."""
    (command.folder / "orders.csv").write_bytes(content)
    status, output, errors = command.apart("bulk", "orders.csv")
    assert (status, output) == (2, "")
    assert match in errors


def test_good_rows_go_on(command: Command) -> None:
    """With --keep-going good rows are sent, bad ones are counted and told, and the status is 1."""
    orders = command.write(HEADER + row(1) + row(2, "<b>a@b.example") + row(3))
    status, output = command("bulk", orders, "--keep-going")
    assert (status, command.delivered()) == (1, [order(1), order(3)])
    assert output.count("line 3:3, text: ") == 2
    status, _ = command("bulk", orders, "--keep-going")
    assert (status, command.delivered()) == (1, [order(1), order(3)])


def test_rows_with_problems_are_counted_as_rows(command: Command) -> None:
    """A row with two problems is one row that is left out."""
    orders = command.write(HEADER + row(1) + row(2, "<b>a@b.example"))
    _, output = command("bulk", orders, "--keep-going")
    assert "1 row" in output
    assert "2 rows" not in output


def test_a_dry_run_does_nothing(command: Command) -> None:
    """It tells how long the plan will take, sends nothing and records nothing."""
    second = "".join(f"{order(n)},createConfirmOrderDetails,{TEXT}\n" for n in range(5))
    orders = command.write(HEADER + "".join(map(row, range(65))) + second)
    status, output = command("bulk", orders, "--dry-run", LWA_APP_ID="")
    assert status == 2, "there are no credentials"
    assert re.search(rf"default │ {NAME} +│ 65 +│ 1:01", output)
    assert re.search(r"default │ createConfirmOrderDetails +│ 5 +│ 0:01", output)
    assert "70 messages, 1:01 by the usage plans; nothing was sent" in output
    assert command.sandbox.login.requests == 0
    assert not (command.folder / "data").exists()


def test_a_dry_run_finds_problems(command: Command) -> None:
    """It ends as the run would."""
    status, _, errors = command.apart("bulk", command.write(HEADER + row(1, "<b>")), "--dry-run")
    assert status == 2
    assert "line 2:3, text: " in errors


def test_actions_are_asked_for_first(command: Command) -> None:
    """With --check-actions a kind that is not available is skipped, and nothing is sent."""
    orders = command.write(HEADER + row(1) + row(2))
    command.sandbox.messaging._read = lambda operation, asked, place: {  # type: ignore[method-assign,assignment]
        "_links": {
            "actions": [
                {"href": "/", "name": "unexpectedProblem" if asked == order(1) else "warranty"}
            ]
        }
    }
    status, output = command("bulk", orders, "--check-actions")
    assert (status, command.delivered()) == (1, [order(1)])
    assert "available: createWarranty" in output
    assert command.statuses() == {order(1): "sent", order(2): "skipped"}


def test_a_retired_operation_is_noted(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Amazon retired is sent, with one note that it did."""
    monkeypatch.setattr(operations, "_WARNED", set())
    rows = "".join(f"{order(number)},createNegativeFeedbackRemoval,\n" for number in (1, 2))
    status, output = command("bulk", command.write(HEADER + rows))
    assert (status, command.delivered()) == (0, [order(1), order(2)])
    assert len(re.findall(r"note: .*createNegativeFeedbackRemoval.*2025-08-04", output)) == 1


# Accounts


ACCOUNTS = (
    f"order_id,operation,text,account\n{order(1)},{NAME},{TEXT},\n{order(2)},{NAME},{TEXT},acme\n"
    f"{order(3)},{NAME},{TEXT},acme\n"
)


def test_each_account_has_its_credentials(command: Command) -> None:
    """The account of a row picks the variables with its name; the application's may be shared."""
    orders = command.write(ACCOUNTS)
    assert command("bulk", orders, SP_API_REFRESH_TOKEN_ACME="of acme")[0] == 0
    sellers = {each.amazon_order_id: each.seller for each in command.sandbox.delivered}
    token = SECRETS["SP_API_REFRESH_TOKEN"]
    assert sellers == {order(1): token, order(2): "of acme", order(3): "of acme"}
    accounts = {found["order_id"]: found["account"] for found in command.report()["rows"]}
    assert accounts == {order(1): "default", order(2): "acme", order(3): "acme"}


def test_an_account_without_credentials(command: Command) -> None:
    """The variable that is missing is named before anything is sent to anyone."""
    status, _, errors = command.apart("bulk", command.write(ACCOUNTS))
    own = command.folder / "config" / "sp-messaging" / "credentials.toml"
    assert status == 2
    assert errors == (
        "the environment variable SP_API_REFRESH_TOKEN_ACME is not set; set it, or write the "
        f"account 'acme' into {own}\n"
    )
    assert command.sandbox.login.requests == 0


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"SP_API_REFRESH_TOKEN_ACME": "revoked"}, "invalid_grant"),
        (
            {"SP_API_REFRESH_TOKEN_ACME": "x", "LWA_CLIENT_SECRET_ACME": "invalid"},
            "invalid_client",
        ),
    ],
    ids=["revoked", "wrong secret"],
)
def test_refused_credentials_stop_their_seller(
    command: Command, variables: dict[str, str], reason: str
) -> None:
    """One seller's stop that seller only, with the reason; the next run sends what is left."""
    orders = command.write(ACCOUNTS)
    status, output = command("bulk", orders, **variables)
    assert (status, command.delivered()) == (4, [order(1)])
    assert re.search(f"account acme: .*{reason}", output)
    assert "2 messages were not sent" in output
    status, _ = command("bulk", orders, SP_API_REFRESH_TOKEN_ACME="fine")
    assert (status, command.delivered()) == (0, [order(1), order(2), order(3)])


# Asking before buyers are messaged


def test_buyers_are_not_messaged_unasked(command: Command) -> None:
    """Off a terminal, a host that is not this machine needs --yes, and is not even looked up."""
    orders = command.write(HEADER + row(1))
    program = (
        "import os, sys\n"
        "reached = ('socket.connect', 'socket.getaddrinfo', 'socket.sendto')\n"
        "sys.addaudithook(lambda event, _: event in reached and os._exit(99))\n"
        "from sp_messaging_async.__main__ import main; sys.exit(main())"
    )

    def watched(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, "bulk", orders],
            **command.setting(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    done = watched(**ANYWHERE)
    assert done.returncode == 2
    assert checked(done.stderr) == (
        "1 message would go to buyers at https://sellingpartnerapi-na.amazon.com; "
        "add --yes to send\n"
    )
    assert re.search(rf"default +│ {NAME} +│ 1 ", checked(done.stdout))
    assert watched(XDG_DATA_HOME="data2").returncode == 99, "the watch sees nothing"


def test_a_limit_is_what_it_asks_about(command: Command) -> None:
    """The count that it names is of the messages that this run would send."""
    orders = command.write(HEADER + row(1) + row(2) + row(3))
    status, _, errors = command.apart("bulk", orders, "--limit", "2", **ANYWHERE)
    assert status == 2
    assert errors.startswith("2 messages would go to buyers")


def test_without_any_standard_input(command: Command) -> None:
    """A process whose standard input is closed, as of some schedulers, is refused in a line."""
    orders = command.write(HEADER + row(1))
    program = (
        "import sys; sys.stdin = None\n"
        "from sp_messaging_async.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "bulk", orders],
        **command.setting(**ANYWHERE),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert "add --yes" in checked(done.stderr)


@unix
def test_yes_sends(command: Command) -> None:
    """With --yes it does not ask."""
    orders = command.write(HEADER + row(1))
    status, _ = command("bulk", orders, "--yes", **command.elsewhere())
    assert (status, command.delivered()) == (0, [order(1)])


@unix
def test_the_count_is_typed(command: Command) -> None:
    """On a terminal it shows what would go where, and sends once the count was typed."""
    orders = command.write(ACCOUNTS)
    variables = {**command.elsewhere(), "SP_API_REFRESH_TOKEN_ACME": "of acme"}
    with command.terminal("bulk", orders, **variables) as process:
        shown = process.until("Type 3 ")
        assert re.search(rf"default .* {NAME} .* 1 ", shown)
        assert re.search(rf"acme .* {NAME} .* 2 ", shown)
        assert re.search(rf"{NAME} to order {order(1)}|{NAME} to order {order(2)}", shown)
        assert f"text: {TEXT}" in shown
        assert command.sandbox.login.requests == 0
        process.type("3\n")
        assert process.end()[0] == 0
    assert command.delivered() == [order(1), order(2), order(3)]


@unix
def test_marketplaces_are_shown_before_it_asks(command: Command) -> None:
    """What is about to be sent is shown with the marketplaces it goes to."""
    orders = command.write(f"order_id,operation,text,marketplace\n{order(1)},{NAME},{TEXT},MX\n")
    with command.terminal("bulk", orders, **ANYWHERE) as process:
        shown = process.until("Type 1 ")
        process.type("no\n")
        process.end()
    assert re.search(r"\bMX\b", shown)


@unix
@pytest.mark.parametrize("answer", ["2\n", "\n", "yes\n", "\x04"], ids=["2", "", "yes", "Ctrl-D"])
def test_anything_else_sends_nothing(command: Command, answer: str) -> None:
    """Another answer than the count, or none, sends nothing, and says so in a line."""
    orders = command.write(HEADER + row(1))
    with command.terminal("bulk", orders, **command.elsewhere()) as process:
        shown = process.until("Type 1 ")
        process.type(answer)
        status, output = process.end()
    assert status == 2
    assert "nothing was sent" in output[len(shown) :]
    assert command.sandbox.login.requests == 0


# While it runs


@unix
def test_progress_fits_a_terminal(command: Command) -> None:
    """On 80 columns, no part of the progress of a long list is cut off."""
    orders = command.write(HEADER + "".join(map(row, range(20_000))))
    command.sandbox.faults.add(*[Fault.HANG] * 100)
    with command.terminal("bulk", orders) as process:
        process.until("left")
        process.popen.kill()
        _, output = process.end()
    assert re.search(r"sent +left .*\r\ncreateUnexpectedProblem .* 20,000 ", _plain(output))
    assert "…" not in output


def _plain(text: str) -> str:
    """What a terminal shows, without its colours."""
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


def test_progress_in_a_log_is_a_line() -> None:
    """Where there is no terminal, progress comes in whole lines, however narrow they may be."""
    shown = io.StringIO()
    with Watch(Tally([]), Console(file=shown, width=30)) as watch:
        watch.show()
    assert shown.getvalue().startswith("0 of 0: 0 sent, 0 skipped, 0 rejected, 0 unknown; took ")
    assert len(shown.getvalue().splitlines()) == 1


def test_a_text_does_not_steer_the_terminal(command: Command) -> None:
    """What is shown of a list, which anybody may have written, holds no control sequence."""
    status, output = command("bulk", command.write(HEADER + row(1, "a\x1b[2Jb\x07c")), **ANYWHERE)
    assert status == 2
    assert "text: a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}c" in output


@unix
def test_ctrl_c_ends_the_question(command: Command) -> None:
    """Ctrl-C while it asks ends the command, without another key."""
    orders = command.write(HEADER + row(1))
    with command.terminal("bulk", orders, **command.elsewhere()) as process:
        process.until("Type 1 ")
        process.sleeps()
        for _ in range(5):  # one that comes before it waits for a key may go unnoticed
            process.popen.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(2)
                break
        status, _ = process.end(1)
    assert status == 4
    assert command.sandbox.login.requests == 0


@unix
def test_ctrl_c_tells_how_to_resume(command: Command) -> None:
    """Ctrl-C lets what is in flight end; a second one stops at once, and frees the terminal."""
    orders = command.write(HEADER + "".join(map(row, range(4))))
    command.sandbox.faults.add(*[Fault.HANG] * 4)
    with command.terminal("bulk", orders) as process:
        process.until("left")
        _reached(command)
        process.popen.send_signal(signal.SIGINT)
        process.until("Ctrl-C again stops at once")
        process.popen.send_signal(signal.SIGINT)
        status, output = process.end(10)
    assert status == 4
    assert command.delivered() == []
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h"), "the cursor is still hidden"
    assert command("bulk", orders)[0] == 3
    assert command.delivered() == []


@unix
def test_sigterm_stops_what_a_script_began(command: Command) -> None:
    """Where a script's & has SIGINT ignored, SIGTERM stops as Ctrl-C does; twice stops at once."""
    command.sandbox.plans.change(NAME, OPERATIONS[NAME].plan)
    orders = command.write(HEADER + "".join(map(row, range(50))))
    words = ("bulk", orders, "--format", "jsonl")
    with command.started(*words, ignores_sigint=True) as process:
        process.until('"sent"')
        process.popen.send_signal(signal.SIGINT)
        process.until('"sent"', 3)
        process.popen.send_signal(signal.SIGTERM)
        status, output = process.end()
    assert status == 4
    assert output.count("stopping: exchanges in flight end first") == 1
    assert output.count('"sent"') == len(command.sandbox.delivered)
    command.sandbox.faults.add(Fault.HANG)
    with command.started(*words, ignores_sigint=True) as process:
        _reached(command)
        process.popen.send_signal(signal.SIGTERM)
        process.until("stopping: ")
        process.popen.send_signal(signal.SIGTERM)
        assert process.end(10)[0] == 4


def test_a_cancelled_command_is_a_stopped_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation that comes before there is a run ends the command with the status 4."""

    def cancelled(*words: object, **options: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(sys.modules["sp_messaging_async.cli.app"], "app", cancelled)
    assert cli.run([]) == 4


def _reached(command: Command) -> None:
    """Wait until every fault was taken."""
    ends = time.monotonic() + PATIENCE
    while len(command.sandbox.faults) and time.monotonic() < ends:
        time.sleep(0.01)
    assert not command.sandbox.faults


@unix
def test_a_campaign_is_sent_by_one_process(command: Command) -> None:
    """While a process sends a campaign, another is refused with its number; the ledger is read."""
    orders = command.write(HEADER + row(1))
    command.sandbox.faults.add(Fault.HANG)
    with command.started("bulk", orders) as process:
        _reached(command)
        status, output = command("bulk", orders)
        assert status == 2
        assert f"is being sent by process {process.popen.pid}" in output
        assert command.statuses() == {order(1): "sending"}
    assert command("bulk", orders)[0] == 3
    assert command.delivered() == []


# The ledger


def test_a_ledger_of_another_endpoint(command: Command) -> None:
    """A ledger that knows what one host was sent says nothing of another's, and is refused."""
    orders = command.write(HEADER + row(1))
    command("bulk", orders, "--ledger", "ledger")
    for words, variables in ((["--sandbox"], {}), (["--yes"], ANYWHERE)):
        status, output, errors = command.apart(
            "bulk", orders, "--ledger", "ledger", *words, **variables
        )
        assert (status, output) == (2, "")
        assert command.sandbox.endpoint.api_url in errors
        assert "name another ledger" in errors


def test_the_commands_own_sandbox(command: Command) -> None:
    """With --sandbox nothing else is needed, and a ledger that is named is kept."""
    orders = command.write(HEADER + row(1))
    nothing = dict.fromkeys(command.environment().keys() - {"HOME", "XDG_DATA_HOME"}, "")
    for words in ([], [], ["--ledger", "trial"]):
        status, output = command("bulk", orders, "--sandbox", *words, **nothing)
        assert status == 0
        assert re.search(r"all +│ +1", output)
    status, output = command("bulk", orders, "--sandbox", "--ledger", "trial", **nothing)
    assert status == 0
    assert "nothing left to send" in output
    assert not (command.folder / "data").exists()


def unknown(command: Command, *numbers: int) -> str:
    """A list whose messages are all of unknown outcome; returns its name."""
    command.sandbox.faults.add(*[Fault.UNAVAILABLE] * len(numbers))
    orders = command.write(HEADER + "".join(map(row, numbers)))
    assert command("bulk", orders)[0] == 3
    return orders


def test_what_is_listed(command: Command) -> None:
    """Messages are listed with their fate, those of a status if asked, their text only if asked."""
    command.sandbox.faults.add(Fault.UNAVAILABLE, amazon_order_id=order(2))
    command("bulk", command.write(HEADER + row(1) + row(2)))
    _, output = command("ledger", "list")
    assert re.search(rf"^sent +{order(1)} {NAME} \(default\)$", output, re.MULTILINE)
    assert re.search(rf"^unknown +{order(2)} {NAME} \(default\): .+", output, re.MULTILINE)
    assert TEXT not in output
    _, output = command("ledger", "list", "--status", "unknown", "--show-text")
    assert order(1) not in output
    assert output.count(TEXT) == 1
    assert command("ledger", "list", "--campaign", "none") == (0, "")


def test_a_person_settles_what_is_unknown(command: Command) -> None:
    """What was not sent is sent by the next run, and what was sent is not; nothing else changes."""
    orders = unknown(command, 1, 2)
    assert command("bulk", orders)[0] == 3
    assert command("ledger", "resolve", order(1), "create_unexpected_problem", "sent")[0] == 0
    assert command("ledger", "resolve", order(2), NAME, "not-sent")[0] == 0
    assert command.statuses() == {order(1): "sent", order(2): "planned"}
    assert command("ledger", "resolve", order(1), "nothing", "sent")[0] == 2
    status, output = command("ledger", "resolve", order(1), NAME, "not-sent")
    assert status == 1
    assert "no message of unknown outcome" in output
    assert command("bulk", orders)[0] == 0
    assert command.delivered() == [order(2)]


def test_answers_from_a_file(command: Command) -> None:
    """A file settles many at once."""
    orders = unknown(command, 1, 2)
    rows = f"{order(1)},{NAME},sent\n{order(2)},{NAME},not-sent\n"
    answers = command.write("\ufefforder_id,operation,outcome\n" + rows, "answers.csv")
    status, output = command("ledger", "resolve", "--from-csv", answers)
    assert status == 0
    assert output == f"{order(1)} {NAME}: sent\n{order(2)} {NAME}: not-sent\n"
    assert command("ledger", "resolve", "--from-csv", answers)[0] == 1
    assert command("bulk", orders)[0] == 0
    assert command.delivered() == [order(2)]


def test_a_file_without_answers(command: Command) -> None:
    """It is told, and the status is 1."""
    unknown(command, 1)
    answers = command.write("order_id,operation,outcome\n", "answers.csv")
    expected = (1, "answers.csv has no rows\n")
    assert command("ledger", "resolve", "--from-csv", answers) == expected


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (f"{order(2)},nothing,sent\n".encode(), "answers.csv, line 3, operation"),
        (f"{order(2)},{NAME},perhaps\n".encode(), "answers.csv, line 3, outcome: 'perhaps'"),
        (f",{NAME},sent\n".encode(), "answers.csv, line 3, order_id"),
        (f"{order(2)},{NAME}\n".encode(), "answers.csv, line 3, outcome"),
        (f"{order(2)},{NAME},s\xe9nt\n".encode("latin-1"), "answers.csv"),
        (b'"' + b"x" * 200_000 + b'",x,sent\n', "answers.csv"),
    ],
    ids=["operation", "outcome", "order", "short", "latin-1", "a long cell"],
)
def test_a_bad_answer_settles_nothing(command: Command, content: bytes, match: str) -> None:
    """A bad row of a file of answers is named by its line, and none of the file is used."""
    unknown(command, 1)
    good = f"order_id,operation,outcome\n{order(1)},{NAME},sent\n"
    (command.folder / "answers.csv").write_bytes(good.encode() + content)
    status, output, errors = command.apart("ledger", "resolve", "--from-csv", "answers.csv")
    assert (status, output) == (2, "")
    assert match in errors
    assert len(errors.splitlines()) == 1
    assert command.statuses() == {order(1): "unknown"}


def test_purged_rows_are_not_sent_again(command: Command) -> None:
    """Settled messages are forgotten, and that they were sent is not; unknown ones are kept."""
    orders = unknown(command, 1)
    command.write(HEADER + row(1) + row(2))
    assert command("bulk", orders)[0] == 3
    kept = "; 1 unknown one kept"
    assert command("ledger", "purge", "--older-than", "1d")[1] == f"0 messages forgotten{kept}\n"
    assert command("ledger", "purge", "--older-than", "0m")[1] == f"1 message forgotten{kept}\n"
    assert command.statuses() == {order(1): "unknown"}
    status, output = command("bulk", orders)
    assert status == 3
    assert "1 sent" in output
    assert command.delivered() == [order(2)]


def test_salvage(command: Command) -> None:
    """A ledger that lost commits is refused, until all that it had planned is called unknown."""
    orders = command.write(HEADER + row(1) + row(2))
    path = command.folder / "ledger"
    words = (orders, "--ledger", "ledger")
    command("bulk", *words, "--limit", "1")
    old = path.read_bytes()
    (left,) = {order(1), order(2)} - set(command.delivered())
    assert command("bulk", *words)[0] == 0
    path.write_bytes(old)
    status, output, errors = command.apart("bulk", *words)
    assert (status, output) == (2, "")
    assert "sp-messaging ledger salvage --ledger ledger" in errors
    status, output = command("ledger", "salvage", "--ledger", "ledger")
    assert status == 0
    assert output.startswith("1 message is unknown now")
    assert command("bulk", *words)[0] == 3
    assert command.statuses("--ledger", "ledger")[left] == "unknown"
    assert len(command.sandbox.delivered) == 2


# Reports


@pytest.fixture
def reported(command: Command) -> Command:
    """A ledger with one message that was sent, and one that was not available."""
    command.sandbox.faults.add(Fault.NOT_AVAILABLE, amazon_order_id=order(2))
    command("bulk", command.write(HEADER + row(1) + row(2)))
    return command


def test_a_report_in_json(reported: Command) -> None:
    """One object, with the counts, and every message with all that is known of it."""
    report = reported.report()
    assert report["counts"] == {"sent": 1, "skipped": 1}
    sent, skipped = sorted(report["rows"], key=lambda found: found["order_id"])
    assert (sent["order_id"], sent["operation"]) == (order(1), NAME)
    assert (sent["account"], sent["campaign"]) == ("default", "default")
    assert (sent["status"], sent["attempts"], sent["error"]) == ("sent", 1, None)
    assert sent["request_id"]
    assert sent["sent_at"].endswith("+00:00")
    assert (skipped["status"], skipped["sent_at"]) == ("skipped", None)
    assert "not available" in skipped["error"]


def test_a_report_in_csv(reported: Command) -> None:
    """A line for every message, with the same columns as in JSON, after a byte order mark."""
    status, output = reported("report", "--format", "csv")
    assert (status, output[0]) == (0, "\ufeff")
    rows = list(csv.DictReader(output[1:].splitlines()))
    assert [found["status"] for found in rows] == ["sent", "skipped"]
    assert list(rows[0]) == list(reported.report()["rows"][0])


def test_a_report_as_a_table(reported: Command) -> None:
    """The number of messages of each status, and of all."""
    status, output = reported("report")
    assert status == 0
    assert [int(number) for number in re.findall(r"│ +(\d+) +│", output)] == [1, 1, 2]


@pytest.mark.parametrize("format_", ["table", "json", "csv"])
def test_a_report_in_a_file(reported: Command, format_: str) -> None:
    """The file holds what would be printed, and nothing is printed."""
    _, expected = reported("report", "--format", format_)
    status, output = reported("report", "--format", format_, "--output", "report")
    assert (status, output) == (0, "")
    written = (reported.folder / "report").read_text(encoding="utf-8")
    assert written.split() == expected.split()


@unix
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there before"])
def test_a_report_is_for_its_user_only(reported: Command, is_there: bool) -> None:
    """Nobody else may read the file, even if it was there before and anybody might."""
    path = reported.folder / "report"
    if is_there:
        path.write_text("x" * 100_000)
        path.chmod(0o644)
    assert reported("report", "--format", "csv", "--output", "report")[0] == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert "xxx" not in path.read_text()


def test_a_report_spares_its_ledger(reported: Command) -> None:
    """A report is not written over the ledger that it is of, nor does a device become private."""
    (ledger,) = (reported.folder / "data").rglob("ledger.sqlite3")
    status, output = reported("report", "--output", str(ledger))
    assert status == 2
    assert "--output names the ledger itself" in output
    mode = Path(os.devnull).stat().st_mode
    assert reported("report", "--output", os.devnull)[0] == 0
    assert Path(os.devnull).stat().st_mode == mode


@unix
@pytest.mark.parametrize("output", [".", "none/there", "orders.csv/report", "loop"])
def test_a_report_that_cannot_be_written(reported: Command, output: str) -> None:
    """It is told in a line that names the file."""
    (reported.folder / "loop").symlink_to("loop")
    status, printed, errors = reported.apart("report", "--output", output)
    assert (status, printed) == (2, "")
    assert errors.startswith("the report cannot be written: ")
    assert errors.endswith(f": {output}\n")


def test_a_report_that_fails_spares_an_older_one(
    reported: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until all of a report is written, the file holds what it held, and nothing is beside it."""

    async def full(rows: object, file: io.StringIO, **options: object) -> None:
        file.write("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "write_html", full)
    reported.write("older", "report.html")
    before = sorted(reported.folder.iterdir())
    status, output = reported("report", "--format", "html", "--output", "report.html")
    expected = "the report cannot be written: No space left on device: report.html\n"
    assert (status, output) == (2, expected)
    assert (reported.folder / "report.html").read_text() == "older"
    assert sorted(reported.folder.iterdir()) == before


@unix
def test_a_report_by_a_link(reported: Command) -> None:
    """A link stays one, and what it leads to is written."""
    (reported.folder / "link").symlink_to("report.csv")
    assert reported("report", "--format", "csv", "--output", "link") == (0, "")
    assert (reported.folder / "link").is_symlink()
    assert "order_id" in (reported.folder / "report.csv").read_text()


def test_text_is_shown_if_asked_for(command: Command) -> None:
    """Buyers' text is in a report only with --show-text, and gone once a message is settled."""
    orders = unknown(command, 1)
    for format_ in ("json", "csv"):
        assert TEXT not in command("report", "--format", format_)[1]
        assert TEXT in command("report", "--format", format_, "--show-text")[1]
    command("ledger", "resolve", order(1), NAME, "sent")
    assert TEXT not in command("report", "--format", "json", "--show-text")[1]
    assert command("bulk", orders)[0] == 0


def test_output_that_nobody_reads(reported: Command) -> None:
    """A reader that goes away, such as `head`, brings forth no traceback."""
    words = [sys.executable, "-m", "sp_messaging_async", "report", "--format", "json"]
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        words,
        **reported.setting(),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    os.close(theirs)
    assert done.returncode != 0
    assert len(checked(done.stderr).splitlines()) <= 1


RESULTS = ("bulk", "orders.csv", "--format", "jsonl")


@unix
def test_results_that_nobody_reads(command: Command) -> None:
    """Where nobody takes the outcomes, the run stops as with Ctrl-C, and says why."""
    command.sandbox.plans.change(NAME, OPERATIONS[NAME].plan)
    command.write(HEADER + "".join(map(row, range(50))))
    with command.started(*RESULTS, errors=subprocess.PIPE) as process:
        process.until('"sent"')
        assert process.popen.stdout is not None
        process.popen.stdout.close()
        _, errors = process.popen.communicate(timeout=PATIENCE)
    assert process.popen.returncode == 4
    told = checked(errors.decode())
    assert told.count("standard output was closed; exchanges in flight end, and no more begin") == 1
    sent = command.report()["counts"]["sent"]
    assert sent == len(command.sandbox.delivered) < 50
    assert command.report()["counts"] == {"planned": 50 - sent, "sent": sent}


@full_disk
def test_results_that_no_disk_takes(command: Command) -> None:
    """A full disk stops a run, too, though nothing was left of it; unknown ones have their say."""
    command.write(HEADER + row(1))
    for expected, fault in ((4, []), (3, [Fault.UNAVAILABLE])):
        command.sandbox.faults.add(*fault)
        with FULL.open("wb") as output:
            words = (*RESULTS, "--again")
            with command.started(*words, output=output.fileno(), errors=subprocess.PIPE) as process:
                _, errors = process.popen.communicate(timeout=PATIENCE)
        assert process.popen.returncode == expected
        assert "standard output takes no more (No space left on device)" in checked(errors.decode())


@unix
@pytest.mark.parametrize("how", ["closed", pytest.param("full", marks=full_disk)])
def test_a_run_that_nobody_watches(command: Command, how: str) -> None:
    """A run whose words nobody takes goes on without a word, and its status is the run's."""
    orders = command.write(HEADER + row(1) + row(2))
    ours, theirs = os.pipe()
    os.close(ours)
    output = FULL.open("wb") if how == "full" else os.fdopen(theirs, "wb")
    with (
        output,
        command.started("bulk", orders, output=output.fileno(), errors=subprocess.PIPE) as process,
    ):
        _, errors = process.popen.communicate(timeout=PATIENCE)
    assert (process.popen.returncode, errors) == (0, b"")
    assert command.delivered() == [order(1), order(2)]


@full_disk
def test_other_output_that_no_disk_takes(command: Command) -> None:
    """What was asked for and cannot be written is a failure."""
    with FULL.open("wb") as output:
        words = ("operations",)
        with command.started(*words, output=output.fileno(), errors=subprocess.PIPE) as process:
            _, errors = process.popen.communicate(timeout=PATIENCE)
    assert process.popen.returncode == 2
    assert checked(errors.decode()) == "No space left on device\n"


def test_no_table_is_cut_where_there_is_no_terminal(command: Command) -> None:
    """Each operation has one line, however long it is, with all that is to be said of it."""
    status, output = command.process("actions", order(1), COLUMNS="40")
    assert status == 0
    assert len(re.findall(r"^│ \w+ +│ [\w, ]+ │ +│$", output, re.MULTILINE)) == 11


# What stays


@unix
@pytest.mark.parametrize(
    "fault", [None, Fault.NOT_AVAILABLE, Fault.HTML_ERROR], ids=["sent", "skipped", "rejected"]
)
def test_what_a_ledger_keeps(command: Command, fault: Fault | None) -> None:
    """Neither a secret nor, once a run has ended, the buyer's text stands in any of its files."""
    if fault is not None:
        command.sandbox.faults.add(fault)
    command("bulk", command.write(HEADER + row(1)), "--ledger", "ledger")
    _assert_clean(command)


@unix
def test_what_a_ledger_keeps_of_what_was_resolved(command: Command) -> None:
    """The buyer's text is gone from the ledger's files once a person called it sent."""
    command.sandbox.faults.add(Fault.UNAVAILABLE)
    command("bulk", command.write(HEADER + row(1)), "--ledger", "ledger")
    command("ledger", "resolve", order(1), NAME, "sent", "--ledger", "ledger")
    _assert_clean(command)


def _assert_clean(command: Command) -> None:
    files = list(command.folder.glob("ledger*"))
    assert len(files) >= 3
    for file in files:
        content = file.read_bytes()
        assert TEXT.encode() not in content
        assert not any(secret.encode() in content for secret in SECRETS.values())
        assert file.stat().st_mode & 0o077 == 0
