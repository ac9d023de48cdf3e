"""Sequences of events that hypothesis makes up for a limiter, and shrinks to the shortest that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gatehook.accounts import Usage
from gatehook.model import Outcome
from gatehook.protocols import Limiter, Permit
from gatehook.testing.conformance.suite import eventually, expect

if TYPE_CHECKING:
    from gatehook.testing.conformance.limiter import LimiterConformance

__all__ = ["explore"]

T = TypeVar("T")

_ENDINGS = st.sampled_from(["complete", "partial", "failed", "rejected", "cached"])


async def explore(suite: LimiterConformance, limiter: Limiter, examples: int) -> None:
    """Try many sequences of events, each with a principal of its own.

    Hypothesis runs in a thread; the events happen on this event loop, to which the limiter belongs.
    """
    around = {"suite": suite, "limiter": limiter, "loop": asyncio.get_running_loop()}
    chosen = settings(
        max_examples=examples,
        stateful_step_count=12,
        report_multiple_bugs=False,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    try:
        await asyncio.to_thread(run_state_machine_as_test, type("Course", (_Course,), around), settings=chosen)
    except AssertionError as error:
        expect(False, "\n".join([str(error), *getattr(error, "__notes__", ())]))


class _Course(RuleBasedStateMachine):
    """Calls that come, end, are refused and are cancelled."""

    suite: ClassVar[LimiterConformance]
    limiter: ClassVar[Limiter]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.who = self.suite.newcomer()
        self.held: list[Permit] = []
        self.waits = False
        """Whether a reservation may still have to be given back, as a call was cancelled."""

    def on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the limiter's event loop.

        Raises:
            AssertionError: a check failed; hypothesis shrinks by ordinary exceptions, which pytest's are not.
        """
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)
        except pytest.fail.Exception as failed:
            raise AssertionError(failed.msg) from None

    @rule()
    def one_comes(self) -> None:
        self._came([self.on_loop(self._admitted())])

    @rule(count=st.integers(2, 6))
    def several_come_at_once(self, count: int) -> None:
        async def come() -> list[Permit | None]:
            return await asyncio.gather(*(self._admitted() for _ in range(count)))

        self._came(self.on_loop(come()))

    async def _admitted(self) -> Permit | None:
        return await self.suite.admitted(self.limiter, self.who)

    def _came(self, found: list[Permit | None]) -> None:
        room = self.suite.limit - len(self.held)
        permits = [permit for permit in found if permit is not None]
        self.held += permits
        for _ in range(len(permits), min(room, len(found))):
            assert self.waits, f"with room for {room}, {len(permits)} of {len(found)} calls are admitted"
            self.on_loop(self._back())

    async def _back(self) -> None:
        """Wait until there is room again for a call that should have been admitted."""

        async def admitted() -> bool:
            permit = await self._admitted()
            self.held += [] if permit is None else [permit]
            return permit is not None

        await eventually(admitted, "what a cancelled call reserved is not given back", self.suite.patience)

    @rule(place=st.integers(0, 9), status=_ENDINGS)
    def one_ends(self, place: int, status: Any) -> None:
        if self.held:
            permit = self.held.pop(place % len(self.held))
            usage = Usage(0, 0) if status in ("complete", "partial") else None
            self.on_loop(self.suite.ends([permit], Outcome(status, 200, usage)))

    @rule(steps=st.integers(0, 4))
    def one_is_cancelled(self, steps: int) -> None:
        self.on_loop(self.suite.cancelled(self.limiter, self.who, steps))
        self.waits = True

    @invariant()
    def the_limit_holds(self) -> None:
        assert len(self.held) <= self.suite.limit, (
            f"{len(self.held)} calls run at once, the limit is {self.suite.limit}"
        )

    def teardown(self) -> None:
        """End the calls that are left."""
        self.on_loop(self.suite.ends(self.held))
