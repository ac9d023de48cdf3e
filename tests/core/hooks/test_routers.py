"""Which deployments: what `register_routers` promises, end to end."""

from collections.abc import Sequence
from typing import Any

import pytest

from gatehook import Call, Group, Target


async def test_hook_register_routers_the_first_that_knows_the_model_decides(kit: Any) -> None:
    first, second = kit.Guide(x=[kit.target("one")], y=None), kit.Guide(x=[kit.target("two")], y=[kit.target("three")])
    routers = {"a": kit.specimen(register_routers=[first]), "b": kit.specimen(register_routers=[second])}
    async with kit.client(**routers) as ask:
        assert (await ask.chat(model="x")).headers["X-Gatehook-Deployment"] == "one"
        assert (await ask.chat(model="y")).headers["X-Gatehook-Deployment"] == "three"
        assert (await ask.chat(model="m")).headers["X-Gatehook-Deployment"] == "m#1"
    assert (first.asked, second.asked) == (["x", "y", "m"], ["y", "m"])


async def test_hook_register_routers_no_targets_mean_not_mine(kit: Any) -> None:
    async with kit.client(a=kit.specimen(register_routers=[kit.Guide(m=[])])) as ask:
        assert (await ask.chat()).headers["X-Gatehook-Deployment"] == "m#1"


async def test_hook_register_routers_targets_are_tried_in_the_router_s_order(kit: Any) -> None:
    watch = kit.Watching()
    guide = kit.Guide(x=[kit.target("gone", "nobody"), kit.target("there")])
    plugins = {"a": kit.specimen(register_routers=[guide]), "w": kit.specimen(register_observers=[watch])}
    async with kit.client(**plugins) as ask:
        answer = await ask.chat(model="x")
    assert answer.headers["X-Gatehook-Deployment"] == "there"
    assert watch.moments[1] == "attempt_failed gone unknown_vendor"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("made", [Group, list])
async def test_hook_register_routers_one_that_never_waits_may_be_plain(kit: Any, made: Any, stream: bool) -> None:
    class Plain:
        def __init__(self, **known: Any) -> None:
            self.known = known

        def route(self, call: Call) -> Sequence[Target] | None:
            return self.known.get(call.model)

    first, second = Plain(x=made([kit.target("one")]), y=made([])), Plain(y=made([kit.target("two")]))
    third = kit.Guide(z=made([kit.target("three")]))
    routers = {
        name: kit.specimen(register_routers=[one]) for name, one in zip("abc", (first, second, third), strict=True)
    }
    async with kit.client(**routers) as ask:
        for model, deployment in [("x", "one"), ("y", "two"), ("z", "three"), ("m", "m#1")]:
            assert (await ask.chat(model=model, stream=stream)).headers["X-Gatehook-Deployment"] == deployment
        assert (await ask.chat(model="nobody's")).status == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_routers_a_model_that_none_knows_is_a_404(kit: Any, stream: bool) -> None:
    async with kit.client(a=kit.specimen(register_routers=[kit.Guide()])) as ask:
        answer = await ask.chat(model="zzz", stream=stream)
    assert answer.status == 404
    assert (answer.error["type"], answer.error["code"], answer.error["param"]) == (
        "not_found_error",
        "model_not_found",
        "model",
    )


async def test_hook_register_routers_one_that_breaks_is_a_500_and_rejected(kit: Any) -> None:
    class Broken:
        async def route(self, call: Call) -> Sequence[Target] | None:
            raise ConnectionError("no catalog")

    watch = kit.Watching()
    plugins = {"a": kit.specimen(register_routers=[Broken()]), "w": kit.specimen(register_observers=[watch])}
    async with kit.client(**plugins) as ask:
        assert (await ask.chat()).status == 500
    assert watch.moments[-1] == "finished rejected 500 server_error"
