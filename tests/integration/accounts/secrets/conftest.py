"""Secrets of every kind, a careless vendor that repeats them, and traffic that brings them everywhere."""

import base64
import functools
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from aiohttp import web

Accounts = Any
OpenAccounts = Any

# None of them looks like a key of any vendor: what is hidden must be hidden because it is known.
SECRETS = {
    "key of the settings": "zq1plain-of-settings-0123456789",
    "admin key of the settings": "zq2admin-of-settings-0123456789",
    "secret of the issuer": "zq3issuer-secret-0123456789-0123456789",
    "vendor key of the settings": "zq4vendor-of-settings-0123456789",
    "vendor key in options, by reference": "zq5option-of-settings-0123456789",
    "vendor key in options, written out": "zq6option-written-0123456789",
    "vendor key of the database": "zq7vendor-of-database-0123456789",
    "vendor key of the database, changed": "zq8vendor-of-database-0123456789",
    "vendor key in options of the database": "zq9option-of-database-0123456789",
    "password of the database": "zq10database-password-0123456789",
    "password of Redis": "zq11redis-password-0123456789",
    "secret of the database": "zq12database-secret-0123456789",
    "what a client says": "zq13prompt-of-a-client-0123456789",
    "a key that is none": "zq14no-key-at-all-0123456789",
    "vendor key in an address, written out": "zq15query/of+settings==0123456789",
}
PLAIN, ADMIN = SECRETS["key of the settings"], SECRETS["admin key of the settings"]
PRICING = {"input_per_1k_tokens": 1, "output_per_1k_tokens": 1}
PROMPT = SECRETS["what a client says"]


class Watch:
    """The secrets there are, and a search for them in what must hold none."""

    def __init__(self) -> None:
        self.secrets = dict(SECRETS)

    def add(self, name: str, secret: str) -> str:
        self.secrets[name] = secret
        return secret

    def found(self, data: bytes | str, *, but: Iterable[str] = ()) -> list[str]:
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        return [
            name
            for name, secret in self.secrets.items()
            if name not in but and any(map(raw.__contains__, forms(secret)))
        ]

    def clean(self, data: bytes | str, where: object, *, but: Iterable[str] = ()) -> None:
        assert not (found := self.found(data, but=but)), f"{where} holds: {found}"


