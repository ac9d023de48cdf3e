"""Signs of life: an engine that hangs is ended by who began it, and by itself where nobody is left to do so."""

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
"""Signs within the time that somebody waits for one, at least."""
_PATIENCE: Final = 1.5
"""How much longer than others the engine itself waits before it ends."""


async def beat(tell: Callable[[], None], progress: Callable[[], int | None], limit: float) -> None:
    """Tell again and again that the engine goes on, for ever.

    It does while it has nothing to do, or has computed a step since it was looked at last. If it does neither for long,
    or has not even a moment for this, the process ends, and prints what its threads are at.

    Args:
        tell: gives a sign of life.
        progress: how many steps were computed; None if there is nothing to do.
        limit: seconds without a sign after which others take the engine for hung.
    """

    def goes_on() -> None:
        with contextlib.suppress(OSError):  # who listened has gone
            tell()
        # A thread of the interpreter waits for this, and needs no lock: it works where nothing else does.
        faulthandler.dump_traceback_later(limit * _PATIENCE, exit=True, file=sys.stderr)

    goes_on()
    before = None
    while True:
        now = progress()
        if now is None or now != before:
            goes_on()
        before = now
        await asyncio.sleep(min(_PERIOD, limit / _OFTEN))
