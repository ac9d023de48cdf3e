"""A gateway with the multi-LLM API, and a client that knows its shapes."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from gatehook import Gateway
from gatehook.testing import serving
from gatehook_plugins.llm_api import LlmApi

PLUGINS = """
[plugins.llm_api]
[plugins.route_models]
[plugins.vendor_mock]
[failover]
retries = 0
"""


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The events of a stream; the word [DONE] as it is."""
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        found = [block.removeprefix("data: ") for block in blocks]
        return [one if one == "[DONE]" else json.loads(one) for one in found]

    def error(self, status: int, code: str) -> dict[str, Any]:
        """The error object, after everything that must hold for any."""
        assert self.status == status, self.body
        assert self.headers["Content-Type"].startswith("application/json")
        return checked_error(self.json, code)


def checked_error(answer: Any, code: str) -> dict[str, Any]:
    assert set(answer) == {"error"}
    error: dict[str, Any] = answer["error"]
    assert set(error) == {"code", "message", "details", "request_id"}
    assert set(error["details"]) == {"model", "reason", "retry_after"}
    assert error["code"] == code, answer
    assert error["message"]
    assert isinstance(error["details"]["reason"], str)
    assert error["request_id"].startswith("req_")
    assert len(error["request_id"]) == 36
    return error


@dataclass
class Llm:
    """A serving gateway and a client of it."""

    url: str
    gateway: Gateway
    http: aiohttp.ClientSession

    async def get(self, path: str, key: str = "", **query: str) -> Answer:
        return await self.request("GET", path, key=key, params=query)

    async def ask(self, path: str = "/api/llm/generate", *, key: str = "", raw: bytes = b"", **body: Any) -> Answer:
        """POST; model and messages are made up where not given."""
        if not raw:
            if "prompt" not in body:
                body.setdefault("messages", [{"role": "user", "content": "Hi"}])
            raw = json.dumps({"model": "mock", **body}).encode()
        return await self.request("POST", path, key=key, data=raw, headers={"Content-Type": "application/json"})

    async def request(self, method: str, path: str, *, key: str = "", **rest: Any) -> Answer:
        headers = {**rest.pop("headers", {}), **({"X-API-Key": key} if key else {})}
        async with self.http.request(method, self.url + path, headers=headers, **rest) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


OpenLlm = Callable[..., AbstractAsyncContextManager[Llm]]


@pytest.fixture
def llm() -> OpenLlm:
    """Opens a gateway: the plugins of every test, and the settings given."""

    @contextlib.asynccontextmanager
    async def opened(settings: str, plugins: Mapping[str, type] | None = None) -> AsyncIterator[Llm]:
        classes = {"llm_api": LlmApi, **(plugins or {})}
        async with serving(PLUGINS + settings, plugins=classes) as served, aiohttp.ClientSession() as http:
            yield Llm(served.url, served.gateway, http)

    return opened


@pytest.fixture(name="checked_error")
def checked_error_fixture() -> Callable[[Any, str], dict[str, Any]]:
    return checked_error
