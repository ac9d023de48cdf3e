"""How calls are shared among deployments of one priority: a file each."""

from collections.abc import Callable, Mapping
from typing import Final

from gatehook_plugins.route_models.loads import Loads
from gatehook_plugins.route_models.strategies.base import Strategy
from gatehook_plugins.route_models.strategies.least_busy import LeastBusy
from gatehook_plugins.route_models.strategies.lowest_cost import LowestCost
from gatehook_plugins.route_models.strategies.lowest_latency import LowestLatency
from gatehook_plugins.route_models.strategies.priority import Priority
from gatehook_plugins.route_models.strategies.round_robin import RoundRobin
from gatehook_plugins.route_models.strategies.weighted import Weighted

__all__ = ["STRATEGIES", "Strategy", "strategies"]

STRATEGIES: Final = ("priority", "weighted", "round_robin", "least_busy", "lowest_latency", "lowest_cost")
"""The names of all strategies."""


def strategies(loads: Loads, chance: Callable[[], float]) -> Mapping[str, Strategy]:
    """All of them, by name. `chance` gives numbers in [0, 1)."""
    made: tuple[Strategy, ...] = (
        Priority(),
        Weighted(chance),
        RoundRobin(),
        LeastBusy(loads),
        LowestLatency(loads),
        LowestCost(),
    )
    return dict(zip(STRATEGIES, made, strict=True))
