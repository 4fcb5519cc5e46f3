"""The sandbox as a strict Amazon, asked with bare aiohttp and not with the client."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import inspect
import io
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import attrs
import pytest
from attrs import field, frozen
from yarl import URL

from sp_messaging_async import (
    CreateDigitalAccessKeyRequest,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    Credentials,
    Marketplace,
    MessagingSession,
    UsagePlan,
)
from sp_messaging_async.operations import MESSAGING
from sp_messaging_async.sandbox import Fault, Sandbox
from sp_messaging_async.sandbox.messaging import ActionsForm

from .conftest import FAST, ORDER

T = TypeVar("T")

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

STATIC_ORDER = "123-1234567-1234567"  # Amazon's: it takes attachments that nobody uploaded
US = "marketplaceIds=ATVPDKIKX0DER"
DENIED = "Access to requested resource is denied."
EXPIRED = "The access token you provided has expired."
MALFORMED = "The access token you provided is revoked, malformed or invalid."


# What is asked, and what comes back


@frozen
class Call:
    """An operation as Amazon's page describes it, with a body that it takes."""

    name: str
    verb: str
    path: str
    body: dict[str, Any] | None = None
    query: str = US

    def changed(self, **fields: Any) -> Call:
        """With other or further fields in its body."""
        return attrs.evolve(self, body={**(self.body or {}), **fields})


@frozen
class Asked:
    """A request as it goes out; `path` and `query` are already encoded."""

    verb: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes | None = None

    def with_header(self, name: str, value: str) -> Asked:
        return attrs.evolve(self, headers={**self.headers, name: value})

    def without_header(self, name: str) -> Asked:
        return attrs.evolve(
            self, headers={key: kept for key, kept in self.headers.items() if key != name}
        )


@frozen
class Answer:
    """An answer as it came in."""

    status: int
    headers: Any
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, str]:
        """The only one of Amazon's errors."""
        error: dict[str, str]
        (error,) = self.json["errors"]
        assert set(error) == {"code", "message", "details"}
        return error


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


FILES = [{"uploadDestinationId": "sc/0", "fileName": "a.pdf"}]
READ = "/messaging/v1/orders/{order}"
SEND = READ + "/messages/"

CALLS = (
    Call("getMessagingActionsForOrder", "GET", READ),
    Call("getAttributes", "GET", READ + "/attributes"),
    Call(
        "confirmCustomizationDetails",
        "POST",
        SEND + "confirmCustomizationDetails",
        {"text": "Is this right?", "attachments": FILES},
    ),
    Call("createConfirmDeliveryDetails", "POST", SEND + "confirmDeliveryDetails", {"text": "When"}),
    Call("createLegalDisclosure", "POST", SEND + "legalDisclosure", {"attachments": FILES}),
    Call("createNegativeFeedbackRemoval", "POST", SEND + "negativeFeedbackRemoval"),
    Call("createConfirmOrderDetails", "POST", SEND + "confirmOrderDetails", {"text": "Two?"}),
    Call("createConfirmServiceDetails", "POST", SEND + "confirmServiceDetails", {"text": "Wide?"}),
    Call("createAmazonMotors", "POST", SEND + "amazonMotors", {"attachments": FILES}),
    Call(
        "createWarranty",
        "POST",
        SEND + "warranty",
        {
            "attachments": FILES,
            "coverageStartDate": "2026-01-01T00:00:00Z",
            "coverageEndDate": "2027-01-01T00:00:00Z",
        },
    ),
    Call(
        "createDigitalAccessKey",
        "POST",
        SEND + "digitalAccessKey",
        {"text": "KEY", "attachments": FILES},
    ),
    Call("createUnexpectedProblem", "POST", SEND + "unexpectedProblem", {"text": "Sold out."}),
    Call("sendInvoice", "POST", SEND + "invoice", {"attachments": FILES}),
    Call(
        "createUploadDestinationForResource",
        "POST",
        "/uploads/2020-11-01/uploadDestinations/messaging/v1/orders/{order}/messages/invoice",
        query=f"{US}&contentMD5={quote(_md5(b'a file'), safe='')}",
    ),
)
BY_NAME = {call.name: call for call in CALLS}
READS = [call for call in CALLS if call.verb == "GET"]
MESSAGES = [call for call in CALLS if call.path.startswith(SEND)]
WITH_BODY = [call for call in CALLS if call.body]
WITH_TEXT = {
    "confirmCustomizationDetails": 800,
    "createConfirmDeliveryDetails": 2000,
    "createConfirmOrderDetails": 2000,
    "createConfirmServiceDetails": 2000,
    "createDigitalAccessKey": 400,
    "createUnexpectedProblem": 2000,
}
WITH_FILES = [call for call in WITH_BODY if "attachments" in (call.body or {})]
PROBLEM = BY_NAME["createUnexpectedProblem"]
ATTRIBUTES = BY_NAME["getAttributes"]
INVOICE = BY_NAME["sendInvoice"]
REMOVAL = BY_NAME["createNegativeFeedbackRemoval"]
UPLOAD = BY_NAME["createUploadDestinationForResource"]


@frozen
class Asker:
    """Bare aiohttp before a sandbox, with the access token of one seller."""

    sandbox: Sandbox
    http: aiohttp.ClientSession
    token: str = ""

    async def log_in(self, seller: str = "seller") -> Asker:
        """The same, as the seller of a refresh token."""
        answer = await self.token_for(**(FORM | {"refresh_token": seller}))
        return attrs.evolve(self, token=answer.json["access_token"])

    async def token_for(self, **form: str) -> Answer:
        body = "&".join(f"{name}={quote(value)}" for name, value in form.items()).encode()
        content_type = {"Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}
        return await self.send(Asked("POST", "/auth/o2/token", "", content_type, body))

    def asked(self, call: Call, order: str = STATIC_ORDER) -> Asked:
        """The request that Amazon takes."""
        headers = {"x-amz-access-token": self.token, "User-Agent": "test/1 (Language=Python/3)"}
        body = None
        if call.body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(call.body).encode()
        return Asked(call.verb, call.path.format(order=order), call.query, headers, body)

    async def ask(self, call: Call, order: str = STATIC_ORDER) -> Answer:
        return await self.send(self.asked(call, order))

    async def send(self, asked: Asked) -> Answer:
        url = f"{self.sandbox.url}{asked.path}?{asked.query}"
        return await self.exchange(asked.verb, url, asked.headers, asked.body)

    async def exchange(self, verb: str, url: str, headers: dict[str, str], body: Any) -> Answer:
        async with self.http.request(
            verb,
            URL(url, encoded=True),
            headers=headers,
            data=io.BytesIO(body) if isinstance(body, bytes) else body,
            skip_auto_headers=("User-Agent", "Content-Type"),
            allow_redirects=False,
        ) as response:
            content = await response.read()
            return Answer(response.status, response.headers, response.content_type, content)

    async def destination(
        self, content: bytes, order: str = ORDER, kind: str = "invoice"
    ) -> Destination:
        """A place for a file, as Amazon's upload API gives it."""
        path = UPLOAD.path.replace("/invoice", f"/{kind}")
        query = f"{US}&contentMD5={quote(_md5(content), safe='')}"
        answer = await self.ask(attrs.evolve(UPLOAD, path=path, query=query), order)
        assert answer.status == 201
        payload = answer.json["payload"]
        return Destination(payload["uploadDestinationId"], payload["url"], payload["headers"])

    async def put(self, destination: Destination, content: Any, **changes: Any) -> Answer:
        destination = attrs.evolve(destination, **changes)
        return await self.exchange("PUT", destination.url, destination.headers, content)

    async def upload(self, content: bytes, name: str, order: str = ORDER) -> dict[str, str]:
        """A file that was put, as an attachment of an invoice."""
        destination = await self.destination(content, order)
        assert (await self.put(destination, content)).status == 200
        return {"uploadDestinationId": destination.identity, "fileName": name}


@frozen
class Destination:
    """Where to put a file, and the headers to put it with."""

    identity: str
    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)


