"""Routers over deployments that a test writes down."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gatehook import ANONYMOUS, Call, DeploymentHealth, Outcome, Principal, Target
from gatehook.catalog import LiveCatalog
from gatehook.jsonio import Document
from gatehook_plugins.route_models.affinity import Affinity
from gatehook_plugins.route_models.balance import Balance
from gatehook_plugins.route_models.loads import Loads
from gatehook_plugins.route_models.router import ModelRouter
from gatehook_plugins.route_models.strategies import strategies


def target(key: str, **fields: Any) -> Target:
    return Target(**({"key": key, "name": key.partition("#")[0], "vendor": "mock", "model": "m"} | fields))


@dataclass
class Clock:
    """Seconds, as a test has them."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Routed:
    """A router, and all it looks at."""

    catalog: LiveCatalog
    balance: Balance
    loads: Loads
    clock: Clock
    router: ModelRouter = field(repr=False)

    async def keys(self, model: str = "a", **call: Any) -> list[str]:
        targets = self.router.route(a_call(model, **call))
        assert targets is not None
        return [one.key for one in targets]

    async def first(self, model: str = "a", **call: Any) -> str:
        return (await self.keys(model, **call))[0]

    async def ran(self, key: str, seconds: float, *, stream: bool = False, status: int = 200, model: str = "a") -> None:
        """An attempt at a deployment, which took so long."""
        call = a_call(model, stream=stream)
        permit = self.loads.admit_attempt(call, next(one for one in self.catalog.group(model) if one.key == key))
        assert permit is not None
        self.clock.now += seconds
        if stream and status == 200:
            call.first_token = self.clock.now
            self.clock.now += 100.0  # the rest of the answer, which does not count
        permit.settle(Outcome("complete" if status == 200 else "failed", status))


def a_call(
    model: str, *, stream: bool = False, principal: Principal = ANONYMOUS, session: str = "", body: Any = None
) -> Call:
    made = Call("chat", "test", {"X-Session": session} if session else {})
    made.model, made.stream, made.principal = model, stream, principal
    made.body = Document(body if body is not None else {"messages": [{"role": "user", "content": "hello"}]})
    return made


def routed(
    *targets: Target,
    strategy: str = "weighted",
    affinity: str = "",
    health: DeploymentHealth | None = None,
    chance: Callable[[], float] | None = None,
    seed: int = 1,
) -> Routed:
    catalog, balance, clock = LiveCatalog(targets), Balance(strategy), Clock()
    loads = Loads(clock)
    router = ModelRouter(
        catalog,
        balance,
        strategies(loads, chance or random.Random(seed).random),
        loads,
        affinity=Affinity(affinity) if affinity else None,
        health=health,
    )
    return Routed(catalog, balance, loads, clock, router)


@pytest.fixture(name="target")
def target_fixture() -> Callable[..., Target]:
    """Makes a deployment by its key, "name#1"."""
    return target


@pytest.fixture(name="a_call")
def call_fixture() -> Callable[..., Call]:
    """Makes a call."""
    return a_call


@pytest.fixture(name="routed")
def routed_fixture() -> Callable[..., Routed]:
    """Makes a router over deployments."""
    return routed


@pytest.fixture
def tier() -> Callable[..., Sequence[Target]]:
    """So many deployments of one model and priority."""

    def made(count: int, **fields: Any) -> Sequence[Target]:
        return [target(f"a#{place}", **fields) for place in range(count)]

    return made
