"""The keys to a seller's account, and where users keep them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import warnings
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from attrs import Attribute, field, frozen

from .errors import ConfigurationError

__all__ = [
    "DEFAULT_ACCOUNT",
    "Credentials",
    "CredentialsSource",
    "ReadableByOthersWarning",
    "default_file",
]

DEFAULT_ACCOUNT = "default"
"""The account of whoever names none."""


def _given(instance: object, attribute: Attribute[str], value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"Credentials.{attribute.name} is missing or empty")


@frozen
class Credentials:
    """A seller's authorization of an application. Raises ConfigurationError for an empty field.

    client_id, client_secret: the application's, from its page in Seller Central.
    refresh_token: the seller's, for one region.
    account: the name by which lists and environment variables mean this seller.
    """

    client_id: str = field(validator=_given)
    client_secret: str = field(validator=_given, repr=False)
    refresh_token: str = field(validator=_given, repr=False)
    account: str = field(default=DEFAULT_ACCOUNT, validator=_given)

    @classmethod
    def from_env(cls, account: str | None = None) -> Credentials:
        """From SP_API_REFRESH_TOKEN, LWA_APP_ID and LWA_CLIENT_SECRET.

        With an account, from the variables with the suffix `_<ACCOUNT>`, which has `_` for what
        no variable may hold; the application's two may be left without it, where all accounts
        authorized the same one. Raises ConfigurationError, naming the variable that is missing.
        """
        suffix = _suffix(account)
        return cls(
            _variable("LWA_APP_ID", suffix, shared=True),
            _variable("LWA_CLIENT_SECRET", suffix, shared=True),
            _variable("SP_API_REFRESH_TOKEN", suffix, shared=False),
            account or DEFAULT_ACCOUNT,
        )

    @classmethod
    def is_in_env(cls, account: str) -> bool:
        """Whether the environment has a refresh token for an account."""
        suffix = "" if account == DEFAULT_ACCOUNT else _suffix(account)
        return bool(os.environ.get("SP_API_REFRESH_TOKEN" + suffix))

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str] | None = None, account: str = DEFAULT_ACCOUNT
    ) -> Credentials:
        """From a TOML or YAML file with `refresh_token`, `lwa_app_id`, `lwa_client_secret`.

        path: python-amazon-sp-api's file in the user's configuration folder, unless given.
        account: the table to read.

        Raises ConfigurationError for a file, account or entry that is missing or unreadable. Warns
        with ReadableByOthersWarning of a file that other users of the machine can read.
        """
        path = default_file() if path is None else Path(path)
        entries = _accounts(path).get(account)
        if not isinstance(entries, Mapping):
            raise ConfigurationError(f"{path} has no account {account!r}")
        return cls(
            _entry(path, account, entries, "lwa_app_id"),
            _entry(path, account, entries, "lwa_client_secret"),
            _entry(path, account, entries, "refresh_token"),
            account,
        )

    @property
    def seller(self) -> str:
        """What tells sellers' usage plans apart: the client id, and a digest of the token."""
        digest = hashlib.sha256(self.refresh_token.encode()).hexdigest()[:32]
        return f"{self.client_id}:{digest}"


class ReadableByOthersWarning(UserWarning):
    """A file of credentials can be read by other users of the machine."""


def default_file() -> Path:
    """Where python-amazon-sp-api keeps its credentials."""
    windows = os.environ.get("APPDATA") if os.name == "nt" else None
    folder = Path(windows) if windows else Path.home() / ".config"
    return folder / "python-sp-api" / "credentials.yml"


def _suffix(account: str | None) -> str:
    return "_" + re.sub(r"\W", "_", account.upper()) if account else ""


def _variable(name: str, suffix: str, *, shared: bool) -> str:
    value = os.environ.get(name + suffix) or (os.environ.get(name) if shared else None)
    if not value:
        raise ConfigurationError(f"the environment variable {name}{suffix} is not set")
    return value


def _accounts(path: Path) -> Mapping[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read ({type(error).__name__})") from None
    _warn_of_readers(path)
    accounts = _toml(path, text) if path.suffix.lower() == ".toml" else _yaml(path, text)
    if not isinstance(accounts, Mapping):
        raise ConfigurationError(f"{path} holds no accounts")
    return accounts


def _warn_of_readers(path: Path) -> None:
    # Windows says who may read a file in another way, and by default lets the user alone.
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        text = f"{path} can be read by others, and holds secrets; chmod 600 keeps them to you"
        warnings.warn(text, ReadableByOthersWarning, stacklevel=4)


def _toml(path: Path, text: str) -> object:
    import tomllib  # here, for it is seldom needed and slow to import

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        # What the parser says may quote the file, and so a secret.
        raise ConfigurationError(f"{path} is no valid TOML") from None


def _yaml(path: Path, text: str) -> object:
    try:
        import yaml
    except ImportError:
        need = f"reading {path.name} needs the"
        raise ConfigurationError.of_missing_extra(need, "yaml") from None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigurationError(f"{path} is no valid YAML") from None


def _entry(path: Path, account: str, entries: Mapping[str, object], name: str) -> str:
    value = entries.get(name)
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{path} has no {name} for the account {account!r}")
    return value


CredentialsSource: TypeAlias = Credentials | Callable[[], Awaitable[Credentials]]
"""Credentials, or a coroutine function that fetches them, asked again when they are refused."""
