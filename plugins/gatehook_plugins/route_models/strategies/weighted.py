"""The strategy weighted: by chance, in proportion to the weights."""

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from gatehook import Call, Ranking, Target
from gatehook_plugins.route_models.tiers import Tier

__all__ = ["Weighted"]

_DRAWN: Final = 3
"""Places in the order that are drawn; hardly any call gets beyond them."""


class Weighted:
    """Draws the first places without replacement, the others follow as they stand."""

    is_fixed = False
    is_measuring = False

    def __init__(self, chance: Callable[[], float]) -> None:
        """`chance` gives numbers in [0, 1)."""
        self._chance = chance

    def order(self, tier: Tier, call: Call) -> Sequence[Target]:
        """A new order for each call."""
        place = self._draw(tier.sums)
        return Ranking(tier.targets[place], lambda: self._others(tier, place))

    def _others(self, tier: Tier, place: int) -> Sequence[Target]:
        """All but the one at this place, which was drawn first."""
        rest, weights = list(tier.targets), list(tier.weights)
        drawn = [rest.pop(place)]
        while len(rest) > 1 and len(drawn) < _DRAWN:
            del weights[place]
            place = self._draw(list(accumulate(weights)))
            drawn.append(rest.pop(place))
        return drawn[1:] + rest

    def _draw(self, sums: Sequence[float]) -> int:
        # Rounding can bring the product up to the sum itself.
        return min(bisect(sums, self._chance() * sums[-1]), len(sums) - 1)
