import logging
import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gatehook import CATALOG, Call, Catalog, ModelNotFound, Operation, Services, Target, Unavailable
from gatehook.catalog import LiveCatalog
from gatehook_plugins.route_models import RouteModels
from gatehook_plugins.route_models.balance import Balance
from gatehook_plugins.route_models.loads import Loads
from gatehook_plugins.route_models.router import ModelRouter
from gatehook_plugins.route_models.strategies import strategies


def target(key: str, **fields: Any) -> Target:
    return Target(**({"key": key, "name": key.partition("#")[0], "vendor": "mock", "model": "m"} | fields))


def call(model: str, operation: Operation = "chat") -> Call:
    made = Call(operation=operation, surface="test", headers={})
    made.model = model
    return made


def router(*targets: Target, seed: int = 1) -> ModelRouter:
    return over(LiveCatalog(targets), random.Random(seed).random)


def over(catalog: Catalog, chance: Callable[[], float]) -> ModelRouter:
    loads = Loads()
    return ModelRouter(catalog, Balance("weighted"), strategies(loads, chance), loads)


async def keys(router: ModelRouter, model: str, operation: Operation = "chat") -> list[str]:
    targets = router.route(call(model, operation))
    assert targets is not None
    return [one.key for one in targets]


async def test_an_unknown_name_is_not_ours() -> None:
    assert router(target("a#1")).route(call("b")) is None
    assert router().route(call("")) is None


async def test_a_single_deployment_is_answered_with_the_same_tuple_each_time() -> None:
    one = router(target("a#1"))
    first = one.route(call("a"))
    assert first == (target("a#1"),)
    assert one.route(call("a")) is first


async def test_lower_priority_numbers_come_first_whatever_the_order_of_the_settings() -> None:
    one = router(target("a#1", priority=3), target("a#2", priority=1), target("a#3", priority=2))
    assert await keys(one, "a") == ["a#2", "a#3", "a#1"]


async def test_an_order_without_chance_is_cached() -> None:
    one = router(target("a#1", priority=2, fallbacks=("b",)), target("a#2", priority=1), target("b#1"))
    first = one.route(call("a"))
    assert first is one.route(call("a"))
    assert await keys(one, "a") == ["a#2", "a#1", "b#1"]


async def test_weights_share_the_first_place_in_proportion() -> None:
    one = router(target("a#1", weight=6.0), target("a#2", weight=3.0), target("a#3", weight=1.0))
    firsts = Counter([(await keys(one, "a"))[0] for _ in range(6000)])
    assert firsts["a#1"] / 6000 == pytest.approx(0.6, abs=0.03)
    assert firsts["a#2"] / 6000 == pytest.approx(0.3, abs=0.03)
    assert firsts["a#3"] / 6000 == pytest.approx(0.1, abs=0.03)


async def test_the_second_place_is_drawn_by_weight_among_the_rest() -> None:
    one = router(target("a#1", weight=8.0), target("a#2", weight=3.0), target("a#3", weight=1.0))
    orders = [await keys(one, "a") for _ in range(6000)]
    after_first = Counter(order[1] for order in orders if order[0] == "a#1")
    assert after_first["a#2"] / after_first.total() == pytest.approx(0.75, abs=0.03)


async def test_every_order_holds_every_deployment_once() -> None:
    one = router(*(target(f"a#{n}", weight=n) for n in range(1, 8)))
    for _ in range(200):
        assert sorted(await keys(one, "a")) == [f"a#{n}" for n in range(1, 8)]


async def test_weight_zero_is_the_last_resort_of_its_priority() -> None:
    one = router(
        target("a#1", weight=0.0), target("a#2"), target("a#3"), target("a#4", weight=0.0), target("a#5", priority=2)
    )
    for _ in range(100):
        order = await keys(one, "a")
        assert set(order[:2]) == {"a#2", "a#3"}
        assert order[2:] == ["a#1", "a#4", "a#5"]


async def test_weight_zero_everywhere_still_serves() -> None:
    assert await keys(router(target("a#1", weight=0.0), target("a#2", weight=0.0)), "a") == ["a#1", "a#2"]


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0 - 2**-53])
async def test_any_random_number_and_any_weight_will_do(chance: float) -> None:
    group = [target("a#1", weight=5e-324), target("a#2", weight=1.7e308), target("a#3")]
    one = over(LiveCatalog(group), lambda: chance)
    assert sorted(await keys(one, "a")) == ["a#1", "a#2", "a#3"]


