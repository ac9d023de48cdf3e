"""What differs between the databases."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy.engine import Connection

from gatehook_plugins.database.engines import AsyncConnection, AsyncEngine

__all__ = ["Backend", "reason"]

T = TypeVar("T")


class Backend(Protocol):
    """A kind of database: how it is opened and locked, and which of its errors mean that it cannot be used now."""

    @property
    def dialect(self) -> Literal["sqlite", "postgresql"]:
        """Which kind it is, where its SQL differs (upserts)."""
        ...

    @property
    def where(self) -> str:
        """Names it in logs and messages, without a password."""
        ...

    def create(self) -> None:
        """Make what must be there before anything connects. Blocks.

        Raises:
            StartupError: it cannot be made.
        """
        ...

    def is_missing(self) -> bool:
        """Whether `create` has yet to make it, and could. Blocks.

        Raises:
            StartupError: it has to, and could not.
        """
        ...

    def engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        """The engine that reads, and the engine that writes."""
        ...

    async def begin(self, connection: AsyncConnection) -> None:
        """Begin a transaction that writes, when it is this process's turn."""
        ...

    def begin_within(self, connection: Connection) -> None:
        """As `begin`, for work that runs `within` already."""
        ...

    @property
    def shares(self) -> bool:
        """Whether only one transaction can write at a time, so that work had better share them."""
        ...

    async def within(self, connection: AsyncConnection, work: Callable[[Connection], T]) -> T:
        """The result of `work`, a plain function that needs nothing but the connection; run where that costs least."""
        ...

    async def value(self, connection: AsyncConnection, query: str) -> Any:
        """The first value that a short query gives, outside of any transaction, and past SQLAlchemy."""
        ...

    async def lock(self, connection: AsyncConnection) -> None:
        """Keep every other process from making tables until this writing transaction ends."""
        ...

    def trouble(self, error: Exception) -> str | None:
        """Why the database cannot be used now, if that is what `error` says; None if the statement is at fault."""
        ...


def reason(error: BaseException) -> str:
    """An error of a driver, in one line; without the statement and its values, which SQLAlchemy wraps it in."""
    error = getattr(error, "orig", None) or error
    return " ".join(str(error).split()) or type(error).__name__
