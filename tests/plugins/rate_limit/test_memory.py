"""What only the store in memory must do: stay small, and write beforehand what it tells."""

import time
from typing import Any

import pytest

from gatehook import Limits
from gatehook.awaiting import awaited
from gatehook_plugins.rate_limit.memory import MemoryStore
from gatehook_plugins.rate_limit.rules import rules
from gatehook_plugins.rate_limit.store import SECOND, SLOTS, Decision
from gatehook_plugins.rate_limit.told import Headers


async def test_what_is_idle_is_forgotten(clock: Any) -> None:
    store = MemoryStore(clock.nanoseconds)
    for number in range(1000):
        decision = await awaited(store.gate(rules("key", str(number), Limits(5, 1000, 5))).admit(10))
        assert decision.grant is not None
        await awaited(decision.grant.gate.settle(decision.grant, 1, 10))
    del decision
    for _ in range(3):
        clock.turn(61)
        await awaited(store.gate(rules("key", "last", Limits(5))).admit(0))
    assert len(store._running) == 0
    assert {*store._recent, *store._older} == {"requests:key:last"}


async def test_what_runs_for_long_is_not_forgotten(clock: Any) -> None:
    store, limit = MemoryStore(clock.nanoseconds), rules("key", "k", Limits(9, 1000, 1))
    grant = (await awaited(store.gate(limit).admit(10))).grant
    assert grant is not None
    for _ in range(10):
        clock.turn(61)
        assert not (await awaited(store.gate(limit).admit(10))).admitted
    await awaited(grant.gate.settle(grant, 1, 900))  # what was reserved is out of the window
    assert (await awaited(store.gate(limit).admit(10))).left == [8, 100, 0]


async def test_refusals_keep_nothing_in_memory(clock: Any) -> None:
    store = MemoryStore(clock.nanoseconds)
    for number in range(1000):
        await awaited(store.gate(rules("key", str(number), Limits(None, None, 0))).admit(0))
    assert len(store._running) == 0


async def test_a_busy_window_never_has_more_than_sixty_one_seconds(clock: Any) -> None:
    store, limit = MemoryStore(clock.nanoseconds), rules("key", "k", Limits(10**6))
    for _ in range(500):
        await awaited(store.gate(limit).admit(0))
        clock.turn(0.7)
    (window,) = store._recent.values()
    assert len(window._earlier) <= 60
    assert window.used >= window._before == sum(window._earlier.values())


USER = rules("user", "u", Limits(50, 5000))


@pytest.mark.parametrize("more", [(), USER], ids=["one", "several"])
@pytest.mark.parametrize(
    "limits",
    [Limits(9), Limits(None, 900), Limits(9, 900), Limits(9, None, 8), Limits(9, 900, 8), Limits(None, None, 8)],
)
async def test_headers_written_beforehand_are_those_of_the_moment(
    clock: Any, monkeypatch: pytest.MonkeyPatch, limits: Limits, more: Any
) -> None:
    monkeypatch.setattr(time, "time", lambda: clock.now / SECOND + 86_400.4)
    found = rules("key", "k", limits) + more
    gate, headers = MemoryStore(clock.nanoseconds).gate(found), Headers(found)
    for seconds in (0, 0.3, 0.449_999, 0.000_001, 1, 7.25, 61, 0.001):
        clock.turn(seconds)
        decision = gate.admit(10)
        assert decision.admitted
        ends = (clock.now // SECOND + SLOTS) * SECOND
        resets = [0 if rule.unit == "concurrent" else ends - clock.now for rule in found]
        told = decision.lines or headers.of(decision, time.time())
        assert told == headers.of(Decision(decision.left, resets), time.time())


async def test_who_has_one_limit_of_a_kind_is_told_without_comparing(clock: Any) -> None:
    store = MemoryStore(clock.nanoseconds)
    assert store.gate(rules("key", "k", Limits(9, 900, 8))).admit(10).lines
    assert not store.gate(rules("key", "k", Limits(None, None, 8))).admit(10).lines
    assert not store.gate(rules("key", "k", Limits(9)) + USER).admit(10).lines
