"""Discover, check, build and collect plugins: one instance of each per gateway, no global manager.

pluggy declares and discovers; it is never called while serving (it knows no async, loses types, and costs ten times a
plain call). What the hooks return is collected once, checked, and frozen.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeVar

import pluggy
from aiohttp import web

from gatehook import hookspecs, protocols
from gatehook.errors import StartupError, tell
from gatehook.services import ServiceKey
from gatehook.settings import Section, Settings, faults_of_plugin_names

__all__ = ["GROUP", "PluginInfo", "Plugins", "hook_names", "installed"]

GROUP = "gatehook"
"""The entry-point group: name (as in settings.toml) = class."""

T = TypeVar("T")

_RESULTS: dict[str, tuple[type, ...]] = {
    "register_authenticators": (protocols.Authenticator,),
    "register_caches": (protocols.Cache,),
    "register_commands": (protocols.Command,),
    "register_limiters": (protocols.Limiter,),
    "register_observers": (protocols.Observer,),
    "register_routers": (protocols.Router,),
    "register_routes": (protocols.Route, protocols.Endpoint),
    "register_tool_policies": (protocols.ToolPolicy,),
    "register_transforms": (protocols.Transform,),
    "register_vendors": (protocols.Vendor,),
}


class Plugin(Protocol):
    """What the class behind an entry point looks like, besides its hookimpls.

    `requires` (optional) names the services it needs; `Settings` is the type of its section.
    """

    Settings: type[Section]


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What is known of an installed plugin without running it."""

    name: str
    distribution: str
    version: str
    enabled: bool
    hooks: tuple[str, ...] = ()
    """Hooks it implements; known only of enabled plugins, a disabled one is never imported."""


def hook_names() -> list[str]:
    """All hooks there are."""
    return [name for name in vars(hookspecs) if name.startswith("register_")]


