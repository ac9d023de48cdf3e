"""How many sequences a step should carry. More is mostly faster, but not always: some kernels are slow for a few."""

from collections import deque
from statistics import median
from typing import Final

__all__ = ["StepCosts"]

_SAMPLES: Final = 9
_WARMUP: Final = 2
"""Steps of a size that are not counted: the library sets itself up in them."""
_EXPLORE: Final = 128
"""After so many decisions the size measured longest ago is measured again: contexts grow, neighbours come."""
_MARGIN: Final = 1.08
"""How much faster fewer sequences must be: all together is smoother for those who read."""


class StepCosts:
    """Measures steps, and chooses by what was measured."""

    def __init__(self, sequences: int) -> None:
        """`sequences` is the most that a step can carry."""
        self._times: list[deque[float]] = [deque(maxlen=_SAMPLES) for _ in range(sequences + 1)]
        self._seen = [0] * (sequences + 1)
        self._measured = [0] * (sequences + 1)
        self._decisions = 0

    def seconds(self, size: int) -> float | None:
        """What a step of that many sequences takes; None as long as that is not known."""
        return median(self._times[size]) if self._times[size] else None

    def record(self, size: int, seconds: float) -> None:
        """A step with a token for each of `size` sequences took so long."""
        self._seen[size] += 1
        self._measured[size] = self._decisions
        if self._seen[size] > _WARMUP:
            self._times[size].append(seconds)

    def choose(self, running: int) -> int:
        """How many of the sequences that want a token should have one in the next step."""
        if running < 2:
            return running
        self._decisions += 1
        sizes = [running, *(size for size in (1, 2, 4, 8, 16, 32) if size < running)]
        for size in sizes[:2]:  # all at once, and one at a time: both have to be known
            if len(self._times[size]) < _WARMUP:
                return size
        if self._decisions % _EXPLORE == 0:
            return min(sizes, key=self._measured.__getitem__)
        rates = {size: size / seconds for size in sizes if (seconds := self.seconds(size))}
        best = max(rates, key=rates.__getitem__)
        return best if rates[best] > rates[running] * _MARGIN else running
