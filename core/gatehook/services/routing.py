"""The catalog of deployments, how they share the calls, and how they fare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gatehook.groups import Group
from gatehook.model import Target, Vitality
from gatehook.services.registry import ServiceKey

__all__ = ["BALANCING", "CATALOG", "HEALTH", "Balancing", "Catalog", "DeploymentHealth"]


class Catalog(Protocol):
    """All deployments, grouped by the public names clients ask for."""

    def group(self, name: str) -> Group:
        """The deployments that answer for one name (a model's, an alias, one that a wildcard serves), () if none do."""
        ...

    def groups(self) -> Mapping[str, Group]:
        """All models, in the order of the settings, wildcards ("openai/*") among them; then all aliases."""
        ...

    def canonical(self, name: str) -> str:
        """The name of the model, or the wildcard, that answers for `name`; `name` itself if nobody does.

        What is counted by model is counted by this: aliases are the same model, and clients write what wildcards serve.
        """
        ...

    def feed(self, source: str, targets: Sequence[Target]) -> None:
        """Replace everything that `source` (a plugin's name) has added to the deployments of the settings."""
        ...

    def amend(self, source: str, amended: Callable[[Target], Target]) -> None:
        """Have every deployment pass through `amended`, in place of the function that `source` gave before."""
        ...

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a group has changed."""
        ...


class Balancing(Protocol):
    """How calls are shared among the deployments of a model."""

    @property
    def strategies(self) -> Sequence[str]:
        """The names of those there are."""
        ...

    @property
    def strategy(self) -> str:
        """The one that holds now."""
        ...


class DeploymentHealth(Protocol):
    """Which deployments answer, as far as it is known to all workers, and with Redis to all nodes."""

    @property
    def failure_threshold(self) -> int:
        """Failures in a row after which a deployment is given a rest; as it holds now."""
        ...

    @property
    def recovery_threshold(self) -> int:
        """Successes in a row after which it is up again; as it holds now."""
        ...

    @property
    def health_check_interval(self) -> float:
        """Seconds between two checks of a deployment that nobody asks for, 0 for none; as it holds now."""
        ...

    def of(self, target: Target) -> Vitality:
        """How one deployment does. Costs no I/O."""
        ...


BALANCING: ServiceKey[Balancing] = ServiceKey("balancing", provider="route_models")
CATALOG: ServiceKey[Catalog] = ServiceKey("catalog", provider="kernel")
HEALTH: ServiceKey[DeploymentHealth] = ServiceKey("health", provider="cooldown")
