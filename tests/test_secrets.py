"""No secret is shown: in no repr, text, pickle, log, traceback or output, whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime
import gc
import ipaddress
import json
import logging
import pickle
import ssl
import traceback
import warnings
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import aiohttp
import attrs
import pytest
from attrs import define, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sp_messaging_async import (
    AuthenticationError,
    ConfigurationError,
    CreateUnexpectedProblemRequest,
    Credentials,
    Endpoint,
    InvoiceRequest,
    LocalFile,
    LocalThrottle,
    Marketplace,
    Message,
    MessagingError,
    MessagingSession,
    Outcome,
    PlanKey,
    RetryPolicy,
    UsagePlan,
    attachments,
    codec,
    send_all,
)
from sp_messaging_async.models import CreateUploadDestinationResponse
from sp_messaging_async.operations import UPLOAD
from sp_messaging_async.sandbox import Fault, Sandbox
from sp_messaging_async.wire import HttpAnswer, HttpRequest

from .conftest import AT_ONCE, FAST, ORDER

CLIENT_SECRET = "amzn1.oa2-cs.v1.canary-of-the-client-secret"
REFRESH_TOKEN = "Atzr|canary-of-the-refresh-token"
ACCESS_TOKEN = "Atza|canary-of-the-access-token"
SIGNATURE = "canary0of0the0presigned0signature"
CREDENTIALS = Credentials("client-id", CLIENT_SECRET, REFRESH_TOKEN)
TEXT = CreateUnexpectedProblemRequest("Sold out.")


# What happens, and all that is seen of it


@define
class Scene:
    """A session with secret credentials before a sandbox, and the errors that came of it."""

    sandbox: Sandbox
    folder: Path
    stack: contextlib.AsyncExitStack
    certificate: ssl.SSLContext
    errors: list[BaseException] = field(factory=list)

    async def session(self, **changes: Any) -> MessagingSession:
        """A session, closed at the end of the scene."""
        arguments: dict[str, Any] = {
            "marketplace": "US",
            "endpoint": self.sandbox.endpoint,
            "throttle": LocalThrottle(FAST, headroom=0),
            "retry": RetryPolicy(attempts=2, base_delay=0),
            **changes,
        }
        credentials = arguments.pop("credentials", CREDENTIALS)
        session = MessagingSession(credentials, **arguments)
        return await self.stack.enter_async_context(session)

    async def host(self, answers: Mapping[str, bytes | None], *, tls: bool = False) -> str:
        """Another host, with canned answers by the beginning of the path."""
        certificate = self.certificate if tls else None
        return await self.stack.enter_async_context(canned(answers, certificate))

    async def fails(self, work: Awaitable[object]) -> None:
        """Do what is to fail."""
        try:
            await work
        except BaseException as error:
            self.errors.append(error)


Provocation: TypeAlias = Callable[[Scene], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def canned(
    answers: Mapping[str, bytes | None], certificate: ssl.SSLContext | None
) -> AsyncIterator[str]:
    """A server that answers what it is told, byte for byte; None is a connection cut at once."""
    connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections[task] = writer
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            await _answer_one(reader, writer, answers)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificate)
    scheme = "https" if certificate else "http"
    async with server:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in connections.values():
            writer.transport.abort()
        if connections:
            await asyncio.wait(connections)


async def _answer_one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: Mapping[str, bytes | None]
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    target = head.split(" ")[1]
    answer = next(answer for prefix, answer in answers.items() if target.startswith(prefix))
    if answer is None:
        return
    headers = dict(line.lower().split(": ", 1) for line in head.rstrip().split("\r\n")[1:])
    await reader.readexactly(int(headers.get("content-length", 0)))
    writer.write(answer)
    await writer.drain()
    writer.write_eof() if writer.can_write_eof() else writer.close()
    await reader.read()


def http(status: int, body: object = b"") -> bytes:
    """An answer as bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


TOKEN = http(200, {"access_token": ACCESS_TOKEN, "token_type": "bearer", "expires_in": 3600})


