"""The end of a JSON value in a text that is still being written."""

import re
from typing import Final

__all__ = ["Brackets"]

_PLAIN: Final = re.compile(r"[\s\w+\-.,:]*", re.ASCII)
"""What may stand between brackets and strings."""
_STRING: Final = re.compile(r'[^"\\]*')


class Brackets:
    """Finds where an object or an array ends that comes bit by bit. Each character is looked at once."""

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._quoted = False

    def end(self, text: str) -> int | None:
        """The position after its end; None as long as that has not come.

        Args:
            text: begins with the value; since the last call it has only grown.

        Raises:
            ValueError: it cannot become JSON.
        """
        while True:
            at = (_STRING if self._quoted else _PLAIN).match(text, self._at).end()  # type: ignore[union-attr]
            mark = text[at : at + 1]
            if mark == "\\" and self._quoted:
                mark = text[at : at + 2]  # what is escaped ends no string
                if len(mark) == 1:
                    mark = ""
            self._at = at + len(mark)
            if not mark:
                return None
            if not self._quoted and self._bracket(mark):
                return self._at
            if mark == '"':
                self._quoted = not self._quoted

    def _bracket(self, mark: str) -> bool:
        """Count a bracket; gives whether it is the last one."""
        if mark in "{[":
            self._depth += 1
        elif mark in "}]":
            self._depth -= 1
        elif mark != '"':
            raise ValueError(mark)
        return self._depth <= 0
