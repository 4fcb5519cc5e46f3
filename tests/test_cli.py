"""The command: what it prints, what it sends, and how it ends."""

from __future__ import annotations

import asyncio
import csv
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from attrs import frozen
from cyclopts import App

from sp_messaging_async import cli
from sp_messaging_async.cli import app
from sp_messaging_async.operations import OPERATIONS
from sp_messaging_async.sandbox import Fault, Sandbox

from .conftest import FAST

HEADER = "order_id,operation,text\n"
TEXT = "marmalade"
SECRETS = {"LWA_CLIENT_SECRET": "canary-secret", "SP_API_REFRESH_TOKEN": "canary-token"}


def row(number: int, text: str = TEXT) -> str:
    return f"111-2222222-{number:07},createUnexpectedProblem,{text}\n"


@frozen
class Command:
    """The command of somebody who uses a sandbox, in a folder of their own."""

    folder: Path
    sandbox: Sandbox

    async def __call__(self, *words: str, **variables: str) -> tuple[int, str]:
        """The exit status, and what it printed; which holds no secret and no traceback."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sp_messaging_async", *words),
            cwd=self.folder,
            env={**self.environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        text = output.decode()
        assert "Traceback" not in text
        assert not any(secret in text for secret in SECRETS.values())
        return process.returncode, text

    def environment(self) -> dict[str, str]:
        """Credentials, hosts and a data folder."""
        return {
            **os.environ,
            "SP_MESSAGING_API_URL": self.sandbox.endpoint.api_url,
            "SP_MESSAGING_TOKEN_URL": self.sandbox.endpoint.token_url,
            "SP_API_DEFAULT_MARKETPLACE": "US",
            "LWA_APP_ID": "client",
            **SECRETS,
            "HOME": str(self.folder),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "COLUMNS": "200",
        }

    def write(self, content: str, name: str = "orders.csv") -> str:
        """Write a file; returns its name."""
        (self.folder / name).write_text(content, encoding="utf-8")
        return name


@pytest.fixture
async def command(tmp_path: Path) -> AsyncIterator[Command]:
    """The command beside a sandbox whose plans do not wait."""
    async with Sandbox(plans=FAST) as sandbox:
        yield Command(tmp_path, sandbox)


# What it is


def commands(of: App) -> Iterator[App]:
    """An app and all its commands."""
    yield of
    for name in of:
        if not name.startswith("-"):
            yield from commands(of[name])


def test_every_command_and_option_is_explained() -> None:
    """Each command has a help text, and each of its options an entry in it."""
    for each in commands(app):
        assert each.help, each.name
        if each.default_command is not None and each.default_command.__module__ == cli.__name__:
            text = each.default_command.__doc__ or ""
            for name in inspect.signature(each.default_command).parameters:
                assert f"{name}:\n" in text, (each.name, name)


async def test_operations_are_the_tables(command: Command) -> None:
    """The operations that are shown are those of the table, each in a line."""
    status, output = await command("operations")
    assert status == 0
    assert re.findall(r"│ (\w+) +│", output) == list(OPERATIONS)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["nothing"], "nothing"),
        (["bulk"], "no order list: name a file"),
        (["bulk", "none.csv"], "cannot be read: No such file"),
        (["bulk", "."], "cannot be read: Is a directory"),
        (["bulk", "orders.csv", "--marketplace", "XX"], "no marketplace"),
        (["bulk", "orders.csv", "--limit", "0"], "--limit must be at least 1"),
        (["bulk", "orders.csv", "--ledger", "none/there/ledger"], "none/there/ledger"),
        (["report"], "there is no ledger"),
        (["ledger", "list", "--ledger", "orders.csv"], "no ledger"),
        (["ledger", "resolve", "1"], "ORDER OPERATION"),
        (["ledger", "purge", "--older-than", "soon", "--ledger", "orders.csv"], "30d"),
    ],
    ids=" ".join,
)
async def test_mistakes_are_one_line(command: Command, words: list[str], match: str) -> None:
    """A mistake is told in a line with its remedy, the status is 2, and nothing is sent."""
    command.write(HEADER + row(1))
    status, output = await command(*words)
    assert status == 2
    assert match in output
    assert len(output.splitlines()) == 1
    assert command.sandbox.login.requests == 0


# Sending a list


async def test_a_list_is_sent_once(command: Command) -> None:
    """The same command again, and the same list elsewhere, send nothing."""
    orders = command.write(HEADER + row(1) + row(2) + row(2))
    status, output = await command("bulk", orders)
    assert status == 0
    assert "1 rows repeat an earlier row" in output
    for name in (orders, command.write(HEADER + row(2) + row(1), "other.csv")):
        status, output = await command("bulk", name)
        assert status == 0
        assert "2 sent" in output
        assert "nothing left to send" in output
    assert len(command.sandbox.delivered) == 2


async def test_again_and_campaigns(command: Command) -> None:
    """A pair that was sent is sent again in another campaign only with --again."""
    orders = command.write(HEADER + row(1))
    await command("bulk", orders)
    await command("bulk", orders, "--campaign", "second")
    assert len(command.sandbox.delivered) == 1
    await command("bulk", orders, "--campaign", "second", "--again")
    assert len(command.sandbox.delivered) == 2
    await command("bulk", orders, "--again")
    assert len(command.sandbox.delivered) == 3


@pytest.mark.parametrize(
    ("fault", "expected", "match"),
    [
        (Fault.NOT_AVAILABLE, 1, "skipped: "),
        (Fault.HTML_ERROR, 1, "rejected: "),
        (Fault.UNAVAILABLE_AFTER, 3, "unknown: "),
    ],
    ids=lambda value: str(value),
)
async def test_how_it_ends(command: Command, fault: Fault, expected: int, match: str) -> None:
    """The status tells what became of the list, and the output of which order."""
    command.sandbox.faults.add(fault, amazon_order_id="111-2222222-0000002")
    status, output = await command("bulk", command.write(HEADER + row(1) + row(2)))
    assert status == expected
    assert match in output
    assert "111-2222222-0000002" in output
    assert len({d.amazon_order_id for d in command.sandbox.delivered}) >= 1


async def test_a_limit_leaves_the_rest(command: Command) -> None:
    """What is left has the status 4, and is sent by the next run."""
    orders = command.write(HEADER + "".join(map(row, range(5))))
    status, output = await command("bulk", orders, "--limit", "2")
    assert (status, len(command.sandbox.delivered)) == (4, 2)
    assert "3 were not sent; the same command again sends them" in output
    assert (await command("bulk", orders))[0] == 0
    assert len(command.sandbox.delivered) == 5


async def test_problems_are_told_together(command: Command) -> None:
    """Every problem has its line and column, and nothing is sent, unless it is to go on."""
    orders = command.write(HEADER + row(1) + row(2, "<b>") + row(3, "a@b.example") + row(1, "x"))
    status, output = await command("bulk", orders)
    assert status == 2
    assert [line.split(",")[0] for line in output.splitlines()] == [
        "orders.csv: line 3:3",
        "orders.csv: line 4:3",
        "orders.csv: line 5",
    ]
    assert command.sandbox.delivered == []
    status, output = await command("bulk", orders, "--keep-going")
    assert (status, len(command.sandbox.delivered)) == (1, 0)
    assert "3 rows with problems are left out" in output


async def test_a_dry_run_does_nothing(command: Command) -> None:
    """It tells how long the plan will take, sends nothing and records nothing."""
    orders = command.write(HEADER + "".join(map(row, range(65))))
    status, output = await command("bulk", orders, "--dry-run")
    assert status == 0
    assert "65 messages, 1:00 by the usage plans; nothing was sent" in output
    assert command.sandbox.login.requests == 0
    assert (await command("report"))[0] == 2


async def test_buyers_are_not_messaged_unasked(command: Command) -> None:
    """Against a host that is not this machine, the command off a terminal needs --yes."""
    orders = command.write(HEADER + row(1))
    hosts = {"SP_MESSAGING_API_URL": "", "SP_MESSAGING_TOKEN_URL": ""}
    status, output = await command("bulk", orders, **hosts)
    assert status == 2
    assert "1 messages would go to buyers at https://sellingpartnerapi-na.amazon.com" in output
    assert "add --yes" in output


async def test_accounts(command: Command) -> None:
    """Each account has its own credentials; revoked ones stop their seller only."""
    orders = command.write(
        "order_id,operation,text,account\n"
        "111-2222222-0000001,createUnexpectedProblem,x,\n"
        "111-2222222-0000002,createUnexpectedProblem,x,acme\n"
    )
    status, output = await command("bulk", orders)
    assert status == 2
    assert "SP_API_REFRESH_TOKEN_ACME is not set" in output
    assert command.sandbox.delivered == []
    status, output = await command("bulk", orders, SP_API_REFRESH_TOKEN_ACME="revoked")
    assert (status, len(command.sandbox.delivered)) == (4, 1)
    assert "account acme: " in output
    assert "invalid_grant" in output
    status, _ = await command("bulk", orders, SP_API_REFRESH_TOKEN_ACME="fine")
    assert (status, len(command.sandbox.delivered)) == (0, 2)


async def test_a_ledger_of_another_endpoint(command: Command) -> None:
    """A ledger that knows what one host was sent says nothing of another's, and is refused."""
    orders = command.write(HEADER + row(1))
    await command("bulk", orders, "--ledger", "ledger")
    status, output = await command("bulk", orders, "--ledger", "ledger", "--sandbox")
    assert status == 2
    assert command.sandbox.endpoint.api_url in output


