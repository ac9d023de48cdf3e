"""The life of an operator: real processes, the program's own commands, HTTP, and the official client."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

PRICING = {"input_per_1k_tokens": 1, "output_per_1k_tokens": 2}
USAGE = {"prompt_tokens": 10, "completion_tokens": 20}
COST = 0.05
"""Dollars that a call costs."""
ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}


@dataclass
class Program:
    """The program, with its settings."""

    config: Path

    def _words(self, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "gatehook", *words, "--config", str(self.config))

    async def run(self, *words: str) -> str:
        """What a command prints."""
        environ = {"PATH": os.environ["PATH"], "LOGNAME": "operator"}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self._words(*words), stdout=pipe, stderr=pipe, env=environ)
        out, err = await process.communicate()
        assert process.returncode == 0, err
        return out.decode()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Its address, while it serves."""
        process = await asyncio.create_subprocess_exec(*self._words("serve"), stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        try:
            async with asyncio.timeout(20):
                while "listens on" not in (line := (await process.stderr.readline()).decode()):
                    assert line, "it has ended"
            yield line.split("listens on ")[1].split()[0]
        finally:
            process.send_signal(signal.SIGTERM)
            await process.communicate()
        assert process.returncode == 0


@dataclass
class Admin:
    """Speaks to /admin."""

    http: aiohttp.ClientSession
    url: str
    key: str

    async def __call__(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.http.request(method, f"{self.url}/admin{path}", json=body, headers=headers) as answer:
            assert answer.status in (200, 201), await answer.text()
            return await answer.json()

    async def client(self, user_id: str, **fields: Any) -> str:
        """A new user with a new key."""
        await self("POST", "/users/quota", {"user_id": user_id, **fields})
        return str((await self("POST", f"/users/{user_id}/keys", {}))["key"])


@pytest.fixture
def program(accounts_text: Callable[..., str], redis_url: str, tmp_path: Path) -> Program:
    mock = {"vendor": "mock", "pricing": PRICING, "options": {"text": "Hi there", "usage": USAGE}}
    off = {"enabled": False}
    config = tmp_path / "settings.toml"
    config.write_text(
        accounts_text(
            {"name": "m", **mock},
            {"name": "e", "vendor": "mock", "pricing": PRICING},
            redis={"url": redis_url, "timeout": 10},
            plugin_auth_keys={"keys": [], "admin_keys": []},
            plugin_auth_jwt=off,
        )
    )
    return Program(config)


@pytest.fixture
async def sdk() -> AsyncIterator[Callable[[str, str], openai.AsyncOpenAI]]:
    """Makes official clients: of an address, with a key."""
    async with contextlib.AsyncExitStack() as closing:

        def made(url: str, key: str) -> openai.AsyncOpenAI:
            transport = openai.DefaultAsyncHttpxClient(verify=False)  # loading certificates takes long
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, http_client=transport)
            closing.push_async_callback(client.close)
            return client

        yield made


async def within_a_second(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as it holds; asked a hundred times, a gateway must know it.

    The clock on the wall would count what a busy machine does else.
    """
    for _ in range(100):
        if await holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never held")


async def is_refused(client: openai.AsyncOpenAI) -> bool:
    try:
        await client.models.list()
    except openai.AuthenticationError:
        return True
    return False


async def refused(client: openai.AsyncOpenAI) -> openai.RateLimitError:
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**ASK)
    return caught.value


@pytest.mark.timeout(180)  # a dozen processes, one after another
async def test_the_life_of_an_operator(program: Program, sdk: Callable[[str, str], openai.AsyncOpenAI]) -> None:
    admin_key = (await program.run("keys", "create", "--admin")).strip()
    async with contextlib.AsyncExitStack() as stack:
        here, there = await asyncio.gather(*(stack.enter_async_context(program.serve()) for _ in range(2)))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        admin = Admin(http, here, admin_key)

        alice = await admin.client("alice", rpm_limit=5, tpm_limit=100_000, token_quota=100_000)
        await _calls(sdk(here, alice))
        await _is_limited_everywhere(sdk(here, alice), sdk(there, alice))

        bob = sdk(here, await admin.client("bob", tpm_limit=70))
        for _ in range(2):
            await bob.chat.completions.create(**ASK)
        error = await refused(bob)
        assert (error.code, 0 < int(error.response.headers["retry-after"]) <= 62) == ("rate_limit_exceeded", True)

        carol = sdk(here, await admin.client("carol", budget=2.5 * COST))
        for _ in range(2):
            await carol.chat.completions.create(**ASK)
        error = await refused(carol)
        assert error.code in ("insufficient_quota", "quota_reserved")
        quota = await admin("GET", "/users/carol/quota")
        assert quota["budget"]["all"] == {"cap": 2.5 * COST, "used": 2 * COST, "remaining": 0.5 * COST}
        assert (await refused(carol)).code == "insufficient_quota"

        used = json.loads(await program.run("usage", "--by", "user", "--json"))
        # What was refused before a vendor was asked has used nothing.
        assert {one["user"]: one["requests"] for one in used} == {"alice": 5, "bob": 2, "carol": 2}
        table = await program.run("usage", "--user", "carol")
        assert table.splitlines()[-1].split() == ["total", "2", "0", "20", "40", "60", "0.100000"]

        await _keys_come_and_go(program, admin, sdk, (here, there))

        lines = {(line["actor"], line["action"]) for line in (await admin("GET", "/audit?limit=500"))["data"]}
        chief = next(key["key_id"] for key in (await admin("GET", "/keys?user_id=admin"))["data"])
        assert {("cli:operator", action) for action in ("user.create", "key.create", "key.revoke")} <= lines
        assert {(f"admin/{chief}", action) for action in ("user.create", "key.create", "key.rotate")} <= lines


async def _calls(client: openai.AsyncOpenAI) -> None:
    """Plain, streamed and embeddings, with the limits told."""
    answer = await client.chat.completions.with_raw_response.create(**ASK)
    told = answer.headers
    assert (told["x-ratelimit-limit"], told["x-ratelimit-remaining"]) == ("5", "4")
    assert 0 < int(told["x-ratelimit-reset"]) - time.time() <= 62
    assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-limit-tokens"]) == ("5", "100000")
    said = answer.parse()
    assert said.choices[0].message.content == "Hi there"
    assert said.usage is not None
    assert said.usage.total_tokens == 30

    pieces = [event async for event in await client.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **ASK)]  # fmt: skip
    assert "".join(one.choices[0].delta.content or "" for one in pieces if one.choices) == "Hi there"
    assert [one.usage.total_tokens for one in pieces if one.usage] == [30]

    found = await client.embeddings.create(model="e", input=["a", "b"], dimensions=4)
    assert [len(one.embedding) for one in found.data] == [4, 4]


async def _is_limited_everywhere(here: openai.AsyncOpenAI, there: openai.AsyncOpenAI) -> None:
    """What is asked here counts there."""
    await there.chat.completions.create(**ASK)
    await here.chat.completions.create(**ASK)
    for client in (here, there):
        error = await refused(client)
        assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
        assert 0 < int(error.response.headers["retry-after"]) <= 62
        assert error.response.headers["x-ratelimit-remaining"] == "0"


async def _keys_come_and_go(
    program: Program, admin: Admin, sdk: Callable[[str, str], openai.AsyncOpenAI], urls: tuple[str, str]
) -> None:
    """Rotated with an overlap both are good, on both gateways; revoked none is, within a second."""
    await admin("POST", "/users", {"user_id": "dora"})
    made = await admin("POST", "/users/dora/keys", {})
    new = await admin("POST", f"/keys/{made['key_id']}/rotate", {"overlap_seconds": 3600})
    old_clients = [sdk(url, made["key"]) for url in urls]
    new_clients = [sdk(url, new["key"]) for url in urls]
    for client in (*old_clients, *new_clients):
        assert not await is_refused(client)
    await admin("DELETE", f"/keys/{new['key_id']}")
    for client in new_clients:
        await within_a_second(lambda client=client: is_refused(client))  # type: ignore[misc]
    assert not any([await is_refused(client) for client in old_clients])
    await program.run("keys", "revoke", made["key_id"])
    for client in old_clients:
        await within_a_second(lambda client=client: is_refused(client))  # type: ignore[misc]
