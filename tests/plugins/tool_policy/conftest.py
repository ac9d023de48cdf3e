"""A gateway with a tool policy before a scripted vendor, and clients of it."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from gatehook import DIRECTORY, Gateway
from gatehook.testing import Reply, StubUpstream, serving

ALICE, BOB, ADMIN = "alice-0123456789abcdef", "bob-0123456789abcdef01", "admin-0123456789abcdef"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "does it", "parameters": WEATHER}}
    for name in ("get_weather", "delete_city", "rename_city")
]
PLUGINS = """
[plugins.openai_api]
[plugins.llm_api]
[plugins.generate_api]
[plugins.messages_api]
[plugins.route_models]
[plugins.vendor_openai]
[failover]
retries = 0
"""


def call(name: str, arguments: Any = None, id: str = "call_1") -> dict[str, Any]:
    """A tool call as vendors write it."""
    text = arguments if isinstance(arguments, str) else json.dumps({"city": "Rome"} if arguments is None else arguments)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": text}}


def plain(*calls: Mapping[str, Any], text: str | None = None, **message: Any) -> Reply:
    """A vendor's whole answer."""
    said = {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {}), **message}
    choice = {"index": 0, "message": said, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return Reply.of_json(
        {"id": "up", "object": "chat.completion", "created": 5, "model": "up", "choices": [choice], "usage": usage}
    )


def events(*choices: Mapping[str, Any], usage: bool = False) -> list[bytes]:
    """A vendor's events, one for each choice (`delta`, `finish_reason`)."""
    head = {"id": "up", "object": "chat.completion.chunk", "created": 5, "model": "up"}
    chunks: list[Any] = [{**head, "choices": [{"index": 0, "finish_reason": None, **one}]} for one in choices]
    if usage:
        tokens = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        chunks.append({**head, "choices": [], "usage": tokens})
    return [*(f"data: {json.dumps(one)}\n\n".encode() for one in chunks), b"data: [DONE]\n\n"]


def streamed(*calls: Mapping[str, Any], text: str = "", usage: bool = True) -> Reply:
    """A vendor's stream: text in pieces, then the calls in pieces."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in text.split("|") if piece]
    for place, one in enumerate(calls):
        arguments = one["function"]["arguments"]
        half = len(arguments) // 2
        first = {**one, "index": place, "function": {**one["function"], "arguments": arguments[:half]}}
        deltas += [{"tool_calls": [first]}]
        deltas += [{"tool_calls": [{"index": place, "function": {"arguments": arguments[half:]}}]}]
    end: dict[str, Any] = {"delta": {}, "finish_reason": "tool_calls" if calls else "stop"}
    return Reply.of_events(events(*({"delta": one} for one in deltas), end, usage=usage))


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        found = [block.removeprefix("data: ") for block in self.body.decode().split("\n\n") if block]
        return [one if one == "[DONE]" else json.loads(one) for one in found]

    @property
    def text(self) -> str:
        """What a stream said."""
        deltas = [choice["delta"] for one in self.events if one != "[DONE]" for choice in one["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)


@dataclass
class House:
    """A serving gateway, its vendor, and clients of it."""

    url: str
    gateway: Gateway
    stub: StubUpstream
    http: aiohttp.ClientSession

    async def request(self, method: str, path: str, body: Any = None, *, key: str = ALICE, **headers: str) -> Answer:
        sent = {"Authorization": f"Bearer {key}", **{name.replace("_", "-"): one for name, one in headers.items()}}
        if body is not None:
            sent["Content-Type"] = "application/json"
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        async with self.http.request(method, self.url + path, data=data, headers=sent) as answer:
            got = b""
            with contextlib.suppress(aiohttp.ClientPayloadError):  # a stream that ends with an error is cut
                async for piece in answer.content.iter_any():
                    got += piece
            return Answer(answer.status, answer.headers, got)

    async def chat(self, *, key: str = ALICE, path: str = "/v1/chat/completions", **fields: Any) -> Answer:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": TOOLS, **fields}
        return await self.request("POST", path, {k: v for k, v in body.items() if v is not None}, key=key)

    async def asked(self, **fields: Any) -> str:
        """The session of a chat that has to be confirmed."""
        answer = await self.chat(**fields)
        assert answer.json["status"] == "require_confirmation", answer.body
        return str(answer.json["session_id"])

    async def confirm(self, session: str, *approved: str, key: str = ALICE, **fields: Any) -> Answer:
        body = {"session_id": session, "approved_ids": list(approved), **fields}
        return await self.request("POST", "/v1/tools/confirm", body, key=key)

    async def deny(self, session: str, *, key: str = ALICE, **fields: Any) -> Answer:
        return await self.request("POST", "/v1/tools/deny", {"session_id": session, **fields}, key=key)

    async def pending(self, key: str = ALICE) -> list[Any]:
        answer = await self.request("GET", "/v1/tools/pending", key=key)
        assert answer.status == 200, answer.body
        return list(answer.json["data"])

    async def audit(self) -> list[tuple[str, str, str, Any]]:
        lines = await self.gateway.services[DIRECTORY].audit()
        return [(one.actor, one.action, one.subject, one.detail) for one in reversed(lines)]

    @contextlib.asynccontextmanager
    async def sdk(self, key: str = ALICE) -> AsyncIterator[openai.AsyncOpenAI]:
        transport = openai.DefaultAsyncHttpxClient(verify=False)
        async with openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=20, http_client=transport
        ) as client:
            yield client


OpenHouse = Callable[..., AbstractAsyncContextManager[House]]


def settings(stub: StubUpstream, policy: str, database: str = "", more: str = "", timeout: float = 5) -> str:
    """The text of a settings.toml; `timeout` is the database's, in seconds."""
    store = f'[database]\nurl = "{database}"\nsecret = "{"pepper" * 8}"\ntimeout = {timeout}\n[plugins.database]\n'
    store = store if database else ""
    return (
        f'{PLUGINS}{store}[plugins.auth_keys]\nkeys = ["{ALICE}", "{BOB}"]\nadmin_keys = ["{ADMIN}"]\n'
        f"[plugins.tool_policy]\n{policy}\n{more}\n"
        f'[[models]]\nname = "m"\nvendor = "openai"\nbase_url = "{stub.url}/v1"\n'
    )


@contextlib.asynccontextmanager
async def opened(
    *replies: Reply,
    policy: str,
    database: str = "",
    more: str = "",
    timeout: float = 5,
    plugins: Mapping[str, type] | None = None,
) -> AsyncIterator[House]:
    async with StubUpstream(*(replies or (plain(text="hi"),))) as stub:
        text = settings(stub, policy, database, more, timeout)
        async with serving(text, plugins=plugins) as served, aiohttp.ClientSession() as http:
            yield House(served.url, served.gateway, stub, http)


CONFIRM = 'rules = [{ tool = "delete_*", verdict = "confirm", reason = "it is gone for good" }]'


@pytest.fixture
def house(database_url: str) -> OpenHouse:
    """Opens gateways on one database, of each kind: the vendor's replies, and the policy's table."""

    def enter(*replies: Reply, policy: str = CONFIRM, more: str = "") -> AbstractAsyncContextManager[House]:
        return opened(*replies, policy=policy, database=database_url, more=more)

    return enter


@pytest.fixture
def sqlite_house(tmp_path: Path) -> OpenHouse:
    """The same on a database whose kind does not matter."""

    url = f"sqlite:///{tmp_path / 'a.db'}"

    def enter(
        *replies: Reply, policy: str = CONFIRM, more: str = "", timeout: float = 5
    ) -> AbstractAsyncContextManager[House]:
        return opened(*replies, policy=policy, database=url, more=more, timeout=timeout)

    return enter


@pytest.fixture
def bare_house() -> OpenHouse:
    """The same without a database."""

    def enter(*replies: Reply, policy: str, more: str = "") -> AbstractAsyncContextManager[House]:
        return opened(*replies, policy=policy, more=more)

    return enter


@pytest.fixture
def opened_house() -> OpenHouse:
    """The same on the database that is given."""
    return opened


@pytest.fixture(name="settings_text")
def settings_fixture() -> Callable[..., str]:
    return settings


@dataclass(frozen=True)
class Vendor:
    """How the scripted vendor answers."""

    call: Callable[..., dict[str, Any]] = call
    plain: Callable[..., Reply] = plain
    streamed: Callable[..., Reply] = streamed
    events: Callable[..., list[bytes]] = events


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


@dataclass(frozen=True)
class Keys:
    alice: str = ALICE
    bob: str = BOB
    admin: str = ADMIN


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def tools() -> Sequence[Mapping[str, Any]]:
    return TOOLS
