"""Anthropic's streamed messages as chat completion chunks (`anthropic.types.RawMessageStreamEvent`).

A message is a row of content blocks, one open at a time: message_start, then for each block content_block_start,
deltas and content_block_stop, then message_delta with the stop reason and the final counts, then message_stop.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from msgspec import Struct

from gatehook import Call, Chunk, MalformedJSON, StreamBuilder, Target, decode
from gatehook.sse import Event
from gatehook_plugins.vendor_anthropic.answer import (
    Counts,
    arguments_text,
    finish_reason,
    refusal,
    stopped_at,
    string,
    thinking_block,
)
from gatehook_plugins.vendor_anthropic.failure import garbled, in_band

__all__ = ["Translation"]


class _Block(Struct):
    """A content block that is open: what its stop, or its later deltas, will need to know."""

    kind: str
    thinking: list[str] = []
    signature: str = ""
    arguments: str = ""
    """How a tool call's arguments come: "" not yet, "pieces" in deltas, "whole" with the block's start."""


class Translation:
    """The state of one stream. `done` is set by message_stop."""

    def __init__(self, call: Call, target: Target, drop: Callable[[str], None]) -> None:
        self.done = False
        self._target = target
        self._drop = drop
        self._chunks = StreamBuilder(call)
        self._counts = Counts()
        self._stop_reason: str | None = None
        self._refusal: str | None = None
        self._stopped_at: str | None = None
        self._begun = False
        """Whether a content block was begun."""
        self._blocks: dict[int, _Block] = {}
        self._tool: int | None = None
        """The block whose tool call was begun last."""

    def take(self, event: Event, batch: list[Chunk]) -> None:
        """Translate one event, adding to the batch; unknown events, and all after message_stop, say nothing.

        Raises:
            GatewayError: the vendor reports an error, or the event is not what its API gives.
        """
        if self.done or event[0] == b"ping":
            return
        try:
            data = decode(event[1])
        except MalformedJSON as error:
            raise garbled(f"an event of the stream is not valid JSON: {error}") from None
        if not isinstance(data, dict):
            raise garbled("an event of the stream is not an object")
        kind = data.get("type")
        handler = self._HANDLERS.get(kind) if isinstance(kind, str) else None
        if handler is not None:
            handler(self, data, batch)
        elif "error" in data or event[0] == b"error":
            self._on_error(data, batch)

    def _on_error(self, data: dict[str, Any], batch: list[Chunk]) -> None:
        raise in_band(data, self._target)

    def _on_message_start(self, data: dict[str, Any], batch: list[Chunk]) -> None:
        if self._begun:
            raise garbled("a message begins anew in its middle")
        self._counts.update(_object(data, "message").get("usage"))
        opened = self._chunks.open()
        opened.usage = self._counts.usage()  # a client that leaves before the end pays for the prompt
        batch.append(opened)

    def _on_block_start(self, data: dict[str, Any], batch: list[Chunk]) -> None:
        start, index = _object(data, "content_block"), _index(data)
        self._begun = True
        kind = start.get("type")
        block = self._blocks[index] = _Block(kind if isinstance(kind, str) else "")
        match block.kind:
            case "text":
                self._text(start.get("text", ""), batch)
            case "thinking":
                self._thinking(block, start.get("thinking", ""), batch)
                block.signature = string(start, "signature") if start.get("signature") else ""
            case "redacted_thinking":
                sealed = {"type": "redacted_thinking", "data": string(start, "data")}
                batch.append(self._chunks.delta({"thinking_blocks": [sealed]}, content=False))
            case "tool_use":
                # An empty object here means "not yet"; a full one is all there will be.
                arguments = arguments_text(start) if start.get("input") else ""
                block.arguments = "whole" if arguments else ""
                batch.append(self._chunks.tool_call(string(start, "id"), string(start, "name"), arguments))
                self._tool = index

    def _on_delta(self, data: dict[str, Any], batch: list[Chunk]) -> None:
        block, delta = self._open_block(data), _object(data, "delta")
        match delta.get("type"):
            case "text_delta":
                self._text(delta.get("text"), batch)
            case "thinking_delta":
                self._thinking(block, delta.get("thinking"), batch)
            case "signature_delta":
                block.signature += string(delta, "signature")
            case "input_json_delta" if block.kind == "tool_use":
                self._arguments(block, _index(data), string(delta, "partial_json"), batch)

    def _on_block_stop(self, data: dict[str, Any], batch: list[Chunk]) -> None:
        block = self._open_block(data)
        del self._blocks[_index(data)]
        self._close(block, batch)

    def _on_message_delta(self, data: dict[str, Any], batch: list[Chunk]) -> None:
        self._counts.update(data.get("usage"))
        delta = _object(data, "delta")
        reason = delta.get("stop_reason")
        if isinstance(reason, str):
            self._stop_reason, self._stopped_at = reason, stopped_at(delta)
        if reason == "refusal":
            self._refusal = refusal(delta.get("stop_details"))

    def _on_message_stop(self, data: dict[str, Any], batch: list[Chunk]) -> None:
        if self._stop_reason is None:
            raise garbled("the stream ended without a stop reason")
        for block in self._blocks.values():
            self._close(block, batch)
        if self._refusal is not None:
            batch.append(self._chunks.delta({"refusal": self._refusal}))
        calls = self._chunks.has_tool_calls()
        reason = finish_reason(self._stop_reason, has_calls=calls, drop=self._drop)
        batch.append(self._chunks.finish(reason, at=self._stopped_at))
        if usage := self._counts.usage():
            batch.append(self._chunks.usage(usage))
        self.done = True

    def owed(self) -> list[Chunk]:
        """The last counts, for an answer that breaks off after they came: message_stop has not told them."""
        usage = self._counts.usage() if self._stop_reason is not None else None
        return [self._chunks.usage(usage)] if usage else []

    def _close(self, block: _Block, batch: list[Chunk]) -> None:
        if block.kind == "tool_use" and not block.arguments:
            batch.append(self._chunks.tool_arguments("{}"))
        elif block.kind == "thinking" and block.signature:
            signed = thinking_block("".join(block.thinking), block.signature)
            batch.append(self._chunks.delta({"thinking_blocks": [signed]}, content=False))

    def _text(self, text: Any, batch: list[Chunk]) -> None:
        if not isinstance(text, str):
            raise garbled("a piece of text is not text")
        if text:
            batch.append(self._chunks.text(text))

    def _thinking(self, block: _Block, text: Any, batch: list[Chunk]) -> None:
        if not isinstance(text, str):
            raise garbled("a piece of thinking is not text")
        if text:
            block.thinking.append(text)
            batch.append(self._chunks.reasoning(text))

    def _arguments(self, block: _Block, index: int, fragment: str, batch: list[Chunk]) -> None:
        if not fragment or block.arguments == "whole":
            return
        if index != self._tool:
            raise garbled("two tool calls are open at once")
        block.arguments = "pieces"
        batch.append(self._chunks.tool_arguments(fragment))

    def _open_block(self, data: dict[str, Any]) -> _Block:
        block = self._blocks.get(_index(data))
        if block is None:
            raise garbled("an event belongs to no open content block")
        return block

    _HANDLERS: ClassVar[Mapping[str, Callable[["Translation", dict[str, Any], list[Chunk]], None]]] = {
        "content_block_delta": _on_delta,
        "content_block_start": _on_block_start,
        "content_block_stop": _on_block_stop,
        "message_start": _on_message_start,
        "message_delta": _on_message_delta,
        "message_stop": _on_message_stop,
        "error": _on_error,
    }
    """By the type of event. Not bound to an instance, which would hold itself until the garbage is collected."""


def _object(data: dict[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    if not isinstance(value, dict):
        raise garbled(f"an event's {name} is not an object")
    return value


def _index(data: dict[str, Any]) -> int:
    index = data.get("index")
    if not isinstance(index, int):
        raise garbled("an event's index is not a number")
    return index
