"""What reached the buyers."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import field, frozen

from ..marketplaces import Marketplace
from ..models import MessageRequest

__all__ = ["Delivered", "DeliveredFile", "Inbox"]


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


class Inbox:
    """The last messages; older ones make room for them.

    limit: how many are held.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.delivered: list[Delivered] = []
        self.total = 0
        self.dropped = 0

    def add(self, message: Delivered) -> None:
        """Take a message in."""
        self.total += 1
        self.delivered.append(message)
        if len(self.delivered) > self.limit:
            del self.delivered[0]
            self.dropped += 1

    def since(self, last: int) -> Iterator[tuple[int, Delivered]]:
        """Messages after one, each with its number; numbers begin at 1, and are not used again."""
        first = self.total - len(self.delivered) + 1
        start = max(0, last + 1 - first)
        return enumerate(self.delivered[start:], start=first + start)

    def message(self, number: int) -> Delivered | None:
        """The message of a number, if it is still held."""
        index = number - (self.total - len(self.delivered)) - 1
        return self.delivered[index] if 0 <= index < len(self.delivered) else None

    def clear(self) -> None:
        """Forget all messages."""
        self.delivered.clear()
        self.dropped = 0
