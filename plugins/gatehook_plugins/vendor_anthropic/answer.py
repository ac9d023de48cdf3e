"""Anthropic's messages as chat completions (`anthropic.types.Message`)."""

from collections.abc import Callable
from typing import Any

from gatehook import Call, Completion, Usage, completion, encode
from gatehook_plugins.vendor_anthropic.failure import garbled

__all__ = ["Counts", "arguments_text", "finish_reason", "read", "refusal", "stopped_at", "string", "thinking_block"]

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


def finish_reason(stop_reason: str, *, has_calls: bool, drop: Callable[[str], None]) -> str:
    """OpenAI's finish reason; an unknown stop reason counts as a stop, and `drop` is told of it."""
    reason = _FINISH.get(stop_reason)
    if reason is None:
        drop(f"stop_reason={stop_reason}"[:100])
        reason = "stop"
    if reason in ("stop", "tool_calls"):
        return "tool_calls" if has_calls else "stop"
    return reason


def stopped_at(told: dict[str, Any]) -> str | None:
    """The stop sequence that an answer came to; None if it ended otherwise."""
    at = told.get("stop_sequence")
    return at if isinstance(at, str) and told.get("stop_reason") == "stop_sequence" else None


def refusal(details: Any) -> str | None:
    """Why the model refused, as a message's `stop_details` explain it; None if they do not."""
    explanation = details.get("explanation") if isinstance(details, dict) else None
    return explanation if isinstance(explanation, str) and explanation else None


class Counts:
    """Token counts as they come in: each report replaces what it names and leaves the rest."""

    __slots__ = ("_counts", "_hour", "_thinking")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._thinking = 0
        self._hour = 0
        """Of what was written to the cache, what is kept for an hour; the rest is for five minutes."""

    def update(self, usage: Any) -> None:
        """Take in a `usage` object; anything else is ignored."""
        if not isinstance(usage, dict):
            return
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            if (count := _count(usage.get(name))) is not None:
                self._counts[name] = count
        written = usage.get("cache_creation")
        if isinstance(written, dict) and (count := _count(written.get("ephemeral_1h_input_tokens"))) is not None:
            self._hour = count
        details = usage.get("output_tokens_details")
        if isinstance(details, dict) and (count := _count(details.get("thinking_tokens"))) is not None:
            self._thinking = count

    def usage(self) -> Usage | None:
        """OpenAI's way of counting, in which the prompt includes what was read from and written to the cache."""
        counts = self._counts
        if not counts:
            return None
        read = counts.get("cache_read_input_tokens", 0)
        written = counts.get("cache_creation_input_tokens", 0)
        return Usage(
            prompt_tokens=counts.get("input_tokens", 0) + read + written,
            completion_tokens=counts.get("output_tokens", 0),
            cached_tokens=read,
            cache_write_tokens=written,
            reasoning_tokens=self._thinking,
            cache_write_1h_tokens=min(self._hour, written),
        )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def string(value: dict[str, Any], name: str) -> str:
    """A field that must be text.

    Raises:
        UpstreamError: it is missing or something else.
    """
    text = value.get(name)
    if not isinstance(text, str):
        raise garbled(f"the answer's {name} is not text")
    return text


def arguments_text(block: dict[str, Any]) -> str:
    """A tool_use block's `input` as the JSON text that OpenAI's clients expect.

    Raises:
        UpstreamError: `input` is no object.
    """
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        raise garbled("a tool call's input is not an object")
    return encode(arguments).decode()


def thinking_block(text: str, signature: str) -> dict[str, str]:
    """A signed block of thinking, as the client has to give it back."""
    return {"type": "thinking", "thinking": text, "signature": signature}


class _Collector:
    """The parts of one message, gathered by kind; kinds that no client asked for are left out."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.thinking: list[dict[str, str]] = []
        self.calls: list[dict[str, Any]] = []

    def take(self, block: Any) -> None:
        if not isinstance(block, dict):
            raise garbled("a content block is not an object")
        match block.get("type"):
            case "text":
                self.texts.append(string(block, "text"))
            case "thinking":
                text, signature = string(block, "thinking"), block.get("signature")
                self.reasoning.append(text)
                if isinstance(signature, str) and signature:
                    self.thinking.append(thinking_block(text, signature))
            case "redacted_thinking":
                self.thinking.append({"type": "redacted_thinking", "data": string(block, "data")})
            case "tool_use":
                function = {"name": string(block, "name"), "arguments": arguments_text(block)}
                self.calls.append({"id": string(block, "id"), "type": "function", "function": function})

    def message(self) -> dict[str, Any]:
        text = "".join(self.texts)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if self.calls and not text else text,
            "refusal": None,
        }
        if reasoning := "".join(self.reasoning):
            message["reasoning_content"] = reasoning
        if self.thinking:
            message["thinking_blocks"] = self.thinking
        if self.calls:
            message["tool_calls"] = self.calls
        return message


def read(call: Call, data: dict[str, Any], drop: Callable[[str], None]) -> Completion:
    """A whole message as a chat completion.

    Raises:
        UpstreamError: it is not what Anthropic's API gives.
    """
    content = data.get("content")
    if not isinstance(content, list):
        raise garbled("the answer has no content")
    collector = _Collector()
    for block in content:
        collector.take(block)
    stop, message = string(data, "stop_reason"), collector.message()
    reason = finish_reason(stop, has_calls=bool(collector.calls), drop=drop)
    if stop == "refusal":
        message["refusal"] = refusal(data.get("stop_details"))
    counts = Counts()
    counts.update(data.get("usage"))
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    if (at := stopped_at(data)) is not None:
        choice["stop_reason"] = at
    return completion(call, [choice], counts.usage())