async def test_the_commands_own_sandbox(command: Command) -> None:
    """With --sandbox nothing else is needed, and a ledger that is named is kept."""
    orders = command.write(HEADER + row(1))
    for words in ([], ["--ledger", "trial"], ["--ledger", "trial"]):
        status, output = await command("bulk", orders, "--sandbox", *words)
        assert status == 0
    assert "nothing left to send" in output
    assert command.sandbox.login.requests == 0


# The ledger


async def test_what_is_unknown_is_settled_by_a_person(command: Command) -> None:
    """Listed, and resolved one by one or from a file; what was not sent is sent by the next run."""
    command.sandbox.faults.add(*[Fault.UNAVAILABLE] * 3)
    orders = command.write(HEADER + row(1) + row(2) + row(3))
    assert (await command("bulk", orders))[0] == 3
    _, output = await command("ledger", "list", "--status", "unknown")
    assert output.count("unknown ") == 3
    assert TEXT not in output
    _, output = await command("ledger", "list", "--show-text")
    assert output.count(TEXT) == 3
    name = "createUnexpectedProblem"
    status, _ = await command("ledger", "resolve", "111-2222222-0000001", name, "sent")
    assert status == 0
    answers = [f"111-2222222-000000{n},{name},not-sent\n" for n in (2, 3)]
    bad = command.write("order_id,operation,outcome\n" + answers[0] + "1,x,y\n", "bad.csv")
    status, output = await command("ledger", "resolve", "--from-csv", bad)
    assert status == 2
    assert "bad.csv, line 3, operation" in output
    good = command.write("order_id,operation,outcome\n" + "".join(answers), "good.csv")
    assert (await command("ledger", "resolve", "--from-csv", good))[0] == 0
    assert (await command("ledger", "resolve", "--from-csv", good))[0] == 1
    assert (await command("bulk", orders))[0] == 0
    assert sorted(d.amazon_order_id[-1] for d in command.sandbox.delivered) == ["2", "3"]


