"""What several commands take, and what it stands for."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import platformdirs
from aiohttp import TraceConfig
from attrs import field, frozen
from cyclopts import Group, Parameter

from ..bulk.order_list import Reading
from ..bulk.template import Template
from ..credentials import DEFAULT_ACCOUNT, Credentials, default_file
from ..errors import ConfigurationError, InvalidMessage
from ..ledger import DEFAULT_CAMPAIGN, Ledger
from ..marketplaces import Endpoint, Marketplace
from ..operations import Operation, named
from ..session import MessagingSession
from ..throttle import LocalThrottle
from . import exchanges
from .ledgers import LedgerDatabase, LedgerFile, database_at, ledger_at

if TYPE_CHECKING:
    from ..cluster.redis_throttle import RedisThrottle
    from ..sandbox import Sandbox

__all__ = [
    "Flag",
    "Listing",
    "Many",
    "Pace",
    "Place",
    "Record",
    "Recording",
    "Seller",
    "Where",
    "throwaway_ledger",
    "time_zone",
]

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Many = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]

_THE_LIST = Group("The list", sort_key=1)
_WHERE = Group("Amazon and the accounts", sort_key=2)
_RECORD = Group("The record", sort_key=3)


@Parameter(name="*", group=_WHERE)
@frozen
class Place:
    """Which Amazon.

    Parameters
    ----------
    marketplace:
        Where orders are that name no marketplace, such as DE; SP_API_DEFAULT_MARKETPLACE unless
        given.
    sandbox:
        Talk to a local Amazon of the command's own, which messages nobody: no credentials, and,
        unless one is named, a ledger that is thrown away.
    """

    marketplace: str | None = None
    sandbox: Flag = False

    @property
    def place(self) -> Marketplace:
        """The marketplace. Raises ConfigurationError where none is named."""
        name = self.marketplace or os.environ.get("SP_API_DEFAULT_MARKETPLACE")
        if not name and not self.sandbox:
            raise ConfigurationError(
                "no marketplace: give --marketplace, or set SP_API_DEFAULT_MARKETPLACE"
            )
        return Marketplace.of(name or "US")


@Parameter(name="*", group=_WHERE)
@frozen
class Where(Place):
    """Which Amazon, and for whom.

    Parameters
    ----------
    credentials:
        A TOML or YAML file with a table for each account. Unless given: the environment
        (LWA_APP_ID, LWA_CLIENT_SECRET, SP_API_REFRESH_TOKEN, each with _ACCOUNT at its end for
        others than the default account), else credentials.toml in the user's folder for
        sp-messaging, else the credentials.yml of python-amazon-sp-api.
    verbose:
        Show every exchange with Amazon on standard error, without secrets and buyers' texts.
    """

    credentials: Path | None = None
    verbose: Flag = False

    async def open(
        self, stack: AsyncExitStack, *traces: TraceConfig, pace: Pace | None = None
    ) -> Amazon:
        """The Amazon to talk to, for as long as the stack is open."""
        place = self.place
        local = await _sandbox(stack) if self.sandbox else None
        endpoint = local.endpoint if local else Endpoint.from_env(place.region)
        if self.verbose:
            traces = (exchanges.telling(), *traces)
        http = await stack.enter_async_context(exchanges.traced(*traces)) if traces else None
        throttle = await pace.open(stack) if pace else LocalThrottle()
        return Amazon(self, place, endpoint, stack, http, throttle)


async def _sandbox(stack: AsyncExitStack) -> Sandbox:
    from ..sandbox import Sandbox  # a web server, for whoever asks for it

    return await stack.enter_async_context(Sandbox())


@frozen
class Amazon:
    """The Amazon that a command talks to: opens a session for each account, on one throttle."""

    where: Where
    place: Marketplace
    endpoint: Endpoint
    _stack: AsyncExitStack = field(repr=False)
    _http: exchanges.Http | None = field(repr=False)
    throttle: LocalThrottle | RedisThrottle

    @property
    def realm(self) -> str:
        """What a ledger calls it. The command's own sandbox has another port each time."""
        return "the sandbox of --sandbox" if self.where.sandbox else self.endpoint.realm

    @property
    def messages_nobody(self) -> bool:
        """Whether no buyer can be reached."""
        return (
            self.where.sandbox
            or self.endpoint.is_loopback
            or self.endpoint.realm == "Amazon's sandbox"
        )

    def credentials(self, account: str) -> Credentials:
        """An account's. Raises ConfigurationError, naming the places, where there are none."""
        if self.where.sandbox:
            return Credentials("sandbox", "sandbox", f"sandbox-{account}", account)
        return _found(account, self.where.credentials)[0]

    async def session(self, account: str) -> MessagingSession:
        """A session for an account, closed with the stack."""
        return await self._stack.enter_async_context(
            MessagingSession(
                self.credentials(account),
                marketplace=self.place,
                endpoint=self.endpoint,
                throttle=self.throttle,
                http=self._http,
            )
        )

    async def sessions(self, accounts: list[str]) -> Mapping[str, MessagingSession]:
        """A session for each account; none is opened where one has no credentials."""
        for account in accounts:
            self.credentials(account)
        return {account: await self.session(account) for account in accounts}


