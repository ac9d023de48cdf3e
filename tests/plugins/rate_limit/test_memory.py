"""What only the store in memory must do: stay small."""

from typing import Any

from gatehook import Limits
from gatehook_plugins.rate_limit.memory import MemoryStore
from gatehook_plugins.rate_limit.rules import rules


async def test_what_is_idle_is_forgotten(clock: Any) -> None:
    store = MemoryStore(clock)
    for number in range(1000):
        decision = await store.admit(rules("key", str(number), Limits(5, 1000, 5)), 10)
        assert decision.grant is not None
        await store.settle(decision.grant, 1, 10)
    for _ in range(3):
        clock.turn(61)
        await store.admit(rules("key", "last", Limits(5)), 0)
    assert store._running == {}
    assert {*store._recent, *store._older} == {"requests:key:last"}


async def test_what_runs_for_long_is_not_forgotten(clock: Any) -> None:
    store, limit = MemoryStore(clock), rules("key", "k", Limits(9, 1000, 1))
    grant = (await store.admit(limit, 10)).grant
    assert grant is not None
    for _ in range(10):
        clock.turn(61)
        assert not (await store.admit(limit, 10)).admitted
    await store.settle(grant, 1, 900)  # out of the window; nothing is charged
    assert [one.left for one in (await store.admit(limit, 10)).readings] == [8, 990, 0]


async def test_refusals_keep_nothing_in_memory(clock: Any) -> None:
    store = MemoryStore(clock)
    for number in range(1000):
        await store.admit(rules("key", str(number), Limits(None, None, 0)), 0)
    assert store._running == {}


async def test_a_busy_window_never_has_more_than_sixty_one_seconds(clock: Any) -> None:
    store, limit = MemoryStore(clock), rules("key", "k", Limits(10**6))
    for _ in range(500):
        await store.admit(limit, 0)
        clock.turn(0.7)
    (window,) = store._recent.values()
    assert len(window._slots) <= 61
    assert window.used == sum(window._slots.values())
