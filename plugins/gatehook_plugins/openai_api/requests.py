"""What OpenAI's requests must look like, checked in one pass while the JSON is decoded; see `gatehook.chats`."""

from typing import Annotated

from msgspec import Meta, Struct, field

from gatehook.chats import (
    ChatParameters,
    Choices,
    Message,
    Name,
    Natural,
    Number,
    Positive,
    Probability,
    StreamOptions,
    Temperature,
    Text,
)

__all__ = ["ChatRequest", "CompletionRequest", "EmbeddingRequest"]


class ChatRequest(ChatParameters, kw_only=True):
    """POST /v1/chat/completions."""

    model: Name
    messages: Annotated[list[Message], Meta(min_length=1)]
    deferred: bool | None = field(name="async", default=None)


class CompletionRequest(Struct):
    """POST /v1/completions."""

    model: Name
    prompt: str | list[str | int | list[int]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Natural | None = None
    n: Choices | None = None
    best_of: Choices | None = None
    stop: str | list[str] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: Natural | None = None
    echo: bool | None = None
    suffix: str | None = None
    seed: int | None = None
    user: str | None = None
    deferred: bool | None = field(name="async", default=None)

    @property
    def longest(self) -> int | None:
        """The most tokens of one answer."""
        return self.max_tokens

    @property
    def answers(self) -> int:
        """How many answers are made to all prompts together; those that `best_of` throws away are paid for, too."""
        given = self.prompt if isinstance(self.prompt, list) else ()
        prompts = sum(not isinstance(one, int) for one in given)  # numbers are the tokens of one prompt
        return max(prompts, 1) * max(self.n or 1, self.best_of or 1)


class EmbeddingRequest(Struct):
    """POST /v1/embeddings."""

    model: Name
    input: Text | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=2048)]
    encoding_format: str | None = None
    dimensions: Positive | None = None
    user: str | None = None
    deferred: bool | None = field(name="async", default=None)
