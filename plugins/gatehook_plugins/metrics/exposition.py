"""The numbers as Prometheus reads them: made at the scrape, from a copy, in another thread."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final

from aiohttp import web
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector, CollectorRegistry

from gatehook_plugins.metrics.recorder import DURATION_BOUNDS, TTFT_BOUNDS, Recorder, Snapshot

__all__ = ["Exposition"]

_Format = tuple[Callable[[Collector], bytes], str]

# prometheus_client's own choice by the Accept header fails on versions that it does not expect.
_TEXT: Final[_Format] = (generate_latest, "text/plain; version=0.0.4; charset=utf-8")
_OPENMETRICS: Final[_Format] = (
    generate_openmetrics,
    "application/openmetrics-text; version=1.0.0; charset=utf-8",
)


class Exposition:
    """Serves /metrics. Each has a registry of its own, so two gateways in one process do not mix."""

    def __init__(self, recorder: Recorder, *, process: bool, feathergate_names: bool) -> None:
        self._recorder = recorder
        self._feathergate_names = feathergate_names
        self._registry = CollectorRegistry(auto_describe=False)
        if process:
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
            GCCollector(registry=self._registry)

    async def serve(self, request: web.Request) -> web.Response:
        """Everything, in the format that the Accept header asks for: Prometheus text, or OpenMetrics."""
        encode, content_type = _TEXT
        if "application/openmetrics-text" in request.headers.get("Accept", ""):
            encode, content_type = _OPENMETRICS
        scrape = _Scrape(self._recorder.snapshot(), self._registry, feathergate_names=self._feathergate_names)
        # Formatting thousands of lines, and reading /proc, would hold up every stream.
        body = await asyncio.to_thread(encode, scrape)
        return web.Response(body=body, headers={"Content-Type": content_type})


class _Scrape(Collector):
    """One look at everything."""

    def __init__(self, snapshot: Snapshot, registry: CollectorRegistry, *, feathergate_names: bool) -> None:
        self._snapshot = snapshot
        self._registry = registry
        self._feathergate_names = feathergate_names

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        yield from _gateway(self._snapshot)
        if self._feathergate_names:
            yield from _feathergate(self._snapshot)
        yield from self._registry.collect()


def _gateway(snapshot: Snapshot) -> Iterable[Metric]:
    yield _counter(
        "gateway_requests",
        "Inference requests that have ended. outcome: complete, cached, partial, failed, rejected.",
        ("model", "vendor", "outcome", "code"),
        snapshot.requests,
    )
    yield GaugeMetricFamily(
        "gateway_requests_in_flight", "Inference requests being answered now.", value=snapshot.in_flight
    )
    yield _counter(
        "gateway_tokens",
        "Tokens that vendors used. kind: prompt, completion; cached is part of prompt, reasoning of completion.",
        ("model", "kind"),
        snapshot.tokens,
    )
    yield _counter(
        "gateway_upstream_failures",
        "Failed tries of a deployment, also those after which another answered.",
        ("vendor", "model", "code"),
        snapshot.failures,
    )
    yield _histogram(
        "http_request_duration_seconds",
        "Time from an inference request's arrival to the end of its answer.",
        ("operation", "status"),
        {(operation, str(status)): one for (operation, status), one in snapshot.durations.items()},
        DURATION_BOUNDS,
    )
    yield _histogram(
        "gateway_time_to_first_token_seconds",
        "Time from a streaming request's arrival to the first content of its answer.",
        ("model",),
        {(model,): one for model, one in snapshot.first_tokens.items()},
        TTFT_BOUNDS,
    )


def _feathergate(snapshot: Snapshot) -> Iterable[Metric]:
    yield _counter(
        "feathergate_requests",
        "Inference requests that have ended.",
        (),
        {(): snapshot.successful + snapshot.failed},
    )
    # FeatherGate's names lack the `_total` that a counter's must have; declared as one they would be renamed.
    for name, help_, value in (
        ("feathergate_requests_successful", "Those that were answered in full.", snapshot.successful),
        ("feathergate_requests_failed", "Those that were not.", snapshot.failed),
    ):
        metric = Metric(name, help_, "unknown")
        metric.add_sample(name, {}, value)
        yield metric


def _counter(name: str, help_: str, labels: Sequence[str], values: Mapping[tuple[str, ...], int]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(
    name: str,
    help_: str,
    labels: Sequence[str],
    values: Mapping[tuple[str, ...], tuple[list[int], float]],
    bounds: Sequence[float],
) -> Metric:
    family = HistogramMetricFamily(name, help_, labels=labels)
    limits = [*map(str, bounds), "+Inf"]
    for key, (counts, total) in values.items():
        family.add_metric(key, list(zip(limits, accumulate(counts), strict=True)), total)
    return family
