"""Control over HTTP, by what its own document says of it, and by what else may ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from attrs import field, frozen
from jsonschema import Draft202012Validator

from sp_messaging_async import (
    CreateConfirmCustomizationDetailsRequest,
    CreateUnexpectedProblemRequest,
    CreateWarrantyRequest,
    InvoiceRequest,
    LocalThrottle,
    Marketplace,
    MessageNotAvailable,
    MessagingError,
    MessagingSession,
    RetryPolicy,
    Throttled,
)
from sp_messaging_async.models import Attachment
from sp_messaging_async.operations import MESSAGING, OPERATIONS
from sp_messaging_async.sandbox import Fault, Sandbox, page
from sp_messaging_async.sandbox.inbox import Delivered, DeliveredFile
from sp_messaging_async.sandbox.journal import Changes

from .conftest import FAST, ORDER, Open

DOCUMENT: dict[str, Any] = json.loads(
    files("sp_messaging_async").joinpath("sandbox", "openapi.json").read_text(encoding="utf-8")
)
NAME = "createUnexpectedProblem"
TEXT = CreateUnexpectedProblemRequest("Sold out.")
ONCE = RetryPolicy(attempts=1)
PATIENCE = 5.0  # seconds before something that does not happen is a failure


# How control is asked


@frozen
class Control:
    """Asks a sandbox's control, and holds every answer to the document."""

    sandbox: Sandbox
    http: aiohttp.ClientSession = field(repr=False)

    async def __call__(
        self, verb: str, path: str, body: object = None, **options: Any
    ) -> tuple[int, Any]:
        """The status, and the body of the answer."""
        if body is not None:
            options["json"] = body
        async with self.http.request(
            verb, f"{self.sandbox.url}/_sandbox/{path}", **options
        ) as answer:
            content = await answer.read()
            responses = described(verb, path)["responses"]
            assert str(answer.status) in responses, content
            schema = responses[str(answer.status)].get("content", {}).get("application/json")
            if schema is None:
                return answer.status, content
            found = json.loads(content)
            check(found, schema["schema"])
            return answer.status, found

    async def got(self, path: str) -> Any:
        """What a GET brings."""
        status, found = await self("GET", path)
        assert status == 200
        return found


def described(verb: str, path: str) -> dict[str, Any]:
    """What the document says of a route."""
    parts = f"/_sandbox/{path}".partition("?")[0].split("/")
    for template, verbs in DOCUMENT["paths"].items():
        names = template.split("/")
        if len(names) == len(parts) and all(
            name in (part, f"{{{name[1:-1]}}}") and (name == part or name.startswith("{"))
            for name, part in zip(names, parts, strict=True)
        ):
            route: dict[str, Any] = verbs[verb.lower()]
            return route
    raise AssertionError(f"the document does not know {verb} {path}")


def check(found: object, schema: dict[str, Any]) -> None:
    """Hold something to a schema of the document."""
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(found)


@pytest.fixture
async def control(sandbox: Sandbox) -> AsyncIterator[Control]:
    """Control of the sandbox."""
    async with aiohttp.ClientSession() as http:
        yield Control(sandbox, http)


@contextlib.asynccontextmanager
async def local(**options: Any) -> AsyncIterator[Control]:
    """Control of a sandbox of another kind."""
    async with Sandbox(**options) as sandbox, aiohttp.ClientSession() as http:
        yield Control(sandbox, http)


@contextlib.asynccontextmanager
async def seller(sandbox: Sandbox) -> AsyncIterator[MessagingSession]:
    """A session that neither waits nor tries again."""
    async with MessagingSession(
        sandbox.credentials,
        marketplace="US",
        endpoint=sandbox.endpoint,
        throttle=LocalThrottle(FAST, headroom=0),
        retry=ONCE,
    ) as session:
        yield session


def delivered(number: int = 0, name: str = "a.pdf", content: bytes | None = b"%PDF") -> Delivered:
    """A message that has reached its buyer, made up."""
    file = DeliveredFile(name, content)
    order = f"111-2222222-{number:07}"
    return Delivered(NAME, order, Marketplace.DE, TEXT, (file,), "Atzr|seller", 1000.0 + number)


# The document


