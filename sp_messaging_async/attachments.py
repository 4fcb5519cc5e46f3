"""Files on their way to Amazon: read and checked here, then put where Amazon said.

Source: "Upload attachments" in the guide to the Messaging API, and the model `uploads_2020-11-01`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import os
import stat
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

from attrs import evolve, field, frozen
from yarl import URL

from . import wire
from .errors import (
    ApiError,
    CallContext,
    Finding,
    InvalidMessage,
    TransportError,
    UnreadableFile,
)
from .models import MAX_ATTACHMENT_BYTES, Attachment, LocalFile, UploadDestination, refuse
from .operations import UPLOAD
from .retry import RetryPolicy, Verdict, judge
from .transport import Transport

__all__ = ["FileToUpload", "Files", "check_all", "check_total", "put", "read"]


End: TypeAlias = wire.HttpAnswer | TransportError | ApiError


@frozen
class FileToUpload:
    """A file that was read and found fit. Its content stays on disk until it is put.

    name: what the buyer sees.
    source: its path, or its content, which then is what was read.
    size: in bytes.
    md5: base64 of the 16 raw bytes, which is how Amazon asks for it.
    """

    name: str
    source: Path | bytes = field(repr=False)
    size: int
    md5: str = field(repr=False)


async def read(
    source: str | os.PathLike[str] | bytes, file_name: str | None = None
) -> FileToUpload:
    """A file, read without stalling the event loop.

    source: the file's path, or its content, which needs a `file_name`.

    Raises InvalidMessage for a file that cannot be read, is empty, is larger than Amazon takes, or
    is of a type that Amazon refuses.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        if file_name is None:
            raise refuse("file_name", "is missing; content alone has no name to show the buyer")
        name = LocalFile("content", file_name).file_name
        return await asyncio.to_thread(_checked, name, bytes(source))
    file = LocalFile(source) if file_name is None else LocalFile(source, file_name)
    return await asyncio.to_thread(_checked, file.file_name, file.path)


class Files:
    """Reads files that many messages carry: each once, unless it has changed meanwhile.

    room: bytes of content kept at most; what finds none is read once more when it is put.
    follows_links: False where paths were followed before, so that one which has become a link
        leads elsewhere than was looked at.
    """

    def __init__(self, room: int = 64 * 2**20, *, follows_links: bool = True) -> None:
        self._room = self._left = room
        self._follows_links = follows_links
        self._kept: OrderedDict[object, FileToUpload] = OrderedDict()
        # Who comes for a file that is being read waits for it. A lock for each would be many.
        self._locks = [asyncio.Lock() for _ in range(16)]

    async def read(self, path: Path, file_name: str) -> FileToUpload:
        """A file, read without stalling the event loop. Raises InvalidMessage as `read` does."""
        async with self._locks[hash(path) % len(self._locks)]:
            await asyncio.to_thread(_check_place, path, self._follows_links)
            version = await asyncio.to_thread(_version, path)
            if version not in self._kept:
                file, content = await asyncio.to_thread(_read, file_name, path)
                return self._keep(version, file, content)
            self._kept.move_to_end(version)
            return evolve(self._kept[version], name=file_name)

    def _keep(self, version: object, file: FileToUpload, content: bytes) -> FileToUpload:
        """The file with its content, if there is room once the longest unused have gone."""
        if len(content) > self._room:
            return file
        while len(content) > self._left:
            _, oldest = self._kept.popitem(last=False)
            self._left += oldest.size
        self._left -= len(content)
        self._kept[version] = evolve(file, source=content)
        return self._kept[version]


def _check_place(path: Path, follows_links: bool) -> None:
    try:
        is_as_it_was = follows_links or path.resolve() == path
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not is_as_it_was:
        raise refuse("attachments", f"{path} leads elsewhere than when the list was read")


def _version(path: Path) -> object:
    """What changes when a file does."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _checked(name: str, source: Path | bytes) -> FileToUpload:
    return _read(name, source)[0]


def _read(name: str, source: Path | bytes) -> tuple[FileToUpload, bytes]:
    content = _content(source)
    if not content:
        raise refuse("attachments", f"{name} is empty")
    _check_size(name, len(content))
    return FileToUpload(name, source, len(content), _md5(content)), content


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def check_all(paths: Iterable[Path]) -> None:
    """Raise InvalidMessage, as sending would, for files that one message cannot carry."""
    _check_sum(sum(map(_size_of, paths)))


def _size_of(path: Path) -> int:
    """The size in bytes of a file that could be attached."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # asked first: to open a pipe could wait forever
            raise refuse("attachments", f"{path} is no file")
        with path.open("rb"):
            pass
    except InvalidMessage:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not status.st_size:
        raise refuse("attachments", f"{path} is empty")
    _check_size(path.name, status.st_size)
    return status.st_size


