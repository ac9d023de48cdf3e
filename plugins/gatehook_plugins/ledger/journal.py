"""What the database does not have yet, on disk: written before a request is made and before its answer ends.

Each process has files of its own in one directory: `OWNER.lock`, which it holds locked (flock) as long as it lives, and
the segments `OWNER-1.journal`, `OWNER-2.journal` and so on, to which it only appends. A line is one write to the file
system, so it survives the process, if not a power cut. A segment is deleted as soon as all its rows are in the
database; the requests that are still under way are copied into the next one.

The lock file holds the name of the book, that is of the database, so that nobody enters the rows of one into another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from gatehook import UsageRow
from gatehook_plugins.ledger.records import Intent, Record, line, records

__all__ = ["Estate", "Journal", "Place"]

log = logging.getLogger("gatehook.ledger")

SEGMENT_BYTES = 8 << 20
"""When a new segment is begun: some ten thousand requests."""


class Place(NamedTuple):
    """Where a line begins: the segment's number, and the byte."""

    segment: int
    offset: int


class Journal:
    """The files of this process. Its methods are short enough for the event loop, except `read`."""

    def __init__(self, directory: Path, book: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Begin a journal for this book.

        Raises:
            OSError: the directory or the files cannot be made.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._segment_bytes = self._limit = segment_bytes
        self._under_way: dict[str, bytes] = {}
        self._owed: Counter[int] = Counter()
        """Rows of each segment that are not in the database."""
        self._segment, self._size = 1, 0
        self.owner, self._lock = _owner(directory, book)
        try:
            self._file = _created(self._path(1))
        except OSError:
            self._release()
            raise

    @property
    def end(self) -> Place:
        """Where the next line will begin."""
        return Place(self._segment, self._size)

    def intend(self, intent: Intent) -> None:
        """Write that a request is about to be made.

        Raises:
            OSError: it cannot be written (the disk is full); nothing of it is left.
        """
        text = line(intent)
        self._append(text)
        self._under_way[intent.request_id] = text

    def enter(self, row: UsageRow) -> Place:
        """Write that a request has ended.

        Raises:
            OSError: as `intend`; the request still counts as under way.
        """
        place = self._append(line(row))
        self._under_way.pop(row.request_id, None)
        self._owed[place.segment] += 1
        return place

    def booked(self, row: UsageRow, place: Place | None) -> None:
        """This row is in the database; `place` is what `enter` gave, None if it could not be written here."""
        if place is None:
            self._under_way.pop(row.request_id, None)
            return
        self._owed[place.segment] -= 1
        self._clear(place.segment)

    def read(self, place: Place, limit: int) -> tuple[list[tuple[UsageRow, Place]], Place]:
        """Rows from `place` on, at most `limit`, each with its own place, and where to go on. Reads files; slow.

        Raises:
            OSError: a segment of which rows are not in the database yet cannot be read.
        """
        found: list[tuple[UsageRow, Place]] = []
        end = self.end
        segment, offset = place
        while len(found) < limit:
            try:
                for record, after in records(self._path(segment), offset):
                    if isinstance(record, UsageRow):
                        found.append((record, Place(segment, offset)))
                    offset = after
                    if len(found) == limit:
                        break
            except FileNotFoundError:
                if self._owed[segment]:
                    raise
            if len(found) == limit or segment >= end.segment:
                break
            segment, offset = segment + 1, 0
        return found, Place(segment, offset)

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was ever written."""
        return self.end == (1, 0)

    @property
    def is_settled(self) -> bool:
        """Whether nothing in it is still needed."""
        return not self._under_way and not self._owed.total()

    def close(self) -> None:
        """Leave the files, if there are any, to whoever comes next."""
        os.close(self._file)
        os.close(self._lock)

    def remove(self) -> None:
        """Delete the files, of which nothing is needed any more, and close."""
        for segment in {*self._owed, self._segment}:
            self._path(segment).unlink(missing_ok=True)
        os.close(self._file)
        self._release()

    def _release(self) -> None:
        (self._directory / f"{self.owner}.lock").unlink(missing_ok=True)
        os.close(self._lock)

    def _path(self, segment: int) -> Path:
        return self._directory / f"{self.owner}-{segment}.journal"

    def _append(self, text: bytes) -> Place:
        if self._size >= self._limit:
            self._turn()
        try:
            if os.write(self._file, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)  # half a line would spoil the next
            raise
        place = Place(self._segment, self._size)
        self._size += len(text)
        return place

    def _turn(self) -> None:
        """Go on in a new segment; if that cannot be begun, in this one for now."""
        carried = b"".join(self._under_way.values())
        path = self._path(self._segment + 1)
        try:
            file = _created(path)
            try:
                _write_all(file, carried)
            except OSError:
                os.close(file)
                path.unlink(missing_ok=True)
                raise
        except OSError:
            self._limit = self._size + self._segment_bytes
            return
        os.close(self._file)
        left = self._segment
        self._file, self._segment, self._size = file, left + 1, len(carried)
        self._limit = max(self._segment_bytes, 2 * len(carried))
        self._clear(left)

    def _clear(self, segment: int) -> None:
        if segment != self._segment and not self._owed[segment]:
            del self._owed[segment]
            self._path(segment).unlink(missing_ok=True)


class Estate:
    """The files of a process that has died, locked for whoever found them."""

    def __init__(self, directory: Path, owner: str, lock: int) -> None:
        self.owner = owner
        self.book = os.pread(lock, 256, 0).decode("utf-8", "replace")
        """What its rows are to be entered into; "" if it died before it could say, and so before it had any."""
        self._directory = directory
        self._lock = lock
        self._damaged: set[Path] = set()

    @classmethod
    def claimed(cls, directory: Path) -> Iterator[Self]:
        """Every one that nobody else holds. Close each before the next."""
        for path in sorted(directory.glob("*.lock")):
            lock = _locked(path)
            if lock is not None:
                yield cls(directory, path.stem, lock)

    def records(self) -> Iterator[Record]:
        """All its lines, in the order they were written; damaged ones are told in the log.

        Raises:
            OSError: a segment cannot be read.
        """
        for segment in self._segments():
            for record, after in records(segment):
                if not isinstance(record, Intent | UsageRow):
                    self._damaged.add(segment)
                    log.error("%s: the line that ends at byte %d is damaged; it is left out", segment, after)
                yield record

    def remove(self) -> None:
        """Delete what is all in the database now. Segments with damaged lines are kept under another name."""
        for segment in self._segments():
            if segment in self._damaged:
                segment.rename(segment.with_suffix(".damaged"))
            else:
                segment.unlink(missing_ok=True)
        (self._directory / f"{self.owner}.lock").unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._lock)

    def _segments(self) -> list[Path]:
        found = self._directory.glob(f"{self.owner}-*.journal")
        return sorted(found, key=lambda path: int(path.stem.rpartition("-")[2]))


def _owner(directory: Path, book: str) -> tuple[str, int]:
    """A new owner and its lock."""
    while True:
        owner = secrets.token_hex(8)
        path = directory / f"{owner}.lock"
        os.close(_created(path))
        lock = _locked(path)
        if lock is not None:  # else somebody took it for a dead one's, and deletes it
            os.write(lock, book.encode())
            return owner, lock


def _locked(path: Path) -> int | None:
    """The file, open and locked; None if somebody else holds it, or has deleted it."""
    try:
        lock = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(lock).st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def _created(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
