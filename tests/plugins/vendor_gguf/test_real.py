"""The real library and real engines, with a trained model of 660 kB, through a whole gateway."""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook import LOCAL_MODELS, LocalModel, LocalModels
from gatehook.testing import Served, serving
from gatehook_plugins.vendor_gguf.vendor import INSTALL, is_installed

pytestmark = pytest.mark.skipif(not is_installed(), reason=INSTALL)

FRANCE = "What is the capital of France?"


class Real:
    """A gateway with copies of the trained model."""

    def __init__(self, served: Served, http: aiohttp.ClientSession) -> None:
        self.models: LocalModels = served.gateway.services[LOCAL_MODELS]
        self._http = http
        self._url = f"{served.url}/v1/chat/completions"

    def post(self, model: str, text: str, **more: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **more}
        return self._http.post(self._url, json=body)

    async def said(self, model: str, text: str = FRANCE) -> str:
        async with self.post(model, text, max_tokens=64) as answer:
            told = await answer.json()
            assert answer.status == 200, told
            assert told["model"] == model
            return str(told["choices"][0]["message"]["content"])

    async def streamed(self, model: str, text: str = FRANCE) -> str:
        async with self.post(model, text, max_tokens=64, stream=True) as answer:
            events = [line[6:] for line in (await answer.text()).split("\n\n") if line.startswith("data: ")]
        assert events[-1] == "[DONE]", events[-1]
        chunks = [json.loads(one) for one in events[:-1]]
        assert {chunk["model"] for chunk in chunks} == {model}
        return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])

    async def model(self, name: str) -> LocalModel:
        return next(one for one in await self.models.models() if one.name == name)


@contextlib.asynccontextmanager
async def gateway(folder: Path, more: str = "") -> AsyncIterator[Real]:
    settings = f"""
        [plugins.openai_api]
        [plugins.route_models]
        [plugins.vendor_gguf]
        models_dir = "{folder}"
        context = 256
        slots = 2
        threads = 1
        {more}
    """
    async with serving(settings) as served, aiohttp.ClientSession() as http:
        yield Real(served, http)


def engines(folder: Path) -> list[int]:
    """The processes that have loaded a model of this folder."""
    found = []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if str(folder) in maps.read_text():
                found.append(int(maps.parent.name))
    return found


async def test_a_real_model_answers_plainly_and_streamed(tmp_path: Path, trained: Path) -> None:
    shutil.copy(trained, tmp_path / "tiny.gguf")
    async with gateway(tmp_path) as real:
        assert "Paris" in await real.said("tiny")
        assert await real.streamed("tiny") == await real.said("tiny")
        model = await real.model("tiny")
        assert (model.status, model.quantization, model.architecture) == ("loaded", "Q8_0", "llama")
        assert model.context_length == 256
        assert (model.memory or 0) > model.size


async def test_kill_9_of_a_model_in_a_stream_is_honest_and_the_next_request_is_answered(
    tmp_path: Path, trained: Path
) -> None:
    shutil.copy(trained, tmp_path / "tiny.gguf")
    async with gateway(tmp_path) as real:
        await real.said("tiny")
        (engine,) = engines(tmp_path)
        os.kill(engine, signal.SIGSTOP)  # it says nothing more, however quick it is
        asking = asyncio.create_task(real.post("tiny", "Tell me a story.", stream=True).__aenter__())
        async with asyncio.timeout(10):
            while not (await real.model("tiny")).active:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.01)
        os.kill(engine, signal.SIGKILL)
        answer = await asking
        body = await answer.read()
        assert answer.status == 200, "nothing of it had been sent: it was asked again"
        assert body.endswith(b"data: [DONE]\n\n")
        assert engines(tmp_path) != [engine]


async def test_kill_9_of_a_model_after_the_first_words_ends_the_stream_with_an_error(
    tmp_path: Path, trained: Path
) -> None:
    shutil.copy(trained, tmp_path / "tiny.gguf")
    shutil.copy(trained, tmp_path / "other.gguf")
    async with gateway(tmp_path) as real:
        long = {"n": 16, "max_tokens": 200, "logit_bias": {"2": -100}}  # seconds of writing, and no early end
        async with real.post("tiny", "Tell me a story.", stream=True, **long) as answer:
            assert answer.status == 200
            body = await answer.content.readany()
            (engine,) = engines(tmp_path)
            os.kill(engine, signal.SIGKILL)
            with contextlib.suppress(aiohttp.ClientError):  # the line is cut: it is no whole answer
                async for piece in answer.content.iter_any():
                    body += piece
        assert b'"code":"engine_crashed"' in body
        assert b"[DONE]" not in body
        assert "Paris" in await real.said("other")
        assert "Paris" in await real.said("tiny")


