"""The thresholds that hold now: those of the settings, or what an administrator has set since."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from gatehook import HeldConfig
from gatehook_plugins.cooldown.condition import Rules

__all__ = ["Thresholds"]

log: Final = logging.getLogger("gatehook.cooldown")

_HIGHEST: Final = 10_000
"""The highest threshold; as in the settings."""
_LONGEST: Final = 86_400
"""The longest interval between two checks, in seconds; as in the settings."""


class Thresholds(HeldConfig):
    """The rules by which conditions change, and how often deployments are checked."""

    def __init__(self, rules: Rules, health_check_interval: float) -> None:
        """Args: what the settings say; `health_check_interval` is in seconds, 0 for no checks."""
        super().__init__("load-balancing", log)
        self._settled = self._rules = rules
        self._settled_interval = self._interval = health_check_interval

    @property
    def rules(self) -> Rules:
        """Those that hold."""
        return self._rules

    @property
    def health_check_interval(self) -> float:
        """Seconds between two checks of a deployment; 0 for none."""
        return self._interval

    def hold(self, value: Mapping[str, Any]) -> None:
        """Take over what an administrator has set, and what the settings say of all that is not set."""
        unsound: list[str] = []

        def told(name: str, settled: float, *, least: float, most: float) -> float:
            number = value.get(name)
            if number is None:
                return settled
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if not is_number or not least <= number <= most:  # NaN is not
                unsound.append(f"{name} {number!r:.80} must be a number from {least} to {most}")
                return settled
            return float(number)

        rules = Rules(
            int(told("failure_threshold", self._settled.failure_threshold, least=1, most=_HIGHEST)),
            int(told("recovery_threshold", self._settled.recovery_threshold, least=1, most=_HIGHEST)),
            self._settled.rest,
            self._settled.longest_rest,
        )
        interval = told("health_check_interval", self._settled_interval, least=0, most=_LONGEST)
        self.pass_over(unsound)
        if (rules, interval) != (self._rules, self._interval):
            self._rules, self._interval = rules, interval
            self.tell()
