"""Cache points: which of them a model takes, and for how long."""

from collections.abc import Sequence
from typing import Any, Final

from gatehook import Attempt
from gatehook_bedrock.names import claude_version

__all__ = ["keep_last_marks"]

Content = list[dict[str, Any]]

_MOST: Final = 4
_HOUR_SINCE: Final = (4, 5)


def keep_last_marks(attempt: Attempt, tools: Content, contents: Sequence[Content]) -> None:
    """Take away what the model refuses of cache points. The last four stay: each covers everything before it.

    Args:
        attempt: told if something was taken away.
        tools: those of `toolConfig`.
        contents: `system`, and what each message holds, in the wire's order.
    """
    model = attempt.target.model
    found = [(content, block) for content in (tools, *contents) for block in content if "cachePoint" in block]
    taken = [id(mark) for content, mark in found if _takes(model, content, mark)][-_MOST:]
    for content, mark in found:
        if id(mark) not in taken:
            content[:] = [block for block in content if block is not mark]
            attempt.drop("cache_control")
        elif "ttl" in mark["cachePoint"] and not _takes_hours(model):
            del mark["cachePoint"]["ttl"]
            attempt.drop("cache_control.ttl")


def _takes(model: str, content: Content, mark: dict[str, Any]) -> bool:
    """Whether the model takes this mark.

    Nova does behind words only, not behind tools, their results or media. For Claude, Bedrock cannot write one down
    behind a document that is no PDF.
    """
    before = content[next(number for number, block in enumerate(content) if block is mark) - 1]
    if "amazon.nova" in model:
        return "text" in before
    is_known = "." in model  # the name of a profile does not tell whose model it is
    return (not is_known or "anthropic." in model) and before.get("document", {}).get("format", "pdf") == "pdf"


def _takes_hours(model: str) -> bool:
    """Whether the model keeps something for an hour; others refuse to be told of any time."""
    return "amazon.nova" not in model and not (0, 0) < claude_version(model) < _HOUR_SINCE
