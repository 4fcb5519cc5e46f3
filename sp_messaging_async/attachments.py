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
from collections.abc import Iterable
from pathlib import Path

from attrs import field, frozen

from . import wire
from .errors import ApiError, InvalidMessage, TransportError
from .models import MAX_ATTACHMENT_BYTES, Attachment, LocalFile, UploadDestination, refuse
from .retry import RetryPolicy, Verdict, judge
from .transport import Transport

__all__ = ["FileContent", "check_readable", "check_total", "put", "read"]


@frozen
class FileContent:
    """A file as it will be sent.

    md5: base64 of the 16 raw bytes, which is how Amazon asks for it.
    """

    name: str
    content: bytes = field(repr=False)
    md5: str = field(repr=False)


async def read(source: str | os.PathLike[str] | bytes, file_name: str | None = None) -> FileContent:
    """A file's content, read without stalling the event loop.

    source: the file's path, or its content, which needs a `file_name`.

    Raises InvalidMessage for a file that cannot be read, is empty, is larger than Amazon takes, or
    is of a type that Amazon refuses.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        if file_name is None:
            raise refuse("file_name", "is missing; content alone has no name to show the buyer")
        file, content = LocalFile(file_name, file_name), bytes(source)
    else:
        file = LocalFile(source) if file_name is None else LocalFile(source, file_name)
        content = await asyncio.to_thread(_content, file.path)
    if not content:
        raise refuse("attachments", f"{file.file_name} is empty")
    _check_size(file.file_name, len(content))
    digest = await asyncio.to_thread(hashlib.md5, content, usedforsecurity=False)
    return FileContent(file.file_name, content, base64.b64encode(digest.digest()).decode())


def check_readable(path: Path) -> int:
    """The size in bytes of a file that could be attached. Raises InvalidMessage as `read` does."""
    try:
        status = path.stat()
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise refuse("attachments", f"{path} is no file")
    if not status.st_size:
        raise refuse("attachments", f"{path} is empty")
    _check_size(path.name, status.st_size)
    return status.st_size


def check_total(files: Iterable[FileContent | Attachment]) -> None:
    """Refuse files that together are larger than Amazon takes for one message."""
    total = sum(
        len(file.content) if isinstance(file, FileContent) else file.size or 0 for file in files
    )
    if total > MAX_ATTACHMENT_BYTES:
        limit = f"{MAX_ATTACHMENT_BYTES:,} bytes"
        raise refuse("attachments", f"come to {total:,} bytes; Amazon takes {limit} a message")


def _content(path: Path) -> bytes:
    check_readable(path)
    try:
        with path.open("rb") as file:
            return file.read(MAX_ATTACHMENT_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InvalidMessage:
    why = error.strerror if isinstance(error, OSError) else None
    return refuse("attachments", f"{path} cannot be read: {why or type(error).__name__}")


def _check_size(name: str, size: int) -> None:
    if size > MAX_ATTACHMENT_BYTES:
        limit = f"{MAX_ATTACHMENT_BYTES:,} bytes"
        raise refuse("attachments", f"{name} is larger than the {limit} that Amazon takes")


async def put(
    file: FileContent,
    destination: UploadDestination,
    transport: Transport,
    retry: RetryPolicy,
    timeout: float,  # noqa: ASYNC109 - of one exchange
) -> None:
    """Put a file where Amazon said, with the headers it gave and no token of Amazon's API.

    Raises TransportError or ApiError when the attempts are used up or repeating cannot help.
    """
    request = wire.HttpRequest("PUT", destination.url, destination.headers, file.content)
    for attempt in itertools.count(1):
        try:
            answer = await transport.exchange(request).answer(timeout)
            if 200 <= answer.status < 300:
                return
            wire.raise_for_status(answer)
        except (TransportError, ApiError) as error:
            failure = error
        verdict = judge(failure, messages_buyer=False)
        if attempt >= retry.attempts or verdict in (Verdict.FINAL, Verdict.AGAIN_WITH_NEW_TOKEN):
            raise failure
        await asyncio.sleep(retry.delay(attempt))
