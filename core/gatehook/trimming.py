"""Old rows of tables that would only grow, deleted a few at a time while the gateway serves."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from gatehook.background import meanwhile
from gatehook.counting import counted

__all__ = ["Trimmer"]

log: Final = logging.getLogger("gatehook")

_DAY: Final = 86_400_000
"""Milliseconds."""
_FIRST: Final = 60.0
"""Seconds until the first time."""
_PERIOD: Final = 3600.0
"""Seconds from one time to the next."""
_BREATH: Final = 0.05
"""Seconds between two deletions, in which others may write."""


class Trimmer:
    """Deletes old rows of one table. Several processes may do so at once."""

    def __init__(self, what: str, keep_days: int, delete: Callable[[int], Awaitable[int]]) -> None:
        """Take the table's parameters.

        Args:
            what: its rows, for the log: "rows of the ledger".
            keep_days: for how many days they are kept.
            delete: deletes a few rows older than an instant (epoch ms), and returns how many; 0 if none is left.
        """
        self._what = what
        self._keep = keep_days * _DAY
        self._delete = delete

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Trim every hour while this context is open."""
        async with meanwhile(self._run()):
            yield

    async def trim(self) -> int:
        """Delete all rows that are too old; returns how many there were.

        Raises:
            Unavailable: the database is away; what was deleted before stays deleted.
        """
        before, deleted = time.time_ns() // 1_000_000 - self._keep, 0
        while count := await self._delete(before):
            deleted += count
            await asyncio.sleep(_BREATH)
        if deleted:
            age = counted(self._keep // _DAY, "day")
            log.info("%s deleted, as they are older than %s: %d", self._what, age, deleted)
        return deleted

    async def _run(self) -> None:
        pause = _FIRST
        while True:
            await asyncio.sleep(pause)
            pause = _PERIOD
            try:
                await self.trim()
            except Exception as error:  # noqa: BLE001  # whatever it is, the next time may go well
                log.error("%s that are too old cannot be deleted now: %s", self._what, error or repr(error))  # noqa: TRY400