def test_the_document_is_whole(sandbox: Sandbox) -> None:
    """Every route under /_sandbox but the page's own files is described, and no other is."""
    routes = {
        (route.method, route.resource.canonical)
        for route in sandbox._runner.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    ours = {(verb, path) for verb, path in routes if path.startswith("/_sandbox/")}
    said = {(verb.upper(), path) for path, verbs in DOCUMENT["paths"].items() for verb in verbs}
    assert {each for each in ours if not each[1].startswith("/_sandbox/page/")} == said


def test_the_schemas_are_schemas() -> None:
    """Each schema of the document is one, and each reference leads to one."""
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) == known


def references(part: object) -> list[str]:
    """Every reference within a part of the document."""
    if isinstance(part, list):
        return [found for each in part for found in references(each)]
    if not isinstance(part, dict):
        return []
    here = [part["$ref"]] if "$ref" in part else []
    return here + [found for each in part.values() for found in references(each)]


async def test_every_answer_is_as_described(control: Control, session: MessagingSession) -> None:
    """With messages, files, faults, plans, orders and exchanges to tell of, each route keeps it."""
    file = await session.upload_attachment(ORDER, CreateWarrantyRequest, b"%PDF", "a.pdf")
    await session.create_warranty(
        ORDER,
        CreateWarrantyRequest(
            (file,), datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
        ),
    )
    await session.create_unexpected_problem(ORDER, TEXT)
    control.sandbox.faults.add(Fault.THROTTLED, operation=NAME, amazon_order_id=ORDER)
    control.sandbox.faults.add_chance(Fault.DENIED, 0, operation="token")
    control.sandbox.orders.set(ORDER, locale="de-DE")
    answers = {name: await control.got(name) for name in ("messages", "faults", "plans", "orders")}
    assert [len(each["files"]) for each in answers["messages"]["messages"]] == [1, 0]
    assert datetime.fromisoformat(answers["messages"]["messages"][0]["at"]).utcoffset() is not None
    assert len(answers["faults"]["script"]) == len(answers["faults"]["chances"]) == 1
    assert answers["plans"]["used"] == len(answers["plans"]["buckets"]) == 3
    assert answers["orders"]["total"] == len(answers["orders"]["orders"]) == 1
    assert [each["operation"] for each in (await control.got("exchanges"))["exchanges"]] == [
        "token",
        "createUploadDestinationForResource",
        "upload",
        "createWarranty",
        NAME,
    ]
    assert await control.got("openapi.json") == DOCUMENT


async def test_ready(control: Control) -> None:
    """It tells where clients are pointed to, and the names that orders and faults take."""
    ready = await control.got("ready")
    assert ready["ready"] is True
    assert ready["api_url"] == control.sandbox.endpoint.api_url
    assert ready["token_url"] == control.sandbox.endpoint.token_url
    assert ready["environment"] == control.sandbox.environment()
    assert ready["operations"] == [row.name for row in MESSAGING.values() if row.messages_buyer]
    assert ready["targets"] == [*OPERATIONS, "token", "upload"]


async def test_ready_by_another_name(control: Control) -> None:
    """A client that reaches it by another name is led there by that name."""
    url = f"http://localhost:{control.sandbox._port}"
    _, ready = await control("GET", "ready", headers={"Host": url.removeprefix("http://")})
    assert ready["environment"] == control.sandbox.environment(url)
    assert ready["environment"]["SP_MESSAGING_TOKEN_URL"] == ready["token_url"]
    assert ready["environment"]["SP_MESSAGING_API_URL"] == ready["api_url"] == url


# What is refused

_FAULT = {"fault": "DENIED"}


