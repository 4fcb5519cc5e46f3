"""Credentials: where they are read from, what is said of those that are missing, and to whom."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from sp_messaging_async import ConfigurationError, Credentials
from sp_messaging_async.credentials import ReadableByOthersWarning

SECRET = "s3same-open"
TOKEN = "Atzr|" + SECRET

ENVIRONMENT = {
    "LWA_APP_ID": "app",
    "LWA_CLIENT_SECRET": SECRET,
    "SP_API_REFRESH_TOKEN": TOKEN,
}

TOML = f"""
[default]
lwa_app_id = "app"
lwa_client_secret = "{SECRET}"
refresh_token = "{TOKEN}"

[acme]
lwa_app_id = "acme's"
lwa_client_secret = "{SECRET}"
refresh_token = "{TOKEN}2"
"""

YAML = f"""
version: '1.0'
default:
  refresh_token: {TOKEN}
  lwa_app_id: app
  lwa_client_secret: {SECRET}
acme:
  refresh_token: {TOKEN}2
  lwa_app_id: acme's
  lwa_client_secret: {SECRET}
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with the credentials of one seller."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refusal(call: Callable[[], object]) -> str:
    """What a ConfigurationError says; its whole traceback must not show the secret."""
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_repr_holds_no_secret() -> None:
    """Neither the secret nor the token is in the repr, nor in what tells sellers apart."""
    credentials = Credentials("app", SECRET, TOKEN)
    shown = repr(credentials) + str(credentials) + credentials.seller
    assert SECRET not in shown
    assert "app" in shown


def test_sellers_are_told_apart_by_application_and_token() -> None:
    """Another client id or token is another seller; another account or secret is not."""
    one = Credentials("app", SECRET, TOKEN)
    assert one.seller == attrs.evolve(one, account="acme", client_secret="other").seller
    assert one.seller != attrs.evolve(one, refresh_token="other").seller
    assert one.seller != attrs.evolve(one, client_id="other").seller


@pytest.mark.parametrize("name", ["client_id", "client_secret", "refresh_token", "account"])
@pytest.mark.parametrize("value", ["", "  \n", None, 1])
def test_every_field_is_needed(name: str, value: str) -> None:
    """An empty field is refused by its name, and the others are not shown."""
    fields = {"client_id": "app", "client_secret": SECRET, "refresh_token": TOKEN, "account": "a"}
    assert name in refusal(lambda: Credentials(**{**fields, name: value}))


def test_from_env(environment: pytest.MonkeyPatch) -> None:
    """The three variables make the credentials of the default account."""
    assert Credentials.from_env() == Credentials("app", SECRET, TOKEN, "default")


def test_from_env_of_an_account(environment: pytest.MonkeyPatch) -> None:
    """An account's variables have its name at their end, in capitals."""
    for name, value in ENVIRONMENT.items():
        environment.setenv(f"{name}_ACME", f"{value} of acme")
    expected = Credentials("app of acme", f"{SECRET} of acme", f"{TOKEN} of acme", "acme")
    assert Credentials.from_env("acme") == expected


def test_accounts_may_share_the_application(environment: pytest.MonkeyPatch) -> None:
    """The application's id and secret may be left without the account's suffix."""
    environment.setenv("SP_API_REFRESH_TOKEN_ACME", "acme's")
    assert Credentials.from_env("acme") == Credentials("app", SECRET, "acme's", "acme")


def test_accounts_never_share_a_refresh_token(environment: pytest.MonkeyPatch) -> None:
    """An account without a token of its own is refused: the default one is another seller."""
    assert "SP_API_REFRESH_TOKEN_ACME is not set" in refusal(lambda: Credentials.from_env("acme"))


@pytest.mark.parametrize("name", ENVIRONMENT)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_variable_is_named(
    name: str, value: str | None, environment: pytest.MonkeyPatch
) -> None:
    """A variable that is not set, or empty, is named."""
    if value is None:
        environment.delenv(name)
    else:
        environment.setenv(name, value)
    assert refusal(Credentials.from_env) == f"the environment variable {name} is not set"


