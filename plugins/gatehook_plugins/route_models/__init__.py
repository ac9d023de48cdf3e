"""Chooses deployments: by priority, then by weight, then the fallbacks."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gatehook import CATALOG, Router, Section, hookimpl
from gatehook_plugins.route_models.router import ModelRouter

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["RouteModels"]


class RouteModels:
    """Routes calls over the deployments of the settings, and of whatever else feeds the catalog."""

    class Settings(Section):
        """[plugins.route_models]."""

    requires = (CATALOG,)

    def __init__(self, settings: Settings) -> None:
        """What can be set is set where the deployments are: priority, weight, fallbacks."""

    @hookimpl
    def register_routers(self, gateway: Gateway) -> Iterable[Router]:
        """One router over the catalog."""
        return [ModelRouter(gateway.services[CATALOG], random.random)]
