"""The body of `POST /v2/chat` (cohere's V2ChatRequest)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatehook import (
    Attempt,
    InvalidRequest,
    Media,
    Part,
    Retry,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    encode,
    read_conversation,
)
from gatehook_cohere.endpoint import Options

__all__ = ["chat_body", "refused"]

_SAME: Final = ("temperature", "seed", "documents")
_RENAMED: Final = (("top_p", "p"), ("top_k", "k"))
_MOST_STOPS: Final = 5
_BUDGETS: Final[Mapping[str, int | None]] = {"minimal": 512, "low": 1024, "medium": 8192, "high": None, "xhigh": None}
"""The most tokens of reasoning, by effort; None: no limit."""


def chat_body(attempt: Attempt, payload: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Write the request for a chat.

    Args:
        attempt: names the deployment, and records the parameters that are dropped.
        payload: the chat in OpenAI's shape.
        options: the deployment's.

    Raises:
        InvalidRequest: something Cohere cannot do; another deployment may.
    """
    body: dict[str, Any] = {**options.extra, "model": attempt.target.model, "stream": attempt.call.stream}
    body |= {name: payload[name] for name in _SAME if name in payload}
    body |= {theirs: payload[ours] for ours, theirs in _RENAMED if ours in payload}
    body |= _penalties(payload)
    limit = payload.get("max_completion_tokens", payload.get("max_tokens", attempt.target.max_tokens))
    optional = {
        "max_tokens": limit,
        "stop_sequences": _stops(payload.get("stop")),
        "response_format": _format(payload.get("response_format")),
        "thinking": _thinking(payload.get("reasoning_effort")),
        "safety_mode": options.safety_mode,
        "priority": options.priority,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    return body | _tools(payload) | {"messages": _messages(payload["messages"], attempt)}


def _penalties(payload: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: payload[name] for name in ("presence_penalty", "frequency_penalty") if name in payload}
    for name, value in given.items():
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise refused(name, "Cohere takes penalties from 0 to 1")
    return given


def _stops(stop: Any) -> list[str] | None:
    stops = [stop] if isinstance(stop, str) else stop or None
    if stops is not None and len(stops) > _MOST_STOPS:
        raise refused("stop", f"Cohere takes at most {_MOST_STOPS} stop sequences")
    return stops


def _format(wanted: Any) -> dict[str, Any] | None:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind != "json_schema":
        raise refused("response_format.type", "expected text, json_object or json_schema")
    schema = (wanted.get("json_schema") or {}).get("schema")
    if not isinstance(schema, dict):
        raise refused("response_format.json_schema.schema", "expected a JSON schema")
    return {"type": "json_object", "json_schema": schema}


def _thinking(effort: Any) -> dict[str, Any] | None:
    if effort is None:
        return None
    if effort == "none":
        return {"type": "disabled"}
    if effort not in _BUDGETS:
        raise refused("reasoning_effort", f"expected one of none, {', '.join(_BUDGETS)}")
    budget = _BUDGETS[effort]
    return {"type": "enabled"} | ({} if budget is None else {"token_budget": budget})


def _tools(payload: Mapping[str, Any]) -> dict[str, Any]:
    """`tools`, `strict_tools` and `tool_choice`."""
    tools = payload.get("tools") or []
    for number, tool in enumerate(tools):
        if tool.get("type", "function") != "function":
            raise refused(f"tools[{number}].type", f"only function tools can be translated, not {tool['type']!r}")
        if not isinstance(tool.get("function"), dict):
            raise InvalidRequest(f"tools[{number}].function: expected a function", param=f"tools[{number}].function")
    choice = payload.get("tool_choice", "auto")
    body: dict[str, Any] = {}
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        tools = [tool for tool in tools if tool["function"]["name"] == name]
        if not tools:
            raise refused("tool_choice", "expected 'auto', 'none', 'required' or one of the tools")
        body["tool_choice"] = "REQUIRED"
    elif choice in ("none", "required"):
        body["tool_choice"] = choice.upper()
    elif choice != "auto":
        raise refused("tool_choice", "expected 'auto', 'none', 'required' or one of the tools")
    if not tools:
        return {}
    if any(tool["function"].get("strict") for tool in tools):
        body["strict_tools"] = True
    return body | {"tools": [{"type": "function", "function": _function(tool["function"])} for tool in tools]}


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: function[name] for name in ("name", "description") if function.get(name)}
    return known | {"parameters": function.get("parameters") or {"type": "object", "properties": {}}}


def _messages(given: Sequence[Mapping[str, Any]], attempt: Attempt) -> list[dict[str, Any]]:
    conversation = read_conversation(given, attempt.drop, system="in_place")
    if not conversation.turns:
        raise refused("messages", "Cohere needs a message that is neither empty nor a system message")
    messages = _instructions(conversation.system)
    for turn in conversation.turns:
        if turn.role == "system":
            messages += _instructions(turn.parts)
            continue
        messages += [_result(part) for part in turn.parts if isinstance(part, ToolResult)]
        said = [part for part in turn.parts if not isinstance(part, ToolResult)]
        if said:
            messages.append(_answer(said, attempt) if turn.role == "assistant" else _question(said))
    return messages


def _instructions(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [{"role": "system", "content": part.text} for part in parts if isinstance(part, Text)]


def _question(parts: Sequence[Part]) -> dict[str, Any]:
    if all(isinstance(part, Text) for part in parts):
        return {"role": "user", "content": "\n\n".join(part.text for part in parts if isinstance(part, Text))}
    return {"role": "user", "content": [_content(part) for part in parts]}


def _content(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if not isinstance(part, Media) or part.kind != "image" or part.file_id:
        raise refused(getattr(part, "path", "messages"), "Cohere takes text and images")
    url = part.url if part.blob is None else f"data:{part.blob.mime};base64,{part.blob.base64}"
    return {"type": "image_url", "image_url": {"url": url} | ({"detail": part.detail} if part.detail else {})}


def _answer(parts: Sequence[Part], attempt: Attempt) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    if words := [part.text for part in parts if isinstance(part, Text)]:
        message["content"] = "\n\n".join(words)
    if any(isinstance(part, Thinking) for part in parts):
        attempt.drop("thinking_blocks")
    if calls := [part for part in parts if isinstance(part, ToolUse)]:
        message["tool_calls"] = [_call(call) for call in calls]
    for part in parts:
        if isinstance(part, Media):
            raise refused(part.path, "an assistant message can hold text only")
    return message


def _call(call: ToolUse) -> dict[str, Any]:
    function = {"name": call.name, "arguments": encode(call.arguments).decode()}
    return {"id": call.id, "type": "function", "function": function}


def _result(result: ToolResult) -> dict[str, Any]:
    for part in result.parts:
        if isinstance(part, Media):
            raise refused(part.path, "a tool's result can hold text only")
    words = "\n\n".join(part.text for part in result.parts if isinstance(part, Text))
    return {"role": "tool", "tool_call_id": result.id, "content": words}


def refused(path: str, why: str) -> InvalidRequest:
    """The error for what Cohere cannot do; another deployment is tried."""
    return InvalidRequest(f"{path}: {why}", param=path, retry=Retry.NEXT)
