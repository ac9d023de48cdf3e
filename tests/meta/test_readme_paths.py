"""README.md's table of paths is true and complete, in front of the settings that are shipped."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook.testing import Served

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SHIPPED = (ROOT / "settings.toml").read_text("utf-8")
CHAT = "/v1/chat/completions"
HELLO = {"model": "mock", "messages": [{"role": "user", "content": "Hello!"}]}

OpenShipped = Callable[..., AbstractAsyncContextManager[Served]]
Routes = Callable[[str, Path], set[tuple[str, str]]]


def paths() -> Iterator[tuple[str, str]]:
    """The table's methods and paths; a path without a method has that of the one before."""
    method = ""
    for cell in re.findall(r"^\| (`.*?) \| ", README, re.MULTILINE):
        for words in re.findall(r"`([^`]+)`", cell):
            first, _, rest = words.rpartition(" ")
            method = first or method
            yield method, rest


BODIES: Mapping[str, Mapping[str, Any]] = {
    CHAT: HELLO,
    "/v1/responses": {"model": "mock", "input": "Hello!"},
    "/v1/completions": {"model": "mock", "prompt": "Hello!"},
    "/v1/embeddings": {"model": "mock", "input": "Hello!"},
    "/v1/messages": {**HELLO, "max_tokens": 100},
    "/v1/messages/count_tokens": HELLO,
    "/api/llm/generate": HELLO,
    "/api/llm/generate/stream": HELLO,
    "/api/v1/generate": {"prompt": "Hello!"},
    "/api/v1/batch/generate": {"requests": [{"prompt": "Hello!"}]},
    "/api/v1/generate/stream": {"prompt": "Hello!"},
}


@pytest.mark.parametrize(("method", "path"), list(paths()))
async def test_a_path_of_the_table_answers(
    shipped: OpenShipped, http: aiohttp.ClientSession, method: str, path: str
) -> None:
    async with shipped() as served:
        url = served.url + path.replace("{id}", "mock").replace("{name}", "mock").replace("{part}", "page.js")
        async with http.request(method, url, json=BODIES.get(path)) as answer:
            # The ledger is off in the shipped settings, nobody is an admin, and the model is none of this machine.
            refused = 503 if "/stats/" in path else 403 if "/config/" in path else 400 if "/unload" in path else 200
            assert answer.status == refused
            body = await answer.text()
    if path == "/openapi.json":
        assert json.loads(body)["openapi"].startswith("3.1.")
    elif path == "/metrics":
        assert body.startswith("# HELP ")


def test_the_table_of_paths_is_complete(tmp_path: Path, routes: Routes) -> None:
    served = {(method, path.replace("/api/v1/llm", "/api/llm")) for method, path in routes(SHIPPED, tmp_path)}
    assert set(paths()) == {(method, path) for method, path in served if method != "*"}


@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
async def test_what_is_said_to_be_streamed_is(shipped: OpenShipped, http: aiohttp.ClientSession, path: str) -> None:
    async with shipped() as served, http.post(served.url + path, json={**BODIES[path], "stream": True}) as answer:
        assert answer.content_type == "text/event-stream"
        assert (await answer.text()).endswith("data: [DONE]\n\n")


async def test_embeddings_are_floats_or_base64(shipped: OpenShipped, http: aiohttp.ClientSession) -> None:
    kinds = {}
    async with shipped() as served:
        for encoding in ("float", "base64"):
            body = {**BODIES["/v1/embeddings"], "encoding_format": encoding}
            async with http.post(f"{served.url}/v1/embeddings", json=body) as answer:
                kinds[encoding] = type((await answer.json())["data"][0]["embedding"])
    assert kinds == {"float": list, "base64": str}
