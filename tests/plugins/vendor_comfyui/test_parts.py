"""Several pictures of which some fail: what there is goes out and is charged, if no server makes all of them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, ClassVar

import aiohttp
import pytest
from aiohttp import web

from gatehook import Call, Document, Gateway, Observer, Outcome, Section, UpstreamError, hookimpl
from gatehook.testing import serving

Comfy = Any

WATCH = "[plugins.watch]\n"


class Watch:
    """A plugin that keeps what becomes of each call."""

    Settings = Section
    outcomes: ClassVar[list[tuple[Call, Outcome]]] = []

    def __init__(self, settings: Section) -> None:
        type(self).outcomes = []

    @hookimpl
    def register_observers(self) -> Iterable[Observer]:
        class Watcher(Observer):
            def finished(self, call: Call, outcome: Outcome) -> None:
                Watch.outcomes.append((call, outcome))

        return [Watcher()]


async def draw(home: Any, **body: Any) -> tuple[int, Any, Mapping[str, str]]:
    body = {"model": "m", "prompt": "a cat", "n": 3, **body}
    async with asyncio.timeout(30), home.http.post(f"{home.url}/v1/images/generations", json=body) as answer:
        return answer.status, await answer.json(), answer.headers


def fails_after(comfy: Comfy, runs: int, *, once: bool = False) -> None:
    """Have the server refuse what comes after so many runs, or the next one only."""
    left = [runs]

    async def front(request: web.Request) -> web.StreamResponse | None:
        if (request.method, request.path) != ("POST", "/prompt"):
            return None
        left[0] -= 1
        return web.Response(status=500) if left[0] == -1 or (left[0] < 0 and not once) else None

    comfy.front = front


def seeds(comfy: Comfy) -> list[int]:
    sent = [body["prompt"] for method, path, _, body in comfy.asked if (method, path) == ("POST", "/prompt")]
    return [one["2"]["inputs"]["seed"] for one in sent]


@pytest.fixture
def priced(tmp_path: Any) -> Any:
    """Settings of a model at these servers that has a price, with a watch."""

    def made(workflow: Any, *servers: str, more: str = "") -> str:
        file = tmp_path / "w.json"
        file.write_text(json.dumps(workflow))
        text = "[failover]\nretries = 1\n[plugins.openai_api]\n[plugins.images_api]\n[plugins.vendor_comfyui]\n"
        text += f'[plugins.route_models]\nstrategy = "priority"\n{WATCH}'
        for place, server in enumerate(servers):
            text += f'[[models]]\nname = "m"\nvendor = "comfyui"\nbase_url = "{server}"\npriority = {place + 1}\n'
            text += f'pricing = {{ per_image = 0.0{place + 1} }}\n{more}\n[models.options]\nworkflow = "{file}"\n'
            text += 'poll = 0.05\n[models.options.inputs]\nprompt = "3.filename_prefix"\n'
            text += 'seed = { node = "2.seed", min = 0, max = 1000000 }\n'
        return text

    return made


WORKFLOW: Any = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "color": 0}},
    "2": {"class_type": "Steps", "inputs": {"image": ["1", 0], "steps": 2, "preview": False, "seed": 7}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "made"}},
}


class Home:
    def __init__(self, gateway: Gateway, url: str, http: Any) -> None:
        self.gateway, self.url, self.http = gateway, url, http


@pytest.fixture
def home(priced: Any) -> Any:
    """Opens a gateway before these servers."""

    @contextlib.asynccontextmanager
    async def opened(*servers: str, more: str = "") -> AsyncIterator[Home]:
        settings = priced(WORKFLOW, *servers, more=more)
        async with serving(settings, plugins={"watch": Watch}) as served, aiohttp.ClientSession() as http:
            yield Home(served.gateway, served.url, http)

    return opened


def charged() -> tuple[str, int, int]:
    ((_, outcome),) = Watch.outcomes
    assert outcome.usage is not None
    assert outcome.cost is not None
    return outcome.status, outcome.usage.images, outcome.cost.total


async def test_what_was_made_goes_out_and_is_charged_where_no_server_makes_the_rest(home: Any, comfy: Comfy) -> None:
    fails_after(comfy, 2)
    async with home(comfy.url) as at:
        status, answer, headers = await draw(at)
    assert (status, len(answer["data"])) == (200, 2)
    assert headers["X-Gatehook-Dropped-Params"] == "n"
    assert headers["X-Gatehook-Deployment"].startswith("m#")
    assert charged() == ("complete", 2, 20_000_000)


async def test_another_try_at_a_server_makes_only_what_is_missing(home: Any, comfy: Comfy) -> None:
    fails_after(comfy, 2, once=True)
    async with home(comfy.url) as at:
        status, answer, headers = await draw(at, seed=5)
    assert (status, len(answer["data"]), len(comfy.ran)) == (200, 3, 3)
    assert seeds(comfy) == [5, 6, 7, 7]
    assert "X-Gatehook-Dropped-Params" not in headers
    assert charged() == ("complete", 3, 30_000_000)


async def test_another_server_makes_all_of_them_and_they_alone_are_charged(
    home: Any, comfy: Comfy, other_comfy: Comfy
) -> None:
    fails_after(comfy, 2)
    async with home(comfy.url, other_comfy.url) as at:
        status, answer, headers = await draw(at)
    assert (status, len(answer["data"]), len(other_comfy.ran)) == (200, 3, 3)
    assert "X-Gatehook-Dropped-Params" not in headers
    assert charged() == ("complete", 3, 60_000_000)


async def test_of_what_two_servers_made_the_larger_part_goes_out(home: Any, comfy: Comfy, other_comfy: Comfy) -> None:
    fails_after(comfy, 2)
    fails_after(other_comfy, 1)
    async with home(comfy.url, other_comfy.url) as at:
        status, answer, headers = await draw(at)
    assert (status, len(answer["data"])) == (200, 2)
    ((call, _),) = Watch.outcomes
    assert call.target is not None
    assert call.target.base_url == comfy.url
    assert headers["X-Gatehook-Deployment"] == call.target.key
    assert charged() == ("complete", 2, 20_000_000)


async def test_what_was_made_within_the_time_limit_goes_out(home: Any, comfy: Comfy) -> None:
    def paint(prompt: Mapping[str, Any]) -> bytes:
        comfy.held = True  # from the next run on
        return picture

    picture: bytes = comfy.paint({})
    comfy.paint = paint
    async with home(comfy.url, more="timeout = 3") as at:
        status, answer, _ = await draw(at)
    assert (status, len(answer["data"])) == (200, 1)
    assert charged() == ("complete", 1, 10_000_000)


@pytest.mark.parametrize(("more", "runs"), [("strict = true", 2), ("", 0)])
async def test_a_strict_deployment_gives_all_or_nothing_and_nothing_made_is_a_failure(
    home: Any, comfy: Comfy, more: str, runs: int
) -> None:
    fails_after(comfy, runs)
    async with home(comfy.url, more=more) as at:
        status, answer, _ = await draw(at)
    assert (status, answer["error"]["code"]) == (502, "upstream_error")
    assert [(outcome.usage, outcome.cost) for _, outcome in Watch.outcomes] == [(None, None)]


async def test_a_job_fails_and_has_another_try_instead(home: Any, comfy: Comfy) -> None:
    fails_after(comfy, 2)
    body = Document({"model": "m", "prompt": "a cat", "n": 3})
    async with home(comfy.url) as at:
        with pytest.raises(UpstreamError):
            await at.gateway.run(Call("images", "test", {}, model="m", body=body, id="job.1", reservation="job"))


async def test_a_chat_shows_what_was_made(home: Any, comfy: Comfy) -> None:
    fails_after(comfy, 2)
    async with home(comfy.url) as at:
        body = {"model": "m", "messages": [{"role": "user", "content": "a cat"}], "n": 3}
        async with asyncio.timeout(30), at.http.post(f"{at.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            message = (await answer.json())["choices"][0]["message"]
    assert (len(message["images"]), message["content"].count("![picture](")) == (2, 2)
    assert charged() == ("complete", 2, 20_000_000)


async def test_a_stream_shows_what_was_made_and_then_its_error(home: Any, comfy: Comfy) -> None:
    fails_after(comfy, 2)
    async with home(comfy.url) as at:
        body = {"model": "m", "messages": [{"role": "user", "content": "a cat"}], "n": 3, "stream": True}
        lines: list[str] = []
        async with asyncio.timeout(30), at.http.post(f"{at.url}/v1/chat/completions", json=body) as answer:
            with contextlib.suppress(aiohttp.ClientError):  # the line is cut after the error
                async for line in answer.content:
                    lines += [line.decode().strip()]
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    shown = [choice["delta"] for event in events for choice in event.get("choices", ())]
    assert [len(delta["images"]) for delta in shown if "images" in delta] == [2]
    assert events[-1]["error"]["code"] == "upstream_error"
    assert "data: [DONE]" not in lines
    assert charged() == ("partial", 2, 20_000_000)
