"""Tools and the choice among them, as chats have them."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from gatehook import InvalidRequest, fitted
from gatehook.chats import Name

__all__ = ["as_choice", "as_tools"]

Object = dict[str, Any]

_FUNCTION: Final = "function"
_CHAT_ONLY: Final = "only functions can be sent on to every vendor"


class Function(Struct):
    """A function the model may call."""

    name: Name
    description: str | None = None
    parameters: Object | None = None
    strict: bool | None = None


_FIELDS: Final = frozenset(("type", *Function.__struct_fields__))


def as_tools(tools: Sequence[Object], drop: Callable[[str], None]) -> list[Object]:
    """The tools of a chat.

    Args:
        tools: the request's.
        drop: told the path of fields that chats have no place for.

    Raises:
        InvalidRequest: a tool that is no function, by its name; or a function that is not described as one.
    """
    return [_as_tool(tool, f"tools[{number}]", drop) for number, tool in enumerate(tools)]


def _as_tool(tool: Object, path: str, drop: Callable[[str], None]) -> Object:
    kind = tool.get("type")
    if kind != _FUNCTION:
        raise InvalidRequest(
            f"{path}.type: tools of type {_shown(kind)} are run by OpenAI itself, and not here; {_CHAT_ONLY}",
            param=f"{path}.type",
            code="unsupported_tool",
        )
    function = _fitted(tool, path)
    for name, value in tool.items():
        if value and name not in _FIELDS:
            drop(f"{path}.{name}")
    given = {name: getattr(function, name) for name in Function.__struct_fields__}
    return {"type": _FUNCTION, "function": {name: value for name, value in given.items() if value is not None}}


def _fitted(tool: Object, path: str) -> Function:
    try:
        return fitted(tool, Function)
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}.{error.message}", param=f"{path}.{error.param}") from None


def as_choice(choice: str | Object) -> str | Object:
    """The choice of a chat.

    Raises:
        InvalidRequest: it is of a tool that is no function.
    """
    if isinstance(choice, str):
        return choice
    if choice.get("type") == _FUNCTION:
        return _named(choice, "tool_choice")
    if choice.get("type") != "allowed_tools":
        raise _not_a_choice(choice.get("type"), "tool_choice")
    tools = choice.get("tools")
    if not isinstance(tools, list):
        raise InvalidRequest("tool_choice.tools: expected an array", param="tool_choice.tools")
    named = [_named(tool, f"tool_choice.tools[{number}]") for number, tool in enumerate(tools)]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": named}}


def _named(choice: Any, path: str) -> Object:
    if not isinstance(choice, dict) or choice.get("type") != _FUNCTION:
        raise _not_a_choice(choice.get("type") if isinstance(choice, dict) else None, path)
    name = choice.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{path}.name: expected a function's name", param=f"{path}.name")
    return {"type": _FUNCTION, "function": {"name": name}}


def _not_a_choice(kind: object, path: str) -> InvalidRequest:
    why = f"{_shown(kind)} cannot be chosen; {_CHAT_ONLY}"
    return InvalidRequest(f"{path}.type: {why}", param=f"{path}.type", code="unsupported_tool")


def _shown(kind: object) -> str:
    return repr(kind[:64]) if isinstance(kind, str) else "null" if kind is None else "other than text"
