"""Faults of the engine itself: each ends the answers it concerns, is told, and leaves the rest alone; or ends all."""

import asyncio
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20, "temperature": 0}
FAILS_LATE = """
from gatehook_plugins.vendor_gguf.engine.answers import ChatShape
from gatehook_plugins.vendor_gguf.engine.jobs import Mail
add, take, seen, held = ChatShape.add, Mail.take, [], []
def failing(self, at, news):
    seen.append(news)
    if len(seen) == 2:
        held.clear()
        raise KeyError("a fault of ours")
    return add(self, at, news)
async def one(self):
    if not held:
        held.extend(await take(self))
    return [held.pop(0)]
ChatShape.add, Mail.take = failing, one
"""
"""However slowly the answer is fetched, its first piece has gone out by then."""
FAILS_ONCE = """
from gatehook_plugins.vendor_gguf.engine.llama import Context
clear, seen = Context.clear, []
def failing(self):
    seen.append(self)
    if len(seen) == 1:
        raise KeyError("a fault of ours")
    clear(self)
Context.clear = failing
"""
HANGS = """
import asyncio, ctypes, itertools, time
from gatehook_plugins.vendor_gguf.engine.pulse import beat
steps = itertools.count()
def progress():
    step = next(steps)
    {hanging}
    return step
asyncio.run(beat(lambda: print("alive", flush=True), progress, {limit}))
"""


async def test_a_fault_in_the_middle_of_a_stream_is_its_last_event(
    begin_engine: Callable[..., Any], trained: Path
) -> None:
    ends = {"logit_bias": {"2": -100}, "max_tokens": 900}
    async with begin_engine(trained, patch=FAILS_LATE) as engine:
        body = {**ASK, "stream": True, **ends}
        async with engine.client.post("http://engine/v1/chat/completions", json=body) as response:
            assert response.status == 200
            events = [event for event in (await response.text()).split("\n\n") if event]
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert error["code"] == "engine_failed"
        assert "KeyError: 'a fault of ours'" in error["message"]
        await engine.until(lambda status: not status["active"])
        assert (await engine.chat("Hello"))["choices"][0]["message"]["content"]


async def test_a_fault_in_one_step_of_embeddings_fails_its_texts_alone(
    begin_engine: Callable[..., Any], random_model: Path
) -> None:
    async with begin_engine(random_model, patch=FAILS_ONCE, embedding=True, pooling="mean", context=64) as engine:
        status, answer = await engine.post("embeddings", {"input": "a"})
        assert (status, answer["error"]["message"]) == (500, "the engine failed: KeyError: 'a fault of ours'")
        assert (await engine.post("embeddings", {"input": "a"}))[0] == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_what_cannot_fit_is_refused_before_it_is_taken_apart(shared: Any) -> None:
    body = io.BytesIO(json.dumps({"prompt": "x" * 40_000_000}).encode())
    began = time.perf_counter()
    async with shared.client.post("http://engine/v1/completions", data=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert "prompt has at least 3076923 tokens; this model's context is 1024 tokens" in error["message"]
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    "hanging",
    ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)", "step = 1"],
    ids=["in the loop", "with Python's lock", "without a step"],
)
def test_an_engine_that_hangs_ends_by_itself_and_tells_where(hanging: str) -> None:
    program = HANGS.format(hanging=hanging, limit=0.2)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Timeout (0:00:00.3")
    assert "most recent call first" in done.stderr


async def test_an_engine_gives_signs_of_life_while_it_rests_and_while_it_works(
    begin_engine: Callable[..., Any], random_model: Path
) -> None:
    async with begin_engine(random_model, step_timeout=1.0, slots=1) as engine:

        async def signs(count: int) -> None:
            for _ in range(count):
                assert json.loads(await engine.process.stdout.readline()) == {"alive": True}

        await signs(10)  # for longer than a second: without them it would have ended by itself
        asked = {"prompt": "a", "max_tokens": 1500, "logit_bias": {"2": -100}}
        working = asyncio.create_task(engine.post("completions", asked))
        await engine.until(lambda status: status["active"])
        await signs(4)
        assert (await working)[0] == 200
