"""Which workers of a machine live: each holds a lock of the operating system, which goes with its process."""

import fcntl
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Final

__all__ = ["Lives"]

_AT_ONCE: Final = fcntl.LOCK_EX | fcntl.LOCK_NB


class Lives:
    """One worker's view of all. To be used by one worker at a time: who looks at a lock has it for a moment."""

    def __init__(self, folder: Path, worker: int) -> None:
        """Tell the others that `worker`, which is this process, lives."""
        self._folder = folder
        self._own = FileIO(self._path(worker), "a")
        with suppress(BlockingIOError):  # then it is known to live
            fcntl.flock(self._own, _AT_ONCE)

    def has_ended(self, worker: int) -> bool:
        """Whether no process is this worker, now; not if that cannot be told."""
        try:
            with FileIO(self._path(worker), "a") as file:
                fcntl.flock(file, _AT_ONCE)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """This one ends."""
        self._own.close()

    def _path(self, worker: int) -> Path:
        return self._folder / f"rate_limit.worker-{worker}"
