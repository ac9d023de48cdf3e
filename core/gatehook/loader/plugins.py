"""The plugins of one gateway: built, and asked by their hooks; one instance of each, and no global manager.

pluggy is used for registration only, never while serving: it knows no async, loses types, and costs ten times a plain
call. What the hooks return is collected once, checked, and frozen.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, Protocol, TypeVar

import pluggy
from aiohttp import web

from gatehook import hookspecs, protocols
from gatehook.config.settings import Section, Settings, faults_of_plugin_names
from gatehook.errors import StartupError, tell
from gatehook.loader.loading import GROUP, class_faults, hook_names, imported, installed, settings_classes
from gatehook.loader.origins import Owners, named, remedy
from gatehook.loader.patience import Turns
from gatehook.loader.skipping import contradiction, why_not_skipped
from gatehook.services import ServiceKey
from gatehook.services.registry import ServiceMissing

__all__ = ["GROUP", "PluginInfo", "Plugins", "hook_names", "installed", "settings_classes"]

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
    "register_tools": (protocols.Tool, protocols.ToolSource),
    "register_transforms": (protocols.Transform,),
    "register_vendors": (protocols.Vendor,),
}


class Plugin(Protocol):
    """The class behind an entry point, besides its hookimpls: `Settings` is the class of its section.

    An optional `requires` lists the services that it needs.
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
    """The hooks that it implements; known of enabled plugins only, as a disabled one is never imported."""
    faults: tuple[str, ...] = ()
    """Why it does not run, though it is switched on."""
    skipped: bool = False
    """Whether the gateway serves without it, because of them."""

    @property
    def state(self) -> str:
        """In one word: on, off, skipped, broken."""
        if self.faults:
            return "skipped" if self.skipped else "broken"
        return "on" if self.enabled else "off"


class Plugins:
    """The enabled plugins of one gateway, in the operator's order (`order`, then name)."""

    def __init__(
        self,
        settings: Settings,
        available: dict[str, EntryPoint] | None = None,
        gathered: list[str] | None = None,
        turns: Turns | None = None,
    ) -> None:
        """Load, check and build every enabled plugin.

        Args:
            settings: what switches them on and fills their sections.
            available: entry points by name; those installed, if None.
            gathered: faults are added here instead of being raised, now and later; a faulty plugin is left out.
            turns: is told which plugin is being loaded or asked, now and later.

        Raises:
            StartupError: with every fault of every plugin.
        """
        self._turns = turns or Turns()
        self._gathered = gathered
        self._available = installed() if available is None else available
        self._settings = settings
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._order: list[str] = []
        self._classes: dict[str, Any] = {}
        self._instances: dict[str, Any] = {}
        self._sections: dict[str, Section] = {}
        self._broken: dict[str, list[str]] = {}
        self._skipped: dict[str, list[str]] = {}
        self._lacking: dict[str, set[str]] = {}
        """The required services that nobody offers, by plugin: reported once, though its hooks will complain again."""
        faults = faults_of_plugin_names(settings, self._available.keys())
        ranks: dict[str, tuple[int, str]] = {}
        for name in sorted(self._available):
            if settings.plugin_enabled(name):
                try:
                    ranks[name] = (self._build(name), name)
                except StartupError as error:
                    self._broken[name] = error.faults
                    faults += error.faults
        tell(faults, gathered)
        self._order = sorted((name for name in ranks if name in self._instances), key=lambda name: ranks[name])

    def _build(self, name: str) -> int:
        """Make the plugin's one instance, unless it is skipped; returns its `order`.

        Raises:
            StartupError: with every fault.
        """
        entry = self._available[name]
        common = self._settings.plugin_common(name)
        self._take_turn(name, "be imported")
        try:
            cls = self._classes[name] = imported(name, entry)
            if faults := class_faults(name, entry, cls):
                raise StartupError(*faults)
        except StartupError as error:
            self._forgive(name, error.faults)
            return 0
        if wrong := contradiction(cls, guards=common.guards):
            raise StartupError(f"[plugins.{name}] {wrong}")
        section = self._settings.plugin_section(name, cls.Settings)  # never forgiven: its faults are the operator's
        self._take_turn(name, "be built")
        try:
            instance = cls(section)
            self._manager.register(instance, name)
            if hidden := [hook for hook in hook_names() if hasattr(instance, hook) and not hasattr(cls, hook)]:
                raise StartupError(f"{', '.join(hidden)}: a hook must be a method of the class, not made by __init__")
        except StartupError as error:
            self._forgive(name, [f"{self.named(name)}: {fault}" for fault in error.faults])
        except (Exception, SystemExit) as error:  # noqa: BLE001  # told as a fault, whatever it is
            self._forgive(name, [f"{self.named(name)}: cannot be built: {error!r}{remedy(name, entry, error)}"])
        else:
            self._instances[name], self._sections[name] = instance, section
        order: int = section.order
        return order

    def _take_turn(self, name: str, what: str) -> None:
        package = self._available[name].value.partition(":")[0].strip()
        self._turns.take(lambda: self.named(name), what, package)

    def _forgive(self, name: str, faults: list[str]) -> None:
        """Skip a broken plugin, if the operator wants that and the gateway may serve without it.

        Raises:
            StartupError: it may not be skipped; with the faults, and why.
        """
        common = self._settings.plugin_common(name)
        why = "" if common.on_error == "fail" else why_not_skipped(self._classes.get(name), guards=common.guards)
        if why or common.on_error == "fail":
            raise StartupError(*faults, *([f"{self.named(name)}: {why}"] if why else []))
        self._skipped[name] = faults
        self._instances.pop(name, None)
        if name in self._order:
            self._order.remove(name)

    def skip(self, name: str, *faults: str) -> None:
        """Go on without a plugin that turns out to be broken.

        Raises:
            StartupError: with these faults, if it may not be skipped.
        """
        self._forgive(name, list(faults))

    @property
    def skipped(self) -> dict[str, list[str]]:
        """The plugins that are switched on, but skipped; with their faults."""
        return dict(self._skipped)

    def owners(self) -> Owners:
        """What tells which of the enabled plugins a module belongs to."""
        return Owners({name: self._available[name] for name in self._order})

    def named(self, name: str) -> str:
        """A plugin as messages name it."""
        return named(name, self._available.get(name))

    def labelled(self, name: str) -> str:
        """The same without the word "plugin", for messages that have it already."""
        return self.named(name).removeprefix("plugin ")

    @property
    def names(self) -> Sequence[str]:
        """The enabled plugins, in order."""
        return tuple(self._order)

    @property
    def sections(self) -> Mapping[str, Section]:
        """The settings of the enabled plugins, in order."""
        return {name: self._sections[name] for name in self._order}

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
            missing: list[str] = []
            for key in self._requires(name):
                if key.name not in offers:
                    self._lacking.setdefault(name, set()).add(key.name)
                    missing.append(
                        f"{self.named(name)} needs the service {key.name!r}, which no enabled plugin offers; "
                        f"enable [plugins.{key.provider}]"
                    )
                elif offers[key.name] in self._instances:
                    visit(offers[key.name])
            if missing:
                faults.extend(self._left_of(name, missing))
            path.pop()
            done.append(name)

        for name in self.names:
            visit(name)
        tell(faults, self._gathered)
        return done

    def _left_of(self, name: str, faults: list[str]) -> list[str]:
        """The faults of a plugin that are to be reported: none, if it is skipped for them."""
        try:
            self._forgive(name, faults)
        except StartupError as error:
            return error.faults
        return []

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
        for name in self.names:
            if (impl := impls.get(name)) is None:
                continue
            wrong: list[str] = []
            self._take_turn(name, f"return from {hook}")
            try:
                for one in _results(impl.function, arguments):
                    if of_one := list(_result_faults(hook, one)):
                        wrong += of_one
                    else:
                        collected.append((name, one))
            except ServiceMissing as error:
                if error.key.name not in self._lacking.get(name, ()):
                    wrong += error.faults
            except StartupError as error:
                wrong += error.faults
            except (Exception, SystemExit) as error:  # noqa: BLE001  # told as a fault
                wrong.append(repr(error))
            if wrong:
                faults += self._left_of(name, [f"{self.named(name)}, {hook}: {fault}" for fault in wrong])
        tell(faults, self._gathered)
        return [(name, one) for name, one in collected if name in self._instances]

    def report(self) -> list[PluginInfo]:
        """Every installed plugin, enabled or not."""
        return [
            PluginInfo(
                name=name,
                distribution=entry.dist.name if entry.dist else "an unknown distribution",
                version=entry.dist.version if entry.dist else "?",
                enabled=name in self._instances,
                hooks=tuple(hook for hook in hook_names() if hasattr(self._instances.get(name), hook)),
                faults=tuple(self._broken.get(name) or self._skipped.get(name) or ()),
                skipped=name in self._skipped,
            )
            for name, entry in sorted(self._available.items())
        ]


