"""The catalog of deployments, how calls are shared among them, and their health."""

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

        Statistics are kept by this name: an alias is the same model, and the names that wildcards serve are the
        clients' choice, without number.
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
        """The names of all strategies."""
        ...

    @property
    def strategy(self) -> str:
        """The name of the current one."""
        ...


class DeploymentHealth(Protocol):
    """Which deployments answer, by what all workers know together, and with Redis all nodes."""

    @property
    def failure_threshold(self) -> int:
        """Failures in a row after which a deployment is given a rest; the current setting."""
        ...

    @property
    def recovery_threshold(self) -> int:
        """Successes in a row after which it is healthy again; the current setting."""
        ...

    @property
    def health_check_interval(self) -> float:
        """Seconds between two checks of a deployment without calls, 0 for none; the current setting."""
        ...

    def of(self, target: Target) -> Vitality:
        """The health of one deployment. Costs no I/O."""
        ...


BALANCING: ServiceKey[Balancing] = ServiceKey("balancing", provider="route_models")
CATALOG: ServiceKey[Catalog] = ServiceKey("catalog", provider="kernel")
HEALTH: ServiceKey[DeploymentHealth] = ServiceKey("health", provider="cooldown")
