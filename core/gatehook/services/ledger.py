"""The ledger: one row per request; and what other plugins book in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from gatehook.accounts import ModelUsage, Performance, UsageRow

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection
from gatehook.services.registry import ServiceKey

__all__ = ["LEDGER", "Ledger", "Posting"]


class Posting(Protocol):
    """What books the ledger's rows elsewhere, in the same transaction."""

    async def post(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
        """Book these rows; each comes exactly once in a transaction that is committed."""
        ...

    def posted(self, rows: Sequence[UsageRow]) -> None:
        """Take note that the transaction with these rows is committed."""
        ...

    async def closed(self, connection: AsyncConnection, owner: str) -> None:
        """Free what the process `owner` still holds: it has ended or died, and all rows of its are booked."""
        ...


class Ledger(Protocol):
    """One row per request, written in groups; rows that are not yet in the database are in a journal on disk."""

    @property
    def owner(self) -> str:
        """This process's random name, which no other has that writes to the same database."""
        ...

    def book(self, posting: Posting) -> None:
        """Have `posting` book every row, too. To be called before the ledger's lifespan begins."""
        ...

    async def flush(self) -> None:
        """Wait until the row of every request that has ended is in the database.

        Raises:
            Unavailable: the database cannot be written to now; nothing is lost.
        """
        ...

    async def correct(
        self, actor: str, user_id: str, *, model: str = "", tokens: int = 0, cost: int = 0, reason: str
    ) -> UsageRow:
        """Add usage by hand, or take it back by negative figures (`cost` in nano-dollars); written to the audit.

        Raises:
            InvalidRequest: there is nothing to correct, or the amounts are absurd. Unavailable: the database is away.
        """
        ...

    async def usage(
        self, start: int, end: int, *, user_id: str | None = None, model: str | None = None
    ) -> Sequence[ModelUsage]:
        """What was used of each model from `start` until before `end` (epoch ms); flushes first."""
        ...

    async def performance(
        self, start: int, end: int, *, user_id: str | None = None, model: str | None = None
    ) -> Performance:
        """How requests went from `start` until before `end` (epoch ms); flushes first."""
        ...

    async def rows(
        self, *, user_id: str | None = None, model: str | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[UsageRow]:
        """Single rows, the newest first, those that ended before `before` (epoch ms)."""
        ...


LEDGER: ServiceKey[Ledger] = ServiceKey("ledger", provider="ledger")
