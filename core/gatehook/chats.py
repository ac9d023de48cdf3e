"""What a chat in OpenAI's shape must look like, checked in one pass while its JSON is decoded.

After OpenAI's API reference. Only types, and the bounds without which nothing makes sense, are checked: what a vendor
accepts beyond that is for the vendor to say, and unknown fields pass. For the surfaces whose requests are chats.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from gatehook.names import LONGEST_MODEL_NAME

__all__ = [
    "ChatParameters",
    "Choices",
    "Message",
    "Name",
    "Natural",
    "Number",
    "Positive",
    "Probability",
    "StreamOptions",
    "Temperature",
    "Text",
    "missing_field",
]

Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_MODEL_NAME)]
Text = Annotated[str, Meta(min_length=1)]
Choices = Annotated[int, Meta(ge=1, le=128)]
Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Object = dict[str, Any]


class Part(Struct):
    """One part of a message's content; which of the fields must be there depends on its type."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: "str | ImageURL | None" = None
    input_audio: "InputAudio | None" = None
    file: "File | None" = None
    cache_control: Object | None = None


class ImageURL(Struct):
    """An image, by http(s) or data URL."""

    url: Text
    detail: str | None = None


class InputAudio(Struct):
    """A sound in base64."""

    data: str
    format: str


class File(Struct):
    """A document in base64, by its id, or, where a vendor takes that, by its URL."""

    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None


Content = str | list[Part]


class System(Struct, tag_field="role", tag="system"):
    """What the model is told to be."""

    content: Content
    name: str | None = None


class Developer(Struct, tag_field="role", tag="developer"):
    """The newer name for the system role."""

    content: Content
    name: str | None = None


class User(Struct, tag_field="role", tag="user"):
    """What the user says."""

    content: Content
    name: str | None = None


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


class Assistant(Struct, tag_field="role", tag="assistant"):
    """An earlier answer."""

    content: Content | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    reasoning_content: str | None = None
    thinking_blocks: list[ThinkingBlock] | None = None


class Tool(Struct, tag_field="role", tag="tool"):
    """What a tool gave."""

    content: Content
    tool_call_id: Text


class Function(Struct, tag_field="role", tag="function"):
    """The deprecated form of a tool message."""

    name: str
    content: str | None = None


Message = System | Developer | User | Assistant | Tool | Function


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
    """What a stream carries besides the answer."""

    include_usage: bool | None = None


class ChatParameters(Struct, kw_only=True):
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
    temperature: Temperature | None = None
    top_p: Probability | None = None
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

    @property
    def longest(self) -> int | None:
        """Tokens of one answer."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def answers(self) -> int:
        """How many are made."""
        return self.n or 1


_PART_FIELDS = frozenset(("text", "refusal", "image_url", "input_audio", "file"))
"""Types of parts that are also the name of the field they need."""


def missing_field(messages: Sequence[Message], parameters: ChatParameters) -> str | None:
    """The path of the first field that the type of a part, tool or tool call asks for and that is not there."""
    for number, message in enumerate(messages):
        if isinstance(message.content, list):
            for place, part in enumerate(message.content):
                if part.type in _PART_FIELDS and getattr(part, part.type) is None:
                    return f"messages[{number}].content[{place}].{part.type}"
        if isinstance(message, Assistant):
            for place, call in enumerate(message.tool_calls or ()):
                if call.type == "function" and call.function is None:
                    return f"messages[{number}].tool_calls[{place}].function"
    for place, tool in enumerate(parameters.tools or ()):
        if tool.type == "function" and tool.function is None:
            return f"tools[{place}].function"
    choice, form = parameters.tool_choice, parameters.response_format
    if isinstance(choice, NamedTool) and choice.type == "function" and choice.function is None:
        return "tool_choice.function"
    if form is not None and form.type == "json_schema" and form.json_schema is None:
        return "response_format.json_schema"
    return None
