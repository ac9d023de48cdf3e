"""What is told while serving, to people or a log: that nobody listens any more is no reason to stop serving."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

__all__ = ["unfailing"]


@contextlib.contextmanager
def unfailing() -> Iterator[None]:
    """Have standard output and error be there, and never fail: a pipe may be closed, a disk full.

    What cannot be written is lost. Once there is room again, the rest is written.
    """
    _fill()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _Unfailing(stream or _nowhere())) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            _let_go(stream)


def _fill() -> None:
    """Open what was closed by who began this: else a connection has its number, and gets what is written there."""
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(number, number <= 2)
    os.close(number)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123  # to the end of the program


def _let_go(stream: TextIO | None) -> None:
    """What could not be written is not tried again at the end of the program, which would fail by it."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Unfailing:
    """A stream of text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it, if that can be done."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """The same for what waits to be written."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
