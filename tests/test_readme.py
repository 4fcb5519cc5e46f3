"""README's code, run as it stands there."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from aiohttp.test_utils import TestClient, TestServer

from sp_messaging_async import MessagingSession, SQLiteLedger, cli
from sp_messaging_async.bulk import campaign, outage
from sp_messaging_async.ledger import Status
from sp_messaging_async.sandbox import Fault, Sandbox

from .conftest import ORDER

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


def test_options_are_the_commands() -> None:
    """README's table of the options of `bulk` names each that the command has."""
    listed = set(re.findall(r"^\| `--([a-z-]+)[^|]*` \|", README, re.MULTILINE))
    has = {name.replace("_", "-") for name in inspect.signature(cli.bulk).parameters}
    assert listed | {"orders"} == has


def test_numbers_are_the_packages() -> None:
    """What README promises in numbers is what the code keeps to."""
    assert f"At most {campaign._IN_LANE} messages of one seller and operation" in README
    assert outage.IN_A_ROW == 5
    assert README.count("five failures in a row") == 1
    ends = (cli.ALL_SENT, cli.SOME_NOT_SENT, cli.WRONG_USAGE, cli.SOME_UNKNOWN, cli.STOPPED)
    words = ("all sent", "some rejected", "usage", "some", "stopped")
    sentence = " ".join(README.split()).partition("Exit status: ")[2]
    for number, word in zip(ends, words, strict=True):
        assert f"{number} {word}" in sentence
    for status in get_args(Status):
        assert f"`{status}`" in README


def test_the_test_of_a_reader() -> None:
    """The test that README shows passes."""
    asyncio.run(code_with("def test_a_dropped_answer")["test_a_dropped_answer"]())
