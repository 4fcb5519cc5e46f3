"""README's code, run as it stands there."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from sp_messaging_async import (
    CreateConfirmOrderDetailsRequest,
    Credentials,
    MessagingSession,
    OutcomeUnknown,
    PostgresLedger,
    SQLiteLedger,
)
from sp_messaging_async.bulk import campaign, order_list, outage
from sp_messaging_async.bulk.template import Template
from sp_messaging_async.cli.app import (
    ALL_SENT,
    SOME_NOT_SENT,
    SOME_UNKNOWN,
    STOPPED,
    WRONG_USAGE,
    app,
)
from sp_messaging_async.ledger import Status
from sp_messaging_async.otel import OpenTelemetry
from sp_messaging_async.pytest_plugin import MessagingSandbox
from sp_messaging_async.sandbox import Fault, Sandbox

from . import reference
from .conftest import ORDER
from .postgres import Postgres
from .servers import RedisServer, redis_server

__all__ = ["redis_server"]  # a fixture

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def code_with(name: str) -> dict[str, Any]:
    """What README's one block of Python that holds this name defines."""
    blocks = [
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if name in block
    ]
    assert len(blocks) == 1
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(blocks[0], "README.md", "exec"), namespace)  # noqa: S102
    return namespace


@pytest.fixture
def environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of somebody who uses the sandbox."""
    monkeypatch.setenv("LWA_APP_ID", "client")
    monkeypatch.setenv("LWA_CLIENT_SECRET", "secret")
    monkeypatch.setenv("SP_API_REFRESH_TOKEN", "refresh")
    monkeypatch.setenv("SP_MESSAGING_API_URL", sandbox.endpoint.api_url)
    monkeypatch.setenv("SP_MESSAGING_TOKEN_URL", sandbox.endpoint.token_url)


@pytest.mark.usefixtures("environment")
async def test_many_processes(
    sandbox: Sandbox, redis_server: RedisServer, postgres: Postgres
) -> None:
    """Two replicas that are handed the same message send it once, and both are told it was sent."""
    dsn = postgres.dsn
    await PostgresLedger(dsn).create()
    confirm = code_with("RedisThrottle(")["confirm_shared"]
    request = CreateConfirmOrderDetailsRequest(text="Two of them?")
    sending = [confirm(ORDER, request, redis_server.url, dsn) for _ in range(2)]
    first, second = await asyncio.gather(*sending)
    assert first == second
    assert len(sandbox.delivered) == 1


@pytest.mark.usefixtures("environment")
async def test_the_service(sandbox: Sandbox) -> None:
    """The service's handler turns outcomes into the statuses that README promises."""
    application = code_with("def application")["application"]()
    async with TestClient(TestServer(application)) as client:

        async def ask(order: str, text: str) -> int:
            async with client.post(f"/orders/{order}/ask", data=text) as answer:
                return answer.status

        assert await ask(ORDER, "Two of them?") == 201
        assert await ask(ORDER, "Write to me@example.com") == 422
        sandbox.faults.add(Fault.NOT_AVAILABLE)
        assert await ask(ORDER, "Two of them?") == 409
        sandbox.faults.add(Fault.INTERNAL_FAILURE_AFTER)
        assert await ask(ORDER, "Two of them?") == 502
    assert len(sandbox.delivered) == 2


async def test_the_bot(sandbox: Sandbox, session: MessagingSession, tmp_path: Path) -> None:
    """The bot's tasks message in the buyer's language, and with a file."""
    bot = code_with("def on_command")
    sandbox.orders.locale = "pt-BR"
    await bot["on_command"](session, ORDER)
    path = tmp_path / "warranty.pdf"
    path.write_bytes(b"%PDF")
    await bot["warranty"](session, ORDER, str(path))
    sold_out, warranty = sandbox.delivered
    assert sold_out.request.text.startswith("Esgotado")
    assert warranty.files[0].content == b"%PDF"


async def test_the_bulk_run(sandbox: Sandbox, session: MessagingSession) -> None:
    """The announcement sorts its orders by what became of them."""
    orders = [f"111-2222222-333333{digit}" for digit in range(4)]
    sandbox.faults.add(Fault.UNAVAILABLE, amazon_order_id=orders[2])
    results = await code_with("def announce")["announce"](session, orders)
    assert sorted(results.pop("sent")) == [orders[0], orders[1], orders[3]]
    assert results == {"unknown": [orders[2]]}


async def test_the_ledger(sandbox: Sandbox, session: MessagingSession, tmp_path: Path) -> None:
    """What is sent a second time with a ledger reaches the buyer once."""
    async with SQLiteLedger(tmp_path / "ledger") as ledger:
        await code_with("def sold_out_once")["sold_out_once"](session, ledger, ORDER)
    assert len(sandbox.delivered) == 1


