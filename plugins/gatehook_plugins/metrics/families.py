"""The metric families that Prometheus reads. Loaded at the first scrape, with prometheus_client."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector, CollectorRegistry

from gatehook import LocalModel, Vitality
from gatehook_plugins.metrics.deployments import deployment_metrics
from gatehook_plugins.metrics.exposition import Shown
from gatehook_plugins.metrics.local_models import local_model_metrics
from gatehook_plugins.metrics.plugin_families import plugin_metrics
from gatehook_plugins.metrics.recorder import (
    DURATION_BOUNDS,
    DURATIONS,
    FAILURES,
    FIRST_TOKENS,
    INFERENCES,
    REQUESTS,
    TOKEN_KINDS,
    TOKENS,
    TTFT_BOUNDS,
)
from gatehook_plugins.metrics.totals import Labels, Totals

__all__ = ["written"]

_Format = tuple[Callable[[Collector], bytes], str]

# prometheus_client's own choice by the Accept header fails on versions that it does not expect.
_TEXT: Final[_Format] = (generate_latest, "text/plain; version=0.0.4; charset=utf-8")
_OPENMETRICS: Final[_Format] = (
    generate_openmetrics,
    "application/openmetrics-text; version=1.0.0; charset=utf-8",
)


def written(
    shown: Shown, local: Sequence[LocalModel] | None, vitalities: Mapping[str, Vitality] | None, *, openmetrics: bool
) -> tuple[bytes, str]:
    """Everything as Prometheus text, or as OpenMetrics, and the content type of that.

    Args:
        shown: what is to be shown.
        local: the local models.
        vitalities: how each deployment does.
        openmetrics: whether that is the format asked for.
    """
    encode, content_type = _OPENMETRICS if openmetrics else _TEXT
    return encode(_Families(shown, local, vitalities)), content_type


class _Families(Collector):
    """Collects all metrics, as prometheus_client asks for them."""

    def __init__(
        self, shown: Shown, local: Sequence[LocalModel] | None, vitalities: Mapping[str, Vitality] | None
    ) -> None:
        self._shown = shown
        self._local = local
        self._vitalities = vitalities

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        shown = self._shown
        totals = Totals(shown.pages())
        yield from _gateway(totals)
        if self._vitalities is not None:
            yield from deployment_metrics(self._vitalities)
        if shown.jobs is not None:
            yield _jobs(shown.jobs())
        if self._local is not None:
            yield from local_model_metrics(self._local)
        if shown.inference:
            yield from _inference(totals)
        if shown.feathergate_names:
            yield from _feathergate(totals)
        if shown.plugin_times:
            yield from plugin_metrics(totals)
        if shown.process:
            yield from _workers(totals.processes) if shown.by_worker else _this_process()


def _gateway(totals: Totals) -> Iterable[Metric]:
    yield _counter(
        "gateway_requests",
        "Inference requests that have ended. outcome: complete, cached, partial, failed, rejected.",
        ("model", "vendor", "outcome", "code"),
        totals.family(REQUESTS),
    )
    yield GaugeMetricFamily(
        "gateway_requests_in_flight", "Inference requests being answered now.", value=totals.running
    )
    yield _counter(
        "gateway_tokens",
        "Tokens that vendors used. kind: prompt, completion; cached is part of prompt, reasoning of completion.",
        ("model", "kind"),
        {
            (*model, kind): [count]
            for model, counts in totals.family(TOKENS).items()
            for kind, count in zip(TOKEN_KINDS, counts, strict=True)
            if count
        },
    )
    yield _counter(
        "gateway_upstream_failures",
        "Failed tries of a deployment, also those after which another answered.",
        ("vendor", "model", "code"),
        totals.family(FAILURES),
    )
    yield _histogram(
        "http_request_duration_seconds",
        "Time from an inference request's arrival to the end of its answer.",
        ("operation", "status"),
        totals.family(DURATIONS),
        DURATION_BOUNDS,
    )
    yield _histogram(
        "gateway_time_to_first_token_seconds",
        "Time from a streaming request's arrival to the first content of its answer.",
        ("model",),
        totals.family(FIRST_TOKENS),
        TTFT_BOUNDS,
    )


def _jobs(counts: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(
        "gateway_jobs",
        "Jobs that are kept, in all processes. status: queued, running, succeeded, failed, cancelled.",
        labels=("status",),
    )
    for status, count in counts.items():
        family.add_metric((status,), count)
    return family


def _inference(totals: Totals) -> Iterable[Metric]:
    yield _histogram(
        "model_inference_seconds",
        "Time from a request's arrival to the end of its answer, of those that a model answered.",
        ("model",),
        totals.family(INFERENCES),
        DURATION_BOUNDS,
    )
    yield GaugeMetricFamily("active_connections", "Inference requests being answered now.", value=totals.running)


def _feathergate(totals: Totals) -> Iterable[Metric]:
    yield _counter(
        "feathergate_requests",
        "Inference requests that have ended.",
        (),
        {(): [totals.ended()]},
    )
    successful = totals.ended("complete", "cached")
    # FeatherGate's names lack the `_total` that a counter's must have; declared as one they would be renamed.
    for name, help_, value in (
        ("feathergate_requests_successful", "Those that were answered in full.", successful),
        ("feathergate_requests_failed", "Those that were not.", totals.ended() - successful),
    ):
        metric = Metric(name, help_, "unknown")
        metric.add_sample(name, {}, value)
        yield metric


def _this_process() -> Iterable[Metric]:
    registry = CollectorRegistry(auto_describe=False)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry.collect()


def _workers(processes: Mapping[int, int]) -> Iterable[Metric]:
    """What can be seen of processes from outside, each by its worker's number."""
    families: dict[str, Metric] = {}
    for worker, process in sorted(processes.items()):
        for told in _seen(process):
            family = families.setdefault(told.name, Metric(told.name, told.documentation, told.type, told.unit))
            for sample in told.samples:
                family.add_sample(sample.name, {"worker": str(worker)}, sample.value)
    return families.values()


def _seen(process: int) -> Iterable[Metric]:
    return ProcessCollector(pid=lambda: process, registry=None).collect()


def _counter(name: str, help_: str, labels: Sequence[str], values: Mapping[Labels, Sequence[float]]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=labels)
    for key, (value,) in values.items():
        family.add_metric(key, value)
    return family


def _histogram(
    name: str, help_: str, labels: Sequence[str], values: Mapping[Labels, Sequence[float]], bounds: Sequence[float]
) -> Metric:
    family = HistogramMetricFamily(name, help_, labels=labels)
    limits = [*map(str, bounds), "+Inf"]
    for key, (*counts, total) in values.items():
        family.add_metric(key, list(zip(limits, accumulate(counts), strict=True)), total)
    return family