async def test_the_order_comes_from_the_given_source_of_chance() -> None:
    group = [target(f"a#{n}") for n in range(6)]
    once, again = router(*group, seed=7), router(*group, seed=7)
    assert [await keys(once, "a") for _ in range(20)] == [await keys(again, "a") for _ in range(20)]


async def test_unavailable_deployments_are_left_out() -> None:
    one = router(target("a#1", unavailable="its key $X is not set"), target("a#2", priority=9))
    assert await keys(one, "a") == ["a#2"]


async def test_fallbacks_come_in_order_after_all_of_the_group() -> None:
    one = router(
        target("a#1", priority=1, fallbacks=("c", "b")), target("a#2", priority=2), target("b#1"), target("c#1")
    )
    assert await keys(one, "a") == ["a#1", "a#2", "c#1", "b#1"]
    assert await keys(one, "b") == ["b#1"]


async def test_fallbacks_are_followed_in_breadth_and_each_group_once() -> None:
    one = router(
        target("a#1", fallbacks=("b", "c")),
        target("b#1", fallbacks=("d", "c", "a")),
        target("c#1", fallbacks=("e",)),
        target("d#1", fallbacks=("a",)),
        target("e#1"),
    )
    assert await keys(one, "a") == ["a#1", "b#1", "c#1", "d#1", "e#1"]


@pytest.mark.parametrize("fallbacks", [("a",), ("a", "a"), ("b", "b")])
async def test_circles_end(fallbacks: tuple[str, ...]) -> None:
    one = router(target("a#1", fallbacks=fallbacks), target("b#1", fallbacks=("a", "b")))
    assert await keys(one, "a") == ["a#1", "b#1"][: 1 + ("b" in fallbacks)]


async def test_the_fallbacks_of_all_deployments_of_a_group_count() -> None:
    one = router(target("a#1", fallbacks=("b",)), target("a#2", fallbacks=("c",)), target("b#1"), target("c#1"))
    assert (await keys(one, "a"))[2:] == ["b#1", "c#1"]


async def test_an_unavailable_deployment_still_names_its_fallbacks() -> None:
    one = router(target("a#1", unavailable="no key", fallbacks=("b",)), target("b#1"))
    assert await keys(one, "a") == ["b#1"]


async def test_a_fallback_group_is_shared_by_weight_too() -> None:
    one = router(target("a#1", fallbacks=("b",)), target("b#1"), target("b#2"))
    orders = {tuple(await keys(one, "a")) for _ in range(50)}
    assert orders == {("a#1", "b#1", "b#2"), ("a#1", "b#2", "b#1")}


async def test_fallbacks_that_do_not_exist_are_passed_over() -> None:
    assert await keys(router(target("a#1", fallbacks=("ghost", "b")), target("b#1")), "a") == ["a#1", "b#1"]


async def test_a_configured_model_that_cannot_be_called_says_so_and_tells_no_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reason = "its api_key refers to $SECRET_NAME, which is not set"
    with caplog.at_level(logging.DEBUG):
        one = router(target("a#1", unavailable=reason), target("a#2", unavailable=reason, fallbacks=("b",)),
                     target("b#1", unavailable=reason))  # fmt: skip
    with pytest.raises(ModelNotFound, match=r"'a' is configured but not available.*no API key") as caught:
        one.route(call("a"))
    assert caught.value.status == 404
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "SECRET_NAME" not in caught.value.message
    assert "a#1: its api_key refers to $SECRET_NAME" in caplog.text


async def test_a_model_that_is_switched_off_says_so_unless_a_fallback_answers() -> None:
    off: dict[str, Any] = {"unavailable": "switched off", "switched_off": True}
    one = router(target("a#1", **off), target("b#1", fallbacks=("a",), **off), target("c#1", fallbacks=("d",), **off),
                 target("d#1"), target("o/*#1", name="o/*", **off),
                 target("e#1", unavailable="no key"), target("e#2", **off))  # fmt: skip
    for model in ("a", "b", "o/x", "e"):
        with pytest.raises(Unavailable, match=f"the model '{model}' is switched off by an administrator") as caught:
            one.route(call(model))
        assert (caught.value.status, caught.value.code, caught.value.final) == (503, "model_disabled", True)
    assert await keys(one, "c") == ["d#1"]


