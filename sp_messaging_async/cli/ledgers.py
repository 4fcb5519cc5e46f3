"""Which ledger a command means: a file, or a database, told apart here and nowhere else."""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import platformdirs
from attrs import field, frozen

from ..credentials import ReadableByOthersWarning
from ..errors import ConfigurationError
from ..ledger import Ledger
from ..marketplaces import Marketplace
from ..sqlite_ledger import SQLiteLedger

if TYPE_CHECKING:
    from ..bulk.template import Template
    from ..cluster.postgres_ledger import PostgresLedger

__all__ = ["LedgerDatabase", "LedgerFile", "database_at", "ledger_at"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SCHEMES = ("postgresql", "postgres")
_FORM = "postgresql://USER@HOST/DATABASE"
_SECRET = ("password", "secret")  # in the names of libpq's parameters


def ledger_at(given: str | None) -> LedgerFile | LedgerDatabase:
    """The ledger of an address, which is a file's or a database's; the user's own file for None.

    Raises ConfigurationError for an address of neither kind, or where the extra is missing.
    """
    return database_at(given) or LedgerFile(_own_file() if given is None else Path(given))


def database_at(given: str | None) -> LedgerDatabase | None:
    """The same of a database alone; None for a file."""
    url = None if given is None else _URL.match(given)
    if given is None or url is None:
        return None
    if url[1] not in _SCHEMES:
        raise ConfigurationError(f"--ledger takes a file or {_FORM}, not {url[0]}…")
    return LedgerDatabase.of(given)


def _own_file() -> Path:
    folder = platformdirs.user_data_path("sp-messaging", appauthor=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / "ledger.sqlite3"


@frozen
class LedgerFile:
    """A ledger in a file of this machine."""

    path: Path

    @property
    def file(self) -> Path | None:
        """The file that nothing else may be written over."""
        return self.path

    @property
    def shown(self) -> str:
        """What names it in a command."""
        return str(self.path)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ledger]:
        """The ledger, open; made if there was none."""
        async with SQLiteLedger(self.path) as ledger:
            yield ledger

    @asynccontextmanager
    async def existing(self) -> AsyncIterator[Ledger]:
        """The ledger, open. Raises ConfigurationError if there is none."""
        self._refuse_none()
        async with self.opened() as ledger:
            yield ledger

    async def salvage(self) -> int:
        """See `SQLiteLedger.salvage`."""
        self._refuse_none()
        ledger = SQLiteLedger(self.path)
        try:
            return await ledger.salvage()
        finally:
            await ledger.aclose()

    def _refuse_none(self) -> None:
        if not self.path.exists():
            raise ConfigurationError(f"there is no ledger {self.path}; name one with --ledger")


@frozen
class LedgerDatabase:
    """A ledger in a PostgreSQL database. `cluster init` makes it, and nothing else does.

    shown: what names it in a command; without a password.
    """

    ledger: PostgresLedger = field(repr=False)
    shown: str

    @classmethod
    def of(cls, address: str) -> LedgerDatabase:
        """The ledger of an address; a password in it makes a warning."""
        from ..cluster.postgres_ledger import PostgresLedger  # for whoever has one

        ledger = PostgresLedger(address)  # refuses what it cannot read, without repeating it
        shown, has_secret = _without_secrets(address)
        if has_secret:
            warnings.warn(
                "other users of this machine may read the password in --ledger, which no command "
                "named here repeats; keep it in PGPASSWORD or a password file",
                ReadableByOthersWarning,
                stacklevel=2,
            )
        return cls(ledger, shown)

    @property
    def file(self) -> Path | None:
        """None: there is none to be spared."""
        return None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ledger]:
        """The ledger, open. Raises LedgerError if there is none."""
        async with self.ledger:
            yield self.ledger

    def existing(self) -> AbstractAsyncContextManager[Ledger]:
        """The same."""
        return self.opened()

    async def salvage(self) -> int:
        """Refused."""
        raise ConfigurationError(
            "salvage is for a ledger in a file that lost its last commits; of a database in "
            "PostgreSQL, restore a backup"
        )

    async def enqueue(
        self, run: str, place: Marketplace, *, template: Template | None, check_actions: bool
    ) -> None:
        """Share a run out to the workers, while the ledger is open.

        place: the marketplace of rows that name none.
        """
        from ..cluster.worker import enqueue

        await enqueue(
            self.ledger, run, marketplace=place, template=template, check_actions=check_actions
        )


def _without_secrets(address: str) -> tuple[str, bool]:
    """An address as a command may show it, and whether it had a secret."""
    from psycopg import conninfo

    given = {name: str(value) for name, value in conninfo.conninfo_to_dict(address).items()}
    host, port = given.get("host", ""), given.get("port", "")
    # As libpq reads a password with @ or / in it: its end is the host's or the database's name.
    if "@" in host + given.get("dbname", "") or re.search(r"[^0-9,]", port):
        raise ConfigurationError(
            f"the ledger's address cannot be read; write {_FORM}, and in a password %40 for @ and "
            "%2F for /"
        )
    kept = {name: value for name, value in given.items() if not _is_secret(name)}
    place = ""
    if re.fullmatch(r"[\w.-]+", host) or (":" in host and re.fullmatch(r"[0-9A-Fa-f:.]+", host)):
        place = f"[{host}]" if ":" in host else host
        del kept["host"]
        if port.isdigit():
            place += f":{kept.pop('port')}"
    user = f"{quote(kept.pop('user'), safe='')}@" if "user" in kept else ""
    database = quote(kept.pop("dbname", ""), safe="")
    options = f"?{urlencode(kept, quote_via=quote)}" if kept else ""
    return f"postgresql://{user}{place}/{database}{options}", any(map(_is_secret, given))


def _is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET)
