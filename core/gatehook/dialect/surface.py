"""Writing to clients: in OpenAI's dialect, the canonical form, answers stay as they are; other dialects read them."""

from typing import Any

from gatehook.accounts import Usage
from gatehook.errors import GatewayError, UpstreamError, envelope
from gatehook.jsonio import Document, MalformedJSON, encode
from gatehook.model import Call, Chunk, Completion
from gatehook.sse import DONE, frame

__all__ = ["CanonicalSurface", "decoded_answer"]


def decoded_answer(call: Call, answer: Document) -> dict[str, Any]:
    """What an answer says, or a chunk of a streamed one.

    Raises:
        UpstreamError: a field that nobody looked at before cannot be decoded (a number of a million digits).
    """
    try:
        return answer.data
    except MalformedJSON as error:
        vendor = call.target.vendor if call.target else "the cache"
        raise UpstreamError(f"{vendor}: the answer cannot be read: {error}", code="upstream_malformed") from None


class CanonicalSurface:
    """All of a `gatehook.Surface` but its name and `parse`."""

    canonical = True

    def answer(self, call: Call, completion: Completion) -> bytes:
        """The answer's bytes, as the vendor's plugin made them."""
        return completion.raw

    def event(self, call: Call, chunk: Chunk) -> bytes:
        """``data: {…}`` and an empty line."""
        return frame(chunk.raw)

    def end(self, call: Call, usage: Usage | None) -> bytes:
        """``data: [DONE]``."""
        return DONE

    def error(self, call: Call, error: GatewayError) -> bytes:
        """``{"error": {"message", "type", "param", "code"}}``."""
        return encode(envelope(error))

    def error_event(self, call: Call, error: GatewayError) -> bytes:
        """The error object as an event; no [DONE] follows it."""
        return frame(self.error(call, error))
