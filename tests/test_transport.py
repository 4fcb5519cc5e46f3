"""Whether the write began, told rightly on servers made by hand, however an exchange fails."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sp_messaging_async import (
    CreateUnexpectedProblemRequest,
    Endpoint,
    MessagingError,
    MessagingSession,
    OutcomeUnknown,
    RetryPolicy,
    ServerError,
    TransportError,
)
from sp_messaging_async.sandbox import Sandbox

from .conftest import ORDER, Open

TEXT = CreateUnexpectedProblemRequest("Sold out.")
SHORT = 0.25  # seconds, for an exchange that would never end
ATTEMPTS = 2
TWICE = RetryPolicy(ATTEMPTS, base_delay=0, max_delay=0)


# Servers made by hand

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Behaviour: TypeAlias = Callable[[Writer], Awaitable[None]]

_BODY = b'{"buyer": {"locale": "en-US"}}'  # good for a read, and for a message
_HEAD = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


async def answers(writer: Writer) -> None:
    """A success."""
    writer.write(_HEAD % len(_BODY) + _BODY)


async def fails(writer: Writer) -> None:
    """An answer that leaves open whether the request was processed."""
    writer.write(b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n")


async def hangs(writer: Writer) -> None:
    """No answer at all."""
    await asyncio.Event().wait()


async def drops(writer: Writer) -> None:
    """The end of the connection."""
    writer.close()


async def resets(writer: Writer) -> None:
    """The abrupt end of the connection."""
    writer.transport.abort()


async def drops_in_head(writer: Writer) -> None:
    """An answer that breaks off in its head."""
    writer.write(_HEAD[:30])
    writer.close()


async def drops_in_body(writer: Writer) -> None:
    """An answer that breaks off in its body."""
    writer.write(_HEAD % len(_BODY) + _BODY[:10])
    writer.close()


async def hangs_in_body(writer: Writer) -> None:
    """An answer that stops in its body."""
    writer.write(_HEAD % len(_BODY) + _BODY[:10])
    await asyncio.Event().wait()


async def babbles(writer: Writer) -> None:
    """What is no HTTP."""
    writer.write(b"220 smtp.example ESMTP\r\n\r\n")
    writer.close()


class Server:
    """Listens on loopback, notes every whole request, and then behaves as it is told.

    behaviours: one for each request in turn; the last one goes on.
    received: the request lines.
    """

    def __init__(self, *behaviours: Behaviour) -> None:
        self.received: list[str] = []
        self.connections = 0
        self._behaviours = behaviours
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
        """Listen until the context is left, and then end every connection."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls)
        self.port: int = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def _connected(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.transport.abort()

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        while not writer.is_closing():
            line, length = await _head(reader)
            await reader.readexactly(length)
            turn = min(len(self.received), len(self._behaviours) - 1)
            self.received.append(line)
            await self._behaviours[turn](writer)


async def _head(reader: Reader) -> tuple[str, int]:
    """The request line, and the length of the body that follows."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = dict(field.lower().split(": ", 1) for field in head[1:] if field)
    return head[0], int(fields.get("content-length", 0))


class Proxy(Server):
    """Behaves as told where it is asked to CONNECT, and else connects to one and the same port.

    behaviours: for the first CONNECTs in turn; after them they are granted.
    """

    def __init__(self, *behaviours: Behaviour, to: int = 0) -> None:
        super().__init__(*behaviours)
        self._to = to

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        line, _ = await _head(reader)
        self.received.append(line)
        if len(self.received) <= len(self._behaviours):
            await self._behaviours[len(self.received) - 1](writer)
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
        finally:
            there_writer.transport.abort()


async def _pump(reader: Reader, writer: Writer) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def is_busy(writer: Writer) -> None:
    """A proxy's refusal to connect."""
    writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")


class Certificate(NamedTuple):
    """What a server shows, and the context of a client that trusts it."""

    server: ssl.SSLContext
    trusting: ssl.SSLContext


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for 127.0.0.1 and amazon.test, signed by itself."""
    folder = tmp_path_factory.mktemp("certificate")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*_self_signed(folder))
    return Certificate(server, ssl.create_default_context(cafile=str(folder / "certificate.pem")))


def _self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "amazon.test")])
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([loopback, x509.DNSName("amazon.test")]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate_path, key_path = folder / "certificate.pem", folder / "key.pem"
    certificate_path.write_bytes(made.public_bytes(pem))
    key_path.write_bytes(key.private_bytes(pem, *plain))
    return certificate_path, key_path


# What is called, and what is asked of the error

Call: TypeAlias = Callable[[MessagingSession], Awaitable[Any]]


def message(session: MessagingSession) -> Awaitable[Any]:
    """A POST with a body."""
    return session.send(ORDER, TEXT)


def message_without_body(session: MessagingSession) -> Awaitable[Any]:
    """A POST of length 0."""
    return session.create_negative_feedback_removal(ORDER)


def read(session: MessagingSession) -> Awaitable[Any]:
    """A GET."""
    return session.get_attributes(ORDER)


MESSAGES = (message, message_without_body)
CALLS = (*MESSAGES, read)
each_call = pytest.mark.parametrize("call", CALLS)
each_message = pytest.mark.parametrize("call", MESSAGES)

Connect: TypeAlias = Callable[..., MessagingSession]


@pytest.fixture
async def connect(sandbox: Sandbox, open_session: Open) -> Connect:
    """Opens sessions on another API than the sandbox's, which have their token already."""
    await open_session().get_attributes(ORDER)

    def connect_(api_url: str, **changes: Any) -> MessagingSession:
        endpoint = Endpoint(api_url, sandbox.endpoint.token_url)
        arguments = {"retry": TWICE, **changes}
        return open_session(endpoint=endpoint, **arguments)

    return connect_


def patience(trouble: str) -> float:
    """The timeout of an exchange, in seconds: short where nothing else would end it."""
    return SHORT if trouble.startswith(("hang", "hung", "full")) else 20


def check_nothing_of_aiohttp(error: BaseException | None) -> None:
    """No exception of aiohttp can be reached: its text may hold tokens and signatures."""
    while error is not None:
        assert isinstance(error, MessagingError)
        assert error.__cause__ is None
        assert error.__context__ is None
        error = getattr(error, "cause", None)


async def fail_unsent(session: MessagingSession, call: Call, attempts: int = ATTEMPTS) -> str:
    """Make a call that is known to be unsent after so many attempts. Returns the error's text."""
    with pytest.raises(TransportError) as caught:
        await call(session)
    assert caught.value.attempts == attempts
    assert not (caught.value.write_began and call is not read)
    check_nothing_of_aiohttp(caught.value)
    return str(caught.value)


async def fail_after_the_write(session: MessagingSession, call: Call) -> None:
    """Make a call whose exchange fails after the write: a message is unknown, a read repeated."""
    with pytest.raises(TransportError if call is read else OutcomeUnknown) as caught:
        await call(session)
    error: Any = caught.value
    check_nothing_of_aiohttp(error)
    assert error.attempts == (ATTEMPTS if call is read else 1)
    failure = error if call is read else error.cause
    assert type(failure) is TransportError
    assert failure.write_began


# The write never began


class Place(NamedTuple):
    """Where a call goes: the API's address, and the caller's session if it takes one."""

    api_url: str
    http: aiohttp.ClientSession | None = None


Trouble: TypeAlias = Callable[[], AbstractAsyncContextManager[Place]]


@asynccontextmanager
async def refused_connect() -> AsyncIterator[Place]:
    """A port that is taken and does not listen."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield Place(f"http://127.0.0.1:{taken.getsockname()[1]}")


@asynccontextmanager
async def hung_connect() -> AsyncIterator[Place]:
    """A listener whose queue is full, so that no connection is made or refused."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        try:
            yield Place(f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            for one in waiting:
                one.close()


class _Names(AbstractResolver):
    """Knows no name, or never answers."""

    def __init__(self, hangs: bool) -> None:
        self._hangs = hangs

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        if self._hangs:
            await asyncio.Event().wait()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def close(self) -> None:
        pass


def _name_trouble(*, hangs: bool) -> Trouble:
    @asynccontextmanager
    async def trouble() -> AsyncIterator[Place]:
        connector = aiohttp.TCPConnector(resolver=_Names(hangs))
        async with aiohttp.ClientSession(connector=connector) as http:
            yield Place("https://amazon.test", http)

    return trouble


class _Mute(Server):
    """Takes connections, and neither reads nor writes; or writes one thing, and ends them."""

    def __init__(self, says: bytes | None = None) -> None:
        super().__init__()
        self._says = says

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        if self._says is None:
            await asyncio.Event().wait()
        await reader.read(1)
        writer.write(self._says or b"")
        await writer.drain()


def _tls_trouble(says: bytes | None) -> Trouble:
    @asynccontextmanager
    async def trouble() -> AsyncIterator[Place]:
        async with _Mute(says).listening() as server:
            yield Place(server.tls_url)

    return trouble


@asynccontextmanager
async def refused_proxy() -> AsyncIterator[Place]:
    """A proxy that does not listen."""
    async with (
        refused_connect() as nobody,
        aiohttp.ClientSession(proxy=nobody.api_url) as http,
    ):
        yield Place("https://amazon.test", http)


def _proxy_trouble(behaviour: Behaviour) -> Trouble:
    @asynccontextmanager
    async def trouble() -> AsyncIterator[Place]:
        async with (
            Proxy(*[behaviour] * 99).listening() as proxy,
            aiohttp.ClientSession(proxy=proxy.url) as http,
        ):
            yield Place("https://amazon.test", http)
            assert set(proxy.received) == {"CONNECT amazon.test:443 HTTP/1.1"}

    return trouble


@asynccontextmanager
async def full_pool() -> AsyncIterator[Place]:
    """A pool of the caller's whose only connection is in use."""
    async with (
        Server(hangs).listening() as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http,
    ):
        other = asyncio.create_task(http.get(server.url))
        while not server.received:
            await asyncio.sleep(0)
        try:
            yield Place(server.url, http)
            assert server.received == ["GET / HTTP/1.1"]
        finally:
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)


UNSENT: dict[str, Trouble] = {
    "refused connect": refused_connect,
    "unknown name": _name_trouble(hangs=False),
    "hung name": _name_trouble(hangs=True),
    "hung connect": hung_connect,
    "hung TLS": _tls_trouble(None),
    "dropped TLS": _tls_trouble(b""),
    "no TLS": _tls_trouble(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "refused proxy": refused_proxy,
    "hung proxy": _proxy_trouble(hangs),
    "dropped proxy": _proxy_trouble(drops),
    "reset proxy": _proxy_trouble(resets),
    "busy proxy": _proxy_trouble(is_busy),
    "babbling proxy": _proxy_trouble(babbles),
    "full pool": full_pool,
}


@pytest.mark.parametrize("trouble", UNSENT)
async def test_nothing_was_written(connect: Connect, trouble: str) -> None:
    """It is tried again, and then a TransportError: no message is called unknown that is not."""
    async with UNSENT[trouble]() as place:
        session = connect(place.api_url, http=place.http, timeout=patience(trouble))
        await asyncio.gather(*(fail_unsent(session, call) for call in CALLS))


@each_message
async def test_a_message_that_was_not_written_goes_with_the_next_attempt(
    connect: Connect, certificate: Certificate, call: Call
) -> None:
    """After a proxy that hung and one that dropped, it is written once, and sent."""
    async with (
        Server(answers).listening(certificate.server) as server,
        Proxy(hangs, drops, is_busy, to=server.port).listening() as proxy,
        aiohttp.ClientSession(
            proxy=proxy.url, connector=aiohttp.TCPConnector(ssl=certificate.trusting)
        ) as http,
    ):
        retry = RetryPolicy(attempts=4, base_delay=0, max_delay=0)
        await call(connect("https://amazon.test", http=http, retry=retry, timeout=SHORT))
        assert len(server.received) == 1
        assert len(proxy.received) == 4


@pytest.mark.parametrize("through", ["nothing", "proxy"])
@each_call
async def test_a_certificate_that_is_not_trusted(
    connect: Connect, certificate: Certificate, call: Call, through: str
) -> None:
    """It is final at once, with the remedy, through a proxy too."""
    async with (
        Server(answers).listening(certificate.server) as server,
        Proxy(to=server.port).listening() as proxy,
        aiohttp.ClientSession(proxy=proxy.url if through == "proxy" else None) as http,
    ):
        text = await fail_unsent(connect(server.tls_url, http=http), call, attempts=1)
        assert "certificate is not trusted; check the host, clock and CA file" in text
        assert server.received == []


@pytest.mark.parametrize("wrong", ["name", "fingerprint"])
@each_call
async def test_a_certificate_of_somebody_else(
    connect: Connect, certificate: Certificate, call: Call, wrong: str
) -> None:
    """Another name than the host's, or another fingerprint than the caller's, is final too."""
    tls: Any = certificate.trusting if wrong == "name" else aiohttp.Fingerprint(bytes(32))
    async with (
        Server(answers).listening(certificate.server) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http,
    ):
        session = connect(f"https://localhost:{server.port}", http=http)
        assert "certificate" in await fail_unsent(session, call, attempts=1)
        assert server.received == []


@pytest.mark.parametrize("proxy", ["http://[::1", "nowhere"])
@each_call
async def test_a_proxy_that_is_no_address(connect: Connect, call: Call, proxy: str) -> None:
    """It is final at once: another attempt would find the same address."""
    async with aiohttp.ClientSession(proxy=proxy) as http:
        await fail_unsent(connect("https://amazon.test", http=http), call, attempts=1)


@each_call
async def test_a_session_of_the_callers_that_is_closed(connect: Connect, call: Call) -> None:
    """Nothing can be sent over it, which is final at once."""
    async with aiohttp.ClientSession() as http:
        session = connect("https://amazon.test", http=http)
    await fail_unsent(session, call, attempts=1)


@pytest.mark.parametrize("trouble", ["hung name", "full pool"])
@each_call
async def test_a_session_of_the_callers_that_is_closed_meanwhile(
    connect: Connect, call: Call, trouble: str
) -> None:
    """A call that nobody cancelled is not said to be cancelled: it is known to be unsent."""
    async with UNSENT[trouble]() as place:
        assert place.http is not None
        session = connect(place.api_url, http=place.http)
        sending = asyncio.ensure_future(call(session))
        for _ in range(10):
            await asyncio.sleep(0)
        await place.http.close()
        await asyncio.wait((sending,))
        assert not sending.cancelled()
        assert isinstance(sending.exception(), TransportError)


# The write began

LOST = [hangs, drops, resets, drops_in_head, drops_in_body, hangs_in_body, babbles]


def _name(behaviour: Behaviour) -> str:
    return behaviour.__name__


@pytest.mark.parametrize("behaviour", LOST, ids=_name)
async def test_the_answer_was_lost(connect: Connect, behaviour: Behaviour) -> None:
    """A message is unknown and was written once; a read is made again."""
    async with Server(behaviour).listening() as server:
        session = connect(server.url, timeout=patience(_name(behaviour)))
        await asyncio.gather(*(fail_after_the_write(session, call) for call in CALLS))
        written = Counter(line.partition(" ")[0] for line in server.received)
        assert written["POST"] == 2
        assert written["GET"] >= ATTEMPTS


@pytest.mark.parametrize("through", ["TLS", "TLS in a tunnel"])
@pytest.mark.parametrize("behaviour", [hangs, drops, drops_in_body], ids=_name)
async def test_the_answer_was_lost_behind_tls(
    connect: Connect, certificate: Certificate, behaviour: Behaviour, through: str
) -> None:
    """Through TLS, and a proxy's tunnel, a message that was written is unknown all the same."""
    async with (
        Server(behaviour).listening(certificate.server) as server,
        Proxy(to=server.port).listening() as proxy,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=certificate.trusting),
            proxy=None if through == "TLS" else proxy.url,
        ) as http,
    ):
        session = connect(server.tls_url, http=http, timeout=patience(_name(behaviour)))
        await asyncio.gather(*(fail_after_the_write(session, call) for call in MESSAGES))
        assert sum(line.startswith("POST") for line in server.received) == 2
        assert bool(proxy.received) == (through != "TLS")


