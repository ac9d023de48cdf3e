"""One gateway: settings, its plugins' objects collected and frozen, and the aiohttp application that serves them."""

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NoReturn

from aiohttp import web

from gatehook.calls.answers import Answers
from gatehook.calls.deadlines import Deadlines
from gatehook.calls.failover import Failover
from gatehook.calls.observers import Observers
from gatehook.calls.pipeline import Pipeline
from gatehook.calls.stages import Concerns
from gatehook.calls.transforms import Transforms
from gatehook.catalog import LiveCatalog
from gatehook.config.settings import Settings
from gatehook.control import ask
from gatehook.errors import (
    StartupError,
    Unavailable,
    raise_or_gather,
)
from gatehook.failures import is_failure
from gatehook.loader.loading import hook_names
from gatehook.loader.metering import METER, metered
from gatehook.loader.patience import Turns, WatchedLifespan
from gatehook.loader.plugins import Plugins
from gatehook.model import Call, Completion, Target, ToolCall
from gatehook.protocols import AttemptLimiter, Endpoint, Limiter, Route, Surface, Tidier, Vendor
from gatehook.routes import application
from gatehook.services import CATALOG, Services
from gatehook.services.jobs import JOBS
from gatehook.tools.own import OwnTools, tool_faults
from gatehook.tools.policies import ToolPolicies
from gatehook.upstream.egress import Egress
from gatehook.wayfinding import unknown_path

__all__ = ["Gateway"]

log = logging.getLogger("gatehook")

_SETTLING_SECONDS = 10.0
"""How long a shutdown waits for limiters to settle the last calls."""