@pytest.mark.parametrize(
    ("verb", "path", "body", "field_"),
    [
        ("GET", "messages?since=-1", None, "since"),
        ("GET", "messages?since=many", None, "since"),
        ("GET", "messages?since=٣", None, "since"),
        ("GET", f"exchanges?since={'9' * 16}", None, "since"),
        ("POST", "faults", {}, "fault"),
        ("POST", "faults", {"fault": 1}, "fault"),
        ("POST", "faults", {"fault": "Denied"}, "fault"),
        ("POST", "faults", {**_FAULT, "operation": "createNothing"}, "operation"),
        ("POST", "faults", {**_FAULT, "operation": ["token"]}, "operation"),
        ("POST", "faults", {**_FAULT, "order": "<script>"}, "order"),
        ("POST", "faults", {**_FAULT, "order": 1}, "order"),
        ("POST", "faults", {**_FAULT, "times": 0}, "times"),
        ("POST", "faults", {**_FAULT, "times": 1001}, "times"),
        ("POST", "faults", {**_FAULT, "times": 1.5}, "times"),
        ("POST", "faults", {**_FAULT, "times": True}, "times"),
        ("POST", "faults", {**_FAULT, "times": float("inf")}, "times"),
        ("POST", "faults", {**_FAULT, "times": 10**400}, "times"),
        ("POST", "faults", {**_FAULT, "probability": 1.1}, "probability"),
        ("POST", "faults", {**_FAULT, "probability": float("nan")}, "probability"),
        ("POST", "faults", {**_FAULT, "probability": "often"}, "probability"),
        ("POST", "faults", {**_FAULT, "probability": 1, "times": 1}, "probability"),
        ("POST", "faults", {**_FAULT, "probability": 1, "order": ORDER}, "probability"),
        ("POST", "faults", {**_FAULT, "chance": 1}, "chance"),
        ("PUT", "plans/createNothing", {"rate": 1, "burst": 1}, "operation"),
        ("PUT", f"plans/{NAME}", {"burst": 1}, "rate"),
        ("PUT", f"plans/{NAME}", {"rate": 1}, "burst"),
        ("PUT", f"plans/{NAME}", {"rate": 0, "burst": 1}, "rate"),
        ("PUT", f"plans/{NAME}", {"rate": 10**400, "burst": 1}, "rate"),
        ("PUT", f"plans/{NAME}", {"rate": 1, "burst": 0.5}, "burst"),
        ("PUT", f"plans/{NAME}", {"rate": 1, "burst": float("nan")}, "burst"),
        ("PUT", f"plans/{NAME}", {"rate": 1, "burst": 1, "for": "me"}, "for"),
        ("PUT", "orders/%3Cscript%3E", {}, "amazonOrderId"),
        ("PUT", f"orders/{ORDER}", {"locale": 1}, "locale"),
        ("PUT", f"orders/{ORDER}", {"available": NAME}, "available"),
        ("PUT", f"orders/{ORDER}", {"available": [1]}, "available"),
        ("PUT", f"orders/{ORDER}", {"available": ["getAttributes"]}, "available"),
        ("PUT", f"orders/{ORDER}", {"language": "de"}, "language"),
    ],
)
async def test_a_refusal_names_the_field(
    control: Control, verb: str, path: str, body: object, field_: str
) -> None:
    """A request that cannot be followed is a 400 whose reason begins with the field at fault."""
    status, answer = await control(verb, path, body)
    assert status == 400
    assert answer["error"].startswith(f"{field_}: ")
    assert not control.sandbox.faults
    assert not control.sandbox.orders.known()
    assert control.sandbox.plans.in_force() == FAST


@pytest.mark.parametrize(
    ("raw", "kind", "reason"),
    [
        (b'{"fault": "DENIED"}', "text/plain", "the content type must be application/json"),
        (b'{"fault": "DENIED"}', "application/x-www-form-urlencoded", "the content type must be"),
        (b"{", "application/json", "the body is no JSON"),
        (b"\xff", "application/json", "the body is no JSON"),
        (b"[" * 100_000, "application/json", "the body is no JSON"),
        (b'["DENIED"]', "application/json", "the body is no JSON object"),
    ],
)
async def test_a_body_that_is_no_json(control: Control, raw: bytes, kind: str, reason: str) -> None:
    """Only a JSON object that is sent as one is taken: forms of other sites can send none."""
    headers = {"Content-Type": kind}
    status, answer = await control("POST", "faults", data=raw, headers=headers)
    assert status == 400
    assert answer["error"].startswith(reason)


