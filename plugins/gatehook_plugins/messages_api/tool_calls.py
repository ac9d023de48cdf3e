"""A tool call of a stream, gathered from OpenAI's fragments."""

from collections.abc import Mapping
from typing import Any

from gatehook import UpstreamError, tool_call_id
from gatehook_plugins.messages_api.answer import extra_of, tool_input

__all__ = ["ToolCall"]


class ToolCall:
    """What has come of one call, and how much of that was told."""

    def __init__(self) -> None:
        self.begun = False
        """Whether its block has begun."""
        self._id = ""
        self._name = ""
        self._arguments: list[str] = []
        self._told = 0
        self._looked_at = 0
        """How many pieces there were when it was last found to be incomplete."""
        self._extra: dict[str, Any] = {}

    @property
    def can_begin(self) -> bool:
        """Whether id and name are known; a name is complete when arguments begin."""
        return bool(self._id and self._name and self._arguments)

    def take(self, fragment: Mapping[str, Any]) -> None:
        """Add a fragment."""
        function = fragment.get("function") or {}
        self._id = self._id or fragment.get("id") or ""
        self._name += function.get("name") or ""
        self._extra = self._extra or extra_of(fragment)
        if piece := function.get("arguments"):
            self._arguments.append(piece)

    def block(self) -> dict[str, Any]:
        """What its block begins with."""
        return {
            "type": "tool_use",
            "id": self._id or tool_call_id(),
            "name": self._name,
            "input": {},
            **self._extra,
        }

    def pending(self) -> str:
        """The arguments that were not told yet; they count as told from now on."""
        pieces = "".join(self._arguments[self._told :])
        self._told = len(self._arguments)
        return pieces

    def is_whole(self) -> bool:
        """Whether nothing can be missing: a JSON object has no continuation."""
        if len(self._arguments) == self._looked_at or not self._arguments[-1].rstrip().endswith("}"):
            return False
        self._looked_at = len(self._arguments)
        try:
            self.check()
        except UpstreamError:
            return False
        return True

    def check(self) -> None:
        """Check the arguments, of which no more will come.

        Raises:
            UpstreamError: they are no JSON object.
        """
        tool_input(self._name, "".join(self._arguments))
