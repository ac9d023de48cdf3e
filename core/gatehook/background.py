"""Background tasks, of which most lifespans are made."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

__all__ = ["meanwhile"]

log: Final = logging.getLogger("gatehook")


@contextlib.asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Run `work` in the background while this context is open, then cancel it and wait for it.

    It is meant to run without end. If it fails, that is logged at once, and the context stays open.
    """
    task = asyncio.create_task(work, name=getattr(work, "__qualname__", "work"))
    task.add_done_callback(_tell)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])  # `await task` could not tell its cancellation from our own


def _tell(task: asyncio.Task[object]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s has failed, and does not run any more", task.get_name(), exc_info=error)
