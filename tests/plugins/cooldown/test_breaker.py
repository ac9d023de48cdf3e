"""What is learnt of deployments, and who may try one: on a clock of the tests'."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from gatehook import Call, Outcome, Permit, RateLimited, Target, Unavailable, UpstreamError
from gatehook.awaiting import awaited
from gatehook_plugins.cooldown.book import Book
from gatehook_plugins.cooldown.breaker import Breaker
from gatehook_plugins.cooldown.condition import Rules
from gatehook_plugins.cooldown.thresholds import Thresholds

BROKEN = UpstreamError("out of order")
LEFT = Outcome("failed", 499, code="client_left")
COMPLETE = Outcome("complete", 200)


class Listed:
    """A catalog of the deployments of one model."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets

    def group(self, name: str) -> Sequence[Target]:
        return self.targets


class Bench:
    """A breaker in front of two deployments, of which the first is looked at."""

    def __init__(self, rules: Rules) -> None:
        self.now = 1_000_000.0
        self.catalog: Any = Listed([Target(key=f"m#{number}", name="m", vendor="v", model="x") for number in (1, 2)])
        self.target = self.catalog.targets[0]
        self.book = Book()
        self.breaker = Breaker(self.book, Thresholds(rules, 0), lambda: self.now)
        self.breaker.follow(self.catalog)  # type: ignore[arg-type]

    async def admit(self) -> Permit | None:
        """What the next request gets; None if it is passed over."""
        try:
            return await awaited(self.breaker.admit_attempt(Call("chat", "test", {}), self.target))
        except Unavailable:
            return None


@pytest.fixture
def bench() -> Bench:
    """A failure brings a rest of 30 s, two answers end the trial after it."""
    return Bench(Rules(failure_threshold=1, recovery_threshold=2, rest=30, longest_rest=100))


async def test_a_trial_that_lasted_too_long_does_not_end_the_turn_of_the_next(bench: Bench) -> None:
    bench.breaker.failed(bench.target, BROKEN)
    bench.now += 40
    first = await bench.admit()
    assert await bench.admit() is None
    bench.now += 31
    second = await bench.admit()
    assert first is not None
    assert second is not None
    await awaited(first.settle(LEFT))
    assert await bench.admit() is None
    await awaited(second.settle(LEFT))
    assert await bench.admit() is not None


async def test_a_check_that_is_answered_does_not_let_a_second_request_try_it(bench: Bench) -> None:
    bench.breaker.failed(bench.target, BROKEN)
    bench.now += 40
    trial = await bench.admit()
    bench.breaker.checked_well(bench.target)
    assert trial is not None
    assert await bench.admit() is None
    await awaited(trial.settle(COMPLETE))
    assert bench.breaker.of(bench.target).state == "healthy", "the check was one proof, the request the other"


async def test_many_requests_that_are_told_to_wait_tell_of_one_rest(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "gatehook.cooldown"):
        for _ in range(50):
            bench.now += 0.001
            bench.breaker.failed(bench.target, RateLimited("slow down", retry_after=10))
    assert [one.getMessage() for one in caplog.records] == ["deployment m#1 is given a rest of 10 s: slow down"]
    assert bench.breaker.of(bench.target).retry_after == pytest.approx(10)
    assert bench.breaker.of(bench.target).rests == 1


async def test_who_becomes_the_only_one_while_it_rests_is_asked_at_once(bench: Bench) -> None:
    bench.breaker.failed(bench.target, BROKEN)
    assert await bench.admit() is None
    bench.catalog.targets = [bench.target]
    permits = [await bench.admit() for _ in range(3)]
    assert None not in permits, "not one at a time either"
    for _ in range(3):
        bench.breaker.failed(bench.target, BROKEN)
    bench.now += 40
    assert await bench.admit() is not None
    assert bench.breaker.of(bench.target).rests == 1


async def test_failures_of_checks_that_are_answered_between_them_bring_no_rest() -> None:
    bench = Bench(Rules(failure_threshold=3, recovery_threshold=2, rest=30, longest_rest=100))
    for _ in range(5):
        bench.breaker.failed(bench.target, BROKEN, checked=True)
        bench.breaker.failed(bench.target, BROKEN, checked=True)
        assert bench.breaker.of(bench.target).failures == 2
        assert bench.breaker.of(bench.target).state == "degraded"
        bench.breaker.checked_well(bench.target)
        assert bench.breaker.of(bench.target).state == "healthy"


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome("partial", 200, code="upstream_truncated"), "unavailable"),
        (Outcome("partial", 200, code="upstream_timeout"), "unavailable"),
        (Outcome("partial", 499, code="client_left"), "healthy"),
        (Outcome("partial", 200, code="tool_call_denied"), "healthy"),
        (Outcome("failed", 403, code="tool_call_denied"), "healthy"),
    ],
)
async def test_a_stream_that_ends_early_counts_if_its_vendor_broke_it(
    bench: Bench, outcome: Outcome, state: str
) -> None:
    permit = await bench.admit()
    assert permit is not None
    await awaited(permit.settle(outcome))
    assert bench.breaker.of(bench.target).state == state


async def test_a_rest_that_other_workers_began_after_a_look_is_kept(bench: Bench) -> None:
    bench.breaker.failed(bench.target, BROKEN)
    bench.now += 40
    seen = bench.book.get("m#1")
    assert seen is not None
    bench.breaker.failed(bench.target, BROKEN)
    with pytest.raises(Unavailable, match="after 2 failures"):
        bench.breaker._trial(bench.target, seen)