async def test_a_body_that_is_not_in_its_encoding(control: Control) -> None:
    """A body that belies its Content-Encoding is refused and breaks nothing."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    status, answer = await control("POST", "faults", data=b"no gzip", headers=headers)
    assert (status, answer["error"]) == (400, "the body cannot be read")


async def test_there_is_a_limit_to_faults(control: Control) -> None:
    """Neither the script nor the chances grow without an end."""
    faults = control.sandbox.faults
    faults.add(*[Fault.DENIED] * 9_999)
    assert (await control("POST", "faults", {**_FAULT, "times": 2}))[0] == 400
    assert (await control("POST", "faults", _FAULT))[0] == 200
    for _ in range(99):
        faults.add_chance(Fault.DENIED, 0)
    assert (await control("POST", "faults", {**_FAULT, "probability": 0}))[0] == 200
    assert (await control("POST", "faults", {**_FAULT, "probability": 0}))[0] == 400
    found = await control.got("faults")
    assert (found["scripted"], len(found["script"]), len(found["chances"])) == (10_000, 500, 100)


# Other sites


@pytest.mark.parametrize("path", ["ready", "messages", "events", "page/page.js", "openapi.json"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80", "Origin": "http://evil.example:80"},
    ],
    ids=str,
)
async def test_other_sites_get_nothing(
    control: Control, headers: dict[str, str], path: str
) -> None:
    """A page of another origin, or one whose name was made to lead here, gets 403."""
    async with control.http.get(
        f"{control.sandbox.url}/_sandbox/{path}", headers=headers
    ) as answer:
        assert (answer.status, answer.content_type) == (403, "application/json")


async def test_other_sites_change_nothing(control: Control) -> None:
    """What another site's page posts has no effect."""
    foreign = {"Origin": "https://evil.example"}
    assert (await control("POST", "faults", _FAULT, headers=foreign))[0] == 403
    control.sandbox.inbox.add(delivered())
    assert (await control("POST", "reset", headers=foreign))[0] == 403
    assert (await control("DELETE", "messages", headers=foreign))[0] == 403
    assert len(control.sandbox.delivered) == 1
    assert not control.sandbox.faults


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]"])
async def test_names_of_this_machine(control: Control, name: str) -> None:
    """The page itself gets answers, by whichever of the machine's own names it was opened."""
    host = f"{name}:{control.sandbox._port}"
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert (await control("GET", "ready", headers=headers))[0] == 200


async def test_an_address_that_is_not_loopback_takes_any_name() -> None:
    """Where other machines were let in on purpose, their names for this one are not known."""
    async with local(host="0.0.0.0") as control:  # noqa: S104 - the case in question
        port = control.sandbox._port
        url = f"http://127.0.0.1:{port}/_sandbox/ready"
        async with control.http.get(url, headers={"Host": f"sandbox:{port}"}) as answer:
            assert answer.status == 200
            assert (await answer.json())["api_url"] == f"http://sandbox:{port}"
        assert control.sandbox.endpoint.api_url == f"http://127.0.0.1:{port}"


async def test_headers_that_keep_the_page_safe(control: Control) -> None:
    """All that the guard lets through runs only its own files, in no frame, and is not stored."""
    for path in ("", "_sandbox/messages", "_sandbox/page/page.js", "_sandbox/openapi.json"):
        async with control.http.get(f"{control.sandbox.url}/{path}") as answer:
            assert answer.status == 200
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"


async def test_every_file_of_the_page_is_served(control: Control) -> None:
    """Each file beside the page is to be had, as what it is."""
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    static = Path(page.__file__).parent / "static"
    names = {path.name for path in static.iterdir()} - {"page.html"}
    assert names
    for name in names:
        async with control.http.get(f"{control.sandbox.url}/_sandbox/page/{name}") as answer:
            assert (answer.status, answer.content_type) == (200, kinds[Path(name).suffix])


# Messages


async def test_messages_since(control: Control) -> None:
    """At most 500 come at once, and the last number leads on to the rest."""
    for number in range(501):
        control.sandbox.inbox.add(delivered(number))
    first = await control.got("messages")
    assert [each["number"] for each in first["messages"]] == list(range(1, 501))
    assert (first["more"], first["total"], first["kept"]) == (True, 501, 501)
    rest = await control.got("messages?since=500")
    assert [each["number"] for each in rest["messages"]] == [501]
    assert rest["more"] is False
    assert (await control.got("messages?since=501"))["messages"] == []


