"""What `gatehook check` notes on plugins' settings that name a model which does not exist, and so never apply."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from gatehook.config.reading import nearest
from gatehook.config.references import Reference, references
from gatehook.names import Names
from gatehook.services import DIRECTORY, LOCAL_MODELS, ServiceKey

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["unknown_models"]

_SIGNS: Final = frozenset("*?[")
"""Characters of patterns, which may fit models that come later."""


def unknown_models(gateway: "Gateway") -> Iterator[str]:
    """A note for each such name; not a fault, as models may be added while the gateway serves."""
    known = _Known(gateway)
    for plugin, section in gateway.plugins.sections.items():
        for place, name, reference in references(section):
            if why := known.fault(name, reference):
                yield f"[plugins.{plugin}] {place}: {why}"


class _Known:
    """The models of the settings, also those that are switched off."""

    def __init__(self, gateway: "Gateway") -> None:
        self._models: dict[str, list[str]] = {}
        for model in gateway.settings.models:
            self._models.setdefault(model.name, []).extend(model.aliases)
        self._names = Names(self._models)
        places: dict[ServiceKey[Any], str] = {DIRECTORY: "the database", LOCAL_MODELS: "this machine's files"}
        others = [place for service, place in places.items() if service in gateway.services]
        self._others = f", but one of {' or '.join(others)} may be" if others else ""

    def fault(self, name: str, reference: Reference) -> str:
        """Why no model has this name; "" if one has, or may have."""
        if name in self._models or not name:
            return ""
        owner = self._names.find(name)
        if reference.own:
            return self._known_as(name, owner) if owner else self._unknown(name)
        return "" if owner or _SIGNS.intersection(name) else self._unknown(name)

    def _known_as(self, name: str, owner: str) -> str:
        return f"calls of '{name}' are served by '{owner}', and only that name counts here"

    def _unknown(self, name: str) -> str:
        known = [*self._models, *self._names.aliases]
        return f"no model of the settings is named '{name}'{self._others}{nearest(name, known)}"
