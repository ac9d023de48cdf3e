"""Surface D: what models there are, which of them are loaded, and what they take: GET /v1/system/status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gatehook import CATALOG, LOCAL_MODELS, Route, Section, hookimpl
from gatehook_plugins.system_api.status import Status

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["SystemApi"]


class SystemApi:
    """Serves /v1/system/status for every vendor, not only for local models."""

    class Settings(Section):
        """[plugins.system_api]."""

    requires = (CATALOG,)  # without local models all are remote

    def __init__(self, settings: Settings) -> None:
        """`settings` has no keys beyond every plugin's."""

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route]:
        """The one path."""
        status = Status(gateway, gateway.services[CATALOG], gateway.services.get(LOCAL_MODELS))
        return [Route("GET", "/v1/system/status", status.get)]