FORM = {
    "grant_type": "refresh_token",
    "refresh_token": "seller",
    "client_id": "client",
    "client_secret": "secret",
}


@pytest.fixture
async def stranger(sandbox: Sandbox) -> AsyncIterator[Asker]:
    """Somebody before the sandbox, without an access token."""
    # A connection that was kept might be closed by the other side just when it is used again.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as http:
        yield Asker(sandbox, http)


@pytest.fixture
async def seller(stranger: Asker) -> Asker:
    """A seller before the sandbox."""
    return await stranger.log_in()


def _name(value: object) -> str:
    return value.name if isinstance(value, Call | Fault) else str(value)


# A clock that stands


class _StandingLoop(asyncio.SelectorEventLoop):
    """An event loop with real sockets, whose clock moves only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__()

    def time(self) -> float:
        return self.now


def pass_time(seconds: float) -> None:
    """Let the standing clock of this test go on."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _StandingLoop)
    loop.now += seconds


def standing(main: Callable[[Asker], Coroutine[Any, Any, T]], **sandbox: Any) -> T:
    """Run a seller's day before a sandbox of Amazon's own plans, on a standing clock."""

    async def run() -> T:
        async with Sandbox(**sandbox) as local, aiohttp.ClientSession() as http:
            return await main(await Asker(local, http).log_in())

    with asyncio.Runner(loop_factory=_StandingLoop) as runner:
        return runner.run(run())


# Login with Amazon


@pytest.mark.parametrize(
    "changes",
    [{}, {"refresh_token": "Atzr|a&b=c+d%20é"}, {"client_id": "x"}, {"client_secret": " +&="}],
    ids=str,
)
async def test_any_credentials_get_a_token(stranger: Asker, changes: dict[str, str]) -> None:
    """Login with Amazon answers in Amazon's form, and its token is the seller's."""
    form = FORM | changes
    answer = await stranger.token_for(**form)
    assert answer.status == 200
    assert answer.content_type == "application/json"
    token = answer.json["access_token"]
    assert answer.json == {
        "access_token": token,
        "token_type": "bearer",
        "expires_in": 3600,
        "refresh_token": form["refresh_token"],
    }
    assert (await attrs.evolve(stranger, token=token).ask(PROBLEM)).status == 201
    assert [delivered.seller for delivered in stranger.sandbox.delivered] == [form["refresh_token"]]


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"grant_type": ""}, 400, {"invalid_request", "unsupported_grant_type"}),
        ({"grant_type": "password"}, 400, {"unsupported_grant_type"}),
        ({"refresh_token": ""}, 400, {"invalid_request"}),
        ({"client_id": ""}, 400, {"invalid_request"}),
        ({"client_secret": ""}, 400, {"invalid_request"}),
        ({"client_secret": "invalid"}, 401, {"invalid_client"}),
        ({"refresh_token": "revoked"}, 400, {"invalid_grant"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
async def test_refusals_of_login(
    stranger: Asker, changes: dict[str, str], status: int, error: set[str]
) -> None:
    """A missing parameter and the credentials that ask to be refused get Amazon's errors."""
    answer = await stranger.token_for(**(FORM | changes))
    assert answer.status == status
    assert set(answer.json) == {"error", "error_description"}
    assert answer.json["error"] in error
    assert answer.json["error_description"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps(FORM).encode()),
        ("multipart/form-data", b""),
        ("text/plain", b"grant_type=refresh_token"),
        ("application/x-www-form-urlencoded", b"\xff=\xff"),
        ("application/x-www-form-urlencoded; charset=none-such", b"grant_type=refresh_token"),
    ],
)
async def test_login_takes_only_forms(stranger: Asker, content_type: str, body: bytes) -> None:
    """What is no readable form is refused as an invalid request, and not with a failure."""
    asked = Asked("POST", "/auth/o2/token", "", {"Content-Type": content_type}, body)
    answer = await stranger.send(asked)
    assert answer.status == 400
    assert answer.json["error"] == "invalid_request"


async def test_a_form_that_is_not_in_its_encoding(stranger: Asker) -> None:
    """A form that is not in the Content-Encoding it names is an invalid request."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Encoding": "gzip"}
    answer = await stranger.send(Asked("POST", "/auth/o2/token", "", headers, b"grant_type=x"))
    assert answer.status == 400
    assert answer.json["error"] == "invalid_request"


async def test_credentials_in_the_address_are_not_read(stranger: Asker) -> None:
    """Login with Amazon reads the form and not the query."""
    query = "&".join(f"{name}={value}" for name, value in FORM.items())
    content_type = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await stranger.send(Asked("POST", "/auth/o2/token", query, content_type, b""))
    assert answer.status == 400


def test_tokens_expire() -> None:
    """A token serves for its whole life and not a moment longer."""

    async def main(seller: Asker) -> None:
        pass_time(1799)
        assert (await seller.ask(ATTRIBUTES)).status == 200
        pass_time(1)
        answer = await seller.ask(ATTRIBUTES)
        assert (answer.status, answer.error["details"]) == (403, EXPIRED)
        assert (await (await seller.log_in()).ask(ATTRIBUTES)).status == 200

    standing(main, token_lifetime=1800)


def test_each_refresh_token_is_a_seller_of_its_own() -> None:
    """Two tokens of one refresh token share a plan, and another refresh token has its own."""

    async def main(seller: Asker) -> None:
        same, other = await seller.log_in(), await seller.log_in("another")
        statuses = [(await asker.ask(ATTRIBUTES)).status for asker in (seller, same) * 3]
        assert statuses == [200] * 5 + [429]
        assert [(await other.ask(ATTRIBUTES)).status for _ in range(6)] == [200] * 5 + [429]

    standing(main)


# What every operation refuses


@pytest.mark.parametrize("call", CALLS, ids=_name)
async def test_every_operation_is_answered(seller: Asker, call: Call) -> None:
    """What Amazon's page describes is taken, and delivered once if it messages a buyer."""
    answer = await seller.ask(call)
    assert answer.status == (200 if call in READS else 201)
    assert answer.content_type == "application/hal+json"
    if call in MESSAGES:
        assert answer.json == {}
    delivered = [(it.operation, it.amazon_order_id) for it in seller.sandbox.delivered]
    assert delivered == ([(call.name, STATIC_ORDER)] if call in MESSAGES else [])


def _query(of: str) -> Callable[[Asked], Asked]:
    return lambda asked: attrs.evolve(asked, query=asked.query.replace(US, of))


NOT_AUTHORIZED: dict[str, Callable[[Asked], Asked]] = {
    "no token": lambda asked: asked.without_header("x-amz-access-token"),
    "empty token": lambda asked: asked.with_header("x-amz-access-token", ""),
    "unknown token": lambda asked: asked.with_header("x-amz-access-token", "Atza|unknown"),
    "bearer": lambda asked: asked.without_header("x-amz-access-token").with_header(
        "Authorization", f"Bearer {asked.headers['x-amz-access-token']}"
    ),
}
INVALID: dict[str, Callable[[Asked], Asked]] = {
    "no marketplaceIds": _query("a=b"),
    "empty marketplaceIds": _query("marketplaceIds="),
    "two marketplaceIds": _query(f"{US}&marketplaceIds=A1AM78C64UM0Y8"),
    "the same one twice": _query(f"{US}&{US}"),
    "two in one": _query(f"{US},A1AM78C64UM0Y8"),
    "two in one, encoded": _query(f"{US}%2CA1AM78C64UM0Y8"),
    "unknown marketplace": _query("marketplaceIds=A0000000000000"),
    "country code": _query("marketplaceIds=US"),
    "another spelling": _query("marketplaceids=ATVPDKIKX0DER"),
    "unknown parameter": _query(f"{US}&version=1"),
    "no User-Agent": lambda asked: asked.without_header("User-Agent"),
}


