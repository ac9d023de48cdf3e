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

    __slots__ = ("_begin", "_ends")

    def __init__(self) -> None:
        self._begin = ""
        self._ends: list[str] = []

    def next(self) -> str:
        if not self._ends:
            self._begin = f"req_{time.time_ns() // 1_000_000:012x}"
            self._ends = os.urandom(10 * 256).hex(" ", 10).split()
        return self._begin + self._ends.pop()


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.__init__)  # type: ignore[misc]  # two workers must not share a pool

next_id: Final = _ids.next
"""Gives ``req_`` and 32 hexadecimal digits."""
