"""What this process sees of each deployment: how many requests it has running there, and how fast it answers."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from typing import Final, TypeAlias

from gatehook import AttemptLimiter, Busy, Call, Limiter, Outcome, Permit, Target

__all__ = ["Loads"]

_NEWEST: Final = 0.3
"""What the newest answer counts in the mean, against all before it."""
_FAILED: Final = 2.0
"""By how much a deployment counts as slower after a failure."""
_UNPROVEN: Final = 10.0
"""Seconds that stand for an answer of one that failed before anything was known of it."""
_SLOWEST: Final = 60.0
"""The same of one that fails on and on: once it answers again, that must count."""
_STALE: Final = 60.0
"""Seconds after which nobody knows how fast a deployment is now."""
_REMEMBERED: Final = 10_000
"""Deployments."""

Means: TypeAlias = dict[str, tuple[float, float]]
"""Seconds, and until when that is known, by the keys of deployments."""


class Loads:
    """Watches attempts, as long as `is_measuring` says so. Admits all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self.is_measuring = False
        self.running: Counter[str] = Counter()
        """Attempts by the keys of their deployments."""
        self.vendors: Callable[[], Mapping[str, object]] = dict
        """Gives the vendors by name, once all are there."""
        self._clock = clock
        self._plain: Means = {}
        self._streamed: Means = {}

    def admit(self, call: Call) -> None:
        """Nothing to say before a deployment is chosen."""

    def admit_attempt(self, call: Call, target: Target) -> Permit | None:
        """Begin to measure."""
        if not self.is_measuring:
            return None
        self.running[target.key] += 1
        return _Running(self, call, target.key, self._clock())

    def ended(self, call: Call, key: str, began: float, outcome: Outcome) -> None:
        """An attempt is over, one way or the other."""
        self.running[key] -= 1
        if not self.running[key]:
            del self.running[key]
        now, means = self._clock(), self._streamed if call.stream else self._plain
        if outcome.status in ("complete", "partial"):
            # The call's clock is the monotonic one too: what came first came from the attempt that answered.
            first = call.first_token if call.stream else None
            _learn(means, key, max(0.0, (now if first is None else first) - began), now)
        elif outcome.http_status >= 500 or outcome.http_status == 429:
            slower = min(_FAILED * means[key][0], _SLOWEST) if key in means else _UNPROVEN
            _learn(means, key, max(now - began, slower), now)

    def busy(self, targets: Sequence[Target], keys: Sequence[str]) -> list[int]:
        """How many requests each of these deployments has to do: of this process, and of others where that is known.

        `keys` are theirs.
        """
        mine = list(map(self.running.get, keys, repeat(0)))
        if not self._waiting:
            return mine
        told = [self._waiting[target.vendor](target) if target.vendor in self._waiting else 0 for target in targets]
        return list(map(max, mine, told))

    @cached_property
    def _waiting(self) -> Mapping[str, Callable[[Target], int]]:
        """By name of the vendor: how to ask it, of those that know."""
        return {name: vendor.waiting for name, vendor in self.vendors().items() if isinstance(vendor, Busy)}

    def latencies(self, keys: Sequence[str], *, stream: bool) -> list[float]:
        """Seconds until each of these deployments answers: 0 for one that is to be tried out, inf while it is."""
        now, running, known = self._clock(), self.running, (self._streamed if stream else self._plain).get
        return [
            mean[0] if (mean := known(key)) is not None and mean[1] >= now else math.inf if key in running else 0.0
            for key in keys
        ]


def _learn(means: Means, key: str, seconds: float, now: float) -> None:
    known = means.pop(key, None)
    mean = seconds if known is None or known[1] < now else known[0] + _NEWEST * (seconds - known[0])
    means[key] = (mean, now + _STALE)
    if len(means) > _REMEMBERED:
        del means[next(iter(means))]


class _Running:
    """One attempt."""

    __slots__ = ("_began", "_call", "_key", "_loads")

    def __init__(self, loads: Loads, call: Call, key: str, began: float) -> None:
        self._loads, self._call, self._key, self._began = loads, call, key, began

    def settle(self, outcome: Outcome) -> None:
        """It is over."""
        self._loads.ended(self._call, self._key, self._began, outcome)


_guards: tuple[type[Limiter], type[AttemptLimiter], type[Permit]] = (Loads, Loads, _Running)
