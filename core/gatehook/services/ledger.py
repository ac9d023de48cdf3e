"""One row per request, and what is booked with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from gatehook.accounts import ModelUsage, Performance, UsageRow

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection
from gatehook.services.registry import ServiceKey

__all__ = ["LEDGER", "Ledger", "Posting"]


class Posting(Protocol):
    """Something that books what the ledger writes, in the same transaction."""

    async def post(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
        """Book these rows; each comes exactly once in a transaction that is committed."""
        ...

    def posted(self, rows: Sequence[UsageRow]) -> None:
        """The transaction is committed."""
        ...

    async def closed(self, connection: AsyncConnection, owner: str) -> None:
        """All that process `owner`, which has ended or died, ever wrote is booked: what it still held is free."""
        ...


class Ledger(Protocol):
    """One row per request, written in groups; what is not yet in the database is in a journal on disk."""

    @property
    def owner(self) -> str:
        """This process, among all that write to the same database: as long as it runs, a random name."""
        ...

    def book(self, posting: Posting) -> None:
        """Have every row booked there too. Before the ledger's lifespan begins."""
        ...

    async def flush(self) -> None:
        """Wait until every request that has ended is in the database.

        Raises:
            Unavailable: the database cannot be written to now; nothing is lost.
        """
        ...

    async def correct(
        self, actor: str, user_id: str, *, model: str = "", tokens: int = 0, cost: int = 0, reason: str
    ) -> UsageRow:
        """Add or (negative) take back usage by hand; audited.

        Raises:
            InvalidRequest: nothing to correct, or absurd amounts. Unavailable: the database is away.
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
