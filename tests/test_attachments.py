"""Files on their way to Amazon: what is read and refused here, and how it is put."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen

from sp_messaging_async import (
    ApiError,
    Attachment,
    BadRequest,
    CreateConfirmCustomizationDetailsRequest,
    CreateWarrantyRequest,
    Forbidden,
    InvalidMessage,
    InvoiceRequest,
    LocalFile,
    LocalThrottle,
    MessageRequest,
    NotFound,
    PayloadTooLarge,
    PlanKey,
    PlanWaitExceeded,
    RetryPolicy,
    ServerError,
    Throttled,
    TransportError,
    attachments,
    codec,
)
from sp_messaging_async.attachments import Files, FileToUpload
from sp_messaging_async.models import (
    MAX_ATTACHMENT_BYTES,
    CreateUploadDestinationResponse,
    UploadDestination,
)
from sp_messaging_async.operations import MESSAGING, UPLOAD, Operation, by_request
from sp_messaging_async.sandbox import Fault, Sandbox
from sp_messaging_async.transport import Transport

from .conftest import AT_ONCE, FAST, ORDER, Open, requests_of_every_kind


def _finding(error: InvalidMessage) -> tuple[str, str]:
    (finding,) = error.findings
    return finding.field, finding.reason


# Reading


@pytest.mark.parametrize("size", [1, MAX_ATTACHMENT_BYTES])
@pytest.mark.parametrize("of", ["path", "content"])
async def test_a_file_that_is_read(tmp_path: Path, of: str, size: int) -> None:
    """Name, size and MD5 are told of a file of any size up to Amazon's limit."""
    content = b"x" * size
    path = tmp_path / "invoice.pdf"
    path.write_bytes(content)
    source, name = (path, None) if of == "path" else (content, "invoice.pdf")
    file = await attachments.read(source, name)
    assert (file.name, file.size) == ("invoice.pdf", size)
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    assert file.md5 == base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("size", "reason"),
    [(0, "is empty"), (MAX_ATTACHMENT_BYTES + 1, "is larger than the 10,000,000 bytes")],
)
@pytest.mark.parametrize("of", ["path", "content"])
async def test_a_size_that_amazon_refuses(tmp_path: Path, of: str, size: int, reason: str) -> None:
    """An empty file, and one over Amazon's limit, are refused before anything is sent."""
    path = tmp_path / "invoice.pdf"
    path.write_bytes(b"x" * size)
    source, name = (path, None) if of == "path" else (path.read_bytes(), "invoice.pdf")
    with pytest.raises(InvalidMessage) as caught:
        await attachments.read(source, name)
    name, why = _finding(caught.value)
    assert name == "attachments"
    assert "invoice.pdf" in why
    assert reason in why


@pytest.mark.parametrize(
    "name", ["a.txt", "a.pdf", "a.doc", "a.docx", "a.jpg", "a.jpeg", "a.gif", "a.png", "ä b.v2.PDF"]
)
async def test_types_that_amazon_takes(tmp_path: Path, name: str) -> None:
    """Text, PDF, Word and pictures are taken, whatever the case of their ending."""
    (tmp_path / name).write_bytes(b"x")
    assert (await attachments.read(tmp_path / name)).name == name
    assert (await attachments.read(str(tmp_path / name))).name == name
    assert (await attachments.read(b"x", name)).name == name


@pytest.mark.parametrize(
    "name", ["a.exe", "a.zip", "a.html", "a.svg", "a.pdf.exe", "a.pdf.", "pdf", ".pdf", "a"]
)
async def test_types_that_amazon_refuses(tmp_path: Path, name: str) -> None:
    """Any other ending is refused, with the list of those that Amazon takes."""
    (tmp_path / name).write_bytes(b"x")
    for read in (attachments.read(tmp_path / name), attachments.read(b"x", name)):
        with pytest.raises(InvalidMessage, match=r"\.txt \.pdf \.doc") as caught:
            await read
        assert _finding(caught.value)[0] == "file_name"


async def test_a_file_under_another_name(tmp_path: Path) -> None:
    """The name that the buyer sees decides over the type, and not the one on disk."""
    (tmp_path / "0001.bin").write_bytes(b"x")
    assert (await attachments.read(tmp_path / "0001.bin", "invoice.pdf")).name == "invoice.pdf"
    (tmp_path / "a.pdf").write_bytes(b"x")
    with pytest.raises(InvalidMessage, match=r"a\.exe"):
        await attachments.read(tmp_path / "a.pdf", "a.exe")


