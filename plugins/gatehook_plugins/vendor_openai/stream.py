"""A stream of OpenAI's dialect: events go through as the bytes they came in, renamed, watched and counted.

An event is rebuilt only where it breaks an invariant that clients rely on: one id and `created` for the whole stream,
a role in the first delta, "tool_calls" as the finish reason of a choice with tool calls.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from gatehook import Attempt, Chunk, MalformedJSON, Usage, decode, encode
from gatehook.sse import Event as SSEEvent
from gatehook_plugins.vendor_openai import failure
from gatehook_plugins.vendor_openai.peek import Event, EventChoice, read_event, usage_of
from gatehook_plugins.vendor_openai.splice import with_model

__all__ = ["StreamReader"]


class StreamReader:
    """Turns the events of one stream into chunks."""

    def __init__(self, attempt: Attempt) -> None:
        self._target = attempt.target
        self._public = attempt.call.model
        self._own_id = ("chatcmpl-" if attempt.call.operation == "chat" else "cmpl-") + attempt.call.id.removeprefix(
            "req_"
        )
        self._chat = attempt.call.operation == "chat"
        self._wants_usage = attempt.call.include_usage
        self._head: tuple[str, Any] | None = None
        self._renaming: tuple[bytes, bytes] = (b"", b"")
        self._open: set[int] = set()
        self._roled: set[int] = set()
        self._closed: set[int] = set()
        self._with_tools: set[int] = set()
        self._usage: Usage | None = None
        self._usage_sent = False
        self.done = False
        """Whether [DONE] has come; what follows it is of no interest."""

    def read(self, events: Sequence[SSEEvent]) -> list[Chunk]:
        """The chunks of the events that arrived together.

        Raises:
            UpstreamError: an event that is not what it should be, or an error the vendor put into the stream.
        """
        chunks: list[Chunk] = []
        for name, data in events:
            if data == b"[DONE]" or data.strip() == b"[DONE]":
                self.done = True
                break
            if name == b"error" or (data and not data.startswith(b"{")):
                raise self._in_band(data)
            if data:
                chunks.append(self._chunk(data))
        return chunks

    def end(self) -> list[Chunk]:
        """What is still owed when the upstream has ended.

        Raises:
            UpstreamError: a choice was begun and never finished: the answer was cut.
        """
        if not self._closed or self._open - self._closed:
            raise failure.malformed(self._target, "the stream ended before the answer was complete")
        if self._usage is None or self._usage_sent or not self._wants_usage or self._head is None:
            return []
        # It came with the last content; clients look for it in an event of its own.
        data = {"id": self._head[0], "created": self._head[1], "model": self._public, "choices": []}
        data["object"] = "chat.completion.chunk" if self._chat else "text_completion"
        return [Chunk(data | {"usage": self._usage.as_openai()}, usage=self._usage, usage_only=True)]

    def _in_band(self, data: bytes) -> Exception:
        try:
            error = decode(data)
        except MalformedJSON:
            return failure.malformed(self._target, "an event of the stream is not valid JSON")
        if isinstance(error, dict):
            return failure.from_body(self._target, error.get("error", error))
        return failure.malformed(self._target, "an event of the stream is not a JSON object")

    def _chunk(self, data: bytes) -> Chunk:
        try:
            event = read_event(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            event, data = self._slowly(data)
        if event.error:
            raise failure.from_body(self._target, event.error)
        choices = event.choices or []
        content = finished = False
        mends = self._mends_head(event)
        for choice in choices:
            if choice.delta is not None:
                content = content or choice.delta.has_content()
            content = content or bool(choice.text)
            finished = finished or choice.finish_reason is not None
            mends = self._follow(choice) or mends
        usage = usage_of(event.usage) if event.usage is not None else None
        if usage is not None:
            self._usage = usage
        usage_only = usage is not None and not choices
        self._usage_sent = self._usage_sent or usage_only
        raw = self._mended(data) if mends else self._renamed(data, event.model)
        return Chunk(raw=raw, content=content, finished=finished, usage=usage, usage_only=usage_only)

    def _slowly(self, data: bytes) -> tuple[Event, bytes]:
        """Lone surrogates, which msgspec cannot hold, go through as escapes; anything else is the vendor's fault."""
        try:
            value = decode(data)
            return msgspec.convert(value, Event), encode(value)
        except (MalformedJSON, msgspec.ValidationError, RecursionError):
            raise failure.malformed(self._target, "an event of the stream is malformed") from None

    def _mends_head(self, event: Event) -> bool:
        """Fix id and `created` at the first event; whether this one differs."""
        if self._head is None:
            created = event.created if isinstance(event.created, int) and event.created else int(time.time())
            self._head = (event.id or self._own_id, created)
        return (event.id, event.created) != self._head

    def _follow(self, choice: EventChoice) -> bool:
        """Keep track of one choice; whether the event must be mended for it."""
        index, delta = choice.index, choice.delta
        mends = False
        if index not in self._open:
            self._open.add(index)
            mends = self._chat and (delta is None or not delta.role)
        if delta is not None and delta.tool_calls:
            self._with_tools.add(index)
        if choice.finish_reason is not None:
            self._closed.add(index)
            mends = mends or (choice.finish_reason == "stop" and index in self._with_tools)
        return mends

    def _mended(self, data: bytes) -> bytes:
        value = decode(data)
        assert self._head is not None  # noqa: S101  # set by the first event
        value["id"], value["created"] = self._head
        value["model"] = self._public
        for choice in value.get("choices") or ():
            index = choice.get("index", 0)
            if choice.get("finish_reason") == "stop" and index in self._with_tools:
                choice["finish_reason"] = "tool_calls"
            if self._chat and index not in self._roled:
                self._roled.add(index)
                choice["delta"] = {**(choice.get("delta") or {}), "role": "assistant"}
        return encode(value)

    def _renamed(self, data: bytes, model: str | None) -> bytes:
        if model == self._public:
            return data
        old, new = self._renaming
        if old and data.count(b'"model"') == 1 and old in data:
            return data.replace(old, new, 1)
        renamed = with_model(data, model or "", self._public)
        self._remember(data, renamed, model)
        return renamed

    def _remember(self, before: bytes, after: bytes, model: str | None) -> None:
        """The exact bytes that were exchanged, for the events to come; vendors spell them alike every time."""
        old, new = b'"model":' + encode(model or ""), b'"model":' + encode(self._public)
        if before.count(old) == 1 and before.replace(old, new, 1) == after:
            self._renaming = (old, new)
