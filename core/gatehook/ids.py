"""Request ids, in the order of time."""

import os
import time
from typing import Final

__all__ = ["next_id"]


class _Ids:
    """Request ids: a millisecond, then random digits from a pool that one system call fills for 256 ids.

    The time comes first because databases index ids: ids in rising order are appended to an index, while random ones
    would each rewrite a page somewhere in it, which costs more the larger the table is.
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
