"""What a request may cost."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatehook import Call, Document, Estimate, Pricing, Target, Usage, estimate
from gatehook.catalog import LiveCatalog
from gatehook_plugins.quota.account import Amount
from gatehook_plugins.quota.prices import Prices

RATES = st.integers(0, 10**9)
PRICINGS = st.builds(Pricing, RATES, RATES, st.none() | RATES, st.none() | RATES)
TOKENS = st.integers(0, 10**6)


def target(key: str, pricing: Pricing | None, **fields: Any) -> Target:
    return Target(key, key.partition("#")[0], "mock", "m", pricing=pricing, **fields)


@given(
    pricings=st.lists(PRICINGS, min_size=1, max_size=3),
    sizes=st.tuples(TOKENS, TOKENS, TOKENS, TOKENS),
    shares=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_nothing_within_the_bounds_costs_more_at_any_deployment(
    pricings: list[Pricing], sizes: tuple[int, int, int, int], shares: tuple[float, float, float, float]
) -> None:
    targets = [target(f"m#{place}", pricing) for place, pricing in enumerate(pricings)]
    rates = Prices(LiveCatalog(targets)).of("m")
    prompt, completion, more_prompt, more_completion = sizes
    size = Estimate(prompt, completion, prompt + more_prompt, completion + more_completion)
    need = rates.need(size)
    used = Usage(
        int(size.prompt_most * shares[0]),
        int(size.completion_most * shares[1]),
        cached_tokens=int(size.prompt_most * shares[2]),
        cache_write_tokens=int(size.prompt_most * shares[3]),
    )
    for pricing in pricings:
        assert rates.cover(pricing)
        if need.most.nano < 10**15:  # where it is cut
            assert used.cost(pricing).total <= need.most.nano
            assert Usage(prompt, completion).cost(pricing).total <= need.expected.nano
    assert need.expected.up_to(need.most) == need.expected


def test_fallbacks_of_fallbacks_count() -> None:
    catalog = LiveCatalog(
        [
            target("a#1", Pricing(1, 1), fallbacks=("b",)),
            target("b#1", Pricing(5, 1), fallbacks=("c", "a")),
            target("c#1", Pricing(1, 9)),
        ]
    )
    rates = Prices(catalog).of("a")
    assert (rates.prompt, rates.prompt_most, rates.completion, rates.unpriced) == (5, 5, 9, "")


def test_what_is_reserved_is_enough_for_a_fallback_that_answers_at_more_length() -> None:
    catalog = LiveCatalog(
        [
            target("a#1", Pricing(1, 1), fallbacks=("b",), max_tokens=100, context_window=1_000),
            target("b#1", Pricing(1, 1), max_tokens=4_000, context_window=8_000),
        ]
    )
    call = Call("chat", "openai", {}, model="a", choices=1, body=Document(raw=b"x" * 5_000))
    size = estimate(call, Prices(catalog).of("a").group)
    assert (size.prompt_most, size.completion_most) == (5_000, 4_000)


def test_a_deployment_without_a_price_is_named_but_not_one_of_a_fallback() -> None:
    catalog = LiveCatalog([target("a#1", Pricing(1, 1), fallbacks=("b",)), target("b#1", None)])
    prices = Prices(catalog)
    assert prices.of("a").unpriced == ""
    assert prices.of("b").unpriced == "b#1"


def test_a_change_of_the_catalog_is_seen_at_once() -> None:
    catalog = LiveCatalog([])
    prices = Prices(catalog)
    assert prices.of("a").prompt == 0
    catalog.feed("rows", [target("a#1", Pricing(7, 7))])
    assert prices.of("a").prompt == 7
    catalog.feed("rows", [target("a#1", Pricing(8, 7))])
    assert prices.of("a").prompt == 8


def test_a_model_of_pictures_needs_the_price_of_all_of_them() -> None:
    catalog = LiveCatalog([target("a#1", Pricing(0, 0, image=40))])
    need = Prices(catalog).of("a").need(Estimate(1, 0, 2, 0, images=3))
    assert (need.most.nano, need.expected.nano) == (120, 120)
    assert Prices(catalog).of("a").cover(Pricing(0, 0, image=40))
    assert not Prices(catalog).of("a").cover(Pricing(0, 0, image=41))


def test_what_a_wildcard_serves_costs_what_it_does_even_if_somebody_asked_for_the_wildcard_itself() -> None:
    catalog = LiveCatalog([Target("o#1", "o/*", "mock", "*", pricing=Pricing(7, 9), aliases=("own",))])
    prices = Prices(catalog)
    assert catalog.group("o/*") == ()
    assert [prices.of(name).prompt for name in ("o/*", "o/x", "own", "o/y")] == [7, 7, 7, 7]
    assert prices.of("nobody's").prompt == 0
    assert prices.known.keys() == {"o/*", "own"}, "clients may ask for any name"
    assert prices.of("o/x").group == catalog.groups()["o/*"]


@given(size=st.builds(Estimate, *[st.integers(0, 10**40)] * 5))
def test_whatever_is_asked_for_can_be_counted_with(size: Estimate) -> None:
    rates = Prices(LiveCatalog([target("m#1", Pricing(10**6, 10**7, image=10**9))])).of("m")
    need = rates.need(size)
    assert need.most == rates.most(size)
    assert need.most.up_to(Amount(10**15, 10**15)) == need.most
    assert need.expected.up_to(need.most) == need.expected
