"""Strategy and weights that an administrator sets while the gateway runs."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest

from gatehook import BALANCING, DIRECTORY, Call, Directory, Gateway, awaited
from gatehook.jsonio import Document
from gatehook.testing import serving
from gatehook_plugins.route_models.balance import Balance

Make = Callable[..., Any]

SETTINGS = """
[plugins.database]
[plugins.route_models]
[plugins.vendor_mock]
[database]
url = "{url}"
secret = "secret-of-the-tests-0123456789"
"""
MODELS = "".join(
    f'[[models]]\nname = "a"\nvendor = "mock"\nmodel = "mock"\nbase_url = "http://{n}.example"\n' for n in "xyz"
)


class Told:
    """A directory, as far as the balance asks it."""

    def __init__(self) -> None:
        self.value: Any = {}
        self.changed: list[Callable[[str, str], None]] = []

    def config(self, name: str) -> Any:
        assert name == "load-balancing"
        return self.value, 1

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        self.changed.append(changed)

    def put(self, value: Any, notice: tuple[str, str] = ("config", "load-balancing")) -> None:
        self.value = value
        for changed in self.changed:
            changed(*notice)


def following(one: Any) -> Told:
    told = Told()
    one.balance.follow(cast("Directory", told))
    return told


async def test_the_strategy_changes_at_once_and_goes_back(routed: Make, tier: Make) -> None:
    one = routed(*tier(3))
    told = following(one)
    told.put({"strategy": "priority"})
    assert (await one.keys(), one.balance.strategy) == (["a#0", "a#1", "a#2"], "priority")
    told.put({"strategy": "round_robin"}, ("", ""))
    assert [await one.first() for _ in range(3)] == ["a#0", "a#1", "a#2"]
    told.put({})
    assert one.balance.strategy == "weighted"


async def test_other_notices_are_not_ours(routed: Make, tier: Make) -> None:
    one = routed(*tier(2))
    told = following(one)
    for notice in (("config", "model:a"), ("user", "load-balancing"), ("model", "")):
        told.put({"strategy": "priority"}, notice)
    assert one.balance.strategy == "weighted"


async def test_weights_hold_for_a_model_or_a_deployment_which_goes_first(routed: Make, tier: Make) -> None:
    one = routed(*tier(3))
    following(one).put({"weights": {"a": 0, "a#1": 2, "a#2": 2, "ghost": 1}})
    firsts = Counter([await one.first() for _ in range(200)])
    assert set(firsts) == {"a#1", "a#2"}
    assert (await one.keys())[2] == "a#0"


async def test_weights_of_a_wildcard_hold_for_what_it_serves(routed: Make, target: Make) -> None:
    one = routed(target("o/*#1", name="o/*", weight=1.0), target("o/*#2", name="o/*", weight=1.0))
    told = following(one)
    for values, first in (
        ({"o/*#1": 0}, "o/*#2"),
        ({"o/*": 0, "o/*#1": 1}, "o/*#1"),
        ({"o/*": 5, "o/*#2": 0}, "o/*#1"),
    ):
        told.put({"weights": values})
        assert {await one.first("o/x") for _ in range(50)} == {first}
        assert {await one.first("o/y") for _ in range(50)} == {first}


async def test_weights_of_a_model_hold_for_its_alias(routed: Make, target: Make) -> None:
    one = routed(target("a#1", aliases=("other",)), target("a#2", aliases=("other",)))
    following(one).put({"weights": {"a": 0, "a#2": 3}})
    assert {await one.first("other") for _ in range(50)} == {"a#2"}


async def test_what_cannot_be_is_logged_once_and_passed_over(
    routed: Make, tier: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = routed(*tier(2))
    told = following(one)
    bad = {"strategy": "chaos", "weights": {"a#0": -1, "a#1": float("nan"), "a": "x", "a#2": True, "a#3": None}}
    with caplog.at_level(logging.ERROR):
        told.put(bad)
        told.put(bad)
        told.put(bad, ("", ""))
    assert len(caplog.messages) == 5
    assert "strategy 'chaos' is not known here" in caplog.text
    assert "the weight of 'a#0' is no number from 0 on" in caplog.text
    assert one.balance.strategy == "weighted"
    assert len(await one.keys()) == 2
    told.put({"weights": [1]})
    assert "weights are no object" in caplog.text


async def test_weights_that_leave_nobody_are_logged_once_and_passed_over(
    routed: Make, tier: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = routed(*tier(2))
    with caplog.at_level(logging.ERROR):
        following(one).put({"weights": {"a": 0}})
        one.catalog.feed("test", tier(3))
        one.catalog.feed("test", [])
    assert caplog.messages == ["the weights set for 'a' at priority 1 sum to zero; those of its tables hold"]
    assert {await one.first() for _ in range(60)} == {"a#0", "a#1"}


def switched(gateway: Gateway) -> asyncio.Event:
    changed = asyncio.Event()
    cast("Balance", gateway.services[BALANCING]).subscribe(changed.set)
    return changed


async def firsts(gateway: Gateway) -> set[str]:
    (router,) = gateway.pipeline.concerns.routers
    call = Call("chat", "test", {}, model="a", body=Document({"messages": []}))
    found = [await awaited(router.route(call)) for _ in range(40)]
    return {one[0].key for one in found if one}


async def test_the_directory_switches_a_gateway_that_serves(database_url: str) -> None:
    text = SETTINGS.format(url=database_url) + MODELS
    async with serving(text) as one, serving(text) as other:
        followed = [switched(one.gateway), switched(other.gateway)]
        value = {"strategy": "priority", "weights": {"a#1": 0}}
        await one.gateway.services[DIRECTORY].put_config("tests", "load-balancing", value)
        for gateway, changed in zip((one.gateway, other.gateway), followed, strict=True):
            async with asyncio.timeout(5):
                await changed.wait()
            assert await firsts(gateway) == {"a#2"}
    async with serving(text) as again:
        assert again.gateway.services[BALANCING].strategy == "priority"
        assert "least_busy" in again.gateway.services[BALANCING].strategies
