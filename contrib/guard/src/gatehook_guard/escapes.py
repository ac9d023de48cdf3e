r"""Undoes the escapes of a JSON text, so that its values are scanned as whoever decodes it will read them.

In `\nann@example.org` the `n` is no letter of the address, and before the digits of `\n4111…` stands no word. So each
escape becomes the one character that it means. Quotes, backslashes and control characters, which unescaped would break
the JSON text, become marks: noncharacters, which Unicode keeps for a program's own use.
"""

import re
from typing import Final

__all__ = ["Unescaper", "escaped", "marked", "unmarked"]

_MARKS: Final = {chr(code): chr(0xFDD0 + code) for code in range(0x20)} | {'"': "\ufffe", "\\": "\uffff"}
_SHORT: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", '"': '"', "\\": "\\"}
_ESCAPE: Final = re.compile(r'\\(?:u(?P<code>[0-9a-fA-F]{4})|(?P<short>["\\/bfnrt])|(?P<cut>(?:u[0-9a-fA-F]{0,3})?\Z))')
_HALF: Final = re.compile("[\ud800-\udfff]")
_TO_MARKS: Final = str.maketrans(_MARKS)
_FROM_MARKS: Final = str.maketrans({mark: character for character, mark in _MARKS.items()})
_TO_ESCAPES: Final = str.maketrans(
    {mark: f"\\u{ord(character):04x}" for character, mark in _MARKS.items()}
    | {_MARKS[character]: f"\\{name}" for name, character in _SHORT.items() if character in _MARKS}
)


class Unescaper:
    """One JSON text, as it comes in."""

    def __init__(self) -> None:
        self._cut = ""

    def feed(self, piece: str) -> str:
        """The next piece, with its escapes undone; an escape that is cut at its end is kept for the next piece."""
        text, self._cut = self._cut + piece, ""
        return _ESCAPE.sub(self._undone, text)

    def rest(self) -> str:
        """The cut escape that is left at the end of the text, as it is."""
        return self._cut

    def _undone(self, escape: re.Match[str]) -> str:
        if escape["cut"] is not None:
            self._cut = escape[0]
            return ""
        character = _SHORT[escape["short"]] if escape["code"] is None else chr(int(escape["code"], 16))
        return _MARKS.get(character, character)


def escaped(text: str) -> str:
    """A text with marks, as JSON again."""
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text.translate(_TO_ESCAPES))


def marked(value: str) -> str:
    """A value, with its special characters as marks."""
    return value.translate(_TO_MARKS)


def unmarked(text: str) -> str:
    """The value that a text with marks stands for."""
    return text.translate(_FROM_MARKS)
