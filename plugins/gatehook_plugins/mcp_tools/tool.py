"""One tool of an MCP server: the name that models know it by, its call, and its result as a text."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Protocol

from gatehook import Call, InvalidRequest, UpstreamError, encode

if TYPE_CHECKING:
    import mcp_types as types

    from gatehook_plugins.mcp_tools.declared import Declared

__all__ = ["McpTool", "Session", "as_text", "named", "tools_of"]

log = logging.getLogger("gatehook.mcp_tools")

_LONGEST: Final = 64
"""Characters of a tool's name."""
_DIGEST: Final = 8
"""Characters of a digest that tells apart names that had to be cut."""


class Session(Protocol):
    """A connection to a server, as its tools use it."""

    async def call(self, name: str, arguments: Mapping[str, Any]) -> types.CallToolResult:
        """Call a tool by the server's own name for it.

        Raises:
            UpstreamError: the server is away, too slow, or refuses the call.
        """
        ...


class McpTool:
    """A tool as the server described it; it is called over the connection that listed it."""

    def __init__(self, name: str, described: types.Tool, session: Session) -> None:
        """`name` is what models know it by."""
        self.name = name
        self.description = described.description or described.title or described.name
        self.parameters: Mapping[str, Any] = described.input_schema
        self._own_name = described.name
        self._session = session

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        """Call it.

        Raises:
            InvalidRequest: an argument holds half of a character that takes two.
            UpstreamError: the tool reports an error, or the server does not answer.
        """
        try:  # as the library will encode them: there, a failure would cost the connection
            json.dumps(arguments, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InvalidRequest("an argument is not valid Unicode") from None
        result = await self._session.call(self._own_name, arguments)
        text = as_text(result)
        if result.is_error:
            raise UpstreamError(text or f"{self.name} failed")
        return text


def tools_of(listed: Iterable[types.Tool], server: str, declared: Declared, session: Session) -> Sequence[McpTool]:
    """The tools of a list that the settings let through, under names for models."""
    prefix = server if declared.prefix is None else declared.prefix
    tools: dict[str, McpTool] = {}
    for one in listed:
        wanted = any(fnmatchcase(one.name, pattern) for pattern in declared.include)
        if not wanted or any(fnmatchcase(one.name, pattern) for pattern in declared.exclude):
            continue
        name = named(prefix, one.name)
        if name in tools:
            log.warning("mcp server %r: two tools would be called %r; %r is left out", server, name, one.name)
        elif one.input_schema.get("type") != "object":
            log.warning("mcp server %r: tool %r takes no object, and is left out", server, one.name)
        else:
            tools[name] = McpTool(name, one, session)
    return tuple(tools.values())


def named(prefix: str, own: str) -> str:
    """`prefix__own`, with only such characters, and as short, as all vendors take."""
    whole = f"{prefix}__{own}" if prefix else own
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", whole)
    if len(clean) <= _LONGEST:
        return clean
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{clean[: _LONGEST - _DIGEST - 1]}_{digest}"


def as_text(result: types.CallToolResult) -> str:
    """What a model is told of a result: its texts, and what else there is by name; or its structure as JSON."""
    parts = [_part(block) for block in result.content]
    if not parts and result.structured_content is not None:
        return encode(result.structured_content).decode()
    return "\n".join(parts)


def _part(block: types.ContentBlock) -> str:
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            return f"[{block.type}: {block.mime_type}, {len(block.data.rstrip('=')) * 3 // 4} bytes]"
        case "resource_link":
            return f"[resource: {block.title or block.name}, {block.uri}]"
        case "resource":
            text = getattr(block.resource, "text", None)
            kind = block.resource.mime_type or "unknown type"
            return text if isinstance(text, str) else f"[resource: {block.resource.uri}, {kind}]"
