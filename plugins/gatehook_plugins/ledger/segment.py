"""A file that lines are appended to, mapped into memory: to write one is to copy it there, without a system call."""

import mmap
import os
from pathlib import Path

__all__ = ["Segment", "created"]


class Segment:
    """One file of a journal: room that is meant to be written to, and behind it a reserve. The rest of it is zeros."""

    def __init__(self, number: int, path: Path, room: int, reserve: int) -> None:
        """Make the file. Its place on the disk is taken now: later, a full disk would be a SIGBUS.

        Raises:
            OSError: it cannot be made; nothing of it is left.
        """
        self.number = number
        file = created(path)
        try:
            os.posix_fallocate(file, 0, room + reserve)
            # Mapped twice, so that mmap itself tells where the room ends: nobody has to count along.
            self._room, self._whole = mmap.mmap(file, room), mmap.mmap(file, room + reserve)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        self.write = self._room.write
        """Appends a line; ValueError, and nothing is written, if there is no room left for it."""

    @property
    def size(self) -> int:
        """Bytes that were written."""
        return max(self._room.tell(), self._whole.tell())

    def is_enough_for(self, line: bytes) -> bool:
        """Whether there is room for a line, or reserve."""
        return self.size + len(line) <= len(self._whole)

    def write_anyway(self, line: bytes) -> None:
        """Append a line, into the reserve if need be; `write` finds no room after that."""
        try:
            self.write(line)
        except ValueError:
            self._whole.seek(self.size)
            self._whole.write(line)
            self._room.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Write no more."""
        self._room.close()
        self._whole.close()


def created(path: Path) -> int:
    """A new file, open, that only its owner can read.

    Raises:
        OSError: it cannot be made, or is there.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
