"""Builds answers in OpenAI's shape: for vendors that translate, so that every stream keeps OpenAI's invariants.

One id, one `created` and one `model` for the whole stream; the first delta of a choice carries the role; tool calls,
and the objects of any other list, are numbered from 0 per choice; the finish reason comes once, alone, with an empty
delta; usage comes after it.
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from gatehook.accounts import Usage
from gatehook.jsonio import encode
from gatehook.model import Call, Chunk, Completion

__all__ = ["FinishReason", "StreamBuilder", "completion", "tool_call_id"]

FinishReason = str
"""stop, length, tool_calls, content_filter."""


def tool_call_id() -> str:
    """An id for a tool call whose vendor gave none."""
    return "call_" + os.urandom(12).hex()


def completion(
    call: Call,
    choices: Sequence[Mapping[str, Any]],
    usage: Usage | None,
    *,
    extra: Mapping[str, Any] | None = None,
) -> Completion:
    """A whole chat answer. `choices` are OpenAI choice objects; `extra` adds top-level fields."""
    data = {
        "id": "chatcmpl-" + call.id.removeprefix("req_"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.public_name,
        "choices": list(choices),
        "usage": usage.as_openai() if usage else None,
        "system_fingerprint": None,
        **(extra or {}),
    }
    return Completion(data, usage=usage)


class StreamBuilder:
    """Makes the chunks of one streamed chat answer. All methods take the choice's index."""

    def __init__(self, call: Call) -> None:
        self._head = {
            "id": "chatcmpl-" + call.id.removeprefix("req_"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": call.public_name,
            "system_fingerprint": None,
        }
        self._include_usage = call.include_usage
        self._opened: set[int] = set()
        self._tools: dict[int, int] = {}
        self._listed: dict[tuple[int, str], int] = {}
        """How many objects a list has had so far, by the choice and the list's name."""
        self._around: dict[int, tuple[bytes, bytes]] = {}
        """The JSON before and after the text, by choice: in most events all but the text is the same."""

    def delta(self, delta: dict[str, Any], index: int = 0, *, content: bool = True, logprobs: Any = None) -> Chunk:
        """Any delta; the role is added to the first one of a choice, and a number to the objects in its lists."""
        numbered = {name: self._numbered(name, value, index) for name, value in delta.items()}
        return self._chunk(self._with_role(numbered, index), index, logprobs=logprobs, content=content)

    def text(self, text: str, index: int = 0, *, logprobs: Any = None) -> Chunk:
        """A piece of the answer's text; mostly built from the bytes around it, without encoding the rest again."""
        if logprobs is not None or not text or index not in self._opened:
            return self.delta({"content": text}, index, content=bool(text), logprobs=logprobs)
        around = self._around.get(index) or self._learned(index)
        return Chunk(raw=encode(text).join(around), content=True)

    def reasoning(self, text: str, index: int = 0) -> Chunk:
        """A piece of the model's reasoning."""
        return self.delta({"reasoning_content": text}, index, content=bool(text))

    def open(self, index: int = 0) -> Chunk:
        """The first delta, carrying only the role; for vendors that announce an answer before its content."""
        return self.delta({"content": ""}, index, content=False)

    def tool_call(
        self,
        id: str,
        name: str,
        arguments: str = "",
        index: int = 0,
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> Chunk:
        """Begin the next tool call of a choice; `arguments` is the first, or the only, fragment of its JSON."""
        position = self._tools.get(index, -1) + 1
        self._tools[index] = position
        call = {
            "index": position,
            "id": id,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
            **(extra or {}),
        }
        return self.delta({"tool_calls": [call]}, index)

    def tool_arguments(self, fragment: str, index: int = 0) -> Chunk:
        """The next fragment of the arguments of the tool call begun last."""
        call = {"index": self._tools[index], "function": {"arguments": fragment}}
        return self.delta({"tool_calls": [call]}, index)

    def has_tool_calls(self, index: int = 0) -> bool:
        """Whether a tool call was begun in this choice."""
        return index in self._tools

    def finish(self, reason: FinishReason, index: int = 0, *, at: str | None = None) -> Chunk:
        """The end of one choice; a choice with tool calls that "stopped" is reported as tool_calls.

        `at` is which of the request's `stop` it came to, if that is known: clients find it where vLLM's do.
        """
        if reason == "stop" and index in self._tools:
            reason = "tool_calls"
        return self._chunk(self._with_role({}, index), index, reason=reason, at=at)

    def usage(self, usage: Usage) -> Chunk:
        """The usage event; the gateway keeps it from clients that did not ask."""
        return Chunk({**self._head, "choices": [], "usage": usage.as_openai()}, usage=usage, usage_only=True)

    def _learned(self, index: int) -> tuple[bytes, bytes]:
        """Find out, and keep, what stands around the text of a choice."""
        key, empty = b'"content":', b'""'  # inside a string quotes are escaped: the two are found nowhere else
        before, _, after = self._chunk({"content": ""}, index).raw.partition(key + empty)
        self._around[index] = around = (before + key, after)
        return around

    def _numbered(self, name: str, value: Any, index: int) -> Any:
        """A list of objects with their numbers, by which OpenAI's own clients join those of several deltas."""
        if type(value) is not list or not value or type(value[0]) is not dict or "index" in value[0]:
            return value
        first = self._listed.get((index, name), 0)
        self._listed[index, name] = first + len(value)
        return [{**one, "index": number} for number, one in enumerate(value, first)]

    def _with_role(self, delta: dict[str, Any], index: int) -> dict[str, Any]:
        if index in self._opened:
            return delta
        self._opened.add(index)
        return {"role": "assistant", **delta}

    def _chunk(
        self,
        delta: dict[str, Any],
        index: int,
        *,
        reason: str | None = None,
        at: str | None = None,
        logprobs: Any = None,
        content: bool = False,
    ) -> Chunk:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        if at is not None:
            choice["stop_reason"] = at
        data: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._include_usage:
            data["usage"] = None
        return Chunk(data, content=content, finished=reason is not None)
