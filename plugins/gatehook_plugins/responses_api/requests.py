"""What a request must look like, and what of it this API cannot do, as nothing is kept between requests."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from gatehook import InvalidRequest
from gatehook.chats import Name, Positive, Probability, Temperature

__all__ = ["LOGPROBS", "ResponseRequest", "TextFormat", "check"]

LOGPROBS: Final = "message.output_text.logprobs"

Object = dict[str, Any]


class TextFormat(Struct):
    """The form the text must have; `name` and `schema` are for "json_schema"."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    schema: Object | None = None
    description: str | None = None
    strict: bool | None = None


class TextOptions(Struct):
    """How the answer's text is to be."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Struct):
    """How much the model is to think. Reasoning that a vendor shows is told, whatever `summary` says."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class StreamOptions(Struct):
    """What a stream carries besides the answer; it never carries padding."""

    include_obfuscation: bool | None = None


class ResponseRequest(Struct, kw_only=True):
    """POST /v1/responses."""

    model: Name
    input: str | Annotated[list[Object], Meta(min_length=1)]
    instructions: str | None = None
    tools: list[Object] | None = None
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Positive | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    previous_response_id: str | None = None
    conversation: str | Object | None = None
    prompt: Object | None = None
    background: bool | None = None
    truncation: str | None = None
    context_management: list[Object] | None = None
    moderation: Object | None = None


_WHOLE: Final = "send the whole conversation as `input`"
_REFUSED: Final[Mapping[str, str]] = {
    "previous_response_id": f"this gateway keeps no responses; {_WHOLE}, with the items of each `output` as they came",
    "conversation": f"this gateway keeps no conversations; {_WHOLE}",
    "prompt": "this gateway keeps no prompt templates; send the text as `instructions` and `input`",
    "background": "this gateway keeps no responses to be fetched later; leave it out, and stream if it takes long",
    "truncation": "this gateway shortens no conversations; leave it out, and send what fits the model",
    "context_management": "this gateway shortens no conversations; leave it out, and send what fits the model",
    "moderation": "no vendor's answers are moderated here; leave it out",
}
"""What needs a store, or somebody else's service, and what to do instead."""
_HARMLESS: Final[Mapping[str, object]] = {"truncation": "disabled", "background": False, "context_management": []}
"""Values of these that ask for nothing."""


def check(request: ResponseRequest) -> None:
    """Refuse what cannot be done, and what makes no sense together.

    Raises:
        InvalidRequest: naming the field, and what to do instead.
    """
    for name, why in _REFUSED.items():
        value = getattr(request, name)
        if value is not None and value != _HARMLESS.get(name):
            raise InvalidRequest(f"{name}: {why}", param=name, code="unsupported_parameter")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options: allowed only when stream is true", param="stream_options")
    form = request.text.format if request.text is not None else None
    if form is not None and form.type == "json_schema":
        for name in ("name", "schema"):
            if getattr(form, name) is None:
                raise InvalidRequest(f"text.format.{name}: required, but missing", param=f"text.format.{name}")
