"""What the model gave in one turn: several items of the input, and one message of a chat."""

from collections.abc import Sequence
from typing import Any

__all__ = ["Turn"]

Object = dict[str, Any]


class Turn:
    """Gathers items. `message` is complete when the turn is over; reasoning alone is one without words."""

    def __init__(self) -> None:
        self.message: Object = {"role": "assistant"}
        self._thoughts: list[str] = []
        self._blocks: list[Object] = []
        self._content: list[str | list[Object]] = []
        self._refusals: list[str] = []
        self._calls: list[Object] = []

    def think(self, text: str, blocks: Sequence[Object]) -> None:
        """Add reasoning: in plain, and the blocks of it that its vendor has signed."""
        self._thoughts.append(text)
        self._blocks += blocks

    def say(self, content: str | list[Object]) -> None:
        """Add the content of a message."""
        self._content.append(content)

    def refuse(self, words: str) -> None:
        """Add what was said in place of an answer."""
        self._refusals.append(words)

    def call(self, call: Object) -> None:
        """Add a call."""
        self._calls.append(call)

    def prove(self, extra: Object) -> None:
        """Add what a vendor wants to see again of the message itself."""
        self.message["extra_content"] = extra

    def end(self) -> None:
        """Complete the message."""
        lists = {"thinking_blocks": self._blocks, "tool_calls": self._calls}
        texts = {"reasoning_content": "".join(self._thoughts), "refusal": "".join(self._refusals)}
        self.message |= {name: value for name, value in (texts | lists).items() if value}
        self.message["content"] = self._whole() if self._content else None if self._calls else ""

    def _whole(self) -> str | list[Object]:
        """One text as it is, several as parts."""
        said = [content for content in self._content if content]
        if len(said) < 2:
            return said[0] if said else ""
        parts: list[Object] = []
        for content in said:
            parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
        return parts
