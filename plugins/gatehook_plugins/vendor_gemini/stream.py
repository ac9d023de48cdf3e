"""Reads a stream of GenerateContentResponse events (``alt=sse``) as OpenAI chunks.

Google ends a stream without a marker of its own: it is whole when every candidate has told a finishReason, or when the
prompt was blocked. Counts are cumulative, so the last ones stand.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gatehook import (
    Attempt,
    Chunk,
    GatewayError,
    MalformedJSON,
    Retry,
    StreamBuilder,
    UpstreamError,
    Usage,
    decode,
    tool_call_id,
)
from gatehook.sse import Event, EventTooLarge, Reader
from gatehook_plugins.vendor_gemini import answer
from gatehook_plugins.vendor_gemini.failure import WireError, error_in, in_band

__all__ = ["StreamReader"]


class StreamReader:
    """One stream, bytes in, chunks out.

    What arrived before a fault is still given: `feed` then returns it, and `fault` holds the error to raise next.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.fault: GatewayError | None = None
        self._attempt = attempt
        self._events = Reader()
        self._builder = StreamBuilder(attempt.call)
        self._reasons: dict[int, str] = {}
        self._blocked = False
        self._usage: Usage | None = None

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks that `data` completes."""
        try:
            events: Sequence[Event] = self._events.feed(data)
        except EventTooLarge as error:
            self.fault = UpstreamError(f"{self._attempt.target.vendor}: {error}", retry=Retry.NEXT)
            return []
        return self._read(events)

    def end(self) -> list[Chunk]:
        """What ends the stream: the finish reasons, held back because a late event may change them, and the usage."""
        chunks = self._read(self._events.end())
        if self.fault is not None:
            return chunks
        if self._blocked and not self._reasons:
            self._reasons[0] = "PROHIBITED_CONTENT"
        if not self._reasons or not all(self._reasons.values()):
            self.fault = UpstreamError(
                f"{self._attempt.target.vendor}: the stream ended before the answer was complete",
                code="upstream_truncated",
            )
            return chunks
        try:
            reasons = {
                index: answer.finish_reason(reason, self._attempt.note) for index, reason in self._reasons.items()
            }
        except WireError as error:
            self.fault = error.named(self._attempt.target)
            return chunks
        chunks += [self._builder.finish(reasons[index], index) for index in sorted(reasons)]
        if self._usage is not None:
            chunks.append(self._builder.usage(self._usage))
        return chunks

    def _read(self, events: Sequence[Event]) -> list[Chunk]:
        chunks: list[Chunk] = []
        target = self._attempt.target
        try:
            for _, data in events:
                if self.fault is None and data != b"[DONE]":
                    self._event(data, chunks)
        except WireError as error:
            self.fault = error.named(target)
        except MalformedJSON as error:
            self.fault = UpstreamError(f"{target.vendor}: a stream event is not valid JSON: {error}")
        return chunks

    def _event(self, data: bytes, chunks: list[Chunk]) -> None:
        response = decode(data)
        if (error := error_in(response)) is not None:
            self.fault = in_band(self._attempt.target, error)
            return
        response = answer.typed(response, dict, "an event")
        for index, candidate in answer.candidates(response):
            self._candidate(index, candidate, chunks)
        if not self._blocked:
            self._blocked = answer.blocked(response)
        self._usage = answer.usage(response) or self._usage

    def _candidate(self, index: int, candidate: Mapping[str, Any], chunks: list[Chunk]) -> None:
        # The log probabilities of an event go with its first text, where a client looks for them.
        probabilities = answer.logprobs(candidate)
        for part in answer.parts(candidate, self._attempt.note):
            if isinstance(part, answer.Words):
                if part.text or part.signature:
                    chunks.append(self._text(part, index, probabilities))
                    probabilities = None
            elif isinstance(part, answer.Shown):
                chunks.append(self._builder.delta({"images": [part.image], **_signed(part.signature)}, index))
            elif isinstance(part, answer.Thought):
                if part.text:
                    chunks.append(self._builder.reasoning(part.text, index))
                if part.signature:
                    chunks.append(self._builder.delta(_signed(part.signature), index, content=False))
            else:
                call_id = part.id or tool_call_id()
                chunks.append(self._builder.tool_call(call_id, part.name, part.arguments, index, extra=part.extra))
        if probabilities is not None:
            chunks.append(self._builder.text("", index, logprobs=probabilities))
        self._reasons[index] = answer.get(candidate, "finishReason", str, "") or self._reasons.get(index, "")

    def _text(self, part: answer.Words, index: int, probabilities: dict[str, Any] | None) -> Chunk:
        delta = {"content": part.text, **_signed(part.signature)}
        return self._builder.delta(delta, index, content=bool(part.text), logprobs=probabilities)


def _signed(signature: str) -> dict[str, Any]:
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}
