"""Several servers share the calls by how much each has to do, whoever asked for it."""

import asyncio
from typing import Any

import pytest

from gatehook import GatewayError
from gatehook.testing import Reply, StubUpstream

House = Any
Comfy = Any


async def test_the_server_that_others_keep_busy_is_spared(house: House, comfy: Comfy, other_comfy: Comfy) -> None:
    async with house(comfy.url, other_comfy.url, strategy="least_busy") as home:
        await asyncio.gather(*(home.ask() for _ in range(4)))  # both are known now
        before = len(comfy.ran)
        comfy.held = True
        theirs = {"1": {"class_type": "Blocks", "inputs": {}}}
        for n in range(3):
            body = {"prompt": theirs, "prompt_id": f"theirs{n}", "client_id": "them"}
            async with home.http.post(f"{comfy.url}/prompt", json=body):
                pass
        vendor, target = home.gateway.vendors["comfyui"], home.gateway.settings.targets[0]
        while vendor.waiting(target) < 3:  # noqa: ASYNC110  # of another system, which tells nobody
            await asyncio.sleep(0.005)
        for _ in range(4):
            assert (await home.ask())[0] == 200
        comfy.go.set()
    assert len(comfy.ran) - before <= 3, "none of ours went there"
    assert len(other_comfy.ran) >= 5


async def test_a_probe_asks_the_server_and_tells_if_it_is_away(house: House, comfy: Comfy) -> None:
    async with house(comfy.url) as home:
        vendor, target = home.gateway.vendors["comfyui"], home.gateway.settings.targets[0]
        await vendor.probe(target)
        assert vendor.waiting(target) == 0
    assert [path for _, path, _, _ in comfy.asked] == ["/prompt"]
    async with StubUpstream(Reply(status=500)) as stub, house(stub.url) as home:
        vendor, target = home.gateway.vendors["comfyui"], home.gateway.settings.targets[0]
        with pytest.raises(GatewayError):
            await vendor.probe(target)