async def test_messages_of_an_order(control: Control) -> None:
    """Those of one order can be asked for alone, and since a number."""
    for number in (1, 2, 1, 1):
        control.sandbox.inbox.add(delivered(number))
    path = "messages?order=111-2222222-0000001"
    found = (await control.got(path))["messages"]
    assert [each["number"] for each in found] == [1, 3, 4]
    found = (await control.got(f"{path}&since=3"))["messages"]
    assert [each["number"] for each in found] == [4]


async def test_older_messages_make_room() -> None:
    """The inbox holds so many and tells how many it dropped; numbers are never used again."""
    async with local(keep=10) as control:
        for number in range(13):
            control.sandbox.inbox.add(delivered(number))
        found = await control.got("messages")
        assert [each["number"] for each in found["messages"]] == list(range(4, 14))
        counts = [found[name] for name in ("total", "kept", "dropped", "limit")]
        assert counts == [13, 10, 3, 10]
        assert (await control("DELETE", "messages"))[0] == 204
        control.sandbox.inbox.add(delivered())
        found = await control.got("messages")
        assert [each["number"] for each in found["messages"]] == [14]
        assert (found["total"], found["kept"], found["dropped"]) == (14, 1, 0)


async def test_a_message_is_shown_as_it_was_sent(control: Control, open_session: Open) -> None:
    """Text, buyer's language, place and account are told, and the account not by its token."""
    control.sandbox.orders.set(ORDER, locale="fr-BE")
    session = open_session()
    await session.create_unexpected_problem(ORDER, CreateUnexpectedProblemRequest("Zwei\nZeilen"))
    (found,) = (await control.got("messages"))["messages"]
    assert found["text"] == "Zwei\nZeilen"
    assert (found["operation"], found["order"]) == (NAME, ORDER)
    assert (found["marketplace"], found["locale"]) == ("US", "fr-BE")
    assert found["seller"].startswith("seller-")
    assert control.sandbox.credentials.refresh_token not in json.dumps(found)


# Files


@pytest.mark.parametrize(
    ("name", "kind", "disposition"),
    [
        ("a.png", "image/png", "inline; filename=\"a.png\"; filename*=UTF-8''a.png"),
        ("A.JPG", "image/jpeg", "inline; filename=\"A.JPG\"; filename*=UTF-8''A.JPG"),
        (
            "a.pdf",
            "application/octet-stream",
            "attachment; filename=\"a.pdf\"; filename*=UTF-8''a.pdf",
        ),
        (
            "a.html",
            "application/octet-stream",
            "attachment; filename=\"a.html\"; filename*=UTF-8''a.html",
        ),
        (
            'x"\r\nSet-Cookie: a=1;\\../<b>.pdf',
            "application/octet-stream",
            'attachment; filename="x___Set-Cookie_ a_1__.._'
            "_b_.pdf\"; filename*=UTF-8''x___Set-Cookie_%20a_1__.._" + "_b_.pdf",
        ),
        (
            "für\u202eAnna.pdf",
            "application/octet-stream",
            "attachment; filename=\"f_r_Anna.pdf\"; filename*=UTF-8''f%C3%BCr_Anna.pdf",
        ),
    ],
)
async def test_a_file(control: Control, name: str, kind: str, disposition: str) -> None:
    """Images may be shown and all else is downloaded, under a name that steers no header."""
    control.sandbox.inbox.add(delivered(name=name, content=b"<script>"))
    ((file,),) = [each["files"] for each in (await control.got("messages"))["messages"]]
    assert (file["name"], file["size"], file["image"]) == (name, 8, kind.startswith("image/"))
    async with control.http.get(f"{control.sandbox.url}{file['url']}") as answer:
        assert (answer.status, await answer.read()) == (200, b"<script>")
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["Content-Disposition"] == disposition
        assert "Set-Cookie" not in answer.headers
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["2/files/0", "1/files/1", "0/files/0", "-1/files/0", "1/files/x"])
async def test_a_file_that_is_none(control: Control, path: str) -> None:
    """What no message has is not found."""
    control.sandbox.inbox.add(delivered())
    assert (await control("GET", f"messages/{path}"))[0] == 404


