"""Regular expressions of tools' schemas, tried only where the time that they take is bounded.

Python's engine may take exponentially long. The cost is estimated from the expression's form alone, on the safe
side: what is not certain to be cheap is not tried.
"""

import functools
import math
import re
import warnings
from typing import Final

__all__ = ["matches", "steps"]

_MOST_STEPS: Final = 1_000_000
"""Steps of the engine that one match may take."""
_LONGEST: Final = 1_000
"""Characters of an expression that is tried."""
_TOKEN: Final = re.compile(
    r"""(?P<odd>\(\?(?!:)|\\[1-9])          # looking around, names, flags, references back
      | (?P<open>\(\??:?) | (?P<close>\)) | (?P<or>\|)
      | \\. | \[\^?\]?(?:\\.|[^\]\\])*\]    # an escape, a set of characters
      | (?P<times>[*+]|\{\d+(?:,\d*)?\})[?+]? | (?P<maybe>\?)[?+]?
      | .""",
    re.VERBOSE | re.DOTALL,
)


def matches(pattern: str, text: str) -> bool | None:
    """Whether the expression is found in the text, as JSON Schema's `pattern` asks; None if it is not tried."""
    if not steps(pattern, text):
        return None
    compiled = _compiled(pattern)
    return None if compiled is None else compiled.search(text) is not None


def steps(pattern: str, text: str) -> int:
    """How many steps `matches` may take, at most; 0 if it does not try."""
    weight, degree = _cost(pattern)
    most = weight * max(1, len(text)) ** degree
    return math.ceil(most) if most <= _MOST_STEPS else 0


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may mean something else in a later Python
            return re.compile(pattern)
    except (re.error, OverflowError, RecursionError):  # ECMAScript knows some that Python does not
        return None


@functools.lru_cache(maxsize=256)
def _cost(pattern: str) -> tuple[float, int]:
    """Weight and degree: a match takes at most weight * length ** degree steps, by the length of the text."""
    if len(pattern) > _LONGEST:
        return float("inf"), 0
    weight, degree = 1.0, 0 if pattern.startswith("^") and "|" not in pattern else 1
    varies = [False]
    """For each group that is open: whether it can match one text in several ways."""
    closed = False
    """Whether the token before this one ended a group that can."""
    for token in _TOKEN.finditer(pattern):
        kind, ends = token.lastgroup, False
        if kind == "odd":
            return float("inf"), 0
        if kind == "open":
            varies.append(False)
        elif kind == "close" and len(varies) > 1:
            ends = varies.pop()
            varies[-1] = varies[-1] or ends
        elif kind in ("or", "maybe"):
            weight, varies[-1] = weight * 2, True
        elif kind == "times":
            if closed:  # a repetition of what can match in several ways: the ways multiply, which is exponential
                return float("inf"), 0
            times = token["times"]
            numbers = [int(number) for number in re.findall(r"\d+", times)]
            weight *= max(numbers, default=0) + 1  # also of a fixed number: what is repeated may be empty
            degree += times in "*+" or times.endswith(",}")
            varies[-1] = varies[-1] or len(numbers) != 1 or times.endswith(",}")
        closed = ends
    return weight, degree