@pytest.mark.parametrize("name", [None, "", "  ", 7, b"a.pdf", ["a.pdf"]], ids=repr)
async def test_content_without_a_name(name: Any) -> None:
    """Content has no name of its own, and the error names the argument that must give one."""
    with pytest.raises(InvalidMessage) as caught:
        await attachments.read(b"x", name)
    assert _finding(caught.value)[0] == "file_name"


@pytest.mark.parametrize("source", [None, 7, ["a.pdf"]], ids=repr)
async def test_a_source_that_is_none(source: Any) -> None:
    """What is neither path nor content is refused by its type."""
    with pytest.raises(InvalidMessage, match=type(source).__name__):
        await attachments.read(source, "a.pdf")


async def test_content_that_changes_later() -> None:
    """What is put is the content at the time of the call."""
    content: Any = bytearray(b"a file")
    file = await attachments.read(content, "a.txt")
    content[:] = b"edited"
    async with receiver() as host:
        await _put(file, host)
        assert host.requests[0].body == b"a file"


def _missing(path: Path) -> Path:
    return path / "none.pdf"


def _inside_a_file(path: Path) -> Path:
    (path / "file").write_bytes(b"x")
    return path / "file" / "a.pdf"


def _name_too_long(path: Path) -> Path:
    return path / ("x" * 300 + ".pdf")


def _with_nul(path: Path) -> Path:
    return path / "a\0b.pdf"


def _loop_of_links(path: Path) -> Path:
    (path / "loop.pdf").symlink_to(path / "loop.pdf")
    return path / "loop.pdf"


def _dangling_link(path: Path) -> Path:
    (path / "link.pdf").symlink_to(path / "none")
    return path / "link.pdf"


def _folder(path: Path) -> Path:
    (path / "folder.pdf").mkdir()
    return path / "folder.pdf"


def _device(path: Path) -> Path:
    (path / "null.pdf").symlink_to(os.devnull)
    return path / "null.pdf"


