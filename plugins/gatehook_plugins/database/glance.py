"""Polls by one short query, on a connection kept for that, outside of any transaction.

That takes a fifth of what a transaction of SQLAlchemy's does, and to poll for changes is all that an idle worker does.
Failures are not reported here: whoever gets no answer asks again in a transaction, which reports them.
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
"""Seconds that an answer may take, before the usual way is taken."""
_REST: Final = 10.0
"""Seconds after a failure in which this is not tried: a database that is away would be asked twice each time."""


class Glance:
    """A connection for short queries, one after another: await each before the next."""

    def __init__(self, backend: Backend, connect: Callable[[], Awaitable[AsyncConnection]]) -> None:
        """`connect` gives a connection of those that only read."""
        self._backend = backend
        self._connect = connect
        self._connection: AsyncConnection | None = None
        self._rests_until = 0.0

    async def value(self, query: str) -> Any:
        """The first value that `query` gives; None if it could not be had in this way."""
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
        """Have the connection closed, not reused: the answer that was not waited for may still come on it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.shield(asyncio.ensure_future(_ended(connection)))


async def _ended(connection: AsyncConnection) -> None:
    with contextlib.suppress(Exception):  # it may be cut already
        await connection.invalidate()
    with contextlib.suppress(Exception):
        await connection.close()
