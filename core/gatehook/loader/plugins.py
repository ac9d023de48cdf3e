"""The plugins of one gateway: built, and asked by their hooks; one instance of each, and no global manager.

pluggy is used for registration only, never while serving: it knows no async, loses types, and costs ten times a plain
call. What the hooks return is collected once, checked, and frozen.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

import pluggy
from msgspec import Struct

from gatehook import hookspecs
from gatehook.config.settings import Section, Settings
from gatehook.errors import StartupError, raise_or_gather
from gatehook.failures import FAILURES
from gatehook.loader.loading import class_faults, hook_names, imported, installed
from gatehook.loader.origins import Owners, named, remedy, told
from gatehook.loader.patience import Turns
from gatehook.loader.results import result_faults, results_of
from gatehook.loader.skipping import contradiction, why_not_skipped
from gatehook.services import ServiceKey
from gatehook.services.registry import ServiceMissing

__all__ = ["PluginInfo", "Plugins"]


class PluginInfo(Struct, frozen=True):
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


class _Manager(pluggy.PluginManager):
    """pluggy's, which looks with care at every attribute of a plugin, also at those that each object of Python has."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        return None if name.startswith("__") else super().parse_hookimpl_opts(plugin, name)


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
        self._manager = _Manager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._order: list[str] = []
        self._classes: dict[str, Any] = {}
        self._instances: dict[str, Any] = {}
        self._sections: dict[str, Section] = {}
        self._broken: dict[str, list[str]] = {}
        self._skipped: dict[str, list[str]] = {}
        self._lacking: dict[str, set[str]] = {}
        """The required services that nobody offers, by plugin: reported once, though its hooks will complain again."""
        faults = settings.faults_of_plugin_names(self._available.keys())
        ranks: dict[str, tuple[int, str]] = {}
        for name in sorted(self._available):
            if settings.plugin_enabled(name):
                try:
                    ranks[name] = (self._build(name), name)
                except StartupError as error:
                    self._broken[name] = error.faults
                    faults += error.faults
        raise_or_gather(faults, gathered)
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
        except FAILURES as error:  # told as a fault, whatever it is
            self._forgive(
                name, [f"{self.named(name)}: cannot be built: {told(error, entry)}{remedy(name, entry, error)}"]
            )
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

    def told(self, name: str, error: BaseException) -> str:
        """An exception that came out of a plugin, and where in its code."""
        return told(error, self._available[name])

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
                if key.provider in self._broken and key.name not in offers:
                    continue  # its own fault is told
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
        raise_or_gather(faults, self._gathered)
        return done

    def _left_of(self, name: str, faults: list[str]) -> list[str]:
        """The faults of a plugin that are to be reported: none, if it is skipped for them."""
        try:
            self._forgive(name, faults)
        except StartupError as error:
            self._broken.setdefault(name, error.faults)
            return error.faults
        return []

    def _requires(self, name: str) -> tuple[ServiceKey[Any], ...]:
        return tuple(getattr(self._instances[name], "requires", ()))

    def collect(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
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
                for one in results_of(impl.function, arguments):
                    if of_one := result_faults(hook, one):
                        wrong += of_one
                    else:
                        collected.append((name, one))
            except ServiceMissing as error:
                if error.key.provider not in self._broken and error.key.name not in self._lacking.get(name, ()):
                    wrong += error.faults
            except StartupError as error:
                wrong += error.faults
            except FAILURES as error:  # told as a fault
                wrong.append(told(error, self._available[name]))
            if wrong:
                faults += self._left_of(name, [f"{self.named(name)}, {hook}: {fault}" for fault in wrong])
        raise_or_gather(faults, self._gathered)
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
