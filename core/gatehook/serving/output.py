"""Standard output and error while serving: that they are closed or full is no reason to stop serving."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

__all__ = ["unfailing"]


@contextlib.contextmanager
def unfailing() -> Iterator[None]:
    """Make standard output and error exist, and never fail, while this context is open: a pipe may close, a disk fill.

    What cannot be written is lost; once there is room again, what follows is written.
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
    """Open the standard streams that are closed, or a connection would get their number, and what is written there."""
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(number, number <= 2)
    os.close(number)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123  # open to the end of the program


def _let_go(stream: TextIO | None) -> None:
    """Drop what could not be written, so that the program does not fail at its end by trying again."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Unfailing:
    """A text stream whose writes never fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, if possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
