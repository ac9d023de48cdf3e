"""Gates are kept, made anew, and share limits with others: what each decides is what a log of every limit says."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook import Limits
from gatehook.awaiting import awaited
from gatehook_plugins.rate_limit.rules import Rule, rules
from gatehook_plugins.rate_limit.shared import RedisStore
from gatehook_plugins.rate_limit.store import Gate, Grant, Store

USER = rules("user", "u", Limits(4, None, 3))
CALLERS: tuple[tuple[Rule, ...], ...] = (
    rules("key", "a", Limits(3, 90)) + USER,
    rules("key", "b", Limits(None, 60)) + USER,
    rules("user", "u", Limits(2, 50, 1)),  # the same user, after somebody has changed its limits
    rules("key", "c", Limits(None, None, 2)),
)


class Logs:
    """Every charge of every limit with its second, summed up each time."""

    def __init__(self) -> None:
        self._charges: dict[str, list[list[int]]] = defaultdict(list)
        self._running: dict[str, int] = defaultdict(int)

    def used(self, rule: Rule, now: int) -> int:
        if rule.unit == "concurrent":
            return self._running[rule.name]
        return sum(amount for second, amount in self._charges[rule.name] if second + 61 > now // 10**6)

    def charge(self, limits: Sequence[Rule], tokens: int, now: int) -> list[tuple[Rule, list[int]]]:
        """Gives what to settle it by."""
        charges = [(rule, [now // 10**6, rule.cost(tokens)]) for rule in limits]
        for rule, charge in charges:
            self._charges[rule.name].append(charge)
            self._running[rule.name] += 1
        return charges

    def settle(self, charges: Sequence[tuple[Rule, list[int]]], requests: int, tokens: int, now: int) -> None:
        for rule, charge in charges:
            used = tokens if rule.unit == "tokens" else requests
            if charge[0] + 61 <= now // 10**6 and used > charge[1]:  # what was not charged by then counts from now on
                self._charges[rule.name].append([now // 10**6, used - charge[1]])
            else:
                charge[1] = used
            self._running[rule.name] -= 1


caller = st.integers(0, len(CALLERS) - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), caller, st.integers(0, 40)),
        st.tuples(st.just("settle"), st.integers(0, 90), st.integers(0, 60)),
        st.tuples(st.just("reject"), st.integers(0, 90), st.just(0)),
        st.tuples(st.just("turn"), st.sampled_from([1, 10**6, 7_300_000, 59 * 10**6, 61 * 10**6]), st.integers(1, 3)),
        st.tuples(st.just("renew"), caller, st.just(0)),
    ),
    min_size=20,
    max_size=80,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_every_gate_decides_by_all_that_was_charged_to_its_limits(
    fresh: Callable[[Any], Store], clock: Any, steps: list[tuple[str, int, int]]
) -> None:
    store, logs = fresh(clock), Logs()
    gates: list[Gate] = [store.gate(limits) for limits in CALLERS]
    open_: list[tuple[Grant, list[tuple[Rule, list[int]]]]] = []
    for what, one, amount in steps:
        if what == "turn":
            for _ in range(amount):
                clock.now += one
                if isinstance(store, RedisStore):
                    await store.beat()
        elif what == "renew":
            gates[one] = store.gate(CALLERS[one])
        elif what == "admit":
            limits = CALLERS[one]
            fits = [logs.used(rule, clock.now) + rule.cost(amount) <= rule.most for rule in limits]
            decision = await awaited(gates[one].admit(amount))
            assert decision.admitted == all(fits)
            assert [wait == 0 for wait in decision.waits] == ([] if all(fits) else fits)
            if decision.grant is not None:
                open_.append((decision.grant, logs.charge(limits, amount, clock.now)))
            used = [logs.used(rule, clock.now) for rule in limits]
            assert list(decision.left) == [max(0, rule.most - used) for rule, used in zip(limits, used, strict=True)]
        elif open_:
            grant, charges = open_.pop(one % len(open_))
            requests = 0 if what == "reject" else 1
            await awaited(grant.gate.settle(grant, requests, amount))
            logs.settle(charges, requests, amount, clock.now)
