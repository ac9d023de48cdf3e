"""How fast deployments answer, kept so that a hundred of them are compared at once."""

import math
from collections.abc import Container, Sequence
from itertools import repeat
from typing import Final

__all__ = ["Latencies"]

_NEWEST: Final = 0.3
"""The weight of the newest answer in the moving average."""
_FAILED: Final = 2.0
"""The factor by which a deployment counts as slower after a failure."""
_UNPROVEN: Final = 10.0
"""Seconds that stand for the answer of a deployment that failed before anything was known of it."""
_SLOWEST: Final = 60.0
"""The most seconds for a deployment that fails again and again, so that its next answer still counts."""
_STALE: Final = 60.0
"""Seconds after which an average is out of date, and the deployment is tried out again."""
_REMEMBERED: Final = 10_000
"""Deployments whose averages are kept."""


class Latencies:
    """The moving average of each deployment's latencies, by its key; forgotten when it is out of date."""

    def __init__(self, running: Container[str]) -> None:
        """`running` holds the keys of those that have a request to answer."""
        self._running = running
        self._seconds: dict[str, float] = {}
        """The averages; infinite for a deployment that is just being tried out."""
        self._until: dict[str, float] = {}
        """When each average goes out of date, the soonest first."""

    def of(self, keys: Sequence[str], now: float) -> list[float]:
        """Seconds until each of these deployments answers: 0 for one that is to be tried out, inf while it is."""
        self._forget_old(now)
        return list(map(self._seconds.get, keys, repeat(0.0)))

    def began(self, key: str) -> None:
        """Note that a deployment has a request to answer."""
        self._seconds.setdefault(key, math.inf)

    def ended(self, key: str) -> None:
        """Note that a deployment has no request to answer any more."""
        if key not in self._until:
            self._seconds.pop(key, None)

    def answered(self, key: str, seconds: float, now: float) -> None:
        """Note that a deployment took so long for an answer."""
        self._forget_old(now)
        mean = self._seconds[key] if key in self._until else seconds
        self._seconds[key] = mean + _NEWEST * (seconds - mean)
        self._until.pop(key, None)
        self._until[key] = now + _STALE
        if len(self._until) > _REMEMBERED:
            self._forget(next(iter(self._until)))

    def failed(self, key: str, seconds: float, now: float) -> None:
        """Note that a deployment failed after so long."""
        self._forget_old(now)
        slower = min(_FAILED * self._seconds[key], _SLOWEST) if key in self._until else _UNPROVEN
        self.answered(key, max(seconds, slower), now)

    def _forget_old(self, now: float) -> None:
        until = self._until
        while until and until[oldest := next(iter(until))] < now:
            self._forget(oldest)

    def _forget(self, key: str) -> None:
        del self._until[key]
        if key in self._running:
            self._seconds[key] = math.inf
        else:
            del self._seconds[key]