class Gateway:
    """A gateway, built but not yet serving. Building does no I/O; `lifespan()` opens what serving needs.

    Raises:
        StartupError: with every fault that could be found.
    """

    def __init__(
        self,
        settings: Settings,
        available: Mapping[str, EntryPoint] | None = None,
        gathered: list[str] | None = None,
    ) -> None:
        """`available` replaces the installed plugins; with `gathered`, faults are added to it and the rest is built."""
        self._gathered = gathered
        self.settings = settings
        self.serving = False
        self.draining = False
        """Whether it is shutting down: requests that still arrive on open connections are answered."""
        self.retiring = False
        """Whether other processes have taken over, and this one only finishes what it has begun."""
        self.control: Path | None = None
        """The control socket of the parent process; None if there is no parent."""
        self.worker = 0
        """A number that no other living worker of this server has: 0 to 127; 0 when this is the only process."""
        self.shared: Path | None = None
        """A folder that the workers share, made before the first starts; None when there was never more than one."""
        self.runtime: Path | None = None
        """A private folder of this server, which outlives its workers and reloads; None where there is no parent."""
        self.egress = Egress(settings.egress)
        self.services = Services()
        self.catalog = LiveCatalog(settings.targets)
        self.services.provide(CATALOG, self.catalog, "kernel")
        turns = Turns()
        with turns.watched():
            self.plugins = Plugins(settings, None if available is None else dict(available), gathered, turns)
            self._by_dependency = self._offer_services()
            self._collected = self._collect()
        raise_or_gather(self._assemble(), gathered)

    def _assemble(self) -> list[str]:
        """Put together what all plugins that are not skipped have registered; gives the faults."""
        there = {*self.plugins.names}
        collected = {hook: [one for one in found if one[0] in there] for hook, found in self._collected.items()}
        if (meter := self.services.get(METER)) is not None:
            for hook, found in collected.items():
                found[:] = [(plugin, metered(meter, plugin, hook, one)) for plugin, one in found]
        self.vendors, faults = _by_name(collected["register_vendors"], self.plugins.labelled)
        self._routes = collected["register_routes"]
        self.endpoints = {
            route.path: route for _, route in self._routes if isinstance(route, Endpoint) and "{" not in route.path
        }
        """The endpoints of inference calls by path; paths with parameters are left to aiohttp's router."""
        faults += tool_faults(collected["register_tools"])
        self.pipeline = self._pipeline(collected)
        self._lifespans = collected["register_lifespans"]
        return [*faults, *_owned_twice(self._routes, self.plugins.labelled)]

    def _offer_services(self) -> list[str]:
        """Let plugins offer services; gives the plugins' names, each after those that it depends on."""
        offers = {CATALOG.name: "kernel"}
        faults: list[str] = []
        for plugin, (key, service) in self.plugins.collect("register_services", gateway=self):
            try:
                self.services.provide(key, service, plugin)
            except StartupError as error:
                faults += error.faults
            offers[key.name] = plugin
        raise_or_gather(faults, self._gathered)
        return self.plugins.by_dependency(offers)

    def _collect(self) -> dict[str, list[tuple[str, Any]]]:
        faults: list[str] = []
        collected: dict[str, list[tuple[str, Any]]] = {}
        for hook in hook_names():
            if hook in ("register_services", "register_commands"):
                continue
            try:
                collected[hook] = self.plugins.collect(hook, gateway=self)
            except StartupError as error:
                faults += error.faults
        raise_or_gather(faults, self._gathered)
        return collected

    def _pipeline(self, collected: Mapping[str, list[tuple[str, Any]]]) -> Pipeline:
        def frozen(hook: str) -> tuple[Any, ...]:
            return tuple(one for _, one in collected[hook])

        limiters, observers = frozen("register_limiters"), Observers(frozen("register_observers"))
        deadlines = Deadlines()
        concerns = Concerns(
            authenticators=frozen("register_authenticators"),
            limiters=limiters,
            admits=tuple((one.admit, one) for one in limiters if isinstance(one, Limiter)),
            routers=frozen("register_routers"),
            tools=ToolPolicies(frozen("register_tool_policies")),
            own_tools=OwnTools(own, self.settings.tools, self.catalog) if (own := frozen("register_tools")) else None,
            transforms=Transforms(frozen("register_transforms")),
            answers=Answers(frozen("register_caches")),
            observers=observers,
            catalog=self.catalog,
            deadlines=deadlines,
            max_body=self.settings.server.max_body,
            read_timeout=self.settings.server.read_timeout,
            heartbeat=self.settings.server.heartbeat or math.inf,
        )
        by_attempt = [(one.admit_attempt, one) for one in limiters if isinstance(one, AttemptLimiter)]
        failover = Failover(
            self.settings.failover,
            self.vendors,
            deadlines,
            observers.attempt_failed,
            by_attempt,
            self.catalog.canonical,
        )
        return Pipeline(concerns, failover, jobs=self.services.get(JOBS))

    def require_safe(self) -> None:
        """Refuse to be open to everybody by accident.

        Raises:
            StartupError: it would listen beyond this machine without authentication, and nobody said so.
        """
        server = self.settings.server
        if not server.is_loopback() and not self.pipeline.concerns.authenticators and not server.allow_anonymous:
            raise StartupError(
                f"[server] host: {server.host!r} can be reached from other machines, but no authentication plugin "
                "is enabled; enable one, e.g. [plugins.auth_keys], or set allow_anonymous = true"
            )

    def faults(self) -> Iterable[str]:
        """What an operator should mend, though the gateway can serve without: broken plugins and deployments."""
        for plugin, faults in self.plugins.skipped.items():
            yield from (f"{fault} ([plugins.{plugin}] is skipped, as on_error says)" for fault in faults)
        for target in self.settings.targets:
            vendor = self.vendors.get(target.vendor)
            if vendor is None:
                known = ", ".join(sorted(self.vendors)) or "none"
                yield f"[[models]] {target.key}: no enabled plugin provides vendor {target.vendor!r}, only: {known}"
            elif (check := getattr(vendor, "check", None)) is not None:
                yield from (f"[[models]] {target.key}: {fault}" for fault in check(target))

    @property
    def routes(self) -> Sequence[tuple[str, Route | Endpoint]]:
        """Every route with the name of its plugin; complete once all plugins have been asked."""
        return self._routes

    def can_call(self, target: Target) -> bool:
        """Whether a deployment can be called: it lacks nothing, and a plugin provides its vendor."""
        return not target.unavailable and target.vendor in self.vendors

    async def run(self, call: Call) -> Completion:
        """Make a plain call that has no connection of its own; see `Pipeline.run`.

        Raises:
            GatewayError: what its client is to be told.
        """
        return await self.pipeline.run(call)

    async def tidy(self, name: str) -> None:
        """Have vendors stop what their servers still do for a job that is not run again; see `Tidier`."""
        for vendor in self.vendors.values():
            if isinstance(vendor, Tidier):
                try:
                    await vendor.tidy(name)
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    log.exception("the vendor %r could not tidy up after %s", vendor.name, name)

    async def execute(self, call: Call, tool_call: ToolCall) -> str:
        """Run a tool of the gateway's own for the client of a plugin's own route; policies are not asked.

        Args:
            call: parsed, its principal and model known.
            tool_call: of a model, or of somebody in its place.

        Returns:
            What the model is told, also where something went wrong.
        """
        own = self.pipeline.concerns.own_tools
        return (
            f"error: there is no tool {tool_call.name!r} any more"
            if own is None
            else await own.execute(call, tool_call)
        )

    async def answer(self, call: Call, surface: Surface, request: web.Request) -> web.StreamResponse:
        """Take a call of a plugin's own route through the whole pipeline, and answer it, plain or streamed.

        Args:
            call: parsed, its principal known.
            surface: writes the answer, and errors: none is raised.
            request: the route's.
        """
        return await self.pipeline.serve(Endpoint(request.path, call.operation, surface), request, parsed=call)

    async def nothing_here(self, request: web.Request) -> NoReturn:
        """The handler for unknown paths; surfaces whose errors have their own shape make it their last route.

        Raises:
            NotFound: always; it names the path that was probably meant.
        """
        raise unknown_path(request.method, request.path, [route for _, route in self._routes])

    async def reload(self) -> Mapping[str, Any]:
        """Have new processes with the settings as they are now take over; gives `address`, `models`, `workers`.

        Raises:
            StartupError: the new settings cannot be served, with every fault found; nothing has changed.
            Unavailable: there is no parent process to do it.
        """
        if self.control is None:
            raise Unavailable("this gateway cannot be reloaded from within: its process has no parent that would do it")
        said = await asyncio.to_thread(ask, self.control, "reload")
        if faults := said.pop("faults"):
            raise StartupError(*faults)
        return said

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open the egress and the plugins' lifespans, in dependency order; close them in reverse.

        Raises:
            StartupError: a lifespan cannot begin; those that have begun are ended first.
        """
        rank = {name: place for place, name in enumerate(self._by_dependency)}
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.egress.lifespan())
            for plugin, enter in sorted(self._lifespans, key=lambda one: rank[one[0]]):
                if plugin not in self.plugins.names:  # skipped since: another lifespan of it has failed
                    continue
                who = self.plugins.named(plugin)
                try:
                    await stack.enter_async_context(WatchedLifespan(who, enter()))
                except StartupError as error:
                    self._do_without(plugin, *(f"{who}: {fault}" for fault in error.faults))
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    self._do_without(plugin, f"{who} cannot start: {self.plugins.told(plugin, error)}")
            self.serving = True
            try:
                yield
            finally:
                self.serving = False
                if self.pipeline.settlements:
                    await asyncio.wait(self.pipeline.settlements, timeout=_SETTLING_SECONDS)

    def _do_without(self, plugin: str, *faults: str) -> None:
        """Go on without a plugin that cannot start.

        Raises:
            StartupError: with these faults, if it may not be skipped.
        """
        self.plugins.skip(plugin, *faults)
        for fault in faults:
            log.error("%s ([plugins.%s] is skipped, as on_error says)", fault, plugin)
        self._assemble()

    def app(self) -> web.Application:
        """The aiohttp application: every plugin's paths, and an answer for all others."""
        return application(self.pipeline, [route for _, route in self._routes], self.nothing_here)


