"""What all stores must do alike: exact sliding windows, all or nothing, settlement."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook import Limits
from gatehook.awaiting import awaited
from gatehook_plugins.rate_limit.rules import Rule, Scope, rules
from gatehook_plugins.rate_limit.shared import RedisStore
from gatehook_plugins.rate_limit.store import BUSY, NEVER, Decision, Grant, Store


def rule(
    requests: int | None = None,
    tokens: int | None = None,
    concurrent: int | None = None,
    *,
    scope: Scope = "key",
    owner: str = "k",
) -> tuple[Rule, ...]:
    return rules(scope, owner, Limits(requests, tokens, concurrent))


def granted(decision: Decision) -> Grant:
    assert decision.admitted
    assert decision.grant is not None
    return decision.grant


def waits(decision: Decision) -> list[int]:
    return list(decision.waits or [0] * len(decision.left))


def left(decision: Decision) -> list[int]:
    return list(decision.left)


async def settle(grant: Grant, requests: int, tokens: int) -> None:
    await awaited(grant.gate.settle(grant, requests, tokens))


async def test_the_limit_is_let_through_and_not_one_more(store: Store) -> None:
    decisions = [await awaited(store.gate(rule(3)).admit(0)) for _ in range(5)]
    assert [one.admitted for one in decisions] == [True, True, True, False, False]
    assert [left(one) for one in decisions] == [[2], [1], [0], [0], [0]]
    assert decisions[3].grant is None


async def test_the_wait_is_exact_to_the_microsecond(store: Store, clock: Any) -> None:
    granted(await awaited(store.gate(rule(2)).admit(0)))
    clock.turn(10)
    granted(await awaited(store.gate(rule(2)).admit(0)))
    clock.turn(20.5)
    (wait,) = waits(await awaited(store.gate(rule(2)).admit(0)))
    assert 29_500_000 <= wait <= 30_500_000  # a minute after the first, to the second
    clock.now += wait - 1
    assert waits(await awaited(store.gate(rule(2)).admit(0))) == [1]
    clock.now += 1
    granted(await awaited(store.gate(rule(2)).admit(0)))
    assert not (await awaited(store.gate(rule(2)).admit(0))).admitted


async def test_reset_is_when_everything_is_free_again(store: Store, clock: Any) -> None:
    await awaited(store.gate(rule(5)).admit(0))
    clock.turn(30)
    await awaited(store.gate(rule(5)).admit(0))
    (reset,) = (await awaited(store.gate(rule(0)).admit(0))).resets
    clock.now += reset
    assert left(await awaited(store.gate(rule(5)).admit(0))) == [4]


async def test_all_limits_are_charged_or_none(store: Store) -> None:
    wide, narrow = rule(10, 1000, 10), rule(1, scope="user", owner="u")
    granted(await awaited(store.gate(narrow).admit(0)))
    refused = await awaited(store.gate(wide + narrow).admit(50))
    assert waits(refused)[:3] == [0, 0, 0]
    assert left(refused) == [10, 1000, 10, 0]
    assert left(await awaited(store.gate(wide).admit(50))) == [9, 950, 9]


async def test_tokens_are_refunded_in_the_second_they_were_charged(store: Store, clock: Any) -> None:
    limit = rule(tokens=100)
    first = granted(await awaited(store.gate(limit).admit(80)))
    clock.turn(5)
    refused = await awaited(store.gate(limit).admit(40))
    assert left(refused) == [20]
    await settle(first, 1, 30)
    assert left(await awaited(store.gate(limit).admit(40))) == [30]
    clock.turn(56)
    assert left(await awaited(store.gate(limit).admit(10))) == [50]  # the thirty have gone, not the forty


async def test_a_debt_leaves_nothing_until_it_is_out_of_the_window(store: Store, clock: Any) -> None:
    limit = rule(tokens=100)
    await settle(granted(await awaited(store.gate(limit).admit(10))), 1, 5000)
    clock.turn(30)
    refused = await awaited(store.gate(limit).admit(1))
    assert left(refused) == [0]
    clock.now += waits(refused)[0]
    assert left(await awaited(store.gate(limit).admit(1))) == [99]


async def test_what_was_not_used_at_all_leaves_no_trace(store: Store) -> None:
    limit = rule(2, 100, 1)
    grant = granted(await awaited(store.gate(limit).admit(60)))
    await settle(grant, 0, 0)
    refused = await awaited(store.gate(rule(0, 0, 0)).admit(1))
    assert left(refused) == list(refused.resets) == [0, 0, 0]
    assert left(await awaited(store.gate(limit).admit(60))) == [1, 40, 0]


async def test_settling_after_the_window_frees_nothing(store: Store, clock: Any) -> None:
    limit = rule(2, 100)
    old = granted(await awaited(store.gate(limit).admit(60)))
    clock.turn(61)
    granted(await awaited(store.gate(limit).admit(70)))
    await settle(old, 0, 10)
    assert left(await awaited(store.gate(limit).admit(10))) == [0, 20]


@pytest.mark.parametrize("others", [0, 1])
async def test_what_a_long_request_used_beyond_its_reservation_counts_from_its_end(
    store: Store, clock: Any, others: int
) -> None:
    limit = rule(tokens=100)
    old = granted(await awaited(store.gate(limit).admit(60)))
    clock.turn(65)
    for _ in range(others):
        granted(await awaited(store.gate(limit).admit(10)))
    await settle(old, 1, 60 + 50_000)
    clock.turn(30)
    refused = await awaited(store.gate(limit).admit(1))
    assert left(refused) == [0]
    clock.now += waits(refused)[0]
    assert left(await awaited(store.gate(limit).admit(1))) == [99]


async def test_a_request_larger_than_the_limit_never_passes(store: Store) -> None:
    assert waits(await awaited(store.gate(rule(10, 100)).admit(101))) == [0, NEVER]
    assert left(await awaited(store.gate(rule(10, 100)).admit(100))) == [9, 0]


async def test_zero_allows_nothing(store: Store) -> None:
    assert waits(await awaited(store.gate(rule(0, 0, 0)).admit(1))) == [NEVER, NEVER, NEVER]


async def test_requests_at_the_same_time_end_when_they_are_settled(store: Store, clock: Any) -> None:
    limit = rule(concurrent=2)
    first, second = (
        granted(await awaited(store.gate(limit).admit(0))),
        granted(await awaited(store.gate(limit).admit(0))),
    )
    clock.turn(20)
    assert waits(await awaited(store.gate(limit).admit(0))) == [BUSY]
    await settle(first, 1, 7)
    third = granted(await awaited(store.gate(limit).admit(0)))
    assert not (await awaited(store.gate(limit).admit(0))).admitted
    await settle(second, 1, 0)
    await settle(third, 1, 0)
    assert left(await awaited(store.gate(limit).admit(0))) == [1]


async def test_changing_a_limit_forgets_nothing(store: Store) -> None:
    for _ in range(3):
        await awaited(store.gate(rule(3, 100)).admit(20))
    assert left(await awaited(store.gate(rule(5, 200)).admit(20))) == [1, 120]
    assert left(await awaited(store.gate(rule(2, 10)).admit(1))) == [0, 0]


async def test_different_owners_and_scopes_do_not_mix(store: Store) -> None:
    every = [rule(1, owner="a"), rule(1, owner="b"), rule(1, scope="user", owner="a"), rule(1, owner="a:b {}\n€\ud800")]
    assert all([(await awaited(store.gate(one).admit(0))).admitted for one in every])
    assert not any([(await awaited(store.gate(one).admit(0))).admitted for one in every])


async def test_hundreds_at_once_get_the_limit_exactly(store: Store) -> None:
    limit = rule(100, 10_000, 60)
    decisions = await asyncio.gather(*(awaited(store.gate(limit).admit(10)) for _ in range(300)))
    grants = [one.grant for one in decisions if one.grant is not None]
    assert len(grants) == 60
    await asyncio.gather(*(settle(grant, 1, 100) for grant in grants))
    again = await asyncio.gather(*(awaited(store.gate(limit).admit(10)) for _ in range(300)))
    assert sum(one.admitted for one in again) == 40  # what is left of the requests
    assert min(left(one)[1] for one in again) == 10_000 - 60 * 100 - 40 * 10


# --- against a log of everything -----------------------------------------------------------------------------------


class Log:
    """The same limits, the slow and obvious way: every charge with its time, summed up each time."""

    def __init__(self, requests: int, tokens: int, concurrent: int) -> None:
        self.limits = requests, tokens, concurrent
        self.charges: list[list[int]] = []  # time, requests, tokens
        self.running = 0

    def used(self, now: int, which: int) -> int:
        return sum(one[which] for one in self.charges if one[0] // 10**6 + 61 > now // 10**6)

    def wait(self, now: int, which: int, cost: int, most: int) -> int:
        moments = sorted({now, *((one[0] // 10**6 + 61) * 10**6 for one in self.charges if one[which])})
        fits = (at - now for at in moments if at >= now and self.used(at, which) + cost <= most)
        return next(fits, NEVER)

    def waits(self, now: int, cost: int) -> list[int]:
        requests, tokens, concurrent = self.limits
        busy = 0 if self.running < concurrent else BUSY if concurrent else NEVER
        return [self.wait(now, 1, 1, requests), self.wait(now, 2, cost, tokens), busy]

    def settle(self, charge: list[int], used: list[int], now: int) -> None:
        self.running -= 1
        if charge[0] // 10**6 + 61 <= now // 10**6 and used[1] > charge[2]:
            self.charges.append([now, 0, used[1] - charge[2]])  # what was not charged by then counts from now on
        else:
            charge[1:] = used

    def in_a_true_minute(self, now: int, which: int) -> int:
        return sum(one[which] for one in self.charges if now - 60 * 10**6 < one[0])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(1, 40)),
        st.tuples(st.just("settle"), st.integers(0, 90)),
        st.tuples(st.just("reject"), st.just(0)),
        st.tuples(st.just("turn"), st.sampled_from([1, 999_999, 10**6, 7_300_000, 30 * 10**6, 59_999_999, 61 * 10**6])),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.tuples(st.integers(0, 6), st.integers(0, 120), st.integers(0, 4)), steps=STEPS)
async def test_every_decision_is_that_of_a_complete_log(
    fresh: Callable[[Any], Store], clock: Any, limits: tuple[int, int, int], steps: list[tuple[str, int]]
) -> None:
    store, log, limit = fresh(clock), Log(*limits), rule(*limits)
    open_: list[tuple[Grant, list[int]]] = []
    for what, amount in steps:
        if what == "turn":
            clock.now += amount
            if isinstance(store, RedisStore):
                await store.beat()
        elif what == "admit":
            decision = await awaited(store.gate(limit).admit(amount))
            assert waits(decision) == log.waits(clock.now, amount)
            if decision.grant is not None:
                charge = [clock.now, 1, amount]
                log.charges.append(charge)
                log.running += 1
                open_.append((decision.grant, charge))
                assert log.in_a_true_minute(clock.now, 1) <= limits[0]
                assert log.in_a_true_minute(clock.now, 2) <= limits[1]
            used = [log.used(clock.now, 1), log.used(clock.now, 2), log.running]
            assert left(decision) == [max(0, most - one) for most, one in zip(limits, used, strict=True)]
        elif open_:
            grant, charge = open_.pop(amount % len(open_))
            used = [0, 0] if what == "reject" else [1, amount]
            log.settle(charge, used, clock.now)
            await settle(grant, *used)


@pytest.mark.parametrize("step", [0.01, 0.4, 1.0, 1.7])
async def test_no_minute_holds_more_than_the_limit_under_constant_pressure(
    store: Store, clock: Any, step: float
) -> None:
    admitted = []
    for _ in range(200 if step == 0.01 else 300):
        if (await awaited(store.gate(rule(20)).admit(0))).admitted:
            admitted.append(clock.now)
        clock.turn(step)
    for at in admitted:
        assert sum(at - 60 * 10**6 < other <= at for other in admitted) <= 20
    assert len(admitted) >= 20
