"""Tools and the choice among them, as chats have them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from gatehook import InvalidRequest
from gatehook.chats import Name
from gatehook_plugins.responses_api.fitting import fitted_at
from gatehook_plugins.responses_api.namespaces import flattened

__all__ = ["as_choice", "as_tools"]

Object = dict[str, Any]


class Function(Struct):
    """A function the model may call."""

    name: Name
    description: str | None = None
    parameters: Object | None = None
    strict: bool | None = None


class Custom(Struct):
    """A tool that the model calls with any text, or with one of a grammar."""

    name: Name
    description: str | None = None
    format: Object | None = None


_FORMS: Final[Mapping[str, type[Function | Custom]]] = {"function": Function, "custom": Custom}


def as_tools(tools: Sequence[Object], drop: Callable[[str], None]) -> list[Object]:
    """The tools of a chat.

    Args:
        tools: the request's.
        drop: told the path of fields that chats have no place for.

    Raises:
        InvalidRequest: a tool of OpenAI's own, by its name; or one that is not described as it must be.
    """
    return [_as_tool(tool, path, drop) for path, tool in flattened(tools, drop)]


def _as_tool(tool: Object, path: str, drop: Callable[[str], None]) -> Object:
    form = _form(tool, path, "tools of type {} are OpenAI's own, and cannot be sent on to vendors")
    kind = _FORMS[form]
    fitting = fitted_at(tool, kind, path)
    for name, value in tool.items():
        if value and name != "type" and name not in kind.__struct_fields__:
            drop(f"{path}.{name}")
    given = {name: value for name in kind.__struct_fields__ if (value := getattr(fitting, name)) is not None}
    if isinstance(fitting, Custom) and fitting.format is not None:
        given["format"] = _format(fitting.format)
    return {"type": form, form: given}


def _form(tool: Any, path: str, why: str) -> str:
    """The type of a tool that can be sent on.

    Args:
        tool: it, or the choice of it.
        path: where it stands in the request.
        why: what is said of any other type, which is put into it.

    Raises:
        InvalidRequest: it is of no such type.
    """
    form = tool.get("type") if isinstance(tool, dict) else None
    if isinstance(form, str) and form in _FORMS:
        return form
    shown = repr(form[:64]) if isinstance(form, str) else "null" if form is None else "other than text"
    message = f"{path}.type: {why.format(shown)}; there are: {', '.join(_FORMS)}"
    raise InvalidRequest(message, param=f"{path}.type", code="unsupported_tool")


def _format(given: Object) -> Object:
    """What a custom tool is called with: a grammar stands a level deeper in chats."""
    if given.get("type") != "grammar":
        return given
    return {"type": "grammar", "grammar": {name: value for name, value in given.items() if name != "type"}}


def as_choice(choice: str | Object) -> str | Object:
    """The choice of a chat.

    Raises:
        InvalidRequest: it is of a tool of OpenAI's own.
    """
    if isinstance(choice, str):
        return choice
    if choice.get("type") != "allowed_tools":
        return _named(choice, "tool_choice")
    tools = choice.get("tools")
    if not isinstance(tools, list):
        raise InvalidRequest("tool_choice.tools: expected an array", param="tool_choice.tools")
    named = [_named(tool, f"tool_choice.tools[{number}]") for number, tool in enumerate(tools)]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": named}}


def _named(choice: Any, path: str) -> Object:
    form = _form(choice, path, "{} cannot be chosen")
    name = choice.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{path}.name: expected the name of a tool", param=f"{path}.name")
    return {"type": form, form: {"name": name}}
