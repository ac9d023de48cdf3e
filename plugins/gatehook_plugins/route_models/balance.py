"""Which strategy and which weights hold: those of the settings, or what an administrator has set since."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gatehook import Balancing, Directory
from gatehook_plugins.route_models.strategies import STRATEGIES
from gatehook_plugins.route_models.weights import Weights, sound

__all__ = ["Balance"]

log: Final = logging.getLogger("gatehook.route_models")

_NAME: Final = "load-balancing"
"""Under which it is configured."""


class Balance:
    """What holds now."""

    def __init__(self, strategy: str) -> None:
        """`strategy` is that of the settings."""
        self._settled = strategy
        self._strategy = strategy
        self._weights = Weights({})
        self._unsound: tuple[str, ...] = ()
        self._changed: list[Callable[[], None]] = []

    @property
    def strategies(self) -> Sequence[str]:
        """The names of those there are."""
        return STRATEGIES

    @property
    def strategy(self) -> str:
        """The one that holds now."""
        return self._strategy

    @property
    def weights(self) -> Weights:
        """In place of those of the deployments."""
        return self._weights

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever another strategy or other weights hold."""
        self._changed.append(changed)

    def follow(self, directory: Directory) -> None:
        """Hold what is set there."""

        def changed(kind: str, id: str) -> None:
            if (kind, id) in (("", ""), ("config", _NAME)):
                self._hold(directory.config(_NAME)[0])

        directory.subscribe(changed)
        changed("", "")

    def _hold(self, value: Mapping[str, Any]) -> None:
        unsound: list[str] = []
        strategy = value.get("strategy")
        if strategy is not None and strategy not in STRATEGIES:
            unsound.append(f"strategy {strategy!r:.80} is not known here")
            strategy = None
        weights = sound(value.get("weights"), unsound)
        if tuple(unsound) != self._unsound:
            self._unsound = tuple(unsound)
            for what in unsound:
                log.error("of the load balancing that is configured, this is passed over: %s", what)
        held = (strategy or self._settled, weights)
        if held != (self._strategy, self._weights.values):
            self._strategy, self._weights = held[0], Weights(weights)
            log.info("calls are shared by strategy %s, weights %s", *held)
            for tell in self._changed:
                tell()


_guard: type[Balancing] = Balance
