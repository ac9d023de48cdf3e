"""What of all that a plugin's code may raise is its own failure, which ends one call at most."""

import asyncio
from typing import Final

__all__ = ["FAILURES", "is_failure"]

FAILURES: Final = (Exception, SystemExit, asyncio.CancelledError)
"""What is a failure of a plain method: it may want to end the program, and where nothing is awaited nobody cancels."""


def is_failure(error: BaseException) -> bool:
    """Whether an exception is a failure of what was awaited.

    A CancelledError is one too if nobody has cancelled the running task: something else was cancelled that was awaited,
    such as a future that several calls share.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() == 0
    return isinstance(error, FAILURES)
