"""The payloads of the Messaging API (and of the upload it needs), under Amazon's names.

Fields are Amazon's in snake_case. Requests check Amazon's limits when they are made and raise
InvalidMessage; answers are taken as they come. Limits: Amazon's model `messaging` of 2025-07;
accepted kinds of file and their total size: Amazon's guide to the Messaging API.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, TypeAlias, cast

from attrs import Attribute, Factory, field, fields, frozen

from .errors import Error, Finding, InvalidMessage

__all__ = [
    "Attachment",
    "Buyer",
    "CreateAmazonMotorsRequest",
    "CreateAmazonMotorsResponse",
    "CreateConfirmCustomizationDetailsRequest",
    "CreateConfirmCustomizationDetailsResponse",
    "CreateConfirmDeliveryDetailsRequest",
    "CreateConfirmDeliveryDetailsResponse",
    "CreateConfirmOrderDetailsRequest",
    "CreateConfirmOrderDetailsResponse",
    "CreateConfirmServiceDetailsRequest",
    "CreateConfirmServiceDetailsResponse",
    "CreateDigitalAccessKeyRequest",
    "CreateDigitalAccessKeyResponse",
    "CreateLegalDisclosureRequest",
    "CreateLegalDisclosureResponse",
    "CreateNegativeFeedbackRemovalRequest",
    "CreateNegativeFeedbackRemovalResponse",
    "CreateUnexpectedProblemRequest",
    "CreateUnexpectedProblemResponse",
    "CreateUploadDestinationResponse",
    "CreateWarrantyRequest",
    "CreateWarrantyResponse",
    "GetAttributesResponse",
    "GetMessagingActionResponse",
    "GetMessagingActionsForOrderResponse",
    "GetSchemaResponse",
    "InvoiceRequest",
    "InvoiceResponse",
    "LinkObject",
    "LocalFile",
    "MessageRequest",
    "MessageResponse",
    "MessagingAction",
    "Schema",
    "UploadDestination",
]

MAX_ATTACHMENT_BYTES = 10_000_000  # of all attachments of one message together
FILE_TYPES = {
    ".txt": "text/plain",
    ".pdf": "application/pdf",
    ".doc": "application/msword",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".png": "image/png",
}


# What validators share


def refuse(field_name: str, reason: str, position: int | None = None) -> InvalidMessage:
    """The error for one field of a message."""
    return InvalidMessage(Finding(field_name, reason, position))


def _checked_str(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise refuse(name, f"is a {type(value).__name__}; give a str")
    if not value.isascii() and (half := _HALF.search(value)):
        reason = "holds half of a surrogate pair, which no encoding can send"
        raise refuse(name, reason, half.start() + 1)
    return value


_HALF = re.compile("[\ud800-\udfff]")


def _non_empty(instance: object, attribute: Attribute[str], value: str) -> None:
    if not _checked_str(attribute.name, value).strip():
        raise refuse(attribute.name, "is empty")


def _text_up_to(limit: int) -> Callable[[object, Attribute[str], str], None]:
    def check(instance: object, attribute: Attribute[str], value: str) -> None:
        length = len(_checked_str(attribute.name, value))
        if not value.strip():
            raise refuse(attribute.name, f"is empty; write 1 to {limit} characters")
        if length > limit:
            reason = f"has {length} characters where Amazon takes {limit}; shorten it"
            raise refuse(attribute.name, reason, limit + 1)

    return check


def _aware(instance: object, attribute: Attribute[datetime | None], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, datetime):
        raise refuse(attribute.name, f"is a {type(value).__name__}; give a datetime")
    if value.utcoffset() is None:
        reason = f"{value.isoformat()} has no time zone; give one, such as tzinfo=timezone.utc"
        raise refuse(attribute.name, reason)
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise refuse(attribute.name, f"{value.isoformat()} is a time that UTC has not") from None


def _as_tuple(value: Iterable[Attachment | LocalFile]) -> Attached:
    is_list = isinstance(value, Iterable) and not isinstance(value, str)
    return cast("Attached", tuple(value) if is_list else value)  # if not, the validator says so


def _between(least: int, most: int) -> Callable[[object, Attribute[Attached], Attached], None]:
    def check(instance: object, attribute: Attribute[Attached], value: Attached) -> None:
        if not isinstance(value, tuple) or any(
            not isinstance(item, Attachment | LocalFile) for item in value
        ):
            raise refuse(attribute.name, "is no list of Attachment or LocalFile")
        if not least <= len(value) <= most:
            reason = f"holds {len(value)} where Amazon takes {least} to {most}"
            raise refuse(attribute.name, reason)
        check_total_size(attribute.name, value)

    return check


def check_total_size(field_name: str, attachments: Attached) -> None:
    """Refuse files whose sizes are known and together exceed what Amazon takes."""
    total = sum(item.size or 0 for item in attachments if isinstance(item, Attachment))
    if total > MAX_ATTACHMENT_BYTES:
        reason = f"come to {total:,} bytes; Amazon takes {MAX_ATTACHMENT_BYTES:,} a message"
        raise refuse(field_name, reason)


class _Model:
    """Shows its fields, but for those that are not to be shown.

    One repr for all of them: attrs would make one for each, at a third of what a class costs.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        cls: Any = type(self)
        shown = (item for item in fields(cls) if item.repr)
        values = ", ".join(f"{item.name}={getattr(self, item.name)!r}" for item in shown)
        return f"{cls.__qualname__}({values})"


