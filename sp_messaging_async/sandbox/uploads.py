"""Upload destinations, and the host that takes the files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping

from aiohttp import hdrs, web
from attrs import define, field, frozen

from ..models import MAX_ATTACHMENT_BYTES
from ..operations import MESSAGING
from .answers import s3_error
from .journal import body_of

__all__ = ["Place", "Uploads", "place_of"]

_EXPIRY = 900  # seconds
_ENCRYPTION = ("x-amz-server-side-encryption", "aws:kms")


@frozen
class Place:
    """What an upload is for: a seller's order and the kind of message, as the path names it."""

    seller: str = field(repr=False)
    amazon_order_id: str
    kind: str


@define
class _Upload:
    place: Place
    md5: str
    path_and_query: str = field(repr=False)
    expires: float
    content: bytes | None = field(default=None, repr=False)


_KINDS = "|".join(row.kind for row in MESSAGING.values() if row.takes_attachments)
_RESOURCE = re.compile(rf"messaging/v1/orders/([^/]+)/messages/({_KINDS})")


def place_of(seller: str, resource: str) -> Place | None:
    """What a resource means, or None if it means nothing that takes attachments."""
    match = _RESOURCE.fullmatch(resource)
    return Place(seller, match[1], match[2]) if match else None


class Uploads:
    """The last files of all sellers.

    clock: tells seconds.
    limit: how many are held; older ones make room.
    """

    def __init__(self, clock: Callable[[], float], limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._uploads: dict[str, _Upload] = {}

    def create(self, base_url: str, place: Place, md5: str) -> dict[str, object]:
        """A new destination, as the API's payload. Raises ValueError for an MD5 that is none."""
        try:
            if len(base64.b64decode(md5, validate=True)) != 16:
                raise ValueError("contentMD5 is not base64 of 16 bytes")
        except binascii.Error:
            raise ValueError("contentMD5 is not base64") from None
        identity = f"sc/{secrets.token_hex(16)}"
        path = _presigned(identity)
        self._uploads[identity] = _Upload(place, md5, path, self._clock() + _EXPIRY)
        if len(self._uploads) > self._limit:
            del self._uploads[next(iter(self._uploads))]
        return {
            "uploadDestinationId": identity,
            "url": base_url + path,
            "headers": {"Content-MD5": md5, _ENCRYPTION[0]: _ENCRYPTION[1]},
        }

    def content(self, identity: str, place: Place) -> bytes | None:
        """A file that was put for this very place, or None."""
        upload = self._uploads.get(identity)
        return upload.content if upload and upload.place == place else None

    def order_of(self, identity: str) -> str | None:
        """The order that an upload is for, by the end of its address."""
        upload = self._uploads.get("sc/" + identity)
        return upload.place.amazon_order_id if upload else None

    async def put(self, request: web.Request) -> web.StreamResponse:
        """`PUT` of a file to its presigned address."""
        upload = self._uploads.get("sc/" + request.match_info["identity"])
        # The address is signed as it stands: one that was encoded anew is another.
        if upload is None or upload.path_and_query != request.raw_path:
            return s3_error(403, "SignatureDoesNotMatch", "The signature does not match.")
        if self._clock() >= upload.expires:
            return s3_error(403, "AccessDenied", "Request has expired")
        refusal = _refused_headers(request.headers, upload)
        if refusal is not None:
            return refusal
        try:
            content = await body_of(request)
        except web.RequestPayloadError:  # it is not in the Content-Encoding that it names
            return s3_error(400, "InvalidRequest", "The content cannot be read.")
        digest = hashlib.md5(content, usedforsecurity=False).digest()
        if base64.b64encode(digest).decode() != upload.md5:
            return s3_error(400, "BadDigest", "The Content-MD5 did not match what was received.")
        upload.content = content
        return web.Response(headers={"ETag": f'"{digest.hex()}"'})


def _presigned(identity: str) -> str:
    return (
        f"/_uploads/{identity.removeprefix('sc/')}?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIASANDBOX%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"
        f"&X-Amz-Date=20260101T000000Z&X-Amz-Expires={_EXPIRY}"
        f"&X-Amz-SignedHeaders=content-md5%3Bhost%3B{_ENCRYPTION[0]}"
        f"&X-Amz-Signature={secrets.token_hex(32)}"
    )


def _refused_headers(headers: Mapping[str, str], upload: _Upload) -> web.Response | None:
    if "x-amz-access-token" in headers:
        return s3_error(400, "InvalidArgument", "Only one auth mechanism is allowed")
    if hdrs.CONTENT_LENGTH not in headers:
        text = "A header you provided implies functionality that is not implemented"
        return s3_error(501, "NotImplemented", text)
    if int(headers[hdrs.CONTENT_LENGTH]) > MAX_ATTACHMENT_BYTES:
        return s3_error(400, "EntityTooLarge", "Your proposed upload is too large")
    signed = {"Content-MD5": upload.md5, _ENCRYPTION[0]: _ENCRYPTION[1]}
    if any(headers.get(name) != value for name, value in signed.items()):
        return s3_error(403, "SignatureDoesNotMatch", "A signed header is missing or differs.")
    return None
