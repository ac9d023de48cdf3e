"""Faults of [[models]] that only show when several of them are compared."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gatehook.config.reading import Layers, nearest
from gatehook.config.sections import ModelSettings
from gatehook.names import Names, is_pattern

__all__ = ["faults_among"]


def faults_among(
    models: Mapping[int, ModelSettings], raw: Sequence[Mapping[str, Any]], layers: Layers
) -> Iterator[str]:
    """What is wrong with these models, each sound by itself.

    Args:
        models: by their place among the [[models]] tables, also those that are switched off.
        raw: the tables as they are written.
        layers: where they are written, for messages.
    """
    yield from _lost_fallbacks(models, raw, layers)
    serving = {index: model for index, model in models.items() if model.enabled}
    yield from _repeated(serving, raw, layers)
    yield from _weightless(serving, layers)
    yield from _contested_aliases(serving, layers)
    yield from _circular_fallbacks(serving, layers)


def _repeated(models: Mapping[int, ModelSettings], raw: Sequence[Mapping[str, Any]], layers: Layers) -> Iterator[str]:
    first: dict[str, int] = {}
    for index, model in models.items():
        # The key as it is written, not looked up: two references that lead nowhere are still two keys.
        identity = repr(
            (model.name, model.vendor, model.model, model.base_url, model.options, raw[index].get("api_key"))
        )
        if identity in first:
            other = layers.where(("models", first[identity]))
            yield f"{layers.where(('models', index))}: the same deployment as {other}; weight gives one more calls"
        first.setdefault(identity, index)


def _weightless(models: Mapping[int, ModelSettings], layers: Layers) -> Iterator[str]:
    """A fault for every priority of a model at which nobody would be called, by the weights."""
    tiers: dict[tuple[str, int], list[int]] = {}
    for index, model in models.items():
        tiers.setdefault((model.name, model.priority), []).append(index)
    for (name, priority), members in tiers.items():
        if not any(models[index].weight for index in members):
            place = layers.where(("models", members[0], "weight"))
            yield f"{place}: those of '{name}' at priority {priority} sum to zero; enabled = false takes one out"


def _contested_aliases(models: Mapping[int, ModelSettings], layers: Layers) -> Iterator[str]:
    clashes = {(name, alias): owner for name, alias, owner in _names(models.values()).clashes}
    for index, model in models.items():
        for alias in model.aliases:
            if owner := clashes.get((model.name, alias)):
                yield f"{layers.where(('models', index, 'aliases'))}: '{alias}' is a name of model '{owner}' already"


def _names(models: Iterable[ModelSettings]) -> Names:
    aliases: dict[str, list[str]] = {}
    for model in models:
        aliases.setdefault(model.name, []).extend(model.aliases)
    return Names(aliases)


def _lost_fallbacks(
    models: Mapping[int, ModelSettings], raw: Sequence[Mapping[str, Any]], layers: Layers
) -> Iterator[str]:
    names = [table["name"] for table in raw if isinstance(table.get("name"), str)]
    served = _names(models.values())
    for index, model in models.items():
        place = f"{layers.where(('models', index, 'fallbacks'))}"
        for n, name in enumerate(model.fallbacks):
            if is_pattern(name) or not (name in names or served.find(name)):
                yield f"{place}: no model is named '{name}'{nearest(name, names)}"
            elif name in model.fallbacks[:n]:
                yield f"{place}: '{name}' is named twice"


def _circular_fallbacks(models: Mapping[int, ModelSettings], layers: Layers) -> Iterator[str]:
    names = _names(models.values())
    after: dict[str, list[str]] = {}
    for model in models.values():
        # A wildcard may have names that it serves itself among its fallbacks: that is no circle, as they are finite.
        following = [(name, names.find(name)) for name in model.fallbacks]
        own = [goal or name for name, goal in following if not (is_pattern(model.name) and goal == model.name)]
        after.setdefault(model.name, []).extend(own)
    done: set[str] = set()
    for index, model in models.items():
        circle = _circle(model.name, after, done, [])
        if circle:
            place = layers.where(("models", index, "fallbacks"))
            yield f"{place}: goes round in a circle: {' → '.join(circle)}"


def _circle(name: str, after: Mapping[str, Sequence[str]], done: set[str], trail: list[str]) -> list[str]:
    """The first circle on the way from `name`, [] if there is none; names in `done` are not searched again."""
    if name in trail:
        return [*trail[trail.index(name) :], name]
    if name in done:
        return []
    done.add(name)
    for following in after.get(name, ()):
        if circle := _circle(following, after, done, [*trail, name]):
            return circle
    return []
