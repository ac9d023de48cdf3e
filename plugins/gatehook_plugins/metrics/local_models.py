"""The state of each model on this machine, as the plugin that offers `LOCAL_MODELS` tells it."""

from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from gatehook import LocalModel

__all__ = ["local_model_metrics"]


def local_model_metrics(found: Sequence[LocalModel]) -> Iterable[Metric]:
    """Of each, whether it is loaded, what it takes, and how often it has failed."""
    loaded = GaugeMetricFamily("gateway_local_model_loaded", "Whether a model is loaded: 1, or 0.", labels=("model",))
    memory = GaugeMetricFamily(
        "gateway_local_model_memory_bytes", "Memory that a loaded model has in use.", labels=("model",)
    )
    failures = CounterMetricFamily(
        "gateway_local_model_failures",
        "How often a model's process has ended by itself, or could not load it.",
        labels=("model",),
    )
    for model in found:
        loaded.add_metric((model.name,), model.loaded)
        failures.add_metric((model.name,), model.failures)
        if model.memory is not None:
            memory.add_metric((model.name,), model.memory)
    return loaded, memory, failures
