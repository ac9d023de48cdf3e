"""What a request of the Messages API must look like (`anthropic.types.MessageCreateParams`).

Only types, and what nothing makes sense without, are checked: what a vendor accepts beyond that is for it to say.
Kinds of blocks that no other vendor could be told (a search on Anthropic's servers, its results) are not among these.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from gatehook.chats import Name, Natural, Probability, Text

__all__ = [
    "AnyTool",
    "Assistant",
    "AutoTool",
    "Base64",
    "Block",
    "CountRequest",
    "Document",
    "Image",
    "Message",
    "MessagesRequest",
    "NoTool",
    "OneTool",
    "PlainText",
    "Redacted",
    "SearchResult",
    "System",
    "Thinking",
    "ToolDefinition",
    "ToolResult",
    "ToolUse",
    "User",
    "Web",
    "Words",
]

Object = dict[str, Any]


class Base64(Struct, tag_field="type", tag="base64"):
    """A picture, or a document, in base64."""

    media_type: Text
    data: Text


class Web(Struct, tag_field="type", tag="url"):
    """One that is fetched by whoever needs it."""

    url: Text


class PlainText(Struct, tag_field="type", tag="text"):
    """A document of text."""

    data: str


class Block(Struct, tag_field="type", kw_only=True):
    """What all blocks have that may carry a cache mark."""

    cache_control: Object | None = None


class Words(Block, tag="text"):
    """Text. `citations` of earlier answers say where they were found, which no model is told again."""

    text: str


class Image(Block, tag="image"):
    """A picture."""

    source: Base64 | Web


class Document(Block, tag="document"):
    """A document; `citations` asks for answers that cite it."""

    source: Base64 | Web | PlainText
    title: str | None = None
    context: str | None = None
    citations: Object | None = None


class SearchResult(Block, tag="search_result"):
    """A place where the client's own search has found something; `source` says where that is, often by a URL."""

    source: Text
    title: str
    content: list[Words]
    citations: Object | None = None


class ToolUse(Block, tag="tool_use"):
    """A tool call of an earlier answer. `extra_content` is what its vendor wants back: see `answer`."""

    id: Text
    name: Name
    input: Object
    extra_content: Object | None = None


class ToolResult(Block, tag="tool_result"):
    """What a tool gave."""

    tool_use_id: Text
    content: str | list[Words | Image | Document | SearchResult] | None = None
    is_error: bool | None = None


class Thinking(Struct, tag_field="type", tag="thinking"):
    """Reasoning of an earlier answer; its vendor's signature is empty where it gives none."""

    thinking: str
    signature: str = ""


class Redacted(Struct, tag_field="type", tag="redacted_thinking"):
    """The same, sealed by its vendor."""

    data: Text


class User(Struct, tag_field="role", tag="user"):
    """What the user says, and what tools have given."""

    content: str | list[Words | Image | Document | SearchResult | ToolResult]


class Assistant(Struct, tag_field="role", tag="assistant"):
    """An earlier answer, or the beginning of the one that is wanted."""

    content: str | list[Words | Thinking | Redacted | ToolUse]


class System(Struct, tag_field="role", tag="system"):
    """What the model is told from here on."""

    content: str | list[Words]


Message = User | Assistant | System


class ToolDefinition(Struct):
    """A tool of the client's; those of Anthropic's own have another `type`."""

    type: str | None = None
    name: Name | None = None
    description: str | None = None
    input_schema: Object | None = None
    strict: bool | None = None
    cache_control: Object | None = None


class AutoTool(Struct, tag_field="type", tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool | None = None


class AnyTool(Struct, tag_field="type", tag="any"):
    """It must call one."""

    disable_parallel_tool_use: bool | None = None


class OneTool(Struct, tag_field="type", tag="tool"):
    """It must call this one."""

    name: Name
    disable_parallel_tool_use: bool | None = None


class NoTool(Struct, tag_field="type", tag="none"):
    """It must call none."""

    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Struct):
    """Whether the model thinks first; the budget is in tokens."""

    type: str
    budget_tokens: int | None = None


class JSONFormat(Struct):
    """The schema that an answer must keep to."""

    type: Literal["json_schema"]
    schema: Object


class OutputConfig(Struct):
    """How much effort an answer is worth, and its form."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JSONFormat | None = None


class Metadata(Struct):
    """Who asks, in the client's own terms."""

    user_id: str | None = None


class CountRequest(Struct, kw_only=True):
    """POST /v1/messages/count_tokens; and all of a message's request that may be left out."""

    model: Name
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[Words] | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: AutoTool | AnyTool | OneTool | NoTool | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    metadata: Metadata | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Probability | None = None
    top_p: Probability | None = None
    top_k: Natural | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    cache_control: Object | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """POST /v1/messages."""

    max_tokens: Natural
