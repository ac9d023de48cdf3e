"""The output of one response: items made of a chat's deltas, in the order in which they come.

Reasoning and messages are open one at a time, as clients expect; whatever comes next closes them. Calls stay open to
the end, as the arguments of several may come by turns.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gatehook_plugins.responses_api.call_item import CallItem
from gatehook_plugins.responses_api.citations import read_citations
from gatehook_plugins.responses_api.events import Events
from gatehook_plugins.responses_api.logprobs import read_logprobs
from gatehook_plugins.responses_api.message_item import MessageItem
from gatehook_plugins.responses_api.namespaces import Names
from gatehook_plugins.responses_api.reasoning_item import ReasoningItem

__all__ = ["Output"]


class Output:
    """Takes deltas. `items` are complete when it is finished."""

    def __init__(self, suffix: str, events: Events, names: Names) -> None:
        """Begin without items.

        Args:
            suffix: what the ids of all items have in common.
            events: told of everything.
            names: what the names of functions stand for, where they are joined.
        """
        self.items: list[dict[str, Any]] = []
        self._suffix = suffix
        self._events = events
        self._names = names
        self._open: ReasoningItem | MessageItem | None = None
        self._calls: list[CallItem] = []
        self._by_place: dict[Any, CallItem] = {}
        """The call that a number of the vendor's stands for now."""

    def add(self, delta: Mapping[str, Any], logprobs: Any = None) -> None:
        """Take the next delta of the model's message, or all of the message."""
        thought = delta.get("reasoning_content") or delta.get("reasoning")  # servers have two names for it
        if thought and isinstance(thought, str):
            self._reasoning().say(thought)
        if (blocks := delta.get("thinking_blocks")) and isinstance(blocks, list):
            self._reasoning().seal([block for block in blocks if isinstance(block, dict)])
        content = delta.get("content")
        if logprobs or isinstance(content, list):
            self._say_parts(content, read_logprobs(logprobs))
        elif content and isinstance(content, str):
            self._message().say("output_text", content)
        for citation in read_citations(delta.get("annotations")):
            self._message().cite(citation)
        if (refusal := delta.get("refusal")) and isinstance(refusal, str):
            self._message().say("refusal", refusal)
        if isinstance(extra := delta.get("extra_content"), dict):  # Gemini's proof of what it says, or thinks
            (self._open or self._reasoning()).item["extra_content"] = extra
        for piece in delta.get("tool_calls") or ():
            self._call(piece)

    def finish(self, *, whole: bool) -> None:
        """Close what is open; `whole`: whether the model has said all it wanted to, and so says something at least."""
        if whole and not self._calls and not any(item["type"] == "message" for item in self.items):
            self._message().say("output_text", "")
        for one in (self._open, *self._calls):
            if one is not None:  # what was begun last is what could not be finished
                one.close("completed" if whole or one.item is not self.items[-1] else "incomplete")
        self._open = None

    def cut(self) -> None:
        """Close what is open as it is, since there will be no more of it."""
        for one in (self._open, *self._calls):
            if one is not None:
                one.close("incomplete")

    def _say_parts(self, content: Any, logprobs: Sequence[dict[str, Any]]) -> None:
        """Text with log probabilities, or parts, as Mistral's reasoning models have them."""
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            if not isinstance(part, dict):
                continue
            if part.get("type") == "text":
                text = _text(part)
                if text or (logprobs and isinstance(self._open, MessageItem)):
                    self._message().say("output_text", text, logprobs)
            elif part.get("type") == "thinking" and isinstance(thoughts := part.get("thinking"), list):
                for thought in filter(None, map(_text, thoughts)):
                    self._reasoning().say(thought)

    def _reasoning(self) -> ReasoningItem:
        if not isinstance(self._open, ReasoningItem):
            self._close()
            self._open = ReasoningItem(self._events, *self._next())
            self.items.append(self._open.item)
        return self._open

    def _message(self) -> MessageItem:
        if not isinstance(self._open, MessageItem):
            self._close()
            self._open = MessageItem(self._events, *self._next())
            self.items.append(self._open.item)
        return self._open

    def _call(self, piece: Mapping[str, Any]) -> None:
        place, key = piece.get("index"), piece.get("id")
        call = self._by_place.get(place)
        # Some servers number no calls, or all of them 0: another id is another call.
        if call is None or (key and call.given_id not in ("", key)):
            self._close()
            form = "custom" if "custom" in piece else "function"
            call = self._by_place[place] = CallItem(self._events, *self._next(), form, self._names)
            self._calls.append(call)
            self.items.append(call.item)
        if fragment := call.take(piece):
            self._announce(call)
            call.say(fragment)

    def _announce(self, call: CallItem) -> None:
        """Announce a call, and before it those that were begun before it."""
        if not call.announced:
            for one in self._calls[: self._calls.index(call) + 1]:
                one.announce()

    def _close(self) -> None:
        for call in self._calls:
            call.announce()  # in the order of the items
        if self._open is not None:
            self._open.close("completed")
            self._open = None

    def _next(self) -> tuple[str, int]:
        """What makes the id of the next item, and its place."""
        index = len(self.items)
        return f"{self._suffix}{index:04x}", index


def _text(part: Any) -> str:
    """The words of a part; "" if it has none."""
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""
