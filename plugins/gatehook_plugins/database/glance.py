"""One short question, asked again and again: on a connection kept for it, outside of any transaction.

So it takes a fifth of what a transaction of SQLAlchemy's does, and all that an idle worker does is to look for changes.
What goes wrong here is not told: who gets no answer asks in a transaction, which tells it.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gatehook_plugins.database.backend import Backend
from gatehook_plugins.database.engines import AsyncConnection

__all__ = ["Glance"]

_PATIENCE: Final = 1.0
"""Seconds that an answer may take; this is the short way or none."""
_REST: Final = 10.0
"""Seconds without one after a failure: else a database that is away would be tried twice each time."""


class Glance:
    """Who asks waits for the answer before the next question."""

    def __init__(self, backend: Backend, connect: Callable[[], Awaitable[AsyncConnection]]) -> None:
        """`connect` gives a connection of those that only read."""
        self._backend = backend
        self._connect = connect
        self._connection: AsyncConnection | None = None
        self._rests_until = 0.0

    async def value(self, query: str) -> Any:
        """The first value that it gives; None if it cannot be asked so now."""
        if time.monotonic() < self._rests_until:
            return None
        try:
            async with asyncio.timeout(_PATIENCE):
                if self._connection is None:
                    self._connection = await self._connect()
                return await self._backend.value(self._connection, query)
        except Exception:  # noqa: BLE001  # whatever it is, the usual way tells it
            self._rests_until = time.monotonic() + _REST
            await self._drop()
            return None
        except asyncio.CancelledError:
            await self._drop()
            raise

    async def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        self._rests_until = 0.0
        if connection is not None:
            await connection.close()

    async def _drop(self) -> None:
        """Nobody knows what becomes of a question that was not waited for; so nobody else shall have the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.shield(asyncio.ensure_future(_ended(connection)))


async def _ended(connection: AsyncConnection) -> None:
    with contextlib.suppress(Exception):  # it may be cut already
        await connection.invalidate()
    with contextlib.suppress(Exception):
        await connection.close()
