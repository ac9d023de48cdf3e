"""Bedrock's answers, whole (ConverseResponse) and in events (ConverseStreamOutput), as OpenAI's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gatehook import Attempt, Chunk, Completion, StreamBuilder, Usage, completion, encode
from gatehook_bedrock.failure import garbled

__all__ = ["Translation", "read"]

_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_FAILED = ("malformed_model_output", "malformed_tool_use")


def read(attempt: Attempt, data: Mapping[str, Any]) -> Completion:
    """A whole answer.

    Raises:
        UpstreamError: it is not what Bedrock gives.
    """
    blocks = _object(_object(data, "output"), "message").get("content")
    if not isinstance(blocks, list):
        raise garbled("the answer holds no content")
    texts, thoughts, signed = [], [], []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        match block:
            case {"text": str(text)}:
                texts.append(text)
            case {"toolUse": {"type": "server_tool_use"}}:  # a tool of Bedrock's own: nothing for a client to do
                attempt.note("content.toolUse")
            case {"toolUse": dict()} if calls and attempt.single_call:
                attempt.note("answer.tool_calls")
            case {"toolUse": {"toolUseId": str(known), "name": str(name), "input": arguments}}:
                function = {"name": name, "arguments": encode(arguments).decode()}
                calls.append({"id": known, "type": "function", "function": function})
            case {"reasoningContent": {"reasoningText": {"text": str(text), **more}}}:
                thoughts.append(text)
                signed.append({"type": "thinking", "thinking": text, "signature": more.get("signature") or ""})
            case {"reasoningContent": {"redactedContent": str(sealed)}}:
                signed.append({"type": "redacted_thinking", "data": sealed})
            case {"citationsContent": {"content": [*cited]}}:
                texts += [one["text"] for one in cited if isinstance(one.get("text"), str)]
                attempt.note("citations")
            case _:
                attempt.note("content." + "/".join(block)[:60] if isinstance(block, dict) else "content")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    optional = {"reasoning_content": "".join(thoughts), "thinking_blocks": _proven(signed), "tool_calls": calls}
    message |= {name: value for name, value in optional.items() if value}
    reason = _reason(attempt, data.get("stopReason"))
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": "tool_calls" if calls and reason == "stop" else reason,
    }
    return completion(attempt.call, [choice], _usage(data.get("usage")))


def _proven(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that can be sent back in a later request: no vendor accepts reasoning without its signature."""
    return [block for block in blocks if block.get("signature") or block.get("data")]


@dataclass(slots=True)
class _Block:
    """A content block that is open: what has to be known when it stops."""

    tool: bool = False
    left_out: bool = False
    """Whether the client is not told of it: a tool of Bedrock's own, or a call beyond the one that may be made."""
    arguments: bool = False
    thinking: list[str] = field(default_factory=list)
    signature: str = ""


