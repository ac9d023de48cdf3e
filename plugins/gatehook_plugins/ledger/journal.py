"""What the database does not have yet, on disk: written before a request is made and before its answer ends.

Each process has files of its own in one directory: `OWNER.lock`, which it holds locked (flock) as long as it lives, and
the segments `OWNER-1.journal`, `OWNER-2.journal` and so on, to which it only appends. A segment is mapped into memory:
to write a line is to copy it there, without a system call, and what was copied survives the process, if not a power
cut. What is not written yet is zeros. A segment is deleted as soon as all its rows are in the database; the requests
that are still under way are copied into the next one.

The lock file holds the name of the book, that is of the database, so that nobody enters the rows of one into another.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from gatehook_plugins.ledger.records import Damage, Intent, Record, Row, line, records
from gatehook_plugins.ledger.trouble import Trouble

__all__ = ["Estate", "Journal", "Place"]

log = logging.getLogger("gatehook.ledger")

SEGMENT_BYTES = 2 << 20
"""When a new segment is begun: some thousand requests; to delete one holds up the event loop for about 1 ms."""
_LEAST_RESERVE = 1 << 16
"""Bytes."""


class Place(NamedTuple):
    """Where a line begins: the segment's number, and the byte."""

    segment: int
    offset: int


class Journal:
    """The files of this process. Its methods are short enough for the event loop, except `read`.

    A segment has room for as much again as is meant to be written there: if no other can be begun (the disk is full),
    no request is made any more, but those under way can end.
    """

    def __init__(self, directory: Path, book: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Begin a journal for this book.

        Raises:
            OSError: the directory or the files cannot be made.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._under_way: dict[str, bytes] = {}
        self._owed: dict[int, int] = {}
        """Rows of each segment that are not in the database."""
        self._trouble = Trouble(
            "the ledger's journal cannot be written, so requests are refused until it can",
            "the ledger's journal can be written again",
        )
        self.owner, self._lock = _owner(directory, book)
        try:
            self._begin(1)
        except OSError:
            self._release()
            raise

    @property
    def end(self) -> Place:
        """Where the next line will begin, unless that is in a new segment."""
        return Place(self._segment, self._size)

    def intend(self, intent: Intent) -> None:
        """Write that a request is about to be made.

        Raises:
            OSError: it cannot be written (the disk is full); nothing of it is left.
        """
        text = line(intent)
        length = len(text)
        if self._size + length > self._limit:
            self._turn()
        self._file.write(text)
        self._size += length
        self._under_way[intent.request_id] = text

    def enter(self, row: Row) -> int:
        """Write that a request has ended. Gives the number of the segment.

        Raises:
            OSError: as `intend`; the request still counts as under way.
        """
        text = line(row)
        length = len(text)
        if self._size + length > self._limit:
            self._turn_or_use_reserve(length)
        self._file.write(text)
        self._size += length
        self._under_way.pop(row.request_id, None)
        self._owed[self._segment] += 1
        return self._segment

    def booked(self, segment: int, count: int) -> None:
        """So many more of the rows that were entered there are in the database."""
        self._owed[segment] -= count
        self._clear(segment)

    def forget(self, request_id: str) -> None:
        """The row of this request is in the database, though it could not be entered here."""
        self._under_way.pop(request_id, None)

    def read(self, place: Place, limit: int) -> tuple[list[tuple[Row, int]], Place]:
        """Rows from `place` on, at most `limit`, each with its segment, and where to go on. Reads files; slow.

        Raises:
            OSError: a segment of which rows are not in the database yet cannot be read.
        """
        found: list[tuple[Row, int]] = []
        end = self.end  # what follows may be half written
        segment, offset = place
        while len(found) < limit:
            try:
                for record, after in records(self._path(segment), offset):
                    if (segment, after) > end:
                        break
                    if isinstance(record, Row):
                        found.append((record, segment))
                    offset = after
                    if len(found) == limit:
                        break
            except FileNotFoundError:
                if self._owed.get(segment):
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
        return not self._under_way and not any(self._owed.values())

    def close(self) -> None:
        """Leave the files, if there are any, to whoever comes next; without the room that was not written to."""
        self._file.close()
        with contextlib.suppress(OSError):  # somebody has deleted it; or the zeros stay
            os.truncate(self._path(self._segment), self._size)
        os.close(self._lock)

    def remove(self) -> None:
        """Delete the files, of which nothing is needed any more, and close."""
        self._file.close()
        for segment in self._owed:
            self._path(segment).unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        (self._directory / f"{self.owner}.lock").unlink(missing_ok=True)
        os.close(self._lock)

    def _path(self, segment: int) -> Path:
        return self._directory / f"{self.owner}-{segment}.journal"

    def _turn_or_use_reserve(self, length: int) -> None:
        try:
            self._turn()
        except OSError:
            if self._size + length > len(self._file):
                raise

    def _turn(self) -> None:
        """Go on in a new segment."""
        left, file = self._segment, self._file
        try:
            self._begin(left + 1)
        except OSError as error:
            self._trouble.begin(error)
            raise
        self._trouble.end()
        file.close()
        self._clear(left)

    def _begin(self, segment: int) -> None:
        """Begin a segment with the requests that are under way; if it cannot be made, nothing changes."""
        carried = b"".join(self._under_way.values())
        limit = max(self._segment_bytes, 2 * len(carried))
        self._file = _mapped(self._path(segment), limit + max(limit, _LEAST_RESERVE))
        self._file.write(carried)
        self._segment, self._size, self._limit = segment, len(carried), limit
        self._owed[segment] = 0

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
                if isinstance(record, Damage):
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
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def _mapped(path: Path, size: int) -> mmap.mmap:
    """A new file of this size, in memory. Its room on the disk is taken now: later, a full disk would be a SIGBUS."""
    file = _created(path)
    try:
        os.posix_fallocate(file, 0, size)
        return mmap.mmap(file, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
