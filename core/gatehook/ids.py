"""Request ids, in the order of time."""

import os
import time
from typing import Final

__all__ = ["next_id"]


class _Ids:
    """Request ids: the millisecond, then pooled randomness; one system call in 256, not one per request.

    The time comes first because ids are indexed: a database that gets them in their order appends to its index, where
    random ones would have it rewrite a page of it for each, the larger the table the dearer.
    """

    __slots__ = ("_begin", "_pool", "_position")

    def __init__(self) -> None:
        self._begin = ""
        self._pool = ""
        self._position = 0

    def next(self) -> str:
        if self._position >= len(self._pool):
            self._begin = f"req_{time.time_ns() // 1_000_000:012x}"
            self._pool = os.urandom(10 * 256).hex()
            self._position = 0
        start = self._position
        self._position = start + 20
        return self._begin + self._pool[start : start + 20]


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.__init__)  # type: ignore[misc]  # two workers must not share a pool

next_id: Final = _ids.next
"""Gives ``req_`` and 32 hexadecimal digits."""
