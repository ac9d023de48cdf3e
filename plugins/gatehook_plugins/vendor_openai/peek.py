"""The few fields of an answer that accounting and renaming need, decoded without building the rest."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from gatehook import Usage

__all__ = ["Delta", "Event", "EventChoice", "Whole", "read_event", "read_whole", "usage_of"]


class Delta(Struct):
    """What a streamed choice adds. Any: servers disagree about the types, and only presence matters here."""

    role: Any = None
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    audio: Any = None
    function_call: Any = None
    tool_calls: Any = None

    def has_content(self) -> bool:
        """Whether it carries something a client was waiting for."""
        return bool(
            self.content
            or self.tool_calls
            or self.reasoning_content
            or self.reasoning
            or self.refusal
            or self.audio
            or self.function_call
        )


class EventChoice(Struct):
    """One choice of a streamed event."""

    index: int = 0
    finish_reason: str | None = None
    delta: Delta | None = None
    text: Any = None

    def has_content(self) -> bool:
        """Whether it carries something a client was waiting for."""
        return bool(self.text) or (self.delta is not None and self.delta.has_content())


class Event(Struct):
    """One streamed event."""

    id: str | None = None
    created: Any = None
    model: str | None = None
    choices: list[EventChoice] | None = None
    usage: Any = None
    error: Any = None


class WholeMessage(Struct):
    """The message of a whole answer."""

    tool_calls: Any = None


class WholeChoice(Struct):
    """One choice of a whole answer."""

    finish_reason: str | None = None
    message: WholeMessage | None = None


class Whole(Struct):
    """A whole answer: of a chat, a completion (choices) or an embedding (data)."""

    id: str | None = None
    model: str | None = None
    choices: list[WholeChoice] | None = None
    data: list[msgspec.Raw] | None = None
    usage: Any = None
    error: Any = None


read_event = msgspec.json.Decoder(Event).decode
read_whole = msgspec.json.Decoder(Whole).decode


def usage_of(usage: Any) -> Usage | None:
    """A vendor's usage object; what is missing or of a wrong type counts as 0."""
    if not isinstance(usage, Mapping):
        return None
    prompt = _object(usage.get("prompt_tokens_details"))
    completion = _object(usage.get("completion_tokens_details"))
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        # DeepSeek's name for it is the second.
        cached_tokens=_count(prompt.get("cached_tokens")) or _count(usage.get("prompt_cache_hit_tokens")),
        reasoning_tokens=_count(completion.get("reasoning_tokens")),
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15 else 0