@Parameter(name="*", group=_WHERE)
@frozen
class Seller(Where):
    """Which Amazon, and for which account.

    Parameters
    ----------
    account:
        The account's name in the credentials; the default one unless given.
    """

    account: str = DEFAULT_ACCOUNT


@Parameter(name="*", group=_WHERE)
@frozen
class Pace:
    """Who shares the usage plans.

    Parameters
    ----------
    throttle:
        Keep to the usage plans together with all other processes that name the same Redis or
        Valkey, as in redis://HOST:6379/0. Unless given, this process takes them for its own.
    """

    throttle: str | None = None

    async def open(self, stack: AsyncExitStack) -> LocalThrottle | RedisThrottle:
        """The throttle, for as long as the stack is open."""
        if self.throttle is None:
            return LocalThrottle()
        from ..cluster.redis_throttle import RedisThrottle  # for whoever has one

        return await stack.enter_async_context(RedisThrottle(self.throttle))


def source_of(account: str, file: Path | None) -> str:
    """Where an account's credentials are found. Raises ConfigurationError where there are none."""
    return _found(account, file)[1]


def _found(account: str, file: Path | None) -> tuple[Credentials, str]:
    """An account's credentials, and where they were found."""
    if file is None and not Credentials.is_in_env(account):
        file = next((path for path in _files() if path.exists()), None)
    if file is not None:
        return Credentials.from_file(file, account), str(file)
    try:
        found = Credentials.from_env(None if account == DEFAULT_ACCOUNT else account)
    except ConfigurationError as error:
        own, _ = _files()
        raise ConfigurationError(
            f"{error}; set it, or write the account {account!r} into {own}"
        ) from None
    return found, "the environment"


def _files() -> tuple[Path, Path]:
    own = platformdirs.user_config_path("sp-messaging", appauthor=False) / "credentials.toml"
    return own, default_file()


@Parameter(name="*", group=_RECORD)
@frozen
class Record:
    """Where what is sent is recorded, so that nothing is sent twice.

    Parameters
    ----------
    ledger:
        The ledger: a file, or a PostgreSQL database as postgresql://USER@HOST/DATABASE, with the
        password in PGPASSWORD or a password file. A file in the user's data folder unless given.
    """

    ledger: str | None = None

    @property
    def place(self) -> LedgerFile | LedgerDatabase:
        """Which ledger it is. Raises ConfigurationError where the address is of none."""
        return ledger_at(self.ledger)

    @property
    def named(self) -> str | None:
        """How a command names it, without a secret; None where it need not."""
        return None if self.ledger is None else self.place.shown

    @property
    def of_ledger(self) -> str:
        """The same as an option, with a space before it."""
        named = self.named
        return "" if named is None else f" --ledger {shlex.quote(named)}"

    def database(self, option: str) -> LedgerDatabase:
        """The ledger for an option that needs a database. Raises ConfigurationError for a file."""
        database = database_at(self.ledger)
        if database is None:
            raise ConfigurationError(f"{option} needs --ledger postgresql://USER@HOST/DATABASE")
        return database

    async def open(self, stack: AsyncExitStack, *, throwaway: bool) -> Ledger:
        """The ledger, for as long as the stack is open; `throwaway` for one that goes with it."""
        place = throwaway_ledger(stack) if throwaway else self.place
        return await stack.enter_async_context(place.opened())