@pytest.mark.parametrize(
    "make",
    [
        _missing,
        _inside_a_file,
        _name_too_long,
        _with_nul,
        _loop_of_links,
        _dangling_link,
        _folder,
        _device,
    ],
)
async def test_a_path_that_cannot_be_read(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Whatever stands in the way, the error names the path, when reading and when checking."""
    path = make(tmp_path)
    with pytest.raises(InvalidMessage) as caught:
        await attachments.read(path)
    name, reason = _finding(caught.value)
    assert name == "attachments"
    assert str(path) in reason
    with pytest.raises(InvalidMessage) as checked:
        attachments.check_all([path])
    assert checked.value.findings == caught.value.findings


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
async def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A named pipe that nobody writes to is refused at once, as it is no file."""
    path = tmp_path / "pipe.pdf"
    os.mkfifo(path)
    reading = asyncio.create_task(attachments.read(path))
    was_opened = False
    while not reading.done():
        await asyncio.sleep(0.001)
        with contextlib.suppress(OSError):  # as long as nobody has opened it for reading
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            was_opened = True
    with pytest.raises(InvalidMessage, match="no file"):
        await reading
    assert not was_opened


async def _ticks_until(work: asyncio.Future[Any]) -> int:
    """How often the event loop comes round until something is done."""
    ticks = 0
    while not work.done():
        await asyncio.sleep(0)
        ticks += 1
    return ticks


# Work in the event loop itself takes a few rounds, however long each is; work in a thread hundreds.
FEW = 20


@pytest.mark.parametrize("of", ["path", "content"])
async def test_reading_a_large_file_does_not_block(tmp_path: Path, of: str) -> None:
    """The event loop goes on while a file, or content, is read and digested."""
    content = b"x" * MAX_ATTACHMENT_BYTES
    path = tmp_path / "large.pdf"
    path.write_bytes(content)
    source = path if of == "path" else content
    reading = asyncio.create_task(attachments.read(source, "large.pdf"))
    assert await _ticks_until(reading) > FEW
    await reading


async def test_reading_it_again_does_not_block(tmp_path: Path) -> None:
    """The event loop goes on too while a file is held against what was read before."""
    path = tmp_path / "large.pdf"
    path.write_bytes(b"x" * MAX_ATTACHMENT_BYTES)
    file = await attachments.read(path)
    path.write_bytes(b"y" * MAX_ATTACHMENT_BYTES)  # so that it is read, and not put
    async with receiver() as host:
        putting = asyncio.create_task(_put(file, host))
        assert await _ticks_until(putting) > FEW
        with pytest.raises(InvalidMessage):
            await putting


# Putting: a host that notes what it is sent


@frozen
class Request:
    """A request as it came over the wire."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes


@define
class Receiver:
    """A host for files. It answers each request with the next of `statuses`, and then with 200.

    A status of 0 drops the connection, and one of -1 never answers.
    """

    url: str
    statuses: list[int] = field(factory=list)
    requests: list[Request] = field(factory=list)
    closing: asyncio.Event = field(factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await _request(reader))
            status = self.statuses.pop(0) if self.statuses else 200
            if status < 0:
                await self.closing.wait()
            elif status > 0:
                writer.write(_answer(status))
                await writer.drain()
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *rest = head.rstrip().split("\r\n")
    headers = [(name, value) for name, _, value in (header.partition(": ") for header in rest)]
    length = int(dict(headers).get("Content-Length", 0))
    return Request(line, headers, await reader.readexactly(length))


def _answer(status: int) -> bytes:
    location = "Location: /elsewhere\r\n" if 300 <= status < 400 else ""
    head = f"HTTP/1.1 {status} Status\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n"
    return head.encode()


@contextlib.asynccontextmanager
async def receiver(*statuses: int) -> AsyncIterator[Receiver]:
    """A host for files on a loopback port."""
    host = Receiver("", list(statuses))
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    host.url = f"http://127.0.0.1:{port}"
    async with server:
        yield host
        host.closing.set()


PRESIGNED = "/b%2Fk/a%20b%7E~;x?X-Amz-Credential=AKIA%2F2026%2fs3&a=b+c%2B&X-Amz-Signature=0%3D=&e"


async def _put(
    file: FileToUpload,
    host: Receiver,
    headers: dict[str, str] | None = None,
    retry: RetryPolicy = AT_ONCE,
    timeout: float = 20,
) -> None:
    destination = UploadDestination("sc/0", host.url + PRESIGNED, headers or {})
    await _put_at(file, destination, retry, timeout)


async def _put_at(
    file: FileToUpload,
    destination: UploadDestination,
    retry: RetryPolicy = AT_ONCE,
    timeout: float = 20,
) -> None:
    transport = Transport()
    try:
        await attachments.put(ORDER, file, destination, transport, retry, timeout, asyncio.sleep)
    finally:
        await transport.aclose()


AIOHTTPS = {"Host", "Accept", "Accept-Encoding", "User-Agent", "Content-Length"}


@pytest.mark.parametrize("size", [1, 2**20, 2**20 + 1, MAX_ATTACHMENT_BYTES])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg==", "x-amz-server-side-encryption": "aws:kms"},
        {"content-type": "application/pdf", "X-Amz-Meta-Odd": 'a  b; c="d"'},
    ],
    ids=len,
)
async def test_what_is_put(size: int, headers: dict[str, str]) -> None:
    """The bytes go to the very address that was given, with its headers, a length, and no more."""
    content = os.urandom(size)
    file = await attachments.read(content, "a.pdf")
    async with receiver() as host:
        await _put(file, host, headers)
        (request,) = host.requests
    assert request.line == f"PUT {PRESIGNED} HTTP/1.1"
    assert dict(request.headers)["Content-Length"] == str(size)
    assert request.body == content
    assert {pair for pair in request.headers if pair[0] not in AIOHTTPS} == set(headers.items())
    assert len({name.lower() for name, _ in request.headers}) == len(request.headers)


async def test_a_destination_with_null_headers() -> None:
    """Amazon's null for headers is the same as none."""
    answer = {"payload": {"uploadDestinationId": "sc/0", "url": "https://a.test", "headers": None}}
    decoded = codec.decode(answer, CreateUploadDestinationResponse)
    assert decoded.payload.headers == {}
    file = await attachments.read(b"a file", "a.pdf")
    async with receiver() as host:
        await _put(file, host, dict(decoded.payload.headers))
        assert {name for name, _ in host.requests[0].headers} == AIOHTTPS


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_a_put_that_is_taken(status: int) -> None:
    """Any success is one, whatever its body."""
    file = await attachments.read(b"a file", "a.pdf")
    async with receiver(status, 500) as host:
        await _put(file, host)
        assert len(host.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, -1, 0])
