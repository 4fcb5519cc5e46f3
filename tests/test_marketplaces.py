"""Marketplaces by any of their names, and which hosts may be talked to."""

from __future__ import annotations

import pytest

from sp_messaging_async import ConfigurationError, Endpoint, InvalidMessage, Marketplace, Region

HERE = "http://127.0.0.1:8080"
ELSEWHERE = "http://sandbox.example"


@pytest.mark.parametrize("marketplace", Marketplace)
def test_a_marketplace_has_a_code_and_an_id(marketplace: Marketplace) -> None:
    """Country code, id and the member itself all mean the marketplace, in any case, with spaces."""
    for name in (marketplace.name, marketplace.id):
        assert Marketplace.of(name) is marketplace
        assert Marketplace.of(f" {name.lower()}\n") is marketplace
    assert Marketplace.of(marketplace) is marketplace


def test_ids_differ() -> None:
    """No two marketplaces share an id."""
    assert len({marketplace.id for marketplace in Marketplace}) == len(Marketplace) == 23


def test_gb_is_the_older_name_of_uk() -> None:
    """GB and UK are one marketplace, called UK."""
    assert Marketplace.of("GB") is Marketplace.of("UK") is Marketplace["GB"]
    assert Marketplace.of("GB").name == "UK"


@pytest.mark.parametrize("value", ["", "XX", "ATVPDKIKX0DE", "USA", None, 1, ["US"], b"US"])
def test_other_names_are_refused(value: str) -> None:
    """What is no marketplace is refused as a message's field, naming those that there are."""
    with pytest.raises(InvalidMessage, match=r"is no marketplace.*US.*JP") as caught:
        Marketplace.of(value)
    assert caught.value.findings[0].field == "marketplace"


def test_one_region_per_session() -> None:
    """A marketplace of the same region is taken, one of another is refused with both regions."""
    assert Marketplace.US.of_same_region("ca") is Marketplace.CA
    with pytest.raises(InvalidMessage, match="DE is in region EU, and US in NA"):
        Marketplace.US.of_same_region("DE")


@pytest.mark.parametrize("region", Region)
def test_hosts_of_amazon(region: Region) -> None:
    """Each region has a production and a sandbox host, and all have one token service."""
    production, sandbox = Endpoint.production(region), Endpoint.sandbox(region)
    host = f"sellingpartnerapi-{region.value}.amazon.com"
    assert production.api_url == f"https://{host}"
    assert sandbox.api_url == f"https://sandbox.{host}"
    assert production.token_url == sandbox.token_url == "https://api.amazon.com/auth/o2/token"
    assert production.region is sandbox.region is region
    assert not production.is_loopback
    assert not sandbox.is_loopback


def test_a_host_of_ones_own_has_no_region() -> None:
    """Only Amazon's hosts are bound to a region."""
    assert Endpoint("https://proxy.example").region is None


def test_a_trailing_slash_is_dropped() -> None:
    """Paths are appended to the address, so its last slash goes."""
    assert Endpoint("https://proxy.example/").api_url == "https://proxy.example"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "http://localhost:8080",
        "http://127.0.0.1",
        "http://127.9.9.9:1",
        "http://[::1]:8080",
        "http://LOCALHOST",
        "https://localhost",
    ],
)
def test_plain_http_stays_on_this_machine(url: str) -> None:
    """Loopback addresses may be plain http."""
    assert Endpoint(url, url).is_loopback


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1",
        ELSEWHERE,
        "http://localhost.example",
        "http://127.0.0.1.example",
        "http://0.0.0.0",
        "http://sellingpartnerapi-na.amazon.com",
    ],
)
def test_plain_http_elsewhere_is_refused(url: str) -> None:
    """Plain http to another machine is refused, for the API and for the token service."""
    with pytest.raises(ConfigurationError, match=r"api_url .* plain http"):
        Endpoint(url)
    with pytest.raises(ConfigurationError, match=r"token_url .* plain http"):
        Endpoint(HERE, url)


def test_plain_http_to_a_host_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """SP_MESSAGING_ALLOW_HTTP=1, and no other value, lets plain http go to another host."""
    monkeypatch.setenv("SP_MESSAGING_ALLOW_HTTP", "0")
    with pytest.raises(ConfigurationError):
        Endpoint(ELSEWHERE)
    monkeypatch.setenv("SP_MESSAGING_ALLOW_HTTP", "1")
    assert Endpoint(ELSEWHERE).api_url == ELSEWHERE


@pytest.mark.parametrize(
    "url",
    [
        "http://sellingpartnerapi-na.amazon.com",
        "http://api.amazon.com",
        "http://amazon.com",
        "http://SELLINGPARTNERAPI-EU.AMAZON.COM",
        "http://sellingpartnerapi-eu.amazon.com:80",
        "http://sellingpartnerapi-na.amazon.com.",
        "http://bucket.s3.amazonaws.com",
    ],
)
def test_plain_http_never_goes_to_amazon(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SP_MESSAGING_ALLOW_HTTP=1 is no leave to show Amazon's tokens on the way."""
    monkeypatch.setenv("SP_MESSAGING_ALLOW_HTTP", "1")
    with pytest.raises(ConfigurationError, match="plain http"):
        Endpoint(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "here",
        "ftp://host",
        "https://",
        "https://:443",
        "https://host:port",
        "https://[::1",
        "https://user@host",
        "https://:word@host",
        "https://host?a=b",
        "https://host#a",
        None,
        1,
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """An address is scheme and host; no user, query or fragment, which would break the calls'."""
    with pytest.raises(ConfigurationError, match="api_url"):
        Endpoint(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:sesame@host",
        "https://host?key=sesame",
        "https://host/#sesame",
        "htps://user:sesame@host",
        "https://user:sesame@host:port",
        "user:sesame@host",
    ],
)
def test_a_refused_address_is_not_shown_with_its_secret(url: str) -> None:
    """The refusal of an address quotes neither a password nor a query in it."""
    with pytest.raises(ConfigurationError) as caught:
        Endpoint(url)
    assert "sesame" not in str(caught.value)


def test_is_loopback_needs_both_addresses() -> None:
    """An endpoint whose token service is elsewhere does not stay on this machine."""
    assert not Endpoint(HERE).is_loopback
    assert Endpoint(HERE, f"{HERE}/token").is_loopback


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Endpoint.production(Region.EU)),
        ({"AWS_ENV": "PRODUCTION"}, Endpoint.production(Region.EU)),
        ({"AWS_ENV": "SANDBOX"}, Endpoint.sandbox(Region.EU)),
        ({"AWS_ENV": "sandbox"}, Endpoint.sandbox(Region.EU)),
        ({"SP_MESSAGING_API_URL": HERE}, Endpoint(HERE)),
        ({"AWS_ENV": "SANDBOX", "SP_MESSAGING_API_URL": HERE}, Endpoint(HERE)),
        (
            {"SP_MESSAGING_TOKEN_URL": f"{HERE}/token"},
            Endpoint("https://sellingpartnerapi-eu.amazon.com", f"{HERE}/token"),
        ),
    ],
    ids=str,
)
def test_endpoint_from_the_environment(
    environ: dict[str, str], expected: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_ENV picks Amazon's sandbox, the SP_MESSAGING_ variables other hosts; else production."""
    assert Endpoint.from_env(Region.EU, environ) == expected
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert Endpoint.from_env(Region.EU) == expected
