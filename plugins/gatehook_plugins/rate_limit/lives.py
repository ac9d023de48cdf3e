"""Which workers of a machine are alive: each holds a file lock, which the system releases when its process ends."""

import fcntl
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Final

__all__ = ["Lives"]

_AT_ONCE: Final = fcntl.LOCK_EX | fcntl.LOCK_NB


class Lives:
    """The locks of all workers, as one of them sees them.

    Only one worker at a time may use it, under another lock: to test a lock is to hold it for a moment.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        """Take the lock of `worker`, which is this process's number."""
        self._folder = folder
        self._own = FileIO(self._path(worker), "a")
        with suppress(BlockingIOError):  # somebody else of this number holds it, so it counts as alive all the same
            fcntl.flock(self._own, _AT_ONCE)

    def has_ended(self, worker: int) -> bool:
        """Whether no process has this number now; False if that cannot be found out."""
        try:
            with FileIO(self._path(worker), "a") as file:
                fcntl.flock(file, _AT_ONCE)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Release this worker's lock."""
        self._own.close()

    def _path(self, worker: int) -> Path:
        return self._folder / f"rate_limit.worker-{worker}"
