"""Clients that nobody here wrote work against the local Amazon: `pytest -m clients`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sp_messaging_async import Credentials, MessagingSession
from sp_messaging_async.models import Attachment
from sp_messaging_async.operations import MESSAGING, Operation
from sp_messaging_async.sandbox import Sandbox

from .conftest import ORDER, Open

pytestmark = pytest.mark.clients

CLIENTS = Path(__file__).parent / "clients"
PINNED = ["amzn-sp-api==1.13.0", "python-amazon-sp-api==2.1.35"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the other clients are."""
    folder = tmp_path_factory.mktemp("clients")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PINNED], check=True)
    return python


@pytest.fixture
async def attachments(open_session: Open) -> dict[str, Attachment]:
    """By the operation's name in snake_case: a file that was uploaded for those that need one."""
    session: MessagingSession = open_session(credentials=Credentials("c", "s", "refresh"))
    return {
        row.coroutine: await session.upload_attachment(ORDER, row.request, b"%PDF", "a.pdf")
        for row in MESSAGING.values()
        if row.request is not None and row.takes_attachments and not row.takes_text
    }


def outcomes(
    python: Path, script: str, sandbox: Sandbox, attachments: dict[str, Attachment]
) -> dict[str, Any]:
    """What became of each operation, as a client's script tells."""
    listed = {
        name: {"uploadDestinationId": each.upload_destination_id, "fileName": each.file_name}
        for name, each in attachments.items()
    }
    words = [python, CLIENTS / script, sandbox.url, ORDER, json.dumps(listed)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("script", "is_there"),
    [
        ("amzn_sp_api.py", lambda row: row.retired_on is None),
        ("python_amazon_sp_api.py", lambda row: True),
    ],
    ids=["Amazon's SDK, 11 operations", "python-amazon-sp-api, 13 operations"],
)
async def test_a_client(
    python: Path,
    sandbox: Sandbox,
    attachments: dict[str, Attachment],
    script: str,
    is_there: Any,
) -> None:
    """Every operation that a client has is answered as it expects, and reaches the buyer once."""
    import asyncio

    sandbox.orders.set(ORDER, locale="pt-BR")
    found = await asyncio.to_thread(outcomes, python, script, sandbox, attachments)
    rows: list[Operation] = [row for row in MESSAGING.values() if is_there(row)]
    assert found.pop("get_attributes") == {"locale": "pt-BR"}
    kinds = sorted(row.kind for row in MESSAGING.values() if row.messages_buyer)
    assert found.pop("get_messaging_actions_for_order") == kinds
    sends = [row for row in rows if row.messages_buyer]
    assert found == {row.coroutine: "sent" for row in sends}
    delivered = sorted(each.operation for each in sandbox.delivered)
    assert delivered == sorted(row.name for row in sends)
    for each in sandbox.delivered:
        assert [file.content for file in each.files] in ([], [b"%PDF"])
