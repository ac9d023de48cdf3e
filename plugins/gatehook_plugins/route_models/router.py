"""The order in which deployments are tried.

What can be known before a call is worked out when something changes: a model whose order is always the same is answered
with the same tuple every time. A strategy is asked only where several deployments of one priority share the calls.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from gatehook import Call, Catalog, DeploymentHealth, Group, ModelNotFound, Ranking, Router, Target, Unavailable
from gatehook_plugins.route_models.affinity import Affinity
from gatehook_plugins.route_models.balance import Balance
from gatehook_plugins.route_models.loads import Loads
from gatehook_plugins.route_models.strategies import Strategy
from gatehook_plugins.route_models.tiers import Tier, tiers

__all__ = ["ModelRouter"]

log: Final = logging.getLogger("gatehook.route_models")

_UNLISTED: Final = 1_000
"""Names served by wildcards whose plans are kept."""

Plan = tuple[Tier, ...]


class ModelRouter:
    """Implements `gatehook.Router` over the catalog's groups, by the strategy and weights of the balance."""

    def __init__(
        self,
        catalog: Catalog,
        balance: Balance,
        strategies: Mapping[str, Strategy],
        loads: Loads,
        *,
        affinity: Affinity | None = None,
        health: DeploymentHealth | None = None,
    ) -> None:
        """`loads` measures for those of the `strategies` that need it; `health` tells which deployments rest."""
        self._catalog = catalog
        self._balance = balance
        self._strategies = strategies
        self._loads = loads
        self._affinity = affinity
        self._health = health
        self._strategy = strategies[balance.strategy]
        self._fixed: dict[str, Group] = {}
        self._shared: dict[str, Plan] = {}
        self._unlisted: dict[str, Plan] = {}
        self._rebuild()
        catalog.subscribe(self._rebuild)
        balance.subscribe(self._rebuild)

    def route(self, call: Call) -> Sequence[Target] | None:
        """The deployments to try, best first, fallbacks after them; None for a name the catalog does not have.

        Raises:
            Unavailable: an administrator has switched the model off, and it has no fallback that can be called.
            ModelNotFound: the catalog has it, but neither it nor a fallback of it can be called.
        """
        name = call.model
        targets: Sequence[Target] = self._fixed.get(name, ())
        if not targets and (plan := self._shared.get(name) or self._plan_of_unlisted(name)):
            targets = self._order(plan, call)
        if targets and call.operation == "embeddings":
            targets = self._comparable(name, targets)
        if targets:
            return targets
        if not (group := self._catalog.group(name)):
            return None
        if any(target.switched_off for target in group):
            message = f"the model {name!r} is switched off by an administrator"
            raise Unavailable(message, code="model_disabled", final=True)
        raise ModelNotFound(
            f"the model {name!r} is configured but not available: its deployment has no API key, or cannot be called "
            "for another reason that the gateway's log tells",
            param="model",
        )

    def _comparable(self, name: str, targets: Sequence[Target]) -> Sequence[Target]:
        """The targets whose vectors can be compared with those of the model that was asked for: the same model's."""
        models = {target.model for target in self._catalog.group(name)}
        return [target for target in targets if target.model in models]

    def _order(self, plan: Plan, call: Call) -> Sequence[Target]:
        session = None if self._affinity is None else self._affinity.session(call)
        best = self._order_tier(plan[0], call, session)
        if len(plan) == 1:
            return best

        def others() -> Iterable[Target]:
            yield from best[1:]
            for tier in plan[1:]:
                yield from self._order_tier(tier, call, session)

        return Ranking(best[0], others)

    def _order_tier(self, tier: Tier, call: Call, session: bytes | None) -> Sequence[Target]:
        if len(tier.targets) == 1:
            return tier.targets
        if session is not None and self._affinity is not None:
            order = self._affinity.order(tier, session)
        else:
            order = self._strategy.order(tier, call)
        return self._resting_last(order) if self._health is not None and self._rests(order[0]) else order

    def _resting_last(self, order: Sequence[Target]) -> Sequence[Target]:
        """The order with deployments that rest after those that do not."""
        if (awake := next((target for target in order if not self._rests(target)), None)) is None:
            return order
        return Ranking(awake, lambda: (target for target in sorted(order, key=self._rests) if target is not awake))

    def _rests(self, target: Target) -> bool:
        return self._health is not None and self._health.of(target).state == "unavailable"

    def _rebuild(self) -> None:
        fixed: dict[str, Group] = {}
        shared: dict[str, Plan] = {}
        strategy = self._strategies[self._balance.strategy]
        is_fixed = strategy.is_fixed and self._affinity is None and self._health is None
        for name in self._catalog.groups():
            plan = self._plan(name)
            if is_fixed or all(len(tier.targets) == 1 for tier in plan):
                fixed[name] = Group(target for tier in plan for target in tier.targets)
            else:
                shared[name] = plan
        if self._affinity is not None:
            self._affinity.forget()
        self._loads.is_measuring = strategy.is_measuring
        # Assigned last and together: a call that comes between two changes sees one catalog, not half of each.
        self._strategy, self._fixed, self._shared, self._unlisted = strategy, fixed, shared, {}

    def _plan_of_unlisted(self, name: str) -> Plan:
        """The plan of a name that a wildcard serves; () if none does, or nothing of it can be called."""
        plan = self._unlisted.get(name)
        if plan is None and name not in self._fixed and self._catalog.group(name):
            plan = self._unlisted[name] = self._plan(name)
            if len(self._unlisted) > _UNLISTED:
                del self._unlisted[next(iter(self._unlisted))]
        return plan or ()

    def _plan(self, name: str) -> Plan:
        weights, group = self._balance.weights, self._catalog.group(name)
        plan: Plan = ()
        for member in self._chain(name):
            # Weights are set for what is configured: what a wildcard serves has those of the wildcard.
            plan += tuple(tiers(member, weights, self._catalog.canonical(member[0].name)))
        if group and not plan:
            reasons = "; ".join(f"{target.key}: {target.unavailable}" for target in group)
            log.debug("model %r cannot be called, and has no fallback that can: %s", name, reasons)
        return plan

    def _chain(self, name: str) -> Iterable[Sequence[Target]]:
        """The group of `name`, its fallbacks' groups, theirs, and so on in breadth; each group once."""
        names = [name]
        seen: set[str] = set()
        for current in names:  # grows while it is walked
            group = self._catalog.group(current)
            if not group or group[0].name in seen:  # an alias has the deployments of its model
                continue
            seen.add(group[0].name)
            yield group
            names += [fallback for target in group for fallback in target.fallbacks]


_implements: type[Router] = ModelRouter