# Attachments


@frozen(repr=False)
class Attachment(_Model):
    """A file that was uploaded for one order and one kind of message.

    upload_destination_id: what Amazon's upload API called it.
    file_name: the name that the buyer sees.
    size: in bytes where this package uploaded it; never sent, and no part of equality.
    """

    upload_destination_id: str = field(validator=_non_empty)
    file_name: str = field(validator=_non_empty)
    size: int | None = field(default=None, kw_only=True, eq=False, metadata={"sent": False})


def _known_type(instance: object, attribute: Attribute[str], value: str) -> None:
    _non_empty(instance, attribute, value)
    if PurePath(value).suffix.lower() not in FILE_TYPES:
        known = " ".join(FILE_TYPES)
        raise refuse(
            attribute.name, f"{value!r} is of a type that Amazon refuses; it takes {known}"
        )


def _as_path(value: str | os.PathLike[str]) -> Path:
    try:
        return Path(value)
    except TypeError:
        raise refuse("path", f"is a {type(value).__name__}; give a path") from None


@frozen(repr=False)
class LocalFile(_Model):
    """A file on this machine, for a request's `attachments`: the session uploads it with the send.

    path: where the file is.
    file_name: the name that the buyer sees; the path's own unless given.
    """

    path: Path = field(converter=_as_path)
    file_name: str = field(
        default=Factory(lambda self: self.path.name, takes_self=True), validator=_known_type
    )


Attached: TypeAlias = tuple[Attachment | LocalFile, ...]


# Requests, one class for every operation that messages a buyer


@frozen(repr=False)
class CreateConfirmCustomizationDetailsRequest(_Model):
    """Ask about the details of a customization: 1 to 800 characters, 0 to 5 files."""

    text: str = field(validator=_text_up_to(800))
    attachments: Attached = field(default=(), converter=_as_tuple, validator=_between(0, 5))


@frozen(repr=False)
class CreateConfirmDeliveryDetailsRequest(_Model):
    """Arrange a delivery or confirm contact details for it: 1 to 2000 characters."""

    text: str = field(validator=_text_up_to(2000))


@frozen(repr=False)
class CreateLegalDisclosureRequest(_Model):
    """Tell the buyer what the law requires, in 0 to 5 files."""

    attachments: Attached = field(default=(), converter=_as_tuple, validator=_between(0, 5))


@frozen(repr=False)
class CreateNegativeFeedbackRemovalRequest(_Model):
    """Ask the buyer to remove negative feedback. Amazon writes the text; there is no body."""


@frozen(repr=False)
class CreateConfirmOrderDetailsRequest(_Model):
    """Ask the buyer about the order before it ships: 1 to 2000 characters."""

    text: str = field(validator=_text_up_to(2000))