async def test_a_put_that_is_tried_again(status: int) -> None:
    """A failure that may pass is met by the same PUT again, to the same address."""
    file = await attachments.read(b"a file", "a.pdf")
    # By itself aiohttp repeats a PUT once whose connection was dropped.
    statuses = [0, 0] if status == 0 else [status]
    async with receiver(*statuses) as host:
        await _put(file, host, timeout=0.5 if status < 0 else 20)
        assert len(host.requests) == len(statuses) + 1
        assert {request.line for request in host.requests} == {f"PUT {PRESIGNED} HTTP/1.1"}
        assert {request.body for request in host.requests} == {b"a file"}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, ApiError),
        (303, ApiError),
        (307, ApiError),
        (400, BadRequest),
        (403, Forbidden),
        (404, NotFound),
        (409, ApiError),
        (412, ApiError),
        (413, PayloadTooLarge),
    ],
)
async def test_a_put_that_is_refused(status: int, error: type[ApiError]) -> None:
    """A refusal is final and typed, and no redirect is followed."""
    file = await attachments.read(b"a file", "a.pdf")
    async with receiver(status) as host:
        with pytest.raises(ApiError) as caught:
            await _put(file, host)
        assert len(host.requests) == 1
    assert type(caught.value) is error
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("status", "error"), [(429, Throttled), (503, ServerError), (0, TransportError)]
)
async def test_a_put_that_fails_every_time(status: int, error: type[Exception]) -> None:
    """When the attempts are used up the last error is raised."""
    file = await attachments.read(b"a file", "a.pdf")
    async with receiver(*[status] * 9) as host:
        with pytest.raises(error):
            await _put(file, host, retry=RetryPolicy(attempts=3, base_delay=0))
        assert len(host.requests) == (6 if status == 0 else 3)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "put?a",
        "/put?a",
        "http:///put",
        "ftp://127.0.0.1/put",
        "http://127.0.0.1:x/put",
        "http://127.0.0.1:99999/put",
        "http://[::1/put",
    ],
)
async def test_an_address_that_cannot_be_used(address: str) -> None:
    """What is no address is final at once, and the error says that this is what is wrong."""
    file = await attachments.read(b"a file", "a.pdf")
    with pytest.raises(TransportError, match=r"the address .* cannot be used") as caught:
        await _put_at(file, UploadDestination("sc/0", address))
    assert not caught.value.repeatable


async def test_a_host_that_refuses_connections() -> None:
    """A PUT that found nobody at the address says so, and does not name the address."""
    file = await attachments.read(b"a file", "a.pdf")
    async with receiver() as host:
        pass
    with pytest.raises(TransportError, match="ECONNREFUSED") as caught:
        await _put(file, host)
    assert "127.0.0.1" not in str(caught.value)


# Files that change


def _edited(path: Path) -> None:
    path.write_bytes(b"a life")


def _grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"!")


def _grown_too_large(path: Path) -> None:
    os.truncate(path, MAX_ATTACHMENT_BYTES + 1)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _deleted(path: Path) -> None:
    path.unlink()