@pytest.mark.parametrize("break_", NOT_AUTHORIZED)
async def test_a_token_that_gives_no_access(seller: Asker, break_: str) -> None:
    """Without a token that it gave, Amazon answers 403, as it does to a revoked one."""
    for call in CALLS:
        answer = await seller.send(NOT_AUTHORIZED[break_](seller.asked(call)))
        assert answer.status == 403, call.name
        assert answer.error == {"code": "Unauthorized", "message": DENIED, "details": MALFORMED}
    assert seller.sandbox.delivered == []


@pytest.mark.parametrize("call", CALLS, ids=_name)
async def test_an_expired_token(seller: Asker, call: Call) -> None:
    """An expired token gets 403 with Amazon's sentence, and a new one serves."""
    seller.sandbox.login.expire_all()
    answer = await seller.ask(call)
    assert answer.status == 403
    assert answer.error == {"code": "Unauthorized", "message": DENIED, "details": EXPIRED}
    assert seller.sandbox.delivered == []
    assert (await (await seller.log_in()).ask(call)).status in (200, 201)


@pytest.mark.parametrize("break_", INVALID)
async def test_an_invalid_request(seller: Asker, break_: str) -> None:
    """Exactly one known marketplace, nothing else in the query, and a User-Agent are asked for."""
    for call in CALLS:
        answer = await seller.send(INVALID[break_](seller.asked(call)))
        assert answer.status == 400, call.name
        assert answer.error["code"] == "InvalidInput"
    assert seller.sandbox.delivered == []


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/hal+json"]
)
async def test_a_wrong_content_type(seller: Asker, content_type: str) -> None:
    """A body that is not said to be JSON gets 415."""
    for call in WITH_BODY:
        asked = seller.asked(call).without_header("Content-Type")
        if content_type:
            asked = asked.with_header("Content-Type", content_type)
        answer = await seller.send(asked)
        assert answer.status == 415, call.name
        assert answer.error["code"] == "UnsupportedMediaType"
    assert seller.sandbox.delivered == []


async def test_a_charset_does_not_change_the_content_type(seller: Asker) -> None:
    """JSON that names its charset is JSON."""
    asked = seller.asked(PROBLEM).with_header("Content-Type", "application/json; charset=UTF-8")
    assert (await seller.send(asked)).status == 201


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [("application/json", b"", 415), ("application/json", b"{}", 415), ("", b"{}", 400)],
)
async def test_the_operation_without_a_body(
    seller: Asker, content_type: str, body: bytes, status: int
) -> None:
    """createNegativeFeedbackRemoval takes neither a content type nor a body."""
    asked = attrs.evolve(seller.asked(REMOVAL), body=body)
    if content_type:
        asked = asked.with_header("Content-Type", content_type)
    assert (await seller.send(asked)).status == status
    assert seller.sandbox.delivered == []


async def _refused(
    seller: Asker, call: Call, body: bytes | None = None, order: str = STATIC_ORDER
) -> None:
    asked = seller.asked(call, order)
    answer = await seller.send(asked if body is None else attrs.evolve(asked, body=body))
    assert answer.status == 400
    assert answer.error["code"] == "InvalidInput"
    assert seller.sandbox.delivered == []


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'"text"', b'{"text": "Sold', b"{'text': 'Sold'}", b'{"text": "\xff"}'],
)
async def test_a_body_that_is_no_json_object(seller: Asker, body: bytes) -> None:
    """What is no JSON object in UTF-8 is refused."""
    await _refused(seller, PROBLEM, body)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_in_its_encoding(seller: Asker, encoding: str) -> None:
    """A body that is not in the Content-Encoding it names is refused, and not with a failure."""
    answer = await seller.send(seller.asked(PROBLEM).with_header("Content-Encoding", encoding))
    assert answer.status == 400
    assert answer.error["code"] == "InvalidInput"
    assert seller.sandbox.delivered == []


@pytest.mark.parametrize(
    "order", ["..", "%00", "a%20b", "%C3%9Cber", "x" * 65, "x" * 5000], ids=lambda it: it[:9]
)
async def test_an_order_id_that_no_order_has(seller: Asker, order: str) -> None:
    """Dots, control characters, spaces, letters that are not ASCII and great length are refused."""
    for call in CALLS:
        await _refused(seller, call, order=order)


@pytest.mark.parametrize("field_", ["locale", "subject", "rawMessageBody"])
@pytest.mark.parametrize("call", WITH_BODY, ids=_name)
async def test_an_unknown_field(seller: Asker, call: Call, field_: str) -> None:
    """A field that the operation does not have is refused, whatever it holds."""
    await _refused(seller, call.changed(**{field_: "ATVPDKIKX0DER"}))


async def test_a_marketplace_in_the_body(seller: Asker) -> None:
    """It is ignored as at Amazon, where clients of many APIs put it; the query must have it too."""
    for call in WITH_BODY:
        answer = await seller.send(seller.asked(call.changed(marketplaceIds=["ATVPDKIKX0DER"])))
        assert answer.status == 201
    assert len(seller.sandbox.delivered) == len(WITH_BODY)


NO_ATTACHMENTS: list[Any] = [
    {"uploadDestinationId": "sc/0"},
    {"fileName": "a.pdf"},
    {"uploadDestinationId": "sc/0", "fileName": "a.pdf", "size": 1},
    {"uploadDestinationId": "sc/0", "fileName": "a.pdf", "id": "sc/0"},
    {"id": "sc/0", "fileName": "a.pdf"},
    {"uploadDestinationId": 7, "fileName": "a.pdf"},
    {"uploadDestinationId": "", "fileName": "a.pdf"},
    "sc/0",
]


@pytest.mark.parametrize("call", WITH_FILES, ids=_name)
async def test_an_attachment_that_is_none(seller: Asker, call: Call) -> None:
    """An attachment has an upload destination and a name, and nothing else."""
    for attachment in NO_ATTACHMENTS:
        await _refused(seller, call.changed(attachments=[attachment]))


@pytest.mark.parametrize("name", ["a.exe", "a", ".pdf", "a.pdf.exe", "a.pdf "])
@pytest.mark.parametrize("call", WITH_FILES, ids=_name)
async def test_a_type_of_file_that_is_refused(seller: Asker, call: Call, name: str) -> None:
    """An attachment whose name ends as none of Amazon's types of file does is refused."""
    await _refused(seller, call.changed(attachments=[{**FILES[0], "fileName": name}]))


TYPES = ["txt", "pdf", "doc", "docx", "jpg", "jpeg", "gif", "png", "PDF"]


@pytest.mark.parametrize("ending", TYPES)
async def test_a_type_of_file_that_is_taken(seller: Asker, ending: str) -> None:
    """Text, PDF, Word and pictures are taken, whatever the case of their ending."""
    attachments = [{**FILES[0], "fileName": f"a.b.{ending}"}]
    assert (await seller.ask(INVOICE.changed(attachments=attachments))).status == 201


@pytest.mark.parametrize("number", [0, 6])
@pytest.mark.parametrize("call", WITH_FILES, ids=_name)
async def test_too_many_or_too_few_attachments(seller: Asker, call: Call, number: int) -> None:
    """Five are the most; the two operations that are about a file need at least one."""
    changed = call.changed(attachments=FILES * number)
    if number == 0 and call.name not in ("createWarranty", "sendInvoice"):
        assert (await seller.ask(changed)).status == 201
    else:
        await _refused(seller, changed)


@pytest.mark.parametrize("name", WITH_TEXT)
async def test_a_text_of_the_wrong_type(seller: Asker, name: str) -> None:
    """A text is a string, and nothing is turned into one."""
    for value in (7, True, None, ["Sold out."], {"text": "Sold out."}):
        await _refused(seller, BY_NAME[name].changed(text=value))


@pytest.mark.parametrize("character", ["x", "é", "🎁"])
@pytest.mark.parametrize("name", WITH_TEXT)
async def test_the_length_of_a_text(seller: Asker, name: str, character: str) -> None:
    """The limit is counted in characters: the last that fits is taken, one more is refused."""
    text = character * WITH_TEXT[name]
    await _refused(seller, BY_NAME[name].changed(text=text + character))
    await _refused(seller, BY_NAME[name].changed(text=""))
    assert (await seller.ask(BY_NAME[name].changed(text=text))).status == 201


