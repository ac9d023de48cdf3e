"""Courses of events that hypothesis thinks up for a limiter, and shortens to the least that goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gatehook.model import Outcome, Usage
from gatehook.protocols import Limiter, Permit
from gatehook.testing.conformance.suite import expect

if TYPE_CHECKING:
    from gatehook.testing.conformance.limiter import LimiterConformance

__all__ = ["explore"]

T = TypeVar("T")

_ENDINGS = st.sampled_from(["complete", "partial", "failed", "rejected", "cached"])


async def explore(suite: LimiterConformance, limiter: Limiter, examples: int) -> None:
    """Try many courses, each with a principal of its own.

    Hypothesis runs in a thread, and what it thinks up on this loop, where the limiter lives.
    """
    loop = asyncio.get_running_loop()

    class Course(RuleBasedStateMachine):
        """Calls that come, end, are refused and are cancelled."""

        def __init__(self) -> None:
            super().__init__()
            self.who = suite.newcomer()
            self.held: list[Permit] = []

        def on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

        @rule()
        def one_comes(self) -> None:
            self._came([self.on_loop(suite.admitted(limiter, self.who))])

        @rule(count=st.integers(2, 6))
        def several_come_at_once(self, count: int) -> None:
            async def come() -> list[Permit | None]:
                return await asyncio.gather(*(suite.admitted(limiter, self.who) for _ in range(count)))

            self._came(self.on_loop(come()))

        def _came(self, found: list[Permit | None]) -> None:
            room = suite.limit - len(self.held)
            permits = [permit for permit in found if permit is not None]
            self.held += permits
            expect(
                len(permits) == min(room, len(found)),
                f"with room for {room}, {len(permits)} of {len(found)} calls are admitted",
            )

        @rule(place=st.integers(0, 9), status=_ENDINGS)
        def one_ends(self, place: int, status: Any) -> None:
            if self.held:
                permit = self.held.pop(place % len(self.held))
                usage = Usage(0, 0) if status in ("complete", "partial") else None
                self.on_loop(permit.settle(Outcome(status, 200, usage)))

        @rule(steps=st.integers(0, 4))
        def one_is_cancelled(self, steps: int) -> None:
            async def come_and_go() -> None:
                await suite.cancelled(limiter, self.who, steps)

            self.on_loop(come_and_go())

        @invariant()
        def the_limit_holds(self) -> None:
            expect(len(self.held) <= suite.limit, f"{len(self.held)} calls run at once, the limit is {suite.limit}")

        def teardown(self) -> None:
            self.on_loop(suite.ends(self.held))

    chosen = settings(
        max_examples=examples,
        stateful_step_count=12,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    await asyncio.to_thread(run_state_machine_as_test, Course, settings=chosen)
