"""What the names of models tell."""

import re
from typing import Final

__all__ = ["claude_version", "takes_shown_results", "takes_strict", "takes_thoughts", "tells_failures"]

_CLAUDE: Final = re.compile(r"anthropic\.claude-(?:[a-z]+-)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")
_LAX: Final = re.compile(r"\b(?:amazon|meta|cohere|ai21)\.")
"""Makers whose models Bedrock holds to no schema."""


def claude_version(model: str) -> tuple[int, int]:
    """The version in the name of a Claude model; (0, 0) for other models, or if the name has none."""
    match = _CLAUDE.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def takes_strict(model: str) -> bool:
    """Whether tools may be `strict`: Bedrock refuses the field for Claude before 4.5, and for 4.7 and 4.8."""
    version = claude_version(model)
    if version == (0, 0):
        return not _LAX.search(model)
    return version >= (4, 5) and not (4, 7) <= version < (5, 0)


def tells_failures(model: str) -> bool:
    """Whether the status of a tool's result may be told."""
    return "anthropic." in model or "amazon.nova" in model


def takes_thoughts(model: str) -> bool:
    """Whether reasoning of earlier answers may be sent back. The name of a profile does not tell whose model it is."""
    return "." not in model or "anthropic." in model or "openai." in model


def takes_shown_results(model: str) -> bool:
    """Whether the results of tools may hold pictures and documents."""
    return "." not in model or any(sign in model for sign in ("anthropic.", "amazon.nova", "meta.llama4"))
