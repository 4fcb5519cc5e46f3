"""What reached the buyers."""

from __future__ import annotations

from attrs import field, frozen

from ..marketplaces import Marketplace
from ..models import MessageRequest

__all__ = ["Delivered", "DeliveredFile"]


@frozen
class DeliveredFile:
    """An attachment as the buyer gets it. `content` is None for Amazon's static sandbox order."""

    name: str
    content: bytes | None = field(repr=False)


@frozen
class Delivered:
    """One message that reached its buyer.

    operation: Amazon's name.
    seller: the refresh token it was sent with.
    at: the event loop's time, in seconds.
    """

    operation: str
    amazon_order_id: str
    marketplace: Marketplace
    request: MessageRequest
    files: tuple[DeliveredFile, ...]
    seller: str = field(repr=False)
    at: float
