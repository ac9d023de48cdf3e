"""The one that has answered fastest."""

from collections.abc import Sequence

from gatehook import Call, Target
from gatehook_plugins.route_models.loads import Loads
from gatehook_plugins.route_models.strategies.base import by_score
from gatehook_plugins.route_models.tiers import Tier

__all__ = ["LowestLatency"]


class LowestLatency:
    """By the mean time to the first token of streams, or of whole plain calls.

    A deployment that nothing is known of, or not of late, is tried first, by one call at a time.
    """

    is_fixed = False
    is_measuring = True

    def __init__(self, loads: Loads) -> None:
        self._loads = loads

    def order(self, tier: Tier, call: Call) -> Sequence[Target]:
        """By rising latency."""
        return by_score(tier.targets, self._loads.latencies(tier.keys, stream=call.stream))
