"""The strategy round_robin: one deployment after another."""

from collections.abc import Sequence

from gatehook import Call, Ranking, Target
from gatehook_plugins.route_models.tiers import Tier

__all__ = ["RoundRobin", "Turns"]


class Turns:
    """Whose turn it is in each tier, counted in this process.

    Counted by the tier's first deployment, so that an alias, or a change of the catalog, does not begin anew.
    """

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}

    def next(self, tier: Tier, among: int) -> int:
        """Whose turn it is, of so many."""
        first = tier.targets[0].key
        turn = self._turns.get(first, 0)
        self._turns[first] = turn + 1
        return turn % among


class RoundRobin:
    """Each deployment in turn, whatever its weight (0 still is the last resort)."""

    is_fixed = False
    is_measuring = False

    def __init__(self) -> None:
        self._turns = Turns()

    def order(self, tier: Tier, call: Call) -> Sequence[Target]:
        """From the next one on."""
        targets = tier.targets
        turn = self._turns.next(tier, len(targets))
        return Ranking(targets[turn], lambda: targets[turn + 1 :] + targets[:turn])