@functools.cache
def forms(secret: str) -> tuple[bytes, ...]:
    """A secret as it is, and as somebody may write it down."""
    raw = secret.encode()
    # In base64 what stands before it shifts it by up to two bytes.
    shifted = [base64.b64encode(b" " * n + raw)[4:-4] for n in range(3)]
    return (raw, quote(secret).encode(), quote(secret, safe="").encode(), raw.hex().encode(), *shifted)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def redis_account(redis_url: str) -> Iterator[str]:
    """The session's Redis, for somebody with a password."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.execute_command(
            "ACL", "SETUSER", "watcher", "on", f">{SECRETS['password of Redis']}", "~*", "&*", "+@all"
        )
        try:
            yield redis_url.replace("redis://", f"redis://watcher:{SECRETS['password of Redis']}@")
        finally:
            client.execute_command("ACL", "DELUSER", "watcher")


@pytest.fixture
def guarded_url(database_url: str) -> str:
    """The database, by a password (which this server does not ask for)."""
    return database_url.replace("postgres@", f"postgres:{SECRETS['password of the database']}@")


class Echo:
    """An upstream that repeats, in an error, all the headers it was sent and its address: a careless vendor."""

    def __init__(self) -> None:
        self.status = 500
        self.kind = "json"
        self.url = ""
        self.heard: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        headers = " ".join(f"{name}: {value}" for name, value in request.headers.items())
        told = f"seen: {headers} {request.path_qs} {' '.join(request.query.values())}"
        self.heard.append(told)
        error = {"error": {"message": told, "type": told, "code": told, "param": told, "status": told}, "type": "error"}
        match self.kind:
            case "text":
                return web.Response(text=told, status=self.status)
            case "events":
                frame = f"event: error\ndata: {json.dumps(error)}\n\n"
                return web.Response(text=frame, content_type="text/event-stream")
            case "in-band":
                return web.json_response(error)
            case "malformed":
                return web.Response(text="{" + told, content_type="application/json")
            case "headers":
                return web.json_response(error, status=self.status, headers={"Retry-After": told, "X-Told": told})
        return web.json_response(error, status=self.status)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    upstream, app = Echo(), web.Application()
    app.router.add_route("*", "/{path:.*}", upstream.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield upstream
    finally:
        await runner.cleanup()


def deployments(url: str, reference: Path) -> list[dict[str, Any]]:
    """One of each kind of secret that a deployment can have, and those that need none."""
    reference.write_text(SECRETS["vendor key in options, by reference"])

    def model(name: str, vendor: str = "openai", **more: Any) -> dict[str, Any]:
        key = SECRETS["vendor key of the settings"]
        return {"name": name, "vendor": vendor, "base_url": url, "api_key": key, "pricing": PRICING, **more}

    return [
        model("echo"),
        model("by-reference", options={"headers": {"x-proxy-key": f"file:{reference}"}}),
        model("written", options={"headers": {"x-proxy-key": SECRETS["vendor key in options, written out"]}}),
        model("queried", options={"query": {"code": SECRETS["vendor key in an address, written out"]}}),
        model("claude", "anthropic"),
        model("gemini", "gemini"),
        model("gone", base_url="http://127.0.0.1:9"),
        {"name": "mock", "vendor": "mock"},
        {"name": "slow", "vendor": "mock", "pricing": PRICING, "options": {"text": "one two three", "delay": 30}},
    ]


@pytest.fixture
async def accounts(
    open_accounts: OpenAccounts,
    guarded_url: str,
    redis_account: str,
    echo: Echo,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[Accounts]:
    """A gateway in front of the careless vendor, with its log on DEBUG."""
    caplog.set_level(logging.DEBUG)
    async with open_accounts(
        *deployments(echo.url, tmp_path / "reference"),
        database={"url": guarded_url, "secret": SECRETS["secret of the database"]},
        redis={"url": redis_account},
        plugin_auth_keys={"keys": [PLAIN], "admin_keys": [ADMIN]},
        plugin_auth_jwt={"secret": SECRETS["secret of the issuer"]},
    ) as opened:
        yield opened


class Traffic:
    """Drives a gateway in every way there is, and looks through all that comes back."""

    def __init__(self, accounts: Accounts, echo: Echo, watch: Watch, talk: Any) -> None:
        self.accounts = accounts
        self.echo = echo
        self.watch = watch
        self.talk = talk
        self.statuses: Counter[int] = Counter()

    async def ask(self, method: str, path: str, body: Any = None, *, key: str | None = ADMIN, **rest: Any) -> Any:
        answer = await self.accounts.call(method, path, body, key=key, **rest)
        self.statuses[answer.status] += 1
        told = repr(answer.headers).encode() + answer.body
        # Models repeat what a client says; that it goes nowhere else is looked at elsewhere.
        self.watch.clean(told, (method, path, answer.body), but=["what a client says"])
        return answer

    async def new_key(self, path: str, secret: str, **fields: Any) -> dict[str, Any]:
        """Have a key made: the only answer with a secret in it."""
        answer = await self.accounts.call("POST", path, fields, key=ADMIN)
        assert answer.status == 201, answer.body
        made: dict[str, Any] = answer.json
        rest = answer.body.replace(made["key"].encode(), b"")
        self.watch.add(secret, made["key"])
        self.watch.clean(rest, path)
        return made

    async def chats(self, key: str | None, model: str) -> None:
        """Plain and streamed, on every path."""
        messages = [{"role": "user", "content": PROMPT}]
        for path, body in (
            ("/v1/chat/completions", {"messages": messages}),
            ("/v1/chat/completions", {"messages": messages, "stream": True}),
            ("/v1/completions", {"prompt": PROMPT}),
            ("/v1/embeddings", {"input": PROMPT}),
            ("/api/llm/generate", {"messages": messages}),
            ("/api/llm/generate/stream", {"messages": messages}),
        ):
            await self.ask("POST", path, {"model": model, **body}, key=key)

    async def vendors(self, key: str) -> None:
        """Every kind of error of a vendor."""
        for kind in ("json", "text", "events", "in-band", "malformed", "headers"):
            for status in (400, 401, 403, 404, 429, 500, 302) if kind in ("json", "text", "headers") else (200,):
                self.echo.kind, self.echo.status = kind, status
                for model in ("echo", "by-reference", "written", "queried", "claude", "gemini", "stored"):
                    asked = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}
                    await self.ask("POST", "/v1/chat/completions", asked, key=key)
                    if kind in ("json", "events"):
                        await self.ask("POST", "/v1/chat/completions", {**asked, "stream": True}, key=key)
                        await self.ask("POST", "/api/llm/generate", asked, key=key)

    async def strangers(self, key: str, disabled: str, expired: str) -> None:
        """Bad credentials, in good places and bad ones."""
        token = self.watch.add("a token", _token(SECRETS["secret of the issuer"]))
        stale = self.watch.add("an expired token", _token(SECRETS["secret of the issuer"], exp=1))
        forged = self.watch.add("a forged token", _token("another-secret-0123456789-0123456789"))
        none = SECRETS["a key that is none"]
        assert (await self.ask("GET", "/v1/models", key=token)).status == 200
        for bad in (none, disabled, expired, stale, forged, token + "x", key + "x", key[:-1]):
            for path in ("/v1/models", "/admin/users", "/api/llm/stats/usage", "/nothing"):
                assert (await self.ask("GET", path, key=bad)).status in (401, 404)
            await self.chats(bad, "mock")
        for value in (f"Bearer {none}\x01", f"Bearer {none}\x80", f"Basic {none}", f"{none}", f"Bearer {none} {none}"):
            for header in ("Authorization", "X-API-Key"):
                said = f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{header}: {value}\r\nConnection: close\r\n\r\n"
                self.watch.clean(await self.talk(self.accounts.port, said.encode("latin-1")), value)

    async def clients(self, key: str) -> None:
        """What clients get wrong, or leave in the middle."""
        said = PROMPT.encode()
        wrong = (
            {"model": "mock", "messages": PROMPT},
            {"model": 7, "messages": [PROMPT]},
            {"model": "mock", PROMPT: 1},
        )
        bodies = (b"", b"{" + said, b"[" * 3000, b"\xff" + said, *(json.dumps(one).encode() for one in wrong))
        for body in bodies:
            for path in ("/v1/chat/completions", "/api/llm/generate", "/v1/embeddings"):
                await self.ask("POST", path, body, key=key)
        for kind in ("usage", "performance"):
            for query in ("", "?start_date=x", "?user_id=bob", "?model=mock"):
                await self.ask("GET", f"/api/llm/stats/{kind}{query}", key=key)
        for path in ("/v1/models", "/v1/models/echo", "/api/llm/models", "/api/llm/models/echo/status"):
            await self.ask("GET", path, key=key)
        for path in ("/metrics", "/health", "/health/live", "/health/ready", "/api/llm/health", "/openapi.json"):
            self.watch.clean((await self.ask("GET", path, key=None)).body, path)

    async def administration(self) -> None:
        """Everything an admin can do, and get wrong."""
        key, changed = SECRETS["vendor key of the database"], SECRETS["vendor key of the database, changed"]
        option = SECRETS["vendor key in options of the database"]
        model = {"model_id": "stored", "vendor_type": "OpenAI", "base_url": self.echo.url, "api_key": key,
                 "options": {"headers": {"x-proxy-key": option}}, "pricing": PRICING}  # fmt: skip
        wrong = (
            {"vendor": 1},
            {"api_key": [key]},
            {"api_key": f"{key}\n"},
            {"wait": key},
            {"timeout": key},
            {"options": option},
            {"options": {"headers": {"x-proxy-key": f"{option}\n"}}},
            {"pricing": {"input_per_1k_tokens": key}},
        )
        for body in (model, model, *({**model, "model_id": "wrong", **one} for one in wrong)):
            await self.ask("POST", "/admin/models", body)
        await self.chats(PLAIN, "stored")
        for method, path, sent in (
            ("PATCH", "/admin/models/stored", {"api_key": changed}),
            ("PATCH", "/admin/models/stored", {"api_key": changed, "weight": -1}),
            ("PATCH", "/admin/models/nothing", {"api_key": changed}),
            ("PUT", "/admin/models/stored/fallbacks", {"fallbacks": ["mock"]}),
            ("GET", "/admin/models", None),
            ("GET", "/admin/models/stored", None),
            ("GET", "/admin/models/written", None),
            ("GET", "/admin/users", None),
            ("POST", "/admin/users", {"user_id": "alice", "token_quota": -1}),
            ("GET", "/admin/users/alice", None),
            ("GET", "/admin/users/alice/quota", None),
            ("GET", "/admin/users/alice/keys", None),
            ("GET", "/admin/keys", None),
            ("GET", "/admin/keys?user_id=alice&limit=1", None),
            ("PATCH", "/admin/keys/nothing", {"name": "x"}),
            ("GET", "/admin/usage", None),
            ("GET", "/admin/usage/requests?limit=500", None),
            ("POST", "/admin/usage/corrections", {"user_id": "alice", "tokens": -1, "reason": "mine"}),
            ("GET", "/admin/audit?limit=500", None),
        ):
            await self.ask(method, path, sent)


def _token(secret: str, **claims: Any) -> str:
    return jwt.encode({"sub": "tom", "exp": int(time.time()) + 600, **claims}, secret, algorithm="HS256")


@pytest.fixture(name="deployments")
def deployments_fixture() -> Callable[[str, Path], list[dict[str, Any]]]:
    """Makes one deployment of each kind of secret that it can have."""
    return deployments


@pytest.fixture
def traffic(accounts: Accounts, echo: Echo, watch: Watch, talk: Any) -> Traffic:
    """Drives the gateway."""
    return Traffic(accounts, echo, watch, talk)