def installed() -> dict[str, EntryPoint]:
    """Every installed plugin's entry point, by name.

    Raises:
        StartupError: two distributions use one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            raise StartupError(
                f"plugin name {entry.name!r} is taken by both {_origin(known)} ({known.value}) and "
                f"{_origin(entry)} ({entry.value}); uninstall one"
            )
    return found


class Plugins:
    """The enabled plugins of one gateway, in the operator's order (`order`, then name)."""

    def __init__(
        self, settings: Settings, available: dict[str, EntryPoint] | None = None, gathered: list[str] | None = None
    ) -> None:
        """Load, check and build every enabled plugin.

        Args:
            settings: what switches them on and fills their sections.
            available: entry points by name; those installed, if None.
            gathered: faults are added here instead of raised, then and later; a faulty plugin is left out.

        Raises:
            StartupError: with every fault of every plugin.
        """
        self._gathered = gathered
        self._available = installed() if available is None else available
        self._settings = settings
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._order: list[str] = []
        self._instances: dict[str, Any] = {}
        faults = faults_of_plugin_names(settings, self._available.keys())
        ranks: dict[str, tuple[int, str]] = {}
        for name in sorted(self._available):
            if settings.plugin_enabled(name):
                try:
                    instance, order = self._build(name)
                except StartupError as error:
                    faults += error.faults
                else:
                    self._instances[name] = instance
                    ranks[name] = (order, name)
        tell(faults, gathered)
        self._order = sorted(ranks, key=lambda name: ranks[name])

    def _build(self, name: str) -> tuple[Any, int]:
        entry = self._available[name]
        cls = _load(name, entry)
        section = self._settings.plugin_section(name, cls.Settings)
        try:
            instance = cls(section)
            self._manager.register(instance, name)
        except StartupError as error:
            raise StartupError(*(f"plugin {name!r}: {fault}" for fault in error.faults)) from error
        except Exception as error:
            raise StartupError(f"plugin {name!r} ({_origin(entry)}): cannot be built: {error!r}") from error
        return instance, section.order

    @property
    def names(self) -> Sequence[str]:
        """The enabled plugins, in order."""
        return tuple(self._order)

    def by_dependency(self, offers: dict[str, str]) -> list[str]:
        """The enabled plugins, each after those whose services it requires.

        Args:
            offers: service name to the plugin that offers it.

        Raises:
            StartupError: a required service that nobody offers, naming the plugin to enable; or a circle.
        """
        done: list[str] = []
        path: list[str] = []
        faults: list[str] = []

        def visit(name: str) -> None:
            if name in done:
                return
            if name in path:
                raise StartupError(f"plugins require each other in a circle: {' → '.join([*path, name])}")
            path.append(name)
            for key in self._requires(name):
                if key.name in offers:
                    if offers[key.name] in self._instances:
                        visit(offers[key.name])
                else:
                    faults.append(
                        f"plugin {name!r} needs the service {key.name!r}, which no enabled plugin offers; "
                        f"enable [plugins.{key.provider}]"
                    )
            path.pop()
            done.append(name)

        for name in self._order:
            visit(name)
        tell(faults, self._gathered)
        return done

    def _requires(self, name: str) -> tuple[ServiceKey[Any], ...]:
        return tuple(getattr(self._instances[name], "requires", ()))

    def collect(self, hook: str, kind: Callable[..., T] | None = None, **arguments: Any) -> list[tuple[str, Any]]:
        """Run one hook of every plugin, in order: (plugin name, object) for everything returned.

        Raises:
            StartupError: with every fault: exceptions, results that are no iterable or hold a wrong type.
        """
        impls = {impl.plugin_name: impl for impl in getattr(self._manager.hook, hook).get_hookimpls()}
        collected: list[tuple[str, Any]] = []
        faults: list[str] = []
        for name in self._order:
            if (impl := impls.get(name)) is None:
                continue
            try:
                results = _results(impl.function, arguments)
            except StartupError as error:
                faults += [f"plugin {name!r}, {hook}: {fault}" for fault in error.faults]
            except Exception as error:  # noqa: BLE001  # told as a fault
                faults.append(f"plugin {name!r}, {hook}: {error!r}")
            else:
                for one in results:
                    if wrong := [f"plugin {name!r}, {hook}: {fault}" for fault in _result_faults(hook, one)]:
                        faults += wrong
                    else:
                        collected.append((name, one))
        tell(faults, self._gathered)
        return collected

    def report(self) -> list[PluginInfo]:
        """Every installed plugin, enabled or not."""
        return [
            PluginInfo(
                name=name,
                distribution=_origin(entry),
                version=entry.dist.version if entry.dist else "?",
                enabled=name in self._instances,
                hooks=tuple(hook for hook in hook_names() if hasattr(self._instances.get(name), hook)),
            )
            for name, entry in sorted(self._available.items())
        ]


def settings_classes(available: dict[str, EntryPoint]) -> dict[str, type[Section]]:
    """The section type of every installed plugin, enabled or not; imports them all (for the JSON Schema).

    Raises:
        StartupError: with every plugin that cannot be imported, or is none.
    """
    classes: dict[str, type[Section]] = {}
    faults: list[str] = []
    for name, entry in sorted(available.items()):
        try:
            classes[name] = _load(name, entry).Settings
        except StartupError as error:
            faults += error.faults
    if faults:
        raise StartupError(*faults)
    return classes


def _load(name: str, entry: EntryPoint) -> Any:
    """The class behind an entry point, checked."""
    try:
        cls = entry.load()
    except Exception as error:  # whatever a third party's import raises is a fault to report
        raise StartupError(f"plugin {name!r} ({_origin(entry)}): cannot be imported: {error!r}") from error
    if faults := _class_faults(cls):
        raise StartupError(*(f"plugin {name!r} ({_origin(entry)}): {fault}" for fault in faults))
    return cls


def _results(function: Callable[..., Any], arguments: dict[str, Any]) -> list[Any]:
    """What a hook returns. An argument with a default is given too, though pluggy would leave it out."""
    wanted = inspect.signature(function).parameters
    results = function(**{name: value for name, value in arguments.items() if name in wanted})
    if not isinstance(results, Iterable):
        raise StartupError(f"must return an iterable, not {type(results).__name__}; return [] for nothing")
    return list(results)


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown distribution"


