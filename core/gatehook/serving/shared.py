"""The folder that the workers of one gateway share, in memory (/dev/shm) where there is room.

Every process that uses it holds a lock on it. So the folder of a gateway that was killed can be told from one in use,
and the next gateway removes it.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["shared_folder"]

_PREFIX = "gatehook-"
_ROOM = 256 << 20
"""Bytes that must be free in memory."""
_IN_MEMORY = Path("/dev/shm")  # noqa: S108  # the folders in it are private, and named by mkdtemp


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """A new private folder while this context is open. Forked children hold its lock, too."""
    base = _base()
    _remove_abandoned(base)
    folder, lock = _made(base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _base() -> Path:
    # What is shared is written all the time and never has to be kept: on a disk, flushing it would hold up the workers.
    if os.access(_IN_MEMORY, os.W_OK):
        room = os.statvfs(_IN_MEMORY)
        if room.f_bavail * room.f_frsize >= _ROOM:  # containers often have little
            return _IN_MEMORY
    return Path(tempfile.gettempdir())


def _made(base: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        with contextlib.suppress(FileNotFoundError):  # another gateway took it for abandoned before it was locked
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or somebody else's
            continue
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:  # in use
            pass
        finally:
            os.close(lock)