async def test_reports(command: Command) -> None:
    """Every message with its fate, as a table, JSON or CSV, in a file of its user's only."""
    command.sandbox.faults.add(Fault.NOT_AVAILABLE, amazon_order_id="111-2222222-0000002")
    await command("bulk", command.write(HEADER + row(1) + row(2)))
    status, output = await command("report", "--format", "json", "--output", "report.json")
    assert (status, output) == (0, "")
    path = command.folder / "report.json"
    assert path.stat().st_mode & 0o077 == 0
    report = json.loads(path.read_text())
    assert report["counts"] == {"sent": 1, "skipped": 1}
    sent, skipped = sorted(report["rows"], key=lambda found: found["order_id"])
    assert (sent["status"], sent["attempts"], sent["error"]) == ("sent", 1, None)
    assert sent["request_id"]
    assert sent["sent_at"]
    assert (skipped["status"], skipped["account"], skipped["campaign"]) == (
        "skipped",
        "default",
        "default",
    )
    assert "not available" in skipped["error"]
    _, output = await command("report", "--format", "csv")
    rows = list(csv.DictReader(output.splitlines()))
    assert [found["status"] for found in rows] == ["sent", "skipped"]
    _, output = await command("report")
    assert re.search(r"all +│ 2", output)


async def test_purged_rows_are_not_sent_again(command: Command) -> None:
    """Settled messages are forgotten, and that they were sent is not."""
    orders = command.write(HEADER + row(1))
    await command("bulk", orders)
    assert "0 messages forgotten" in (await command("ledger", "purge", "--older-than", "1d"))[1]
    assert "1 messages forgotten" in (await command("ledger", "purge", "--older-than", "0m"))[1]
    assert (await command("bulk", orders))[0] == 0
    assert len(command.sandbox.delivered) == 1


async def test_what_a_ledger_keeps(command: Command) -> None:
    """Neither a secret nor, once a run has ended, the buyer's text stands in any of its files."""
    await command("bulk", command.write(HEADER + row(1)), "--ledger", "ledger")
    files = list(command.folder.glob("ledger*"))
    assert len(files) >= 3
    for file in files:
        content = file.read_bytes()
        assert TEXT.encode() not in content
        assert not any(secret.encode() in content for secret in SECRETS.values())
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
async def test_the_count_is_asked_for(command: Command) -> None:
    """A terminal shows what would reach buyers, and another number than its sends nothing."""
    orders = command.write(HEADER + row(1) + row(2))
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sp_messaging_async", "bulk", orders),
        cwd=command.folder,
        env={**command.environment(), "SP_MESSAGING_API_URL": "", "SP_MESSAGING_TOKEN_URL": ""},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    os.close(theirs)
    os.write(ours, b"3\n")
    output, _ = await process.communicate()
    os.close(ours)
    assert process.returncode == 2
    text = output.decode()
    assert "first: createUnexpectedProblem to order 111-2222222-0000001" in text
    assert f"text: {TEXT}" in text
    assert "Type 2 to send them to buyers" in text
    assert "that is another number; nothing was sent" in text
