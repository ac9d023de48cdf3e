"""Gateways with two deployments of one model, the first of which fails as a test says."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import pytest

from gatehook.testing import Reply, StubUpstream

ANSWER = Reply.of_json(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "x",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
)
BROKEN = Reply.of_json({"error": {"message": "out of order", "type": "server_error"}}, status=500)


@pytest.fixture
def answer() -> Reply:
    return ANSWER


@pytest.fixture
def broken() -> Reply:
    return BROKEN


@pytest.fixture
def settings() -> Callable[..., str]:
    """The text of settings: deployments m#1, m#2 and so on of the model "m" at these stubs, tried in this order."""

    def text(*stubs: StubUpstream, cooldown: str = "", more: str = "") -> str:
        models = "".join(
            f'[[models]]\nname = "m"\nvendor = "openai"\nmodel = "x"\npriority = {number}\n'
            f'base_url = "{stub.url}/v1"\napi_key = "sk-upstream-0123456789"\n'
            for number, stub in enumerate(stubs)
        )
        plugins = "".join(f"[plugins.{name}]\n" for name in ("openai_api", "llm_api", "route_models", "metrics"))
        own = f"[plugins.vendor_openai]\n[plugins.cooldown]\n{cooldown}\n[failover]\nretries = 0\n{more}\n"
        return plugins + own + models

    return text


class Client:
    """Asks for chats."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, **more: Any) -> tuple[int, Any, Mapping[str, str]]:
        """The status, the body, decoded if it is JSON, and the headers."""
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **more}
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if raw.startswith(b"{") else raw, response.headers

    async def get(self, path: str) -> Any:
        async with self._session.get(self._url + path) as response:
            raw = await response.text()
            return json.loads(raw) if raw.startswith("{") else raw


@pytest.fixture
def client() -> Callable[..., Client]:
    return Client


@pytest.fixture
def wait() -> Callable[[Callable[[], bool]], Any]:
    """Waits until something is so; fails after five seconds."""

    async def until(is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not is_so():  # noqa: ASYNC110  # what is waited for tells nobody
                await asyncio.sleep(0.005)

    return until