def destination(url: str) -> bytes:
    """An upload destination at an address, as Amazon answers."""
    payload = {"uploadDestinationId": "sc/0", "url": url, "headers": {"x-signed": SIGNATURE}}
    return http(201, {"payload": payload})


# The net: everything that was shown, held against every secret


@frozen
class Seen:
    """What a scene has shown, by the place where it was seen, and the secrets of the scene."""

    texts: list[tuple[str, str]]
    secrets: list[str]
    errors: list[BaseException]

    def leaks(self) -> list[str]:
        """Where a secret was seen, and which."""
        return [
            f"{place} shows {secret!r}"
            for place, text in self.texts
            for secret in self.secrets
            # The end of a secret is one too: reprs of long texts are cut in the middle.
            if secret[-12:] in text
        ]


def _shown_of(error: BaseException) -> Iterator[tuple[str, str]]:
    name = type(error).__name__
    yield f"traceback of {name}", "".join(traceback.format_exception(error))
    for member in _family(error):
        kind = f"{type(member).__name__} of {name}"
        yield f"repr of {kind}", repr(member)
        yield f"str of {kind}", str(member)
        yield f"fields of {kind}", repr(vars(member))
        yield f"notes of {kind}", repr(getattr(member, "__notes__", ()))
    if isinstance(error, MessagingError):
        yield f"pickle of {name}", pickle.dumps(error).decode("latin-1")
        yield f"copy of {name}", repr(copy.copy(error))


