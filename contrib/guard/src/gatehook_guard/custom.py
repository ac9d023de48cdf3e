"""An operator's own patterns: only such as cannot take for ever, and whose finds end.

Python's regular expressions have no time limit; what backtracks can stop the whole gateway. So a pattern is read before
it is used: repeats are bounded and of single characters, and all lengths that they may have together are few.
"""

import importlib
import re
from typing import Any, Final

from gatehook_guard.detectors import Detector

__all__ = ["custom"]

_LONGEST: Final = 512
"""Characters of a find; a stream may be held back for so many."""
_MOST_WAYS: Final = 10_000
"""In how many ways a pattern can try the same place."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")


def custom(name: str, pattern: str) -> Detector:
    """A detector for an operator's pattern.

    Args:
        name: in lower case; finds are numbered under it.
        pattern: a regular expression as Python reads it, without look-around, anchors, back-references and groups
            that repeat.

    Raises:
        ValueError: it is none of that kind; says what to change.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r}: a name is of lower-case letters, digits and '_', and begins with a letter")
    try:
        re.compile(pattern)
        tree: Any = importlib.import_module("re._parser").parse(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(f"{name}: not a regular expression: {error}") from None
    if tree.state.flags & ~re.UNICODE:  # it will stand among others
        raise ValueError(f"{name}: flags are for groups only; write (?i:…) in place of (?i)")
    if tree.state.groupdict:
        raise ValueError(f"{name}: groups have no names here; write (?:…)")
    least, longest = tree.getwidth()
    if least == 0:
        raise ValueError(f"{name}: it would find nothing at all, everywhere")
    if longest > _LONGEST:
        raise ValueError(f"{name}: may find more than {_LONGEST} characters; write {{1,64}} in place of + and *")
    if (ways := _ways(name, tree)) > _MOST_WAYS:
        raise ValueError(f"{name}: may try {ways} ways at one place, more than {_MOST_WAYS}; narrow its repeats")
    return Detector(name.upper(), f"(?:{pattern})", None, int(longest))


def _ways(name: str, tree: Any) -> int:
    """In how many ways it can match at one place, at most."""
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
