"""What holds now: the settings, or what an administrator has set since."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from gatehook import Directory
from gatehook_plugins.cooldown.condition import Rules

__all__ = ["Thresholds"]

log: Final = logging.getLogger("gatehook.cooldown")

_NAME: Final = "load-balancing"
"""Under which it is configured."""
_MOST: Final = 10_000


class Thresholds:
    """The rules by which conditions change, and how often deployments are checked."""

    def __init__(self, rules: Rules, health_check_interval: float) -> None:
        """Those of the settings; the interval is in seconds, 0 for no checks."""
        self._settled = self._rules = rules
        self._settled_interval = self._interval = health_check_interval
        self._unsound: tuple[str, ...] = ()
        self._changed: list[Callable[[], None]] = []

    @property
    def rules(self) -> Rules:
        """Those that hold."""
        return self._rules

    @property
    def health_check_interval(self) -> float:
        """Seconds between two checks of a deployment; 0 for none."""
        return self._interval

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever something else holds."""
        self._changed.append(changed)

    def follow(self, directory: Directory) -> None:
        """Hold what is set there."""

        def changed(kind: str, id: str) -> None:
            if (kind, id) in (("", ""), ("config", _NAME)):
                self._hold(directory.config(_NAME)[0])

        directory.subscribe(changed)
        changed("", "")

    def _hold(self, value: Mapping[str, Any]) -> None:
        unsound: list[str] = []

        def told(name: str, settled: float, *, least: float) -> float:
            number = value.get(name)
            if number is None:
                return settled
            if isinstance(number, bool) or not isinstance(number, int | float) or number < least:
                unsound.append(f"{name} {number!r:.80} must be a number from {least:g} on")
                return settled
            return number

        rules = Rules(
            int(min(told("failure_threshold", self._settled.failure_threshold, least=1), _MOST)),
            int(min(told("recovery_threshold", self._settled.recovery_threshold, least=1), _MOST)),
            self._settled.rest,
            self._settled.longest_rest,
        )
        interval = told("health_check_interval", self._settled_interval, least=0)
        if tuple(unsound) != self._unsound:
            self._unsound = tuple(unsound)
            for what in unsound:
                log.error("of the load balancing that is configured, this is passed over: %s", what)
        if (rules, interval) != (self._rules, self._interval):
            self._rules, self._interval = rules, interval
            for tell in self._changed:
                tell()