async def test_a_change_of_the_catalog_counts_at_once() -> None:
    catalog = LiveCatalog([])
    catalog.feed("test", [target("a#1")])
    one = over(catalog, random.random)
    assert await keys(one, "a") == ["a#1"]
    catalog.feed("test", [target("a#9"), target("b#1"), target("b#2")])
    assert await keys(one, "a") == ["a#9"]
    assert sorted(await keys(one, "b")) == ["b#1", "b#2"]
    catalog.feed("test", [target("b#1", unavailable="no key")])
    assert one.route(call("a")) is None
    with pytest.raises(ModelNotFound):
        one.route(call("b"))


async def test_the_plugin_routes_over_the_catalog_service() -> None:
    services = Services()
    services.provide(CATALOG, LiveCatalog([target("a#1")]), "test")
    plugin = RouteModels(RouteModels.Settings())
    (made,) = plugin.register_routers(cast("Any", SimpleNamespace(services=services)))
    assert isinstance(made, ModelRouter)
    assert await keys(made, "a") == ["a#1"]


async def test_an_alias_has_the_order_of_its_model_and_is_followed_only_once() -> None:
    one = router(target("a#1", aliases=("other",), fallbacks=("other", "b")), target("b#1", fallbacks=("other",)))
    assert await keys(one, "other") == await keys(one, "a") == ["a#1", "b#1"]


async def test_a_name_that_a_wildcard_serves_is_routed_and_its_fallbacks_follow() -> None:
    one = router(target("o/*#1", name="o/*", model="*", fallbacks=("o/mini", "b")), target("b#1"))
    found = one.route(call("o/large"))
    assert found is not None
    assert [(each.key, each.model) for each in found] == [("o/*#1", "large"), ("o/*#1", "mini"), ("b#1", "m")]
    assert one.route(call("o/*")) is None
    assert one.route(call("p/large")) is None


async def test_a_wildcard_that_cannot_be_called_says_so() -> None:
    with pytest.raises(ModelNotFound, match="'o/x' is configured but not available"):
        router(target("o/*#1", name="o/*", unavailable="no key")).route(call("o/x"))


async def test_names_that_clients_make_up_do_not_fill_the_memory() -> None:
    one = router(target("*#1", name="*", model="*"))
    for number in range(1_500):
        assert await keys(one, f"m{number}") == ["*#1"]
    assert len(one._unlisted) <= 1_000


async def test_embeddings_fall_back_only_to_the_same_model_of_a_vendor() -> None:
    """Vectors of different models cannot be compared, also where they are of one length."""
    own = [target("a#1", model="e-small", priority=1), target("a#2", model="e-small", weight=2.0, priority=2)]
    others = [target("b#1", model="e-large"), target("b#2", model="e-small", vendor="azure"), target("c#1", model="c")]
    for shared in ({}, {"weight": 3.0, "priority": 1}):  # a fixed order, and one of a strategy
        first = target("a#1", model="e-small", fallbacks=("b", "c"), **shared)
        one = router(first, own[1], *others)
        assert sorted(await keys(one, "a", "embeddings")) == ["a#1", "a#2", "b#2"]
        assert sorted(await keys(one, "a")) == ["a#1", "a#2", "b#1", "b#2", "c#1"]


async def test_embeddings_of_a_model_that_cannot_be_called_are_not_anothers() -> None:
    spare = target("b#1", model="other")
    off = target("a#1", model="e", fallbacks=("b",), unavailable="off", switched_off=True)
    with pytest.raises(Unavailable) as switched_off:
        await keys(router(off, spare), "a", "embeddings")
    assert switched_off.value.code == "model_disabled"
    keyless = target("a#1", model="e", fallbacks=("b",), unavailable="its key $X is not set")
    with pytest.raises(ModelNotFound):
        await keys(router(keyless, spare), "a", "embeddings")
    assert await keys(router(off, target("b#1", model="e")), "a", "embeddings") == ["b#1"]