def _replaced(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = [_edited, _grown, _grown_too_large, _emptied, _deleted, _replaced]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_changes_before_it_is_put(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """A file that is no longer what was read is not put, and the error names it."""
    path = tmp_path / "a.pdf"
    path.write_bytes(b"a file")
    file = await attachments.read(path)
    change(path)
    async with receiver() as host:
        with pytest.raises(InvalidMessage, match=r"a\.pdf") as caught:
            await _put(file, host)
        assert host.requests == []
    assert _finding(caught.value)[0] == "attachments"


async def test_a_file_that_is_only_touched(tmp_path: Path) -> None:
    """What counts is the content, and not the time on the file."""
    path = tmp_path / "a.pdf"
    path.write_bytes(b"a file")
    file = await attachments.read(path)
    os.utime(path, (0, 0))
    async with receiver() as host:
        await _put(file, host)
        assert host.requests[0].body == b"a file"


class Meddler(LocalThrottle):
    """A throttle that lets every call go, and changes a file before its upload."""

    def __init__(self, meddle: Callable[[], None]) -> None:
        super().__init__(FAST, headroom=0)
        self._meddle = meddle

    async def acquire(self, key: PlanKey, *, again: bool = False) -> None:
        if key.operation == UPLOAD.name:
            self._meddle()
        await super().acquire(key, again=again)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_changes_during_the_send(
    sandbox: Sandbox, open_session: Open, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """The message is refused, and nothing of it reaches the buyer."""
    path = tmp_path / "a.pdf"
    path.write_bytes(b"a file")
    session = open_session(throttle=Meddler(lambda: change(path)))
    with pytest.raises(InvalidMessage, match=r"a\.pdf"):
        await session.send(ORDER, InvoiceRequest([LocalFile(path)]))
    assert sandbox.delivered == []


# Sizes


def test_files_that_are_too_large_together(tmp_path: Path) -> None:
    """Checking files looks at their sum, too."""
    paths = [tmp_path / "a.pdf", tmp_path / "b.pdf"]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(5_000_001)
        attachments.check_all([path])
    with pytest.raises(InvalidMessage, match="come to 10,000,002 bytes; Amazon takes 10,000,000"):
        attachments.check_all(paths)


@pytest.mark.parametrize(("size", "is_refused"), [(4_000_000, False), (4_000_001, True)])
def test_the_size_of_all_files(size: int, is_refused: bool) -> None:
    """Files are counted together, those uploaded before among them; unknown sizes count nothing."""
    listed: list[FileToUpload | Attachment] = [
        FileToUpload("a.pdf", b"", size, ""),
        Attachment("sc/0", "b.pdf", size=6_000_000),
        Attachment("sc/1", "c.pdf"),
    ]
    if is_refused:
        with pytest.raises(InvalidMessage, match="10,000,001 bytes"):
            attachments.check_total(listed)
    else:
        attachments.check_total(listed)


# Through the session


WITH_FILES = [row for row in MESSAGING.values() if row.takes_attachments]


def _operation_name(operation: Operation) -> str:
    return operation.name


def _of_kind(operation: Operation, files: list[Attachment]) -> MessageRequest:
    (request,) = [it for it in requests_of_every_kind() if by_request(it) is operation]
    fields: dict[str, Any] = {"attachments": files}
    if operation.takes_text:
        fields["text"] = "See the file."
    return type(request)(**fields)


@pytest.mark.parametrize("operation", WITH_FILES, ids=_operation_name)
async def test_a_file_for_every_kind_of_message(
    sandbox: Sandbox, open_session: Open, operation: Operation
) -> None:
    """A file is uploaded for the kind of message whose class was named, and for no other."""
    session = open_session()
    assert operation.request is not None
    uploaded = await session.upload_attachment(ORDER, operation.request, b"a file", "a.pdf")
    assert (uploaded.file_name, uploaded.size) == ("a.pdf", 6)
    other = next(row for row in WITH_FILES if row is not operation)
    with pytest.raises(BadRequest, match="does not exist"):
        await session.send(ORDER, _of_kind(other, [uploaded]))
    assert sandbox.delivered == []
    await session.send(ORDER, _of_kind(operation, [uploaded]))
    assert [(it.operation, it.files[0].content) for it in sandbox.delivered] == [
        (operation.name, b"a file")
    ]


@pytest.mark.parametrize(
    "request_class",
    [row.request for row in MESSAGING.values() if row.request and not row.takes_attachments],
)
async def test_a_kind_of_message_without_files(
    sandbox: Sandbox, open_session: Open, request_class: type[MessageRequest]
) -> None:
    """A class that takes no attachments is refused before anything is sent."""
    with pytest.raises(InvalidMessage, match="takes no attachments"):
        await open_session().upload_attachment(ORDER, request_class, b"a file", "a.pdf")
    assert sandbox.login.requests == 0


async def test_every_file_is_read_before_the_first_is_uploaded(
    sandbox: Sandbox, open_session: Open, tmp_path: Path
) -> None:
    """A message whose last file cannot be read asks Amazon for nothing."""
    (tmp_path / "a.pdf").write_bytes(b"a file")
    files = [LocalFile(tmp_path / "a.pdf"), LocalFile(tmp_path / "none.pdf")]
    with pytest.raises(InvalidMessage, match=r"none\.pdf"):
        await open_session().send(ORDER, CreateWarrantyRequest(files))
    assert sandbox.login.requests == 0


PASSING = [
    Fault.THROTTLED,
    Fault.INTERNAL_FAILURE,
    Fault.INTERNAL_FAILURE_AFTER,
    Fault.UNAVAILABLE,
    Fault.BAD_GATEWAY,
    Fault.DROPPED,
    Fault.DROPPED_AFTER,
    Fault.CUT_AFTER,
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.name)
@pytest.mark.parametrize("at", [UPLOAD.name, "upload"])
async def test_an_upload_outlives_failures(
    sandbox: Sandbox, open_session: Open, at: str, fault: Fault
) -> None:
    """Neither a failed destination nor a failed PUT fails the message, which arrives once."""
    sandbox.faults.add(fault, fault, operation=at)
    session = open_session()
    uploaded = await session.upload_attachment(ORDER, InvoiceRequest, b"a file", "a.pdf")
    await session.send_invoice(ORDER, InvoiceRequest([uploaded]))
    assert len(sandbox.faults) == 0
    (delivered,) = sandbox.delivered
    assert delivered.files[0].content == b"a file"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.DENIED, Forbidden),
        (Fault.EXPIRED_TOKEN, Forbidden),
        (Fault.HTML_ERROR, BadRequest),
        (Fault.REDIRECT, ApiError),
    ],
    ids=str,
)
async def test_a_refused_put_fails_the_message(
    sandbox: Sandbox, open_session: Open, fault: Fault, error: type[ApiError], tmp_path: Path
) -> None:
    """The error names upload and order, nothing is delivered, no address is tried twice."""
    (tmp_path / "a.pdf").write_bytes(b"a file")
    sandbox.faults.add(*[fault] * 3, operation="upload")
    with pytest.raises(error) as caught:
        await open_session().send(ORDER, InvoiceRequest([LocalFile(tmp_path / "a.pdf")]))
    assert caught.value.operation == UPLOAD.name
    assert caught.value.amazon_order_id == ORDER
    assert len(sandbox.faults) == (1 if error is Forbidden else 2)
    puts = [each.path for each in sandbox.journal.since(0) if each.verb == "PUT"]
    assert len(puts) == len(set(puts)) == 3 - len(sandbox.faults)
    assert sandbox.delivered == []


