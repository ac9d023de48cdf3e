"""A write-ahead log of what the database lacks: written before a request is made, and before its answer ends.

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
import os
import secrets
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, NoReturn, Self
from zlib import adler32

from gatehook_plugins.ledger.records import LINE, Damage, Intent, Record, Row, encode, line, records
from gatehook_plugins.ledger.runs import Runs
from gatehook_plugins.ledger.segment import Segment, created
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
    """The files of this process, and its rows that wait for the database.

    All of it is quick enough for the event loop, but for `read`.

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
        self.waiting: list[Row] = []
        """The rows in memory that are not in the database, in the order in which they came; always the same list."""
        self._runs = Runs()
        """The segment that each waiting row is in; None for rows that could not be written."""
        self._owed: dict[int, int] = {}
        """By segment, how many of its rows are neither waiting nor in the database."""
        self._trouble = Trouble(
            "the ledger's journal cannot be written, so requests are refused until it can",
            "the ledger's journal can be written again",
        )
        self._write: Callable[[bytes], int] = _no_more
        """Appends a line to the segment; ValueError if there is no room."""
        self.owner, self._lock = _owner(directory, book)
        try:
            self._begin(1)
        except OSError:
            self._release()
            raise

    @property
    def end(self) -> Place:
        """Where the next line will begin, unless that is in a new segment."""
        return Place(self._segment.number, self._segment.size)

    def intend(self, intent: Intent) -> None:
        """Write that a request is about to be made.

        Raises:
            OSError: it cannot be written (the disk is full); nothing of it is left.
        """
        body = encode(intent)
        text = LINE % (adler32(body), body)
        write = self._write
        try:
            write(text)
        except ValueError:  # no room
            self._turn()
            self._segment.write_anyway(text)
        self._under_way[intent.request_id] = text

    def enter(self, row: Row) -> None:
        """Write that a request has ended, and have its row wait. It waits too if it cannot be written; see `keep`."""
        body, write = encode(row), self._write
        try:
            write(LINE % (adler32(body), body))
        except ValueError:  # no room
            try:
                self._write_elsewhere(line(row))
            except OSError:
                self.keep(row)
                return
        self._under_way.pop(row.request_id, None)
        self.waiting.append(row)

    def keep(self, row: Row) -> None:
        """Have a row wait that could not be written; the journal still has its request as under way."""
        self._runs.begin(len(self.waiting), None)
        self.waiting.append(row)
        self._runs.begin(len(self.waiting), self._segment.number)

    def leave(self, row: Row) -> None:
        """Write that a request has ended, but do not have its row wait: `read` brings it back.

        Raises:
            OSError: it cannot be written.
        """
        text = line(row)
        try:
            self._write(text)
        except ValueError:  # no room
            self._write_elsewhere(text)
        self._under_way.pop(row.request_id, None)
        self._owed[self._segment.number] += 1

    def take_back(self, rows: list[tuple[Row, int]]) -> None:
        """Have rows wait after all that were left, and that `read` found: each row with its segment."""
        for segment, run in groupby(rows, itemgetter(1)):
            those = [row for row, _ in run]
            self._runs.begin(len(self.waiting), segment)
            self.waiting += those
            self._owed[segment] -= len(those)
        self._runs.begin(len(self.waiting), self._segment.number)

    def booked(self, count: int, place: int = 0) -> None:
        """Drop `count` of the waiting rows, from `place` on: they are in the database."""
        those = slice(place, place + count)
        rows = self.waiting[those]
        del self.waiting[those]
        for segment in self._runs.drop(place, count):
            if segment is not None:
                self._clear(segment)
            else:
                for row in rows:
                    self._under_way.pop(row.request_id, None)

    def refused(self, count: int) -> None:
        """Drop the first `count` of the waiting rows: the database refuses them. They stay in the files."""
        del self.waiting[:count]
        for segment, rows in self._runs.drop(0, count).items():
            if segment is not None:
                self._owed[segment] += rows

    def read(self, place: Place, end: Place, limit: int) -> tuple[list[tuple[Row, int]], Place]:
        """Rows from `place` to `end`, at most `limit`, each with its segment, and where to go on. Reads files; slow.

        What follows `end`, as it was before this was called, may be half written.

        Raises:
            OSError: a segment to which rows were left cannot be read.
        """
        found: list[tuple[Row, int]] = []
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
        return not self._under_way and not self.waiting and not any(self._owed.values())

    def close(self) -> None:
        """Leave the files to whoever comes next, cut down to what was written."""
        end = self.end
        self._shut()
        with contextlib.suppress(OSError):  # somebody has deleted it; or the zeros stay
            os.truncate(self._path(end.segment), end.offset)
        os.close(self._lock)

    def remove(self) -> None:
        """Close, and delete the files, of which nothing is needed any more."""
        self._shut()
        for segment in self._owed:
            self._path(segment).unlink(missing_ok=True)
        self._release()

    def _shut(self) -> None:
        self._segment.close()
        self._write = _no_more  # a closed map raises ValueError, which would read as "no room"

    def _release(self) -> None:
        (self._directory / f"{self.owner}.lock").unlink(missing_ok=True)
        os.close(self._lock)

    def _path(self, segment: int) -> Path:
        return self._directory / f"{self.owner}-{segment}.journal"

    def _write_elsewhere(self, text: bytes) -> None:
        """Write the line of a row for which there is no room: in a new segment, or in the reserve of this one."""
        try:
            self._turn()
        except OSError:
            if not self._segment.is_enough_for(text):
                raise
        self._segment.write_anyway(text)

    def _turn(self) -> None:
        """Go on in a new segment."""
        left = self._segment
        try:
            self._begin(left.number + 1)
        except OSError as error:
            self._trouble.begin(error)
            raise
        self._trouble.end()
        left.close()
        self._clear(left.number)

    def _begin(self, number: int) -> None:
        """Begin a segment with the requests that are under way; if it cannot be made, nothing changes."""
        carried = b"".join(self._under_way.values())
        room = max(self._segment_bytes, 2 * len(carried))
        segment = Segment(number, self._path(number), room, max(room, _LEAST_RESERVE))
        segment.write(carried)
        self._segment, self._write = segment, segment.write
        self._owed[number] = 0
        self._runs.begin(len(self.waiting), number)

    def _clear(self, segment: int) -> None:
        """Delete a segment that nothing is written to, and of which nothing is needed any more."""
        if segment not in self._runs and not self._owed[segment]:
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
        """Every estate in the directory that nobody else holds. Close each before the next."""
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
        """Delete the files: all is in the database now. Segments with damaged lines are kept under another name."""
        for segment in self._segments():
            if segment in self._damaged:
                segment.rename(segment.with_suffix(".damaged"))
            else:
                segment.unlink(missing_ok=True)
        (self._directory / f"{self.owner}.lock").unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    def _segments(self) -> list[Path]:
        found = self._directory.glob(f"{self.owner}-*.journal")
        return sorted(found, key=lambda path: int(path.stem.rpartition("-")[2]))


def _owner(directory: Path, book: str) -> tuple[str, int]:
    """A new owner and its lock."""
    while True:
        owner = secrets.token_hex(8)
        path = directory / f"{owner}.lock"
        os.close(created(path))
        lock = _locked(path)
        if lock is not None:  # else somebody was quicker to lock it, takes it for a dead process's, and deletes it
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


def _no_more(text: bytes) -> NoReturn:
    raise RuntimeError("the journal is closed")
