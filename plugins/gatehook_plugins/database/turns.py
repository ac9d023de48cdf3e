"""Whose turn it is to write an SQLite file that several processes share.

SQLite's lock is not fair: it goes to whoever asks at the right moment. A process with much to write asks again right
after each transaction, while another, which asks now and then, finds the file locked each time, for seconds. So whoever
wants to write first takes the place at the door, and leaves it as soon as SQLite's lock is its own: who has just
written has to queue again. The place is a lock of the operating system on a file of its own; it ends with its process.
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
    """Wait for the place at the door, and hold it meanwhile. Blocks, until `given_up` says so.

    After `patience` seconds, or if the file `door` cannot be used, go on without: it is only for fairness, and a
    process that is stopped at the door must not stop all others.
    """
    try:
        place = os.open(door, _FLAGS, 0o600)
    except OSError:
        yield
        return
    try:
        pause, end = _FIRST_PAUSE, time.monotonic() + patience
        while not (_try_lock(place) or given_up() or time.monotonic() > end):
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        yield
    finally:
        os.close(place)


def _try_lock(place: int) -> bool:
    """Lock the place, unless somebody else has it; gives whether it is ours now."""
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