@pytest.mark.parametrize(
    "text",
    [
        "<b>Sold out</b>",
        "Sold <!-- out -->",
        "Write to me@example.com",
        "first.last+tag@mail.example.co.uk",
        "Sold&nbsp;out",
        "&frac12; a metre",
        "&CounterClockwiseContourIntegral;",
        "5 &#8364; or 5 &#x20AC;",
    ],
)
@pytest.mark.parametrize("name", WITH_TEXT)
async def test_html_and_addresses_in_a_text(seller: Asker, name: str, text: str) -> None:
    """Amazon takes neither HTML nor e-mail addresses."""
    await _refused(seller, BY_NAME[name].changed(text=text))


@pytest.mark.parametrize(
    "text",
    [
        "1 < 2 & 3 > 2",
        "I <3 it",
        "@home",
        "a@b",
        "two pieces, 2@1.99 each",
        "R&D",
        "AT&T;",
        "black &white;",
        "&com;",
        "&#12345678;",
        "https://a.example/?a=1&copy=2",
    ],
)
async def test_a_text_that_only_looks_like_html(seller: Asker, text: str) -> None:
    """Plain signs, and links that belong to the message, are taken."""
    assert (await seller.ask(PROBLEM.changed(text=text))).status == 201


@pytest.mark.parametrize(
    "dates",
    [
        {"coverageStartDate": "2026-01-01T00:00:00"},
        {"coverageStartDate": "2026-01-01"},
        {"coverageEndDate": "soon"},
        {"coverageEndDate": 1767225600},
        {"coverageEndDate": "2025-12-31T23:59:59Z"},
    ],
    ids=str,
)
async def test_dates_that_are_none(seller: Asker, dates: dict[str, Any]) -> None:
    """A warranty's dates have a time zone, and the end is not before the start."""
    await _refused(seller, BY_NAME["createWarranty"].changed(**dates))


async def test_a_body_that_is_too_large(seller: Asker) -> None:
    """A request that is larger than all that a message may hold gets 413."""
    asked = attrs.evolve(seller.asked(PROBLEM), body=b" " * 12_000_000)
    answer = await seller.send(asked)
    assert answer.status == 413
    assert answer.error["code"] == "PayloadTooLarge"
    assert "x-amzn-RateLimit-Limit" not in answer.headers
    assert seller.sandbox.delivered == []


@pytest.mark.parametrize(
    "path",
    [
        "/messaging/v1/orders",
        "/messaging/v1/orders//attributes",
        "/messaging/v1/orders/1/attributes/",
        "/messaging/v1/orders/1/messages/updateFeedback",
        "/messaging/v1/orders/1/messages/sendInvoice",
        "/messaging/v2/orders/1",
        "/uploads/2020-11-01/uploadDestinations/",
    ],
)
@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_an_unknown_path(seller: Asker, verb: str, path: str) -> None:
    """A path that no operation has gets 404 in Amazon's form."""
    asked = attrs.evolve(seller.asked(ATTRIBUTES), verb=verb, path=path)
    answer = await seller.send(asked)
    assert answer.status == 404
    assert answer.error["code"] == "NotFound"
    assert answer.headers["x-amzn-RequestId"]


@pytest.mark.parametrize("call", CALLS, ids=_name)
async def test_a_wrong_verb(seller: Asker, call: Call) -> None:
    """Every operation takes its own verb and no other."""
    for verb in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {call.verb}:
        answer = await seller.send(attrs.evolve(seller.asked(call), verb=verb))
        assert answer.status == 405
        assert answer.error["code"] == "MethodNotAllowed"
    assert seller.sandbox.delivered == []


# The headers of an answer


async def _ordinary(seller: Asker) -> Answer:
    return await seller.ask(ATTRIBUTES)


async def _throttled(seller: Asker) -> Answer:
    seller.sandbox.plans.change(ATTRIBUTES.name, UsagePlan(rate=1e-6, burst=1))
    await seller.ask(ATTRIBUTES)
    return await seller.ask(ATTRIBUTES)


def _under(fault: Fault) -> Callable[[Asker], Coroutine[Any, Any, Answer]]:
    async def ask(seller: Asker) -> Answer:
        seller.sandbox.faults.add(fault)
        return await seller.ask(ATTRIBUTES)

    return ask


@pytest.mark.parametrize(
    ("ask", "status", "tells_rate"),
    [
        (lambda s: s.ask(ATTRIBUTES), 200, True),
        (lambda s: s.ask(PROBLEM), 201, True),
        (lambda s: s.ask(PROBLEM.changed(text="")), 400, True),
        (lambda s: s.send(NOT_AUTHORIZED["no token"](s.asked(ATTRIBUTES))), 403, False),
        (lambda s: s.send(s.asked(PROBLEM).without_header("Content-Type")), 415, False),
        (lambda s: s.send(attrs.evolve(s.asked(PROBLEM), verb="PUT")), 405, False),
        (_throttled, 429, False),
        (_under(Fault.THROTTLED), 429, False),
        (_under(Fault.INTERNAL_FAILURE), 500, False),
        (_under(Fault.UNAVAILABLE), 503, False),
    ],
)
async def test_headers_of_an_answer(
    seller: Asker,
    ask: Callable[[Asker], Coroutine[Any, Any, Answer]],
    status: int,
    tells_rate: bool,
) -> None:
    """All have a request id of their own; the rate in force comes with some and not with 429."""
    first, second = await ask(seller), await ask(seller)
    if status != 429:
        assert first.status == second.status == status
    assert second.status == status
    assert ("x-amzn-RateLimit-Limit" in second.headers) is tells_rate
    ids = {answer.headers["x-amzn-RequestId"] for answer in (first, second)}
    assert len({uuid.UUID(request_id) for request_id in ids}) == 2


async def test_the_rate_that_is_told_is_the_one_in_force(seller: Asker) -> None:
    """The header is a decimal, and follows a change of the plan."""
    seller.sandbox.plans.change(ATTRIBUTES.name, UsagePlan(rate=0.5, burst=10))
    assert (await _ordinary(seller)).headers["x-amzn-RateLimit-Limit"] == "0.5"
    seller.sandbox.plans.change(ATTRIBUTES.name, UsagePlan(rate=3, burst=10))
    assert (await _ordinary(seller)).headers["x-amzn-RateLimit-Limit"] == "3.0"


# Usage plans


async def _answered(seller: Asker, call: Call, times: int) -> list[int]:
    """The statuses of so many calls, one after the other."""
    return [(await seller.ask(call)).status for _ in range(times)]


@pytest.mark.parametrize("call", CALLS, ids=_name)
def test_the_plan_of_every_operation(call: Call) -> None:
    """The burst is five; then 429 QuotaExceeded until the rate has made up for it."""

    async def main(seller: Asker) -> None:
        rate = 5 if call is UPLOAD else 1
        taken = 200 if call in READS else 201
        assert await _answered(seller, call, 5) == [taken] * 5
        refused = await seller.ask(call)
        assert refused.status == 429
        assert refused.error["code"] == "QuotaExceeded"
        pass_time(0.5 / rate)
        assert await _answered(seller, call, 1) == [429]
        pass_time(0.5 / rate + 1e-9)
        assert await _answered(seller, call, 2) == [taken, 429]
        pass_time(600)
        assert await _answered(seller, call, 6) == [taken] * 5 + [429]
        if call in MESSAGES:
            assert len(seller.sandbox.delivered) == 11

    standing(main)


def test_operations_have_plans_of_their_own() -> None:
    """An operation whose plan is used up leaves the others theirs."""

    async def main(seller: Asker) -> None:
        assert await _answered(seller, ATTRIBUTES, 6) == [200] * 5 + [429]
        assert await _answered(seller, PROBLEM, 5) == [201] * 5

    standing(main)