class Translation:
    """The state of one stream. `ended` is set by the stop reason, `done` by the metadata, which come last."""

    def __init__(self, attempt: Attempt) -> None:
        self.ended = self.done = False
        self._attempt = attempt
        self._chunks = StreamBuilder(attempt.call)
        self._blocks: dict[Any, _Block] = {}
        self._tool: Any = None
        """The block whose tool call was begun last."""
        self._handlers: dict[str, Callable[[Mapping[str, Any], list[Chunk]], None]] = {
            "messageStart": self._on_start,
            "contentBlockStart": self._on_block_start,
            "contentBlockDelta": self._on_delta,
            "contentBlockStop": self._on_block_stop,
            "messageStop": self._on_stop,
            "metadata": self._on_metadata,
        }

    def take(self, kind: str, data: Mapping[str, Any], batch: list[Chunk]) -> None:
        """Translate one event, adding its chunks to `batch`; events of an unknown kind are ignored.

        Raises:
            UpstreamError: it is not what Bedrock gives.
        """
        if (handler := self._handlers.get(kind)) is not None:
            handler(data, batch)

    def _on_start(self, data: Mapping[str, Any], batch: list[Chunk]) -> None:
        batch.append(self._chunks.open())

    def _on_block_start(self, data: Mapping[str, Any], batch: list[Chunk]) -> None:
        index = data.get("contentBlockIndex")
        match data.get("start"):
            case {"toolUse": {"type": "server_tool_use"}} | {"toolResult": _}:
                self._blocks[index] = _Block(left_out=True)
                self._attempt.note("content." + next(iter(data["start"])))
            case {"toolUse": dict()} if self._chunks.has_tool_calls() and self._attempt.single_call:
                self._blocks[index] = _Block(left_out=True)
                self._attempt.note("answer.tool_calls")
            case {"toolUse": {"toolUseId": str(known), "name": str(name)}}:
                self._blocks[index] = _Block(tool=True)
                self._tool = index
                batch.append(self._chunks.tool_call(known, name))

    def _on_delta(self, data: Mapping[str, Any], batch: list[Chunk]) -> None:
        index = data.get("contentBlockIndex")
        block = self._blocks.setdefault(index, _Block())
        if block.left_out:
            return
        match data.get("delta"):
            case {"text": str(text)}:
                if text:
                    batch.append(self._chunks.text(text))
            case {"toolUse": {"input": str(fragment)}}:
                self._on_arguments(index, block, fragment, batch)
            case {"reasoningContent": {"text": str(text)}}:
                block.thinking.append(text)
                if text:
                    batch.append(self._chunks.reasoning(text))
            case {"reasoningContent": {"signature": str(signature)}}:
                block.signature += signature
            case {"reasoningContent": {"redactedContent": str(sealed)}}:
                self._keep({"type": "redacted_thinking", "data": sealed}, batch)
            case dict() as other:
                self._attempt.note("citations" if "citation" in other else "content")
            case _:
                raise garbled("an event's delta is not an object")

    def _on_arguments(self, index: Any, block: _Block, fragment: str, batch: list[Chunk]) -> None:
        if not block.tool or index != self._tool:
            raise garbled("arguments belong to no open tool call")
        if fragment:
            block.arguments = True
            batch.append(self._chunks.tool_arguments(fragment))

    def _on_block_stop(self, data: Mapping[str, Any], batch: list[Chunk]) -> None:
        block = self._blocks.pop(data.get("contentBlockIndex"), None)
        if block is None:
            return
        if block.tool and not block.arguments:
            batch.append(self._chunks.tool_arguments("{}"))
        if block.signature:
            thought = "".join(block.thinking)
            self._keep({"type": "thinking", "thinking": thought, "signature": block.signature}, batch)

    def _keep(self, block: dict[str, Any], batch: list[Chunk]) -> None:
        batch.append(self._chunks.delta({"thinking_blocks": [block]}, content=False))

    def _on_stop(self, data: Mapping[str, Any], batch: list[Chunk]) -> None:
        batch.append(self._chunks.finish(_reason(self._attempt, data.get("stopReason"))))
        self.ended = True

    def _on_metadata(self, data: Mapping[str, Any], batch: list[Chunk]) -> None:
        if (used := _usage(data.get("usage"))) is not None:
            batch.append(self._chunks.usage(used))
        self.done = True


def _reason(attempt: Attempt, told: Any) -> str:
    if not isinstance(told, str):
        raise garbled("the answer ended without a stop reason")
    if told in _FAILED:
        raise garbled(f"the model's output cannot be read ({told})")
    if told not in _REASONS:
        attempt.note(f"stopReason={told}"[:100])
    return _REASONS.get(told, "stop")


def _usage(told: Any) -> Usage | None:
    """OpenAI's way of counting: the prompt includes what was read from and written to the cache. None: no count."""
    if not isinstance(told, dict):
        return None
    names = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
    prompt, answer, cached, written = sound = [_count(told.get(name)) for name in names]
    if not any(sound):
        return None
    hour = min(_written_for_an_hour(told.get("cacheDetails")), written)
    return Usage(prompt + cached + written, answer, cached, written, cache_write_1h_tokens=hour)


def _written_for_an_hour(details: Any) -> int:
    """What costs more than the rest that was written to the cache, which is kept for five minutes."""
    found = details if isinstance(details, list) else ()
    return sum(_count(one.get("inputTokens")) for one in found if isinstance(one, dict) and one.get("ttl") == "1h")


def _count(told: Any) -> int:
    return told if type(told) is int and told >= 0 else 0


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    if not isinstance(value, dict):
        raise garbled(f"the answer's {name} is not an object")
    return value
