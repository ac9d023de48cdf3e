"""Work that goes on while something else does: what lifespans are mostly made of."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

__all__ = ["meanwhile"]

log: Final = logging.getLogger("gatehook")


@contextlib.asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Let `work` run while this is open; then it is cancelled, and waited for.

    It is meant to have no end of its own. If it fails, that is logged at once, and what is open stays so.
    """
    task = asyncio.create_task(work, name=getattr(work, "__qualname__", "work"))
    task.add_done_callback(_tell)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])  # not awaited itself: our own cancellation would pass for that one's


def _tell(task: asyncio.Task[object]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s has failed, and does not run any more", task.get_name(), exc_info=error)
