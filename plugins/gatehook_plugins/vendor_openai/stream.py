"""A stream of OpenAI's dialect: events go through as the bytes they came in, renamed, watched and counted.

Events that arrived together are decoded together and stay one piece of bytes. One is rebuilt only where it breaks an
invariant that clients rely on: one id and `created` for the whole stream, a role in the first delta, "tool_calls" as
the finish reason of a choice with tool calls.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gatehook import Attempt, Chunk, Frames, GatewayError, MalformedJSON, Usage, decode, encode
from gatehook.sse import events, frame
from gatehook_plugins.vendor_openai import failure
from gatehook_plugins.vendor_openai.peek import Event, EventChoice, read_event, read_events, usage_of
from gatehook_plugins.vendor_openai.splice import with_model

__all__ = ["StreamReader", "chunks_of"]

_DONE = b"data: [DONE]"


def chunks_of(data: bytes) -> Sequence[Chunk]:
    """The events of `Frames.data`, one by one."""
    chunks: list[Chunk] = []
    for _, raw in events(data):
        try:
            event = read_event(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # lone surrogates
            event = msgspec.convert(decode(raw), Event)
        choices = event.choices or ()
        usage = usage_of(event.usage)
        chunks.append(
            Chunk(
                raw=raw,
                content=any(choice.has_content() for choice in choices),
                finished=any(choice.finish_reason is not None for choice in choices),
                usage=usage,
                usage_only=usage is not None and not choices,
            )
        )
    return chunks


class StreamReader:
    """Turns the events of one stream into frames for the client."""

    def __init__(self, attempt: Attempt) -> None:
        call = attempt.call
        self._target = attempt.target
        self._public = call.model
        self._chat = call.operation == "chat"
        self._own_id = ("chatcmpl-" if self._chat else "cmpl-") + call.id.removeprefix("req_")
        self._wants_usage = call.include_usage
        self._head: tuple[str | None, Any] = (None, None)
        self._model: str | None = None
        self._renaming: tuple[bytes, bytes] | None = None
        self._open: set[int] = set()
        self._closed: set[int] = set()
        self._with_tools: set[int] = set()
        self._roleless: set[int] = set()
        self._usage: Usage | None = None
        self._usage_sent = False
        self._contents = 0
        self._finished = False
        self.done = False
        """Whether [DONE] has come; what follows it is of no interest."""
        self.failure: GatewayError | None = None
        """What went wrong after the frames given last: they are as good as if they had come alone."""

    def read(self, whole: bytes) -> Frames:
        """The frames of the events that arrived together; `failure` is set if one was bad, or told an error.

        Args:
            whole: complete events with LF line ends, as `gatehook.sse.Reader.take` gives them.
        """
        self._contents, self._finished = 0, False
        before = self._usage
        out: list[bytes] = []
        ordinary = self._is_ordinary
        together = self._together(whole)
        try:
            for event, raw in self._one_by_one(whole) if together is None else together:
                if ordinary(event):
                    self._contents += 1
                    out.append(raw if self._renaming is None else raw.replace(*self._renaming, 1))
                elif (kept := self._unusual(event, raw)) is not None:
                    out.append(kept)
        except GatewayError as error:
            self.failure = error
        data = b"data: %b\n\n" % b"\n\ndata: ".join(out) if out else b""
        usage = self._usage if self._usage is not before else None
        return Frames(data, chunks_of, contents=self._contents, finished=self._finished, usage=usage)

    def end(self) -> Frames:
        """What is still owed when the upstream has ended.

        Raises:
            UpstreamError: a choice was begun and never finished: the answer was cut.
        """
        if not self._closed or self._open - self._closed:
            raise failure.malformed(self._target, "the stream ended before the answer was complete")
        data = b""
        if self._usage is not None and self._wants_usage and not self._usage_sent:
            # It came with the last content; clients look for it in an event of its own.
            last: dict[str, Any] = {"id": self._head[0]}
            last["object"] = "chat.completion.chunk" if self._chat else "text_completion"
            last |= {"created": self._head[1], "model": self._public, "choices": [], "usage": self._usage.as_openai()}
            data = frame(encode(last))
        return Frames(data, chunks_of)

    def _together(self, whole: bytes) -> list[tuple[Event, bytes]] | None:
        """All events decoded in one go; None if they are not all of the plain form ``data: {…}``."""
        blocks = whole.split(b"\n\n")
        blocks.pop()
        done = bool(blocks) and blocks[-1] == _DONE
        if done:
            blocks.pop()
        if not blocks:
            self.done = done
            return [] if done else None
        raws = [block[6:] for block in blocks]
        try:
            found = read_events(b"[%b]" % b",".join(raws))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if len(found) != len(blocks) or not all(block.startswith(b"data: {") for block in blocks):
            return None
        self.done = done
        return list(zip(found, raws, strict=True))

    def _one_by_one(self, whole: bytes) -> Iterator[tuple[Event, bytes]]:
        for name, data in events(whole):
            if data.strip() == b"[DONE]":
                self.done = True
                break
            if name == b"error" or (data and not data.lstrip().startswith(b"{")):
                raise self._in_band(data)
            if data:
                yield self._slowly(data)

    def _slowly(self, data: bytes) -> tuple[Event, bytes]:
        try:
            return read_event(data), data
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        try:  # lone surrogates, which msgspec cannot hold, go through as escapes
            value = decode(data)
            return msgspec.convert(value, Event), encode(value)
        except (MalformedJSON, msgspec.ValidationError, RecursionError):
            raise failure.malformed(self._target, "an event of the stream is malformed") from None

    def _in_band(self, data: bytes) -> Exception:
        try:
            error = decode(data)
        except MalformedJSON:
            return failure.malformed(self._target, "an event of the stream is not valid JSON")
        if isinstance(error, dict):
            return failure.from_body(self._target, error.get("error", error))
        return failure.malformed(self._target, "an event of the stream is not a JSON object")

    def _is_ordinary(self, event: Event) -> bool:
        """Whether it is one more piece of content of a choice already begun: by far the most are."""
        choices = event.choices
        if choices is None or len(choices) != 1 or event.usage is not None or event.error:
            return False
        choice = choices[0]
        delta = choice.delta
        return (
            delta is not None
            and bool(delta.content)
            and delta.tool_calls is None
            and choice.finish_reason is None
            and choice.index in self._open
            and event.model == self._model
            and (event.id, event.created) == self._head
        )

    def _unusual(self, event: Event, raw: bytes) -> bytes | None:
        """Any other event, as the client gets it; None if it was only for us."""
        if event.error:
            raise failure.from_body(self._target, event.error)
        choices = event.choices or []
        mends = self._mends_head(event)
        for choice in choices:
            self._contents += choice.has_content()
            mends = self._follow(choice) or mends
        if (usage := usage_of(event.usage)) is not None:
            self._usage = usage
            if not choices:
                self._usage_sent = True
                if not self._wants_usage:
                    return None
        return self._mended(raw) if mends else self._renamed(raw, event.model)

    def _mends_head(self, event: Event) -> bool:
        """Fix id and `created` at the first event; whether this one differs."""
        if self._head[0] is None:
            created = event.created if isinstance(event.created, int) and event.created else int(time.time())
            self._head = (event.id or self._own_id, created)
        return (event.id, event.created) != self._head

    def _follow(self, choice: EventChoice) -> bool:
        """Keep track of one choice; whether the event must be mended for it."""
        index, delta = choice.index, choice.delta
        if index not in self._open:
            self._open.add(index)
            if self._chat and (delta is None or not delta.role):
                self._roleless.add(index)
        if delta is not None and delta.tool_calls:
            self._with_tools.add(index)
        if choice.finish_reason is not None:
            self._closed.add(index)
            self._finished = True
        return index in self._roleless or (choice.finish_reason == "stop" and index in self._with_tools)

    def _mended(self, raw: bytes) -> bytes:
        value = decode(raw)
        value["id"], value["created"] = self._head
        value["model"] = self._public
        for choice in value.get("choices") or ():
            index = choice.get("index", 0)
            if choice.get("finish_reason") == "stop" and index in self._with_tools:
                choice["finish_reason"] = "tool_calls"
            if index in self._roleless:
                self._roleless.discard(index)
                choice["delta"] = {**(choice.get("delta") or {}), "role": "assistant"}
        return encode(value)

    def _renamed(self, raw: bytes, model: str | None) -> bytes:
        if model == self._public:
            self._model, self._renaming = model, None
            return raw
        renamed = with_model(raw, model, self._public)
        # The exact bytes that were exchanged serve for the ordinary events to come: a server spells them alike.
        old, new = b'"model":' + encode(model), b'"model":' + encode(self._public)
        if model is not None and raw.count(old) == 1 and raw.replace(old, new, 1) == renamed:
            self._model, self._renaming = model, (old, new)
        return renamed
