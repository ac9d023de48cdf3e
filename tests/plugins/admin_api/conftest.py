"""A whole gateway with users, keys and usage, on each kind of database, and an admin who talks to it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook import Gateway
from gatehook.testing import serving

ADMIN = "admin-key-0123456789abcdef"
ORDINARY = "ordinary-key-0123456789abcdef"
SETTINGS = f"""
[server]
port = 0
[plugins.auth_keys]
admin_keys = ["{ADMIN}"]
keys = ["{ORDINARY}"]
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.database]
[plugins.admin_api]
[[models]]
name = "mock"
vendor = "mock"
options = {{ text = "kept-option-secret" }}
"""
RECORDS = """
[plugins.quota]
[plugins.ledger]
directory = {directory}
"""


@dataclass
class Admin:
    """A serving gateway and a client with an admin's key."""

    url: str
    gateway: Gateway
    http: aiohttp.ClientSession
    key: str = ADMIN
    ordinary: str = ORDINARY

    async def call(self, method: str, path: str, body: Any = None, *, key: str | None = None, **rest: Any) -> Any:
        """Status and decoded body of one request; a body that is not bytes is sent as JSON."""
        status, _, data = await self.raw(method, path, body, key=key, **rest)
        return status, json.loads(data)

    async def raw(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, **rest: Any
    ) -> tuple[int, Any, bytes]:
        """Status, headers and bytes."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}", **rest.pop("headers", {})}
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            rest["data"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.http.request(method, self.url + path, headers=headers, **rest) as answer:
            return answer.status, answer.headers, await answer.read()

    async def done(self, method: str, path: str, body: Any = None, **rest: Any) -> Any:
        """The body of a request that must succeed."""
        status, answer = await self.call(method, path, body, **rest)
        assert status in (200, 201), answer
        return answer

    async def refused(self, status: int, method: str, path: str, body: Any = None, **rest: Any) -> dict[str, Any]:
        """The error of a request that must be refused so."""
        told, answer = await self.call(method, path, body, **rest)
        assert told == status, answer
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = answer["error"]
        return error

    async def chat(self, key: str, model: str = "mock", text: str = "hi") -> int:
        """The status of a call with this key."""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        status, _ = await self.call("POST", "/v1/chat/completions", body, key=key)
        return int(status)

    async def until(self, status: int, key: str, model: str = "mock") -> None:
        """Return when calls with this key are answered with this status; it takes two hundred of them at most."""
        for _ in range(200):
            if await self.chat(key, model) == status:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{status} never came")


OpenAdmin = Callable[..., AbstractAsyncContextManager[Admin]]


@pytest.fixture
def open_admin(database_url: str, tmp_path: Path) -> OpenAdmin:
    """Opens gateways on one database; `records` for usage too."""

    @contextlib.asynccontextmanager
    async def opened(
        *, records: bool = False, allow_references: bool = False, url: str = database_url
    ) -> AsyncIterator[Admin]:
        text = f'[database]\nurl = "{url}"\nsecret = "{"pepper" * 8}"\n{SETTINGS}'
        if allow_references:
            text = text.replace("[plugins.admin_api]", "[plugins.admin_api]\nallow_references = true")
        if records:
            text += RECORDS.format(directory=json.dumps(str(tmp_path / "journal")))
        async with serving(text) as served, aiohttp.ClientSession() as http:
            yield Admin(served.url, served.gateway, http)

    return opened


@pytest.fixture
async def admin(open_admin: OpenAdmin) -> AsyncIterator[Admin]:
    """A gateway with users and keys."""
    async with open_admin() as opened:
        yield opened


@pytest.fixture
async def recording(open_admin: OpenAdmin) -> AsyncIterator[Admin]:
    """A gateway that also keeps usage."""
    async with open_admin(records=True) as opened:
        yield opened
