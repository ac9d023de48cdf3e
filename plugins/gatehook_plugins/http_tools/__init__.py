"""Tools that call an HTTP API, declared in the settings; the gateway runs them when a model calls them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from gatehook import CATALOG, Section, Tool, hookimpl
from gatehook_plugins.http_tools.declared import Declared
from gatehook_plugins.http_tools.tool import HttpTool

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["HttpTools"]


class HttpTools:
    """Offers every declared tool to the models that its `models` name."""

    class Settings(Section):
        """[plugins.http_tools]."""

        tools: dict[str, Declared] = Field(default={}, description="the tools by name, each a table of its own")

    def __init__(self, settings: Settings) -> None:
        self._declared = settings.tools

    @hookimpl
    def register_tools(self, gateway: Gateway) -> Iterable[Tool]:
        """One tool for each table."""
        canonical = gateway.services[CATALOG].canonical
        return [HttpTool(name, one, gateway.egress, canonical) for name, one in self._declared.items()]
