"""Writes rows into the database, together with what other plugins book of them: all in one transaction, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select

from gatehook import DATABASE, Posting, Services, UsageRow, counted
from gatehook_plugins.ledger.table import insertions, usage

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["GROUP", "Booker"]

log = logging.getLogger("gatehook.ledger")

GROUP = 2000
"""Rows of one transaction, at most."""


class Booker:
    """Writes rows, and has them posted."""

    def __init__(self, services: Services) -> None:
        """Args: `services`, of which the database is used, once there is something to write."""
        self._services = services
        self._postings: list[Posting] = []

    def add(self, posting: Posting) -> None:
        """Have every row booked by this posting too."""
        self._postings.append(posting)

    async def book(self, rows: Sequence[UsageRow], *, again: bool) -> Sequence[UsageRow]:
        """Write these rows. With `again`, those that are there already are left out; gives the others.

        Raises:
            Unavailable: the database cannot be written to now. The rows may be there all the same: try `again`.
        """
        async with self._services[DATABASE].writing() as connection:
            fresh = await _missing(connection, rows) if again else rows
            if fresh:
                await self.write(connection, fresh)
        return fresh

    async def write(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
        """Write the rows and have them posted, in the caller's transaction."""
        for statement, parameters in insertions(connection.dialect.paramstyle, rows):
            await connection.exec_driver_sql(statement, parameters)
        for posting in self._postings:
            await posting.post(connection, rows)

    def posted(self, rows: Sequence[UsageRow]) -> None:
        """Tell that these are in the database for good."""
        for posting in self._postings:
            try:
                posting.posted(rows)
            except Exception:
                log.exception("%s could not take note of %s", type(posting).__name__, counted(len(rows), "row"))

    async def closed(self, owner: str) -> None:
        """Tell that all of this owner's rows are booked.

        Raises:
            Unavailable: the database cannot be written to now.
        """
        if self._postings:
            async with self._services[DATABASE].writing() as connection:
                for posting in self._postings:
                    await posting.closed(connection, owner)


async def _missing(connection: AsyncConnection, rows: Sequence[UsageRow]) -> Sequence[UsageRow]:
    ids = [row.request_id for row in rows]
    there = set(await connection.scalars(select(usage.c.request_id).where(usage.c.request_id.in_(ids))))
    return [row for row in rows if row.request_id not in there]
