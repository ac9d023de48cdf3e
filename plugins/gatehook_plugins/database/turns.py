"""Whose turn it is to write an SQLite file that several processes share.

SQLite's lock knows no order: it goes to whoever asks at the right moment. A process with much to write asks again a
moment after each transaction, while another, which looks now and then, finds the file locked each time, for seconds. So
who wants to write takes the place at the door first, and keeps it only until SQLite's lock is its own: whoever has just
written comes after. The place is a lock of the operating system, on a file of its own; it goes with its process.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["turn"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.008
"""Seconds between two looks whether the place is free."""
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


@contextlib.contextmanager
def turn(door: Path, patience: float, given_up: Callable[[], bool]) -> Iterator[None]:
    """The place at the door, once it is free; after `patience` seconds, or if `door` cannot be used, go on without.

    It is only for fairness: a process that stands still there must not stop all others. Blocks, unless `given_up`.
    """
    try:
        place = os.open(door, _FLAGS, 0o600)
    except OSError:
        yield
        return
    try:
        pause, end = _FIRST_PAUSE, time.monotonic() + patience
        while not (_is_taken(place) or given_up() or time.monotonic() > end):
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        yield
    finally:
        os.close(place)


def _is_taken(place: int) -> bool:
    """Whether it is ours now."""
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