def test_what_is_refused_for_its_content_counts_and_what_lacks_a_token_does_not() -> None:
    """Amazon looks at the token, then at the plan, and then at what was sent."""

    async def main(seller: Asker) -> None:
        stranger = attrs.evolve(seller, token="Atza|unknown")
        assert await _answered(stranger, PROBLEM, 6) == [403] * 6
        assert await _answered(seller, PROBLEM.changed(text=""), 6) == [400] * 5 + [429]

    standing(main)


def test_a_plan_given_to_the_sandbox() -> None:
    """Another plan than Amazon's default holds for its operation alone."""

    async def main(seller: Asker) -> None:
        assert await _answered(seller, ATTRIBUTES, 3) == [200, 200, 429]
        assert await _answered(seller, PROBLEM, 6) == [201] * 5 + [429]

    standing(main, plans={ATTRIBUTES.name: UsagePlan(rate=1, burst=2)})


def test_a_plan_for_no_operation() -> None:
    """A plan under a name that no operation has is a mistake, told at once and by that name."""
    with pytest.raises(ValueError, match="'createWaranty' is no operation"):
        Sandbox(plans={**FAST, "createWaranty": UsagePlan(rate=1, burst=2)})


async def test_what_is_said_before_it_opens() -> None:
    """Faults, orders and plans may be set as soon as there is a sandbox, and hold when it opens."""
    sandbox = Sandbox()
    sandbox.faults.add(Fault.DENIED)
    sandbox.orders.set(ORDER, locale="de-DE")
    sandbox.plans.change(ATTRIBUTES.name, UsagePlan(rate=1, burst=2))
    assert (sandbox.delivered, sandbox.login.requests) == ([], 0)
    async with sandbox, aiohttp.ClientSession() as http:
        asker = await Asker(sandbox, http).log_in()
        answers = [await asker.ask(ATTRIBUTES, ORDER) for _ in range(4)]
    assert [answer.status for answer in answers] == [403, 200, 200, 429]
    assert answers[1].json == {"buyer": {"locale": "de-DE"}}


