"""The state of each deployment, as the plugin that offers `HEALTH` tells it."""

from collections.abc import Iterable, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from gatehook import Vitality

__all__ = ["deployment_metrics"]

_STATES = ("healthy", "degraded", "unavailable")
"""States; the value of the gauge is the place in this list."""


def deployment_metrics(found: Mapping[str, Vitality]) -> Iterable[Metric]:
    """A gauge of the state of each, and a counter of its rests."""
    states = GaugeMetricFamily(
        "gateway_deployment_state",
        "How a deployment does: 0 healthy, 1 degraded, 2 unavailable, that is given a rest.",
        labels=("deployment",),
    )
    rests = CounterMetricFamily(
        "gateway_deployment_rests", "How often a deployment was given a rest.", labels=("deployment",)
    )
    for key, vitality in found.items():
        states.add_metric((key,), _STATES.index(vitality.state))
        rests.add_metric((key,), vitality.rests)
    return states, rests
