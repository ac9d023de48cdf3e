"""The order in which deployments are tried.

What can be known before a call is worked out when the catalog changes: a model whose order holds no chance is answered
with the same tuple every time. Chance enters only where several deployments of one priority share the calls.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from gatehook import Call, Catalog, ModelNotFound, Router, Target

__all__ = ["ModelRouter"]

log: Final = logging.getLogger("gatehook.route_models")


@dataclass(frozen=True, slots=True)
class _Tier:
    """Deployments tried one after another: as they stand, or, with weights, in an order drawn anew for each call."""

    targets: tuple[Target, ...]
    weights: tuple[float, ...] | None = None

    def draw(self, chance: Callable[[], float]) -> Iterable[Target]:
        """The order of this call: weighted, without replacement."""
        if self.weights is None:
            return self.targets
        # A race of exponential clocks: the one that rings first is each target with the probability of its weight,
        # and so is the next among those left (Efraimidis and Spirakis, 2006).
        rings = [-math.log(1.0 - chance()) / weight for weight in self.weights]
        return [self.targets[place] for place in sorted(range(len(rings)), key=rings.__getitem__)]


class ModelRouter:
    """Routes by the catalog's groups."""

    def __init__(self, catalog: Catalog, chance: Callable[[], float]) -> None:
        """`chance` gives numbers in [0, 1)."""
        self._catalog = catalog
        self._chance = chance
        self._fixed: dict[str, tuple[Target, ...]] = {}
        self._drawn: dict[str, tuple[_Tier, ...]] = {}
        self._rebuild()
        catalog.subscribe(self._rebuild)

    async def route(self, call: Call) -> Sequence[Target] | None:
        """The deployments to try, best first, fallbacks after them; None for a name the catalog does not have.

        Raises:
            ModelNotFound: the catalog has it, but neither it nor a fallback of it can be called.
        """
        name = call.model
        if fixed := self._fixed.get(name):
            return fixed
        if tiers := self._drawn.get(name):
            chance = self._chance
            return [target for tier in tiers for target in tier.draw(chance)]
        if fixed is None:
            return None
        raise ModelNotFound(
            f"the model {name!r} is configured but not available: its deployment has no API key, or cannot be called "
            "for another reason that the gateway's log tells",
            param="model",
        )

    def _rebuild(self) -> None:
        fixed: dict[str, tuple[Target, ...]] = {}
        drawn: dict[str, tuple[_Tier, ...]] = {}
        for name, group in self._catalog.groups().items():
            tiers = _merge(tier for member in self._chain(name) for tier in _tiers(member))
            if len(tiers) == 1 and tiers[0].weights is None:
                fixed[name] = tiers[0].targets
            elif tiers:
                drawn[name] = tiers
            else:
                fixed[name] = ()
                reasons = "; ".join(f"{target.key}: {target.unavailable}" for target in group)
                log.debug("model %r cannot be called, and has no fallback that can: %s", name, reasons)
        # Assigned last and together: a call that comes between two changes sees one catalog, not half of each.
        self._fixed, self._drawn = fixed, drawn

    def _chain(self, name: str) -> Iterable[Sequence[Target]]:
        """The group of `name`, its fallbacks' groups, theirs, and so on in breadth; each group once."""
        names = [name]
        seen = {name}
        for current in names:  # grows while it is walked
            group = self._catalog.group(current)
            yield group
            for target in group:
                for fallback in target.fallbacks:
                    if fallback not in seen:
                        seen.add(fallback)
                        names.append(fallback)


def _tiers(group: Sequence[Target]) -> Iterable[_Tier]:
    """The deployments of one group that can be called, by rising priority."""
    callable_ = sorted((target for target in group if not target.unavailable), key=lambda target: target.priority)
    for _, members in groupby(callable_, key=lambda target: target.priority):
        tier = list(members)
        sharing = tuple(target for target in tier if target.weight > 0)
        if len(sharing) > 1:
            yield _Tier(sharing, tuple(target.weight for target in sharing))
        elif sharing:
            yield _Tier(sharing)
        if resort := tuple(target for target in tier if target.weight <= 0):
            yield _Tier(resort)


def _merge(tiers: Iterable[_Tier]) -> tuple[_Tier, ...]:
    """Neighbours without chance, joined."""
    merged: list[_Tier] = []
    for tier in tiers:
        if merged and tier.weights is None and merged[-1].weights is None:
            merged[-1] = _Tier(merged[-1].targets + tier.targets)
        else:
            merged.append(tier)
    return tuple(merged)


_guard: type[Router] = ModelRouter
