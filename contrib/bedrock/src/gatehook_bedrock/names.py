"""What the names of models tell."""

import re
from typing import Final

__all__ = ["claude_version"]

_CLAUDE: Final = re.compile(r"anthropic\.claude-(?:[a-z]+-)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")


def claude_version(model: str) -> tuple[int, int]:
    """The version in the name of a Claude model; (0, 0) for other models, or if the name has none."""
    match = _CLAUDE.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)
