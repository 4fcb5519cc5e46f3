"""An asyncio client for Amazon's Selling Partner API for Messaging.

    async with MessagingSession(Credentials.from_env(), marketplace="US") as messaging:
        await messaging.create_confirm_order_details(
            "111-2222222-3333333", CreateConfirmOrderDetailsRequest(text="…")
        )

Every operation is a coroutine, never faster than the usage plan allows, and no buyer is messaged
twice. Errors are described in `sp_messaging_async.errors`.
"""

__version__ = "0.1.0"

import importlib
import typing

from .credentials import Credentials
from .errors import (
    ApiError,
    AuthenticationError,
    BadRequest,
    ConfigurationError,
    Error,
    Finding,
    Forbidden,
    InvalidMessage,
    InvalidOrderList,
    LedgerError,
    MessageNotAvailable,
    MessagingError,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    PlanWaitExceeded,
    Problem,
    RetiredOperationWarning,
    ServerError,
    SessionClosed,
    Throttled,
    TransportError,
    UnsupportedMediaType,
)
from .marketplaces import Endpoint, Marketplace, Region
from .models import (
    Attachment,
    Buyer,
    CreateAmazonMotorsRequest,
    CreateAmazonMotorsResponse,
    CreateConfirmCustomizationDetailsRequest,
    CreateConfirmCustomizationDetailsResponse,
    CreateConfirmDeliveryDetailsRequest,
    CreateConfirmDeliveryDetailsResponse,
    CreateConfirmOrderDetailsRequest,
    CreateConfirmOrderDetailsResponse,
    CreateConfirmServiceDetailsRequest,
    CreateConfirmServiceDetailsResponse,
    CreateDigitalAccessKeyRequest,
    CreateDigitalAccessKeyResponse,
    CreateLegalDisclosureRequest,
    CreateLegalDisclosureResponse,
    CreateNegativeFeedbackRemovalRequest,
    CreateNegativeFeedbackRemovalResponse,
    CreateUnexpectedProblemRequest,
    CreateUnexpectedProblemResponse,
    CreateWarrantyRequest,
    CreateWarrantyResponse,
    GetAttributesResponse,
    GetMessagingActionResponse,
    GetMessagingActionsForOrderResponse,
    GetSchemaResponse,
    InvoiceRequest,
    InvoiceResponse,
    LinkObject,
    LocalFile,
    MessageRequest,
    MessageResponse,
    MessagingAction,
    Schema,
)
from .operations import UsagePlan
from .retry import RetryPolicy
from .session import MessagingSession
from .throttle import LocalThrottle, PlanKey, Throttle

if typing.TYPE_CHECKING:
    from .bulk import Message, Outcome, OutcomeStatus, SendAll, send_all
    from .ledger import Ledger, LedgerRow
    from .sqlite_ledger import SQLiteLedger

__all__ = [
    "ApiError",
    "Attachment",
    "AuthenticationError",
    "BadRequest",
    "Buyer",
    "ConfigurationError",
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
    "CreateWarrantyRequest",
    "CreateWarrantyResponse",
    "Credentials",
    "Endpoint",
    "Error",
    "Finding",
    "Forbidden",
    "GetAttributesResponse",
    "GetMessagingActionResponse",
    "GetMessagingActionsForOrderResponse",
    "GetSchemaResponse",
    "InvalidMessage",
    "InvalidOrderList",
    "InvoiceRequest",
    "InvoiceResponse",
    "Ledger",
    "LedgerError",
    "LedgerRow",
    "LinkObject",
    "LocalFile",
    "LocalThrottle",
    "Marketplace",
    "Message",
    "MessageNotAvailable",
    "MessageRequest",
    "MessageResponse",
    "MessagingAction",
    "MessagingError",
    "MessagingSession",
    "NotFound",
    "Outcome",
    "OutcomeStatus",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "PlanKey",
    "PlanWaitExceeded",
    "Problem",
    "Region",
    "RetiredOperationWarning",
    "RetryPolicy",
    "SQLiteLedger",
    "Schema",
    "SendAll",
    "ServerError",
    "SessionClosed",
    "Throttle",
    "Throttled",
    "TransportError",
    "UnsupportedMediaType",
    "UsagePlan",
    "send_all",
]

# Imported when they are asked for: a service that sends one message at a time needs none of them.
_LATER = {
    "Ledger": "ledger",
    "LedgerRow": "ledger",
    "Message": "bulk",
    "Outcome": "bulk",
    "OutcomeStatus": "bulk",
    "SQLiteLedger": "sqlite_ledger",
    "SendAll": "bulk",
    "send_all": "bulk",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(globals().keys() | _LATER.keys())
