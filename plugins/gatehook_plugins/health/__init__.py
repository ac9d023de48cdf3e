"""Tells load balancers and people whether the gateway serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gatehook import CATALOG, DATABASE, LOCAL_MODELS, Route, Section, hookimpl
from gatehook_plugins.health.report import Report

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["Health"]


class Health:
    """GET /health, /health/live and /health/ready; all without a key, so that probes need none."""

    class Settings(Section):
        """[plugins.health]."""

        style: Literal["full", "simple"] = Field(
            default="full", description="what /health answers: the whole report, or {'status': 'ok', 'service': …}"
        )
        needs_database: bool = Field(
            default=True, description="/health/ready is 503 while the database cannot be read or written to"
        )

    requires = (CATALOG,)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route]:
        """The three paths."""
        services = gateway.services
        report = Report(
            gateway,
            services[CATALOG],
            services.get(LOCAL_MODELS),
            services.get(DATABASE),
            needs_database=self._settings.needs_database,
        )
        health = report.simple if self._settings.style == "simple" else report.full
        return [
            Route("GET", "/health", health, auth=False),
            Route("GET", "/health/live", report.live, auth=False),
            Route("GET", "/health/ready", report.ready, auth=False),
        ]
