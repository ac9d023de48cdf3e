"""What a request must look like, and what it becomes: a chat in OpenAI's shape.

Only types are checked, and the bounds without which nothing makes sense: what a vendor accepts beyond that is for the
vendor to say. Parameters that are not named here go through as they are.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from gatehook import InvalidRequest, MalformedJSON, decode, misfit

__all__ = ["as_chat", "read_object"]

Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Choices = Annotated[int, Meta(ge=1, le=128)]
Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(min_length=1)]
Object = dict[str, Any]


class ImageURL(Struct):
    """An image, by http(s) or data URL."""

    url: Text
    detail: str | None = None


class InputAudio(Struct):
    """A sound in base64."""

    data: str
    format: str


class File(Struct):
    """A document in base64, or by its id."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class Part(Struct):
    """One part of a message's content; which of the fields must be there depends on its type."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | ImageURL | None = None
    input_audio: InputAudio | None = None
    file: File | None = None
    cache_control: Object | None = None


class FunctionCall(Struct):
    """A function and its arguments, as JSON text."""

    name: Name
    arguments: str | None = None


class ToolCall(Struct):
    """A tool call of an earlier answer."""

    id: Text
    type: str = "function"
    function: FunctionCall | None = None


class ThinkingBlock(Struct):
    """Reasoning of an earlier answer, with its vendor's proof."""

    type: str
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class Message(Struct):
    """One message; which of the fields must be there depends on its role."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: Text | None = None
    reasoning_content: str | None = None
    thinking_blocks: list[ThinkingBlock] | None = None


class FunctionDefinition(Struct):
    """A function the model may call."""

    name: Name
    description: str | None = None
    parameters: Object | None = None
    strict: bool | None = None


class ToolDefinition(Struct):
    """A tool the model may use."""

    type: str
    function: FunctionDefinition | None = None


class NamedFunction(Struct):
    """A function by its name."""

    name: Name


class NamedTool(Struct):
    """The one tool the model must use."""

    type: str
    function: NamedFunction | None = None


class JSONSchema(Struct):
    """The schema an answer must keep to."""

    name: Name
    schema: Object | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct):
    """The form an answer must have: text, json_object or json_schema."""

    type: str
    json_schema: JSONSchema | None = None


class StreamOptions(Struct):
    """What a stream carries besides the answer; here it always carries usage and cost."""

    include_usage: bool | None = None


class Parameters(Struct):
    """OpenAI's parameters of a chat."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_completion_tokens: Positive | None = None
    max_tokens: Positive | None = None
    n: Choices | None = None
    stop: str | list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Natural | None = None
    seed: int | None = None
    user: str | None = None
    reasoning_effort: str | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    service_tier: str | None = None
    store: bool | None = None


class GenerateRequest(Parameters, kw_only=True):
    """The body. Parameters may also stand beside the messages, as OpenAI has them; those in `parameters` win."""

    model: Name
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    prompt: Text | None = None
    parameters: Parameters | None = None


_BESIDE = ("model", "messages", "prompt", "parameters")
"""What is no parameter."""


def read_object(body: bytes) -> dict[str, Any]:
    """The body's JSON object.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        data = decode(body)
    except MalformedJSON as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise InvalidRequest("the body: expected a JSON object with 'model' and 'messages'")
    return data


def as_chat(data: dict[str, Any]) -> dict[str, Any]:
    """The request as a chat in OpenAI's shape: the parameters beside model and messages, a prompt as one message.

    Raises:
        InvalidRequest: naming the field.
    """
    try:
        request = msgspec.convert(data, GenerateRequest)
    except msgspec.ValidationError as error:
        raise misfit(error) from None
    except UnicodeEncodeError:
        raise InvalidRequest("a field's name, or a role, is a lone surrogate and no text") from None
    nested = data.get("parameters") or {}
    if misplaced := next((name for name in _BESIDE if name in nested), None):
        path = f"parameters.{misplaced}"
        raise InvalidRequest(f"{path}: not a parameter; its place is beside 'parameters'", param=path)
    if (needed := _missing(request)) is not None:
        raise InvalidRequest(f"{needed}: required, but missing", param=needed)
    chat = {"model": request.model, "messages": _messages(request, data)}
    for parameters in (data, nested):
        chat |= {name: value for name, value in parameters.items() if value is not None and name not in _BESIDE}
    return chat


def _messages(request: GenerateRequest, data: dict[str, Any]) -> Any:
    if request.prompt is None:
        return data["messages"]
    if request.messages is not None:
        raise InvalidRequest("prompt: give either messages or a prompt, not both", param="prompt")
    return [{"role": "user", "content": request.prompt}]


_PART_FIELDS = ("text", "refusal", "image_url", "input_audio", "file")
"""Types of parts that are also the name of the field they need."""
_ROLE_FIELDS = {
    "system": ("content",),
    "developer": ("content",),
    "user": ("content",),
    "tool": ("content", "tool_call_id"),
    "function": ("name",),
}


def _missing(request: GenerateRequest) -> str | None:
    """The path of the first field that a role or a type asks for and that is not there."""
    if request.messages is None and request.prompt is None:
        return "messages"
    for number, message in enumerate(request.messages or ()):
        if field := _missing_in(message):
            return f"messages[{number}].{field}"
    for prefix, parameters in (("parameters.", request.parameters), ("", request)):
        if parameters is not None and (field := _missing_among(parameters)):
            return prefix + field
    return None


def _missing_in(message: Message) -> str | None:
    for field in _ROLE_FIELDS.get(message.role, ()):
        if getattr(message, field) is None:
            return field
    for place, part in enumerate(message.content if isinstance(message.content, list) else ()):
        if part.type in _PART_FIELDS and getattr(part, part.type) is None:
            return f"content[{place}].{part.type}"
    for place, call in enumerate(message.tool_calls or ()):
        if call.type == "function" and call.function is None:
            return f"tool_calls[{place}].function"
    return None


def _missing_among(parameters: Parameters) -> str | None:
    for place, tool in enumerate(parameters.tools or ()):
        if tool.type == "function" and tool.function is None:
            return f"tools[{place}].function"
    choice, form = parameters.tool_choice, parameters.response_format
    if isinstance(choice, NamedTool) and choice.type == "function" and choice.function is None:
        return "tool_choice.function"
    if form is not None and form.type == "json_schema" and form.json_schema is None:
        return "response_format.json_schema"
    return None
