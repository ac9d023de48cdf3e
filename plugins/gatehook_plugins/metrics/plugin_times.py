"""What each plugin costs: counted for every call of one of its methods, where the operator wants to know."""

from collections.abc import Callable
from typing import Final

from gatehook import Meter
from gatehook_plugins.metrics.numbers import Numbers

__all__ = ["PLUGINS", "PluginTimes"]

PLUGINS: Final = "plugins"
"""Labels: plugin, method. Cells: calls, seconds, busy seconds, errors."""


class PluginTimes:
    """Implements `gatehook.Meter`. `numbers` gives those to count in, which are replaced when workers share theirs."""

    def __init__(self, numbers: Callable[[], Numbers]) -> None:
        self._numbers = numbers

    def add(self, plugin: str, method: str, seconds: float, busy: float, *, failed: bool) -> None:
        """See `Meter`."""
        self._numbers().add((PLUGINS, plugin, method), (1, seconds, busy, failed))


_implements: type[Meter] = PluginTimes
