"""What the local Amazon knows of orders: the buyer's language, and what may be sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from attrs import frozen

from ..marketplaces import Marketplace
from ..operations import MESSAGING, Operation

__all__ = ["Order", "Orders"]

_MESSAGES = frozenset(row.name for row in MESSAGING.values() if row.messages_buyer)

# The first language of each of Amazon's shops.
_LANGUAGES = {
    Marketplace.CA: "en-CA",
    Marketplace.US: "en-US",
    Marketplace.MX: "es-MX",
    Marketplace.BR: "pt-BR",
    Marketplace.IE: "en-IE",
    Marketplace.ES: "es-ES",
    Marketplace.UK: "en-GB",
    Marketplace.FR: "fr-FR",
    Marketplace.BE: "nl-BE",
    Marketplace.NL: "nl-NL",
    Marketplace.DE: "de-DE",
    Marketplace.IT: "it-IT",
    Marketplace.SE: "sv-SE",
    Marketplace.ZA: "en-ZA",
    Marketplace.PL: "pl-PL",
    Marketplace.EG: "ar-EG",
    Marketplace.TR: "tr-TR",
    Marketplace.SA: "ar-SA",
    Marketplace.AE: "ar-AE",
    Marketplace.IN: "en-IN",
    Marketplace.SG: "en-SG",
    Marketplace.AU: "en-AU",
    Marketplace.JP: "ja-JP",
}


@frozen
class Order:
    """One order.

    locale: of its buyer, or None for that of the marketplace.
    available: names of the operations that may be sent.
    """

    locale: str | None = None
    available: frozenset[str] = _MESSAGES


class Orders:
    """All orders: any id is one.

    locale: of every buyer about whom nothing was said; None for that of the marketplace.
    changed: called whenever something is said.
    """

    def __init__(self, locale: str | None, changed: Callable[[], None]) -> None:
        self.locale = locale
        self._changed = changed
        self._known: dict[str, Order] = {}

    def set(
        self,
        amazon_order_id: str,
        *,
        locale: str | None = None,
        available: Iterable[str] = _MESSAGES,
    ) -> None:
        """Say what is so of an order, in place of what was said before.

        available: Amazon's names of the operations that may be sent, all unless given. Raises
            ValueError for a name that is none of them.
        """
        names = frozenset(available)
        unknown = sorted(names - _MESSAGES)
        if unknown:
            raise ValueError(f"available: {unknown[0]!r} is no operation that messages a buyer")
        # The one that was set last stands last.
        self._known.pop(amazon_order_id, None)
        self._known[amazon_order_id] = Order(locale, names)
        self._changed()

    def known(self) -> Mapping[str, Order]:
        """The orders about which something was said."""
        return dict(self._known)

    def reset(self) -> None:
        """Forget what was said."""
        self._known.clear()
        self._changed()

    def locale_of(self, amazon_order_id: str, marketplace: Marketplace) -> str:
        """The language of an order's buyer."""
        known = self._known.get(amazon_order_id)
        return (known and known.locale) or self.locale or _LANGUAGES[marketplace]

    def is_available(self, amazon_order_id: str, operation: Operation) -> bool:
        """Whether an operation may be used for an order."""
        known = self._known.get(amazon_order_id)
        return known is None or operation.name in known.available

    def available(self, amazon_order_id: str) -> list[Operation]:
        """What may be sent for an order."""
        names = self._known.get(amazon_order_id, Order()).available
        return [row for row in MESSAGING.values() if row.name in names]
