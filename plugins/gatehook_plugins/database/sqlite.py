"""SQLite: a file beside the settings. One connection writes, a few read, and readers never wait for the writer."""

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gatehook import StartupError
from gatehook_plugins.database.backend import Backend, reason
from gatehook_plugins.database.driver import DRIVER
from gatehook_plugins.database.driver import Connection as Driver
from gatehook_plugins.database.engines import AsyncConnection, AsyncEngine, create_async_engine
from gatehook_plugins.database.turns import turn

__all__ = ["Sqlite"]

T = TypeVar("T")

_READERS: Final = 5
"""One of them looks for changes, and does nothing else (see glance)."""

_SHORT_WAIT_MS: Final = 8
"""SQLite waits for a lock in ever longer sleeps; begun anew so often, it looks every few milliseconds."""

_OUT_OF_ORDER: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
"""Result codes that say something of the file, not of the statement."""


class _Connection(sqlite3.Connection):
    """Gives up its locks when it is closed.

    SQLite puts that off for as long as there is a statement. One that somebody gave up waiting for is kept by the
    error's traceback: until then, nobody else could write.
    """

    def close(self) -> None:
        """Roll back, and close."""
        with contextlib.suppress(sqlite3.Error):
            self.rollback()
        super().close()


class Sqlite:
    """One file. `timeout` is how long, in seconds, a lock is waited for."""

    dialect: Literal["sqlite"] = "sqlite"
    shares = True

    def __init__(self, file: Path, timeout: float) -> None:
        self.file = file
        self.where = f"SQLite file {file}"
        self._timeout = timeout
        self._door = file.with_name(file.name + ".turn")

    def create(self) -> None:
        """Make the file, for its owner's eyes only, and have it written ahead (WAL). Blocks.

        Raises:
            StartupError: it cannot be made, or is no SQLite file.
        """
        try:
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with contextlib.closing(sqlite3.connect(self.file, timeout=self._timeout, isolation_level=None)) as file:
                mode = self._write_ahead(file)
        except OSError as error:
            raise StartupError(f"[database] url: {self.where} cannot be opened: {error.strerror}") from None
        except sqlite3.Error as error:
            raise StartupError(f"[database] url: {self.where} cannot be used: {reason(error)}") from None
        if mode != "wal":
            raise StartupError(
                f"[database] url: {self.where} cannot be written ahead (WAL), as on a network's file system; "
                "choose a local folder, or PostgreSQL"
            )

    def is_missing(self) -> bool:
        """Whether there is no such file yet, in a folder that is there. Blocks.

        Raises:
            StartupError: the folder is not there, or nothing can be made in it.
        """
        if self.file.exists():
            return False
        folder = self.file.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            why = "nothing can be made in its folder" if folder.exists() else "there is no such folder"
            raise StartupError(f"[database] url: {self.where} cannot be made: {why}")
        return True

    def _write_ahead(self, file: sqlite3.Connection) -> str:
        end = time.monotonic() + self._timeout
        while True:
            try:
                return str(file.execute("PRAGMA journal_mode=WAL").fetchone()[0])
            except sqlite3.OperationalError:
                # Changing the mode needs the file for itself, and SQLite does not wait for that.
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        """A pool of readers, and a pool of one that writes: whoever wants to write waits there for its turn."""
        return self._engine("BEGIN", _READERS, query_only=1), self._engine("BEGIN IMMEDIATE", 1, query_only=0)

    def _engine(self, begin: str, connections: int, *, query_only: int) -> AsyncEngine:
        # `mode=rw` never makes a file: one that somebody removed shall be an error, not an empty database.
        address = URL.create(DRIVER, database=f"file:{quote(str(self.file))}", query={"mode": "rw", "uri": "true"})
        engine = create_async_engine(
            address,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=self._timeout,
            connect_args={"timeout": self._timeout, "isolation_level": None, "factory": _Connection},
            hide_parameters=True,
        )

        @event.listens_for(engine.sync_engine, "connect")
        def _connected(connection: Any, record: object) -> None:
            cursor = connection.cursor()
            for pragma in ("synchronous=FULL", "foreign_keys=ON", f"query_only={query_only}"):
                cursor.execute(f"PRAGMA {pragma}")
            if not query_only:
                cursor.execute(f"PRAGMA busy_timeout={_SHORT_WAIT_MS}")
                # What an insert of many rows may have to take back: else that is written to a file, and never read.
                cursor.execute("PRAGMA temp_store=MEMORY")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def _begun(connection: Connection) -> None:
            connection.exec_driver_sql(begin)  # not left to the driver: it would begin late, and without the lock

        return engine

    async def begin(self, connection: AsyncConnection) -> None:
        """Begin with SQLite's lock for writing, as soon as that is free and it is this process's turn."""
        given_up = threading.Event()
        await self.within(connection, partial(self.begin_within, given_up=given_up.is_set), give_up=given_up.set)

    def begin_within(self, connection: Connection, given_up: Callable[[], bool] = bool) -> None:
        """The same on the connection's thread."""
        end = time.monotonic() + self._timeout
        with turn(self._door, self._timeout / 2, given_up):
            while True:
                try:
                    connection.begin()
                    return
                except OperationalError as error:
                    if _code(error.orig) != sqlite3.SQLITE_BUSY or time.monotonic() > end or given_up():
                        raise

    async def within(
        self, connection: AsyncConnection, work: Callable[[Connection], T], *, give_up: Callable[[], None] | None = None
    ) -> T:
        """On the connection's thread, as a whole: only the outcome crosses threads. See `Backend.within`."""
        known: Any = connection.sync_connection
        driver: Driver = known.connection.dbapi_connection
        working = asyncio.ensure_future(driver.within(partial(work, known)))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            if give_up is not None:
                give_up()
            await asyncio.gather(working, return_exceptions=True)  # nobody else may use the connection before it ends
            raise

    async def value(self, connection: AsyncConnection, query: str) -> Any:
        """On the connection's thread, with one crossing. See `Backend.value`."""
        known: Any = connection.sync_connection
        driver: Driver = known.connection.dbapi_connection
        return await driver.value(query)

    async def lock(self, connection: AsyncConnection) -> None:
        """Do nothing: every writing transaction is alone anyway."""

    def trouble(self, error: Exception) -> str | None:
        """Why the file cannot be used now; None if the statement is at fault."""
        if isinstance(error, PoolTimeout):
            return f"all connections were taken for {self._timeout:g} s"
        cause = error.orig if isinstance(error, DBAPIError) else error
        is_cut = isinstance(error, DBAPIError) and error.connection_invalidated
        return reason(cause) if cause and (is_cut or _code(cause) in _OUT_OF_ORDER) else None


def _code(error: BaseException | None) -> int | None:
    """SQLite's result code, without its finer part; None if it is none of SQLite's errors."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


_implements: type[Backend] = Sqlite
