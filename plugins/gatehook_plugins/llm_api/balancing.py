"""GET and PUT /config/load-balancing: how calls are shared among deployments, and when one is given a rest."""

from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import Any, Final

from aiohttp import web

from gatehook import (
    BALANCING,
    CATALOG,
    DIRECTORY,
    HEALTH,
    PRINCIPAL,
    Balancing,
    Catalog,
    Conflict,
    InvalidRequest,
    Services,
    Target,
    Unavailable,
    asked_revision,
    changed_meanwhile,
)
from gatehook_plugins.llm_api.changes import answer, opened, read_changes, refreshed

__all__ = ["LoadBalancing"]

_NAME: Final = "load-balancing"
"""The name of this configuration in the directory."""
_LONGEST_INTERVAL: Final = 86_400.0
_HIGHEST_THRESHOLD: Final = 10_000
_HEAVIEST: Final = 1_000_000.0


class LoadBalancing:
    """The handlers. What is not set here is as the settings have it."""

    def __init__(self, services: Services) -> None:
        self._catalog = services[CATALOG]
        self._directory = services.get(DIRECTORY)
        self._balancing = services.get(BALANCING)
        self._health = services.get(HEALTH)

    async def get(self, request: web.Request) -> web.Response:
        """What holds; null for what no enabled plugin does."""
        await refreshed(self._directory)
        return self._answer()

    async def put(self, request: web.Request) -> web.Response:
        """Change what the body names, and leave the rest; null takes back what was set.

        Raises:
            InvalidRequest: an unknown key, or an invalid value. Conflict: it is not what `If-Match` says.
            Unavailable: nothing keeps changes, or nothing would follow them.
        """
        directory, changes = opened(self._directory), await read_changes(request)
        self._check(changes)
        asked = changes.get("weights") or {}
        try:
            await directory.merge_config(
                request[PRINCIPAL].actor,
                _NAME,
                changes,
                revision=asked_revision(request),
                check=lambda whole: _check_sums(self._catalog, asked, whole.get("weights") or {}),
            )
        except Conflict as error:
            raise changed_meanwhile(request, error) from None
        return self._answer()

    def _answer(self) -> web.Response:
        health, balancing = self._health, self._balancing
        known, revision = ({}, 0) if self._directory is None else self._directory.config(_NAME)
        return answer(
            {
                "strategy": balancing and balancing.strategy,
                "health_check_interval": None if health is None else health.health_check_interval,
                "failure_threshold": None if health is None else health.failure_threshold,
                "recovery_threshold": None if health is None else health.recovery_threshold,
                "weights": known.get("weights", {}),
            },
            revision,
        )

    def _check(self, changes: Mapping[str, Any]) -> None:
        checks = {
            "strategy": self._check_strategy,
            "health_check_interval": _check_interval,
            "failure_threshold": _check_threshold,
            "recovery_threshold": _check_threshold,
            "weights": self._check_weights,
        }
        for name, value in changes.items():
            if name not in checks:
                raise _wrong(name[:80], f"unknown key{_nearest(name, checks)}")
            if value is not None:
                self._require_plugin(name)
                checks[name](value, name)

    def _require_plugin(self, name: str) -> None:
        """Refuse what would be kept though no enabled plugin goes by it."""
        followed, plugin = (self._balancing, BALANCING) if name in ("strategy", "weights") else (self._health, HEALTH)
        if followed is None:
            raise Unavailable(f"{name}: nothing follows it; enable [plugins.{plugin.provider}]", code="plugin_disabled")

    def _check_strategy(self, value: Any, param: str) -> None:
        known = _strategies(self._balancing)
        if value not in known:
            word = value[:80] if isinstance(value, str) else ""
            raise _wrong(param, f"unknown strategy {word!r}{_nearest(word, known)}")

    def _check_weights(self, value: Any, param: str) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(param, "must be an object: numbers by names of models or keys of deployments")
        known = {name for target in _targets(self._catalog) for name in (target.name, target.key)}
        for name, weight in value.items():
            place = f"{param}.{name[:80]}"
            if weight is None:
                continue
            if name not in known:
                raise _wrong(place, f"no model or deployment is named so{_nearest(name, known)}")
            _check_number(weight, place, _HEAVIEST)


def _strategies(balancing: Balancing | None) -> Collection[str]:
    return balancing.strategies if balancing is not None else ()


def _targets(catalog: Catalog) -> Iterable[Target]:
    return (target for group in catalog.groups().values() for target in group)


def _check_interval(value: Any, param: str) -> None:
    _check_number(value, param, _LONGEST_INTERVAL)


def _check_threshold(value: Any, param: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _HIGHEST_THRESHOLD:
        raise _wrong(param, f"must be a whole number from 1 to {_HIGHEST_THRESHOLD}, or null")


def _check_number(value: Any, param: str, most: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= most:  # NaN is not
        raise _wrong(param, f"must be a number from 0 to {most:g}, or null")


def _check_sums(catalog: Catalog, asked: Collection[str], weights: Mapping[str, float]) -> None:
    """Check that somebody is left to call: among the deployments of one model and priority, not all may weigh nothing.

    Raises:
        InvalidRequest: all would; it names the model.
    """
    for name, group in catalog.groups().items():
        if not any(target.name in asked or target.key in asked for target in group):
            continue
        callable_ = sorted((target for target in group if not target.unavailable), key=_priority)
        for priority, members in groupby(callable_, key=_priority):
            tier = list(members)
            is_set = any(target.key in weights or target.name in weights for target in tier)
            if is_set and not any(_weight(target, weights) for target in tier):
                raise _wrong(
                    "weights",
                    f"those of {name!r} at priority {priority} would sum to zero; to take a model out, set "
                    'PUT config/models {"enabled": false}',
                )


def _priority(target: Target) -> int:
    return target.priority


def _weight(target: Target, weights: Mapping[str, float]) -> float:
    return weights.get(target.key, weights.get(target.name, target.weight))


def _nearest(word: str, words: Iterable[str]) -> str:
    """What ends a message about `word`: the word most like it, else all there are."""
    import difflib  # only faults need it

    known = sorted(words)
    near = difflib.get_close_matches(word[:80], known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known[:20]) or 'none'}"


def _wrong(param: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {what}", param=param, code="invalid_value")
