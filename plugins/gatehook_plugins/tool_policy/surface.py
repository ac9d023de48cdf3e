"""How the model's next turn is written after a decision: in OpenAI's shape."""

from aiohttp import web

from gatehook import Call, CanonicalSurface, Surface

__all__ = ["TurnSurface"]


class TurnSurface(CanonicalSurface):
    """Implements `gatehook.Surface`, for calls that were parsed when they were first made."""

    name = "tools"

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Do nothing: the call is filled already."""


_implements: type[Surface] = TurnSurface
