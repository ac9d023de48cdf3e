"""An operator's own patterns: only those that are fast on every text, and whose matches are of bounded length.

Python's regular expressions have no time limit: one that backtracks can stop the whole gateway. So a pattern is parsed
before it is used: only single characters may repeat, a bounded number of times, and the combinations of how often each
repeats must be few.
"""

import importlib
import re
from typing import Any, Final

from gatehook_guard.detectors import Detector

__all__ = ["custom"]

_LONGEST: Final = 512
"""The most characters of a match: so many of a stream may have to be held back."""
_MOST_WAYS: Final = 10_000
"""In how many ways a pattern may be tried at the same position."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")


def custom(name: str, pattern: str) -> Detector:
    """A detector for an operator's pattern.

    Args:
        name: in lower case; placeholders are made of it.
        pattern: a regular expression in Python's syntax, without look-around, anchors, back-references or groups that
            repeat.

    Raises:
        ValueError: the name or the pattern is not allowed; says what to change.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r}: a name is made of lower-case letters, digits and '_', and begins with a letter")
    try:
        re.compile(pattern)
        tree: Any = importlib.import_module("re._parser").parse(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(f"{name}: not a regular expression: {error}") from None
    if tree.state.flags & ~re.UNICODE:  # it becomes a part of one expression with all the others
        raise ValueError(f"{name}: flags are for groups only; write (?i:…) in place of (?i)")
    if tree.state.groupdict:
        raise ValueError(f"{name}: groups have no names here; write (?:…)")
    least, longest = tree.getwidth()
    if least == 0:
        raise ValueError(
            f"{name}: it would match the empty text, and so everywhere; make it match a character at least"
        )
    if longest > _LONGEST:
        raise ValueError(f"{name}: may match more than {_LONGEST} characters; write {{1,64}} in place of + and *")
    if (ways := _ways(name, tree)) > _MOST_WAYS:
        raise ValueError(f"{name}: may try {ways} ways at one place, more than {_MOST_WAYS}; narrow its repeats")
    return Detector(name.upper(), f"(?:{pattern})", None, int(longest))


def _ways(name: str, tree: Any) -> int:
    """The most ways in which a parsed pattern can be tried at one position.

    Raises:
        ValueError: it holds something that is not allowed.
    """
    ways = 1
    for operation, value in tree:
        match str(operation):
            case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY" | "CATEGORY":
                pass
            case "AT" if str(value) in ("AT_BOUNDARY", "AT_NON_BOUNDARY"):
                pass
            case "SUBPATTERN":
                ways *= _ways(name, value[-1])
            case "BRANCH":
                ways *= sum(_ways(name, branch) for branch in value[1])
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, inner = value
                if len(inner) != 1 or str(inner[0][0]) not in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
                    raise ValueError(f"{name}: only single characters and classes may repeat, not groups")
                ways *= int(most) - int(least) + 1
            case other:
                raise ValueError(f"{name}: {other.lower()} is not allowed here; {_ALLOWED}")
        if ways > 1 << 40:
            return ways
    return ways


_ALLOWED: Final = "use letters, classes, alternatives, \\b and bounded repeats"
