"""Heartbeats: an engine that hangs is ended by its host, and by itself if the host is gone."""

import asyncio
import contextlib
import faulthandler
import sys
from collections.abc import Callable
from typing import Final

__all__ = ["beat"]

_PERIOD: Final = 5.0
"""Seconds between two signs, at most."""
_OFTEN: Final = 8
"""At least so many signs come within the time that the host waits for one."""
_PATIENCE: Final = 1.5
"""The engine waits longer than the host, by this factor, before it ends itself."""


async def beat(tell: Callable[[], None], progress: Callable[[], int | None], limit: float) -> None:
    """Give signs of life for ever, as long as the engine has nothing to do or has computed a step since the last one.

    If it has not for long, or this task does not get to run, the process ends and prints what its threads are doing.

    Args:
        tell: gives a sign of life.
        progress: how many steps were computed; None if there is nothing to do.
        limit: seconds without a sign after which the host takes the engine for hung.
    """

    def goes_on() -> None:
        with contextlib.suppress(OSError):  # who listened has gone
            tell()
        # Its timer is a thread of the interpreter that does not need the GIL: it works where nothing else does.
        faulthandler.dump_traceback_later(limit * _PATIENCE, exit=True, file=sys.stderr)

    goes_on()
    before = None
    while True:
        now = progress()
        if now is None or now != before:
            goes_on()
        before = now
        await asyncio.sleep(min(_PERIOD, limit / _OFTEN))
