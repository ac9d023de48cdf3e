"""What a deployment has no place for is told in a header, or refused."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gatehook.calls import delivery
from gatehook.testing import StubUpstream

House = Callable[..., Any]
Wire = Any

USER: Any = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [USER]}


async def test_lost_parameters_are_told_in_a_header(house: House, wire: Wire) -> None:
    body = {**CHAT, "user": "u", "zz_unknown": 1, "zz\r\nX-Evil: 1": 2, "größe": 3, "seed": None}
    async with StubUpstream(wire.text("x"), wire.stream(["x"])) as stub, house(wire.deployment(stub)) as home:
        for one in (body, {**body, "stream": True}):
            status, _, headers = await home.ask(one)
            assert status == 200
            assert "X-Evil" not in headers
            lost = headers.get("X-Gatehook-Dropped-Params", "")
            if wire.name == "openai":
                assert lost == ""
            else:
                assert lost.split(", ")[:2] == ["user", "zz_unknown"]
                assert "seed" not in lost
                assert lost.isascii()


async def test_thousands_of_lost_parameters_do_not_break_the_answer(house: House, wire: Wire) -> None:
    body = {**CHAT, **{f"unknown_{'x' * 100}_{number}": 1 for number in range(2000)}}
    async with StubUpstream(wire.text("x")) as stub, house(wire.deployment(stub)) as home:
        status, answer, _ = await home.ask(body)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "x")


async def test_thousands_of_lost_parameters_are_not_kept(
    house: House, wires: Sequence[Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, kept = wires[1], list[str]()

    def value(text: str) -> str:
        kept.append(text)
        return "…"

    monkeypatch.setattr(delivery, "_header_value", value)
    body = {**CHAT, **{f"unknown_{number}": 1 for number in range(2000)}}
    async with StubUpstream(wire.text("x")) as stub, house(wire.deployment(stub)) as home:
        assert (await home.ask(body))[0] == 200
    assert max(map(len, kept)) < 5000, "what is looked up is kept for the next answer"


async def test_strict_deployments_refuse_what_others_drop(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.text("x")) as stub, house(wire.deployment(stub, strict=True)) as home:
        status, answer, _ = await home.ask({**CHAT, "zz_unknown": 1})
        if wire.name == "openai":
            assert status == 200
        else:
            assert (status, answer["error"]["param"]) == (400, "zz_unknown")
            assert not stub.requests
