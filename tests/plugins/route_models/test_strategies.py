import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gatehook import Pricing, Target, Vitality
from gatehook_plugins.route_models import RouteModels
from gatehook_plugins.route_models.strategies import STRATEGIES

Make = Callable[..., Any]


@dataclass
class Health:
    """Deployments that are given a rest."""

    resting: set[str] = field(default_factory=set)
    failure_threshold: int = 3
    recovery_threshold: int = 1
    health_check_interval: float = 0.0

    def of(self, target: Target) -> Vitality:
        return Vitality("unavailable" if target.key in self.resting else "healthy")


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_every_strategy_keeps_priorities_and_gives_every_deployment_once(
    routed: Make, target: Make, strategy: str
) -> None:
    one = routed(
        *(target(f"a#{n}", priority=2) for n in range(4)),
        *(target(f"a#{n}", priority=1, pricing=Pricing(n, n)) for n in range(4, 8)),
        target("a#8", priority=1, weight=0.0),
        strategy=strategy,
    )
    for _ in range(30):
        order = await one.keys()
        assert sorted(order[:4]) == [f"a#{n}" for n in range(4, 8)]
        assert order[4] == "a#8"
        assert sorted(order[5:]) == [f"a#{n}" for n in range(4)]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_only_deployment_is_answered_with_the_same_tuple(routed: Make, target: Make, a_call: Make, strategy: str) -> None:  # fmt: skip  # noqa: E501
    one = routed(target("a#1"), strategy=strategy)
    assert one.router.route(a_call("a")) is one.router.route(a_call("a"))


async def test_priority_goes_as_the_settings_stand(routed: Make, tier: Make, a_call: Make) -> None:
    one = routed(*tier(3), strategy="priority")
    assert await one.keys() == ["a#0", "a#1", "a#2"]
    assert one.router.route(a_call("a")) is one.router.route(a_call("a"))


@given(weights=st.lists(st.integers(0, 8), min_size=2, max_size=6).filter(any), seed=st.integers(0, 2**32))
def test_shares_converge_to_the_weights_and_zero_is_never_first(weights: list[int], seed: int) -> None:
    import random

    from gatehook_plugins.route_models.strategies.weighted import Weighted
    from gatehook_plugins.route_models.tiers import tiers
    from gatehook_plugins.route_models.weights import Weights

    group = [Target(f"a#{n}", "a", "mock", "m", weight=weight) for n, weight in enumerate(weights)]
    first = next(iter(tiers(group, Weights({}), group[0].name)))
    assert {one.key for one in first.targets} == {one.key for one in group if one.weight}
    if len(first.targets) == 1:
        return
    strategy, times = Weighted(random.Random(seed).random), 1500
    drawn = Counter(strategy.order(first, None)[0].key for _ in range(times))  # type: ignore[arg-type]  # not looked at
    for one in first.targets:
        share = one.weight / sum(weights)
        assert abs(drawn[one.key] / times - share) < 6 * math.sqrt(share * (1 - share) / times) + 1e-9


async def test_round_robin_takes_turns_also_through_an_alias(routed: Make, tier: Make) -> None:
    one = routed(*tier(3, aliases=("other",)), strategy="round_robin")
    assert [await one.first(name) for name in ("a", "other", "a", "other")] == ["a#0", "a#1", "a#2", "a#0"]
    assert await one.keys() == ["a#1", "a#2", "a#0"]


async def test_least_busy_goes_where_fewest_requests_run(routed: Make, tier: Make, a_call: Make) -> None:
    one = routed(*tier(3), strategy="least_busy")
    group = one.catalog.group("a")
    busy = [one.loads.admit_attempt(a_call("a"), group[place]) for place in (0, 0, 1)]
    assert await one.keys() == ["a#2", "a#1", "a#0"]
    for permit in busy:
        permit.settle(_failed())
    assert not one.loads.running
    assert {await one.first() for _ in range(3)} == {"a#0", "a#1", "a#2"}  # equals take turns


def _failed() -> Any:
    from gatehook import Outcome

    return Outcome("failed", 500)


async def test_the_lowest_latency_wins_for_streams_by_their_first_token(routed: Make, tier: Make) -> None:
    one = routed(*tier(2), strategy="lowest_latency")
    await one.ran("a#0", 0.5)
    await one.ran("a#1", 2.0)
    await one.ran("a#0", 0.4, stream=True)
    one.clock.now -= 100.0
    await one.ran("a#1", 0.1, stream=True)
    one.clock.now -= 100.0
    assert await one.keys() == ["a#0", "a#1"]
    assert await one.keys(stream=True) == ["a#1", "a#0"]