async def test_a_file_that_nobody_uploaded(control: Control, session: MessagingSession) -> None:
    """Amazon's static order takes a file that is none; its size is told as unknown."""
    file = Attachment("sc/0", "a.pdf")
    await session.send_invoice("123-1234567-1234567", InvoiceRequest((file,)))
    (found,) = (await control.got("messages"))["messages"]
    assert found["files"][0]["size"] is None
    assert (await control("GET", found["files"][0]["url"].removeprefix("/_sandbox/")))[0] == 200


# Faults, plans and orders


async def test_a_scripted_fault(control: Control, open_session: Open) -> None:
    """A fault strikes as often as was asked, on the order and operation it is meant for."""
    meant = {"fault": "NOT_AVAILABLE", "operation": NAME, "order": ORDER}
    status, found = await control("POST", "faults", {**meant, "times": 2})
    assert (status, found["scripted"], found["script"]) == (200, 2, [meant, meant])
    session = open_session()
    await session.create_unexpected_problem("111-0000000-0000000", TEXT)
    for left in (1, 0):
        with pytest.raises(MessageNotAvailable):
            await session.create_unexpected_problem(ORDER, TEXT)
        assert (await control.got("faults"))["scripted"] == left
    await session.create_unexpected_problem(ORDER, TEXT)


async def test_faults_by_chance(control: Control) -> None:
    """With a probability of a half about half of the requests fail, with 0 none, with 1 all."""
    control.sandbox.faults._random.seed(7)
    async with seller(control.sandbox) as session:
        for probability, least, most in ((0.5, 30, 70), (0, 0, 0), (1, 100, 100)):
            body = {"fault": "DENIED", "operation": "getAttributes", "probability": probability}
            status, found = await control("POST", "faults", body)
            assert (status, found["chances"]) == (200, [body])
            tries = [session.get_attributes(ORDER) for _ in range(100)]
            results = await asyncio.gather(*tries, return_exceptions=True)
            failed = sum(isinstance(result, MessagingError) for result in results)
            assert least <= failed <= most
            assert (await control("DELETE", "faults"))[0] == 204


async def test_a_plan_is_changed_while_it_runs(control: Control) -> None:
    """The new plan holds from the next request on, for all sellers, and its buckets are full."""
    async with seller(control.sandbox) as session:
        await session.create_unexpected_problem(ORDER, TEXT)
        status, found = await control("PUT", f"plans/{NAME}", {"rate": 0.01, "burst": 2})
        assert status == 200
        assert {"operation": NAME, "rate": 0.01, "burst": 2} in found["plans"]
        assert found["buckets"] == []
        for _ in range(2):
            await session.create_unexpected_problem(ORDER, TEXT)
        with pytest.raises(Throttled):
            await session.create_unexpected_problem(ORDER, TEXT)
    found = await control.got("plans")
    (bucket,) = found["buckets"]
    assert (bucket["burst"], bucket["throttled"], found["throttled"]) == (2, 1, 1)
    assert bucket["tokens"] < 1


async def test_at_most_500_buckets_are_told_of(control: Control) -> None:
    """Of very many buckets those that were used last are told of, and how many there are."""
    now = 0.0
    plans = control.sandbox.plans
    plans._clock = lambda: now
    for number in range(600):
        now = number
        plans.take(f"seller {number % 550}", NAME)
    before = await control.got("plans")
    assert (len(before["buckets"]), before["used"]) == (500, 550)
    plans.take("the newest", NAME)
    after = await control.got("plans")
    old, new = ({each["seller"] for each in found["buckets"]} for found in (before, after))
    assert (len(old - new), len(new - old)) == (1, 1)


async def test_an_order_is_set(control: Control) -> None:
    """Its buyer's language and what may be sent are as was said, and replace what was before."""
    path = f"orders/{ORDER}"
    assert (await control("PUT", path, {"locale": "sv-SE", "available": ["sendInvoice"]}))[0] == 204
    async with seller(control.sandbox) as session:
        assert (await session.get_attributes(ORDER)).buyer.locale == "sv-SE"
        with pytest.raises(MessageNotAvailable):
            await session.create_unexpected_problem(ORDER, TEXT)
        known = await control.got("orders")
        assert known["orders"] == [
            {"order": ORDER, "locale": "sv-SE", "available": ["sendInvoice"]}
        ]
        assert (await control("PUT", path))[0] == 204
        assert (await session.get_attributes(ORDER)).buyer.locale == "en-US"
        await session.create_unexpected_problem(ORDER, TEXT)


