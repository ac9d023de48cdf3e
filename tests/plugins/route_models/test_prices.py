import random
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatehook import Pricing
from gatehook_plugins.route_models.prices import Cheapest

PRICES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=30)
Make = Callable[..., Any]


@given(prices=PRICES, ratio=st.one_of(st.fractions(0, 40, max_denominator=50), st.just(10**9)))
def test_nothing_is_cheaper_than_the_cheapest_and_all_of_its_price_are_told(prices: Any, ratio: Any) -> None:
    places = Cheapest([(float(into), float(out)) for into, out in prices]).at(float(ratio))
    costs = [into + out * ratio for into, out in prices]
    assert costs[places[0]] == min(costs)
    assert list(places) == [place for place, price in enumerate(prices) if price == prices[places[0]]]


def test_without_an_answer_the_prompt_decides() -> None:
    cheapest = Cheapest([(2.0, 1.0), (1.0, 9.0), (1.0, 8.0)])
    assert cheapest.at(0.0) == [2]
    assert cheapest.at(1.0) == [0]


async def test_what_costs_the_same_shares_the_calls_evenly_among_dearer_ones(routed: Make, target: Make) -> None:
    chance = random.Random(1)
    dear = [target(f"a#{n}", pricing=Pricing(chance.randrange(10, 99), chance.randrange(10, 99))) for n in range(20)]
    same = [target(f"a#{n}", pricing=Pricing(1, 1)) for n in (20, 21, 40)]
    one = routed(*dear[:9], *same, *dear[9:], strategy="lowest_cost")
    first = [await one.first() for _ in range(30)]
    assert {key: first.count(key) for key in set(first)} == {"a#20": 10, "a#21": 10, "a#40": 10}
    assert (await one.keys())[:3] == ["a#20", "a#21", "a#40"]
    assert (await one.keys())[:3] == ["a#21", "a#40", "a#20"]
