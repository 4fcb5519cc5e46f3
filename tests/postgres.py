"""A PostgreSQL of the tests' own: Debian's programs, a folder that goes away, a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen

from sp_messaging_async import PostgresLedger

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its user's own is made in it

SETTINGS = """
listen_addresses = '127.0.0.1'
max_connections = 80
jit = off
"""

# Nothing here takes the power away, so no test waits for a disk; the client asks for durability all
# the same, and what it asks for is what is tested.
UNSAFE = """
fsync = off
full_page_writes = off
shared_buffers = 32MB
max_wal_size = 128MB
min_wal_size = 32MB
autovacuum = off
"""

EMPTY = """
DELETE FROM {0}.facts WHERE name NOT IN ('schema', 'key'); DELETE FROM {0}.runs;
DELETE FROM {0}.leases; DELETE FROM {0}.purged; DELETE FROM {0}.messages
"""

_schemas = itertools.count(1)


@frozen
class Postgres:
    """A server with one database, in which every ledger has a schema of its own."""

    programs: Path
    folder: Path
    port: int
    user: str | None
    """Whom its programs run as, which refuse to be root's."""
    _used: list[str] = field(factory=list)
    _own: list[Any] = field(factory=list)

    @property
    def dsn(self) -> str:
        """Where it is."""
        return self.at(self.port)

    def at(self, port: int) -> str:
        """The same through a proxy."""
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs to its end."""
        command = [str(self.programs / program), *arguments]
        changed: dict[str, Any] = {"user": self.user} if self.user else {}
        if self.user:
            changed.update(group=self.user, extra_groups=[])
        with (self.folder / "log").open("ab") as log:
            subprocess.run(
                command, cwd=self.folder, stdout=log, stderr=log, check=True, timeout=60, **changed
            )

    def make(self, settings: str) -> None:
        """Make the database's files."""
        data = str(self.folder / "data")
        self.run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(settings)
            file.write(f"port = {self.port}\nunix_socket_directories = '{self.folder}'\n")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        data, log = str(self.folder / "data"), str(self.folder / "server.log")
        self.run("pg_ctl", "-D", data, "-l", log, "-w", "-s", "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop it; "immediate" is as if it was killed."""
        self.forget_own()
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", how, "-w", "-s", "stop")

    def new_schema(self) -> str:
        """A name that no ledger has."""
        return f"ledger_{next(_schemas)}"

    @asynccontextmanager
    async def ledger(self, **options: Any) -> AsyncIterator[PostgresLedger]:
        """A new ledger, open; in the tables of one that is used no more, which is faster."""
        schema = self._used.pop() if self._used else None
        made = PostgresLedger(self.dsn, schema=schema or self.new_schema(), **options)
        if schema is None:
            await made.create()
        async with made:
            yield made
        self.execute(EMPTY.format(made._address.schema))
        self._used.append(made._address.schema)

    def execute(self, statement: str) -> list[Any]:
        """Do something in the database as somebody else; returns what it finds."""
        import psycopg  # of an extra, which only these tests need

        if not self._own:
            self._own.append(psycopg.connect(self.dsn, autocommit=True))
        cursor = self._own[0].execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def forget_own(self) -> None:
        """Close the connection for `execute`."""
        while self._own:
            self._own.pop().close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests; where there is no PostgreSQL, they are skipped, in CI they fail."""
    try:
        programs = programs_of_postgres()
    except FileNotFoundError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    base = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    with running(programs, base, SETTINGS + UNSAFE) as server:
        yield server


@contextmanager
def running(programs: Path, base: Path | None, settings: str) -> Iterator[Postgres]:
    """A new server, for as long as the context lasts."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=base))
    user = None
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        user = _other_user()
        shutil.chown(folder, user, user)
    server = Postgres(programs, folder, _free_port(), user)
    try:
        server.make(settings)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test has stopped it
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def programs_of_postgres() -> Path:
    """Where they are; raises FileNotFoundError, with the remedy."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if debian:
        return debian[-1].parent
    raise FileNotFoundError("there is no PostgreSQL; on Debian: apt-get install postgresql")


def _version(path: Path) -> int:
    name = path.parts[-3]
    return int(name) if name.isdigit() else 0


def _other_user() -> str:
    import pwd

    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise LookupError("PostgreSQL refuses to run as root, and there is no other user")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


# A network between a ledger and its server, for what only a network does


@define(eq=False)
class Proxy:
    """Passes bytes on to a server until it is told otherwise.

    cut_at: the connection that says this is cut, once: before the server hears it, or after it has
        done what it heard, and its answer is lost.
    """

    server: int
    port: int = 0
    cut_at: bytes = b""
    hears: bool = False
    stays_away: bool = False
    is_silent: bool = False
    refuses: bool = False
    cuts: int = 0
    cut: asyncio.Event = field(factory=asyncio.Event)
    _ends: set[asyncio.StreamWriter] = field(factory=set)
    _tasks: set[asyncio.Task[None]] = field(factory=set)

    def cut_next(self, text: bytes, *, hears: bool, stays_away: bool = False) -> None:
        """Cut the connection that says this next, once; all others stay or are refused."""
        self.cut_at, self.hears, self.stays_away = text, hears, stays_away
        self.cut.clear()

    def drop(self) -> None:
        """Cut all connections there are."""
        self.cuts += 1
        for end in list(self._ends):
            end.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        if self.refuses:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.server)
        ends = {writer, back}
        self._ends |= ends
        lost = asyncio.Event()
        try:
            with contextlib.suppress(OSError):
                ways = [self._ask(reader, back, lost), self._answer(there, writer, lost)]
                tasks = [asyncio.ensure_future(way) for way in ways]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _ask(
        self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            is_meant = bool(self.cut_at) and self.cut_at in data
            if is_meant:
                self.cut_at = b""
                self.cuts += 1
                self.refuses = self.refuses or self.stays_away
                if not self.hears:
                    self.cut.set()
                    return
                lost.set()
            if not self.is_silent:
                back.write(data)
                await back.drain()

    async def _answer(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while data := await there.read(1 << 16):
            if lost.is_set():
                self.cut.set()
                return  # the server has done it, and nobody is told
            if not self.is_silent:
                writer.write(data)
                await writer.drain()

    async def on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one, and be known."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.serve(reader, writer)
        finally:
            self._tasks.discard(task)

    async def aclose(self) -> None:
        """Cut all, and wait for it."""
        self.drop()
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def proxy_to(server: int) -> AsyncIterator[Proxy]:
    """A proxy in front of a server's port."""
    proxy = Proxy(server)
    listening = await asyncio.start_server(proxy.on_connection, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        await proxy.aclose()
