"""The strategy priority: always in the order of the settings."""

from collections.abc import Sequence

from gatehook import Call, Target
from gatehook_plugins.route_models.tiers import Tier

__all__ = ["Priority"]


class Priority:
    """Leaves the order as it is, so that the first that answers gets all calls."""

    is_fixed = True
    is_measuring = False

    def order(self, tier: Tier, call: Call) -> Sequence[Target]:
        """As they stand."""
        return tier.targets
