"""Where Amazon sells, and which hosts answer for it.

Source: Amazon's "Marketplace IDs" and "SP-API Endpoints" pages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import Enum
from urllib.parse import SplitResult, urlsplit

from attrs import Attribute, field, frozen

from .errors import ConfigurationError, Finding, InvalidMessage

__all__ = ["Endpoint", "Marketplace", "Region", "is_loopback", "is_of_amazon"]


class Region(Enum):
    """A part of the world with hosts of its own; a seller's refresh token belongs to one."""

    NA = "na"
    EU = "eu"
    FE = "fe"


class Marketplace(Enum):
    """One of Amazon's marketplaces; `Marketplace.US.id` is its marketplace id."""

    CA = ("A2EUQ1WTGCTBG2", Region.NA)
    US = ("ATVPDKIKX0DER", Region.NA)
    MX = ("A1AM78C64UM0Y8", Region.NA)
    BR = ("A2Q3Y263D00KWC", Region.NA)

    IE = ("A28R8C7NBKEWEA", Region.EU)
    ES = ("A1RKKUPIHCS9HS", Region.EU)
    UK = ("A1F83G8C2ARO7P", Region.EU)
    GB = UK
    FR = ("A13V1IB3VIYZZH", Region.EU)
    BE = ("AMEN7PMS3EDWL", Region.EU)
    NL = ("A1805IZSGTT6HS", Region.EU)
    DE = ("A1PA6795UKMFR9", Region.EU)
    IT = ("APJ6JRA9NG5V4", Region.EU)
    SE = ("A2NODRKZP88ZB9", Region.EU)
    ZA = ("AE08WJ6YKNBMC", Region.EU)
    PL = ("A1C3SOZRARQ6R3", Region.EU)
    EG = ("ARBP9OOSHTCHU", Region.EU)
    TR = ("A33AVAJ2PDY3EV", Region.EU)
    SA = ("A17E79C6D8DWNP", Region.EU)
    AE = ("A2VIGQ35RCS4UG", Region.EU)
    IN = ("A21TJRUUN4KGV", Region.EU)

    SG = ("A19VAU5U5O7RUS", Region.FE)
    AU = ("A39IBJ37TRP1C6", Region.FE)
    JP = ("A1VC38T7YXB528", Region.FE)

    def __init__(self, marketplace_id: str, region: Region) -> None:
        self.id = marketplace_id
        self.region = region

    @property
    def country(self) -> str:
        """The country's ISO 3166 code, which for the UK is not Amazon's name of it."""
        return "GB" if self is Marketplace.UK else self.name

    @classmethod
    def of(cls, value: Marketplace | str) -> Marketplace:
        """The marketplace that a country code ("US", "UK" or "GB") or a marketplace id names.

        Raises InvalidMessage for anything else.
        """
        if isinstance(value, Marketplace):
            return value
        found = _BY_NAME.get(value.strip().upper()) if isinstance(value, str) else None
        if found is None:
            known = ", ".join(cls.__members__)
            reason = f"{value!r} is no marketplace; give a marketplace id or one of {known}"
            raise InvalidMessage(Finding("marketplace", reason))
        return found

    def of_same_region(self, value: Marketplace | str) -> Marketplace:
        """As `of`; raises InvalidMessage for a marketplace of another region too."""
        marketplace = Marketplace.of(value)
        if marketplace.region is not self.region:
            reason = (
                f"{marketplace.name} is in region {marketplace.region.name}, and {self.name} in "
                f"{self.region.name}; each needs a session and a refresh token of its own"
            )
            raise InvalidMessage(Finding("marketplace", reason))
        return marketplace


_BY_NAME = {
    **Marketplace.__members__,
    **{marketplace.id: marketplace for marketplace in Marketplace},
}

_TOKEN_URL = "https://api.amazon.com/auth/o2/token"  # noqa: S105 - an address, the same for every region
_AMAZON_DOMAINS = ("amazon.com", "amazonaws.com")