def _family(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and all that are shown with it."""
    if error is None:
        return
    yield error
    yield from _family(getattr(error, "cause", None))
    yield from _family(
        error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    )


def _shown_in(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    place = f"log of {record.name}"
    yield place, logging.Formatter().format(record)
    yield f"{place}, its fields", repr(vars(record))


def _texts_of(warned: list[warnings.WarningMessage]) -> Iterator[tuple[str, str]]:
    """The warnings, and those that letting go of what they are about gives rise to."""
    gc.collect()
    while warned:
        yield "warning", str(warned.pop().message)
        gc.collect()


class _ShiftingLoop(asyncio.SelectorEventLoop):
    """An event loop in debug mode that tells of every callback, with a clock that can jump."""

    def __init__(self) -> None:
        self.ahead = 0.0
        super().__init__()
        self.set_debug(True)
        self.slow_callback_duration = 0

    def time(self) -> float:
        return super().time() + self.ahead


Hold = Callable[[Provocation], Seen]


@pytest.fixture
def hold(
    tmp_path: Path,
    certificate: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Hold]:
    """Plays a scene with everything switched on that shows anything."""

    played: list[tuple[list[BaseException], list[str]]] = []

    async def play(provoke: Provocation) -> None:
        async with contextlib.AsyncExitStack() as stack:
            sandbox = await stack.enter_async_context(Sandbox(plans=FAST))
            scene = Scene(sandbox, tmp_path, stack, certificate)
            await provoke(scene)
        # Not returned, for asyncio's debug log shows what a task returns.
        played.append((scene.errors, secrets_of(sandbox)))

    def run(provoke: Provocation) -> Seen:
        caplog.set_level(logging.DEBUG)
        capfd.readouterr()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with asyncio.Runner(loop_factory=_ShiftingLoop) as runner:
                runner.run(play(provoke))
            texts = list(_texts_of(warned))
        (errors, secrets) = played.pop()
        stdout, stderr = capfd.readouterr()
        texts += [("stdout", stdout), ("stderr", stderr)]
        texts += [shown for record in caplog.records for shown in _shown_in(record)]
        texts += [shown for error in errors for shown in _shown_of(error)]
        assert any(text.startswith("Executing ") for _, text in texts), "asyncio's debug log"
        return Seen(texts, secrets, errors)

    gc.freeze()  # so that a collection looks at what the scene made, and at no more
    yield run
    gc.unfreeze()


def secrets_of(sandbox: Sandbox) -> list[str]:
    """All that must not be seen, with the tokens and signatures that a sandbox has made."""
    addresses = [upload.path_and_query for upload in sandbox._uploads._uploads.values()]
    signatures = [parse_qs(urlsplit(url).query)["X-Amz-Signature"][0] for url in addresses]
    known = [CLIENT_SECRET, REFRESH_TOKEN, ACCESS_TOKEN, SIGNATURE]
    return [*known, *sandbox.login._tokens, *signatures]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A certificate for 127.0.0.1 that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "host.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


# The net itself


async def _leak_by_text(scene: Scene) -> None:
    scene.errors.append(AuthenticationError(f"refused {CLIENT_SECRET}"))


async def _leak_by_field(scene: Scene) -> None:
    error = AuthenticationError("refused")
    error.request = HttpRequest("POST", "", {}), [REFRESH_TOKEN]  # type: ignore[attr-defined]
    scene.errors.append(error)


async def _leak_by_chain(scene: Scene) -> None:
    error = AuthenticationError("refused")
    error.__cause__ = ValueError(SIGNATURE)
    scene.errors.append(error)


async def _leak_by_log(scene: Scene) -> None:
    logging.getLogger("aiohttp.client").debug("sent %s", {"x-amz-access-token": ACCESS_TOKEN})


async def _leak_by_extra(scene: Scene) -> None:
    logging.getLogger("sp_messaging_async").info("sent", extra={"token": ACCESS_TOKEN})


async def _leak_by_output(scene: Scene) -> None:
    print(REFRESH_TOKEN)  # noqa: T201 - a leak


async def _leak_by_task(scene: Scene) -> None:
    async def token() -> str:
        return f"Atza|{'x' * 100}{ACCESS_TOKEN}"

    await asyncio.create_task(token())  # asyncio's debug log shows both ends of its result


LEAKS = [
    _leak_by_text,
    _leak_by_field,
    _leak_by_chain,
    _leak_by_log,
    _leak_by_extra,
    _leak_by_output,
    _leak_by_task,
]


def _scene_name(provoke: object) -> str:
    return getattr(provoke, "__name__", "").strip("_").replace("_", " ")


@pytest.mark.parametrize("leak", LEAKS, ids=_scene_name)
def test_the_net_catches(hold: Hold, leak: Provocation) -> None:
    """A secret that is shown anywhere is found by the test below."""
    assert hold(leak).leaks()


# Scenes: everything that can go wrong


def _faulty(fault: Fault, at: str | None) -> Provocation:
    """A fault on every attempt, wherever the call meets it."""

    async def provoke(scene: Scene) -> None:
        (scene.folder / "a.pdf").write_bytes(b"a file")
        scene.sandbox.faults.add(*[fault] * 9, operation=at)
        hangs = fault.name.startswith("HANG")
        session = await scene.session(timeout=0.1 if hangs else 20)
        await scene.fails(session.send(ORDER, InvoiceRequest([LocalFile(scene.folder / "a.pdf")])))
        scene.sandbox.faults.clear()

    place = "message" if at is None else at
    provoke.__name__ = f"{fault.name.lower()} at {place}"
    return provoke


PLACES = [None, "token", UPLOAD.name, "upload"]
FAULTS = [_faulty(fault, at) for at in PLACES for fault in Fault]
HARMLESS = {
    "empty_after at message",
    "html_after at upload",
    "empty_after at upload",
    "truncated_after at upload",
    "errors_after at upload",
}


async def refused_client_secret(scene: Scene) -> None:
    session = await scene.session(credentials=attrs.evolve(CREDENTIALS, client_secret="invalid"))
    await scene.fails(session.send(ORDER, TEXT))


async def refused_refresh_token(scene: Scene) -> None:
    session = await scene.session(credentials=attrs.evolve(CREDENTIALS, refresh_token="revoked"))
    await scene.fails(session.send(ORDER, TEXT))


def _callable(name: str, result: object) -> Provocation:
    """A credentials callable that raises, or gives no credentials."""

    async def fetch() -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    async def provoke(scene: Scene) -> None:
        session = await scene.session(credentials=fetch)
        await scene.fails(session.send(ORDER, TEXT))

    provoke.__name__ = f"credentials callable {name}"
    return provoke


CALLABLES = [
    _callable("raises", ValueError("the vault is shut")),
    _callable("raises with a secret", KeyError(REFRESH_TOKEN)),
    _callable("gives a secret", CLIENT_SECRET),
    _callable("gives secrets", {"client_secret": CLIENT_SECRET, "refresh_token": REFRESH_TOKEN}),
]


async def credentials_callable_raises_aiohttps_error(scene: Scene) -> None:
    vault = await scene.host({"/": http(403)})

    async def fetch() -> Credentials:
        address = f"{vault}/sellers/{REFRESH_TOKEN}"
        async with aiohttp.request("GET", address, raise_for_status=True) as response:
            return Credentials(*(await response.json()))

    session = await scene.session(credentials=fetch)
    await scene.fails(session.send(ORDER, TEXT))


class _BadThrottle(LocalThrottle):
    """A throttle of the caller's that fails in one of its methods."""

    def __init__(self, failing: str) -> None:
        super().__init__(FAST, headroom=0)
        self._failing = failing

    def _fail_in(self, method: str, key: PlanKey) -> None:
        if method == self._failing:
            raise RuntimeError(f"no bucket for {key}")

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        self._fail_in("acquire", key)
        await super().acquire(key, again=again)

    def throttled(self, key: PlanKey) -> None:
        self._fail_in("throttled", key)

    def learned(self, key: PlanKey, rate: float) -> None:
        self._fail_in("learned", key)


async def throttle_raises_when_asked(scene: Scene) -> None:
    session = await scene.session(throttle=_BadThrottle("acquire"))
    await scene.fails(session.send(ORDER, TEXT))


async def throttle_raises_when_told_of_a_429(scene: Scene) -> None:
    scene.sandbox.faults.add(*[Fault.THROTTLED] * 9)
    session = await scene.session(throttle=_BadThrottle("throttled"))
    await scene.fails(session.send(ORDER, TEXT))


async def throttle_raises_when_told_the_rate(scene: Scene) -> None:
    session = await scene.session(throttle=_BadThrottle("learned"))
    await scene.fails(session.send("123-1234567-0000000", TEXT))


async def connections_refused_to_the_token(scene: Scene) -> None:
    session = await scene.session()
    async with scene.sandbox.faults.refused():
        await scene.fails(session.send(ORDER, TEXT))


async def connections_refused_to_the_message(scene: Scene) -> None:
    await (await scene.session()).get_attributes(ORDER)  # which leaves a token for both
    session = await scene.session()
    async with scene.sandbox.faults.refused():
        await scene.fails(session.send(ORDER, TEXT))


async def _at_hosts(
    scene: Scene, *, api: str = "", token: str = "", timeout: float = 20, **changes: Any
) -> MessagingSession:
    endpoint = scene.sandbox.endpoint
    token_url = f"{token}/auth" if token else endpoint.token_url
    return await scene.session(
        endpoint=Endpoint(api or endpoint.api_url, token_url), timeout=timeout, **changes
    )


async def untrusted_certificate_of_the_token(scene: Scene) -> None:
    session = await _at_hosts(scene, token=await scene.host({"/": TOKEN}, tls=True))
    await scene.fails(session.send(ORDER, TEXT))


async def untrusted_certificate_of_the_api(scene: Scene) -> None:
    session = await _at_hosts(scene, api=await scene.host({"/": http(201)}, tls=True))
    await scene.fails(session.send(ORDER, TEXT))


async def untrusted_certificate_of_the_upload(scene: Scene) -> None:
    put = await scene.host({"/": http(200)}, tls=True)
    await _upload_to(scene, f"{put}/put?X-Amz-Signature={SIGNATURE}")


async def tls_handshake_that_hangs(scene: Scene) -> None:
    silent = await scene.host({})
    https = silent.replace("http://", "https://")
    for hosts in ({"token": https}, {"api": https}):
        await scene.fails((await _at_hosts(scene, timeout=0.1, **hosts)).send(ORDER, TEXT))


async def _upload_to(scene: Scene, url: str, content: bytes = b"a file") -> None:
    """An upload whose destination is an address of somebody else's."""
    amazon = await scene.host({"/auth": TOKEN, "/uploads": destination(url)})
    session = await _at_hosts(scene, api=amazon, token=amazon)
    await scene.fails(session.upload_attachment(ORDER, InvoiceRequest, content, "a.pdf"))


def _address(name: str, url: str) -> Provocation:
    async def provoke(scene: Scene) -> None:
        await _upload_to(scene, url)

    provoke.__name__ = f"upload to {name}"
    return provoke


SIGNED = f"X-Amz-Signature={SIGNATURE}"
ADDRESSES = [
    _address("no address", SIGNED),
    _address("no host", f"http:///put?{SIGNED}"),
    _address("another scheme", f"ftp://127.0.0.1/put?{SIGNED}"),
    _address("a broken host", f"http://[::1/put?{SIGNED}"),
    _address("a broken port", f"http://127.0.0.1:x/put?{SIGNED}"),
    _address("a port too high", f"http://127.0.0.1:99999/put?{SIGNED}"),
    _address("a signature in the host", f"http://{SIGNATURE}:{SIGNATURE}@:1/put"),
    _address("two lines", f"http://127.0.0.1:1/put?a\r\nb: {SIGNATURE}"),
    _address("a shut port", f"http://127.0.0.1:1/put?{SIGNED}"),
]


async def upload_that_echoes_its_signature(scene: Scene) -> None:
    xml = (
        f"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>{SIGNATURE}</StringToSign></Error>"
    )
    put = await scene.host({"/": http(403, xml.encode())})
    await _upload_to(scene, f"{put}/put?{SIGNED}")


async def upload_that_is_cut_in_the_middle(scene: Scene) -> None:
    put = await scene.host({"/": None})
    await _upload_to(scene, f"{put}/put?{SIGNED}", b"x" * 9_000_000)


async def headers_of_an_upload_that_cannot_be_sent(scene: Scene) -> None:
    put = await scene.host({"/": http(200)})
    headers = {"x-signed": f"{SIGNATURE}\r\nx-more: {SIGNATURE}"}
    payload = {"uploadDestinationId": "sc/0", "url": f"{put}/put?{SIGNED}", "headers": headers}
    amazon = await scene.host({"/auth": TOKEN, "/uploads": http(201, {"payload": payload})})
    session = await _at_hosts(scene, api=amazon, token=amazon)
    await scene.fails(session.upload_attachment(ORDER, InvoiceRequest, b"a file", "a.pdf"))


async def destinations_that_cannot_be_read(scene: Scene) -> None:
    url = f"http://127.0.0.1:1/put?{SIGNED}"
    for payload in (
        url,
        [url],
        {"url": url},
        {"url": [url], "uploadDestinationId": "sc/0"},
        {"url": url, "uploadDestinationId": {url: url}},
        {"url": url, "uploadDestinationId": "sc/0", "headers": [SIGNATURE]},
        {"url": url, "uploadDestinationId": "sc/0", "headers": {SIGNATURE: 7}},
    ):
        amazon = await scene.host({"/auth": TOKEN, "/uploads": http(201, {"payload": payload})})
        session = await _at_hosts(scene, api=amazon, token=amazon)
        await scene.fails(session.upload_attachment(ORDER, InvoiceRequest, b"a file", "a.pdf"))


GARBAGE = {
    "no http": b"nonsense\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "a long header": b"HTTP/1.1 200 OK\r\nx: " + b"x" * 20_000 + b"\r\n\r\n",
    "broken chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "broken gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "a cookie": b"HTTP/1.1 500 No\r\nSet-Cookie: a\x01=b; c\r\nContent-Length: 0\r\n\r\n",
    "a redirect": b"HTTP/1.1 307 No\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switch\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
}


def _garbage(name: str, answer: bytes) -> Provocation:
    """An answer that is none, to a token, a message and the PUT of a file."""

    async def provoke(scene: Scene) -> None:
        host = await scene.host({"/": answer})
        for hosts in ({"token": host}, {"api": host}):
            session = await _at_hosts(scene, timeout=2, **hosts)
            await scene.fails(session.send(ORDER, TEXT))
        await _upload_to(scene, f"{host}/put?{SIGNED}")
        assert len(scene.errors) >= 2

    provoke.__name__ = f"answered with {name}"
    return provoke


ANSWERS = [_garbage(name, answer) for name, answer in GARBAGE.items()]


async def login_that_echoes_secrets(scene: Scene) -> None:
    form = {"client_secret": CLIENT_SECRET, "refresh_token": REFRESH_TOKEN}
    for answer in (
        http(400, {"error": REFRESH_TOKEN, "error_description": CLIENT_SECRET}),
        http(401, {"error": "invalid_client", "error_description": CLIENT_SECRET}),
        http(400, {"error": "temporarily_unavailable", "error_description": REFRESH_TOKEN}),
        http(500, {"message": f"failed for {REFRESH_TOKEN}"}),
        http(403, f"<html>{CLIENT_SECRET}</html>".encode()),
        http(200, form),
        http(200, {"access_token": f"{ACCESS_TOKEN}\n", "expires_in": 3600}),
        http(200, {"access_token": [ACCESS_TOKEN], "expires_in": 3600}),
        http(200, {"access_token": ACCESS_TOKEN, "expires_in": f"{ACCESS_TOKEN}"}),
        http(200, f'{{"access_token": "{ACCESS_TOKEN}'.encode()),
    ):
        session = await _at_hosts(scene, token=await scene.host({"/": answer}))
        await scene.fails(session.send(ORDER, TEXT))


async def renewal_that_fails_behind_a_call(scene: Scene) -> None:
    session = await scene.session()
    await session.get_attributes(ORDER)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _ShiftingLoop)
    loop.ahead += 3600 - 200
    scene.sandbox.faults.add(*[Fault.TEMPORARILY_UNAVAILABLE] * 9, operation="token")
    await session.get_attributes(ORDER)
    while len(scene.sandbox.faults) > 7:
        await asyncio.sleep(0.001)
    scene.sandbox.login.expire_all()
    await scene.fails(session.send(ORDER, TEXT))


