"""The kernel's catalog: the deployments of the settings, and those that plugins add while it runs."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from gatehook.model import Target
from gatehook.services import Catalog

__all__ = ["LiveCatalog"]


class LiveCatalog:
    """Groups of deployments. A change replaces them all at once: who looks sees the old ones or the new."""

    def __init__(self, targets: Sequence[Target]) -> None:
        """`targets` are those of the settings; they come first in their groups, and always stay."""
        self._sources: dict[str, tuple[Target, ...]] = {"": tuple(targets)}
        self._changed: list[Callable[[], None]] = []
        self._groups: Mapping[str, Sequence[Target]] = {}
        self._regroup()

    def group(self, name: str) -> Sequence[Target]:
        """The deployments of one public name, () if there is none."""
        return self._groups.get(name, ())

    def groups(self) -> Mapping[str, Sequence[Target]]:
        """All groups, in the order of the settings."""
        return self._groups

    def feed(self, source: str, targets: Sequence[Target]) -> None:
        """Replace everything that `source` (a plugin's name) has added to the deployments of the settings."""
        if self._sources.get(source, ()) == tuple(targets):
            return
        self._sources[source] = tuple(targets)
        self._regroup()
        for changed in self._changed:
            changed()

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a group has changed."""
        self._changed.append(changed)

    def _regroup(self) -> None:
        groups: dict[str, list[Target]] = {}
        for target in itertools.chain(*self._sources.values()):
            groups.setdefault(target.name, []).append(target)
        self._groups = {name: tuple(group) for name, group in groups.items()}


_guard: type[Catalog] = LiveCatalog
