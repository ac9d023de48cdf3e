"""How the model's next turn is written after a decision: in OpenAI's shape."""

from aiohttp import web

from gatehook import Call, Chunk, Completion, GatewayError, Surface, Usage, encode, envelope
from gatehook.sse import DONE, frame

__all__ = ["TurnSurface"]


class TurnSurface:
    """Implements `gatehook.Surface`, for calls that were parsed when they were first made."""

    name = "tools"
    canonical = True

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Nothing is left to parse."""

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


_guard: type[Surface] = TurnSurface
