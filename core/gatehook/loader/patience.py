"""Lifespans that take their time: whoever waits for one to begin or to end is told for whom."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType

__all__ = ["Patient"]

log = logging.getLogger("gatehook")

_PATIENCE = 10.0
"""Seconds without a word, and between two."""


class Patient:
    """A plugin's lifespan. The log says whose it is while it is slow to begin, or to end: it may never do either."""

    def __init__(self, who: str, manager: AbstractAsyncContextManager[None]) -> None:
        """`who` is the plugin as messages call it."""
        self._who = who
        self._manager = manager
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> None:
        with self._telling("start; the gateway waits for it"):
            await self._stack.enter_async_context(self._manager)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        with self._telling("stop"):
            return await self._stack.__aexit__(kind, error, trace)

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        async def tell() -> None:
            waited = 0.0
            while True:
                await asyncio.sleep(_PATIENCE)
                waited += _PATIENCE
                log.warning("%s takes more than %g s to %s", self._who, waited, what)

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()
