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

if typing.TYPE_CHECKING:
    from .bulk import Message, Outcome, SendAll, send_all
    from .cluster.postgres_ledger import PostgresLedger
    from .cluster.redis_throttle import RedisThrottle
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
        UnreadableFile,
        UnsupportedMediaType,
    )
    from .events import ExchangeEvent, Hook, LoggingHook, MessageEvent, OutcomeStatus
    from .ledger import Ledger, LedgerRow
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
    from .sqlite_ledger import SQLiteLedger
    from .throttle import LocalThrottle, PlanKey, Throttle

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
    "ExchangeEvent",
    "Finding",
    "Forbidden",
    "GetAttributesResponse",
    "GetMessagingActionResponse",
    "GetMessagingActionsForOrderResponse",
    "GetSchemaResponse",
    "Hook",
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
    "LoggingHook",
    "Marketplace",
    "Message",
    "MessageEvent",
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
    "PostgresLedger",
    "Problem",
    "RedisThrottle",
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
    "UnreadableFile",
    "UnsupportedMediaType",
    "UsagePlan",
    "send_all",
]

# The rooms that these names are in, imported in this order when the first of them is asked for: to
# import the package costs next to nothing, and who only sends never imports what bulk is made of.
_ROOMS = (
    "errors",
    "marketplaces",
    "models",
    "operations",
    "retry",
    "throttle",
    "credentials",
    "events",
    "session",
    "ledger",
    "bulk",
    "sqlite_ledger",
    "cluster.postgres_ledger",
    "cluster.redis_throttle",
)


def __getattr__(name: str) -> object:
    for room in _ROOMS if name in __all__ else ():
        module = importlib.import_module(f".{room}", __name__)
        if name in module.__all__:
            globals()[name] = getattr(module, name)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
