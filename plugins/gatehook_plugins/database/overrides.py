"""What an administrator has set of a model, or of one deployment, in place of what its table says.

It is kept as configuration under "model:NAME", and laid over the deployments as the catalog shows them: whether they
come from the settings, from a row of the database or from another plugin.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from gatehook import Catalog, Database, GatewayError, ModelNotFound, Target
from gatehook_plugins.database.config import Config, Known, Value, merged
from gatehook_plugins.database.fallbacks import check_fallbacks
from gatehook_plugins.database.settable import check_override
from gatehook_plugins.database.trail import Trail
from gatehook_plugins.database.vault import Vault

__all__ = ["Overlay", "Overrides"]

log: Final = logging.getLogger("gatehook.database")

_SOURCE: Final = "database"
_PLACE: Final = "model:"
_SWITCHED_OFF: Final = "switched off by an administrator"


class Overlay:
    """Overrides as they are at one moment. Called with a deployment, gives what becomes of it."""

    def __init__(self, overrides: Mapping[str, Value]) -> None:
        """`overrides` by the public names of models and the keys of deployments."""
        self.overrides = overrides
        self._beneath: dict[str, Target] = {}

    def __call__(self, target: Target) -> Target:
        """The deployment with everything that is set of it."""
        override = self.of(target.name, target.key)
        if not override:
            return target
        self._beneath[target.key] = target
        return _overridden(target, override)

    def of(self, name: str, key: str) -> Value:
        """What is set for one deployment: for all of its model and, where that says something else, for itself."""
        of_model = self.overrides.get(name, {})
        return merged(of_model, self.overrides[key]) if key in self.overrides else of_model

    def beneath(self, target: Target) -> Target:
        """A deployment of the catalog, as it was before this was laid over it."""
        return self._beneath.get(target.key, target)


class Overrides(Config):
    """See `gatehook.services.Directory`."""

    def __init__(self, database: Database, trail: Trail, vault: Vault, catalog: Catalog) -> None:
        super().__init__(database, trail, vault)
        self._catalog = catalog
        self._overlay = Overlay({})
        self._unsound: Mapping[str, str] = {}
        self._unused: frozenset[str] = frozenset()
        self._is_unchecked = True
        trail.subscribe(self._override_changed)

    def override(self, name: str) -> tuple[Value, int]:
        """What is set of the model of this public name, or the deployment of this key, and its revision."""
        return self.config(_PLACE + name)

    async def put_override(
        self, actor: str, name: str, changes: Value, *, revision: int | None = None
    ) -> tuple[Value, int]:
        """Change what `changes` names; None takes back what was set, so that the model's own table holds again.

        Raises:
            ModelNotFound: there is no such model or deployment. Conflict: it is at another revision.
            InvalidRequest: an invalid value. Unavailable: the database is away.
        """
        model = next((one.name for one in self._served() if name in (one.name, one.key)), None)
        if model is None:
            raise self._not_found(name)
        check_override(changes)

        def changed(old: Value, stored: Known) -> Value:
            overrides, _ = _overrides(stored)
            value = merged(overrides.get(name, {}), changes)
            if "fallback_models" in changes:
                self._check_chain(model, value, {**overrides, name: value})
            return value

        return await self._change_config(actor, _PLACE + name, changed, revision)

    def override_of(self, name: str, key: str) -> Value:
        """What is set for one deployment, see `Overlay.of`."""
        return self._overlay.of(name, key)

    def tell_unused(self) -> None:
        """Log, once each, overrides whose model or deployment is gone; they are kept, in case it comes back."""
        if not self._is_unchecked:
            return
        self._is_unchecked = False
        known = set(itertools.chain.from_iterable((one.name, one.key) for one in self._served()))
        unused = frozenset(self._overlay.overrides.keys() - known)
        for name in sorted(unused - self._unused):
            log.warning("no model or deployment is named %r now; what an administrator has set of it waits", name)
        self._unused = unused

    def _override_changed(self, kind: str, id: str) -> None:
        self._is_unchecked |= kind in ("", "config", "model")
        if kind in ("", "config") and (not id or id.startswith(_PLACE)):
            overrides, unsound = _overrides(self._known)
            self._tell_unsound(unsound)
            if overrides != self._overlay.overrides:
                self._overlay = Overlay(overrides)
                self._catalog.amend(_SOURCE, self._overlay)

    def _tell_unsound(self, unsound: Mapping[str, str]) -> None:
        for name, why in unsound.items():
            if self._unsound.get(name) != why:
                log.error("what is set of the model %r is passed over: %s", name, why)
        self._unsound = unsound

    def _served(self) -> Iterator[Target]:
        """Every deployment, once: aliases are names of the same."""
        return (target for name, group in self._catalog.groups().items() for target in group if target.name == name)

    def _not_found(self, name: str) -> ModelNotFound:
        served = self._catalog.canonical(name)
        hint = "" if served == name else f"; calls for that name are served by {served!r}"
        return ModelNotFound(f"there is no model or deployment {name[:200]!r}{hint}", param="model")

    def aliased(self, fallbacks: Iterable[str]) -> list[str]:
        """Fallbacks by the names of their models; what a wildcard serves keeps its own, for it may be its fallback."""
        names = [(name, self._catalog.canonical(name)) for name in fallbacks]
        return [name if served.endswith("*") else served for name, served in names]

    def _check_chain(self, model: str, value: Value, overrides: Mapping[str, Value]) -> None:
        """Check the chain that calls would follow with these overrides."""
        overlay = Overlay(overrides)
        after: dict[str, list[str]] = {}
        for target in self._served():
            own = self._overlay.beneath(target).fallbacks
            now = overlay.of(target.name, target.key).get("fallback_models", own)
            after.setdefault(target.name, []).extend(self.aliased(now))
        named = value.get("fallback_models", ())
        check_fallbacks("fallback_models", model, named, after, lambda name: bool(self._catalog.group(name)))


def _overrides(known: Known) -> tuple[dict[str, Value], dict[str, str]]:
    """The overrides among all that is configured, by model or deployment; and why others are passed over.

    Another version may have written those.
    """
    overrides: dict[str, Value] = {}
    unsound: dict[str, str] = {}
    for place, (value, _) in known.items():
        name = place.removeprefix(_PLACE)
        if name == place or not value:
            continue
        try:
            check_override(value)
        except GatewayError as error:
            unsound[name] = error.message
        else:
            overrides[name] = value
    return overrides, unsound


def _overridden(target: Target, override: Value) -> Target:
    changes: dict[str, Any] = {}
    if override.get("enabled") is False:
        changes |= {"unavailable": _SWITCHED_OFF, "switched_off": True}
    if "priority" in override:
        changes["priority"] = override["priority"]
    if "rate_limit" in override:
        changes["rate_limit"] = msgspec.structs.replace(target.rate_limit, **override["rate_limit"])
    if "fallback_models" in override:
        changes["fallbacks"] = tuple(override["fallback_models"])
    if "parameters" in override:
        named = {_OPENAI_NAMES.get(name, name): value for name, value in override["parameters"].items()}
        changes["defaults"] = {**target.defaults, **named}
    return replace(target, **changes)


_OPENAI_NAMES: Final = {"default_temperature": "temperature"}
"""What requests call a parameter that has another name here."""
