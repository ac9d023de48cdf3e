"""What one plugin offers another without either importing the other: typed keys and the interfaces behind them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

from gatehook.errors import StartupError
from gatehook.model import Target

__all__ = ["CATALOG", "Catalog", "ServiceKey", "Services"]

T = TypeVar("T")


@dataclass(frozen=True)  # no slots: with them `ServiceKey[Thing](…)` fails, where typing notes what it was made from
class ServiceKey(Generic[T]):
    """Names a service and carries its type. `provider` is the plugin that usually offers it, for error messages."""

    name: str
    provider: str


class Services:
    """The services of one gateway. Providing happens at start-up only; a second provider is a fault."""

    def __init__(self) -> None:
        self._offers: dict[str, tuple[object, str]] = {}

    def provide(self, key: ServiceKey[T], service: T, plugin: str) -> None:
        """Offer `service` under `key`.

        Raises:
            StartupError: another plugin offers it already.
        """
        if key.name in self._offers:
            raise StartupError(
                f"service {key.name!r} is offered by both {self._offers[key.name][1]!r} and {plugin!r}; disable one"
            )
        self._offers[key.name] = (service, plugin)

    def __getitem__(self, key: ServiceKey[T]) -> T:
        """The service.

        Raises:
            StartupError: nobody offers it; the message names the plugin to enable.
        """
        if key.name not in self._offers:
            raise StartupError(f"service {key.name!r} is not offered by any plugin; enable [plugins.{key.provider}]")
        return cast("T", self._offers[key.name][0])

    def __contains__(self, key: ServiceKey[Any]) -> bool:
        return key.name in self._offers


class Catalog(Protocol):
    """All deployments, grouped by the public names clients ask for."""

    def group(self, name: str) -> Sequence[Target]:
        """The deployments of one public name, () if there is none."""
        ...

    def groups(self) -> Mapping[str, Sequence[Target]]:
        """All groups, in the order of the settings."""
        ...

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a group has changed."""
        ...


CATALOG: ServiceKey[Catalog] = ServiceKey("catalog", provider="kernel")


class StaticCatalog:
    """The kernel's own catalog: the deployments of settings.toml, unchanging."""

    def __init__(self, targets: Sequence[Target]) -> None:
        groups: dict[str, list[Target]] = {}
        for target in targets:
            groups.setdefault(target.name, []).append(target)
        self._groups: Mapping[str, Sequence[Target]] = {name: tuple(group) for name, group in groups.items()}

    def group(self, name: str) -> Sequence[Target]:
        """The deployments of one public name, () if there is none."""
        return self._groups.get(name, ())

    def groups(self) -> Mapping[str, Sequence[Target]]:
        """All groups, in the order of the settings."""
        return self._groups

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Nothing ever changes here."""

    def __iter__(self) -> Iterator[Target]:
        return (target for group in self._groups.values() for target in group)


_guard: type[Catalog] = StaticCatalog