@pytest.mark.parametrize("at", [UPLOAD.name, "upload"])
async def test_the_attempts_of_an_upload_are_told(
    sandbox: Sandbox, open_session: Open, at: str
) -> None:
    """An error that was met on every attempt says how many there were."""
    sandbox.faults.add(*[Fault.INTERNAL_FAILURE] * 9, operation=at)
    with pytest.raises(ServerError) as caught:
        await open_session().upload_attachment(ORDER, InvoiceRequest, b"a file", "a.pdf")
    assert len(sandbox.faults) == 4
    assert caught.value.attempts == 5


@pytest.mark.parametrize("at", [UPLOAD.name, "upload"])
async def test_the_wait_between_attempts_of_an_upload_is_bounded(
    sandbox: Sandbox, open_session: Open, at: str
) -> None:
    """`max_wait` ends the delay before another attempt, of the PUT as of any other exchange."""
    sandbox.faults.add(Fault.UNAVAILABLE, operation=at)
    slow = RetryPolicy(attempts=5, base_delay=3600, max_delay=3600)
    upload = open_session(retry=slow).upload_attachment(
        ORDER, InvoiceRequest, b"a file", "a.pdf", max_wait=0.1
    )
    with pytest.raises(PlanWaitExceeded):
        # Were it not bounded, this would be the end of it, an hour too early.
        await asyncio.wait_for(upload, 5)


async def test_a_put_has_no_access_token(sandbox: Sandbox, open_session: Open) -> None:
    """The sandbox, as S3, refuses a PUT with a token, and the session's come without."""
    session = open_session()
    await session.get_attributes(ORDER)
    await session.upload_attachment(
        ORDER, CreateConfirmCustomizationDetailsRequest, b"a file", "a.pdf"
    )


# Files that many messages carry


@frozen
class Reads:
    """The paths that were read, in their order."""

    paths: list[str]

    def __call__(self, name: str, source: Path | bytes) -> tuple[FileToUpload, bytes]:
        assert isinstance(source, Path)
        self.paths.append(source.name)
        return _READ(name, source)