async def test_the_environment_leads_to_it(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its variables, a session that is told nothing else reaches it."""
    for name, value in sandbox.environment().items():
        monkeypatch.setenv(name, value)
    async with MessagingSession(Credentials.from_env(), marketplace="US") as session:
        await session.create_unexpected_problem(ORDER, CreateUnexpectedProblemRequest("Sold out."))
    assert [each.amazon_order_id for each in sandbox.delivered] == [ORDER]


# Orders and answers


@pytest.mark.parametrize("call", READS + MESSAGES, ids=_name)
async def test_the_static_order_that_fails(seller: Asker, call: Call) -> None:
    """Amazon's static sandbox refuses one order by everything, and another by sendInvoice."""
    order = "badOrderId" if call is INVOICE else "123-1234567-0000000"
    answer = await seller.ask(call, order)
    assert answer.status == 400
    assert answer.error["code"] == "InvalidInput"
    assert answer.error["message"] == "Invalid Input"  # and not that an attachment is missing
    assert seller.sandbox.delivered == []


async def _actions(seller: Asker, form: ActionsForm, order: str = ORDER) -> Any:
    seller.sandbox.messaging.actions_form = form
    answer = await seller.ask(BY_NAME["getMessagingActionsForOrder"], order)
    assert answer.status == 200
    return answer.json


KINDS = {call.path.rpartition("/")[2] for call in MESSAGES}


@pytest.mark.parametrize("form", ["live", "model"])
async def test_the_links_of_the_actions(seller: Asker, form: ActionsForm) -> None:
    """Either form links the order itself and every kind of message that it allows."""
    links = (await _actions(seller, form))["_links"]
    assert links["self"]["href"] == f"/messaging/v1/orders/{ORDER}?{US}"
    assert {link["name"] for link in links["actions"]} == KINDS
    assert {link["href"] for link in links["actions"]} == {
        f"{SEND.format(order=ORDER)}{kind}?{US}" for kind in KINDS
    }


async def test_actions_in_the_form_of_the_model(seller: Asker) -> None:
    """The name stands under `payload`, and so does the schema."""
    actions = (await _actions(seller, "model"))["_embedded"]["actions"]
    assert {action["payload"]["name"] for action in actions} == KINDS
    for action in actions:
        assert set(action) == {"payload", "_links", "_embedded"}
        assert set(action["_links"]) == {"self", "schema"}
        schema = action["_embedded"]["schema"]
        assert set(schema) == {"payload", "_links"}
        assert schema["payload"]["type"] == "object"


async def test_actions_in_the_live_form(seller: Asker) -> None:
    """Name and title stand at the top, the schema is flat, and two names are no path's."""
    actions = (await _actions(seller, "live"))["_embedded"]["actions"]
    names = {action["name"] for action in actions}
    assert names - KINDS == {"sendInvoice", "updateFeedback"}
    for action in actions:
        assert set(action) == {"name", "title", "_links", "_embedded"}
        schema = action["_embedded"]["schema"]
        assert {"_links", "type", "disabled", "disabledReason", "x-ui-hidden"} <= set(schema)
        assert "payload" not in schema
        assert set(schema["properties"]) <= {"rawMessageBody", "attachments"}
        if "attachments" in schema["properties"]:
            assert set(schema["properties"]["attachments"]["items"]["properties"]) == {"id"}


@pytest.mark.parametrize("form", ["live", "model"])
async def test_the_static_order_has_links_alone(seller: Asker, form: ActionsForm) -> None:
    """Amazon's static order that succeeds embeds no actions, whichever form is asked for."""
    answer = await _actions(seller, form, STATIC_ORDER)
    assert set(answer) == {"_links"}
    assert {link["name"] for link in answer["_links"]["actions"]} == KINDS


async def test_the_language_of_the_buyers() -> None:
    """getAttributes tells the locale that the sandbox was given."""
    async with Sandbox(locale="zh-CN") as sandbox, aiohttp.ClientSession() as http:
        answer = await (await Asker(sandbox, http).log_in()).ask(ATTRIBUTES)
        assert answer.json == {"buyer": {"locale": "zh-CN"}}


async def test_a_port_of_ones_own() -> None:
    """A sandbox listens where it was told, and its endpoint says so."""
    async with Sandbox() as first:
        port = int(first.url.rpartition(":")[2])
    async with Sandbox(port=port) as second, aiohttp.ClientSession() as http:
        assert second.url == second.endpoint.api_url == f"http://127.0.0.1:{port}"
        assert second.endpoint.token_url == f"{second.url}/auth/o2/token"
        assert (await (await Asker(second, http).log_in()).ask(ATTRIBUTES)).status == 200


# What is delivered


async def test_what_a_delivery_tells(seller: Asker) -> None:
    """It tells operation, order, marketplace, content, files, seller and time."""
    mexican = attrs.evolve(PROBLEM, query="marketplaceIds=A1AM78C64UM0Y8")
    before = asyncio.get_running_loop().time()
    await seller.ask(mexican, ORDER)
    (delivered,) = seller.sandbox.delivered
    assert before <= delivered.at <= asyncio.get_running_loop().time()
    assert attrs.asdict(delivered, recurse=False) == {
        "operation": "createUnexpectedProblem",
        "amazon_order_id": ORDER,
        "marketplace": Marketplace.MX,
        "request": CreateUnexpectedProblemRequest("Sold out."),
        "files": (),
        "seller": "seller",
        "at": delivered.at,
    }


async def test_content_is_delivered_as_it_was_sent(seller: Asker) -> None:
    """Texts of any script and dates of any time zone arrive as they were meant."""
    text = "钥匙 🎁\nclé – schlüssel"
    await seller.ask(BY_NAME["createDigitalAccessKey"].changed(text=text, attachments=[]))
    await seller.ask(
        BY_NAME["createWarranty"].changed(coverageStartDate="2026-01-01T09:30:00.5+09:00")
    )
    key, warranty = (delivered.request for delivered in seller.sandbox.delivered)
    assert isinstance(key, CreateDigitalAccessKeyRequest)
    assert key.text == text
    assert isinstance(warranty, CreateWarrantyRequest)
    start = datetime(2026, 1, 1, 0, 30, 0, 500_000, tzinfo=UTC)
    assert warranty.coverage_start_date == start


async def test_the_same_message_twice_is_two_deliveries(seller: Asker) -> None:
    """Amazon has no idempotency: whoever sends twice has messaged the buyer twice."""
    assert await _answered(seller, PROBLEM, 2) == [201, 201]
    assert len(seller.sandbox.delivered) == 2


async def test_files_are_delivered_with_the_message(seller: Asker) -> None:
    """Each file comes under the name that the message gives it, byte for byte."""
    content = bytes(range(256)) * 1000
    attachments = [
        await seller.upload(content, "invoice.pdf"),
        await seller.upload(b"a note", "note.txt"),
    ]
    assert (await seller.ask(INVOICE.changed(attachments=attachments), ORDER)).status == 201
    (delivered,) = seller.sandbox.delivered
    assert [(file.name, file.content) for file in delivered.files] == [
        ("invoice.pdf", content),
        ("note.txt", b"a note"),
    ]


# Uploads


async def test_a_destination_is_presigned(seller: Asker) -> None:
    """It is an address with a signature, and the headers that were signed."""
    answer = await seller.ask(UPLOAD, ORDER)
    assert set(answer.json) == {"payload"}
    payload = answer.json["payload"]
    assert set(payload) == {"uploadDestinationId", "url", "headers"}
    assert payload["url"].startswith(f"{seller.sandbox.url}/")
    assert "&X-Amz-Expires=900&" in payload["url"]
    assert "&X-Amz-Signature=" in payload["url"]
    assert payload["headers"]["Content-MD5"] == _md5(b"a file")


@pytest.mark.parametrize(
    "resource",
    [
        "messaging%2Fv1%2Forders%2F{order}%2Fmessages%2Finvoice",
        "messaging/v1/orders/{order}/messages%2Finvoice",
        "messaging/v1/orders/{order}/messages%2finvoice",
    ],
)
async def test_an_encoded_resource(seller: Asker, resource: str) -> None:
    """A resource whose slashes are percent-encoded gets Amazon's 403."""
    call = attrs.evolve(UPLOAD, path=f"/uploads/2020-11-01/uploadDestinations/{resource}")
    answer = await seller.ask(call, ORDER)
    assert (answer.status, answer.error["code"]) == (403, "Unauthorized")


@pytest.mark.parametrize(
    "resource",
    [
        "/messaging/v1/orders/{order}/messages/invoice",
        "messaging/v1/orders/{order}/messages/sendInvoice",
        "messaging/v1/orders/{order}/messages/confirmOrderDetails",
        "messaging/v1/orders/{order}/invoice",
        "messaging/v1/orders/{order}/messages/invoice/",
        "aplus/2020-11-01/contentDocuments",
    ],
)
async def test_a_resource_that_takes_no_files(seller: Asker, resource: str) -> None:
    """A leading slash, or a path that no message with files has, is refused."""
    call = attrs.evolve(UPLOAD, path=f"/uploads/2020-11-01/uploadDestinations/{resource}")
    answer = await seller.ask(call, ORDER)
    assert (answer.status, answer.error["code"]) == (400, "InvalidInput")


@pytest.mark.parametrize("call", WITH_FILES, ids=_name)
async def test_every_message_with_files_has_a_resource(seller: Asker, call: Call) -> None:
    """The six kinds of message that take files give destinations."""
    path = f"/uploads/2020-11-01/uploadDestinations{call.path}"
    assert (await seller.ask(attrs.evolve(UPLOAD, path=path), ORDER)).status == 201


@pytest.mark.parametrize(
    "md5",
    [
        "",
        "contentMD5=",
        "contentMD5=none",
        f"contentMD5={hashlib.md5(b'a file', usedforsecurity=False).hexdigest()}",
        f"contentMD5={quote(base64.b64encode(b'too short').decode())}",
        f"contentMD5={quote(quote(_md5(b'a file'), safe=''))}",
        f"contentMD5={_md5(b'2')}",
        f"content-md5={quote(_md5(b'a file'), safe='')}",
    ],
)
async def test_an_md5_that_is_none(seller: Asker, md5: str) -> None:
    """The MD5 is base64 of 16 bytes, percent-encoded exactly once."""
    assert "+" in _md5(b"2")  # which, sent as it is, means a space
    await _refused(seller, attrs.evolve(UPLOAD, query=f"{US}&{md5}"))


async def test_a_file_is_put(seller: Asker) -> None:
    """The raw bytes, with the given headers and a length, get 200."""
    destination = await seller.destination(b"a file")
    answer = await seller.put(destination, b"a file")
    assert answer.status == 200
    assert (
        answer.headers["ETag"] == f'"{hashlib.md5(b"a file", usedforsecurity=False).hexdigest()}"'
    )


async def _in_pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _headers(**changes: str | None) -> Callable[[Destination], dict[str, Any]]:
    """The destination's headers, with some changed or left out."""
    renamed = {name.replace("_", "-").lower(): value for name, value in changes.items()}

    def change(destination: Destination) -> dict[str, Any]:
        kept = {
            name: value
            for name, value in destination.headers.items()
            if name.lower() not in renamed
        }
        return {"headers": kept | {name: it for name, it in renamed.items() if it is not None}}

    return change


def _url(old: str, new: str) -> Callable[[Destination], dict[str, Any]]:
    def change(destination: Destination) -> dict[str, Any]:
        assert old in destination.url
        return {"url": destination.url.replace(old, new)}

    return change


@pytest.mark.parametrize(
    ("change", "content", "status", "code"),
    [
        (_headers(), b"another", 400, "BadDigest"),
        (_headers(), b"", 400, "BadDigest"),
        (_headers(), b"x" * 10_000_001, 400, "EntityTooLarge"),
        (_headers(), _in_pieces, 501, "NotImplemented"),
        (_headers(content_md5=None), b"a file", 403, "SignatureDoesNotMatch"),
        (_headers(content_md5=_md5(b"another")), b"another", 403, "SignatureDoesNotMatch"),
        (
            _headers(x_amz_server_side_encryption=None),
            b"a file",
            403,
            "SignatureDoesNotMatch",
        ),
        (
            _headers(x_amz_server_side_encryption="AES256"),
            b"a file",
            403,
            "SignatureDoesNotMatch",
        ),
        (_headers(x_amz_access_token="Atza|0"), b"a file", 400, "InvalidArgument"),
        (_headers(content_encoding="gzip"), b"a file", 400, "InvalidRequest"),
        (_url("%2F", "/"), b"a file", 403, "SignatureDoesNotMatch"),
        (_url("%3B", ";"), b"a file", 403, "SignatureDoesNotMatch"),
        (_url("%2F", "%252F"), b"a file", 403, "SignatureDoesNotMatch"),
        (_url("%2F", "%2f"), b"a file", 403, "SignatureDoesNotMatch"),
        (_url("X-Amz-Signature=", "X-Amz-Signature=0"), b"a file", 403, "SignatureDoesNotMatch"),
        (_url("X-Amz-Expires=900", "X-Amz-Expires=9000"), b"a file", 403, "SignatureDoesNotMatch"),
        (_url("/_uploads/", "/_uploads/0"), b"a file", 403, "SignatureDoesNotMatch"),
    ],
)
async def test_a_put_that_is_refused(
    seller: Asker,
    change: Callable[[Destination], dict[str, Any]],
    content: Any,
    status: int,
    code: str,
) -> None:
    """What differs from what was signed is refused as S3 refuses it, and the file is not there."""
    destination = await seller.destination(b"a file")
    body = content(b"a file") if callable(content) else content
    answer = await seller.put(destination, body, **change(destination))
    assert answer.status == status
    assert answer.content_type == "application/xml"
    assert f"<Code>{code}</Code>" in answer.body.decode()
    await _does_not_exist(seller, destination.identity)


async def _does_not_exist(seller: Asker, identity: str, order: str = ORDER) -> None:
    attachments = [{"uploadDestinationId": identity, "fileName": "a.pdf"}]
    answer = await seller.ask(INVOICE.changed(attachments=attachments), order)
    assert answer.status == 400
    assert answer.error["code"] == "InvalidInput"
    assert answer.error["message"] == f"Attachment with ID {identity} does not exist"
    assert seller.sandbox.delivered == []


def test_an_address_expires() -> None:
    """A file may be put for fifteen minutes."""

    async def main(seller: Asker) -> None:
        early, late = await seller.destination(b"a file"), await seller.destination(b"a file")
        pass_time(899)
        assert (await seller.put(early, b"a file")).status == 200
        pass_time(1)
        answer = await seller.put(late, b"a file")
        assert answer.status == 403
        assert b"<Code>AccessDenied</Code>" in answer.body
        await _does_not_exist(seller, late.identity)

    standing(main)


async def test_an_attachment_that_was_never_put(seller: Asker) -> None:
    """A destination without a file, and one that nobody gave, do not exist for a message."""
    await _does_not_exist(seller, (await seller.destination(b"a file")).identity)
    await _does_not_exist(seller, "sc/0")


async def test_an_attachment_belongs_to_its_order_kind_and_seller(seller: Asker) -> None:
    """A file that was put for another order, kind of message or seller does not exist."""
    of_order = await seller.upload(b"a file", "a.pdf", "222-2222222-2222222")
    await _does_not_exist(seller, of_order["uploadDestinationId"])
    of_kind = await seller.destination(b"a file", kind="warranty")
    assert (await seller.put(of_kind, b"a file")).status == 200
    await _does_not_exist(seller, of_kind.identity)
    of_seller = await (await seller.log_in("another")).upload(b"a file", "a.pdf")
    await _does_not_exist(seller, of_seller["uploadDestinationId"])


async def test_files_over_ten_megabytes_together(seller: Asker) -> None:
    """Files that are small enough each are refused when a message holds too much of them."""
    half = [await seller.upload(b"x" * 5_000_000, "a.pdf") for _ in range(2)]
    more = await seller.upload(b"x", "b.txt")
    answer = await seller.ask(INVOICE.changed(attachments=[*half, more]), ORDER)
    assert (answer.status, answer.error["code"]) == (400, "InvalidInput")
    assert seller.sandbox.delivered == []
    assert (await seller.ask(INVOICE.changed(attachments=half), ORDER)).status == 201


# Faults


ON_THE_WIRE = {
    Fault.THROTTLED: "429 QuotaExceeded",
    Fault.INTERNAL_FAILURE: "500 InternalFailure",
    Fault.INTERNAL_FAILURE_AFTER: "500 InternalFailure",
    Fault.UNAVAILABLE: "503 ServiceUnavailable",
    Fault.UNAVAILABLE_AFTER: "503 ServiceUnavailable",
    Fault.BAD_GATEWAY: "502 HTML",
    Fault.DROPPED: "ServerDisconnectedError",
    Fault.DROPPED_AFTER: "ServerDisconnectedError",
    Fault.HANG: "nothing",
    Fault.HANG_AFTER: "nothing",
    Fault.HTML_AFTER: "201 HTML",
    Fault.EMPTY_AFTER: "201 empty",
    Fault.TRUNCATED_AFTER: "201 truncated",
    Fault.CUT_AFTER: "ClientPayloadError",
    Fault.ERRORS_AFTER: "201 InternalFailure",
    Fault.HTML_ERROR: "400 HTML",
    Fault.REDIRECT: "307 empty",
    Fault.EXPIRED_TOKEN: f"403 Unauthorized: {DENIED} {EXPIRED}",
    Fault.REVOKED_TOKEN: f"403 Unauthorized: {DENIED} {MALFORMED}",
    Fault.NOT_AVAILABLE: "403 Unauthorized: Invalid amazonOrderId and template combination.",
    Fault.DENIED: f"403 Unauthorized: {DENIED}",
    Fault.TEMPORARILY_UNAVAILABLE: "400 temporarily_unavailable",
}


async def _seen(exchange: Coroutine[Any, Any, Answer]) -> str:
    """What somebody at the other end of the wire sees, in words."""
    try:
        answer = await exchange
    except aiohttp.ClientError as error:
        return type(error).__name__
    return f"{answer.status} {_shown(answer)}"


def _shown(answer: Answer) -> str:
    if not answer.body:
        return "empty"
    if answer.body.startswith(b"<!DOCTYPE html>"):
        return "HTML"
    try:
        content = answer.json
    except ValueError:
        return "truncated"
    if "errors" not in content:
        return str(content.get("error", "usual"))
    words = f"{answer.error['message']} {answer.error['details']}".strip()
    return answer.error["code"] + (f": {words}" if answer.status == 403 else "")


def test_every_fault_is_known_on_the_wire() -> None:
    """The table above leaves none out."""
    assert set(ON_THE_WIRE) == set(Fault)


@pytest.mark.parametrize(
    "fault", [fault for fault, seen in ON_THE_WIRE.items() if seen != "nothing"], ids=_name
)
async def test_what_a_fault_is_on_the_wire(seller: Asker, fault: Fault) -> None:
    """Each fault is what its name says, and delivers exactly if its name ends in AFTER."""
    seller.sandbox.faults.add(fault)
    assert await _seen(seller.ask(PROBLEM)) == ON_THE_WIRE[fault]
    assert len(seller.sandbox.delivered) == fault.name.endswith("_AFTER")
    assert await _seen(seller.ask(PROBLEM)) == "201 usual"


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_AFTER], ids=_name)
async def test_a_fault_that_hangs(seller: Asker, fault: Fault) -> None:
    """Nothing comes until the hang is ended; the request was accepted if the name says AFTER."""
    seller.sandbox.faults.add(fault)
    asking = asyncio.create_task(_seen(seller.ask(PROBLEM)))
    is_accepted = fault is Fault.HANG_AFTER
    while len(seller.sandbox.faults) or len(seller.sandbox.delivered) < is_accepted:
        await asyncio.sleep(0)
    assert await _seen(seller.ask(PROBLEM)) == "201 usual"
    await asyncio.wait({asking}, timeout=0.1)
    assert not asking.done()
    seller.sandbox.faults.release()
    assert await asking == "ServerDisconnectedError"
    assert len(seller.sandbox.delivered) == 1 + is_accepted


