"""Services by typed keys: what plugins offer each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from gatehook.errors import StartupError

__all__ = ["ServiceKey", "ServiceMissing", "Services"]

T = TypeVar("T")


@dataclass(frozen=True)  # no slots: `ServiceKey[Thing](…)` fails with them, as typing sets an attribute on the object
class ServiceKey(Generic[T]):
    """Names a service and carries its type. `provider` is the plugin that usually offers it, for error messages."""

    name: str
    provider: str


class ServiceMissing(StartupError):
    """Nobody offers a service that was asked for."""

    def __init__(self, key: ServiceKey[Any]) -> None:
        super().__init__(f"service {key.name!r} is not offered by any plugin; enable [plugins.{key.provider}]")
        self.key = key


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
            ServiceMissing: nobody offers it; the message names the plugin to enable.
        """
        if key.name not in self._offers:
            raise ServiceMissing(key)
        return cast("T", self._offers[key.name][0])

    def get(self, key: ServiceKey[T]) -> T | None:
        """The service, None if nobody offers it."""
        offer = self._offers.get(key.name)
        return None if offer is None else cast("T", offer[0])

    def __contains__(self, key: ServiceKey[Any]) -> bool:
        return key.name in self._offers
