"""The few fields of an answer that accounting and renaming need, decoded without building the rest."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gatehook import Usage

__all__ = ["Delta", "Event", "EventChoice", "Whole", "read_any_usage", "read_event", "read_whole", "usage_of"]


class Delta(Struct):
    """What a streamed choice adds. Fields are `Any` as servers disagree about types, and only presence matters here."""

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
    cache_write_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None


class Told(Struct):
    """A usage object as it is meant to be.

    Who has no details tells cached tokens beside them: DeepSeek, Moonshot and Mistral, each in its own words.
    """

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    total_tokens: _Count = 0
    prompt_cache_hit_tokens: _Count | None = None
    cached_tokens: _Count | None = None
    num_cached_tokens: _Count | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None


class _WholeAsMeant(Whole):
    usage: Told | None = None


read_event = msgspec.json.Decoder(Event).decode
read_whole = msgspec.json.Decoder(_WholeAsMeant).decode
"""Decodes a whole answer whose usage is as it is meant to be: `Told`."""
read_any_usage = msgspec.json.Decoder(Whole).decode
"""Decodes a whole answer whose usage is somehow else, as that of pictures is: it stays a dict."""


def usage_of(usage: Any, *, of_text: bool = True) -> Usage | None:
    """A vendor's usage object, read by `read_whole` or from JSON; what is missing or of a wrong type counts as 0.

    None if nothing is left then: every answer takes some tokens, and those that nobody has told are to be estimated.
    `of_text`: the answer is a text, which takes tokens of its own.
    """
    if type(usage) is not Told:
        if type(usage) is not dict:
            return None
        usage = _told(usage)
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if not (prompt or completion):
        return _all(usage.total_tokens)
    asked, answered = usage.prompt_tokens_details, usage.completion_tokens_details
    if of_text and prompt and asked is None and answered is None:
        # Gemini's endpoint for OpenAI's clients tells its thoughts, which are billed, in the total alone.
        completion = max(completion, usage.total_tokens - prompt)
    cached, written = usage.prompt_cache_hit_tokens or usage.cached_tokens or usage.num_cached_tokens or 0, 0
    if asked is not None:
        cached, written = asked.cached_tokens or cached, asked.cache_write_tokens or 0
        if asked.audio_tokens:
            prompt += _left_out(asked.audio_tokens, usage.total_tokens - prompt - completion)
    reasoning = 0 if answered is None else answered.reasoning_tokens or 0
    if reasoning:
        completion += _left_out(reasoning, usage.total_tokens - prompt - completion)
    return Usage(prompt, completion, cached_tokens=cached, cache_write_tokens=written, reasoning_tokens=reasoning)


def _told(usage: dict[str, Any]) -> Told:
    """A usage object from JSON: what is of a wrong type is nothing."""
    try:
        return msgspec.convert(usage, Told)
    except msgspec.ValidationError:
        told: dict[str, Any] = {name: _count(usage.get(name)) for name in Told.__struct_fields__}
        told |= {name: _details(usage.get(name)) for name in told if name.endswith("_details")}
        return Told(**told)


def _details(given: Any) -> Details | None:
    if type(given) is not dict:
        return None
    return Details(**{name: _count(given.get(name)) for name in Details.__struct_fields__})


def _all(total: int) -> Usage | None:
    """The usage where only the total is told, as Voyage does for embeddings: all of it the prompt's; None for 0."""
    return Usage(total) if total else None


def _left_out(part: int, more: int) -> int:
    """The tokens of a part, if the total has just so many more than its parts.

    xAI leaves the tokens of reasoning out of the answer's, and Mistral those of sound out of the prompt's.
    """
    return part if part == more else 0


def _count(value: Any) -> int:
    if type(value) is int:
        return value if 0 <= value < _ABSURD else 0
    return int(value) if type(value) is float and 0 <= value < _ABSURD else 0
