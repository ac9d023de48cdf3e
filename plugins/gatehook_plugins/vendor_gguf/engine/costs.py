"""How many sequences to compute in one step. More is mostly faster, but some kernels are slow for a few."""

from collections import deque
from statistics import median
from typing import Final

__all__ = ["StepCosts"]

_SAMPLES: Final = 9
_WARMUP: Final = 2
"""Steps of a size that are not counted: the library sets itself up in them."""
_REST: Final = 64
"""After so many steps a size that is not the best is measured again: contexts grow, other processes come and go."""
_LOSS: Final = 0.02
"""The share of all time that may be lost by such measuring."""
_MARGIN: Final = 1.08
"""How much faster fewer sequences must be to be preferred: text comes more smoothly if all are computed together."""


class StepCosts:
    """Measures steps, and chooses by what was measured."""

    def __init__(self, sequences: int) -> None:
        """`sequences` is the most that a step can carry."""
        self._times: list[deque[float]] = [deque(maxlen=_SAMPLES) for _ in range(sequences + 1)]
        self._seen = [0] * (sequences + 1)
        self._measured = [(0, 0.0)] * (sequences + 1)
        """For each size, the step and the total seconds at which it was measured last."""
        self._steps = 0
        self._spent = 0.0

    def seconds(self, size: int) -> float | None:
        """Seconds of a step of that many sequences (the median of the last ones); None if none was measured."""
        return median(self._times[size]) if self._times[size] else None

    def record(self, size: int, seconds: float) -> None:
        """A step with a token for each of `size` sequences took so long."""
        self._steps += 1
        self._spent += seconds
        self._seen[size] += 1
        self._measured[size] = (self._steps, self._spent)
        if self._seen[size] > _WARMUP:
            self._times[size].append(seconds)

    def choose(self, running: int) -> int:
        """How many of `running` sequences should get a token in the next step."""
        if running <= 1:
            return running
        for size in (running, 1):  # all at once, and one at a time: both have to be known
            if len(self._times[size]) < _WARMUP:
                return size
        known = {size: self.seconds(size) for size in (running, 1, 2, 4, 8, 16, 32) if size <= running}
        rates = {size: size / seconds for size, seconds in known.items() if seconds}
        best = max(rates, key=rates.__getitem__)
        if rates[best] <= rates[running] * _MARGIN:
            best = running
        return next((size for size in rates if self._due(size, rates[best])), best)

    def _due(self, size: int, rate: float) -> bool:
        """Whether to measure a size again, where the best gives `rate` tokens per second."""
        step, spent = self._measured[size]
        lost = (self.seconds(size) or 0.0) - size / rate
        return self._steps - step > _REST and lost < (self._spent - spent) * _LOSS
