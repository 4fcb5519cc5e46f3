"""The API as one table. Whatever needs a list of operations reads it here.

Sources: Amazon's reference page of the Messaging API, its models `messaging` of 2025-07 (names,
verbs, paths, classes, usage plans) and of 2026-01 (what was retired), and `uploads_2020-11-01`.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from types import MappingProxyType
from typing import Any

from attrs import field, fields_dict, frozen

from . import models
from .errors import ConfigurationError, Finding, InvalidMessage, RetiredOperationWarning
from .models import MessageRequest

__all__ = [
    "MESSAGING",
    "OPERATIONS",
    "UPLOAD",
    "Operation",
    "UsagePlan",
    "by_action",
    "by_request",
    "named",
]


def _positive(instance: object, attribute: Any, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"UsagePlan.{attribute.name} {value!r} is no number")
    if not math.isfinite(value) or value <= 0:
        raise ConfigurationError(f"UsagePlan.{attribute.name} {value!r} must be finite and above 0")


@frozen
class UsagePlan:
    """How often an operation may be called: a token bucket.

    rate: tokens a second.
    burst: the bucket's size in tokens, at least 1.
    """

    rate: float = field(validator=_positive)
    burst: float = field(validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.burst < 1:
            raise ConfigurationError(f"UsagePlan.burst {self.burst!r} must be at least 1")


@frozen(eq=False)
class Operation:
    """One row of the table.

    name: Amazon's name.
    verb: the HTTP verb.
    path: with `{amazonOrderId}` in the place of the order id.
    request: the class of its body, or None where it takes none.
    response: the class of its answer.
    plan: Amazon's default usage plan.
    messages_buyer: whether a repetition could reach a buyer; everything else may be repeated.
    retired_on: when Amazon took it out of its model, or None.
    live_name: of its action in Amazon's live answer, where that is not the last part of its path.
    """

    name: str
    verb: str
    path: str
    request: type[MessageRequest] | None
    response: type[Any]
    plan: UsagePlan = UsagePlan(rate=1, burst=5)
    messages_buyer: bool = True
    retired_on: date | None = None
    live_name: str | None = None

    @property
    def coroutine(self) -> str:
        """The name in snake_case, which is the session's method for it."""
        return re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), self.name)

    @property
    def kind(self) -> str:
        """The last part of the path, which also names the upload resource."""
        return self.path.rpartition("/")[2]

    @property
    def action_names(self) -> frozenset[str]:
        """What getMessagingActionsForOrder may call it."""
        return frozenset(filter(None, (self.kind, self.name, self.live_name)))

    @property
    def takes_text(self) -> bool:
        """Whether its request has a text."""
        return self.request is not None and "text" in fields_dict(self.request)

    @cached_property
    def takes_attachments(self) -> bool:
        """Whether its request has attachments."""
        return self.request is not None and "attachments" in fields_dict(self.request)

    @cached_property
    def has_body(self) -> bool:
        """Whether its request has fields, and so a JSON body."""
        return self.request is not None and bool(fields_dict(self.request))

    @cached_property
    def empty_response(self) -> Any:
        """The answer that says nothing. It cannot be changed, and so there need be one only."""
        return self.response()

    def warn_if_retired(self) -> None:
        """Warn, once in the life of the process, that Amazon has retired the operation."""
        if self.retired_on is None or self.name in _WARNED:
            return
        _WARNED.add(self.name)
        text = f"Amazon took {self.name} out of its model on {self.retired_on}; it may fail any day"
        warnings.warn(text, RetiredOperationWarning, stacklevel=2)


_WARNED: set[str] = set()

_ORDER = "/messaging/v1/orders/{amazonOrderId}"
_MESSAGES = _ORDER + "/messages"

_READS = (
    Operation(
        "getMessagingActionsForOrder",
        "GET",
        _ORDER,
        None,
        models.GetMessagingActionsForOrderResponse,
        messages_buyer=False,
    ),
    Operation(
        "getAttributes",
        "GET",
        f"{_ORDER}/attributes",
        None,
        models.GetAttributesResponse,
        messages_buyer=False,
    ),
)

