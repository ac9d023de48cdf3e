"""From the bytes of tokens to text that may be sent: only whole characters, and nothing of a stop text."""

import codecs
from collections.abc import Sequence

__all__ = ["Withheld", "withheld"]


def withheld(text: str, marks: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of `marks`."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(mark.startswith(text[-n:]) for mark in marks)), 0)


class Withheld:
    """The text of one answer. What may turn out to be the beginning of a stop text is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""
        self.length = 0
        """Characters that have come, including those held back or cut off."""
        self.said = 0
        """Characters that were given out."""
        self.stopped = False
        """Whether a stop text has come; nothing more is given out."""

    def push(self, piece: bytes, *, last: bool = False) -> str:
        """Take a token's bytes; gives the text that may go out, with `last` all that is left."""
        text = self._decode(piece, last)
        self.length += len(text)
        self._held += text
        if self.stopped or not self._held:
            return ""
        cut = min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            keep = cut
        else:
            keep = len(self._held) - (0 if last else withheld(self._held, self._stops))
        said, self._held = self._held[:keep], self._held[keep:]
        self.said += len(said)
        return said
