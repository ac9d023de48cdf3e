"""Configuration that an administrator changes while the gateway runs, as a plugin holds and follows it."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gatehook.services import Directory

__all__ = ["HeldConfig"]


class HeldConfig(ABC):
    """One value of the configuration at run time. A subclass says what it does with it."""

    def __init__(self, name: str, log: logging.Logger) -> None:
        """`name` is the directory's name for the value; to `log` goes what cannot be used of it."""
        self._name = name
        self._log = log
        self._unsound: tuple[str, ...] = ()
        self._changed: list[Callable[[], None]] = []

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the value that is in force has changed."""
        self._changed.append(changed)

    def follow(self, directory: Directory) -> None:
        """Hold the value that the directory has, now and whenever it changes."""

        def changed(kind: str, id: str) -> None:
            if (kind, id) in (("", ""), ("config", self._name)):
                self.hold(directory.config(self._name)[0])

        directory.subscribe(changed)
        changed("", "")

    @abstractmethod
    def hold(self, value: Mapping[str, Any]) -> None:
        """Take over the value that is set now; {} if none is."""

    def pass_over(self, unsound: Sequence[str]) -> None:
        """Log the parts of the value that are not used, once each time they change."""
        if tuple(unsound) != self._unsound:
            self._unsound = tuple(unsound)
            for what in unsound:
                self._log.error("of %s, as it is configured, this is passed over: %s", self._name, what)

    def tell(self) -> None:
        """Tell the subscribers that the value in force has changed."""
        for changed in self._changed:
            changed()
