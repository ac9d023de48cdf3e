"""The database: reading, writing, and what changes elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection
from gatehook.services.registry import ServiceKey

__all__ = ["DATABASE", "Database"]

T = TypeVar("T")


class Database(Protocol):
    """The database of the settings, SQLite or PostgreSQL, through SQLAlchemy."""

    @property
    def dialect(self) -> Literal["sqlite", "postgresql"]:
        """Which of the two it is, where that matters (upserts)."""
        ...

    @property
    def works(self) -> bool:
        """Whether reading and writing worked when they were last tried; /health goes by this."""
        ...

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Keep it open while this context is; for commands, as its plugin opens it for serving. May be nested."""
        ...

    async def inspect(self) -> None:
        """Find out, for `gatehook check`, whether it could be opened; nothing is made or changed.

        Raises:
            StartupError: it could not.
        """
        ...

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection that only reads, and sees one state of the data.

        Raises:
            Unavailable: the database cannot be reached, or is locked for too long.
        """
        ...

    def writing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction: committed at the end, or, if that raises, rolled back. On SQLite there is one at a time.

        Raises:
            Unavailable: the database cannot be reached, is locked for too long, or its disk is full.
        """
        ...

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do short work in a transaction, and return its result when that is committed: the fastest way to write.

        Work that comes at the same time may share a transaction; a piece that fails leaves no trace in it. If the wait
        is cancelled, the work may be done or not.

        Args:
            work: awaits nothing but the connection, and touches nothing that belongs to the event loop: on SQLite it
                runs in another thread.

        Raises:
            Unavailable: as for `writing`. Exception: what `work` raises.
        """
        ...

    async def migrate(self, name: str, package: str) -> None:
        """Bring the tables of plugin `name` up to date, by the alembic revisions in `package`.versions.

        Each plugin has a history of its own. Processes that start together do it one after another.

        Raises:
            StartupError: the tables are newer than the revisions, or a revision failed.
        """
        ...


DATABASE: ServiceKey[Database] = ServiceKey("database", provider="database")
