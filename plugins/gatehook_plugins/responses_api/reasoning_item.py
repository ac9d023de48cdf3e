"""A `reasoning` item that grows.

The reasoning is told as its summary. That is what most vendors show of it (Claude and Gemini show summaries), and the
only form that all clients display and send back.
"""

from collections.abc import Sequence
from typing import Any

from gatehook_plugins.responses_api.events import Events
from gatehook_plugins.responses_api.sealing import sealed

__all__ = ["ReasoningItem"]


class ReasoningItem:
    """Reasoning up to the next text or call."""

    def __init__(self, events: Events, suffix: str, index: int) -> None:
        """`suffix` makes its id, `index` is its place in the output."""
        self.item: dict[str, Any] = {
            "id": f"rs_{suffix}",
            "type": "reasoning",
            "summary": [],
            "encrypted_content": None,
            "status": "in_progress",
        }
        self._events = events
        self._index = index
        self._place = {"item_id": self.item["id"], "output_index": index, "summary_index": 0}
        self._head = b""
        self._pieces: list[str] = []
        self._blocks: list[dict[str, Any]] = []
        events.tell("response.output_item.added", output_index=index, item=self.item)

    def say(self, text: str) -> None:
        """The next piece of it."""
        if not self._head:
            self._head = self._events.head("response.reasoning_summary_text.delta", **self._place)
            self._events.tell("response.reasoning_summary_part.added", **self._place, part=_part(""))
        self._pieces.append(text)
        self._events.delta(self._head, text)

    def seal(self, blocks: Sequence[dict[str, Any]]) -> None:
        """Take blocks that its vendor has signed."""
        self._blocks += blocks

    def close(self, status: str) -> None:
        """End it."""
        if self._pieces:
            text = "".join(self._pieces)
            self.item["summary"] = [_part(text)]
            self._events.tell("response.reasoning_summary_text.done", **self._place, text=text)
            self._events.tell("response.reasoning_summary_part.done", **self._place, part=_part(text))
        # Also where nothing is signed: clients that rely on no store send back such reasoning only as has this.
        self.item["encrypted_content"] = sealed(self._blocks)
        self.item["status"] = status
        self._events.tell("response.output_item.done", output_index=self._index, item=self.item)


def _part(text: str) -> dict[str, str]:
    return {"type": "summary_text", "text": text}
