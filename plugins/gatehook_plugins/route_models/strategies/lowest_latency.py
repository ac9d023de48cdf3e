"""The strategy lowest_latency: the deployment that has answered fastest comes first."""

from collections.abc import Sequence

from gatehook import Call, Target
from gatehook_plugins.route_models.loads import Loads
from gatehook_plugins.route_models.strategies.base import by_score
from gatehook_plugins.route_models.tiers import Tier

__all__ = ["LowestLatency"]


class LowestLatency:
    """Orders by the mean time to the first token for streams, and to the whole answer for plain calls.

    A deployment of which nothing is known, or nothing recent, is tried first, by one call at a time.
    """

    is_fixed = False
    is_measuring = True

    def __init__(self, loads: Loads) -> None:
        self._loads = loads

    def order(self, tier: Tier, call: Call) -> Sequence[Target]:
        """By rising latency."""
        return by_score(tier.targets, self._loads.latencies(tier.keys, stream=call.stream))
