"""What all strategies have in common."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from gatehook import Call, Ranking, Target
from gatehook_plugins.route_models.tiers import Tier

__all__ = ["Strategy", "by_score"]


class Strategy(Protocol):
    """Puts deployments of one priority into order."""

    @property
    def is_fixed(self) -> bool:
        """Whether the order of a tier is always the same."""
        ...

    @property
    def is_measuring(self) -> bool:
        """Whether it goes by what is measured of each attempt."""
        ...

    def order(self, tier: Tier, call: Call) -> Sequence[Target]:
        """All deployments of the tier, of which there are two or more, the best first."""
        ...


def by_score(targets: Sequence[Target], scores: Sequence[float]) -> Ranking:
    """The targets by rising score; those of one score as they stand."""

    def others() -> Iterable[Target]:
        return map(targets.__getitem__, sorted(range(len(scores)), key=scores.__getitem__)[1:])

    return Ranking(targets[scores.index(min(scores))], others)
