"""PostgreSQL: a pool of connections; each is tried before it is used, so a restart of the server is not noticed."""

import importlib.util
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gatehook import StartupError
from gatehook_plugins.database.backend import Backend, reason
from gatehook_plugins.database.engines import AsyncConnection, AsyncEngine, create_async_engine

__all__ = ["Postgresql"]

T = TypeVar("T")

_MIGRATION_LOCK: Final = 0x6761_7465_686F_6F6B
"""Key of an advisory lock: the same in all gateways, and used by nothing else."""

_CLASSES: Final = ("08", "53", "57", "58")
"""SQLSTATE classes: connection lost; disk, memory or connections used up; shut down or cancelled; I/O errors."""

_STATES: Final = frozenset({"25006", "40001", "40P01", "55P03"})
"""Read-only (a standby); lost to a concurrent transaction; deadlock; a lock that nobody gave up in time."""


class Postgresql:
    """One database on a server.

    `timeout` is how long, in seconds, a connection or a lock is waited for; a statement may take ten times as long.
    """

    dialect: Literal["postgresql"] = "postgresql"
    shares = False

    def __init__(self, url: URL, pool_size: int, timeout: float) -> None:
        if importlib.util.find_spec("asyncpg") is None:
            raise StartupError("[database] url: PostgreSQL needs asyncpg; pip install 'gatehook[postgres]'")
        host = url.host or str(url.query.get("host", "localhost"))
        self.where = f"PostgreSQL database {url.database} at {host}" + (f":{url.port}" if url.port else "")
        self._url = url
        self._pool_size = pool_size
        self._timeout = timeout

    def create(self) -> None:
        """Make nothing: the database is the operator's to make."""

    def is_missing(self) -> bool:
        """Never for us to say."""
        return False

    def engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        """Both share one pool."""
        engine = create_async_engine(
            self._url,
            pool_size=self._pool_size,
            max_overflow=self._pool_size + 1,  # one looks for changes, and does nothing else (see glance)
            pool_timeout=self._timeout,
            pool_pre_ping=True,
            connect_args={
                "timeout": self._timeout,
                "command_timeout": 10 * self._timeout,
                "server_settings": {
                    "application_name": "gatehook",
                    "lock_timeout": f"{self._timeout * 1000:.0f}",
                },
            },
            hide_parameters=True,
        )
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True), engine

    async def begin(self, connection: AsyncConnection) -> None:
        """Begin without waiting for a turn: the server lets many write at once."""
        await connection.begin()

    def begin_within(self, connection: Connection) -> None:
        """Begin, likewise."""
        connection.begin()

    async def within(self, connection: AsyncConnection, work: Callable[[Connection], T]) -> T:
        """In a greenlet of SQLAlchemy's. See `Backend.within`."""
        return await connection.run_sync(work)

    async def value(self, connection: AsyncConnection, query: str) -> Any:
        """By asyncpg itself: one message there, one back. See `Backend.value`."""
        known: Any = connection.sync_connection
        return await known.connection.driver_connection.fetchval(query)

    async def lock(self, connection: AsyncConnection) -> None:
        """Keep every other process from making tables until this transaction ends."""
        await connection.execute(text("SET LOCAL lock_timeout = 0"))  # whoever has it may have much to do
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})

    def trouble(self, error: Exception) -> str | None:
        """Why the server cannot be used now; None if the statement is at fault."""
        if isinstance(error, PoolTimeout):
            return f"all connections were taken for {self._timeout:g} s"
        if isinstance(error, TimeoutError):
            return "it did not answer in time"
        if isinstance(error, ConnectionError):
            return reason(error)
        if not isinstance(error, DBAPIError):
            return None
        state = getattr(error.orig, "sqlstate", None) or ""
        if error.connection_invalidated or state.startswith(_CLASSES) or state in _STATES:
            return reason(error)
        return None


_implements: type[Backend] = Postgresql
