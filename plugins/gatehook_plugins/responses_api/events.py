"""The events of one stream: named, numbered from 0 without a gap, framed."""

import contextlib
from collections.abc import Iterator
from typing import Any

from gatehook import encode
from gatehook.sse import frame

__all__ = ["Events"]


class Events:
    """Gathers events until they are taken. A plain answer is made by the same steps; nobody takes its events."""

    __slots__ = ("_framed", "_number")

    def __init__(self) -> None:
        self._framed: list[bytes] = []
        self._number = 0

    def tell(self, kind: str, **fields: Any) -> None:
        """Add an event."""
        self._framed.append(frame(encode({"type": kind, "sequence_number": self._number, **fields}), kind))
        self._number += 1

    @staticmethod
    def head(kind: str, **fields: Any) -> bytes:
        """What all delta events of one text begin with; see `delta`."""
        return b'event: %b\ndata: %b,"delta":' % (kind.encode(), encode({"type": kind, **fields})[:-1])

    def delta(self, head: bytes, text: str) -> None:
        """Add a delta event: in most events all but the text is the same, and is not encoded again."""
        self._framed.append(b'%b%b,"sequence_number":%d}\n\n' % (head, encode(text), self._number))
        self._number += 1

    @contextlib.contextmanager
    def withheld(self) -> Iterator[None]:
        """Within it, nothing is told."""
        number, count = self._number, len(self._framed)
        yield
        self._number = number
        del self._framed[count:]

    def taken(self) -> bytes:
        """What was added since the last time."""
        framed = b"".join(self._framed)
        self._framed.clear()
        return framed