SUCCESSES = [fault for fault, seen in ON_THE_WIRE.items() if seen.startswith("201")]


@pytest.mark.parametrize("fault", SUCCESSES, ids=_name)
@pytest.mark.parametrize("name", ["getAttributes", "token", "upload"])
async def test_a_spoilt_success_keeps_its_status(seller: Asker, name: str, fault: Fault) -> None:
    """Only the body of the usual answer is spoilt: a read, a token and a PUT answer 200."""
    destination = await seller.destination(b"a file")
    ask: dict[str, Callable[[], Coroutine[Any, Any, Answer]]] = {
        "getAttributes": lambda: seller.ask(ATTRIBUTES),
        "token": lambda: seller.token_for(**FORM),
        "upload": lambda: seller.put(destination, b"a file"),
    }
    seller.sandbox.faults.add(fault, operation=name)
    seen = await _seen(ask[name]())
    assert seen == ON_THE_WIRE[fault].replace("201", "200")


@pytest.mark.parametrize(
    "fault", [fault for fault in Fault if fault.name.endswith("_AFTER")], ids=_name
)
async def test_what_is_refused_does_not_fail_after_it(seller: Asker, fault: Fault) -> None:
    """A request that is refused gets its refusal, for there is nothing to fail after."""
    seller.sandbox.faults.add(fault)
    assert await _seen(seller.ask(PROBLEM.changed(text=""))) == "400 InvalidInput"
    assert seller.sandbox.delivered == []


