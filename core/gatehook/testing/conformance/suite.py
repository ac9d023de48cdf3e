"""What the suites have in common: checks with names for the report, and a gateway with the plugin in question."""

import asyncio
import inspect
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NoReturn, TypeVar

import pytest

from gatehook.app import Gateway
from gatehook.loader.loading import installed
from gatehook.testing import built

__all__ = [
    "NOT_OFFERED",
    "Suite",
    "capabilities",
    "capability_of",
    "check",
    "checks",
    "eventually",
    "expect",
    "not_offered",
    "toml",
    "within",
]

NOT_OFFERED = "not offered: "
"""How the reason of a skipped check begins, if the plugin does not claim the capability."""

PATIENCE = 2.0
"""Seconds for what may happen after a method has returned."""

T = TypeVar("T")
Check = TypeVar("Check", bound=Callable[..., Awaitable[None]])


def check(capability: str) -> Callable[[Check], Check]:
    """Mark an async method of a suite as a check of a capability, which is a row of the report."""

    def marked(method: Check) -> Check:
        method.capability = capability  # type: ignore[attr-defined]
        marked: Check = pytest.mark.asyncio(method)
        return marked

    return marked


def capability_of(method: object) -> str:
    """The capability that a test method checks; "" if it is not a check of a suite."""
    return str(getattr(method, "capability", ""))


def capabilities(suite: "type[Suite]") -> list[str]:
    """The capabilities that a suite checks, in the order of its classes."""
    methods = [method for cls in reversed(suite.__mro__) for method in vars(cls).values()]
    return list(dict.fromkeys(filter(None, map(capability_of, methods))))


def expect(holds: object, message: str) -> None:
    """Fail the check with this message unless the claim holds."""
    if not holds:
        pytest.fail(message, pytrace=False)


async def eventually(holds: Callable[[], Awaitable[bool]], message: str, seconds: float = PATIENCE) -> None:
    """Fail the check with this message unless the claim comes true in time, for what is done in the background."""
    end = time.monotonic() + seconds
    while not await holds():
        expect(time.monotonic() < end, message)
        await asyncio.sleep(0.01)


async def within(seconds: float, happening: Awaitable[object]) -> bool:
    """Wait for something; whether it happens in time."""
    try:
        await asyncio.wait_for(happening, seconds)
    except TimeoutError:
        return False
    return True


def not_offered(why: str) -> NoReturn:
    """End the check as skipped: the plugin does not claim this."""
    pytest.skip(NOT_OFFERED + why)


class Suite:
    """A class to subclass. `plugin` is the plugin's name; the rest may stay as it is.

    A subclass that needs pytest's fixtures (a database, a server) sets `settings` in an autouse fixture of its own.
    """

    kind: ClassVar[str] = ""
    """What is checked: "vendor", "limiter" …"""
    plugin: str
    """The plugin's name: that of its entry point, and of its table in the settings."""
    plugin_class: type | None = None
    """The plugin's class, if it is not installed."""
    settings: str = ""
    """Lines of settings.toml. The plugin's table is added if it is not among them."""
    label: str = ""
    """The plugin's name in the report, if another one."""

    @classmethod
    def title(cls) -> str:
        """Its column in the report."""
        return cls.label or getattr(cls, "plugin", "") or cls.__name__

    def written(self, more: str = "") -> str:
        """The settings, with more lines before them."""
        table = f"[plugins.{self.plugin}]"
        return "\n".join([more, "" if table in self.settings else table, self.settings])

    @property
    def plugins(self) -> dict[str, type]:
        """Plugin classes that are not installed."""
        return {self.plugin: self.plugin_class} if self.plugin_class else {}

    def build(self, more: str = "") -> Gateway:
        """A gateway with the plugin, not serving yet."""
        return built(self.written(more), plugins=self.plugins)

    @asynccontextmanager
    async def running(self, more: str = "") -> AsyncIterator[Gateway]:
        """A gateway with the plugin, with all lifespans entered, but without a port."""
        gateway = self.build(more)
        async with gateway.lifespan():
            yield gateway

    def own(self, objects: Sequence[T], what: str) -> T:
        """The plugin's own one of these objects: it comes from the same package as the plugin's class."""
        cls = self.plugin_class or installed()[self.plugin].load()
        package = _package(cls.__module__)
        found = [one for one in objects if f"{type(one).__module__}.".startswith(f"{package}.")]
        names = ", ".join(type(one).__name__ for one in objects) or "none"
        expect(
            len(found) == 1,
            f"plugin {self.plugin!r}: expected one {what} from {package!r}, found {len(found)} (all: {names}); "
            f"override {self.kind}() in {type(self).__name__} to say which is meant",
        )
        return found[0]


def _package(module: str) -> str:
    """The package that a plugin's module is, or is in; the module itself if there is none."""
    is_package = hasattr(sys.modules.get(module), "__path__")
    return module if is_package else module.rpartition(".")[0] or module


def toml(value: Any) -> str:
    """A value as TOML writes it, in one line."""
    if isinstance(value, Mapping):
        return (
            "{ "
            + ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {toml(one)}" for key, one in value.items())
            + " }"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def checks(suite: type[Suite]) -> dict[str, str]:
    """The capability of each check, by the method's name."""
    methods = inspect.getmembers(suite, inspect.isfunction)
    return {name: capability_of(method) for name, method in methods if capability_of(method)}