async def test_at_most_500_orders_are_told_of(control: Control) -> None:
    """Of very many orders those that were set last are told of, and how many there are."""
    for number in (*range(501), 0):
        control.sandbox.orders.set(f"order-{number}")
    found = await control.got("orders")
    assert (len(found["orders"]), found["total"]) == (500, 501)
    assert [found["orders"][index]["order"] for index in (0, -1)] == ["order-2", "order-0"]


async def test_reset(control: Control) -> None:
    """Everything is as at first, but numbers, which are never used again."""
    async with seller(control.sandbox) as session:
        await session.create_unexpected_problem(ORDER, TEXT)
    await control("POST", "faults", _FAULT)
    await control("POST", "faults", {**_FAULT, "probability": 1})
    await control("PUT", f"plans/{NAME}", {"rate": 1, "burst": 1})
    await control("PUT", f"orders/{ORDER}", {"locale": "de-DE"})
    assert (await control("POST", "reset"))[0] == 204
    messages, exchanges = await control.got("messages"), await control.got("exchanges")
    assert (messages["messages"], messages["kept"], messages["total"]) == ([], 0, 1)
    assert (exchanges["exchanges"], exchanges["kept"], exchanges["total"]) == ([], 0, 2)
    assert (await control.got("orders"))["orders"] == []
    faults, plans = await control.got("faults"), await control.got("plans")
    assert (faults["scripted"], faults["chances"]) == (0, [])
    assert (plans["buckets"], control.sandbox.plans.in_force()) == ([], FAST)


# Exchanges


async def test_exchanges_tell_what_happened(control: Control) -> None:
    """Verb, path, seller, status, bodies and time of each are told, since a number too."""
    async with seller(control.sandbox) as session:
        await session.create_unexpected_problem(ORDER, TEXT)
        control.sandbox.faults.add(Fault.DROPPED)
        with pytest.raises(MessagingError):
            await session.create_unexpected_problem(ORDER, TEXT)
    found = await control.got("exchanges?since=1")
    sent, dropped = found["exchanges"]
    assert (sent["number"], sent["verb"], sent["operation"]) == (2, "POST", NAME)
    assert sent["path"].startswith(f"/messaging/v1/orders/{ORDER}/messages/unexpectedProblem?")
    assert (json.loads(sent["request"]), json.loads(sent["answer"])) == ({"text": "Sold out."}, {})
    assert dropped["request"] == sent["request"]
    assert (sent["status"], dropped["status"]) == (201, None)
    assert sent["seller"] == dropped["seller"]
    assert sent["milliseconds"] >= 0


async def test_exchanges_hide_secrets(control: Control) -> None:
    """No token, client secret, presigned signature or file is told, in a body or in an address."""
    sandbox = control.sandbox
    async with seller(sandbox) as session:
        await session.upload_attachment(
            ORDER, CreateConfirmCustomizationDetailsRequest, b"canary-file", "a.pdf"
        )
        token = "Atza|canary.token-1_~"  # in places where none belongs
        await session.create_unexpected_problem(ORDER, CreateUnexpectedProblemRequest(token))
    login = {"grant_type": "refresh_token", "client_id": "canary-id"}
    secrets = {"client_secret": "canary-secret", "refresh_token": "Atzr|canary"}
    asked: list[dict[str, Any]] = [
        {"data": {**login, **secrets}},
        {"data": login, "params": secrets},
    ]
    for options in asked:
        async with control.http.post(sandbox.endpoint.token_url, **options) as answer:
            await answer.read()
    url = f"{sandbox.url}/messaging/v1/orders/{ORDER}"
    for name in ("x-amz-access-token", "X-Amz-Signature"):
        async with control.http.get(url, params={name: token}) as answer:
            assert answer.status == 403
    shown = json.dumps(await control.got("exchanges"))
    for secret in ("canary", "sandbox-secret", "Signature=", sandbox.credentials.refresh_token):
        assert secret not in shown
    assert shown.count("(hidden)") >= 5