@pytest.mark.usefixtures("environment")
async def test_seen_from_outside(sandbox: Sandbox) -> None:
    """The watched session sends, its own hook notes the order, and README names every metric."""
    reader = InMemoryMetricReader()
    watched = code_with("def watched_session")
    watched["OpenTelemetry"] = partial(OpenTelemetry, meter_provider=MeterProvider([reader]))
    sandbox.faults.add(Fault.INTERNAL_FAILURE_AFTER)
    async with watched["watched_session"]() as session:
        with pytest.raises(OutcomeUnknown):
            await session.send(ORDER, CreateConfirmOrderDetailsRequest(text="Two of them?"))
        sandbox.faults.add(Fault.THROTTLED)
        await session.send(ORDER, CreateConfirmOrderDetailsRequest(text="Two of them?"))
    assert watched["to_be_looked_at"].get_nowait() == ORDER
    (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    table = re.findall(r"^\| `([a-z._]+)` \| .* \| .* \|$", README, re.MULTILINE)
    assert {metric.name for metric in scope.metrics} == {name for name in table if "." in name}


def test_the_reference_is_the_commands() -> None:
    """README's reference is what the command itself says of its options."""
    _, _, rest = README.partition(reference.BEGIN)
    told, _, _ = rest.partition(reference.END)
    assert told == reference.reference(), "bring it up to date: python -m tests.reference"


def test_the_columns_are_the_lists() -> None:
    """README names each column that an order list may have."""
    for name in re.findall(r"`(\w+)`", order_list.__doc__ or ""):
        assert f"`{name}`" in README


def test_the_template(tmp_path: Path) -> None:
    """README's template loads, and writes in each of its languages."""
    (source,) = re.findall(r"<!-- file: template.toml -->\n```toml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "template.toml"
    path.write_text(source, encoding="utf-8")
    template = Template.load(path)
    assert list(template.advice("DE")) == []
    texts = {locale: template.text(locale, {"product": "mug"}) for locale in template.texts}
    assert all("mug" in text for text in texts.values())
    assert texts["en"] == "Dear customer, shall we gift-wrap the mug?"
    assert template.text("de", {"product": "mug", "name": "Jo"}).startswith("Guten Tag Jo, ")
    assert template.locale_for("pt-BR") == "pt"


def test_the_credentials_file(tmp_path: Path) -> None:
    """README's file of credentials can be read."""
    (source,) = re.findall(r"```toml\n(\[default\].*?)```", README, re.DOTALL)
    path = tmp_path / "credentials.toml"
    path.touch(0o600)
    path.write_text(source, encoding="utf-8")
    assert Credentials.from_file(path).refresh_token == "Atzr|…"


def commands() -> list[list[str]]:
    """The commands that README's blocks for a shell show, but for those that install."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("sp-messaging")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_understood(words: list[str]) -> None:
    """The command understands every line that README shows."""
    app.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_numbers_are_the_packages() -> None:
    """What README promises in numbers is what the code keeps to."""
    assert f"At most {campaign._IN_LANE} messages of one seller and operation" in README
    assert outage.IN_A_ROW == 5
    assert README.count("five failures in a row") == 1
    ends = (ALL_SENT, SOME_NOT_SENT, WRONG_USAGE, SOME_UNKNOWN, STOPPED)
    words = ("all sent", "some rejected", "usage", "some", "stopped")
    sentence = " ".join(README.split()).partition("Exit status: ")[2]
    for number, word in zip(ends, words, strict=True):
        assert f"{number} {word}" in sentence
    for status in get_args(Status):
        assert f"`{status}`" in README


def test_the_routes_are_the_sandboxs() -> None:
    """README names every route by which the sandbox is controlled."""
    document = json.loads(files("sp_messaging_async.sandbox").joinpath("openapi.json").read_text())
    for path in document["paths"]:
        assert path in README


async def test_the_lines_of_curl(messaging_sandbox: MessagingSandbox) -> None:
    """The requests that README makes with curl are understood."""
    lines = re.findall(
        r"^curl (?:-X (\w+) )?localhost:8085(\S+)(?: --json '(.*)')?$", README, re.MULTILINE
    )
    assert len(lines) == 3
    async with aiohttp.ClientSession(messaging_sandbox.url) as http:
        for verb, path, body in lines:
            data = json.loads(body) if body else None
            async with http.request(verb or "GET", path, json=data) as answer:
                assert answer.status in (200, 204)
