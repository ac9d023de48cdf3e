"""Money and limits as values: exact sums, prices as they are written, and what counts as no limit."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gatehook import NANO, Caps, Cost, Limits, Pricing, Usage, dollars, nano
from gatehook.config.sections import PricingSettings
from gatehook.config.settings import ModelSettings

TOKENS = st.integers(0, 10**9)
PRICE = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.0025", 2_500_000),
        (0.1, 100_000_000),
        ("1e-9", 1),
        (0, 0),
        ("-1.5", -1_500_000_000),
        (Decimal("0.3"), 3 * 10**8),
    ],
)
def test_dollars_are_read_as_they_are_written(written: str | float | Decimal, expected: int) -> None:
    assert nano(written) == expected


@pytest.mark.parametrize("wrong", ["", "ten", "nan", "inf", "-inf", "1e300", "1e9", "1,5"])
def test_what_is_no_amount_of_dollars_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="expected an amount of dollars"):
        nano(wrong)


@given(st.integers(-(10**15), 10**15))
def test_an_amount_survives_being_shown(amount: int) -> None:
    assert nano(dollars(amount)) == amount


@given(TOKENS, TOKENS, TOKENS, TOKENS, TOKENS, PRICE, PRICE, *[st.none() | PRICE] * 3)
def test_a_cost_is_the_exact_one_rounded_up_on_each_side(
    prompt: int,
    completion: int,
    cached: int,
    written: int,
    hour: int,
    into: int,
    out: int,
    read: int | None,
    write: int | None,
    write_1h: int | None,
) -> None:
    pricing = Pricing(into, out, read, write, cache_write_1h=write_1h)
    cost = Usage(prompt, completion, cached, written, cache_write_1h_tokens=hour).cost(pricing)
    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    hour = min(hour, written)
    writing = into if write is None else write
    exact = Fraction(
        (prompt - cached - written) * into
        + cached * (into if read is None else read)
        + (written - hour) * writing
        + hour * (writing if write_1h is None else write_1h),
        1000,
    )
    assert 0 <= cost.input - exact < 1
    assert 0 <= cost.output - Fraction(completion * out, 1000) < 1
    assert cost.total == cost.input + cost.output


@given(TOKENS, TOKENS, *[st.just(0) | TOKENS] * 4)
def test_what_was_used_costs_what_its_figures_do(
    prompt: int, completion: int, cached: int, written: int, images: int, hour: int
) -> None:
    pricing = Pricing(1_001, 7_003, 13, 17, image=19, cache_write_1h=23)
    used = Usage(prompt, completion, cached, written, images=images, cache_write_1h_tokens=hour)
    assert used.cost(pricing) == pricing.cost(prompt, completion, cached, written, images, hour)


@pytest.mark.parametrize(
    ("used", "is_credible"),
    [
        (Usage(), True),
        (Usage(10**12, 10**12, 10**12, 10**12, 10**12, images=10**12), True),
        (Usage(-1, 5), False),
        (Usage(5, -1), False),
        (Usage(10**12 + 1, 5), False),
        (Usage(5, 10**12 + 1), False),
        (Usage(5, 5, cached_tokens=5, reasoning_tokens=5), True),
        (Usage(5, 5, cached_tokens=6), False),
        (Usage(5, 5, cached_tokens=-1), False),
        (Usage(5, 5, reasoning_tokens=6), False),
        (Usage(5, 5, reasoning_tokens=-1), False),
        (Usage(5, 5, cache_write_tokens=-1), False),
        (Usage(5, 5, cache_write_tokens=3, cache_write_1h_tokens=3), True),
        (Usage(5, 5, cache_write_tokens=3, cache_write_1h_tokens=4), False),
        (Usage(5, 5, cache_write_tokens=3, cache_write_1h_tokens=-1), False),
        (Usage(5, 5, images=-1), False),
        (Usage(-1, 5, images=1), False),
        (Usage(5, 10**12 + 1, cache_write_tokens=1), False),
    ],
)
def test_an_answer_took_nothing_below_nothing_and_no_part_larger_than_its_whole(used: Usage, is_credible: bool) -> None:
    assert used.is_credible() is is_credible


def test_a_cost_is_as_one_would_work_it_out_by_hand() -> None:
    pricing = Pricing(nano("0.0025"), nano("0.01"), nano("0.00125"))
    cost = Usage(prompt_tokens=1_200, completion_tokens=300, cached_tokens=200).cost(pricing)
    assert (dollars(cost.input), dollars(cost.output), dollars(cost.total)) == (0.00275, 0.003, 0.00575)


def test_prices_in_the_settings_keep_every_digit_that_was_written() -> None:
    model = ModelSettings.model_validate(
        {"name": "m", "vendor": "v", "pricing": {"input_per_1k_tokens": 0.000_037_5, "output_per_1k_tokens": 1}}
    )
    pricing = model.to_target("m#1").pricing
    assert pricing == Pricing(37_500, 10**9)


def test_what_is_kept_in_a_cache_for_an_hour_has_its_own_price_if_one_is_set() -> None:
    prices = {"input_per_1k_tokens": 3, "output_per_1k_tokens": 0, "cache_write_per_1k_tokens": 3.75}
    used = Usage(4000, cache_write_tokens=3000, cache_write_1h_tokens=2000)
    assert used.cost(settings_of(prices).to_pricing()).total == nano("14.25")
    priced = settings_of({**prices, "cache_write_1h_per_1k_tokens": 6}).to_pricing()
    assert used.cost(priced).total == nano("18.75")
    assert (used + used).cost(priced).total == nano("37.5")


def test_limits_and_caps_are_true_when_they_limit_anything_also_to_nothing() -> None:
    assert not Limits()
    assert not Caps()
    assert Limits(requests_per_minute=0)
    assert Limits(concurrent_requests=1)
    assert Caps(budget_per_month=0)
    assert Caps(tokens=5)
    assert Caps(1, 2, 3, 4, 5, 6).of_tokens == (1, 2, 3)
    assert Caps(1, 2, 3, 4, 5, 6).of_money == (4, 5, 6)


def test_pictures_cost_by_the_piece_beside_tokens_or_alone() -> None:
    alone = settings_of({"per_image": 0.04}).to_pricing()
    assert Usage(images=3).cost(alone) == Cost(0, 120_000_000)
    both = settings_of({"per_image": 1, "input_per_1k_tokens": 1, "output_per_1k_tokens": 2}).to_pricing()
    assert Usage(1000, 500, images=1).cost(both) == Cost(NANO, 2 * NANO)


@pytest.mark.parametrize(
    "prices", [{}, {"input_per_1k_tokens": 1}, {"output_per_1k_tokens": 1, "per_image": 1}, {"per_image": -1}]
)
def test_a_price_that_was_forgotten_is_not_nothing(prices: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings_of(prices)


def settings_of(prices: dict[str, Any]) -> PricingSettings:
    return PricingSettings(**prices)
