"""Cohere's answers, whole (V2ChatResponse) and in events (V2ChatStreamResponse), as OpenAI's."""

from collections.abc import Callable, Mapping
from typing import Any

from gatehook import Attempt, Chunk, Completion, MalformedJSON, StreamBuilder, Usage, completion, decode, tool_call_id
from gatehook_cohere.failure import garbled, in_band

__all__ = ["Translation", "read", "usage"]

_REASONS = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}
_FAILED = ("ERROR", "ERROR_LIMIT", "ERROR_TOXIC", "TIMEOUT")


def read(attempt: Attempt, data: Mapping[str, Any]) -> Completion:
    """A whole answer. What it plans before it calls tools, and what it thinks, is its reasoning.

    Raises:
        GatewayError: it ended in an error, or is not what Cohere gives.
    """
    told = _object(data, "message")
    parts = [part for part in told.get("content") or () if isinstance(part, dict)]
    thought = "".join(_text(part, "thinking") for part in parts if part.get("type") == "thinking")
    text = "".join(_text(part, "text") for part in parts if part.get("type") == "text")
    calls = [_tool_call(call) for call in told.get("tool_calls") or ()]
    if len(calls) > 1 and attempt.single_call:
        del calls[1:]
        attempt.note("answer.tool_calls")
    reason = _reason(attempt, data)
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if reasoning := thought + _text(told, "tool_plan"):
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {"id": known, "type": "function", "function": {"name": name, "arguments": _whole(arguments)}}
            for known, name, arguments in calls
        ]
    if told.get("citations"):
        attempt.note("citations")
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": "tool_calls" if calls and reason == "stop" else reason,
    }
    return completion(attempt.call, [choice], usage(data.get("usage")))


def usage(told: Any) -> Usage | None:
    """What was used, by tokens if they are told, else by those that are billed; None if neither counts anything."""
    if not isinstance(told, dict):
        return None
    for name in ("tokens", "billed_units"):
        if isinstance(counts := told.get(name), dict):
            read, written = _count(counts.get("input_tokens")), _count(counts.get("output_tokens"))
            if read or written:
                return Usage(read, written, min(_count(told.get("cached_tokens")), read))
    return None


def _count(value: Any) -> int:
    """Cohere's counts are floats."""
    return int(value) if type(value) in (int, float) and value >= 0 else 0


class Translation:
    """The state of one stream. `done` is set by message-end."""

    def __init__(self, attempt: Attempt) -> None:
        self.done = False
        self._left_out = False
        """Whether the tool call begun last is not told."""
        self._attempt = attempt
        self._chunks = StreamBuilder(attempt.call)
        self._bare = False
        """Whether the tool call that is open has had no arguments so far."""
        self._handlers: dict[str, Callable[[Mapping[str, Any], list[Chunk]], None]] = {
            "message-start": self._on_start,
            "content-start": self._on_content,
            "content-delta": self._on_content,
            "tool-plan-delta": self._on_plan,
            "tool-call-start": self._on_call,
            "tool-call-delta": self._on_arguments,
            "tool-call-end": self._on_call_end,
            "citation-start": self._on_citation,
            "message-end": self._on_end,
        }

    def take(self, event: bytes, batch: list[Chunk]) -> None:
        """Translate one event, adding its chunks to `batch`; unknown kinds, and all after message-end, are ignored.

        Raises:
            GatewayError: the vendor reports an error, or the event is not what its API gives.
        """
        if self.done or event == b"[DONE]":
            return
        try:
            data = decode(event)
        except MalformedJSON as error:
            raise garbled(f"an event of the stream is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise garbled("an event of the stream is not an object")
        if (handler := self._handlers.get(str(data.get("type")))) is not None:
            delta = data.get("delta")
            handler(delta if isinstance(delta, dict) else {}, batch)
        elif "message" in data and "type" not in data:
            raise in_band("ERROR", {"error": data["message"]}, self._attempt.target)

    def _on_start(self, delta: Mapping[str, Any], batch: list[Chunk]) -> None:
        batch.append(self._chunks.open())

    def _on_content(self, delta: Mapping[str, Any], batch: list[Chunk]) -> None:
        content = _object(_object(delta, "message"), "content")
        if thought := _text(content, "thinking"):
            batch.append(self._chunks.reasoning(thought))
        if text := _text(content, "text"):
            batch.append(self._chunks.text(text))

    def _on_plan(self, delta: Mapping[str, Any], batch: list[Chunk]) -> None:
        if plan := _text(_object(delta, "message"), "tool_plan"):
            batch.append(self._chunks.reasoning(plan))

    def _on_call(self, delta: Mapping[str, Any], batch: list[Chunk]) -> None:
        known, name, arguments = _tool_call(_object(delta, "message").get("tool_calls"))
        self._left_out = self._chunks.has_tool_calls() and self._attempt.single_call
        self._bare = not arguments and not self._left_out
        if self._left_out:
            self._attempt.note("answer.tool_calls")
        else:
            batch.append(self._chunks.tool_call(known, name, arguments))

    def _on_arguments(self, delta: Mapping[str, Any], batch: list[Chunk]) -> None:
        function = _object(_object(_object(delta, "message"), "tool_calls"), "function")
        if not self._chunks.has_tool_calls():
            raise garbled("arguments came before their tool call")
        if (fragment := _text(function, "arguments")) and not self._left_out:
            self._bare = False
            batch.append(self._chunks.tool_arguments(fragment))

    def _on_call_end(self, delta: Mapping[str, Any], batch: list[Chunk]) -> None:
        if self._bare:
            self._bare = False
            batch.append(self._chunks.tool_arguments(_whole("")))

    def _on_citation(self, delta: Mapping[str, Any], batch: list[Chunk]) -> None:
        self._attempt.note("citations")

    def _on_end(self, delta: Mapping[str, Any], batch: list[Chunk]) -> None:
        batch.append(self._chunks.finish(_reason(self._attempt, delta)))
        if (used := usage(delta.get("usage"))) is not None:
            batch.append(self._chunks.usage(used))
        self.done = True


def _reason(attempt: Attempt, data: Mapping[str, Any]) -> str:
    told = data.get("finish_reason")
    if not isinstance(told, str):
        raise garbled("the answer ended without a finish reason")
    if told in _FAILED:
        raise in_band(told, data, attempt.target)
    if told not in _REASONS:
        attempt.note(f"finish_reason={told}"[:100])
    return _REASONS.get(told, "stop")


def _tool_call(call: Any) -> tuple[str, str, str]:
    """Its id, name, and arguments as JSON text (its beginning, in a stream)."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise garbled("a tool call without a function")
    known = call.get("id")
    return (
        (known if isinstance(known, str) and known else tool_call_id()),
        function["name"],
        _text(function, "arguments"),
    )


def _whole(arguments: str) -> str:
    """All arguments of a call as JSON text: of a function without any, Cohere tells nothing, or null."""
    return "{}" if arguments in ("", "null") else arguments


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    if not isinstance(value, dict):
        raise garbled(f"the answer's {name} is not an object")
    return value


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if value is not None and not isinstance(value, str):
        raise garbled(f"the answer's {name} is not text")
    return value or ""
