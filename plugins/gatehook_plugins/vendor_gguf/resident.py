"""A model that is loaded, being loaded, or being unloaded: its process, its leases, and since when it is idle."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from gatehook_plugins.vendor_gguf.messages import Spec, State

__all__ = ["Engine", "Resident", "Starter"]


class Engine(Protocol):
    """The process of one model; see `EngineProcess`."""

    context: int

    @property
    def socket(self) -> str:
        """Path of the Unix socket on which it answers."""
        ...

    @property
    def memory(self) -> int | None:
        """Bytes of memory that it holds; None if that cannot be read."""
        ...

    async def begin(self, progress: Callable[[float], None], timeout: float) -> None:
        """Start it, and wait until it answers."""
        ...

    async def wait(self) -> None:
        """Wait until it has ended."""
        ...

    def stop(self) -> None:
        """Have it end."""
        ...


Starter = Callable[[Spec], Engine]
"""Makes the engine of a model, which is not started yet."""


class Resident:
    """A model that has a process, or will have one in a moment."""

    def __init__(self, spec: Spec, engine: Engine, waiters: "list[asyncio.Future[Resident]]") -> None:
        """`waiters` get a lease as soon as it is loaded."""
        self.spec = spec
        self.engine = engine
        self.waiters = waiters
        self.ended = asyncio.Event()
        self.leaving = False
        """Whether it takes no further requests, and is unloaded when those it has are answered."""
        self.pinned = False
        """Whether it is never unloaded to make room."""
        self.watched = False
        """Whether a timer will look how long it has been idle."""
        self.last_used = 0.0
        """In the loop's time, like `ready_at`."""
        self.ready_at: float | None = None
        self.leases = 0
        self._loaded_at: float | None = None
        self._progress = 0.0

    @property
    def loading(self) -> bool:
        """Whether it is not loaded yet."""
        return self.ready_at is None

    @property
    def ready(self) -> bool:
        """Whether it can take a request."""
        return self.ready_at is not None and not self.leaving

    @property
    def evictable(self) -> bool:
        """Whether it can be unloaded without anybody noticing."""
        return self.ready and not self.leases and not self.pinned

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it to be loaded."""
        return any(not waiter.done() for waiter in self.waiters)

    async def load(self, timeout: float) -> None:
        """Load it, and lease it to those who wait.

        Raises:
            EngineFailed: it cannot be loaded, or not within `timeout` seconds.
        """
        await self.engine.begin(self._on, timeout)
        self.ready_at = self.last_used = asyncio.get_running_loop().time()
        self._loaded_at = time.time()
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                self.leases += 1
                waiter.set_result(self)

    def take(self) -> "Resident":
        """Lease it."""
        self.leases += 1
        return self

    def give_back(self) -> None:
        """End a lease."""
        self.leases -= 1
        self.last_used = asyncio.get_running_loop().time()

    def state(self) -> State:
        """Its state, for the service."""
        return State(
            name=self.spec.name,
            status="loading" if self.loading else "loaded",
            spec=self.spec,
            context=self.engine.context,
            progress=self._progress if self.loading else None,
            loaded_at=self._loaded_at,
            memory=self.engine.memory,
            active=self.leases,
        )

    def _on(self, progress: float) -> None:
        self._progress = min(max(progress, 0.0), 1.0)
