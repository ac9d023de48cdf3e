"""What is expected of ComfyUI itself: of the stand-in of these tests, and of a real one where there is one.

COMFYUI_TEST_URL=http://127.0.0.1:8188 names it; its workflows need no models and take milliseconds.
"""

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Any

import pytest

House = Any

WORKFLOW: Any = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "gatehook"}},
}
INPUTS = """
prompt = "3.filename_prefix"
width = "1.width"
height = "1.height"
seed = { node = "1.color", min = 0, max = 16777215 }
"""
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(params=["stand-in", "real"])
def server(request: pytest.FixtureRequest) -> str:
    """The address of each."""
    if request.param == "stand-in":
        return str(request.getfixturevalue("comfy").url)
    if not (url := os.environ.get("COMFYUI_TEST_URL", "").rstrip("/")):
        pytest.skip("COMFYUI_TEST_URL names no ComfyUI server")
    return url


@pytest.fixture
def home(house: House, server: str) -> Callable[[], Any]:
    """A gateway in front of it."""
    return lambda: house(server, workflow=WORKFLOW, inputs=INPUTS)


async def test_a_picture_comes_back_without_its_prompt(home: Any) -> None:
    async with home() as one:
        status, answer = await one.ask(prompt="gatehook-test", seed=5)
    assert status == 200, answer
    data = base64.b64decode(answer["data"][0]["b64_json"])
    assert data.startswith(PNG)
    assert b"gatehook-test" not in data


async def test_the_same_again_gives_a_picture_again(home: Any) -> None:
    async with home() as one:
        answers = [await one.ask(prompt="gatehook-test", seed=6) for _ in range(3)]
    assert [status for status, _ in answers] == [200] * 3


async def test_many_at_once_all_get_theirs(home: Any) -> None:
    async with home() as one:
        answers = await asyncio.gather(*(one.ask(prompt="gatehook-test", n=2) for _ in range(10)))
    assert [(status, len(answer["data"])) for status, answer in answers] == [(200, 2)] * 10


async def test_a_value_that_the_server_does_not_take_is_the_client_s_fault(home: Any) -> None:
    async with home() as one:
        status, answer = await one.ask(prompt="gatehook-test", size="20000x64")
    assert (status, answer["error"]["param"]) == (400, "width")
    assert "bigger than max of 16384" in answer["error"]["message"]


async def test_a_chat_shows_a_picture(home: Any) -> None:
    async with home() as one:
        status, answer = await one.ask("/v1/chat/completions", messages=[{"role": "user", "content": "gatehook-test"}])
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"].startswith("![picture](data:image/png;base64,")


async def test_clients_that_leave_stop_their_runs(home: Any, server: str) -> None:
    async with home() as one:
        asking = [asyncio.create_task(one.ask(prompt="gatehook-test", n=10)) for _ in range(5)]
        await asyncio.wait(asking, timeout=0.05)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    async with asyncio.timeout(10):
        import aiohttp

        async with aiohttp.ClientSession() as session:
            left = 1
            while left:
                async with session.get(f"{server}/prompt") as answer:
                    left = (await answer.json())["exec_info"]["queue_remaining"]
