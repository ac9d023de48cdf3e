"""The kernel's catalog: the deployments of the settings, and those that plugins add while it runs."""

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from gatehook.groups import Group
from gatehook.model import Target
from gatehook.names import Names, is_pattern
from gatehook.services import Catalog

__all__ = ["LiveCatalog"]

log: Final = logging.getLogger("gatehook.catalog")

_EXPANSIONS: Final = 1_000
"""Names served by wildcards whose groups are kept, at most: clients make them up, and must not fill the memory."""
_NOBODY: Final = Group()


class LiveCatalog:
    """Groups of deployments. A change replaces all of them at once: a reader sees the old ones or the new ones."""

    def __init__(self, targets: Sequence[Target]) -> None:
        """`targets` are those of the settings; they come first in their groups, and always stay."""
        self._sources: dict[str, tuple[Target, ...]] = {"": tuple(targets)}
        self._amendments: dict[str, Callable[[Target], Target]] = {}
        self._changed: list[Callable[[], None]] = []
        self._names = Names({})
        self._groups: dict[str, Group] = {}
        self._callable: dict[str, Group] = {}
        """The groups without the wildcards' own, which nobody can ask for."""
        self._expansions: OrderedDict[str, Group] = OrderedDict()
        self._regroup(self._sources, self._amendments, known=True)

    def group(self, name: str) -> Group:
        """The deployments that answer for one name, () if there is none."""
        found = self._callable.get(name)
        return self._expanded(name) if found is None else found

    def groups(self) -> Mapping[str, Group]:
        """All models, in the order of the settings, wildcards among them; then all aliases."""
        return self._groups

    def canonical(self, name: str) -> str:
        """The name of the model, or the wildcard, that answers for `name`; `name` itself if nobody does."""
        return self._names.find(name) or name

    def feed(self, source: str, targets: Sequence[Target]) -> None:
        """Replace everything that `source` (a plugin's name) has added to the deployments of the settings."""
        if self._sources.get(source, ()) != tuple(targets):
            self._regroup({**self._sources, source: tuple(targets)}, self._amendments)

    def amend(self, source: str, amended: Callable[[Target], Target]) -> None:
        """Have every deployment pass through `amended`, in place of the function that `source` gave before."""
        self._regroup(self._sources, {**self._amendments, source: amended})

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a group has changed."""
        self._changed.append(changed)

    def _regroup(
        self,
        sources: dict[str, tuple[Target, ...]],
        amendments: dict[str, Callable[[Target], Target]],
        *,
        known: bool = False,
    ) -> None:
        """`known`: clashes of names are told already, as those within the settings are, which are faults."""
        groups: dict[str, list[Target]] = {}
        for target in itertools.chain(*sources.values()):
            for amended in amendments.values():
                target = amended(target)  # one after the other
            groups.setdefault(target.name, []).append(target)
        names = Names({name: [alias for one in group for alias in one.aliases] for name, group in groups.items()})
        models = {name: Group(group) for name, group in groups.items()}
        found = models | {alias: models[name] for alias, name in names.aliases.items()}
        # Assigned last and together: if an amendment fails, everything is as it was.
        self._sources, self._amendments = sources, amendments
        if list(found.items()) == list(self._groups.items()):
            return
        if not known:
            self._tell_clashes(names)
        self._names, self._groups = names, found
        self._callable = {name: group for name, group in found.items() if not is_pattern(name)}
        self._expansions = OrderedDict()
        for changed in self._changed:
            changed()

    def _tell_clashes(self, names: Names) -> None:
        for name, alias, owner in names.clashes:
            if (name, alias, owner) not in self._names.clashes:
                log.warning("model %r cannot have the alias %r: it is a name of model %r", name, alias, owner)

    def _expanded(self, name: str) -> Group:
        """The deployments of the wildcard that serves `name`, under this name; () if none does."""
        known = self._expansions
        if (found := known.get(name)) is not None:
            known.move_to_end(name)
            return found
        if not (pattern := self._names.pattern(name)):
            return _NOBODY
        rest = name[len(pattern) - 1 :]
        found = known[name] = Group(
            replace(target, name=name, model=target.model.replace("*", rest)) for target in self._groups[pattern]
        )
        if len(known) > _EXPANSIONS:
            known.popitem(last=False)
        return found


_implements: type[Catalog] = LiveCatalog