async def proxies_that_refuse(scene: Scene) -> None:
    for answer in (503, 407):
        proxy = await scene.host({"": http(answer)})
        await _through(scene, proxy)
    await _through(scene, "http://127.0.0.1:1")


async def _through(scene: Scene, proxy: str) -> None:
    async with aiohttp.ClientSession(proxy=proxy) as caller:
        for host in ("https://127.0.0.1:1", "http://127.0.0.1:1"):
            session = await _at_hosts(scene, api=host, token=host, http=caller)
            await scene.fails(session.send(ORDER, TEXT))


async def trace_config_that_raises_what_it_saw(scene: Scene) -> None:
    trace = aiohttp.TraceConfig()

    async def fail(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        raise ValueError(f"{params.url} {params.headers}")

    trace.on_request_start.append(fail)
    async with aiohttp.ClientSession(trace_configs=[trace]) as caller:
        await scene.fails((await scene.session(http=caller)).send(ORDER, TEXT))


async def callers_session_that_is_closed(scene: Scene) -> None:
    async with aiohttp.ClientSession() as caller:
        session = await scene.session(http=caller)
        await session.get_attributes(ORDER)
    await scene.fails(session.send(ORDER, TEXT))


async def _in_flight(scene: Scene, session: MessagingSession) -> asyncio.Task[Any]:
    """A message that was written and gets no answer."""
    scene.sandbox.faults.add(Fault.HANG)
    sending = asyncio.create_task(session.send(ORDER, TEXT))
    while len(scene.sandbox.faults):
        await asyncio.sleep(0.001)
    return sending


async def cancelled_after_the_write(scene: Scene) -> None:
    sending = await _in_flight(scene, await scene.session())
    sending.cancel()
    await scene.fails(sending)


async def cut_off_by_closing(scene: Scene) -> None:
    session = await scene.session()
    sending = await _in_flight(scene, session)
    await session.aclose(grace=0)
    await scene.fails(sending)
    await scene.fails(session.send(ORDER, TEXT))


async def session_that_nobody_closes(scene: Scene) -> None:
    session = MessagingSession(
        CREDENTIALS, marketplace="US", endpoint=scene.sandbox.endpoint, throttle=LocalThrottle(FAST)
    )
    await session.get_attributes(ORDER)
    await scene.fails(session.send("1/2", TEXT))
    scene.errors[0].__traceback__ = None
    del session
    gc.collect()


async def max_wait_that_passes(scene: Scene) -> None:
    scarce = LocalThrottle({"createUnexpectedProblem": UsagePlan(rate=0.01, burst=1)})
    session = await scene.session(throttle=scarce)
    await session.send(ORDER, TEXT)
    await scene.fails(session.send(ORDER, TEXT, max_wait=0))


async def outcomes_of_many(scene: Scene) -> None:
    scene.sandbox.faults.add(Fault.INTERNAL_FAILURE, Fault.DENIED, Fault.DROPPED_AFTER)
    async with send_all(await scene.session(), [Message(ORDER, TEXT)] * 4) as outcomes:
        async for outcome in outcomes:
            logging.getLogger("caller").info("%r", outcome)
            scene.errors.extend(filter(None, [outcome.error]))


def _file(name: str, text: str, account: str = "default") -> Provocation:
    """A file of credentials that cannot be used."""

    async def provoke(scene: Scene) -> None:
        path = scene.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            Credentials.from_file(path, account)
        scene.errors.append(caught.value)
        await asyncio.sleep(0)

    provoke.__name__ = f"credentials from {name} {'broken' if account == 'default' else account}"
    return provoke


FILES = [
    _file(
        "a.yml", f"default:\n  refresh_token: '{REFRESH_TOKEN}\n  client_secret: @{CLIENT_SECRET}"
    ),
    _file("a.yml", f"default: {{refresh_token: '{REFRESH_TOKEN}'}}", "missing"),
    _file("a.yml", f"default: {CLIENT_SECRET}"),
    _file("a.toml", f"[default]\nrefresh_token = '{REFRESH_TOKEN}\n{CLIENT_SECRET}"),
    _file("a.toml", f"[default]\nlwa_app_id = 'a'\nlwa_client_secret = ['{CLIENT_SECRET}']"),
]


async def credentials_that_are_incomplete(scene: Scene) -> None:
    for values in (
        ("id", CLIENT_SECRET, ""),
        ("id", "", REFRESH_TOKEN),
        ("id", CLIENT_SECRET.encode(), REFRESH_TOKEN),
        ("id", [CLIENT_SECRET], REFRESH_TOKEN),
    ):
        with pytest.raises(ConfigurationError) as caught:
            Credentials(*values)
        scene.errors.append(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        MessagingSession(REFRESH_TOKEN, marketplace="US")  # type: ignore[arg-type]
    scene.errors.append(caught.value)
    await asyncio.sleep(0)


SCENES: list[Provocation] = [
    *FAULTS,
    refused_client_secret,
    refused_refresh_token,
    *CALLABLES,
    credentials_callable_raises_aiohttps_error,
    throttle_raises_when_asked,
    throttle_raises_when_told_of_a_429,
    throttle_raises_when_told_the_rate,
    connections_refused_to_the_token,
    connections_refused_to_the_message,
    untrusted_certificate_of_the_token,
    untrusted_certificate_of_the_api,
    untrusted_certificate_of_the_upload,
    tls_handshake_that_hangs,
    *ADDRESSES,
    upload_that_echoes_its_signature,
    upload_that_is_cut_in_the_middle,
    headers_of_an_upload_that_cannot_be_sent,
    destinations_that_cannot_be_read,
    *ANSWERS,
    login_that_echoes_secrets,
    renewal_that_fails_behind_a_call,
    proxies_that_refuse,
    trace_config_that_raises_what_it_saw,
    callers_session_that_is_closed,
    cancelled_after_the_write,
    cut_off_by_closing,
    session_that_nobody_closes,
    max_wait_that_passes,
    outcomes_of_many,
    *FILES,
    credentials_that_are_incomplete,
]


@pytest.mark.parametrize("provoke", SCENES, ids=_scene_name)
def test_no_secret_is_shown(hold: Hold, provoke: Provocation) -> None:
    """No error, log, warning or output of whatever goes wrong holds a secret, or its end."""
    seen = hold(provoke)
    assert bool(seen.errors) is (provoke.__name__ not in HARMLESS)
    assert seen.leaks() == []


# Objects


def _ours(roots: list[object]) -> Iterator[object]:
    """Every object of this package that can be reached from the roots by attribute or item."""
    seen: set[int] = set()
    queue = deque(roots)
    while queue:
        here = queue.popleft()
        if id(here) in seen or isinstance(here, type):
            continue
        seen.add(id(here))
        if isinstance(here, Mapping):
            queue.extend([*here.keys(), *here.values()])
        elif isinstance(here, list | tuple | set | frozenset | deque):
            queue.extend(here)
        elif type(here).__module__.startswith("sp_messaging_async"):
            yield here
            queue.extend(getattr(here, name) for name in _attributes(here))


def _attributes(thing: object) -> Iterator[str]:
    yield from getattr(thing, "__dict__", ())
    for cls in type(thing).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        yield from (slot for slot in slots if hasattr(thing, slot) and slot != "__weakref__")


async def test_no_object_shows_a_secret(sandbox: Sandbox, tmp_path: Path) -> None:
    """Neither repr nor str of anything that the package makes, used or not, holds a secret."""
    path = tmp_path / "a.pdf"
    path.write_bytes(b"a file")
    async with MessagingSession(
        CREDENTIALS, marketplace="US", endpoint=sandbox.endpoint, retry=AT_ONCE
    ) as session:
        await session.send(ORDER, InvoiceRequest([LocalFile(path)]))
        sandbox.faults.add(Fault.DENIED)
        refused = await _error_of(session.send(ORDER, InvoiceRequest([LocalFile(path, "b.pdf")])))
        token = next(iter(sandbox.login._tokens))
        payload = sandbox._uploads.create(
            sandbox.url, _any_place(sandbox), "1B2M2Y8AsgTpgAmY7PhCfg=="
        )
        answer = codec.decode({"payload": payload}, CreateUploadDestinationResponse)
        url = answer.payload.url
        request = HttpRequest("PUT", url, dict(answer.payload.headers), b"a file")
        request.authorize(token)
        message = Message(ORDER, TEXT, Marketplace.US, "acme")
        everything = _ours(
            [
                session,
                session._throttle,
                session._tokens,
                session.plan_key(UPLOAD.name),
                sandbox,
                sandbox.delivered,
                answer,
                request,
                HttpAnswer(200, {"location": url}, f"{token} {url}".encode()),
                session._transport.exchange(request),
                await attachments.read(path),
                message,
                send_all(session, [message]),
                Outcome.of_error(message, refused),
                RetryPolicy(),
            ]
        )
        secrets = secrets_of(sandbox)
        shown = [(type(it).__name__, f"{it!r} {it!s}") for it in everything]
    assert {name for name, text in shown for secret in secrets if secret[-12:] in text} == set()
    assert {"Credentials", "Endpoint", "PlanKey", "TokenSource", "_AccessToken"} <= dict(
        shown
    ).keys()
    assert {"HttpRequest", "UploadDestination", "Delivered", "_Upload"} <= dict(shown).keys()


async def _error_of(call: Awaitable[object]) -> MessagingError:
    with pytest.raises(MessagingError) as caught:
        await call
    return caught.value


def _any_place(sandbox: Sandbox) -> Any:
    return next(iter(sandbox._uploads._uploads.values())).place
