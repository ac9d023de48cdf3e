"""A manager whose processes the test plays."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from gatehook_plugins.vendor_gguf.failures import EngineFailed
from gatehook_plugins.vendor_gguf.manager import Manager
from gatehook_plugins.vendor_gguf.messages import Rules, Spec

Report = Callable[[float], None]


class Engine:
    """A process as the manager sees it: loaded and ended when the test says so, or at once."""

    socket, memory, context = "", None, 0

    def __init__(self, spec: Spec, world: "World") -> None:
        self.spec = spec
        self.world = world
        self.loaded = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not world.slow:
            self.loaded.set()

    async def begin(self, progress: Report, timeout: float) -> None:
        self.world.living.append(self)
        self.world.check()
        progress(0.5)
        self.ended.add_done_callback(lambda _: self.loaded.set())
        await self.loaded.wait()
        if self.spec.name in self.world.broken:
            self.world.living.remove(self)
            raise EngineFailed("is broken")
        if self.ended.done():
            self.world.living.remove(self)
            self.ended.exception()
            raise EngineFailed("was stopped")

    async def wait(self) -> None:
        try:
            await self.ended
            await asyncio.sleep(0)  # a process takes a moment to end
        finally:
            self.world.living.remove(self)

    def stop(self) -> None:
        self.world.stopped.append(self.spec)
        if not self.ended.done():
            self.ended.set_result(None)

    def crash(self, served: float = 1.0) -> None:
        self.ended.set_exception(EngineFailed("ended by signal SIGABRT: GGML_ASSERT", served=served))


@dataclass
class World:
    """A manager, its processes, and the limits that must hold at every moment."""

    rules: Rules
    slow: bool = False
    measured: int | None = None
    broken: set[str] = field(default_factory=set)
    started: list[Engine] = field(default_factory=list)
    living: list[Engine] = field(default_factory=list)
    stopped: list[Spec] = field(default_factory=list)
    looked_at: list[Spec] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manager = Manager(self._start, self._measure)
        self.manager.adopt(self.rules)

    def _start(self, spec: Spec) -> Engine:
        self.started.append(Engine(spec, self))
        return self.started[-1]

    async def _measure(self, spec: Spec) -> int | None:
        self.looked_at.append(spec)
        return self.measured

    def check(self) -> None:
        assert len(self.living) <= self.rules.max_concurrent_models
        assert sum(one.spec.need for one in self.living) <= self.rules.memory_limit

    async def begun(self, count: int) -> Engine:
        """The engine that is begun as the `count`-th."""
        await self.until(lambda: len(self.started) >= count)
        return self.started[count - 1]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0)

    async def tick(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def loads(self) -> list[str]:
        return [one.spec.name for one in self.started]

    def status(self) -> dict[str, str]:
        return {state.name: state.status for state in self.manager.states()}


@pytest.fixture
async def world() -> AsyncIterator[Callable[..., World]]:
    made: list[World] = []

    def make(*, slow: bool = False, measured: int | None = None, **rules: Any) -> World:
        usual: dict[str, Any] = {"stamp": 1.0, "switch_after": 60.0, "max_concurrent_models": 2}
        made.append(World(Rules(**(usual | rules)), slow=slow, measured=measured))
        return made[-1]

    yield make
    for one in made:
        await one.manager.close()
        assert one.living == []
