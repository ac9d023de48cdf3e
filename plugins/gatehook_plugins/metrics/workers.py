"""The numbers of all workers: each has a file in the folder they share, and whichever is asked adds them up.

What a worker has counted outlives it: the next one of the same number goes on in its file. A worker that lives has its
file locked.
"""

import contextlib
import fcntl
import mmap
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from gatehook_plugins.metrics.numbers import Numbers, Page, used_words

__all__ = ["own_numbers", "pages"]


@contextlib.contextmanager
def own_numbers(folder: Path, worker: int) -> Iterator[Numbers]:
    """Numbers in a file, which the other workers can read. To be opened by the process that counts."""
    path = folder / f"metrics.{worker}"
    path.touch()
    with FileIO(path, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits, as `_is_locked` elsewhere holds the lock for a moment
        yield Numbers(file, worker)


def pages(folder: Path) -> Iterator[tuple[Page, bool]]:
    """What every worker has counted, those that have ended too, and whether each is alive."""
    for path in folder.glob("metrics.*"):
        with FileIO(path) as file:
            if used := used_words(file):  # read before the file is mapped, as both may grow meanwhile
                yield Page(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), used), _is_locked(file)


def _is_locked(file: FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
