"""What each plugin costs: counted for every call of one of its methods, where the operator wants to know."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from gatehook import Meter
from gatehook_plugins.metrics.numbers import Numbers
from gatehook_plugins.metrics.totals import Totals

__all__ = ["PluginTimes", "plugin_metrics"]

PLUGINS: Final = "plugins"
"""Labels: plugin, method. The cells of `_FAMILIES`."""
_LABELS: Final = ("plugin", "method")
_FAMILIES: Final = {
    "gateway_plugin_calls": "Calls of a plugin's method that have ended.",
    "gateway_plugin_seconds": "Time from their beginning to their end.",
    "gateway_plugin_busy_seconds": "Time of it in which they kept the event loop to themselves.",
    "gateway_plugin_errors": "Calls that raised what no plugin should.",
}


class PluginTimes:
    """Counts in the numbers that there are at that moment."""

    def __init__(self, numbers: Callable[[], Numbers]) -> None:
        self._numbers = numbers

    def add(self, plugin: str, method: str, seconds: float, busy: float, *, failed: bool) -> None:
        """See `Meter`."""
        self._numbers().add((PLUGINS, plugin, method), (1, seconds, busy, failed))


def plugin_metrics(totals: Totals) -> Iterable[Metric]:
    """A counter for each cell."""
    for cell, (name, help_) in enumerate(_FAMILIES.items()):
        family = CounterMetricFamily(name, help_, labels=_LABELS)
        for labels, cells in totals.family(PLUGINS).items():
            family.add_metric(labels, cells[cell])
        yield family


_guard: type[Meter] = PluginTimes
