"""A gateway with the multi-LLM API, and a client that knows its shapes."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook import DIRECTORY, HEALTH, Directory, Gateway, Section, ServiceKey, Target, Vitality, hookimpl
from gatehook.testing import serving
from gatehook_plugins.llm_api import LlmApi

PLUGINS = """
[plugins.llm_api]
[plugins.route_models]
[plugins.vendor_mock]
[failover]
retries = 0
"""

ADMIN = "admin-key-0123456789abcdef"
USER = "ordinary-key-0123456789abcdef"
MOUNTS = ("/api/llm", "/api/v1/llm")
MODELS = f"""
[plugins.auth_keys]
admin_keys = ["{ADMIN}"]
keys = ["{USER}"]
[[models]]
name = "m"
vendor = "mock"
priority = 2
fallbacks = ["spare"]
rate_limit = {{ requests_per_minute = 60 }}
[[models]]
name = "m"
vendor = "mock"
model = "second"
[[models]]
name = "spare"
vendor = "mock"
[[models]]
name = "org/deep"
vendor = "mock"
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


# --- the configuration


class Rules:
    """Health as another plugin offers it: what is configured holds, else the settings."""

    def __init__(self) -> None:
        self.directory: Directory | None = None

    def _now(self, name: str, default: Any) -> Any:
        return default if self.directory is None else self.directory.config("load-balancing")[0].get(name, default)

    @property
    def failure_threshold(self) -> int:
        return int(self._now("failure_threshold", 3))

    @property
    def recovery_threshold(self) -> int:
        return int(self._now("recovery_threshold", 2))

    @property
    def health_check_interval(self) -> float:
        return float(self._now("health_check_interval", 0))

    def of(self, target: Target) -> Vitality:
        return Vitality()


class Follows:
    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None:
        self._rules = Rules()

    @hookimpl
    def register_services(self) -> Iterable[tuple[ServiceKey[Any], object]]:
        return [(HEALTH, self._rules)]

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Any]:
        self._rules.directory = gateway.services.get(DIRECTORY)
        return []


class Admin:
    """An administrator's client."""

    def __init__(self, gateway: Any) -> None:
        self.gateway = gateway

    async def get(self, path: str, *, key: str = ADMIN, mount: str = MOUNTS[0]) -> Any:
        return await self.gateway.request("GET", f"{mount}/config/{path}", key=key)

    async def put(self, path: str, body: Any, *, key: str = ADMIN, mount: str = MOUNTS[0], **headers: str) -> Any:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"Content-Type": "application/json", **{name.replace("_", "-"): one for name, one in headers.items()}}
        return await self.gateway.request("PUT", f"{mount}/config/{path}", key=key, data=raw, headers=named)

    async def audit(self) -> list[tuple[str, str, str, Any]]:
        lines = await self.gateway.gateway.services[DIRECTORY].audit()
        return [(line.actor, line.action, line.subject, line.detail) for line in lines]


OpenAdmin = Callable[..., AbstractAsyncContextManager[Admin]]


def database(url: str) -> str:
    return f'[database]\nurl = "{url}"\nsecret = "{"pepper" * 8}"\n[plugins.database]\n'


def administered(llm: OpenLlm, url: str) -> OpenAdmin:
    """Opens gateways on one database."""

    @contextlib.asynccontextmanager
    async def enter(models: str = MODELS, **plugins: type) -> AsyncIterator[Admin]:
        plugins = plugins or {"rules": Follows}
        tables = "".join(f"[plugins.{name}]\n" for name in plugins)
        async with llm(database(url) + tables + models, plugins) as gateway:
            yield Admin(gateway)

    return enter


@pytest.fixture
def opened(llm: OpenLlm, database_url: str) -> OpenAdmin:
    """Opens gateways on one database, of each kind."""
    return administered(llm, database_url)


@pytest.fixture
def opened_on_sqlite(llm: OpenLlm, tmp_path: Path) -> OpenAdmin:
    """Opens gateways on a database whose kind does not matter."""
    return administered(llm, f"sqlite:///{tmp_path / 'a.db'}")


@pytest.fixture
def opened_without(llm: OpenLlm) -> OpenAdmin:
    """Opens a gateway without a database."""

    @contextlib.asynccontextmanager
    async def enter() -> AsyncIterator[Admin]:
        async with llm(MODELS + "[plugins.rules]\n", {"rules": Follows}) as gateway:
            yield Admin(gateway)

    return enter


@pytest.fixture
async def admin(opened: OpenAdmin) -> AsyncIterator[Admin]:
    async with opened() as one:
        yield one


@pytest.fixture
def models() -> str:
    """The tables of the models and the keys."""
    return MODELS
