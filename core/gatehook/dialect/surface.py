"""How answers are written for clients that speak OpenAI's own dialect: it is the canonical form, so they stay as is."""

from gatehook.accounts import Usage
from gatehook.errors import GatewayError, envelope
from gatehook.jsonio import encode
from gatehook.model import Call, Chunk, Completion
from gatehook.sse import DONE, frame

__all__ = ["CanonicalSurface"]


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
