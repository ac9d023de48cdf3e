"""Newline-delimited JSON: bytes in, values out, borders anywhere."""

from collections.abc import Iterator
from typing import Any, Final

from gatehook import MalformedJSON, UpstreamError, decode

__all__ = ["Lines"]

_LONGEST: Final = 32 << 20
"""Bytes of one line."""


class Lines:
    """An incremental reader."""

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Any]:
        """The values of the lines that `data` completes, one by one.

        Raises:
            UpstreamError: a line is no JSON, or endless.
        """
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._parts.append(line)
            line = b"".join(self._parts)
            self._parts, self._size = [], 0
            yield from _value(line)
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
            if self._size > _LONGEST:
                raise UpstreamError(f"ollama: a line of the stream is longer than {_LONGEST >> 20} MB")

    def end(self) -> Iterator[Any]:
        """The value of a last line that no newline ends."""
        rest, self._parts = b"".join(self._parts), []
        yield from _value(rest)


def _value(line: bytes) -> Iterator[Any]:
    if line.strip():
        try:
            yield decode(line)
        except MalformedJSON as error:
            raise UpstreamError(f"ollama: a line of the stream is not JSON: {error}") from None