def _class_faults(cls: Any) -> Iterable[str]:
    """Everything that pluggy would silently accept, or refuse without saying what to do."""
    if not inspect.isclass(cls):
        return [f"the entry point must name a class, not {cls!r}"]
    section = getattr(cls, "Settings", None)
    if not (inspect.isclass(section) and issubclass(section, Section)):
        return ["the class needs `Settings`, a subclass of gatehook.Section"]
    faults: list[str] = []
    specs = hook_names()
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        marker = getattr(member, f"{hookspecs.PROJECT}_impl", None)
        if marker is None:
            if name in specs:
                faults.append(f"{name} lacks the @hookimpl decorator")
        elif name not in specs:
            near = get_close_matches(name, specs, 1)
            faults.append(f"unknown hook {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
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


def _result_faults(hook: str, result: Any) -> Iterable[str]:
    expected = _RESULTS.get(hook)
    if hook == "register_lifespans" and not callable(result):
        return ["each result must be callable and give an async context manager"]
    if hook == "register_services" and not (
        isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], ServiceKey)
    ):
        return ["each result must be a pair of a ServiceKey and the service"]
    if expected is None:
        return []
    if isinstance(result, protocols.Route):
        return _route_faults(result)
    if isinstance(result, protocols.Endpoint):
        return [*_route_faults(result), *_shape_faults(result.surface, protocols.Surface)]
    if len(expected) == 1:
        return [*_shape_faults(result, expected[0]), *_name_faults(hook, result)]
    return [f"{type(result).__name__} is not a {' or '.join(one.__name__ for one in expected)}"]


def _shape_faults(result: Any, kind: type) -> list[str]:
    """How `result` differs from the protocol or class `kind`."""
    own = type(result).__name__
    if not isinstance(result, kind):
        missing = [name for name in _members(kind) if not hasattr(result, name)] if kind in _STRUCTURAL else []
        return [f"{own} is not a {kind.__name__}" + (f", it lacks {', '.join(missing)}" if missing else "")]
    faults: list[str] = []
    for name in _members(kind):
        is_async = inspect.iscoroutinefunction(getattr(result, name))
        if inspect.iscoroutinefunction(getattr(kind, name)) and not is_async:
            faults.append(f"{own}.{name} must be `async def`")
        elif is_async and not inspect.iscoroutinefunction(getattr(kind, name)):
            # Nobody would await it: it would never run. A vendor's `stream` is one only if its `yield` was forgotten.
            faults.append(f"{own}.{name} must not be `async def`{' without a yield' if name == 'stream' else ''}")
    return faults


def _name_faults(hook: str, result: Any) -> list[str]:
    name = getattr(result, "name", "") if hook == "register_vendors" else ""
    if isinstance(name, str) and name == name.lower():
        return []
    return [f"the vendor name {name!r} must be lower case; settings are read so"]


def _route_faults(route: Any) -> list[str]:
    """What aiohttp would refuse only when serving, and a slip that would leave a path open to everybody."""
    where = f"{route.method} {route.path}"
    faults: list[str] = []
    try:
        web.UrlDispatcher().add_route(route.method, route.path, _nothing)
    except Exception as error:  # noqa: BLE001  # several kinds, depending on what is wrong
        faults.append(f"{where}: {error}")
    else:
        if not route.path.startswith("/"):
            faults.append(f"{where}: the path must begin with /")
    auth = getattr(route, "auth", "user")
    if auth is not False and auth not in ("user", "admin"):
        faults.append(f"{where}: auth must be 'user', 'admin' or False, not {auth!r}")
    return faults


async def _nothing(request: web.Request) -> web.StreamResponse:
    """Stands for a handler where only the path is tried."""
    return web.Response(status=501)


_STRUCTURAL = {
    protocols.Authenticator, protocols.Cache, protocols.Limiter, protocols.Router, protocols.Surface,
    protocols.ToolPolicy, protocols.Transform, protocols.Vendor,
}  # fmt: skip


def _members(kind: type) -> list[str]:
    """The public methods and properties that `kind` declares, in its order."""
    return [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    ]
