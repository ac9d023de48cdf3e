"""What an operator may set in a deployment's `options`."""

from typing import Any

from msgspec import Struct

__all__ = ["Options"]


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """A model's `options` table."""

    safety_settings: dict[str, Any] | list[dict[str, Any]] = {}
    """{category = threshold}, or Google's own list of them."""
    json_schema: bool = True
    """False for models before 2.5, which know only Google's Schema object."""
    function_ids: bool = True
    """False for endpoints that give ids with function calls and refuse them when they come back."""
    reasoning_effort: dict[str, int | str] = {}
    """{effort = budget or level}, for models that `thinking.py` does not know."""
    include_thoughts: bool = True
    """False: no reasoning in answers."""
    task_type: str = ""
    """What embeddings are for."""

    def safety(self) -> list[dict[str, Any]]:
        """Google's safetySettings, empty if none are set."""
        given = self.safety_settings
        if isinstance(given, list):
            return given
        return [{"category": category, "threshold": threshold} for category, threshold in given.items()]
