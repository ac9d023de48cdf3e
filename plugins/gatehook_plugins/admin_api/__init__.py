"""Administration over HTTP: users and what they may use, keys, models, usage and its corrections, the audit, reload."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from gatehook import DIRECTORY, Route, Section, hookimpl
from gatehook_plugins.admin_api.keys import KeyRoutes
from gatehook_plugins.admin_api.lifecycle import LifecycleRoutes
from gatehook_plugins.admin_api.models import ModelRoutes
from gatehook_plugins.admin_api.records import RecordRoutes
from gatehook_plugins.admin_api.users import UserRoutes

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["AdminApi"]


class AdminApi:
    """Everything under /admin, for admin credentials only: JSON in and out, errors in OpenAI's shape."""

    class Settings(Section):
        """[plugins.admin_api]."""

        allow_references: bool = Field(
            default=False, description="whether models may be given keys as env:NAME or file:PATH, read by the gateway"
        )

    requires = (DIRECTORY,)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route]:
        """All of /admin."""
        models = ModelRoutes(gateway, allow_references=self._settings.allow_references)
        parts = (UserRoutes(gateway), KeyRoutes(gateway), models, RecordRoutes(gateway), LifecycleRoutes(gateway))
        return [Route(method, path, handler, auth="admin") for part in parts for method, path, handler in part.routes()]