def _results(function: Callable[..., Any], arguments: dict[str, Any]) -> list[Any]:
    """What a hook returns. Unlike pluggy's call, this also passes arguments for which the hook has a default."""
    wanted = inspect.signature(function).parameters
    results = function(**{name: value for name, value in arguments.items() if name in wanted})
    if not isinstance(results, Iterable):
        raise StartupError(f"must return an iterable, not {type(results).__name__}; return [] for nothing")
    return list(results)


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
    if hook == "register_tools":
        return _shape_faults(result, protocols.ToolSource if hasattr(result, "tools") else protocols.Tool)
    if isinstance(result, protocols.AttemptLimiter) and not hasattr(result, "admit"):
        return _shape_faults(result, protocols.AttemptLimiter)
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
        if name in _MAY_WAIT:
            continue
        is_async = inspect.iscoroutinefunction(getattr(result, name))
        if inspect.iscoroutinefunction(getattr(kind, name)) and not is_async:
            faults.append(f"{own}.{name} must be `async def`")
        elif is_async and not inspect.iscoroutinefunction(getattr(kind, name)):
            # Nobody would await it. A vendor's `stream`, an async generator, is one only if its `yield` was forgotten.
            faults.append(f"{own}.{name} must not be `async def`{' without a yield' if name == 'stream' else ''}")
    return faults


def _name_faults(hook: str, result: Any) -> list[str]:
    name = getattr(result, "name", "") if hook == "register_vendors" else ""
    if isinstance(name, str) and name == name.lower():
        return []
    return [f"the vendor name {name!r} must be lower case; settings are read so"]


def _route_faults(route: Any) -> list[str]:
    """What aiohttp would refuse only later, and values of `auth` that would leave a path open to everybody."""
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
    """A handler for trying a path only."""
    return web.Response(status=501)


_MAY_WAIT = frozenset({"admit", "admit_attempt", "authenticate", "route"})
"""Methods that may be `async def`, or plain."""

_STRUCTURAL = {
    protocols.Authenticator, protocols.Cache, protocols.Limiter, protocols.Router, protocols.Surface,
    protocols.Tool, protocols.ToolPolicy, protocols.ToolSource, protocols.Transform, protocols.Vendor,
}  # fmt: skip


def _members(kind: type) -> list[str]:
    """The public methods and properties that `kind` declares, in its order."""
    return [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    ]