@pytest.mark.parametrize("behaviour", [drops, drops_in_body, fails], ids=_name)
@each_message
async def test_the_answer_was_lost_at_a_proxy_without_tunnel(
    connect: Connect, call: Call, behaviour: Behaviour
) -> None:
    """A proxy for plain http gets the whole message, so its failure may be the server's."""
    async with (
        Server(behaviour).listening() as proxy,
        aiohttp.ClientSession(proxy=proxy.url) as http,
    ):
        with pytest.raises(OutcomeUnknown):
            await call(connect("http://127.0.0.1:1", http=http))
        (line,) = proxy.received
        assert line.startswith("POST http://127.0.0.1:1/")


@each_call
async def test_a_read_survives_what_a_message_may_not_repeat(connect: Connect, call: Call) -> None:
    """After a loss, a read is answered by the next attempt, and a message is left alone."""
    async with Server(drops_in_body, answers).listening() as server:
        session = connect(server.url)
        if call is read:
            await call(session)
        else:
            await fail_after_the_write(session, call)
        assert len(server.received) == (2 if call is read else 1)


@each_call
async def test_an_idle_connection_that_the_server_has_closed(connect: Connect, call: Call) -> None:
    """It is not used again, and the next call goes over a new one."""

    async def answers_and_closes(writer: Writer) -> None:
        await answers(writer)
        writer.close()

    async with Server(answers_and_closes).listening() as server:
        session = connect(server.url)
        for _ in range(3):
            await call(session)
            await _pass()
        assert len(server.received) == server.connections == 3


