"""Surface C: the generation API of local models under /api/v1: prompts in, texts out; models loaded and unloaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from gatehook import CATALOG, LOCAL_MODELS, METRICS, Endpoint, ModelName, Observer, Route, Section, hookimpl
from gatehook_plugins.generate_api.batch import Batch
from gatehook_plugins.generate_api.errors import error_body, with_known_status
from gatehook_plugins.generate_api.models import Models
from gatehook_plugins.generate_api.surface import GenerateSurface

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["GenerateApi"]

_MOUNT = "/api/v1"


class GenerateApi:
    """Serves /api/v1/generate, /generate/stream, /batch/generate, /models, /health and /metrics for every vendor."""

    class Settings(Section):
        """[plugins.generate_api]."""

        default_model: ModelName = Field(
            default="",
            description="what no model, or 'default', stands for; '' is a model of that name, else the first that the "
            "caller may use",
        )

    requires = (CATALOG,)  # without local models there is nothing to load; without metrics no /api/v1/metrics

    def __init__(self, settings: Settings) -> None:
        self._default_model = settings.default_model
        self._models: Models

    @hookimpl
    def register_observers(self, gateway: Gateway) -> Iterable[Observer]:
        """What counts the calls that are running, for /health."""
        services = gateway.services
        self._models = Models(gateway, services[CATALOG], services.get(LOCAL_MODELS), self._default_model)
        return [self._models]

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route | Endpoint]:
        """All paths."""
        models = self._models
        plain = GenerateSurface(models.default)
        yield Endpoint(f"{_MOUNT}/generate", "chat", plain)
        yield Endpoint(f"{_MOUNT}/generate/stream", "chat", GenerateSurface(models.default, always_streams=True))
        batch = Batch(gateway, models.default)
        yield Route("POST", f"{_MOUNT}/batch/generate", with_known_status(batch.generate), errors=error_body)
        yield Route("GET", f"{_MOUNT}/health", models.health, auth=False, errors=error_body)
        yield Route("GET", f"{_MOUNT}/models", models.list, errors=error_body)
        yield Route("POST", f"{_MOUNT}/models/{{name:.+}}/load", with_known_status(models.load), errors=error_body)
        yield Route("POST", f"{_MOUNT}/models/{{name:.+}}/unload", with_known_status(models.unload), errors=error_body)
        yield Route("*", f"{_MOUNT}/{{path:.*}}", gateway.nothing_here, auth=False, errors=error_body)
        if (metrics := gateway.services.get(METRICS)) is not None:
            metrics.tell_inference()
            yield Route("GET", f"{_MOUNT}/metrics", metrics.serve, auth=metrics.auth, errors=error_body)
