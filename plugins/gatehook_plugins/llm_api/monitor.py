"""How the models do, told by the calls that went by: nothing is called only to see whether it answers.

Every process has its own view, of the calls that it served.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gatehook import Call, Catalog, Observer, Outcome, Target

__all__ = ["Health", "Monitor", "Vitals", "can_be_called"]

Health = Literal["healthy", "degraded", "unavailable"]

_KEPT: Final = 100
"""Calls remembered of each model."""
_WINDOW: Final = 300.0
"""Seconds after which they are forgotten."""
_DEGRADED: Final = 0.1
"""Share of failures from which on a model is not healthy."""
_ENOUGH: Final = 3
"""Failures, and nothing else, that make it unavailable."""
_VENDOR_FAILURES: Final = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class _Seen:
    """One call: when it ended (by the monitor's clock), its duration in seconds, and whether the vendor failed."""

    at: float
    duration: float
    failed: bool


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the last calls tell of one model; None where there were none."""

    health: Health
    error_rate: float | None = None
    """Share of calls that the vendor failed, from 0 to 1."""
    response_time: float | None = None
    """Mean duration, in seconds, of those it answered."""
    age: float | None = None
    """Seconds since the last one ended."""


class Monitor(Observer):
    """Keeps the last outcomes of each model by its public name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, deque[_Seen]] = {}
        self._catalog: Catalog | None = None

    def follow(self, catalog: Catalog) -> None:
        """Watch the models of this catalog."""
        self._catalog = catalog
        catalog.subscribe(self._forget)

    def finished(self, call: Call, outcome: Outcome) -> None:
        """Remember a call that tells something of the vendor."""
        failed = _vendor_failed(outcome)
        if failed is None or self._catalog is None:
            return
        name = self._catalog.canonical(call.model)
        if name not in self._catalog.groups():
            return
        seen = self._seen.setdefault(name, deque(maxlen=_KEPT))
        seen.append(_Seen(self._clock(), outcome.duration, failed))

    def vitals(self, name: str, group: Sequence[Target]) -> Vitals:
        """How the model `name`, whose deployments are `group`, does."""
        now = self._clock()
        name = name if self._catalog is None else self._catalog.canonical(name)
        seen = [one for one in self._seen.get(name, ()) if now - one.at <= _WINDOW]
        if not seen:
            return Vitals("healthy" if can_be_called(group) else "unavailable")
        answered = [one.duration for one in seen if not one.failed]
        error_rate = (len(seen) - len(answered)) / len(seen)
        health: Health = "healthy" if error_rate < _DEGRADED else "degraded"
        if not can_be_called(group) or (not answered and len(seen) >= _ENOUGH):
            health = "unavailable"
        return Vitals(
            health=health,
            error_rate=error_rate,
            response_time=sum(answered) / len(answered) if answered else None,
            age=now - seen[-1].at,
        )

    def _forget(self) -> None:
        """The catalog has changed: what is no model any more is not remembered either."""
        assert self._catalog is not None  # noqa: S101  # it is the one that calls
        self._seen = {name: seen for name, seen in self._seen.items() if name in self._catalog.groups()}


def can_be_called(group: Sequence[Target]) -> bool:
    """Whether one of these deployments can."""
    return any(not target.unavailable for target in group)


def _vendor_failed(outcome: Outcome) -> bool | None:
    """Whether the vendor failed; None if the outcome tells nothing of it: callers err, leave, and hit caches."""
    if outcome.status == "complete":
        return False
    if outcome.status == "failed" and outcome.http_status in _VENDOR_FAILURES:
        return True
    # A stream that broke: its status has long been sent, only the code tells why.
    broken = outcome.status == "partial" and outcome.code.startswith(("upstream_", "vendor_plugin_"))
    return True if broken else None
