"""Exports spans and metrics in threads. A call only puts its span into a queue, which drops spans when it is full."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from gatehook_otel.instruments import Instruments, Telemetry

if TYPE_CHECKING:
    from gatehook_otel import OtelPlugin

__all__ = ["sending"]


@contextlib.asynccontextmanager
async def sending(telemetry: Telemetry, settings: "OtelPlugin.Settings", worker: int) -> AsyncIterator[None]:
    """Fill `telemetry`; at the end send what is left, within the timeout.

    Args:
        telemetry: what spans and metrics are recorded with.
        settings: the plugin's.
        worker: the number of this worker process.
    """
    resource = Resource.create(
        {
            "service.name": settings.service_name,
            "service.version": version("gatehook"),
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}-{worker}",
        }
    )
    closing: list[Callable[[], None]] = []
    if settings.traces:
        tracers = TracerProvider(
            sampler=ParentBasedTraceIdRatio(settings.sample), resource=resource, shutdown_on_exit=False
        )
        tracers.add_span_processor(BatchSpanProcessor(span_exporter(settings)))
        telemetry.tracer = tracers.get_tracer("gatehook")
        closing.append(tracers.shutdown)
    if settings.metrics:
        milliseconds = settings.interval * 1000
        reader = PeriodicExportingMetricReader(metric_exporter(settings), milliseconds, settings.timeout * 1000)
        meters = MeterProvider([reader], resource, shutdown_on_exit=False)
        telemetry.instruments = Instruments(meters.get_meter("gatehook"))
        closing.append(meters.shutdown)
    try:
        yield
    finally:
        telemetry.tracer = telemetry.instruments = None
        # In threads: closing waits for the collector, and the loop must not.
        await asyncio.gather(*(asyncio.to_thread(close) for close in closing))


def span_exporter(settings: "OtelPlugin.Settings") -> SpanExporter:
    """The exporter of spans, to the collector."""
    url = f"{settings.endpoint.rstrip('/')}/v1/traces"
    return OTLPSpanExporter(url, headers=_headers(settings), timeout=settings.timeout)


def metric_exporter(settings: "OtelPlugin.Settings") -> MetricExporter:
    """The exporter of metrics, to the collector."""
    url = f"{settings.endpoint.rstrip('/')}/v1/metrics"
    return OTLPMetricExporter(url, headers=_headers(settings), timeout=settings.timeout)


def _headers(settings: "OtelPlugin.Settings") -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in settings.headers.items()}
