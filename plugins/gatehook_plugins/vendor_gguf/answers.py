"""Answers of an engine. It speaks the gateway's own dialect: its bytes go through, and only errors are translated."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gatehook import (
    Chunk,
    Frames,
    GatewayError,
    InvalidRequest,
    MalformedJSON,
    Retry,
    Target,
    Unavailable,
    Upstream,
    UpstreamError,
    Usage,
    decode,
    redact,
)
from gatehook.sse import events, frame

__all__ = ["Stream", "error_of", "usage_in"]


class _Details(msgspec.Struct):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None

    def told(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            self.prompt_tokens,
            self.completion_tokens,
            cached_tokens=prompt.cached_tokens if prompt else 0,
            reasoning_tokens=completion.reasoning_tokens if completion else 0,
        )


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    def has_content(self) -> bool:
        delta = self.delta
        return bool(self.text or (delta and (delta.content or delta.reasoning_content or delta.tool_calls)))


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


class _Whole(msgspec.Struct):
    usage: _Usage | None = None


_read_event: Final = msgspec.json.Decoder(_Event).decode
_read_whole: Final = msgspec.json.Decoder(_Whole).decode


def usage_in(raw: bytes) -> Usage | None:
    """The usage in a whole answer; None if it has none.

    Raises:
        UpstreamError: it is no answer.
    """
    try:
        usage = _read_whole(raw).usage
    except msgspec.MsgspecError:
        raise _malformed() from None
    return None if usage is None else usage.told()


class Stream:
    """Reads the events of one streamed answer."""

    def __init__(self, target: Target, *, wants_usage: bool) -> None:
        """`wants_usage`: whether the client asked for the usage event; the gateway itself always does."""
        self._target = target
        self._wants_usage = wants_usage
        self.done = False
        """Whether [DONE] has come."""
        self.failure: GatewayError | None = None
        """The error that the engine sent after the last frames, if it did."""

    def read(self, whole: bytes) -> Frames:
        """The events that arrived together, as they go to the client.

        Raises:
            UpstreamError: one of them is no event of OpenAI's dialect.
        """
        contents, finished = 0, False
        usage: Usage | None = None
        kept: list[bytes] = []
        for _, data in events(whole):
            if data == b"[DONE]":
                self.done = True
                break
            event = _event(data)
            if event.error is not None:
                self.failure = _told(self._target, 502, event.error, None)
                break
            contents += any(choice.has_content() for choice in event.choices)
            finished = finished or any(choice.finish_reason for choice in event.choices)
            if event.usage is not None:
                usage = event.usage.told()
                if not event.choices and not self._wants_usage:
                    continue
            kept.append(frame(data))
        return Frames(b"".join(kept), _chunks, contents=contents, finished=finished, usage=usage)


async def error_of(upstream: Upstream, target: Target) -> GatewayError:
    """The error of an answer whose status is not 200."""
    raw = await upstream.read()
    try:
        error = decode(raw)["error"]
    except (MalformedJSON, KeyError, TypeError):
        error = {}
    return _told(target, upstream.status, error if isinstance(error, dict) else {}, upstream.retry_after)


def _told(target: Target, status: int, error: dict[str, Any], retry_after: float | None) -> GatewayError:
    told = error.get("status", status) if status == 502 else status
    code, param = (value if isinstance(value := error.get(key), str) else None for key in ("code", "param"))
    words = error.get("message") or f"the engine answered {status}"
    message = f"gguf: {redact(str(words), target.secrets())}"
    if told in (429, 503):
        return Unavailable(message, code=code or "engine_busy", retry_after=retry_after or 1.0)
    if told in (400, 404, 413, 422) or error.get("type") == "invalid_request_error":
        retry = Retry.NEXT if code == "context_length_exceeded" else Retry.NEVER
        return InvalidRequest(message, param=param, code=code, retry=retry)
    return UpstreamError(message, code=code or "engine_failed")


def _event(data: bytes) -> _Event:
    try:
        return _read_event(data)
    except msgspec.MsgspecError:
        raise _malformed() from None


def _chunks(data: bytes) -> Sequence[Chunk]:
    """The events of `Frames.data`, one by one."""
    chunks = []
    for _, raw in events(data):
        event = _event(raw)
        usage = None if event.usage is None else event.usage.told()
        chunks.append(
            Chunk(
                raw=raw,
                content=any(choice.has_content() for choice in event.choices),
                finished=any(choice.finish_reason for choice in event.choices),
                usage=usage,
                usage_only=usage is not None and not event.choices,
            )
        )
    return chunks


def _malformed() -> UpstreamError:
    return UpstreamError("gguf: the engine's answer is not what it should be", code="upstream_malformed")
