"""A hash table of records that the processes of one machine share: a memory-mapped file, and a file lock.

Names are kept as 64-bit hashes, with linear probing. A table that is nearly full is rebuilt beside the old one, without
the records that are idle. A process that is killed does no harm, at any time: its lock is released. One that is only
halted keeps the lock: the others wait for a moment, and after that fail at once, until it goes on or is killed.
"""

import fcntl
import logging
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

__all__ = ["CELLS", "Record", "Table"]

log: Final = logging.getLogger("gatehook.rate_limit")

Record: TypeAlias = "memoryview[int]"
"""`CELLS` signed integers of 64 bits; all are 0 in a new one. Only valid while the lock is held."""

CELLS: Final = 129
_STRIDE: Final = 1 + CELLS
"""Words of a record: the hash of its name, 0 if it is free, then its cells."""
_HEAD: Final = 8
"""Words before the first record."""
_USED: Final = 0
"""The place of the word that holds the number of records in use."""
_MOVED: Final = 1
"""The place of the word that is 1 when another table has, or may have, taken this one's place."""
_WORD: Final = 8
"""Bytes of a word."""
_FEWEST: Final = 512
"""Records of the smallest table."""
_REMEMBERED: Final = 10_000
"""The most names whose hashes are kept ready."""
_AT_ONCE: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
_PATIENCE: Final = 1.0
"""Seconds to wait for the lock, which is mostly held for microseconds."""
_PAUSE: Final = 20e-6
"""Seconds between two tries."""
_SAID: Final = 60.0
"""Seconds after which the log says again that there is no room."""


class Table:
    """One process's view of the table in a folder. To be used within `with table:`, which waits for the lock.

    Raises:
        TimeoutError: the lock does not come free.
    """

    def __init__(self, folder: Path, is_idle: Callable[[Record], bool]) -> None:
        """`is_idle` says of a record that it may be forgotten."""
        self._path = folder / "rate_limit"
        self._is_idle = is_idle
        self._hash = lru_cache(_REMEMBERED)(_hash)
        self._file = FileIO(folder / "rate_limit.lock", "a")
        self._lock = self._file.fileno()
        self._patience = _PATIENCE
        """Seconds to wait for the lock; 0 after waiting in vain, until it was free again."""
        self._say_again = 0.0
        """When to say again that there is no room; monotonic."""
        self._words: Record
        self._capacity = 0
        self.edition = 0
        """Grows whenever all records have moved; until then they stay where they are."""
        self._wait_for_lock()
        try:
            if not self._path.exists():
                self._write(_FEWEST, ())
            self._open()
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        try:
            fcntl.flock(self._lock, _AT_ONCE)
        except BlockingIOError:
            self._wait_for_lock()
        if not self._patience:
            self._patience = _PATIENCE
        if self._words[_MOVED]:
            try:
                self._open()
            except BaseException:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _wait_for_lock(self) -> None:
        until = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(self._lock, _AT_ONCE)
            except BlockingIOError:
                if time.monotonic() >= until:
                    self._give_up()
                    raise TimeoutError("the rate limits are locked") from None
                time.sleep(_PAUSE)
            else:
                return

    def _give_up(self) -> None:
        if self._patience:
            log.error(
                "a worker that is stopped has locked the rate limits; until it goes on, or is killed, "
                "requests that are limited are refused with 503"
            )
        self._patience = 0.0  # the next requests would wait in vain, too

    def close(self) -> None:
        """Close the lock's file; the table must not be used any more."""
        self._file.close()

    def records(self, names: Sequence[str]) -> list[Record]:
        """The records of these names; those that are missing are added.

        Raises:
            OSError: the table has to grow, and there is no space left. It stays as it was.
        """
        if 4 * (self._words[_USED] + len(names)) > 3 * self._capacity:
            self._rebuild(len(names))
        return [self._record(self._hash(name)) for name in names]

    def all(self) -> Iterator[Record]:
        """Every record."""
        for place in range(_HEAD, len(self._words), _STRIDE):
            if self._words[place]:
                yield self._words[place + 1 : place + _STRIDE]

    def _record(self, key: int) -> Record:
        words = self._words
        place = _find(words, key, self._capacity)
        if not words[place]:
            words[place] = key
            words[_USED] += 1
        return words[place + 1 : place + _STRIDE]

    def _open(self) -> None:
        with FileIO(self._path, "r+") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._capacity = (len(self._words) - _HEAD) // _STRIDE
        self.edition += 1

    def _rebuild(self, more: int) -> None:
        """Drop the records that are idle, and make room for three times the rest and `more`."""
        live = [
            self._words[place : place + _STRIDE]
            for place in range(_HEAD, len(self._words), _STRIDE)
            if self._words[place] and not self._is_idle(self._words[place + 1 : place + _STRIDE])
        ]
        capacity = _FEWEST
        while capacity < 3 * (len(live) + more):
            capacity *= 2
        self._words[_MOVED] = 1  # first: if this process dies now, the others only open the same file once more
        try:
            self._write(capacity, live)
        except OSError as error:
            self._words[_MOVED] = 0
            self._complain(error)
            raise
        self._open()

    def _complain(self, error: OSError) -> None:
        if (now := time.monotonic()) >= self._say_again:
            self._say_again = now + _SAID
            log.error(
                "the rate limits have no room for more callers: %s; until there is room, "
                "requests of those that were not seen lately are refused with 503",
                error,
            )

    def _write(self, capacity: int, live: Iterable[Record]) -> None:
        """Put a new table in the old one's place."""
        beside = self._path.with_suffix(".new")
        size = (_HEAD + capacity * _STRIDE) * _WORD
        try:
            with FileIO(beside, "w+") as file:
                file.truncate(size)
                if hasattr(os, "posix_fallocate"):  # no memory left is an error here, and later a crash
                    os.posix_fallocate(file.fileno(), 0, size)
                words = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        for record in live:
            place = _find(words, record[0], capacity)
            words[place : place + _STRIDE] = record
            words[_USED] += 1
        beside.replace(self._path)


def _find(words: Record, key: int, capacity: int) -> int:
    """The place of the record with this hash, or of the free one where it belongs; the table is never full."""
    index = key % capacity
    while words[place := _HEAD + index * _STRIDE] not in (key, 0):
        index = (index + 1) % capacity
    return place


def _hash(name: str) -> int:
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1
