"""Follows what changes, here and in other processes, by looking at the audit several times a second."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from gatehook import Unavailable, meanwhile
from gatehook_plugins.database.memory import Memory
from gatehook_plugins.database.trail import EVERYTHING, Trail

__all__ = ["Feed"]

log: Final = logging.getLogger("gatehook.database")

_PERIOD: Final = 0.3
"""Seconds between two looks; a change is known everywhere within a second."""


class Feed:
    """Tells the memory, and whoever else has subscribed, what has changed; and how long they may trust what they know.

    `grace` is how long, in seconds, memory is good while the database is away. `before` is given what has changed,
    and brings up to date what others will look at when they are told; `after` follows each look.
    """

    def __init__(
        self,
        trail: Trail,
        memory: Memory,
        grace: float,
        before: Callable[[Sequence[tuple[str, str]]], Awaitable[None]],
        after: Callable[[], Awaitable[None]],
    ) -> None:
        self._trail = trail
        self._memory = memory
        self._grace = grace
        self._before = before
        self._after = after
        self._last = 0
        self._looked = 0.0
        self._is_over = False
        self._looking = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow, as long as this is open.

        Raises:
            Unavailable: the database cannot be read to begin with.
        """
        self._looked = time.monotonic()
        self._last = await self._trail.number()
        await self._before([EVERYTHING])
        self._trail.tell([EVERYTHING])
        self._memory.trust(self._looked + self._grace)
        await self._after()
        try:
            async with meanwhile(self._follow()):
                yield
        finally:
            await self._memory.stop()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD)
            try:
                await self.look()
            except Unavailable:
                self._missed()
            except Exception:  # whatever it is, the next look may go well; without looks nobody could be let in
                log.exception("changes cannot be followed")
                self._missed()

    async def look(self) -> None:
        """Learn what has changed since the last time.

        Raises:
            Unavailable: the database is away.
        """
        async with self._looking:
            began = time.monotonic()
            last, changes = await self._trail.since(self._last)
            await self._before(changes)
            self._last = last
            self._trail.tell(changes)
            self._looked = began
            if self._memory.is_away:
                log.warning("the database is back; users and keys are looked up again")
            self._memory.trust(began + self._grace)
            self._is_over = False
            await self._after()

    def _missed(self) -> None:
        if not self._memory.is_away:
            log.warning("the database is away; users and keys in memory are good for %g seconds", self._grace)
        self._memory.is_away = True
        if not self._is_over and time.monotonic() > self._looked + self._grace:
            self._is_over = True
            log.error("the database has been away for %g seconds; no keys are accepted until it is back", self._grace)