async def _pass() -> None:
    """Let what has happened on loopback be noticed."""
    for _ in range(20):
        await asyncio.sleep(0)


@each_message
async def test_a_connection_that_the_server_closes_under_a_message(
    connect: Connect, call: Call
) -> None:
    """A message written on a connection that had served before is not written again on another."""
    async with Server(answers, drops).listening() as server:
        session = connect(server.url)
        await call(session)
        await fail_after_the_write(session, call)
        assert len(server.received) == 2
        assert server.connections == 1


# Sessions of the caller's that would repeat, or hide, an exchange


async def _retries(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
    for _ in range(2):
        try:
            response: aiohttp.ClientResponse = await handler(request)
        except aiohttp.ClientError:
            continue
        if response.ok:
            return response
    last: aiohttp.ClientResponse = await handler(request)
    return last


@pytest.mark.parametrize("behaviour", [fails, drops, drops_in_body, answers], ids=_name)
@each_message
async def test_a_session_of_the_callers_that_retries(
    connect: Connect, call: Call, behaviour: Behaviour
) -> None:
    """Its middlewares and its raise_for_status do not reach a message: it is written once."""
    async with (
        Server(behaviour).listening() as server,
        aiohttp.ClientSession(
            middlewares=(_retries,), raise_for_status=True, headers={"X-Team": "orders"}
        ) as http,
    ):
        session = connect(server.url, http=http)
        if behaviour is answers:
            await call(session)
        else:
            with pytest.raises(OutcomeUnknown) as caught:
                await call(session)
            check_nothing_of_aiohttp(caught.value)
            is_answer = behaviour is fails
            assert type(caught.value.cause) is (ServerError if is_answer else TransportError)
        assert len(server.received) == 1


@pytest.mark.parametrize("behaviour", [drops, hangs], ids=_name)
async def test_a_session_of_the_callers_that_expects_to_continue(
    connect: Connect, behaviour: Behaviour
) -> None:
    """With "Expect: 100-continue" sent along, the head of a POST of length 0 is all of it."""
    async with (
        Server(behaviour).listening() as server,
        aiohttp.ClientSession(headers={"Expect": "100-continue"}) as http,
    ):
        with pytest.raises((OutcomeUnknown, TransportError)) as caught:
            await message_without_body(
                connect(server.url, http=http, timeout=patience(_name(behaviour)))
            )
        assert len(server.received) == 1
        assert type(caught.value) is OutcomeUnknown


HOOKS = [
    "on_request_start",
    "on_connection_create_start",
    "on_connection_create_end",
    "on_request_headers_sent",
    "on_request_chunk_sent",
    "on_response_chunk_received",
    "on_request_end",
]


@pytest.mark.parametrize("hook", HOOKS)
@each_message
async def test_a_trace_config_that_raises(connect: Connect, call: Call, hook: str) -> None:
    """Whatever it raises and wherever, a message is written at most once, and told rightly."""

    async def raise_(*_: object) -> None:
        raise LookupError(hook)

    trace = aiohttp.TraceConfig()
    getattr(trace, hook).append(raise_)
    async with (
        Server(answers).listening() as server,
        aiohttp.ClientSession(trace_configs=[trace]) as http,
    ):
        with pytest.raises((OutcomeUnknown, TransportError)) as caught:
            await call(connect(server.url, http=http))
        check_nothing_of_aiohttp(caught.value)
        assert len(server.received) <= isinstance(caught.value, OutcomeUnknown)
        is_late = hook in HOOKS[HOOKS.index("on_request_chunk_sent") :]
        assert isinstance(caught.value, OutcomeUnknown) == is_late


@each_call
async def test_a_redirect_is_not_followed(connect: Connect, call: Call) -> None:
    """Not even one that asks for the same request at another address."""

    async def redirects(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 307 There\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n")

    async with Server(redirects).listening() as server, aiohttp.ClientSession() as http:
        with pytest.raises(MessagingError, match="a redirect, which is not followed"):
            await call(connect(server.url, http=http))
        assert len(server.received) == 1
