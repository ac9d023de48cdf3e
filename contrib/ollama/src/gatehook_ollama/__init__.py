"""Ollama behind Gatehook: the vendor `ollama`, the command `gatehook ollama`, and what an administrator asks of it."""

from collections.abc import Iterable

from pydantic import Field

from gatehook import CATALOG, Command, Gateway, Route, Section, Vendor, hookimpl
from gatehook_ollama.command import OllamaCommand
from gatehook_ollama.options import DEFAULT_BASE
from gatehook_ollama.routes import Routes
from gatehook_ollama.vendor import Ollama

__all__ = ["OllamaPlugin"]


class OllamaPlugin:
    """Everything that this distribution adds."""

    class Settings(Section):
        """[plugins.ollama]."""

        base_url: str = Field(default=DEFAULT_BASE, description="address of the server, for models that name none")
        keep_alive: str = Field(
            default="", description='how long a model stays loaded, as in "10m"; "-1" for ever, "" as the server likes'
        )

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @hookimpl
    def register_vendors(self, gateway: Gateway) -> Iterable[Vendor]:
        """The vendor `ollama`."""
        return [Ollama(gateway.egress, self._settings.base_url, self._settings.keep_alive)]

    @hookimpl
    def register_commands(self, gateway: Gateway) -> Iterable[Command]:
        """`gatehook ollama`."""
        run = OllamaCommand(gateway.egress, self._settings.base_url)
        return [Command("ollama", "List, load and remove the models of an Ollama server.", run)]

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route]:
        """`/admin/ollama`."""
        routes = Routes(gateway.egress, gateway.services[CATALOG], self._settings.base_url)
        return [
            Route("GET", "/admin/ollama/models", routes.models, auth="admin"),
            Route("POST", "/admin/ollama/pull", routes.pull, auth="admin"),
        ]