@pytest.mark.parametrize(
    ("asked", "status", "code", "words"),
    [
        ({"messages": [{"role": "user", "content": "x" * 300}]}, 400, "context_length_exceeded", "304 tokens; .* 256"),
        ({"temperature": 9}, 400, None, "temperature"),
        ({"stop": [1]}, 400, None, r"stop\[0\]"),
        ({"tool_choice": "required"}, 400, None, "there are no tools"),
        ({"functions": [{"name": "f"}]}, 400, "unsupported_parameter", "use tools"),
        ({"model": "nobody"}, 404, "model_not_found", "nobody"),
    ],
)
async def test_what_an_engine_refuses_is_told_by_its_class_plain_and_streamed(
    tmp_path: Path, trained: Path, asked: dict[str, Any], status: int, code: str | None, words: str
) -> None:
    shutil.copy(trained, tmp_path / "tiny.gguf")
    async with gateway(tmp_path) as real:
        for stream in (False, True):
            body: dict[str, Any] = {"model": "tiny", "stream": stream, **asked}
            async with real.post(text=FRANCE, **body) as answer:
                error = (await answer.json())["error"]
                assert (answer.status, error["code"]) == (status, code)
                assert re.search(words, error["message"])
                assert str(tmp_path) not in error["message"]
        assert "Paris" in await real.said("tiny")


async def test_an_engine_that_is_halted_is_a_timeout_and_answers_when_it_goes_on(tmp_path: Path, trained: Path) -> None:
    shutil.copy(trained, tmp_path / "tiny.gguf")
    async with gateway(tmp_path, "[failover]\nretries = 0\nfirst_token_timeout = 0.3") as real:
        await real.said("tiny")
        (engine,) = engines(tmp_path)
        os.kill(engine, signal.SIGSTOP)
        try:
            async with real.post("tiny", FRANCE, stream=True) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (504, "upstream_timeout")
        finally:
            os.kill(engine, signal.SIGCONT)
        assert "Paris" in await real.said("tiny")
        assert engines(tmp_path) == [engine]


async def test_a_truncated_file_says_so_and_the_others_live(tmp_path: Path, trained: Path) -> None:
    shutil.copy(trained, tmp_path / "good.gguf")
    shutil.copy(trained, tmp_path / "short.gguf")
    os.truncate(tmp_path / "short.gguf", 200_000)
    async with gateway(tmp_path, "max_concurrent_models = 1") as real:
        assert "Paris" in await real.said("good")
        engine = engines(tmp_path)
        async with real.post("short", FRANCE) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (503, "model_load_failed")
            assert "the model 'short' cannot be loaded: it has 200000 bytes" in error["message"]
        assert (await real.model("short")).status == "failed"
        assert "Paris" in await real.said("good")
        assert engines(tmp_path) == engine, "nothing was unloaded for it"


async def test_memory_is_back_when_a_model_is_unloaded(tmp_path: Path, trained: Path) -> None:
    shutil.copy(trained, tmp_path / "tiny.gguf")
    async with gateway(tmp_path) as real:
        for _ in range(2):
            await real.said("tiny")
            assert (await real.models.limits()).memory_used > 0
            assert len(engines(tmp_path)) == 1
            assert (await real.models.unload("tiny")).status == "unloaded"
            assert (await real.models.limits()).memory_used == 0
            assert engines(tmp_path) == []


async def test_two_hundred_requests_over_five_models_in_two_places(tmp_path: Path, trained: Path) -> None:
    """Random arrivals, plain and streamed, some of whose clients leave: none is lost, and nothing stays behind."""
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        shutil.copy(trained, tmp_path / f"{name}.gguf")
    dice, ended = random.Random(3), Counter[str]()
    async with gateway(tmp_path, "max_concurrent_models = 2\nswitch_after = 0.2") as real:
        expected = await real.said("a")

        async def request(number: int) -> None:
            await asyncio.sleep(dice.random() * 2)
            name = dice.choice(names)
            if number % 10 == 3:
                with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                    async with asyncio.timeout(0.02 + dice.random() * 0.1):
                        await real.streamed(name, "Tell me a story.")
                ended["left"] += 1
            elif number % 2:
                assert await real.streamed(name) == expected
                ended["streamed"] += 1
            else:
                assert await real.said(name) == expected
                ended["plain"] += 1

        await asyncio.gather(*(request(number) for number in range(200)))
        assert ended == {"left": 20, "streamed": 80, "plain": 100}
        assert len(engines(tmp_path)) <= 2
        for name in names:
            await real.models.unload(name)
        assert (await real.models.limits()).memory_used == 0
        assert engines(tmp_path) == []
