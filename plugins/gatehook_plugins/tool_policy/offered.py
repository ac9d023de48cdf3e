"""Tools as requests offer them: their names, and what their arguments must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from gatehook import InvalidRequest, encode

if TYPE_CHECKING:
    from gatehook.tool_schema import ToolSchema

__all__ = ["Offered", "fault_of", "name_of", "schemas_of"]

Offered: TypeAlias = "Mapping[str, ToolSchema | None]"
"""The schemas of tools' arguments, by the tools' names; None where anything goes."""


def name_of(tool: Mapping[str, Any]) -> str:
    """A tool's name; vendors' built-in tools ("web_search") go by their type."""
    named = tool.get("function") or tool.get("custom") or tool
    name = (named.get("name") if isinstance(named, Mapping) else None) or tool.get("type")
    return name if isinstance(name, str) else ""


def schemas_of(tools: Iterable[Mapping[str, Any]]) -> dict[str, ToolSchema | None]:
    """The schemas of these tools' arguments, by name; of two with one name the first counts.

    Raises:
        InvalidRequest: a schema that nothing can be checked against.
    """
    found: dict[str, ToolSchema | None] = {}
    for tool in tools:
        name = name_of(tool)
        if name not in found:
            found[name] = _schema(name, tool.get("function"))
    return found


def _schema(name: str, function: Any) -> ToolSchema | None:
    schema = function.get("parameters") if isinstance(function, Mapping) else None
    if schema is None:
        return None
    from gatehook.tool_schema import SchemaFault, compiled  # loads a library, at the first need

    try:
        return compiled(encode(schema))
    except SchemaFault as error:
        message = f"tools: the parameters of {name[:80]!r}: {error}"
        raise InvalidRequest(message, param="tools", code="invalid_schema") from None


def fault_of(offered: Offered, name: str, arguments: str) -> str:
    """What is wrong with a call, for the model to read; "" if nothing is."""
    if name not in offered:
        return f"there is no tool {name[:80]!r}; there are: {', '.join(sorted(offered)[:20]) or 'none'}"
    schema = offered[name]
    return "" if schema is None else schema.fault(arguments)
