"""Old rows leave the ledger. What was booked of them elsewhere (balances) stays as it is."""

from typing import Final

from sqlalchemy import delete, select

from gatehook import DATABASE, Services
from gatehook_plugins.ledger.table import usage

__all__ = ["delete_some"]

_MOST: Final = 500
"""Rows of one transaction: others wait for it, and no longer than for a group of rows that is written."""


async def delete_some(services: Services, before: int) -> int:
    """Delete a few rows that ended before an instant (epoch ms), the oldest first; gives how many.

    Raises:
        Unavailable: the database cannot be written to now.
    """
    old = select(usage.c.id).where(usage.c.at < before).order_by(usage.c.at).limit(_MOST)
    async with services[DATABASE].writing() as connection:
        return (await connection.execute(delete(usage).where(usage.c.id.in_(old)))).rowcount
