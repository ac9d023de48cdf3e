"""Engines in processes of their own, with real models."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture(scope="session", autouse=True)
def llama_cpp() -> Any:
    """The library; without it nothing here can be tested."""
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install 'gatehook[gguf]'")


@pytest.fixture(scope="session")
def trained() -> Path:
    """A model of 0.6 million parameters that knows a few answers."""
    return MODELS / "tiny-chat.gguf"


@pytest.fixture(scope="session")
def made_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a model of random weights, of an architecture, with a context of 2048 tokens."""
    if importlib.util.find_spec("numpy") is None:
        pytest.skip("numpy comes with llama-cpp-python, which is not installed")
    folder = tmp_path_factory.mktemp("models")

    def make(architecture: str) -> Path:
        path = folder / f"{architecture}.gguf"
        if not path.exists():
            command = (sys.executable, MODELS / "make_gguf.py", path, "--architecture", architecture, "--type", "F32")
            subprocess.run(command, check=True)
        return path

    return make


@pytest.fixture(scope="session")
def random_model(made_model: Callable[[str], Path]) -> Path:
    """Such a model of the usual architecture."""
    return made_model("llama")


class Engine:
    """A running engine."""

    def __init__(self, process: Process, client: aiohttp.ClientSession, ready: dict[str, Any]) -> None:
        self.process = process
        self.client = client
        self.ready = ready

    async def post(self, path: str, body: dict[str, Any] | bytes) -> tuple[int, Any]:
        """The status and the body of an answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client.post(f"http://engine/v1/{path}", data=raw) as response:
            return response.status, await response.json()

    async def chat(self, said: str, **body: Any) -> Any:
        """A whole answer."""
        asked = {"messages": [{"role": "user", "content": said}], "temperature": 0, **body}
        status, answer = await self.post("chat/completions", asked)
        assert status == 200, answer
        return answer

    async def refused(self, path: str, body: dict[str, Any] | bytes) -> tuple[str | None, str]:
        """The field and the message of a 400."""
        status, answer = await self.post(path, body)
        assert status == 400, answer
        assert answer["error"]["type"] == "invalid_request_error"
        return answer["error"]["param"], answer["error"]["message"]

    async def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """The events of a stream that ends as it should."""
        async with self.client.post(f"http://engine/v1/{path}", json={**body, "stream": True}) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            lines = [line.decode() for line in (await response.read()).split(b"\n\n") if line]
        assert lines.pop() == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    async def status(self) -> Any:
        async with self.client.get("http://engine/status") as response:
            return await response.json()

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        """The first status that is as wanted."""
        while not wanted(status := await self.status()):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.005)
        return status


@contextlib.asynccontextmanager
async def begin(path: Path, *, patch: str = "", **options: Any) -> AsyncIterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/engine"
        process = await start({"path": str(path), "socket": place, "name": "tiny", "threads": 1, **options}, patch)
        assert process.stdout is not None
        assert process.stdin is not None
        words: list[dict[str, Any]] = []
        while not words or "ready" not in words[-1]:
            words.append(json.loads(await process.stdout.readline()))
            assert "failed" not in words[-1], words[-1]
        try:
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(place, limit=0)) as client:
                yield Engine(process, client, words[-1]["ready"])
        finally:
            process.stdin.close()
            await process.wait()


async def start(options: dict[str, Any], patch: str = "") -> Process:
    program = ("-m", "gatehook_plugins.vendor_gguf.engine")
    if patch:  # done to the engine before it begins
        program = ("-c", f"{patch}\nfrom gatehook_plugins.vendor_gguf.engine.__main__ import main\nmain()")
    process = await asyncio.create_subprocess_exec(sys.executable, *program, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(options).encode() + b"\n")
    return process


@pytest.fixture
def begin_engine() -> Callable[..., AbstractAsyncContextManager[Engine]]:
    """Run an engine with a file and options, and with a `patch`, which is Python."""
    return begin


@pytest.fixture
def start_engine() -> Callable[[dict[str, Any]], Any]:
    """The process of an engine, with whatever options."""
    return start


@pytest.fixture
async def engine(trained: Path) -> AsyncIterator[Engine]:
    """An engine with the trained model."""
    async with begin(trained) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(trained: Path) -> AsyncIterator[Engine]:
    """One for all tests of a module that leave no traces."""
    async with begin(trained) as running:
        yield running


@pytest.fixture(scope="session")
def plain(trained: Path, llama_cpp: Any) -> Iterator[Any]:
    """The library's own object, with the trained model."""
    llama = llama_cpp.Llama(str(trained), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    yield llama
    llama.close()