@frozen(repr=False)
class CreateConfirmServiceDetailsRequest(_Model):
    """Arrange a home service: 1 to 2000 characters."""

    text: str = field(validator=_text_up_to(2000))


@frozen(repr=False)
class CreateAmazonMotorsRequest(_Model):
    """Send details of an Amazon Motors purchase, in 0 to 5 files."""

    attachments: Attached = field(default=(), converter=_as_tuple, validator=_between(0, 5))


def _not_before_start(
    instance: CreateWarrantyRequest, attribute: Attribute[datetime | None], end: datetime | None
) -> None:
    _aware(instance, attribute, end)
    start = instance.coverage_start_date
    if start is not None and end is not None and end < start:
        reason = f"{end.isoformat()} lies before coverage_start_date {start.isoformat()}"
        raise refuse(attribute.name, reason)


@frozen(repr=False)
class CreateWarrantyRequest(_Model):
    """Send warranty papers in 1 to 5 files, with the time that they cover (aware datetimes)."""

    attachments: Attached = field(converter=_as_tuple, validator=_between(1, 5))
    coverage_start_date: datetime | None = field(default=None, validator=_aware)
    coverage_end_date: datetime | None = field(default=None, validator=_not_before_start)


@frozen(repr=False)
class CreateDigitalAccessKeyRequest(_Model):
    """Send the key to digital content: 1 to 400 characters, 0 to 5 files."""

    text: str = field(validator=_text_up_to(400))
    attachments: Attached = field(default=(), converter=_as_tuple, validator=_between(0, 5))


@frozen(repr=False)
class CreateUnexpectedProblemRequest(_Model):
    """Tell the buyer of a problem with the order that needs an answer: 1 to 2000 characters."""

    text: str = field(validator=_text_up_to(2000))


@frozen(repr=False)
class InvoiceRequest(_Model):
    """Send the invoice, in 1 to 5 files."""

    attachments: Attached = field(converter=_as_tuple, validator=_between(1, 5))


MessageRequest: TypeAlias = (
    CreateConfirmCustomizationDetailsRequest
    | CreateConfirmDeliveryDetailsRequest
    | CreateLegalDisclosureRequest
    | CreateNegativeFeedbackRemovalRequest
    | CreateConfirmOrderDetailsRequest
    | CreateConfirmServiceDetailsRequest
    | CreateAmazonMotorsRequest
    | CreateWarrantyRequest
    | CreateDigitalAccessKeyRequest
    | CreateUnexpectedProblemRequest
    | InvoiceRequest
)


# Answers to messages: Amazon says no more than that the message was taken


@frozen(repr=False)
class MessageResponse(_Model):
    """Amazon took the message. `errors` is in the model, and never in a success."""

    errors: tuple[Error, ...] = ()


class CreateConfirmCustomizationDetailsResponse(MessageResponse):
    """The answer to confirmCustomizationDetails."""


class CreateConfirmDeliveryDetailsResponse(MessageResponse):
    """The answer to createConfirmDeliveryDetails."""


class CreateLegalDisclosureResponse(MessageResponse):
    """The answer to createLegalDisclosure."""


class CreateNegativeFeedbackRemovalResponse(MessageResponse):
    """The answer to createNegativeFeedbackRemoval."""


class CreateConfirmOrderDetailsResponse(MessageResponse):
    """The answer to createConfirmOrderDetails."""


class CreateConfirmServiceDetailsResponse(MessageResponse):
    """The answer to createConfirmServiceDetails."""


class CreateAmazonMotorsResponse(MessageResponse):
    """The answer to createAmazonMotors."""


class CreateWarrantyResponse(MessageResponse):
    """The answer to createWarranty."""


class CreateDigitalAccessKeyResponse(MessageResponse):
    """The answer to createDigitalAccessKey."""


class CreateUnexpectedProblemResponse(MessageResponse):
    """The answer to createUnexpectedProblem."""


class InvoiceResponse(MessageResponse):
    """The answer to sendInvoice."""


# Answers to reads

Schema: TypeAlias = Mapping[str, object]
"""A JSON schema, as Amazon sends it."""


@frozen(repr=False)
class LinkObject(_Model):
    """A link. Never POST to its `href`: actions are not named as the paths of operations are."""

    href: str
    name: str | None = None


