"""Counts what goes by, and shows it to Prometheus."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from aiohttp import web
from pydantic import BeforeValidator, Field

from gatehook import (
    CATALOG,
    HEALTH,
    JOBS,
    LOCAL_MODELS,
    METER,
    METRICS,
    Catalog,
    DeploymentHealth,
    MetricsPage,
    Observer,
    Route,
    Section,
    ServiceKey,
    Vitality,
    hookimpl,
)
from gatehook_plugins.metrics.exposition import Shown, serve
from gatehook_plugins.metrics.plugin_times import PluginTimes
from gatehook_plugins.metrics.recorder import Recorder

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["Metrics"]


def _word(value: object) -> object:
    # An environment variable can only say "false".
    return False if isinstance(value, str) and value.lower() in ("false", "off", "no", "0") else value


class Metrics:
    """GET /metrics: requests, tokens, durations and failures since the gateway began to serve, of all its workers."""

    class Settings(Section):
        """[plugins.metrics]."""

        auth: Annotated[Literal[False, "user", "admin"], BeforeValidator(_word)] = Field(
            default=False, description="who may read /metrics: false for anybody, 'user' for any key, or 'admin'"
        )
        process: bool = Field(default=False, description="also tell of the process: memory, CPU, file descriptors")
        feathergate_names: bool = Field(default=False, description="also count requests under FeatherGate's names")
        plugin_times: bool = Field(
            default=False, description="also tell what each plugin costs, and how often it fails"
        )

    requires = (CATALOG,)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._recorder = Recorder()
        self._shown = Shown(
            lambda: [(self._recorder.numbers.page(), True)],
            process=settings.process,
            feathergate_names=settings.feathergate_names,
            plugin_times=settings.plugin_times,
        )

    @property
    def auth(self) -> Literal[False, "user", "admin"]:
        """See `MetricsPage`."""
        return self._settings.auth

    @hookimpl
    def register_services(self) -> Iterable[tuple[ServiceKey[Any], object]]:
        """The page, for surfaces that have an address of their own for it; and what measures plugins, if wanted."""
        times = PluginTimes(lambda: self._recorder.numbers)
        return [(METRICS, self), *([(METER, times)] if self._settings.plugin_times else [])]

    @hookimpl
    def register_observers(self, gateway: Gateway) -> Iterable[Observer]:
        """The recorder, which counts."""
        catalog = gateway.services[CATALOG]
        self._recorder.name_models_by(catalog)
        if (health := gateway.services.get(HEALTH)) is not None:
            self._shown.deployments = functools.partial(_vitalities, catalog, health)
        if (jobs := gateway.services.get(JOBS)) is not None:
            self._shown.jobs = jobs.counts
        self._shown.local = gateway.services.get(LOCAL_MODELS)
        return [self._recorder]

    def tell_inference(self) -> None:
        """See `MetricsPage`."""
        self._recorder.time_models()
        self._shown.inference = True

    async def serve(self, request: web.Request) -> web.Response:
        """The metrics, in the text format of Prometheus."""
        return await serve(self._shown, request)

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route]:
        """GET /metrics."""
        return [Route("GET", "/metrics", self.serve, auth=self.auth)]

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """Where there are several workers, their numbers are in files, so that each can show those of all."""

        @contextlib.asynccontextmanager
        async def shared() -> AsyncIterator[None]:
            if (folder := gateway.shared) is None:
                yield
                return
            from gatehook_plugins.metrics.workers import own_numbers, pages

            with own_numbers(folder, gateway.worker) as numbers:
                self._recorder.go_on(numbers)
                self._shown.pages, self._shown.by_worker = functools.partial(pages, folder), True
                yield

        return [shared]


def _vitalities(catalog: Catalog, health: DeploymentHealth) -> Mapping[str, Vitality]:
    """How every deployment does, by its key."""
    return {target.key: health.of(target) for group in catalog.groups().values() for target in group}


_implements: type[MetricsPage] = Metrics
