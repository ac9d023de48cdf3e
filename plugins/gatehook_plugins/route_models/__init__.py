"""Chooses deployments: by priority, among equals by a strategy, then the fallbacks."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, field_validator

from gatehook import BALANCING, CATALOG, DIRECTORY, HEALTH, AttemptLimiter, Router, Section, ServiceKey, hookimpl
from gatehook_plugins.route_models.affinity import HEADER, Affinity
from gatehook_plugins.route_models.balance import Balance
from gatehook_plugins.route_models.loads import Loads
from gatehook_plugins.route_models.router import ModelRouter
from gatehook_plugins.route_models.strategies import STRATEGIES, strategies

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["RouteModels"]

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header's name (RFC 9110)."""


class RouteModels:
    """Routes calls over the deployments of the settings, and of whatever else feeds the catalog."""

    class Settings(Section):
        """[plugins.route_models]."""

        strategy: str = Field(
            default="weighted",
            description="how deployments of one priority share calls: " + ", ".join(STRATEGIES),
            json_schema_extra={"enum": list(STRATEGIES)},
        )
        affinity: str = Field(
            default="",
            description="keeps at one deployment the calls of each 'user', or of each value of 'header:NAME'",
        )

        @field_validator("strategy")
        @classmethod
        def _known(cls, strategy: str) -> str:
            if strategy not in STRATEGIES:
                import difflib  # only faults need it

                near = difflib.get_close_matches(strategy, STRATEGIES, n=1)
                known = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(STRATEGIES)}"
                raise ValueError(f"unknown strategy '{strategy[:80]}'; {known}")
            return strategy

        @field_validator("affinity")
        @classmethod
        def _names_a_session(cls, affinity: str) -> str:
            is_header = affinity.startswith(HEADER) and _TOKEN.fullmatch(affinity.removeprefix(HEADER))
            if affinity not in ("", "user") and not is_header:
                raise ValueError("must be '', 'user', or 'header:' and the name of a header, as in 'header:X-Session'")
            return affinity

    requires = (CATALOG,)

    def __init__(self, settings: Settings) -> None:
        """Priorities, weights and fallbacks are not set here, but in the tables of the models."""
        self._affinity = settings.affinity
        self._balance = Balance(settings.strategy)
        self._loads = Loads()
        self._strategies = strategies(self._loads, random.random)

    @hookimpl
    def register_services(self) -> Iterable[tuple[ServiceKey[Any], object]]:
        """Which strategy holds."""
        return [(BALANCING, self._balance)]

    @hookimpl
    def register_limiters(self, gateway: Gateway) -> Iterable[AttemptLimiter]:
        """What measures attempts, if the strategy needs that, or another one can be chosen while serving."""
        can_change = DIRECTORY in gateway.services
        return [self._loads] if can_change or self._strategies[self._balance.strategy].is_measuring else []

    @hookimpl
    def register_routers(self, gateway: Gateway) -> Iterable[Router]:
        """One router over the catalog."""
        services = gateway.services
        self._loads.vendors = lambda: gateway.vendors
        if (directory := services.get(DIRECTORY)) is not None:
            self._balance.follow(directory)
        return [
            ModelRouter(
                services[CATALOG],
                self._balance,
                self._strategies,
                self._loads,
                affinity=Affinity(self._affinity) if self._affinity else None,
                health=services.get(HEALTH),
            )
        ]
