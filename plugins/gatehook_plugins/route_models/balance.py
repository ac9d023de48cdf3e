"""The strategy and the weights that hold now: those of the settings, or what an administrator has set since."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatehook import Balancing, HeldConfig
from gatehook_plugins.route_models.strategies import STRATEGIES
from gatehook_plugins.route_models.weights import Weights, sound

__all__ = ["Balance"]

log: Final = logging.getLogger("gatehook.route_models")


class Balance(HeldConfig):
    """Implements `gatehook.Balancing`."""

    def __init__(self, strategy: str) -> None:
        """`strategy` is that of the settings."""
        super().__init__("load-balancing", log)
        self._settled = strategy
        self._strategy = strategy
        self._weights = Weights({})

    @property
    def strategies(self) -> Sequence[str]:
        """The names of all strategies."""
        return STRATEGIES

    @property
    def strategy(self) -> str:
        """The one that holds now."""
        return self._strategy

    @property
    def weights(self) -> Weights:
        """The weights that an administrator has set, in place of those of the deployments."""
        return self._weights

    def hold(self, value: Mapping[str, Any]) -> None:
        """Take over what an administrator has set, and what the settings say of all that is not set."""
        unsound: list[str] = []
        strategy = value.get("strategy")
        if strategy is not None and strategy not in STRATEGIES:
            unsound.append(f"strategy {strategy!r:.80} is not known here")
            strategy = None
        weights = sound(value.get("weights"), unsound)
        self.pass_over(unsound)
        held = (strategy or self._settled, weights)
        if held != (self._strategy, self._weights.values):
            self._strategy, self._weights = held[0], Weights(weights)
            log.info("calls are shared by strategy %s, weights %s", *held)
            self.tell()


_implements: type[Balancing] = Balance