_SENDS = (
    Operation(
        "confirmCustomizationDetails",
        "POST",
        f"{_MESSAGES}/confirmCustomizationDetails",
        models.CreateConfirmCustomizationDetailsRequest,
        models.CreateConfirmCustomizationDetailsResponse,
    ),
    Operation(
        "createConfirmDeliveryDetails",
        "POST",
        f"{_MESSAGES}/confirmDeliveryDetails",
        models.CreateConfirmDeliveryDetailsRequest,
        models.CreateConfirmDeliveryDetailsResponse,
    ),
    Operation(
        "createLegalDisclosure",
        "POST",
        f"{_MESSAGES}/legalDisclosure",
        models.CreateLegalDisclosureRequest,
        models.CreateLegalDisclosureResponse,
    ),
    Operation(
        "createNegativeFeedbackRemoval",
        "POST",
        f"{_MESSAGES}/negativeFeedbackRemoval",
        models.CreateNegativeFeedbackRemovalRequest,
        models.CreateNegativeFeedbackRemovalResponse,
        retired_on=date(2025, 8, 4),
        live_name="updateFeedback",
    ),
    Operation(
        "createConfirmOrderDetails",
        "POST",
        f"{_MESSAGES}/confirmOrderDetails",
        models.CreateConfirmOrderDetailsRequest,
        models.CreateConfirmOrderDetailsResponse,
    ),
    Operation(
        "createConfirmServiceDetails",
        "POST",
        f"{_MESSAGES}/confirmServiceDetails",
        models.CreateConfirmServiceDetailsRequest,
        models.CreateConfirmServiceDetailsResponse,
    ),
    Operation(
        "createAmazonMotors",
        "POST",
        f"{_MESSAGES}/amazonMotors",
        models.CreateAmazonMotorsRequest,
        models.CreateAmazonMotorsResponse,
        retired_on=date(2026, 1, 30),
    ),
    Operation(
        "createWarranty",
        "POST",
        f"{_MESSAGES}/warranty",
        models.CreateWarrantyRequest,
        models.CreateWarrantyResponse,
    ),
    Operation(
        "createDigitalAccessKey",
        "POST",
        f"{_MESSAGES}/digitalAccessKey",
        models.CreateDigitalAccessKeyRequest,
        models.CreateDigitalAccessKeyResponse,
    ),
    Operation(
        "createUnexpectedProblem",
        "POST",
        f"{_MESSAGES}/unexpectedProblem",
        models.CreateUnexpectedProblemRequest,
        models.CreateUnexpectedProblemResponse,
    ),
    # Neither the page nor the model gives sendInvoice a plan; Amazon's own SDK ships 1 / 5.
    Operation(
        "sendInvoice",
        "POST",
        f"{_MESSAGES}/invoice",
        models.InvoiceRequest,
        models.InvoiceResponse,
        live_name="sendInvoice",
    ),
)

# The model says 10 / 10 and Amazon's SDK 5 / 5: the lower one is right under either.
UPLOAD = Operation(
    "createUploadDestinationForResource",
    "POST",
    "/uploads/2020-11-01/uploadDestinations/{resource}",
    None,
    models.CreateUploadDestinationResponse,
    plan=UsagePlan(rate=5, burst=5),
    messages_buyer=False,
)

MESSAGING: Mapping[str, Operation] = MappingProxyType({row.name: row for row in _READS + _SENDS})
"""The 13 operations of the Messaging API, by Amazon's name."""

OPERATIONS: Mapping[str, Operation] = MappingProxyType({**MESSAGING, UPLOAD.name: UPLOAD})
"""All operations that have a usage plan."""

_BY_REQUEST: dict[type | None, Operation] = {row.request: row for row in _SENDS}
_BY_ANY_NAME = {name: row for row in MESSAGING.values() for name in (row.name, row.coroutine)}


_BY_ACTION = {name: row for row in _SENDS for name in row.action_names}


def by_action(name: str) -> Operation | None:
    """The operation for a name in getMessagingActionsForOrder's answer, or None."""
    return _BY_ACTION.get(name)


def by_request(request: object) -> Operation:
    """The operation that sends a request (or its class). Raises InvalidMessage for others."""
    cls = request if isinstance(request, type) else type(request)
    operation = _BY_REQUEST.get(cls)
    if operation is None:
        known = ", ".join(sorted(row.request.__name__ for row in _SENDS if row.request))
        raise InvalidMessage(Finding("request", f"is a {cls.__name__}; give one of {known}"))
    return operation


def _instead(name: str) -> str:
    import difflib  # here, for it is seldom needed

    lower = {known.lower(): row.name for known, row in _BY_ANY_NAME.items()}
    close = difflib.get_close_matches(name.strip().lower(), lower, n=1, cutoff=0.85)
    if close:
        return f"did you mean {lower[close[0]]}?"
    return f"give one of {', '.join(row.name for row in _SENDS)}"


def named(name: str) -> Operation:
    """The operation of an Amazon name or its snake_case. Raises InvalidMessage if there is none."""
    operation = _BY_ANY_NAME.get(name.strip())
    if operation is None:
        raise InvalidMessage(Finding("operation", f"{name!r} is no operation; {_instead(name)}"))
    return operation
