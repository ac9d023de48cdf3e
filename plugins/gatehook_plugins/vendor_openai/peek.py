"""The few fields of an answer that accounting and renaming need, decoded without building the rest."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gatehook import Usage

__all__ = ["Delta", "Event", "EventChoice", "Whole", "read_any_usage", "read_event", "read_whole", "usage_of"]


class Delta(Struct):
    """What a streamed choice adds. Any: servers disagree about the types, and only presence matters here."""

    role: Any = None
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    audio: Any = None
    function_call: dict[str, Any] | None = None
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
    error: Any = None

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
    function_call: dict[str, Any] | None = None


class WholeChoice(Struct):
    """One choice of a whole answer."""

    finish_reason: str | None = None
    message: WholeMessage | None = None
    error: Any = None


class Whole(Struct):
    """A whole answer: of a chat, a completion (choices) or an embedding (data)."""

    id: str | None = None
    model: str | None = None
    choices: list[WholeChoice] | None = None
    data: list[msgspec.Raw] | None = None
    usage: Any = None
    error: Any = None


_ABSURD = 10**15
_Count = Annotated[int, Meta(ge=0, lt=_ABSURD)]


class Details(Struct):
    """What some of the tokens were."""

    cached_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None


class Told(Struct):
    """A usage object as it is meant to be."""

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    total_tokens: _Count = 0
    prompt_cache_hit_tokens: _Count | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None


class _WholeAsMeant(Whole):
    usage: Told | None = None


read_event = msgspec.json.Decoder(Event).decode
read_whole = msgspec.json.Decoder(_WholeAsMeant).decode
"""Decodes a whole answer whose usage is as it is meant to be: `Told`."""
read_any_usage = msgspec.json.Decoder(Whole).decode
"""Decodes a whole answer whose usage is somehow else, as that of pictures is: it stays a dict."""


def usage_of(usage: Any) -> Usage | None:
    """A vendor's usage object, read by `read_whole` or from JSON; what is missing or of a wrong type counts as 0.

    None if nothing is left then: every answer takes some tokens, and those that nobody has told are to be estimated.
    """
    if type(usage) is Told:
        asked, answered = usage.prompt_tokens_details, usage.completion_tokens_details
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if not (prompt or completion):
            return _all(usage.total_tokens)
        reasoning = 0 if answered is None else answered.reasoning_tokens or 0
        return Usage(
            prompt,
            completion + _left_out(reasoning, usage.total_tokens - prompt - completion) if reasoning else completion,
            cached_tokens=(usage.prompt_cache_hit_tokens if asked is None else asked.cached_tokens) or 0,
            reasoning_tokens=reasoning,
        )
    if type(usage) is not dict:
        return None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if not (prompt or completion):
        return _all(_count(usage.get("total_tokens")))
    details, parts = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    # DeepSeek tells cached tokens in a field of its own.
    cached = details.get("cached_tokens") if type(details) is dict else usage.get("prompt_cache_hit_tokens")
    reasoning = _count(parts.get("reasoning_tokens")) if type(parts) is dict else 0
    completion += _left_out(reasoning, _count(usage.get("total_tokens")) - prompt - completion)
    return Usage(prompt, completion, cached_tokens=_count(cached), reasoning_tokens=reasoning)


def _all(total: int) -> Usage | None:
    """Where only the total is told, as Voyage does of embeddings, it is the prompt's; None if not even that is."""
    return Usage(total) if total else None


def _left_out(reasoning: int, more: int) -> int:
    """The tokens of reasoning, if the total has so many more than its parts: xAI does not count them to the answer."""
    return reasoning if reasoning == more else 0


def _count(value: Any) -> int:
    if type(value) is int:
        return value if 0 <= value < _ABSURD else 0
    return int(value) if type(value) is float and 0 <= value < _ABSURD else 0
