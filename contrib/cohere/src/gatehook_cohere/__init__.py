"""Cohere behind Gatehook: the vendor `cohere`, and the surface `/v1/rerank` for whatever vendor can rank."""

from collections.abc import Iterable

from pydantic import Field

from gatehook import Endpoint, Gateway, Section, Vendor, hookimpl
from gatehook_cohere.endpoint import DEFAULT_BASE
from gatehook_cohere.surface import RerankSurface
from gatehook_cohere.vendor import Cohere

__all__ = ["CoherePlugin"]


class CoherePlugin:
    """Everything that this distribution adds."""

    class Settings(Section):
        """[plugins.cohere]."""

        base_url: str = Field(default=DEFAULT_BASE, description="address of the API, for models that name none")
        rerank: bool = Field(default=True, description="serve /v1/rerank and /v2/rerank")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @hookimpl
    def register_vendors(self, gateway: Gateway) -> Iterable[Vendor]:
        """The vendor `cohere`."""
        return [Cohere(gateway.egress, self._settings.base_url)]

    @hookimpl
    def register_routes(self) -> Iterable[Endpoint]:
        """Where clients ask for a ranking; both paths are one."""
        if not self._settings.rerank:
            return []
        surface = RerankSurface()
        return [Endpoint("/v1/rerank", "rerank", surface), Endpoint("/v2/rerank", "rerank", surface)]