def _checked_url(instance: Endpoint, attribute: Attribute[str], url: str) -> None:
    parts = _split(attribute.name, url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{attribute.name} may hold no user name, password, query or fragment"
        )
    if parts.scheme == "http" and not _plain_http_allowed(parts.hostname or ""):
        raise ConfigurationError(
            f"{attribute.name} {url!r} is plain http, which would show access tokens on the way; "
            "use https, or set SP_MESSAGING_ALLOW_HTTP=1 for a host of your own"
        )


def _split(name: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it raises for a port that is none
    except (ValueError, AttributeError):
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        # What cannot be read as an address may hold a password where nobody looks for one.
        shown = repr(url) if re.fullmatch(r"[\w:/.\[\]-]*", str(url)) else "(not shown)"
        raise ConfigurationError(
            f"{name} {shown} is no address; it begins with https:// and a host"
        )
    return parts


def _plain_http_allowed(host: str) -> bool:
    if is_loopback(host):
        return True
    return os.environ.get("SP_MESSAGING_ALLOW_HTTP") == "1" and not is_of_amazon(host)


def is_of_amazon(host: str) -> bool:
    """Whether a host name is one of Amazon's."""
    name = "." + host.lower().rstrip(".")
    return any(name.endswith("." + domain) for domain in _AMAZON_DOMAINS)


def is_loopback(host: str) -> bool:
    """Whether a host name or address stays on this machine."""
    import ipaddress  # here, for it is slow to import

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_slash(url: str) -> str:
    return url.rstrip("/") if isinstance(url, str) else url


@frozen
class Endpoint:
    """The two addresses that a session talks to.

    api_url: scheme and host of the Selling Partner API.
    token_url: the whole address of Login with Amazon's token service.

    Plain http is accepted for loopback, or for a host of your own with SP_MESSAGING_ALLOW_HTTP=1;
    anything else raises ConfigurationError.
    """

    api_url: str = field(converter=_without_slash, validator=_checked_url)
    token_url: str = field(default=_TOKEN_URL, validator=_checked_url)

    @classmethod
    def production(cls, region: Region) -> Endpoint:
        """Amazon's production host of a region."""
        return cls(f"https://sellingpartnerapi-{region.value}.amazon.com")

    @classmethod
    def sandbox(cls, region: Region) -> Endpoint:
        """Amazon's own static sandbox of a region; it messages nobody."""
        return cls(f"https://sandbox.sellingpartnerapi-{region.value}.amazon.com")

    @classmethod
    def from_env(cls, region: Region, environ: Mapping[str, str] | None = None) -> Endpoint:
        """The endpoint that the environment asks for, production unless told otherwise.

        `AWS_ENV=SANDBOX` is Amazon's own sandbox; `SP_MESSAGING_API_URL` and
        `SP_MESSAGING_TOKEN_URL` name other hosts.
        """
        environ = os.environ if environ is None else environ
        in_sandbox = environ.get("AWS_ENV", "").upper() == "SANDBOX"
        amazon = cls.sandbox(region) if in_sandbox else cls.production(region)
        return cls(
            environ.get("SP_MESSAGING_API_URL") or amazon.api_url,
            environ.get("SP_MESSAGING_TOKEN_URL") or amazon.token_url,
        )

    @property
    def region(self) -> Region | None:
        """The region this endpoint answers for, or None for a host that is not Amazon's."""
        return _REGIONS.get(self.api_url)

    @property
    def realm(self) -> str:
        """What a ledger calls it: all of Amazon's regions are one, any other host is itself."""
        if self.region is None:
            return self.api_url
        return "Amazon's sandbox" if "//sandbox." in self.api_url else "Amazon"

    @property
    def is_loopback(self) -> bool:
        """Whether both addresses stay on this machine."""
        return all(is_loopback(urlsplit(u).hostname or "") for u in (self.api_url, self.token_url))


_REGIONS = {
    endpoint.api_url: region
    for region in Region
    for endpoint in (Endpoint.production(region), Endpoint.sandbox(region))
}
