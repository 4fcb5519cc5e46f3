"""An asyncio client for Amazon's Selling Partner API for Messaging.

    async with MessagingSession(Credentials.from_env(), marketplace="US") as messaging:
        await messaging.create_confirm_order_details(
            "111-2222222-3333333", CreateConfirmOrderDetailsRequest(text="…")
        )

Every operation is a coroutine, never faster than the usage plan allows, and no buyer is messaged
twice. Errors are described in `sp_messaging_async.errors`.
"""

__version__ = "0.1.0"

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
    MessageNotAvailable,
    MessagingError,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    PlanWaitExceeded,
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