def check_total(files: Iterable[FileToUpload | Attachment]) -> None:
    """Refuse files that together are larger than Amazon takes for one message."""
    _check_sum(sum(file.size or 0 for file in files))


def _check_sum(total: int) -> None:
    if total > MAX_ATTACHMENT_BYTES:
        limit = f"{MAX_ATTACHMENT_BYTES:,} bytes"
        raise refuse("attachments", f"come to {total:,} bytes; Amazon takes {limit} a message")


def _content(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    _size_of(source)
    try:
        with source.open("rb") as file:
            return file.read(MAX_ATTACHMENT_BYTES + 1)
    except OSError as error:
        raise _unreadable(source, error) from None


def _unchanged(file: FileToUpload) -> bytes:
    if isinstance(file.source, bytes):
        return file.source
    content = _content(file.source)
    if _md5(content) != file.md5:
        reason = f"{file.name} was changed while it was being sent"
        raise UnreadableFile(Finding("attachments", reason))
    return content


def _unreadable(path: Path, error: Exception) -> UnreadableFile:
    why = error.strerror if isinstance(error, OSError) else None
    reason = f"{path} cannot be read: {why or type(error).__name__}"
    return UnreadableFile(Finding("attachments", reason))


def _check_size(name: str, size: int) -> None:
    if size > MAX_ATTACHMENT_BYTES:
        limit = f"{MAX_ATTACHMENT_BYTES:,} bytes"
        raise refuse("attachments", f"{name} is larger than the {limit} that Amazon takes")


async def put(
    amazon_order_id: str,
    file: FileToUpload,
    destination: UploadDestination,
    transport: Transport,
    retry: RetryPolicy,
    timeout: float,  # noqa: ASYNC109 - of one exchange
    pause: Callable[[float], Awaitable[None]],
    told: Callable[[int, float, End, str], None] | None = None,
) -> None:
    """Put a file where Amazon said, with the headers it gave and no token of Amazon's API.

    pause: waits so many seconds before another attempt, or raises.
    told: is told of each attempt: which, how many seconds it took, its end, and the host.

    Raises TransportError or ApiError when the attempts are used up or repeating cannot help, and
    InvalidMessage for a file that is no longer what was read.
    """
    content = await asyncio.to_thread(_unchanged, file)
    request = wire.HttpRequest("PUT", destination.url, dict(destination.headers), content)
    for attempt in itertools.count(1):
        try:
            if told is None:
                await _exchange(request, transport, timeout)
            else:
                await _told_exchange(request, transport, timeout, partial(told, attempt))
        except (TransportError, ApiError) as error:
            failure = error
            failure.context = CallContext(UPLOAD.name, amazon_order_id, attempt)
        else:
            return
        verdict = judge(failure, messages_buyer=False)
        if attempt >= retry.attempts or verdict in (Verdict.FINAL, Verdict.AGAIN_WITH_NEW_TOKEN):
            raise failure
        await pause(retry.delay(attempt))


async def _exchange(
    request: wire.HttpRequest,
    transport: Transport,
    timeout: float,  # noqa: ASYNC109
) -> wire.HttpAnswer:
    answer = await transport.exchange(request).answer(timeout)
    if not 200 <= answer.status < 300:
        wire.raise_for_status(answer)
    return answer


async def _told_exchange(
    request: wire.HttpRequest,
    transport: Transport,
    timeout: float,  # noqa: ASYNC109
    told: Callable[[float, End, str], None],
) -> None:
    end: End = TransportError("CancelledError", True)  # unless another one comes
    began = perf_counter()
    try:
        end = await _exchange(request, transport, timeout)
    except (TransportError, ApiError) as error:
        end = error
        raise
    finally:
        told(perf_counter() - began, end, _host(request.url))
        del end  # it would hold this frame that holds it


def _host(url: URL | str) -> str:
    """Where an address leads, without the secrets in it."""
    try:
        return str(URL(url).origin())
    except ValueError:
        return ""
