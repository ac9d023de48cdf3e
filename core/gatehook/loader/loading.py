"""From an entry point to a plugin's class: discovered, imported, and checked before anything of it runs."""

import inspect
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from gatehook import hookspecs
from gatehook.config.reading import nearest
from gatehook.config.sections import Section
from gatehook.errors import StartupError
from gatehook.failures import FAILURES
from gatehook.loader.origins import named, origin, remedy, told, unmet
from gatehook.services import ServiceKey

__all__ = ["GROUP", "class_faults", "hook_names", "imported", "installed", "settings_classes"]

GROUP = "gatehook"
"""The entry-point group: name (as in settings.toml) = class."""


def hook_names() -> list[str]:
    """All hooks there are."""
    return [name for name in vars(hookspecs) if name.startswith("register_")]


def installed() -> dict[str, EntryPoint]:
    """Every installed plugin's entry point, by the plugin's name.

    Raises:
        StartupError: two distributions use the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            raise StartupError(
                f"plugin name {entry.name!r} is taken by both {origin(known)} ({known.value}) and "
                f"{origin(entry)} ({entry.value}); uninstall one, by `pip uninstall`"
            )
    return found


def settings_classes(available: dict[str, EntryPoint]) -> dict[str, type[Section]]:
    """The section class of every installed plugin, enabled or not, for the JSON Schema; imports them all.

    Raises:
        StartupError: with the faults of every plugin that cannot be imported or whose class is wrong.
    """
    classes: dict[str, type[Section]] = {}
    faults: list[str] = []
    for name, entry in sorted(available.items()):
        try:
            cls = imported(name, entry)
            faults += class_faults(name, entry, cls)
            classes[name] = getattr(cls, "Settings", Section)
        except StartupError as error:
            faults += error.faults
    if faults:
        raise StartupError(*faults)
    return classes


def imported(name: str, entry: EntryPoint) -> Any:
    """What the entry point names; it should be a class.

    Raises:
        StartupError: the distribution is for another version of Gatehook, or cannot be imported.
    """
    who = named(name, entry)
    if asked := unmet(entry):
        raise StartupError(f"{who}: {asked}")
    try:
        return entry.load()
    except FAILURES as error:  # whatever a third party's import raises is a fault to report
        raise StartupError(f"{who}: cannot be imported: {told(error, entry)}{remedy(name, entry, error)}") from error


def class_faults(name: str, entry: EntryPoint, cls: Any) -> list[str]:
    """Everything that is wrong with a plugin's class."""
    return [f"{named(name, entry)}: {fault}" for fault in _class_faults(cls)]


def _class_faults(cls: Any) -> Iterable[str]:
    """What is wrong with it, most of which pluggy would accept silently, or refuse without saying what to do."""
    if not inspect.isclass(cls):
        return [f"the entry point must name a class, not {cls!r}"]
    section = getattr(cls, "Settings", None)
    if not (inspect.isclass(section) and issubclass(section, Section)):
        return ["the class needs `Settings`, a subclass of gatehook.Section"]
    faults: list[str] = []
    needed = getattr(cls, "requires", ())
    if not isinstance(needed, tuple) or not all(isinstance(key, ServiceKey) for key in needed):
        faults.append("`requires` must be a tuple of ServiceKeys")
    specs = hook_names()
    for name in (name for name in dir(cls) if not name.startswith("__")):
        member = inspect.getattr_static(cls, name)
        marker = getattr(member, f"{hookspecs.PROJECT}_impl", None)
        if marker is None:
            if name in specs:
                faults.append(f"{name} lacks the @hookimpl decorator")
        elif name not in specs:
            faults.append(f"unknown hook {name!r}{nearest(name, specs)}")
        else:
            faults += _impl_faults(name, member, marker)
    return faults


def _impl_faults(name: str, function: Any, marker: dict[str, Any]) -> Iterable[str]:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        yield f"{name} must not be async: hooks run once at start-up; return objects whose methods are async"
    if marker.get("wrapper") or marker.get("hookwrapper"):
        yield f"{name} must not be a wrapper"
    for option in ("tryfirst", "trylast"):
        if marker.get(option):
            yield f"{name} must not use {option}: the order is the operator's, by `order` in [plugins.NAME]"
    allowed = list(inspect.signature(getattr(hookspecs, name)).parameters)
    for argument in list(inspect.signature(function).parameters)[1:]:
        if argument not in allowed:
            yield f"{name} has no argument {argument!r}; it may take: {', '.join(allowed) or 'none'}"
