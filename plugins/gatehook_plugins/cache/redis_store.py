"""Answers in Redis, for all processes and machines. Nobody waits for it longer than its timeout."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

from gatehook import RedisSettings
from gatehook.redis_line import Gone, RedisLine
from gatehook_plugins.cache.store import Store

__all__ = ["RedisStore"]

log = logging.getLogger("gatehook.cache")

_WRITES: Final = 16
"""Answers that may be on their way to Redis; what comes on top is not kept, and leaves connections for reading."""


class RedisStore:
    """A Redis that is slow or gone is a cache without answers: told once, then again when it is back."""

    def __init__(self, settings: RedisSettings) -> None:
        """Made ready; nothing is sent.

        Raises:
            StartupError: the URL is none of Redis, or the package for it is not installed.
        """
        self._line = RedisLine(settings, log, gone="no answers are cached", back="answers are cached")
        self._prefix = f"{settings.prefix}:cache:1:".encode()
        self._writes: set[asyncio.Future[Any]] = set()

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """End with no command under way and no connection open."""
        try:
            await self._line.open()
            yield
        finally:
            await asyncio.gather(*self._writes)
            await self._line.close()

    async def get(self, key: bytes) -> bytes | None:
        """See `Store`."""
        name = self._name(key)
        with contextlib.suppress(Gone):
            data: bytes | None = await self._line.ask(lambda client: client.get(name))
            return data
        return None

    def put(self, key: bytes, data: bytes, seconds: float) -> None:
        """See `Store`."""
        if len(self._writes) < _WRITES:
            writing = asyncio.ensure_future(self._write(self._name(key), data, max(1, int(seconds * 1000))))
            self._writes.add(writing)
            writing.add_done_callback(self._writes.discard)

    async def _write(self, name: bytes, data: bytes, milliseconds: int) -> None:
        with contextlib.suppress(Gone):
            await self._line.ask(lambda client: client.set(name, data, px=milliseconds))

    def _name(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()


_implements: type[Store] = RedisStore
