"""Cache points: which of them a model takes."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from gatehook import Attempt

__all__ = ["keep_last_marks"]

Content = list[dict[str, Any]]

_MOST: Final = 4


def keep_last_marks(attempt: Attempt, tools: Content, contents: Sequence[Content]) -> None:
    """Take away the cache points that the model refuses. The last four stay: each covers everything before it.

    Args:
        attempt: told if points were taken away.
        tools: those of `toolConfig`.
        contents: `system`, and what each message holds, in the wire's order.
    """
    found = _marks([tools, *contents])
    taken = min(_taken(attempt.target.model, found, contents), _MOST)
    for content, mark in found[: len(found) - taken]:
        content.remove(mark)
        attempt.drop("cache_control")


def _taken(model: str, found: Sequence[Any], contents: Sequence[Content]) -> int:
    """How many of the last ones the model takes, if it takes any number: Nova does so but for tools."""
    if "amazon.nova" in model:
        return len(_marks(contents))
    is_known = "." in model  # the name of a profile does not tell whose model it is
    return 0 if is_known and "anthropic." not in model else len(found)


def _marks(contents: Iterable[Content]) -> list[tuple[Content, dict[str, Any]]]:
    return [(content, block) for content in contents for block in content if "cachePoint" in block]
