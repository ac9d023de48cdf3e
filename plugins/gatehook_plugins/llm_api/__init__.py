"""Surface E: the multi-LLM API under /api/llm and /api/v1/llm: answers with their cost, models, statistics, changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gatehook import CATALOG, HEALTH, LEDGER, Endpoint, Observer, Route, Section, hookimpl
from gatehook_plugins.llm_api.balancing import LoadBalancing
from gatehook_plugins.llm_api.errors import error_body
from gatehook_plugins.llm_api.models import Models
from gatehook_plugins.llm_api.monitor import Monitor
from gatehook_plugins.llm_api.overrides import ModelConfig
from gatehook_plugins.llm_api.stats import Statistics
from gatehook_plugins.llm_api.surface import LlmSurface

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["LlmApi"]

MOUNTS = ("/api/llm", "/api/v1/llm")


class LlmApi:
    """Serves /generate, /generate/stream, /models, /health, /stats and /config at both mounts."""

    class Settings(Section):
        """[plugins.llm_api]."""

    requires = (CATALOG,)  # without the ledger only the statistics are missing, without the database only changes

    def __init__(self, settings: Settings) -> None:
        """`settings` has no keys beyond every plugin's."""
        self._monitor = Monitor()

    @hookimpl
    def register_observers(self, gateway: Gateway) -> Iterable[Observer]:
        """What learns from each call how the models do."""
        self._monitor.follow(gateway.services[CATALOG], gateway.services.get(HEALTH))
        return [self._monitor]

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route | Endpoint]:
        """The same paths at each mount."""
        catalog = gateway.services[CATALOG]
        ledger = gateway.services.get(LEDGER)
        plain, streaming = LlmSurface(), LlmSurface(always_streams=True)
        models = Models(gateway, catalog, self._monitor, has_ledger=ledger is not None)
        statistics = Statistics(ledger)
        balancing, model = LoadBalancing(gateway.services), ModelConfig(gateway.services)
        for mount in MOUNTS:
            yield Endpoint(f"{mount}/generate", "chat", plain)
            yield Endpoint(f"{mount}/generate/stream", "chat", streaming)
            yield Route("GET", f"{mount}/models", models.list, errors=error_body)
            yield Route("GET", f"{mount}/models/{{id:.+}}/status", models.status, errors=error_body)
            yield Route("GET", f"{mount}/health", models.health, auth=False, errors=error_body)
            yield Route("GET", f"{mount}/stats/usage", statistics.usage, errors=error_body)
            yield Route("GET", f"{mount}/stats/performance", statistics.performance, errors=error_body)
            for path, config in (("load-balancing", balancing), ("models/{id:.+}", model)):
                yield Route("GET", f"{mount}/config/{path}", config.get, auth="admin", errors=error_body)
                yield Route("PUT", f"{mount}/config/{path}", config.put, auth="admin", errors=error_body)
            yield Route("*", f"{mount}/{{path:.*}}", gateway.nothing_here, auth=False, errors=error_body)
