"""Weights that an administrator has set, in place of those of the deployments."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatehook import Target

__all__ = ["Weights", "sound"]

log: Final = logging.getLogger("gatehook.route_models")

_MOST_TOLD: Final = 100
"""Models whose weights are reported in the log; wildcards serve many."""
_HEAVIEST: Final = math.ldexp(1.0, 1000)


class Weights:
    """Numbers from 0 on, by the keys of deployments or the names of models."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = values
        self._told: set[tuple[str, int]] = set()

    def of(self, tier: Sequence[Target], name: str) -> Sequence[float]:
        """The weights of deployments of one model and priority. If those set leave nobody, their own hold.

        `name` is what the model, or the wildcard, is configured under.
        """
        own = [target.weight for target in tier]
        values = self.values
        if not values:
            return own
        found = [values.get(target.key, values.get(name, target.weight)) for target in tier]
        if any(found) or found == own:
            return found
        self._tell(name, tier[0].priority)
        return own

    def _tell(self, name: str, priority: int) -> None:
        if (name, priority) not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add((name, priority))
            log.error("the weights set for %r at priority %d sum to zero; those of its tables hold", name, priority)


def sound(weights: Any, unsound: list[str]) -> Mapping[str, float]:
    """The weights that are valid; what is wrong with the others is added to `unsound`."""
    if weights is None:
        return {}
    if not isinstance(weights, Mapping):
        unsound.append("weights are no object")
        return {}
    good: dict[str, float] = {}
    for name, weight in weights.items():
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if is_number and 0 <= weight <= _HEAVIEST:  # NaN is not
            good[name] = float(weight)
        elif weight is not None:
            unsound.append(f"the weight of {name!r:.80} is no number from 0 on")
    return good