def private(path: Path, content: str | bytes) -> Path:
    """Write a file that only its user can read."""
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture(params=[("credentials.toml", TOML), ("credentials.yml", YAML)], ids=["toml", "yml"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of two accounts, in TOML or YAML."""
    name, text = request.param
    path: Path = tmp_path / name
    return private(path, text)


def test_from_file(file: Path) -> None:
    """The default account, and another by its name, are read from either form."""
    assert Credentials.from_file(file) == Credentials("app", SECRET, TOKEN, "default")
    expected = Credentials("acme's", SECRET, f"{TOKEN}2", "acme")
    assert Credentials.from_file(str(file), account="acme") == expected


def test_an_account_that_is_not_in_the_file(file: Path) -> None:
    """The refusal names the file and the account."""
    text = refusal(lambda: Credentials.from_file(file, "nobody"))
    assert text == f"{file} has no account 'nobody'"


@pytest.mark.parametrize("entry", ["lwa_app_id", "lwa_client_secret", "refresh_token"])
def test_an_entry_that_is_not_in_the_file(file: Path, entry: str) -> None:
    """The refusal names the file, the entry and the account."""
    file.write_text(file.read_text().replace(entry, "x_" + entry))
    text = refusal(lambda: Credentials.from_file(file))
    assert text == f"{file} has no {entry} for the account 'default'"


def test_the_file_of_python_amazon_sp_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path, the file is the one that users of that package already have."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("APPDATA", str(tmp_path / ".config"))
    path = tmp_path / ".config" / "python-sp-api" / "credentials.yml"
    assert str(path) in refusal(Credentials.from_file)
    path.parent.mkdir(parents=True)
    private(path, YAML)
    assert Credentials.from_file(account="acme").account == "acme"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f'[default]\nlwa_client_secret = "{SECRET}', id="open string"),
        pytest.param(f"[default]\nlwa_client_secret = {SECRET}\n", id="bare word"),
        pytest.param(f'[default]\n"{SECRET}" = 1\n"{SECRET}" = 2\n', id="key twice"),
        pytest.param(f"[default.{SECRET}]\n[default.{SECRET}]\n", id="table twice"),
        pytest.param("[default]\nlwa_client_secret = " + "9" * 5000, id="endless number"),
        pytest.param(SECRET.encode("utf-16"), id="utf-16"),
    ],
)
def test_malformed_toml(content: str | bytes, tmp_path: Path) -> None:
    """A file that is no TOML is refused by its name, quoting none of it."""
    path = tmp_path / "credentials.toml"
    private(path, content)
    assert str(path) in refusal(lambda: Credentials.from_file(path))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f'default:\n  lwa_client_secret: "{SECRET}', id="open string"),
        pytest.param(f"default: {SECRET}: {SECRET}", id="two colons"),
        pytest.param(f"default:\n  lwa_client_secret: @{SECRET}", id="reserved character"),
        pytest.param(f"default:\n  lwa_client_secret: *{SECRET}", id="alias"),
        pytest.param(f"default:\n  lwa_client_secret: !{SECRET} x", id="tag"),
        pytest.param(f"default:\n  lwa_client_secret: !!int {SECRET}", id="no number"),
        pytest.param("default:\n  lwa_client_secret: 2026-99-99", id="no date"),
        pytest.param(f"default:\n  lwa_client_secret: {SECRET}\x00", id="control character"),
        pytest.param("[" * 5000, id="nested too deep"),
        pytest.param(SECRET.encode("utf-16"), id="utf-16"),
    ],
)
def test_malformed_yaml(content: str | bytes, tmp_path: Path) -> None:
    """A file that is no YAML is refused by its name, quoting none of it."""
    path = tmp_path / "credentials.yaml"
    private(path, content)
    assert str(path) in refusal(lambda: Credentials.from_file(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yml", ""),
        ("a.yml", SECRET),
        ("a.yml", f"- {SECRET}"),
        ("a.yml", f"default: {SECRET}"),
        ("a.yml", f"default: [{SECRET}]"),
        ("a.yml", f"default: {{lwa_app_id: app, lwa_client_secret: [{SECRET}]}}"),
        ("a.toml", ""),
        ("a.toml", f'default = "{SECRET}"'),
        ("a.toml", f'default = [{{refresh_token = "{SECRET}"}}]'),
        ("a.toml", f'default = {{lwa_app_id = "app", lwa_client_secret = ["{SECRET}"]}}'),
    ],
)
def test_a_file_of_another_shape(name: str, content: str, tmp_path: Path) -> None:
    """A readable file without accounts or entries where they belong is refused, unquoted."""
    path = tmp_path / name
    private(path, content)
    assert str(path) in refusal(lambda: Credentials.from_file(path))


@pytest.mark.parametrize("name", ["missing.yml", "missing.toml", "", "not\0allowed.yml"])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    """A file that is missing, a folder or impossible is a ConfigurationError like the others."""
    assert str(tmp_path) in refusal(lambda: Credentials.from_file(tmp_path / name))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_file_that_others_can_read(file: Path, mode: int) -> None:
    """The caller is warned with the remedy, at the line of the call, and may use the file."""
    file.chmod(mode)
    with pytest.warns(ReadableByOthersWarning, match=r"chmod 600") as caught:
        assert Credentials.from_file(file).account == "default"
    (warning,) = caught
    assert str(warning.message) == (
        f"{file} can be read by others, and holds secrets; chmod 600 keeps them to you"
    )
    assert warning.filename == __file__
