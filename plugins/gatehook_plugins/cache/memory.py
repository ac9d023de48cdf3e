"""Answers in the memory of one process: the least recently used leave first."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from cachetools import TLRUCache

from gatehook_plugins.cache.store import Store

__all__ = ["OVERHEAD", "MemoryStore"]

OVERHEAD: Final = 1024
"""Bytes that an entry is counted for beside its answer: its key and its places in the tables, generously."""


class _Kept(NamedTuple):
    data: bytes
    seconds: float


class MemoryStore:
    """At most so many bytes, everything that belongs to the entries included."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self._kept: TLRUCache[bytes, _Kept] = TLRUCache(
            max_bytes, ttu=lambda _, kept, now: now + kept.seconds, timer=clock, getsizeof=_size
        )

    @property
    def size(self) -> int:
        """Bytes that are counted now."""
        return int(self._kept.currsize)

    def get(self, key: bytes) -> bytes | None:
        """See `Store`."""
        try:
            return self._kept[key].data
        except KeyError:  # quicker than `TLRUCache.get`, which asks for the time, and for the key, twice
            return None

    def put(self, key: bytes, data: bytes, seconds: float) -> None:
        """See `Store`."""
        kept = _Kept(data, seconds)
        if _size(kept) <= self._kept.maxsize:
            self._kept[key] = kept


def _size(kept: _Kept) -> int:
    return len(kept.data) + OVERHEAD


_implements: type[Store] = MemoryStore
