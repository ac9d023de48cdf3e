"""Numbers by name in one stretch of memory, which other processes can read if it is a file's.

A word is 8 bytes. The first four hold: how many words are in use, the id of the process that counts, its number among
the workers, and the gauge of running requests. Then come the series, in the order in which they were first counted,
each: the length of its name in bytes and the count of its cells (half a word each), its name in MessagePack, padded to
whole words, and its cells, which are floats. The number of words in use is written last, so that somebody who reads
meanwhile sees whole series only; a cell is always written as a whole.
"""

import mmap
import os
import struct
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from typing import Final

import msgspec

__all__ = ["RUNNING", "Name", "Numbers", "Page", "observe", "used_words"]

Name = tuple[str | int, ...]
"""What a series is called: its family, then its labels."""

_WORD: Final = 8
_USED: Final = 0
_OWNER: Final = 1
_WORKER: Final = 2
RUNNING: Final = 3
"""The cell of the running requests."""
_FIRST: Final = 4
"""Where the first series begins."""
_LENGTHS: Final = struct.Struct("=II")
_SMALLEST: Final = 1 << 16
"""Bytes."""


class Page:
    """A view of the first `used` words: what a process has counted, and those before it in the same file."""

    def __init__(self, memory: bytearray | mmap.mmap, used: int) -> None:
        self._memory, self._used = memory, used
        self._cells = _cells(memory)

    @property
    def owner(self) -> int:
        """The id of the process that counts."""
        return memoryview(self._memory).cast("Q")[_OWNER]

    @property
    def worker(self) -> int:
        """Its number among the workers."""
        return memoryview(self._memory).cast("Q")[_WORKER]

    @property
    def running(self) -> int:
        """Requests that are running."""
        return int(self._cells[RUNNING])

    def series(self) -> Iterator[tuple[Name, list[float]]]:
        """All series: their names and cells."""
        for name, place, count in _walk(self._memory, self._used):
            yield name, list(self._cells[place : place + count])


class Numbers:
    """The numbers of this process; in `file`, open for reading and writing, or else in private memory.

    What is in the file is continued, but for the running requests: they ended with the process that counted them.
    """

    def __init__(self, file: FileIO | None = None, worker: int = 0) -> None:
        self._file = file
        self._memory: bytearray | mmap.mmap = bytearray()
        self.cells: memoryview[float]
        """All words as floats. Replaced when a series is made, as the memory may have moved; places stay the same."""
        self._map(_SMALLEST if file is None else max(_SMALLEST, os.fstat(file.fileno()).st_size))
        self._words[_USED] = max(self._words[_USED], _FIRST)
        self._words[_OWNER] = os.getpid()
        self._words[_WORKER] = worker
        self.cells[RUNNING] = 0.0
        self._places = {name: place for name, place, _ in _walk(self._memory, self._words[_USED])}

    def place(self, name: Name, count: int) -> int:
        """The place of a series' first cell, which never changes; a new series is made, with `count` cells."""
        place = self._places.get(name)
        return self._append(name, count) if place is None else place

    def count(self, name: Name) -> None:
        """Add 1 to a series of one cell, which is made if it is new."""
        place = self.place(name, 1)
        self.cells[place] += 1.0

    def add(self, name: Name, amounts: Sequence[float]) -> None:
        """Add to a series, a cell for each amount; it is made if it is new."""
        place = self.place(name, len(amounts))
        for cell, amount in enumerate(amounts, place):
            self.cells[cell] += amount

    def names(self) -> Iterable[Name]:
        """The names of all series."""
        return self._places.keys()

    def page(self) -> Page:
        """All that is counted by now."""
        return Page(self._memory, self._words[_USED])

    def _append(self, name: Name, count: int) -> int:
        encoded = msgspec.msgpack.encode(name)
        begin = self._words[_USED]
        place = begin + 1 - (-len(encoded) // _WORD)
        while (place + count) * _WORD > len(self._memory):
            self._map(2 * len(self._memory))
        _LENGTHS.pack_into(self._memory, begin * _WORD, len(encoded), count)
        self._memory[(begin + 1) * _WORD : (begin + 1) * _WORD + len(encoded)] = encoded
        self._words[_USED] = place + count
        self._places[name] = place
        return place

    def _map(self, size: int) -> None:
        """Have `size` bytes of memory, the old ones first."""
        if self._file is None:
            larger = bytearray(size)
            larger[: len(self._memory)] = self._memory
            self._memory = larger
        else:
            self._file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # no room left is an error here, and later a crash
                os.posix_fallocate(self._file.fileno(), 0, size)
            self._memory = mmap.mmap(self._file.fileno(), size)
        self.cells = _cells(self._memory)
        self._words = memoryview(self._memory).cast("Q")


def observe(cells: "memoryview[float]", place: int, bounds: Sequence[float], value: float) -> None:
    """Count a value in a histogram: a cell for each bound, one for what is above the last, and one for the sum.

    A value that equals a bound counts as below it, as Prometheus has it (`le`).
    """
    cells[place + bisect_left(bounds, value)] += 1.0
    cells[place + len(bounds) + 1] += value


def _cells(memory: bytearray | mmap.mmap) -> "memoryview[float]":
    return memoryview(memory).cast("d")


def _walk(memory: bytearray | mmap.mmap, used: int) -> Iterator[tuple[Name, int, int]]:
    """Each series: its name, the place of its first cell, and how many there are."""
    begin = _FIRST
    while begin < used:
        length, count = _LENGTHS.unpack_from(memory, begin * _WORD)
        start = (begin + 1) * _WORD
        place = begin + 1 - (-length // _WORD)
        yield msgspec.msgpack.decode(memory[start : start + length], type=Name), place, count
        begin = place + count


def used_words(file: FileIO) -> int:
    """How many words of a file are in use; 0 if it has just been made."""
    head = os.pread(file.fileno(), _WORD, _USED * _WORD)
    return int.from_bytes(head, sys.byteorder)
