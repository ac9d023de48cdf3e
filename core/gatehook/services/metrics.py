"""The page that Prometheus reads: the service `METRICS` of the plugin that counts."""

from typing import Literal, Protocol

from aiohttp import web

from gatehook.services.registry import ServiceKey

__all__ = ["METRICS", "MetricsPage"]


class MetricsPage(Protocol):
    """The page, for surfaces that show it at an address of their own."""

    @property
    def auth(self) -> Literal["user", "admin", False]:
        """Who may read it, as a `Route` says it."""
        ...

    def tell_inference(self) -> None:
        """Add `model_inference_seconds` and `active_connections` to the page. To be called at start-up."""
        ...

    async def serve(self, request: web.Request) -> web.Response:
        """The page."""
        ...


METRICS: ServiceKey[MetricsPage] = ServiceKey("metrics", provider="metrics")
