"""The one that costs least."""

from collections.abc import Sequence

from gatehook import Call, Target, estimate
from gatehook_plugins.route_models.strategies.base import by_score
from gatehook_plugins.route_models.strategies.round_robin import Turns
from gatehook_plugins.route_models.tiers import Tier

__all__ = ["LowestCost"]


class LowestCost:
    """By what this request is expected to cost; an unknown price counts as the highest, equals take turns."""

    is_fixed = False
    is_measuring = False

    def __init__(self) -> None:
        self._turns = Turns()

    def order(self, tier: Tier, call: Call) -> Sequence[Target]:
        """By rising cost."""
        need = estimate(call, tier.targets)
        turn = self._turns.next(tier) if tier.has_equal_prices else 0
        targets, prices = tier.targets[turn:] + tier.targets[:turn], tier.prices[turn:] + tier.prices[:turn]
        ratio = need.completion / max(need.prompt, 1)
        return by_score(targets, [into + out * ratio for into, out in prices])
