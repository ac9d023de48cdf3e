"""What an administrator has set while the gateway runs, held by a plugin: followed, and told where it is unsound."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gatehook.services import Directory

__all__ = ["HeldConfig"]


class HeldConfig(ABC):
    """One value of the configuration at run time. Who derives from it says what becomes of it."""

    def __init__(self, name: str, log: logging.Logger) -> None:
        """`name` is that under which it is configured; `log` is told what is unsound."""
        self._name = name
        self._log = log
        self._unsound: tuple[str, ...] = ()
        self._changed: list[Callable[[], None]] = []

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever something else holds."""
        self._changed.append(changed)

    def follow(self, directory: Directory) -> None:
        """Hold what is set there, now and whenever it changes."""

        def changed(kind: str, id: str) -> None:
            if (kind, id) in (("", ""), ("config", self._name)):
                self.hold(directory.config(self._name)[0])

        directory.subscribe(changed)
        changed("", "")

    @abstractmethod
    def hold(self, value: Mapping[str, Any]) -> None:
        """Take what is set now; {} if nothing is."""

    def pass_over(self, unsound: Sequence[str]) -> None:
        """Tell what is not held of the value, once."""
        if tuple(unsound) != self._unsound:
            self._unsound = tuple(unsound)
            for what in unsound:
                self._log.error("of %s, as it is configured, this is passed over: %s", self._name, what)

    def tell(self) -> None:
        """Tell who has subscribed that something else holds."""
        for changed in self._changed:
            changed()