_READ = attachments._read


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, as they are."""
    counting = Reads([])
    monkeypatch.setattr(attachments, "_read", counting)
    return counting.paths


def _write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


async def test_a_file_of_many_messages(tmp_path: Path, reads: list[str]) -> None:
    """It is read once, however many come for it, and has the name that each gives it."""
    path = _write(tmp_path, "a.pdf", b"content")
    files = Files()
    found = [await files.read(path, f"{number}.pdf") for number in range(3)]
    found += await asyncio.gather(*(files.read(path, "many.pdf") for _ in range(50)))
    assert reads == ["a.pdf"]
    assert [file.name for file in found[:4]] == ["0.pdf", "1.pdf", "2.pdf", "many.pdf"]
    expected = await attachments.read(path)
    assert {(file.size, file.md5, file.source) for file in found} == {
        (expected.size, expected.md5, b"content")
    }


async def test_readers_of_other_files_do_not_mix(tmp_path: Path, reads: list[str]) -> None:
    """Many who come for many files at once each get theirs, and every file is read once."""
    paths = [_write(tmp_path, f"{number}.pdf", b"%d" % number) for number in range(40)]
    files = Files()
    found = await asyncio.gather(*(files.read(path, path.name) for path in paths * 3))
    assert [file.source for file in found] == [b"%d" % number for number in range(40)] * 3
    assert sorted(reads) == sorted(path.name for path in paths)


async def test_a_reader_that_gives_up(tmp_path: Path, reads: list[str]) -> None:
    """Its cancellation is its own; the others get the file."""
    path = _write(tmp_path, "a.pdf", b"content")
    files = Files()
    first, *others = (asyncio.create_task(files.read(path, "a.pdf")) for _ in range(5))
    await asyncio.sleep(0)
    first.cancel()
    assert {file.source for file in await asyncio.gather(*others)} == {b"content"}
    assert first.cancelled()
    assert len(reads) <= 2


@pytest.mark.parametrize("change", [_edited, _grown])
async def test_a_file_that_has_changed(
    tmp_path: Path, reads: list[str], change: Callable[[Path], None]
) -> None:
    """It is read again, so that nobody is sent what it was before."""
    path = _write(tmp_path, "invoice.pdf", b"before")
    os.utime(path, ns=(0, 0))
    files = Files()
    await files.read(path, "a.pdf")
    change(path)
    found = await files.read(path, "a.pdf")
    assert found.source == path.read_bytes()
    assert len(reads) == 2
    assert found.md5 == (await attachments.read(path)).md5


@pytest.mark.parametrize("change", [_emptied, _deleted, _replaced, _grown_too_large])
async def test_a_file_that_has_become_unfit(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """It is refused, though what it was before is known."""
    path = _write(tmp_path, "invoice.pdf", b"before")
    os.utime(path, ns=(0, 0))
    files = Files()
    await files.read(path, "a.pdf")
    change(path)
    for _ in range(2):
        with pytest.raises(InvalidMessage):
            await files.read(path, "a.pdf")


async def test_room_for_files(tmp_path: Path, reads: list[str]) -> None:
    """The longest unused go first when room runs out; what has none is put from the disk."""
    names = ["a.pdf", "b.pdf", "c.pdf"]
    a, b, c = (_write(tmp_path, name, name[:1].encode() * 4) for name in names)
    large = _write(tmp_path, "large.pdf", b"x" * 11)
    files = Files(room=10)
    for path in (a, b, a, c):  # which b has to go for
        assert (await files.read(path, "x.pdf")).source == path.read_bytes()
    assert reads == names
    await files.read(a, "x.pdf")
    await files.read(c, "x.pdf")
    assert reads == names
    assert (await files.read(large, "x.pdf")).source == large
    await files.read(b, "x.pdf")  # for a
    await files.read(c, "x.pdf")
    assert reads == [*names, "large.pdf", "b.pdf"]
    await files.read(a, "x.pdf")
    assert reads[-1] == "a.pdf"


async def test_room_is_bounded(tmp_path: Path) -> None:
    """However many files there are, no more of them is kept than there is room for."""
    files = Files(room=100)
    for number in range(60):
        await files.read(_write(tmp_path, f"{number}.pdf", b"x" * (number % 30 + 1)), "x.pdf")
        kept = [file.source for file in files._kept.values()]
        assert sum(len(source) for source in kept if isinstance(source, bytes)) <= 100
        assert files._left == 100 - sum(file.size for file in files._kept.values())


async def test_no_room(tmp_path: Path, reads: list[str]) -> None:
    """Without room nothing is kept, and the content stays on the disk until it is put."""
    path = _write(tmp_path, "a.pdf", b"content")
    files = Files(room=0)
    assert [(await files.read(path, "a.pdf")).source for _ in range(2)] == [path, path]
    assert len(reads) == 2
