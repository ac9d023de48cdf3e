"""Functions in namespaces, as coding agents group them: chats know none, so their names are joined there.

A call of such a function is told with both names again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from gatehook import InvalidRequest
from gatehook.chats import Name
from gatehook_plugins.responses_api.fitting import fitted_at

__all__ = ["Names", "flattened", "joined", "names_of"]

Object = dict[str, Any]
Names = Mapping[str, tuple[str, str]]
"""The namespace, and the function's name in it, by the joined name."""


class Namespace(Struct):
    """A group of tools."""

    name: Name
    tools: list[Object]
    description: str | None = None


def joined(namespace: str, name: str) -> str:
    """The name of a function for vendors."""
    return f"{namespace}__{name}"


def flattened(tools: Sequence[Object], drop: Callable[[str], None]) -> Iterator[tuple[str, Object]]:
    """All tools, each with its path in the request; those in namespaces by their joined names.

    Args:
        tools: the request's.
        drop: told the path of a namespace's description, for which there is no place.

    Raises:
        InvalidRequest: a namespace is not described as one, or two tools would have the same name.
    """
    names = {tool["name"] for tool in tools if isinstance(tool.get("name"), str)}
    for number, tool in enumerate(tools):
        path = f"tools[{number}]"
        if tool.get("type") != "namespace":
            yield path, tool
            continue
        space = fitted_at(tool, Namespace, path)
        if space.description:
            drop(f"{path}.description")
        for place, one in enumerate(space.tools):
            below, name = f"{path}.tools[{place}]", one.get("name")
            if isinstance(name, str):
                name = joined(space.name, name)
                if name in names:
                    raise InvalidRequest(f"{below}.name: there is another tool {name!r}", param=f"{below}.name")
                names.add(name)
                one = {**one, "name": name}
            yield below, one


def names_of(tools: Sequence[Object]) -> Names:
    """What the joined names stand for.

    Args:
        tools: the request's; they have been read.
    """
    spaces = (tool for tool in tools if tool.get("type") == "namespace")
    return {
        joined(space["name"], one["name"]): (space["name"], one["name"]) for space in spaces for one in space["tools"]
    }
