from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gatehook_otel import sending


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Sequence[ReadableSpan]]]:
    """What was sent, once the gateway has ended; kept in memory."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(sending, "PeriodicExportingMetricReader", lambda *arguments: InMemoryMetricReader())
    monkeypatch.setattr(sending, "span_exporter", lambda settings: exporter)
    yield exporter.get_finished_spans
    exporter.clear()


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, list[Any]]]:
    """All data points by metric, kept in memory; ask while the gateway serves."""
    reader = InMemoryMetricReader()
    monkeypatch.setattr(sending, "PeriodicExportingMetricReader", lambda *arguments: reader)

    def read() -> dict[str, list[Any]]:
        data = reader.get_metrics_data()
        assert data is not None
        found = (one for resource in data.resource_metrics for scope in resource.scope_metrics for one in scope.metrics)
        return {metric.name: list(metric.data.data_points) for metric in found}

    return read


@pytest.fixture
def settings() -> str:
    """A gateway that rehearses, with a fallback, watched."""
    return """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.otel]
users = true
[[models]]
name = "good"
vendor = "mock"
model = "echo"
[[models]]
name = "shaky"
vendor = "mock"
model = "echo"
base_url = "https://vendor.example:8443/secret/path"
fallbacks = ["good"]
options = { fault = { kind = "status", status = 500, code = "broken" } }
[failover]
retries = 0
"""
