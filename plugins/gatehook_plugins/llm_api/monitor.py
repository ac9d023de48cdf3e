"""How the models do, learnt from the calls that were made: nothing is called only to see whether it answers.

Every process has its own view, of the calls that it served.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Literal

from msgspec import Struct

from gatehook import Call, Catalog, DeploymentHealth, GatewayError, Observer, Outcome, Target

__all__ = ["Health", "Monitor", "Vitals"]

Health = Literal["healthy", "degraded", "unavailable"]

_KEPT: Final = 100
"""Calls remembered of each model."""
_WINDOW: Final = 300.0
"""Seconds after which they are forgotten."""
_DEGRADED: Final = 0.1
"""Share of failures from which on a model is not healthy."""
_ENOUGH: Final = 3
"""Failures, and nothing else, that make it unavailable."""
_FROM_BEST: Final[Sequence[Health]] = ("healthy", "degraded", "unavailable")
_VENDOR_FAILURES: Final = frozenset({429, 502, 503, 504})


class _Seen(Struct, frozen=True):
    """One call: when it ended (by the monitor's clock), its duration in seconds, and whether the vendor failed."""

    at: float
    duration: float
    failed: bool


class Vitals(Struct, frozen=True):
    """How one model did in its last calls; None where there were none."""

    health: Health
    error_rate: float | None = None
    """Share of calls that the vendor failed, from 0 to 1."""
    response_time: float | None = None
    """Mean duration, in seconds, of those it answered."""
    age: float | None = None
    """Seconds since the last one ended, or a deployment was checked."""


class Monitor(Observer):
    """Keeps the last outcomes of each model by its public name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, deque[_Seen]] = {}
        self._failing: dict[str, set[str]] = {}
        """Which models have failed a call that is not over, by the call's id."""
        self._catalog: Catalog | None = None
        self._deployments: DeploymentHealth | None = None

    def follow(self, catalog: Catalog, deployments: DeploymentHealth | None = None) -> None:
        """Watch the models of this catalog. `deployments`, if a plugin offers it, tells how their deployments do."""
        self._catalog = catalog
        self._deployments = deployments
        catalog.subscribe(self._forget)

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        """Remember, until the call is over, that this model failed it: also if a fallback answers."""
        if error.status in _VENDOR_FAILURES:
            self._failing.setdefault(call.id, set()).add(target.name)

    def finished(self, call: Call, outcome: Outcome) -> None:
        """Remember how a call went: for the model that answered, and for those that failed before."""
        failing = self._failing.pop(call.id, ())
        if self._catalog is None:
            return
        ended = dict.fromkeys(failing, True)
        if (failed := _vendor_failed(outcome)) is not None:
            ended[self._catalog.canonical(call.public_name)] = failed
        for name in ended.keys() & self._catalog.groups().keys():
            seen = self._seen.setdefault(name, deque(maxlen=_KEPT))
            seen.append(_Seen(self._clock(), outcome.duration, ended[name]))

    def vitals(self, name: str, group: Sequence[Target]) -> Vitals:
        """How the model `name` does, of which the deployments in `group` can be called."""
        now = self._clock()
        name = name if self._catalog is None else self._catalog.canonical(name)
        known, checked = self._known(group)
        seen = [one for one in self._seen.get(name, ()) if now - one.at <= _WINDOW]
        if not seen:
            return Vitals(known, age=checked)
        answered = [one.duration for one in seen if not one.failed]
        error_rate = (len(seen) - len(answered)) / len(seen)
        health: Health = known if error_rate < _DEGRADED else max(known, "degraded", key=_FROM_BEST.index)
        if not answered and len(seen) >= _ENOUGH and (self._deployments is None or known == "degraded"):
            health = "unavailable"
        return Vitals(
            health=health,
            error_rate=error_rate,
            response_time=sum(answered) / len(answered) if answered else None,
            age=now - seen[-1].at if checked is None else min(checked, now - seen[-1].at),
        )

    def _known(self, group: Sequence[Target]) -> tuple[Health, float | None]:
        """How its deployments do, and how many seconds ago something was learnt of one.

        A model is as well as the best of them; if some do worse it is degraded.
        """
        if not group:
            return "unavailable", None
        if self._deployments is None:
            return "healthy", None
        found = [self._deployments.of(target) for target in group]
        states = {one.state for one in found}
        checked = max((one.last_check for one in found if one.last_check is not None), default=None)
        health: Health = states.pop() if len(states) == 1 else "degraded"
        return health, None if checked is None else max(0.0, time.time() - checked)

    def _forget(self) -> None:
        """Forget models that are no longer in the catalog, which has changed."""
        assert self._catalog is not None  # noqa: S101  # it is the one that calls
        self._seen = {name: seen for name, seen in self._seen.items() if name in self._catalog.groups()}


def _vendor_failed(outcome: Outcome) -> bool | None:
    """Whether the vendor failed; None if the outcome tells nothing of it: callers err, leave, and hit caches."""
    if outcome.status == "complete":
        return False
    if outcome.status == "failed" and outcome.http_status in _VENDOR_FAILURES:
        return True
    # A stream that broke: its status has long been sent, only the code tells why.
    broken = outcome.status == "partial" and outcome.code.startswith(("upstream_", "vendor_plugin_"))
    return True if broken else None