def throwaway_ledger(stack: AsyncExitStack) -> LedgerFile:
    """A ledger, in a folder of its own, that goes with the stack."""
    folder = tempfile.TemporaryDirectory(prefix="sp-messaging-", ignore_cleanup_errors=True)
    return LedgerFile(Path(stack.enter_context(folder)) / "ledger.sqlite3")


@Parameter(name="*", group=_RECORD)
@frozen
class Recording(Record):
    """Where, and by which name.

    Parameters
    ----------
    campaign:
        The name under which messages are recorded.
    again:
        Send what was sent before once more. Repeated after a break, it resumes.
    """

    campaign: str = DEFAULT_CAMPAIGN
    again: Flag = False

    @property
    def of_campaign(self) -> str:
        """What a command about the campaign has to name, with a space before it."""
        if self.campaign == DEFAULT_CAMPAIGN:
            return self.of_ledger
        return f"{self.of_ledger} --campaign {shlex.quote(self.campaign)}"


@Parameter(name="*", group=_THE_LIST)
@frozen
class Listing:
    """How to read an order list.

    Parameters
    ----------
    operation:
        Amazon's name of the operation, for rows that name none.
    text:
        The text, for rows that give none.
    attach:
        A file to attach, for rows that name none; repeat it for more. {column} stands for a cell
        of the row, as in invoices/{order_id}.pdf.
    template:
        A TOML file with the text in each language: operation, default_locale, and under [text] a
        Jinja2 text for each locale, with the list's columns as variables. Each buyer's own
        language is asked for.
    attachments_from:
        The folder that paths of attachments begin in, and must stay in; the list's unless given.
    map:
        A column that stands for another, as in --map Bestellung=order_id; repeat it for more.
    encoding:
        The list's, such as windows-1252. Unless given: UTF-8, or what its first bytes say.
    timezone:
        Of dates without an offset, such as Europe/Berlin. A date alone is then its whole day.
    account:
        The account, for rows that name none; the default one unless given.
    any_order_id:
        Take order ids of another form than 3-7-7 digits.
    strict:
        Refuse what is only advised against: links, phone numbers, a text in another language than
        the template says.
    """

    operation: str | None = None
    text: str | None = None
    attach: Many = ()
    template: Path | None = None
    attachments_from: Path | None = None
    map: Many = ()
    encoding: str | None = None
    timezone: str | None = None
    account: str | None = None
    any_order_id: Flag = False
    strict: Flag = False

    def reading(self) -> Reading:
        """What the options stand for. Raises ConfigurationError, or InvalidMessage."""
        template = Template.load(self.template) if self.template else None
        if template and (self.text or self.operation):
            raise ConfigurationError(
                f"{template.name} says operation and text; leave --operation and --text out"
            )
        if self.attachments_from is not None and not self.attachments_from.is_dir():
            raise ConfigurationError(
                f"--attachments-from {str(self.attachments_from)!r} is no folder; name one"
            )
        return Reading(
            encoding=self.encoding,
            renamed=dict(map(_renamed, self.map)),
            operation=None if self.operation is None else _operation(self.operation),
            text=self.text,
            attachments=self.attach,
            attachments_from=self.attachments_from,
            account=self.account,
            any_order_id=self.any_order_id,
            timezone=time_zone(self.timezone),
            template=template,
            strict=self.strict,
        )


def _operation(name: str) -> Operation:
    try:
        operation = named(name)
    except InvalidMessage as error:
        raise ConfigurationError(f"--operation {error.findings[0].reason}") from None
    if not operation.messages_buyer:
        raise ConfigurationError(
            f"--operation {operation.name} messages nobody; give one that does, such as sendInvoice"
        )
    return operation


def _renamed(given: str) -> tuple[str, str]:
    old, _, new = given.partition("=")
    if not old.strip() or not new.strip():
        raise ConfigurationError(f"--map {given!r}: write it as THE-LISTS-COLUMN=order_id")
    return old, new


def time_zone(name: str | None) -> tzinfo | None:
    """The time zone of a name. Raises ConfigurationError if there is none."""
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(
            f"--timezone {name!r} is none; name one such as Europe/Berlin, or UTC"
        ) from None
