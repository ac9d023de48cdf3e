"""The requests' fields and their ranges: OpenAI's, and those that llama.cpp adds."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from gatehook_plugins.vendor_gguf.engine.errors import Invalid

__all__ = [
    "ChatRequest",
    "Choice",
    "CompletionRequest",
    "EmbeddingRequest",
    "Format",
    "Function",
    "Message",
    "Sampling",
    "StreamOptions",
    "Tool",
    "read",
]

Count = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class StreamOptions(Struct):
    """`stream_options`."""

    include_usage: bool = False


class Sampling(Struct, kw_only=True):
    """How the next token is chosen, and when the answer is over. The defaults are llama.cpp's."""

    model: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    """0 and -1: no limit."""
    min_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    seed: int | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    max_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        """The texts that end the answer."""
        stop = self.stop or []
        return [text for text in ([stop] if isinstance(stop, str) else stop) if text]

    @property
    def with_usage(self) -> bool:
        """Whether a stream tells its usage at its end."""
        return self.stream_options is not None and self.stream_options.include_usage


class Function(Struct):
    """A function that may be called."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}\Z")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    """A tool that is offered to the model."""

    function: Function
    type: Literal["function"] = "function"


class _Named(Struct):
    name: str


class Choice(Struct):
    """The one function that must be called."""

    function: _Named
    type: Literal["function"] = "function"


class _Schema(Struct):
    schema_: dict[str, Any] = field(name="schema", default_factory=dict)
    name: str = ""


class Format(Struct):
    """`response_format`: what the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class Message(Struct):
    """A message of a conversation. Fields that are not named here are ignored."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None


class ChatRequest(Sampling, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """More names for the template, as in {"enable_thinking": false}."""

    @property
    def most(self) -> int | None:
        """The most tokens of the answer."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Sampling, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[str | Token | list[Token]]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingRequest(Struct):
    """POST /v1/embeddings."""

    input: str | list[str | Token | list[Token]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None


T = TypeVar("T", ChatRequest, CompletionRequest, EmbeddingRequest)


def read(body: bytes, kind: type[T]) -> T:
    """The request in a body.

    Raises:
        Invalid: it is no such request; the field at fault is named.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        fault, _, path = str(error).partition(" - at `$")
        param = ".".join(filter(None, [path.rstrip("`").lstrip("."), _missing(fault)])) or None
        raise Invalid(f"{param}: {fault}" if param else fault, param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if param := _no_text(body):
            raise Invalid(f"{param}: it is no valid Unicode text: it has half a character", param=param) from None
        raise Invalid(f"the body is no JSON: {error}") from None


def _missing(fault: str) -> str:
    """The field in "Object missing required field `messages`"; "" if that is not what is wrong."""
    return fault.split("`")[1] if "missing required field" in fault else ""


def _no_text(body: bytes) -> str | None:
    """The first field with a lone surrogate, which JSON's escapes can write and UTF-8 cannot; None if there is none."""
    try:
        return next(_halves(json.loads(body), ""), None)
    except (ValueError, RecursionError):
        return None


def _halves(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if not value.isascii() and value != value.encode("utf-8", "replace").decode():
            yield path
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _halves(each, f"{path}[{at}]")
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _halves(name, path)
            yield from _halves(each, f"{path}.{name}" if path else name)