async def test_the_mean_follows_what_becomes_of_a_deployment(routed: Make, tier: Make) -> None:
    one = routed(*tier(2), strategy="lowest_latency")
    await one.ran("a#0", 0.5)
    await one.ran("a#1", 1.0)
    for _ in range(4):
        assert await one.first() == "a#0"
        await one.ran("a#0", 1.2)
    assert await one.first() == "a#1"


async def test_a_new_deployment_is_tried_by_one_call_at_a_time(routed: Make, tier: Make, a_call: Make) -> None:
    one = routed(*tier(3), strategy="lowest_latency")
    await one.ran("a#0", 0.5)
    assert await one.first() == "a#1"
    trial = one.loads.admit_attempt(a_call("a"), one.catalog.group("a")[1])
    assert await one.first() == "a#2"
    other = one.loads.admit_attempt(a_call("a"), one.catalog.group("a")[2])
    assert await one.first() == "a#0"
    for permit in (trial, other):
        permit.settle(_failed())
    assert await one.first() == "a#0"  # one that only ever failed is not the fastest


async def test_what_was_measured_long_ago_is_measured_again(routed: Make, tier: Make) -> None:
    one = routed(*tier(2), strategy="lowest_latency")
    await one.ran("a#1", 9.0)
    one.clock.now += 50.0
    await one.ran("a#0", 0.5)
    assert await one.first() == "a#0"
    one.clock.now += 20.0
    assert await one.first() == "a#1"


async def test_failures_make_a_deployment_slower_and_the_client_s_do_not(routed: Make, tier: Make) -> None:
    one = routed(*tier(2), strategy="lowest_latency")
    await one.ran("a#0", 0.9)
    await one.ran("a#1", 1.0)
    await one.ran("a#0", 0.0, status=400)
    assert await one.first() == "a#0"
    await one.ran("a#0", 0.0, status=503)
    assert await one.first() == "a#1"


async def test_one_that_failed_on_and_on_comes_back(routed: Make, tier: Make) -> None:
    one = routed(*tier(2), strategy="lowest_latency")
    await one.ran("a#1", 1.0)
    for _ in range(100):
        await one.ran("a#0", 0.0, status=503)
    for _ in range(15):
        await one.ran("a#0", 0.1)
        await one.ran("a#1", 1.0)
    assert await one.first() == "a#0"


async def test_nothing_is_measured_for_strategies_that_do_not_ask(routed: Make, tier: Make, a_call: Make) -> None:
    one = routed(*tier(2))
    assert one.loads.admit_attempt(a_call("a"), one.catalog.group("a")[0]) is None


async def test_the_lowest_cost_depends_on_what_the_request_needs(routed: Make, target: Make) -> None:
    one = routed(
        target("a#1"),
        target("a#2", pricing=Pricing(1000, 9000)),
        target("a#3", pricing=Pricing(3000, 1000)),
        strategy="lowest_cost",
    )
    long = {"messages": [{"role": "user", "content": "word " * 4000}], "max_tokens": 1}
    short = {"messages": [{"role": "user", "content": "word"}], "max_tokens": 4000}
    assert await one.keys(body=long) == ["a#2", "a#3", "a#1"]
    assert await one.keys(body=short) == ["a#3", "a#2", "a#1"]


async def test_what_costs_the_same_takes_turns(routed: Make, tier: Make) -> None:
    one = routed(*tier(3, pricing=Pricing(1, 1)), strategy="lowest_cost")
    assert {await one.first() for _ in range(3)} == {"a#0", "a#1", "a#2"}


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_who_is_given_a_rest_goes_to_the_end_of_its_priority(
    routed: Make, tier: Make, target: Make, strategy: str
) -> None:
    health = Health({"a#0", "a#2"})
    one = routed(*tier(4), target("a#9", priority=2), strategy=strategy, health=health)
    for _ in range(20):
        order = await one.keys()
        assert order[4] == "a#9"
        assert order[0] in ("a#1", "a#3")
    health.resting = {f"a#{n}" for n in range(4)}
    assert (await one.keys())[4] == "a#9"  # another priority is not this one's matter


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("leastbusy", "unknown strategy 'leastbusy'; did you mean 'least_busy'?"),
        ("chaos", "unknown strategy 'chaos'; there are: priority, weighted, round_robin"),
        ("", "unknown strategy ''"),
    ],
)
def test_unknown_strategies_are_refused_by_name(value: str, said: str) -> None:
    with pytest.raises(ValidationError, match="unknown strategy") as caught:
        RouteModels.Settings(strategy=value)
    assert said in str(caught.value)


@pytest.mark.parametrize("value", ["session", "header:", "header:a b", "header: x", "User"])
def test_what_names_no_session_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="header:X-Session"):
        RouteModels.Settings(affinity=value)
