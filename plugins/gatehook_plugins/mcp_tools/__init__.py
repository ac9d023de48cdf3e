"""Tools of MCP servers; the gateway calls them when a model does. Needs the extra `gatehook[mcp]`."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from pydantic import Field

from gatehook import CATALOG, Call, Section, StartupError, Tool, ToolSource, covers, hookimpl
from gatehook_plugins.mcp_tools.declared import Declared
from gatehook_plugins.mcp_tools.server import McpServer

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["McpTools"]


class McpTools:
    """Connects to every declared server and offers its tools to the models that its `models` name."""

    class Settings(Section):
        """[plugins.mcp_tools]."""

        servers: dict[str, Declared] = Field(default={}, description="the servers by name, each a table of its own")

    def __init__(self, settings: Settings) -> None:
        self._servers = [McpServer(name, declared) for name, declared in settings.servers.items()]

    @hookimpl
    def register_tools(self, gateway: Gateway) -> Iterable[Tool | ToolSource]:
        """One source of all servers' tools.

        Raises:
            StartupError: there are servers, and the library is not installed.
        """
        if self._servers:
            _load_library()
        return [_Source(self._servers, gateway.services[CATALOG].canonical)]

    @hookimpl
    def register_lifespans(self) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """The connections; the start waits only for servers that are required."""
        return [self._lifespan]

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for server in self._servers:
                server.begin()
                stack.push_async_callback(server.end)
            for server in self._servers:
                if server.declared.required:
                    await server.required()
            yield


class _Source:
    def __init__(self, servers: Sequence[McpServer], canonical: Callable[[str], str]) -> None:
        self._servers = servers
        self._canonical = canonical

    def tools(self, call: Call) -> Sequence[Tool]:
        """Those of the servers that are there and whose `models` name the call's."""
        names = {call.model, self._canonical(call.model)}
        return [
            tool
            for server in self._servers
            if any(covers(server.declared.models, name) for name in names)
            for tool in server.tools
        ]


def _load_library() -> None:
    """Load what connections need: it takes a second, which nobody should wait for once the gateway serves."""
    try:
        for name in ("mcp.client.stdio", "mcp.client.streamable_http", "mcp.client.subscriptions"):
            importlib.import_module(name)
    except ImportError as error:
        raise StartupError(f"the library mcp cannot be loaded ({error}): pip install 'gatehook[mcp]'") from None
