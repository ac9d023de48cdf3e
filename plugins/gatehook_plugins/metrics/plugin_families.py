"""What each plugin costs, as Prometheus reads it."""

from collections.abc import Iterable
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from gatehook_plugins.metrics.plugin_times import PLUGINS
from gatehook_plugins.metrics.totals import Totals

__all__ = ["plugin_metrics"]

_LABELS: Final = ("plugin", "method")
_FAMILIES: Final = {
    "gateway_plugin_calls": "Calls of a plugin's method that have ended.",
    "gateway_plugin_seconds": "Time from their beginning to their end.",
    "gateway_plugin_busy_seconds": "Time of it in which they kept the event loop to themselves.",
    "gateway_plugin_errors": "Calls that raised what no plugin should.",
}


def plugin_metrics(totals: Totals) -> Iterable[Metric]:
    """A counter for each cell."""
    for cell, (name, help_) in enumerate(_FAMILIES.items()):
        family = CounterMetricFamily(name, help_, labels=_LABELS)
        for labels, cells in totals.family(PLUGINS).items():
            family.add_metric(labels, cells[cell])
        yield family
