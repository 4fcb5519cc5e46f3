"""A message to send, and what became of it."""

from __future__ import annotations

from attrs import field, frozen

from ..errors import MessagingError
from ..events import OutcomeStatus
from ..ledger import status_of
from ..marketplaces import Marketplace
from ..models import MessageRequest, MessageResponse

__all__ = ["Message", "Outcome"]


@frozen
class Message:
    """One message of many.

    amazon_order_id: the order, as in "123-1234567-1234567".
    request: what to send; its class says by which operation.
    marketplace: the order's, if it is another than the session's.
    account: which of several sellers sends it.
    """

    amazon_order_id: str
    request: MessageRequest = field(repr=False)
    marketplace: Marketplace | str | None = None
    account: str | None = None


@frozen
class Outcome:
    """What became of a message.

    status: "sent"; "skipped", as this kind is not available for the order, or was sent before;
        "rejected", as it was refused, here or by Amazon; "unknown", so that nobody may send it
        again unseen; "planned", known to be unsent, so that it may be run again.
    response: Amazon's answer, if it was sent.
    error: why it was not, or is not known to be.
    """

    message: Message
    status: OutcomeStatus
    response: MessageResponse | None = None
    error: MessagingError | None = None

    @classmethod
    def of_error(cls, message: Message, error: MessagingError) -> Outcome:
        """The outcome of a message whose sending raised an error."""
        return cls(message, status_of(error), None, error)
