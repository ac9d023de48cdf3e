"""A request of the Messages API as a chat in OpenAI's shape, with the extensions of `gatehook.dialect.plain`."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from gatehook import InvalidRequest, fitted, is_taught, unread
from gatehook_plugins.messages_api.requests import (
    AnyTool,
    AutoTool,
    CountRequest,
    MessagesRequest,
    NoTool,
    OneTool,
    ToolDefinition,
)
from gatehook_plugins.messages_api.turns import messages_of, system_of

__all__ = ["Chat", "read_chat", "read_count"]

_REFUSED: Final = {
    "container": "containers run on Anthropic's servers, and what was made in one would be missing",
    "inference_geo": "the gateway cannot promise where a model runs",
    "mcp_servers": "the model would not have their tools; an operator gives it those by [plugins.mcp_tools]",
    "output_format": "it is now output_config.format",
    "thread": "the gateway keeps no conversations; send all messages",
}
"""Fields without which the answer would be to another question, and why none of them is translated."""


class Chat(Struct):
    """A request, read: the body in OpenAI's shape, and the paths of what was left out of it."""

    body: dict[str, Any]
    lost: tuple[str, ...]
    max_tokens: int | None = None
    stream: bool = False


def read_chat(data: Mapping[str, Any]) -> Chat:
    """Read the body of POST /v1/messages.

    Raises:
        InvalidRequest: naming the field.
    """
    request = fitted(data, MessagesRequest)
    chat = _read(request, data)
    chat.max_tokens = chat.body["max_tokens"] = request.max_tokens
    if request.stream:
        chat.stream = True
        chat.body |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


def read_count(data: Mapping[str, Any]) -> Chat:
    """Read the body of POST /v1/messages/count_tokens.

    Raises:
        InvalidRequest: naming the field.
    """
    return _read(fitted(data, CountRequest), data)


def _read(request: CountRequest, data: Mapping[str, Any]) -> Chat:
    lost = [*_left_out(data), *_left_out_of_tools(data.get("tools") or ())]
    lost += unread({name: data[name] for name in _SETTINGS if name in data}, request)
    messages = system_of(request.system) + messages_of(request.messages, lost.append)
    if request.cache_control is not None:
        _mark_last(messages, request.cache_control)
    body: dict[str, Any] = {"model": request.model, "messages": messages}
    if request.tools:
        body["tools"] = [
            given if is_taught(given) else _tool(tool, f"tools[{place}]")
            for place, (tool, given) in enumerate(zip(request.tools, data["tools"], strict=True))
        ]
    if request.tool_choice is not None:
        body["tool_choice"] = _choice(request.tool_choice)
        if request.tool_choice.disable_parallel_tool_use and request.tools:
            body["parallel_tool_calls"] = False
    if request.stop_sequences:
        body["stop"] = request.stop_sequences
    for name in ("temperature", "top_p", "top_k"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.metadata is not None and request.metadata.user_id:
        body["user"] = request.metadata.user_id
    if request.service_tier == "standard_only":  # the other one asks for nothing
        body["service_tier"] = request.service_tier
    _write_thinking(body, request, data)
    return Chat(body, tuple(lost))


def _left_out(data: Mapping[str, Any]) -> list[str]:
    """The names of fields that are not known here, and harmless.

    Raises:
        InvalidRequest: one is not.
    """
    names = [name for name, value in data.items() if value not in (None, [], {}) and name not in _KNOWN]
    for name in names:
        if name in _REFUSED:
            raise InvalidRequest(f"{name}: {_REFUSED[name]}", param=name, code="unsupported_parameter")
    return names


_KNOWN: Final = frozenset(MessagesRequest.__struct_fields__)
_SETTINGS: Final = ("metadata", "output_config", "tool_choice")
"""Objects that are read field by field. Blocks of earlier answers come back with what nobody needs to be told."""
_OF_TOOLS: Final = frozenset(ToolDefinition.__struct_fields__)


def _left_out_of_tools(tools: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is told of tools, such as examples, that no other vendor could be told."""
    own = (tool for tool in tools if not is_taught(tool))
    names = {name: None for tool in own for name, value in tool.items() if value and name not in _OF_TOOLS}
    return [f"tools.{name}" for name in names]


def _mark_last(messages: list[dict[str, Any]], mark: dict[str, Any]) -> None:
    """Put a cache mark on the last part that can have one, as Anthropic does for a mark on the whole request."""
    for message in reversed(messages):
        content = message["content"]
        if calls := message.get("tool_calls"):
            calls[-1].setdefault("cache_control", mark)
            return
        if isinstance(content, str) and content:
            message["content"] = [{"type": "text", "text": content, "cache_control": mark}]
            return
        if content:
            content[-1].setdefault("cache_control", mark)
            return


def _tool(tool: ToolDefinition, path: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise InvalidRequest(
            f"{path}.type: {tool.type[:100]!r} is a tool that runs on Anthropic's servers, at a price that the "
            "gateway cannot count; offer tools of your own, with name and input_schema",
            param=f"{path}.type",
            code="unsupported_parameter",
        )
    if tool.name is None or tool.input_schema is None:
        missing = f"{path}.{'name' if tool.name is None else 'input_schema'}"
        raise InvalidRequest(f"{missing}: required, but missing", param=missing)
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    made: dict[str, Any] = {"type": "function", "function": function}
    if tool.cache_control is not None:
        made["cache_control"] = tool.cache_control
    return made


def _choice(choice: AutoTool | AnyTool | OneTool | NoTool) -> Any:
    match choice:
        case OneTool(name=name):
            return {"type": "function", "function": {"name": name}}
        case AnyTool():
            return "required"
        case NoTool():
            return "none"
        case AutoTool():
            return "auto"


_EFFORTS: Final = {"xhigh": "high", "max": "high"}
"""What is asked for beyond what all models know that know any effort, and the most that these do."""


def _write_thinking(body: dict[str, Any], request: CountRequest, data: Mapping[str, Any]) -> None:
    """How much is thought, and the answer's form; Anthropic's own words stand beside OpenAI's where they say more."""
    if (thinking := request.thinking) is not None:
        if thinking.type == "enabled" and thinking.budget_tokens is None:
            raise InvalidRequest("thinking.budget_tokens: required, but missing", param="thinking.budget_tokens")
        body["thinking"] = data["thinking"]
    if (config := request.output_config) is None:
        return
    if config.effort is not None:
        body["reasoning_effort"] = _EFFORTS.get(config.effort, config.effort)
        body["output_config"] = {"effort": config.effort}
    if config.format is not None:
        schema = {"name": "answer", "schema": config.format.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