def _by_name(
    collected: Iterable[tuple[str, Vendor]], labelled: Callable[[str], str]
) -> tuple[dict[str, Vendor], list[str]]:
    """The vendors, and a fault for every name that is taken twice."""
    vendors: dict[str, Vendor] = {}
    owners: dict[str, str] = {}
    faults: list[str] = []
    for plugin, vendor in collected:
        if vendor.name in vendors:
            faults.append(
                f"vendor {vendor.name!r} is provided by both {labelled(owners[vendor.name])} and {labelled(plugin)}; "
                "disable one"
            )
        vendors.setdefault(vendor.name, vendor)
        owners.setdefault(vendor.name, plugin)
    return vendors, faults


def _owned_twice(routes: Iterable[tuple[str, Any]], labelled: Callable[[str], str]) -> Iterable[str]:
    """A fault for every method and path that two plugins serve; "*" is every method, and names in {} do not count."""
    owners: dict[str, dict[str, str]] = {}
    for plugin, route in routes:
        known = owners.setdefault(re.sub(r"\{\w+", "{", route.path), {})
        method = route.method.upper()
        other = known.get(method) or known.get("*") or (next(iter(known.values()), None) if method == "*" else None)
        if other is not None:
            both = f"{labelled(other)} and {labelled(plugin)}"
            yield f"{method} {route.path} is served by both plugins {both}; disable one"
        known.setdefault(method, plugin)
