"""A whole gateway with accounts on (users, keys, limits, budgets, records), on each kind of database."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from gatehook import LEDGER, Gateway
from gatehook.testing import serving

ADMIN = "admin-of-accounts-0123456789"
PLAIN = "plain-of-settings-0123456789"
JWT_SECRET = "shared-secret-of-the-issuer-0123456789"
PEPPER = "pepper-of-the-database-0123456789"
PRICES = {"input_per_1k_tokens": 0.003, "output_per_1k_tokens": 0.015}


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Accounts:
    """A serving gateway, and clients of it; without a key given, the admin."""

    url: str
    gateway: Gateway
    http: aiohttp.ClientSession

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = ADMIN,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; the path goes out as it is written, a body that is not bytes as JSON."""
        sent = {} if key is None else {"Authorization": f"Bearer {key}"}
        if body is not None:
            sent["Content-Type"] = "application/json"
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = URL(self.url + path, encoded=True)
        async with self.http.request(method, url, data=body, headers={**sent, **(headers or {})}) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def done(self, method: str, path: str, body: Any = None, **rest: Any) -> Any:
        """The decoded body of a request that must succeed."""
        answer = await self.call(method, path, body, **rest)
        assert answer.status in (200, 201), (path, answer.body)
        return answer.json

    async def chat(self, key: str | None, model: str = "m", *, text: str = "hi", **fields: Any) -> Answer:
        """One chat."""
        asked = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return await self.call("POST", "/v1/chat/completions", asked, key=key)

    async def client(self, user_id: str, **fields: Any) -> str:
        """A user with these fields, and a new key of it."""
        await self.done("POST", "/admin/users/quota", {"user_id": user_id, **fields})
        made = await self.done("POST", f"/admin/users/{user_id}/keys", {})
        return str(made["key"])

    async def rows(self, user_id: str) -> list[dict[str, Any]]:
        """What the ledger has of a user, once all that has ended is in it."""
        await self.gateway.services[LEDGER].flush()
        found = await self.done("GET", f"/admin/usage/requests?user_id={user_id}&limit=500")
        return list(found["data"])


OpenAccounts = Callable[..., AbstractAsyncContextManager[Accounts]]


def accounts_tables(journal: Path, url: str, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Everything on, by the names that the fixture `settings_text` knows tables by."""
    tables: dict[str, Mapping[str, Any]] = {
        "database": {"url": url, "secret": PEPPER},
        "plugin_database": {},
        "plugin_auth_keys": {"keys": [PLAIN], "admin_keys": [ADMIN]},
        "plugin_auth_jwt": {"secret": JWT_SECRET},
        "plugin_ledger": {"directory": str(journal), "flush_interval": 0.01},
        "plugin_rate_limit": {},
        "plugin_quota": {},
        "plugin_admin_api": {},
        "plugin_llm_api": {},
        "plugin_metrics": {},
    }
    return {name: {**tables.get(name, {}), **changes.get(name, {})} for name in {**tables, **changes}}


@pytest.fixture
def accounts_text(database_url: str, tmp_path: Path, settings_text: Callable[..., str]) -> Callable[..., str]:
    """The text of such a gateway's settings.toml: deployments, and changes to the tables."""

    def text(*models: Mapping[str, Any], **changes: Mapping[str, Any]) -> str:
        return settings_text(*models, **accounts_tables(tmp_path / "journal", database_url, changes))

    return text


@pytest.fixture
def open_accounts(accounts_text: Callable[..., str]) -> OpenAccounts:
    """Opens such a gateway with these deployments."""

    @contextlib.asynccontextmanager
    async def opened(*models: Mapping[str, Any], **changes: Mapping[str, Any]) -> AsyncIterator[Accounts]:
        async with (
            serving(accounts_text(*models, **changes)) as served,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            yield Accounts(served.url, served.gateway, http)

    return opened


@pytest.fixture
def mock_model() -> Callable[..., dict[str, Any]]:
    """A deployment that needs no network, and costs something."""

    def model(name: str = "m", **more: Any) -> dict[str, Any]:
        return {"name": name, "vendor": "mock", "pricing": PRICES, **more}

    return model


async def _talk(port: int, said: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(said)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


@pytest.fixture
def talk() -> Callable[[int, bytes], Any]:
    """Bytes to a port; all that comes back until the other side closes."""
    return _talk
