"""A `message` item that grows: text, or what the model says in its place as it refuses."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from gatehook_plugins.responses_api.events import Events

__all__ = ["MessageItem"]

Kind = Literal["output_text", "refusal"]

_WORDS: Final[dict[Kind, str]] = {"output_text": "text", "refusal": "refusal"}
"""Where a part of each kind has its words."""


class MessageItem:
    """What the model says up to the next reasoning or call."""

    def __init__(self, events: Events, suffix: str, index: int) -> None:
        """`suffix` makes its id, `index` is its place in the output."""
        self.item: dict[str, Any] = {
            "id": f"msg_{suffix}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "status": "in_progress",
        }
        self._events = events
        self._index = index
        self._kind: Kind | None = None
        """The kind of the part that is open."""
        self._place: dict[str, Any] = {}
        self._head = b""
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._citations: list[dict[str, Any]] = []
        events.tell("response.output_item.added", output_index=index, item=self.item)

    def say(self, kind: Kind, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> None:
        """The next piece of it."""
        if kind != self._kind:
            self._end_part()
            self._begin_part(kind)
        self._pieces.append(text)
        if not logprobs:
            self._events.delta(self._head, text)
            return
        self._logprobs += logprobs
        self._events.tell("response.output_text.delta", **self._place, logprobs=logprobs, delta=text)

    def cite(self, citation: dict[str, Any]) -> None:
        """Say where words of the text come from."""
        if self._kind != "output_text":
            self._end_part()
            self._begin_part("output_text")
        added = {"annotation_index": len(self._citations), "annotation": citation}
        self._events.tell("response.output_text.annotation.added", **self._place, **added)
        self._citations.append(citation)

    def close(self, status: str) -> None:
        """End it."""
        self._end_part()
        self.item["status"] = status
        self._events.tell("response.output_item.done", output_index=self._index, item=self.item)

    def _begin_part(self, kind: Kind) -> None:
        self._kind = kind
        self._place = {
            "item_id": self.item["id"],
            "output_index": self._index,
            "content_index": len(self.item["content"]),
        }
        beside: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        self._head = self._events.head(f"response.{kind}.delta", **self._place, **beside)
        self._events.tell("response.content_part.added", **self._place, part=_part(kind, "", [], []))

    def _end_part(self) -> None:
        kind, text, logprobs = self._kind, "".join(self._pieces), self._logprobs
        if kind is None:
            return
        part = _part(kind, text, logprobs, self._citations)
        self._kind, self._pieces, self._logprobs, self._citations = None, [], [], []
        beside = {"logprobs": logprobs} if kind == "output_text" else {}
        self._events.tell(f"response.{kind}.done", **self._place, **{_WORDS[kind]: text}, **beside)
        self._events.tell("response.content_part.done", **self._place, part=part)
        self.item["content"].append(part)


def _part(
    kind: Kind, text: str, logprobs: Sequence[dict[str, Any]], citations: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    if kind == "refusal":
        return {"type": kind, "refusal": text}
    return {"type": kind, "text": text, "annotations": citations, "logprobs": logprobs}
