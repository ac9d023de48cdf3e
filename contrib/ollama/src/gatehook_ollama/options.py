"""What an operator may set in a model's `options` table."""

from typing import Any, Literal

import msgspec

__all__ = ["DEFAULT_BASE", "Options", "base"]

DEFAULT_BASE = "http://127.0.0.1:11434"


class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A model's `options`."""

    keep_alive: str | int | None = None
    """How long the model stays loaded after an answer: "10m", seconds, -1 for ever, 0 for not at all."""
    num_ctx: int | None = None
    """The size of the context: tokens of a request and its answer together."""
    think: bool | Literal["low", "medium", "high"] | None = None
    """Whether the model thinks, where a request does not say; a level says also that it has levels."""
    truncate: bool | None = None
    """False: a text that is too long for an embedding is an error; otherwise it is cut."""
    runtime: dict[str, Any] = {}
    """Further entries of Ollama's own `options`: num_gpu, repeat_penalty, mirostat, …"""


def base(url: str) -> str:
    """The server's address without a path that belongs to OpenAI's API and not to Ollama's own."""
    return url.rstrip("/").removesuffix("/v1").removesuffix("/api").rstrip("/")