# Events


async def next_event(answer: aiohttp.ClientResponse) -> Any:
    """What the next event names."""
    async with asyncio.timeout(PATIENCE):
        async for line in answer.content:
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the events have ended")


@contextlib.asynccontextmanager
async def listening(control: Control) -> AsyncIterator[aiohttp.ClientResponse]:
    """A page that listens to events."""
    async with control.http.get(f"{control.sandbox.url}/_sandbox/events") as answer:
        assert answer.content_type == "text/event-stream"
        assert (await answer.content.readline()).startswith(b"retry: ")
        yield answer


async def until(condition: Any) -> None:
    """Wait for something to be so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_events_name_what_has_changed(control: Control) -> None:
    """Whatever changes, by HTTP or in Python, is named to whoever listens."""
    sandbox = control.sandbox
    async with listening(control) as events:
        await control("POST", "faults", _FAULT)
        assert await next_event(events) == ["faults"]
        sandbox.faults.clear()
        assert await next_event(events) == ["faults"]
        sandbox.orders.set(ORDER)
        assert await next_event(events) == ["orders"]
        await control("PUT", f"plans/{NAME}", {"rate": 1, "burst": 1})
        assert await next_event(events) == ["plans"]
        await control("DELETE", "messages")
        assert await next_event(events) == ["messages"]
        async with seller(sandbox) as session:
            await session.create_unexpected_problem(ORDER, TEXT)
        assert set(await next_event(events)) == {"exchanges", "messages", "plans"}


async def test_a_fault_that_is_taken_is_an_event(control: Control) -> None:
    """A fault that strikes is named at once, though its request hangs without an end."""
    control.sandbox.faults.add(Fault.HANG)
    async with seller(control.sandbox) as session, listening(control) as events:
        hanging = asyncio.ensure_future(session.get_attributes(ORDER))
        found: set[str] = set()
        while "faults" not in found:
            found |= set(await next_event(events))
        assert not control.sandbox.faults
        hanging.cancel()
        await asyncio.wait([hanging])


async def test_a_listener_that_never_reads_costs_nothing() -> None:
    """A hundred thousand changes leave it a few names, and do not wait for it."""
    changes = Changes()
    with changes.listener() as listener:
        for _ in range(100_000):
            changes.note("exchanges", "messages", "plans")
        assert await listener.changes() == {"exchanges", "messages", "plans"}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(listener.changes(), 0.01)


async def test_a_page_that_never_reads_costs_nothing(control: Control) -> None:
    """A connection that is not read holds nobody up, and is sent a few events and not all."""
    _, writer = await asyncio.open_connection("127.0.0.1", control.sandbox._port)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    host = f"127.0.0.1:{control.sandbox._port}"
    writer.write(f"GET /_sandbox/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    listeners = control.sandbox.changes._listeners
    await until(lambda: listeners)
    for _ in range(100_000):
        control.sandbox.changes.note("exchanges", "messages", "plans")
    assert len(listeners[0]._kinds) <= 3
    assert (await control.got("ready"))["ready"]
    writer.close()
    await writer.wait_closed()


async def test_events_end_when_the_sandbox_closes() -> None:
    """A page that listens does not keep a sandbox from closing, and sees the events end."""
    async with contextlib.AsyncExitStack() as stack:
        control = await stack.enter_async_context(local())
        events = await stack.enter_async_context(listening(control))
        async with asyncio.timeout(PATIENCE):
            await control.sandbox.__aexit__(None, None, None)
            await events.content.read()
        assert events.content.at_eof()


async def test_a_page_that_has_gone_is_forgotten(
    control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A page that was closed is no listener after the next heartbeat, which troubles nobody."""
    monkeypatch.setattr(page, "_HEARTBEAT", 0.02)
    async with listening(control):
        assert len(control.sandbox.changes._listeners) == 1
    await until(lambda: not control.sandbox.changes._listeners)
    assert caplog.records == []


async def test_another_sandbox_can_be_told_from_the_first() -> None:
    """What began later says so, by which a page finds that all it knows is of one before."""
    async with local() as one, local() as other:
        began = [(await control.got("ready"))["started"] for control in (one, other)]
    assert len(set(began)) == 2
