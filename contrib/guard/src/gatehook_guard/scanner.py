"""Finds and replaces in a text that comes in pieces; the result is the same wherever it is cut.

Only what may still be the beginning of a match is held back: mostly the last word. One character of what has gone out
is remembered, as patterns look back by one.
"""

import re
from collections.abc import Callable, Sequence

from gatehook_guard.detectors import Detector
from gatehook_guard.escapes import Unescaper, escaped, marked, unmarked

__all__ = ["JsonScanner", "Patterns", "Scanner"]


class Patterns:
    """Detectors as one regular expression: the leftmost match counts and, of several there, the first detector's."""

    def __init__(self, detectors: Sequence[Detector], anywhere: Sequence[Detector] = ()) -> None:
        """Put them together.

        Args:
            detectors: those with a `tail` match only where neither a letter nor a digit stands before; an operator's
                own, which have none, also inside a word.
            anywhere: detectors with a `tail` that match inside a word all the same.
        """
        at_words = [one for one in detectors if one.tail is not None]
        others = [*anywhere, *(one for one in detectors if one.tail is None)]
        self.detectors = [*at_words, *others]
        groups = [f"(?P<g{place}>{one.pattern})" for place, one in enumerate(self.detectors)]
        parts = [f"(?<![A-Za-z0-9])(?:{'|'.join(groups[: len(at_words)])})"] if at_words else []
        self._search = re.compile("|".join(parts + groups[len(at_words) :]) or r"(?!)").search
        begun = ["(?<![A-Za-z0-9])" if one in at_words else "" for one in self.detectors]
        self._alone = [re.compile(f"{b}(?:{one.pattern})").match for b, one in zip(begun, self.detectors, strict=True)]

    def find(self, text: str, start: int, until: int) -> "tuple[int, int, Detector] | None":
        """The first match that begins before `until`: where it begins, its length, and its detector."""
        while start < until and (match := self._search(text, start)) is not None and match.start() < until:
            first = next(place for place in range(len(self.detectors)) if match[f"g{place}"] is not None)
            if length := self.detectors[first].accepted(match[0]):
                return match.start(), length, self.detectors[first]
            for place in range(first + 1, len(self.detectors)):  # what is no card may be a phone's number
                other = self._alone[place](text, match.start())
                if other is not None and (length := self.detectors[place].accepted(other[0])):
                    return match.start(), length, self.detectors[place]
            start = match.start() + 1
        return None

    def held(self, text: str) -> int:
        """Where, at the end of `text`, what may still become a match begins."""
        start = len(text)
        for one in self.detectors:
            if one.tail is None:
                start = min(start, max(0, len(text) - one.longest - 1))
            elif (tail := one.tail.search(text, max(0, len(text) - one.longest - 2))) is not None:
                start = min(start, tail.start())
        return start


Replace = Callable[[Detector, str], str]


class Scanner:
    """One text, as it comes in."""

    def __init__(self, patterns: Patterns, replace: Replace) -> None:
        """`replace(detector, found)` gives what takes the place of a match."""
        self._patterns = patterns
        self._replace = replace
        self._text = ""
        self._place = 0
        """What is before this position in `_text` has gone out, and is kept only to look back at."""

    def feed(self, piece: str) -> str:
        """Take the next piece; gives what may go out now."""
        self._text += piece
        return self._scan(self._patterns.held(self._text))

    def rest(self) -> str:
        """All that is left, as the text has ended."""
        return self._scan(len(self._text) + 1)

    def _scan(self, until: int) -> str:
        """Give out everything before `until`; a match that begins before it is given out whole."""
        text, place = self._text, self._place
        said: list[str] = []
        while (found := self._patterns.find(text, place, until)) is not None:
            start, length, detector = found
            said += (text[place:start], self._replace(detector, text[start : start + length]))
            place = start + length
        end = max(place, min(until, len(text)))
        said.append(text[place:end])
        before = max(0, end - 1)
        self._text, self._place = text[before:], end - before
        return "".join(said)


class JsonScanner(Scanner):
    """The same for a JSON text, whose values are scanned unescaped."""

    def __init__(self, patterns: Patterns, replace: Replace) -> None:
        """`replace` gets and gives text without escapes."""
        super().__init__(patterns, lambda detector, found: marked(replace(detector, unmarked(found))))
        self._unescaper = Unescaper()

    def feed(self, piece: str) -> str:
        """See `Scanner.feed`."""
        return escaped(super().feed(self._unescaper.feed(piece)))

    def rest(self) -> str:
        """See `Scanner.rest`."""
        return escaped(super().rest()) + self._unescaper.rest()
