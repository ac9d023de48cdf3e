"""Finds and replaces in a text that comes in pieces; the result is the same wherever it is cut.

What may still be the beginning of a find is held back, and nothing else: mostly the last word. Before the place that
is looked at one character is remembered, as patterns look back by one.
"""

import re
from collections.abc import Callable, Sequence

from gatehook_guard.detectors import Detector
from gatehook_guard.escapes import Unescaper, escaped, marked, unmarked

__all__ = ["JsonScanner", "Patterns", "Scanner"]


class Patterns:
    """Detectors as one regular expression: the leftmost find counts, and there the first detector's."""

    def __init__(self, detectors: Sequence[Detector], anywhere: Sequence[Detector] = ()) -> None:
        """Put them together.

        Args:
            detectors: the shipped ones begin where neither a letter nor a digit is before.
            anywhere: those that may begin inside a word; an operator's own do too.
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
        """The first find that begins before `until`: where it begins, its length, and whose it is."""
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
        """Where what may still become a find begins, at the end of `text`."""
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
        """`replace(detector, found)` gives what stands in place of a find."""
        self._patterns = patterns
        self._replace = replace
        self._text = ""
        self._place = 0
        """Where in the text what was not given out begins; what is before it is only looked back at."""

    def feed(self, piece: str) -> str:
        """The next piece; gives what can be said now."""
        self._text += piece
        return self._scan(self._patterns.held(self._text))

    def rest(self) -> str:
        """All that is left, as nothing follows."""
        return self._scan(len(self._text) + 1)

    def _scan(self, until: int) -> str:
        """Give out everything before `until`; a find that begins there is given out whole."""
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
    """The same for a JSON text: finds are looked for, and replaced, in what its values say."""

    def __init__(self, patterns: Patterns, replace: Replace) -> None:
        """`replace` gets, and gives, what values say."""
        super().__init__(patterns, lambda detector, found: marked(replace(detector, unmarked(found))))
        self._unescaper = Unescaper()

    def feed(self, piece: str) -> str:
        """See `Scanner.feed`."""
        return escaped(super().feed(self._unescaper.feed(piece)))

    def rest(self) -> str:
        """See `Scanner.rest`."""
        return escaped(super().rest()) + self._unescaper.rest()
