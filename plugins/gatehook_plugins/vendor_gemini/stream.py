"""Reads a stream of GenerateContentResponse events (``alt=sse``) as OpenAI chunks.

Google ends a stream without a marker of its own: it is whole when every candidate has told a finishReason, or when the
prompt was blocked. Counts are cumulative, so of each the last one stands.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, MsgspecError, Struct, json

from gatehook import (
    Attempt,
    Chunk,
    GatewayError,
    MalformedJSON,
    Retry,
    StreamBuilder,
    UpstreamError,
    decode,
    tool_call_id,
)
from gatehook.sse import Event, EventTooLarge, Reader
from gatehook_plugins.vendor_gemini import answer
from gatehook_plugins.vendor_gemini.failure import WireError, error_in, in_band

__all__ = ["StreamReader"]


class _Words(Struct, forbid_unknown_fields=True):
    text: str


class _Content(Struct, forbid_unknown_fields=True):
    parts: tuple[_Words]
    role: str = ""


class _Candidate(Struct, forbid_unknown_fields=True):
    content: _Content
    index: Annotated[int, Meta(ge=0, lt=1000)] = 0


class _Piece(Struct, forbid_unknown_fields=True, rename="camel"):
    """An event that adds a text to one candidate and says nothing else: by far the most do, and are read as this."""

    candidates: tuple[_Candidate]
    usage_metadata: Any = None
    model_version: str = ""
    response_id: str = ""


_read_piece = json.Decoder(_Piece).decode


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
        self._explained: dict[int, str] = {}
        """What Google says of the reasons."""
        self._signatures: dict[int, str] = {}
        """The last one of each choice's words and thoughts; told once, as clients join what several deltas tell."""
        self._asked = attempt.payload.get("n") or 1
        self._blocked = False
        self._counts: Any = None
        """The last of each count, which are only looked at in the end, or when there are more thoughts than before."""
        self._thoughts: Any = None

    @property
    def complete(self) -> bool:
        """Whether every candidate that was asked for has told why it ended."""
        return len(self._reasons) >= self._asked and all(self._reasons.values())

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
        reasons: dict[int, str] = {}
        try:
            for index, reason in self._reasons.items():
                reasons[index] = answer.finish_reason(reason, self._attempt.note)
        except WireError as error:
            self.fault = error.because(self._explained.get(index, "")).named(self._attempt.target)
            return chunks
        try:
            usage = answer.usage(self._counts)
        except WireError as error:
            self.fault = error.named(self._attempt.target)
            return chunks
        for index in sorted(reasons):
            if signature := self._signatures.get(index):
                chunks.append(self._builder.delta(answer.signed(signature), index, content=False))
            if reasons[index] == "content_filter" and (why := self._explained.get(index)):
                chunks.append(self._builder.delta({"refusal": why}, index))
            chunks.append(self._builder.finish(reasons[index], index))
        if usage is not None:
            chunks.append(self._builder.usage(usage))
        return chunks

    def _read(self, events: Sequence[Event]) -> list[Chunk]:
        chunks: list[Chunk] = []
        target = self._attempt.target
        try:
            for _, data in events:
                if self.fault is None and data != b"[DONE]":
                    self._event(data, chunks)
            counts = self._counts
            if chunks and type(counts) is dict and counts.get("thoughtsTokenCount", 0) != self._thoughts:
                self._thoughts = counts.get("thoughtsTokenCount", 0)
                chunks[-1].usage = answer.usage(counts)  # a client that leaves before the end pays for these
        except WireError as error:
            self.fault = error.named(target)
        except MalformedJSON as error:
            self.fault = UpstreamError(f"{target.vendor}: a stream event is not valid JSON: {error}")
        return chunks

    def _event(self, data: bytes, chunks: list[Chunk]) -> None:
        try:
            piece = _read_piece(data)
        except (MsgspecError, UnicodeDecodeError, RecursionError):
            self._other(data, chunks)
            return
        (candidate,) = piece.candidates
        if text := candidate.content.parts[0].text:
            chunks.append(self._builder.text(text, candidate.index))
        self._reasons.setdefault(candidate.index, "")
        self._count(piece.usage_metadata)

    def _other(self, data: bytes, chunks: list[Chunk]) -> None:
        response = decode(data)
        if (error := error_in(response)) is not None:
            self.fault = in_band(self._attempt.target, error)
            return
        response = answer.typed(response, dict, "an event")
        for index, candidate in answer.candidates(response):
            self._candidate(index, candidate, chunks)
        if not self._blocked and answer.blocked(response):
            self._blocked = True
            self._explained.setdefault(0, answer.why_blocked(response))
        self._count(response.get("usageMetadata"))

    def _count(self, counts: Any) -> None:
        if type(counts) is dict and type(self._counts) is dict:
            self._counts.update(counts)
        elif counts is not None:
            self._counts = counts

    def _candidate(self, index: int, candidate: Mapping[str, Any], chunks: list[Chunk]) -> None:
        # The log probabilities of an event go with its first text, where a client looks for them.
        probabilities = answer.logprobs(candidate)
        for part in answer.parts(candidate, self._attempt.note):
            if isinstance(part, answer.Words):
                self._sign(part, index)
                if part.text:
                    chunks.append(self._builder.text(part.text, index, logprobs=probabilities))
                    probabilities = None
            elif isinstance(part, answer.Shown):
                chunks.append(self._builder.delta({"images": [part.image]}, index))
            elif isinstance(part, answer.Thought):
                self._sign(part, index)
                if part.text:
                    chunks.append(self._builder.reasoning(part.text, index))
            elif self._builder.has_tool_calls(index) and self._attempt.single_call:
                self._attempt.note("answer.tool_calls")
            else:
                call_id = part.id or tool_call_id()
                chunks.append(self._builder.tool_call(call_id, part.name, part.arguments, index, extra=part.extra))
        if probabilities is not None:
            chunks.append(self._builder.text("", index, logprobs=probabilities))
        self._reasons[index] = answer.get(candidate, "finishReason", str, "") or self._reasons.get(index, "")
        if "finishMessage" in candidate:
            self._explained[index] = answer.why_ended(candidate)

    def _sign(self, part: answer.Words | answer.Thought, index: int) -> None:
        if part.signature:
            self._signatures[index] = part.signature
