"""Answers as bytes (msgpack): what the client's program reads stays as it was made, to the byte."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from gatehook import Chunk, Completion, Entry, Frames, MalformedJSON, Usage, decode
from gatehook.sse import events

__all__ = ["pack", "unpack"]


class _Whole(Struct, array_like=True, tag="whole"):
    """A plain answer."""

    raw: bytes
    usage: Usage | None


class _Framed(Struct, array_like=True, tag="framed"):
    """A stream that went through as frames."""

    data: bytes
    contents: int
    usage: Usage | None


class _Event(Struct, array_like=True):
    """One event of another stream."""

    raw: bytes
    content: bool
    finished: bool
    usage_only: bool
    usage: Usage | None


class _Events(Struct, array_like=True, tag="events"):
    """A stream event by event."""

    events: list[_Event]


class _Packed(Struct, array_like=True):
    """An entry."""

    at: float
    dropped: tuple[str, ...]
    answer: _Whole | _Framed | _Events


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Packed)


def pack(entry: Entry) -> bytes:
    """The bytes to keep."""
    return _encoder.encode(_Packed(entry.at, entry.dropped, _packed(entry)))


def unpack(data: bytes) -> Entry | None:
    """The entry; None if this is none, or one of another format."""
    try:
        packed = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # the latter where a name should be
        return None
    answer = packed.answer
    if isinstance(answer, _Whole):
        return Entry(Completion(raw=answer.raw, usage=answer.usage), at=packed.at, dropped=packed.dropped)
    chunks: Sequence[Chunk]
    if isinstance(answer, _Framed):
        chunks = Frames(answer.data, _chunks_of, contents=answer.contents, finished=True, usage=answer.usage)
    else:
        chunks = tuple(
            Chunk(raw=one.raw, content=one.content, finished=one.finished, usage=one.usage, usage_only=one.usage_only)
            for one in answer.events
        )
    return Entry(chunks=chunks, at=packed.at, dropped=packed.dropped)


def _packed(entry: Entry) -> _Whole | _Framed | _Events:
    if entry.completion is not None:
        return _Whole(entry.completion.raw, entry.completion.usage)
    if isinstance(entry.chunks, Frames):
        return _Framed(entry.chunks.data, entry.chunks.contents, entry.chunks.usage)
    return _Events([_Event(one.raw, one.content, one.finished, one.usage_only, one.usage) for one in entry.chunks])


def _chunks_of(data: bytes) -> Sequence[Chunk]:
    """The events of frames, for those who do look at each: another dialect, a tool policy, an observer."""
    return [_chunk(raw) for _, raw in events(data)]


def _chunk(raw: bytes) -> Chunk:
    try:
        told: Any = decode(raw)
    except MalformedJSON:  # it went out like this before
        told = {}
    choices = told.get("choices") or ()
    usage_only = not choices and bool(told.get("usage"))
    return Chunk(
        raw=raw,
        content=any(_has_content(choice) for choice in choices),
        finished=any(choice.get("finish_reason") for choice in choices),
        usage_only=usage_only,
    )


def _has_content(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text")) or any(value for name, value in delta.items() if name != "role")
