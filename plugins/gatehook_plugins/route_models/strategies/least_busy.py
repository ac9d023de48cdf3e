"""The strategy least_busy: the deployment with the fewest requests to answer comes first."""

from collections.abc import Sequence

from gatehook import Call, Target
from gatehook_plugins.route_models.loads import Loads
from gatehook_plugins.route_models.strategies.base import by_score
from gatehook_plugins.route_models.strategies.round_robin import Turns
from gatehook_plugins.route_models.tiers import Tier

__all__ = ["LeastBusy"]


class LeastBusy:
    """Orders by how many requests each deployment has to answer, as far as is known; equals take turns."""

    is_fixed = False
    is_measuring = True

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._turns = Turns()

    def order(self, tier: Tier, call: Call) -> Sequence[Target]:
        """By rising load."""
        turn = self._turns.next(tier, len(tier.keys))
        targets, keys = tier.targets[turn:] + tier.targets[:turn], tier.keys[turn:] + tier.keys[:turn]
        return by_score(targets, self._loads.busy(targets, keys))
