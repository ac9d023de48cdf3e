"""Deployments of one model and one priority, which a strategy puts into order."""

import math
import sys
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from typing import Final

from gatehook import Group, Target
from gatehook_plugins.route_models.prices import Cheapest, Price
from gatehook_plugins.route_models.weights import Weights

__all__ = ["Tier", "tiers"]

_DEAREST: Final = math.ldexp(1.0, 200)
"""More than anything costs."""


class Tier:
    """Deployments that share calls."""

    __slots__ = ("cheapest", "keys", "prices", "sums", "targets", "weights")

    def __init__(self, targets: Sequence[Target], weights: Sequence[float]) -> None:
        """`weights`, one for each target, are positive and finite."""
        self.targets = Group(targets)
        self.keys = tuple(target.key for target in targets)
        most = max(weights, default=1.0)
        # Scaled, so that no sum of them overflows, and none is 0.
        self.weights = tuple(max(weight / most, sys.float_info.min) for weight in weights)
        self.sums = tuple(accumulate(self.weights))
        """Cumulative weights."""
        self.prices = tuple(map(_prices, self.targets))
        self.cheapest = Cheapest(self.prices)


def tiers(group: Sequence[Target], weights: Weights, name: str) -> Iterable[Tier]:
    """The deployments of one model that can be called, by rising priority.

    What weighs nothing comes after all others of its priority, one by one. `name` is the model's, under which weights
    are set.
    """
    callable_ = sorted((target for target in group if not target.unavailable), key=_priority)
    for _, members in groupby(callable_, key=_priority):
        tier = list(members)
        weighed = list(zip(tier, weights.of(tier, name), strict=True))
        if sharing := [one for one in weighed if one[1] > 0]:
            yield Tier(*zip(*sharing, strict=True))
        yield from (Tier([target], [1.0]) for target, weight in weighed if weight <= 0)


def _priority(target: Target) -> int:
    return target.priority


def _prices(target: Target) -> Price:
    pricing = target.pricing
    return (_DEAREST, _DEAREST) if pricing is None else (float(pricing.input), float(pricing.output))