async def test_faults_come_in_their_order(seller: Asker) -> None:
    """Each request takes one fault, the first that is left, and then all is as usual."""
    faults = seller.sandbox.faults
    faults.add(Fault.INTERNAL_FAILURE, Fault.THROTTLED)
    faults.add(Fault.BAD_GATEWAY)
    assert len(faults) == 3
    seen = [await _seen(seller.ask(PROBLEM)) for _ in range(4)]
    assert seen == ["500 InternalFailure", "429 QuotaExceeded", "502 HTML", "201 usual"]
    assert len(faults) == 0


async def test_faults_can_be_forgotten(seller: Asker) -> None:
    """After `clear` all is as usual."""
    seller.sandbox.faults.add(Fault.INTERNAL_FAILURE)
    seller.sandbox.faults.clear()
    assert await _seen(seller.ask(PROBLEM)) == "201 usual"


async def test_a_fault_for_one_operation(seller: Asker) -> None:
    """It waits for its operation, and leaves the others alone."""
    seller.sandbox.faults.add(Fault.INTERNAL_FAILURE, operation=ATTRIBUTES.name)
    assert await _seen(seller.ask(PROBLEM)) == "201 usual"
    assert await _seen(seller.ask(ATTRIBUTES)) == "500 InternalFailure"


async def test_a_fault_without_an_operation_is_for_messaging(seller: Asker) -> None:
    """Neither a token, nor a destination, nor a PUT takes a fault that names no operation."""
    seller.sandbox.faults.add(Fault.INTERNAL_FAILURE)
    seller = await seller.log_in()
    await seller.upload(b"a file", "a.pdf")
    assert await _seen(seller.ask(PROBLEM)) == "500 InternalFailure"


async def _put(seller: Asker, order: str) -> Answer:
    return await seller.put(await seller.destination(b"a file", order), b"a file")


@pytest.mark.parametrize(
    ("operation", "ask"),
    [
        pytest.param(None, lambda s, order: s.ask(PROBLEM, order), id="any"),
        pytest.param("getAttributes", lambda s, order: s.ask(ATTRIBUTES, order), id="read"),
        pytest.param(UPLOAD.name, lambda s, order: s.ask(UPLOAD, order), id="destination"),
        pytest.param("upload", _put, id="upload"),
    ],
)
async def test_a_fault_for_one_order(
    seller: Asker,
    operation: str | None,
    ask: Callable[[Asker, str], Coroutine[Any, Any, Answer]],
) -> None:
    """It waits for its order, whatever is asked about other orders meanwhile."""
    seller.sandbox.faults.add(Fault.INTERNAL_FAILURE, operation=operation, amazon_order_id=ORDER)
    assert (await ask(seller, "222-2222222-2222222")).status in (200, 201)
    assert await _seen(ask(seller, ORDER)) == "500 InternalFailure"


async def test_a_fault_for_one_operation_of_one_order(seller: Asker) -> None:
    """Only a request that is both takes it."""
    seller.sandbox.faults.add(Fault.INTERNAL_FAILURE, operation=PROBLEM.name, amazon_order_id=ORDER)
    assert await _seen(seller.ask(ATTRIBUTES, ORDER)) == "200 usual"
    assert await _seen(seller.ask(PROBLEM, STATIC_ORDER)) == "201 usual"
    assert await _seen(seller.ask(PROBLEM, ORDER)) == "500 InternalFailure"


@pytest.mark.parametrize("operation", ["createWaranty", "create_warranty", "", "put"])
async def test_a_fault_for_no_operation(sandbox: Sandbox, operation: str) -> None:
    """A name that no operation has is a mistake, told at once."""
    with pytest.raises(ValueError, match="is no operation"):
        sandbox.faults.add(Fault.THROTTLED, operation=operation)


async def test_faults_of_the_token(seller: Asker) -> None:
    """Login with Amazon fails in its own words."""
    seller.sandbox.faults.add(Fault.TEMPORARILY_UNAVAILABLE, Fault.DROPPED, operation="token")
    assert await _seen(seller.token_for(**FORM)) == "400 temporarily_unavailable"
    assert await _seen(seller.token_for(**FORM)) == "ServerDisconnectedError"
    assert await _seen(seller.token_for(**FORM)) == "200 usual"


@pytest.mark.parametrize("fault", [Fault.DROPPED, Fault.DROPPED_AFTER], ids=_name)
async def test_faults_of_the_put(seller: Asker, fault: Fault) -> None:
    """A PUT that is dropped leaves a file only if it was accepted before."""
    destination = await seller.destination(b"a file")
    # Two of them, as aiohttp by itself repeats a PUT that was dropped, once.
    seller.sandbox.faults.add(fault, fault, operation="upload")
    assert await _seen(seller.put(destination, b"a file")) == "ServerDisconnectedError"
    attachments = [{"uploadDestinationId": destination.identity, "fileName": "a.pdf"}]
    answer = await seller.ask(INVOICE.changed(attachments=attachments), ORDER)
    assert answer.status == (201 if fault is Fault.DROPPED_AFTER else 400)


async def test_refused_connections(seller: Asker) -> None:
    """While the door is shut nobody gets in or stays in; then it opens at the same address."""
    host, port = URL(seller.sandbox.url).host, URL(seller.sandbox.url).port
    inside, door = await asyncio.open_connection(host, port)
    async with seller.sandbox.faults.refused():
        assert await asyncio.wait_for(inside.read(), 20) == b""
        for _ in range(2):
            assert await _seen(seller.ask(PROBLEM)) == "ClientConnectorError"
    door.close()
    assert await _seen(seller.ask(PROBLEM)) == "201 usual"
    assert len(seller.sandbox.delivered) == 1


async def test_a_door_that_several_hold_shut(seller: Asker) -> None:
    """It opens again when the last who holds it shut lets go of it."""
    faults = seller.sandbox.faults
    async with faults.refused():
        async with faults.refused():
            assert await _seen(seller.ask(PROBLEM)) == "ClientConnectorError"
        assert await _seen(seller.ask(PROBLEM)) == "ClientConnectorError"
    assert await _seen(seller.ask(PROBLEM)) == "201 usual"


async def test_doors_that_are_shut_at_once(seller: Asker) -> None:
    """Those who hold it shut need not let go in any order, nor wait until it is open again."""

    async def hold(turns: int) -> None:
        async with seller.sandbox.faults.refused():
            for _ in range(turns):
                await asyncio.sleep(0)

    await asyncio.gather(*(hold(turns) for turns in (3, 1, 2, 0)))
    assert await _seen(seller.ask(PROBLEM)) == "201 usual"


async def test_a_sandbox_that_closes_ends_what_hangs() -> None:
    """Leaving the context manager waits for no request that hangs."""
    async with Sandbox(plans=FAST) as sandbox, aiohttp.ClientSession() as http:
        seller = await Asker(sandbox, http).log_in()
        sandbox.faults.add(Fault.HANG)
        hanging = asyncio.create_task(_seen(seller.ask(PROBLEM)))
        while len(sandbox.faults):
            await asyncio.sleep(0)
    assert await hanging == "ServerDisconnectedError"
    assert sandbox.delivered == []


# What README promises of it


def test_readmes_sample() -> None:
    """The sample has as many messages, of as many kinds, as README says: all that there are."""
    sample = files("sp_messaging_async").joinpath("bulk", "sample", "orders.csv")
    rows = list(csv.DictReader(io.StringIO(sample.read_text(encoding="utf-8"))))
    kinds = {row["operation"] for row in rows}
    assert f"a sample order list, {len(rows)} messages of all {len(kinds)} kinds" in README
    assert kinds == {row.name for row in MESSAGING.values() if row.messages_buyer}


def test_readmes_number_of_messages() -> None:
    """Unless told otherwise, it remembers as many messages as README says."""
    (said,) = re.findall(r"remembers what reached the buyers: the last ([\d,]+)\s+messages", README)
    keep = inspect.signature(Sandbox).parameters["keep"].default
    assert Sandbox().inbox.limit == keep == int(said.replace(",", ""))
