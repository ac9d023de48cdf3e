"""The strategy lowest_cost: the cheapest deployment for this request comes first."""

from collections.abc import Iterable, Sequence

from gatehook import Call, Ranking, Target, estimate
from gatehook_plugins.route_models.strategies.round_robin import Turns
from gatehook_plugins.route_models.tiers import Tier

__all__ = ["LowestCost"]


class LowestCost:
    """Orders by what this request is expected to cost; an unknown price counts as the highest, equals take turns."""

    is_fixed = False
    is_measuring = False

    def __init__(self) -> None:
        self._turns = Turns()

    def order(self, tier: Tier, call: Call) -> Sequence[Target]:
        """By rising cost."""
        need = call.size or estimate(call, tier.targets)
        ratio = need.completion / max(need.prompt, 1)
        places = tier.cheapest.at(ratio)
        place = places[self._turns.next(tier, len(places))] if len(places) > 1 else places[0]
        return Ranking(tier.targets[place], lambda: _others(tier, place, ratio))


def _others(tier: Tier, first: int, ratio: float) -> Iterable[Target]:
    """All but the one at this place, by rising cost; of equals those that come after it, then those before."""
    costs = [into + out * ratio for into, out in tier.prices]
    return map(tier.targets.__getitem__, sorted(range(first + 1 - len(costs), first), key=costs.__getitem__))