@frozen(repr=False)
class MessagingAction(_Model):
    """The name of a kind of message. Names that this package does not know do occur."""

    name: str


@frozen(repr=False)
class GetSchemaResponseLinks(_Model):
    """Where the schema itself is."""

    self_: LinkObject | None = None


@frozen(repr=False)
class GetSchemaResponse(_Model):
    """What an action's form asks for; Amazon's live form tells `disabled` in it too."""

    links: GetSchemaResponseLinks = field(
        factory=GetSchemaResponseLinks, metadata={"json": "_links"}
    )
    payload: Schema | None = None
    errors: tuple[Error, ...] = ()


@frozen(repr=False)
class GetMessagingActionResponseLinks(_Model):
    """Where the action and its schema are."""

    self_: LinkObject | None = None
    schema: LinkObject | None = None


@frozen(repr=False)
class GetMessagingActionResponseEmbedded(_Model):
    """The action's schema, sent along."""

    schema: GetSchemaResponse | None = None


@frozen(repr=False)
class GetMessagingActionResponse(_Model):
    """One kind of message that may be sent for the order now.

    title: Amazon's words for it, in the live form only.
    """

    links: GetMessagingActionResponseLinks = field(
        factory=GetMessagingActionResponseLinks, metadata={"json": "_links"}
    )
    embedded: GetMessagingActionResponseEmbedded = field(
        factory=GetMessagingActionResponseEmbedded, metadata={"json": "_embedded"}
    )
    payload: MessagingAction | None = None
    title: str | None = None
    errors: tuple[Error, ...] = ()

    @property
    def name(self) -> str | None:
        """The action's name, whichever of its two forms Amazon sent."""
        return self.payload.name if self.payload else None

    @property
    def disabled(self) -> str | None:
        """Amazon's reason why it cannot be sent after all, or None if it can."""
        schema = self.embedded.schema
        form = schema.payload if schema and isinstance(schema.payload, Mapping) else {}
        return str(form.get("disabledReason") or "disabled") if form.get("disabled") else None


@frozen(repr=False)
class GetMessagingActionsForOrderResponseLinks(_Model):
    """The order itself, and a link for every kind of message that may be sent now."""

    self_: LinkObject | None = None
    actions: tuple[LinkObject, ...] = ()


@frozen(repr=False)
class GetMessagingActionsForOrderResponseEmbedded(_Model):
    """The kinds of message that may be sent now, in full."""

    actions: tuple[GetMessagingActionResponse, ...] = ()


@frozen(repr=False)
class GetMessagingActionsForOrderResponse(_Model):
    """Which kinds of message may be sent for the order now."""

    links: GetMessagingActionsForOrderResponseLinks = field(
        factory=GetMessagingActionsForOrderResponseLinks, metadata={"json": "_links"}
    )
    embedded: GetMessagingActionsForOrderResponseEmbedded = field(
        factory=GetMessagingActionsForOrderResponseEmbedded, metadata={"json": "_embedded"}
    )
    errors: tuple[Error, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """What may be sent now, as Amazon calls it here: not always as its operations."""
        listed = {link.name for link in self.links.actions}
        actions = self.embedded.actions
        listed |= {action.name for action in actions}
        unfit = {action.name for action in actions if action.disabled is not None}
        return frozenset(name for name in listed - unfit if name)


@frozen(repr=False)
class Buyer(_Model):
    """The buyer of an order. `locale` is the language to write in, such as "en-US"."""

    locale: str | None = None


@frozen(repr=False)
class GetAttributesResponse(_Model):
    """What Amazon tells of the order's buyer."""

    buyer: Buyer = field(factory=Buyer)
    errors: tuple[Error, ...] = ()


# The upload API's answer


@frozen(repr=False)
class UploadDestination(_Model):
    """Where to put a file. `url` is presigned and good for about 900 seconds: it is a secret."""

    upload_destination_id: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(factory=dict, repr=False)


@frozen(repr=False)
class CreateUploadDestinationResponse(_Model):
    """The answer to createUploadDestinationForResource."""

    payload: UploadDestination
    errors: tuple[Error, ...] = ()
