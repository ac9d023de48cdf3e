"""Tools and tool choice: OpenAI's function tools as Anthropic's custom tools (`anthropic.types.ToolParam`).

Tools that Claude was taught go out as they are (`anthropic.types.ToolUnionParam`, `anthropic.types.beta`).
"""

import base64
import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Final

from gatehook import InvalidRequest, Retry, ToolUse, is_taught

__all__ = ["allowed", "betas", "choice", "offered", "remembered", "wire_id"]

_SAFE_ID = re.compile(r"(?!b64-)[A-Za-z0-9_-]+")
_SOME = "allowed_tools"
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_BETAS: Final = {
    **dict.fromkeys(("bash_20241022", "computer_20241022", "text_editor_20241022"), "computer-use-2024-10-22"),
    "computer_20250124": "computer-use-2025-01-24",
    "computer_20251124": "computer-use-2025-11-24",
}
"""What `anthropic-beta` must say where a request has such a tool."""


def wire_id(given: str) -> str:
    """A tool call's id in Anthropic's alphabet; different ids stay different, and the original can be read back."""
    if _SAFE_ID.fullmatch(given):
        return given
    return "b64-" + base64.urlsafe_b64encode(given.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def offered(tools: Any, *, strict: bool, drop: Callable[[str], None]) -> list[dict[str, Any]]:
    """The wire's `tools`.

    Args:
        tools: the request's.
        strict: whether this model can hold arguments to their schema.
        drop: told of every `strict` that cannot be kept.

    Raises:
        InvalidRequest: a tool that is not a function, or that has no name or an unusable schema.
    """
    if not isinstance(tools, list):
        raise InvalidRequest("tools: expected an array", param="tools")
    return [_tool(tool, f"tools[{number}]", strict=strict, drop=drop) for number, tool in enumerate(tools)]


def _tool(tool: Any, path: str, *, strict: bool, drop: Callable[[str], None]) -> dict[str, Any]:
    if is_taught(tool):
        return dict(tool)
    kind = tool.get("type", "function") if isinstance(tool, dict) else None
    if kind != "function":
        raise _refused(f"{path}.type", f"only function tools can be translated, not {kind!r}")
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRequest(f"{path}.function.name: expected a name", param=f"{path}.function.name")
    wire: dict[str, Any] = {"name": function["name"]}
    if function.get("description"):
        wire["description"] = function["description"]
    wire["input_schema"] = _schema(function.get("parameters"), f"{path}.function.parameters")
    if function.get("strict") is True:
        if strict:
            wire["strict"] = True
        else:
            drop(f"{path}.function.strict")
    if cache := tool.get("cache_control") or function.get("cache_control"):
        wire["cache_control"] = cache
    return wire


def betas(wire: Iterable[Mapping[str, Any]]) -> list[str]:
    """The betas of which these tools are a part."""
    return list(dict.fromkeys(_BETAS[kind] for tool in wire if (kind := tool.get("type")) in _BETAS))


def _schema(schema: Any, path: str) -> dict[str, Any]:
    if schema is None:
        schema = {}
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{path}: expected a JSON schema", param=path)
    if "type" not in schema:
        return {"type": "object", "properties": {}, **schema}
    if schema["type"] != "object":
        raise _refused(f"{path}.type", "a tool's arguments must be an object")
    return schema


def allowed(asked: Any, wire: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools that a choice of the type `allowed_tools` leaves: Anthropic knows none such, so it sees no others.

    Args:
        asked: the request's `tool_choice`; any other leaves all.
        wire: what `offered` gave.

    Raises:
        InvalidRequest: one of them is not offered, or the choice tells none, or no mode that there is.
    """
    if not isinstance(asked, dict) or asked.get("type") != _SOME:
        return wire
    given = asked.get(_SOME)
    tools = given.get("tools") if isinstance(given, dict) else None
    if not isinstance(tools, list) or not tools or _mode(asked) not in ("auto", "required"):
        raise _refused("tool_choice", f"{_SOME} needs tools, and auto or required as their mode")
    known = {tool["name"] for tool in wire}
    names = {_named(tool, known) for tool in tools}
    return [tool for tool in wire if tool["name"] in names]


def remembered(calls: Iterable[ToolUse]) -> list[dict[str, Any]]:
    """Stand-ins for tools that the conversation used and the request no longer offers: Anthropic wants to know them."""
    names = dict.fromkeys(call.name for call in calls)
    return [{"name": name, "input_schema": {"type": "object", "properties": {}}} for name in names]


def choice(payload: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any] | None:
    """The wire's `tool_choice`, None to leave it out.

    Args:
        payload: the request.
        names: of the tools offered.

    Raises:
        InvalidRequest: not a known choice, or of a tool that is not offered.
    """
    names = set(names)
    asked = payload.get("tool_choice")
    wire = _choice(asked, names)
    if payload.get("parallel_tool_calls") is False and names:
        wire = wire or {"type": "auto"}
        if wire["type"] != "none":
            wire["disable_parallel_tool_use"] = True
    return wire


def _choice(asked: Any, names: set[str]) -> dict[str, Any] | None:
    if asked is None:
        return None
    if isinstance(asked, str) and asked in _CHOICES:
        if names:
            return {"type": _CHOICES[asked]}
        if asked == "required":
            raise InvalidRequest("tool_choice: there are no tools to choose from", param="tool_choice")
        return None
    if isinstance(asked, dict) and asked.get("type") == "function" and isinstance(asked.get("function"), dict):
        return {"type": "tool", "name": _named(asked, names)}
    if isinstance(asked, dict) and asked.get("type") == _SOME:
        return {"type": _CHOICES[_mode(asked)]}
    if isinstance(asked, dict) and isinstance(asked.get("type"), str) and asked["type"] != "function":
        raise _refused("tool_choice", f"choices of type {asked['type']!r} cannot be translated")
    raise InvalidRequest("tool_choice: expected 'auto', 'none', 'required' or a function", param="tool_choice")


def _mode(asked: Mapping[str, Any]) -> Any:
    return asked[_SOME].get("mode", "auto")


def _named(tool: Any, names: Container[str]) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in names:
        raise InvalidRequest(f"tool_choice.function.name: {name!r} is not among the tools", param="tool_choice")
    return name


def _refused(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {why}", param=path, retry=Retry.NEXT)
