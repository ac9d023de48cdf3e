"""Tools and the choice among them: functionDeclarations and functionCallingConfig."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gatehook import InvalidRequest, Retry
from gatehook_plugins.vendor_gemini.schema import SchemaConverter

__all__ = ["function_calling", "function_declarations", "validated"]

_MODES: Final = {"auto": "AUTO", "required": "ANY", "none": "NONE"}


def function_declarations(tools: Any, drop: Callable[[str], None], *, json_schema: bool) -> list[dict[str, Any]]:
    """OpenAI's tools as functionDeclarations.

    Args:
        tools: the request's `tools`.
        drop: told what is lost.
        json_schema: whether the model reads JSON Schema and keeps calls to it; otherwise schemas are converted.

    Raises:
        InvalidRequest: a tool that is no function, or a schema that cannot be converted.
    """
    if not isinstance(tools, list):
        raise _refused("tools", "expected a list")
    return [_declaration(tool, f"tools[{number}]", drop, json_schema) for number, tool in enumerate(tools)]


def _declaration(tool: Any, path: str, drop: Callable[[str], None], json_schema: bool) -> dict[str, Any]:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind != "function":
        raise _refused(f"{path}.type", f"tools of type {kind!r} cannot be translated")
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise _refused(f"{path}.function", "needs a name")
    declaration: dict[str, Any] = {"name": function["name"]}
    if function.get("description"):
        declaration["description"] = function["description"]
    if function.get("strict") and not json_schema:
        drop(f"{path}.function.strict")
    # A function without parameters has no schema at all: an empty object is refused by older models.
    if schema := function.get("parameters"):
        where = f"{path}.function.parameters"
        if json_schema:
            declaration["parametersJsonSchema"] = schema
        elif (converted := SchemaConverter(schema, where, drop).convert()).get("properties"):
            declaration["parameters"] = converted
    return declaration


def validated(calling: dict[str, Any] | None) -> dict[str, Any]:
    """A functionCallingConfig under which every call keeps to its function's schema, as `strict` demands."""
    # ANY does so by itself, and where no calls are allowed there is nothing to hold.
    return {"mode": "VALIDATED"} if calling is None or calling["mode"] == "AUTO" else calling


def function_calling(choice: Any, names: Sequence[str]) -> dict[str, Any] | None:
    """OpenAI's tool_choice as a functionCallingConfig, None if there is nothing to say.

    Raises:
        InvalidRequest: not a choice, or of a tool that is not among `names`.
    """
    if isinstance(choice, str):
        if choice not in _MODES:
            raise _refused("tool_choice", f"expected one of {', '.join(_MODES)}, or an object")
        if not names:
            if choice == "required":
                raise _refused("tool_choice", "there are no tools to choose from")
            return None
        return {"mode": _MODES[choice]}
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "function":
        return {"mode": "ANY", "allowedFunctionNames": [_known(choice, names)]}
    if kind == "allowed_tools":
        return _allowed(choice.get("allowed_tools"), names)
    raise _refused("tool_choice", f"a choice of type {kind!r} cannot be translated")


def _allowed(allowed: Any, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list) or not allowed["tools"]:
        raise _refused("tool_choice.allowed_tools", "expected a mode and tools")
    # VALIDATED is "a call of one of these, or words".
    mode = {"auto": "VALIDATED", "required": "ANY"}.get(allowed.get("mode", "auto"))
    if mode is None:
        raise _refused("tool_choice.allowed_tools.mode", "expected auto or required")
    return {"mode": mode, "allowedFunctionNames": [_known(tool, names) for tool in allowed["tools"]]}


def _known(choice: Any, names: Sequence[str]) -> str:
    function: Mapping[str, Any] | None = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in names:
        raise InvalidRequest(f"tool_choice: there is no tool named {name!r}", param="tool_choice")
    return name


def _refused(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {why}", param=path, retry=Retry.NEXT)
