"""Finds out when a database that failed can be used again, also without any request: readiness depends on it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from gatehook import Unavailable

__all__ = ["Recovery"]

log: Final = logging.getLogger("gatehook.database")

_PAUSE: Final = 5.0
"""Seconds between two tries."""


class Recovery:
    """Tries the database again and again after a failure, until it can be used."""

    def __init__(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        """`attempt` reads and writes, and gives whether all is well; it may raise Unavailable."""
        self._attempt = attempt
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to try, unless that is under way."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop trying."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        is_told = False
        while True:
            await asyncio.sleep(_PAUSE)
            try:
                if await self._attempt():
                    return
            except Unavailable:
                pass  # it is logged
            except Exception:
                if not is_told:
                    log.exception("whether the database can be used again cannot be found out; trying on")
                is_told = True
