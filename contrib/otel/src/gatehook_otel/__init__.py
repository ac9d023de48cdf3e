"""OpenTelemetry traces and metrics of every call, by the semantic conventions for generative AI, over OTLP/HTTP."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager

from pydantic import Field

from gatehook import CATALOG, Gateway, Limiter, Observer, SecretStr, Section, hookimpl
from gatehook_otel.attempts import AttemptSpans
from gatehook_otel.calls import CallSpans
from gatehook_otel.instruments import Telemetry

__all__ = ["OtelPlugin"]


class OtelPlugin:
    """Watches calls as an observer, and attempts as a limiter that refuses nothing."""

    class Settings(Section):
        """[plugins.otel]. No setting makes it send what people say or models answer."""

        order: int = Field(default=100, description="after the other limiters: what they refuse is no attempt")
        endpoint: str = Field(default="http://localhost:4318", description="the collector's URL, without /v1/traces")
        headers: dict[str, SecretStr] = Field(default={}, description="sent to the collector, such as its key")
        service_name: str = Field(default="gatehook", description="service.name")
        traces: bool = Field(default=True, description="send a span for each call and each attempt")
        metrics: bool = Field(default=True, description="send durations and tokens")
        sample: float = Field(default=1.0, ge=0, le=1, description="share of traces that begin here to record; 1: all")
        follow: bool = Field(default=True, description="continue the client's trace (traceparent), sampled as it is")
        users: bool = Field(default=False, description="name the user in spans (enduser.id)")
        interval: float = Field(default=60, gt=0, description="seconds between two exports of the metrics")
        timeout: float = Field(default=10, gt=0, description="seconds that an export may take")

    requires = (CATALOG,)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._telemetry = Telemetry()

    @hookimpl
    def register_observers(self, gateway: Gateway) -> Iterable[Observer]:
        """The spans of calls, and the metrics."""
        given, catalog = self._settings, gateway.services[CATALOG]
        return [CallSpans(self._telemetry, catalog, follow=given.follow, users=given.users)]

    @hookimpl
    def register_limiters(self, gateway: Gateway) -> Iterable[Limiter]:
        """The spans of attempts."""
        return [AttemptSpans(self._telemetry, gateway.services[CATALOG])]

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """The exporters. Their threads start here, in each worker process."""

        @contextlib.asynccontextmanager
        async def sending() -> AsyncIterator[None]:
            from gatehook_otel.sending import sending as opened

            async with opened(self._telemetry, self._settings, gateway.worker):
                yield

        return [sending]
