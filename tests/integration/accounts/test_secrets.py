"""No secret comes out anywhere: not in answers, logs, metrics, objects' texts, files or Redis."""

import asyncio
import base64
import contextlib
import functools
import gc
import json
import logging
import time
import traceback
import types
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from aiohttp import web

from gatehook import LEDGER, StartupError
from gatehook.commands.cli import main
from gatehook.testing import serving

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
    return (raw, quote(secret).encode(), raw.hex().encode(), *shifted)


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
    """An upstream that repeats, in an error, all the headers it was sent: a careless vendor."""

    def __init__(self) -> None:
        self.status = 500
        self.kind = "json"
        self.url = ""
        self.heard: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        told = (
            "seen: " + " ".join(f"{name}: {value}" for name, value in request.headers.items()) + f" {request.path_qs}"
        )
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
                for model in ("echo", "by-reference", "written", "claude", "gemini", "stored"):
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


_OWN = ("gatehook", "redis", "sqlalchemy", "pydantic", "msgspec", "jwt")
_NOT_FOLLOWED = (type, types.ModuleType, str, bytes, int, float, type(None))


def own_objects(*starts: object) -> Iterator[object]:
    """Whatever is reachable from there and is the gateway's, or of a library that holds its secrets."""
    kept: dict[int, object] = {}
    todo = list(starts)
    while todo:
        one = todo.pop()
        if id(one) in kept or isinstance(one, _NOT_FOLLOWED):
            continue
        kept[id(one)] = one  # alive, or another would get its id
        home = type(one).__module__.partition(".")[0]
        if home.startswith(_OWN) and not isinstance(one, dict | list | tuple):
            yield one
        if isinstance(one, types.FunctionType):  # not its module's globals
            todo += [cell.cell_contents for cell in one.__closure__ or () if cell != types.CellType()]
        elif home not in ("logging", "_pytest", "pluggy"):
            todo += gc.get_referents(one)


def contents(folder: Path, pattern: str) -> bytes:
    return b"\n".join(file.read_bytes() for file in sorted(folder.glob(pattern)))


async def database_dump(url: str, folder: Path) -> bytes:
    """All that a database holds: the bytes of SQLite's files, the rows of PostgreSQL's tables."""
    if url.startswith("sqlite"):
        return contents(folder, "gatehook.db*")
    import asyncpg  # type: ignore[import-untyped]

    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        tables = [
            row[0] for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
        rows = [await connection.fetch(f'SELECT t::text FROM "{name}" AS t') for name in tables]
        return repr(rows).encode()
    finally:
        await connection.close()


def redis_dump(url: str) -> bytes:
    """All keys and values."""
    import redis

    with redis.Redis.from_url(url) as client:
        held: list[Any] = []
        for key in client.scan_iter():
            read = {b"string": client.get, b"hash": client.hgetall, b"set": client.smembers}
            kind = client.type(key)
            held.append((key, read[kind](key) if kind in read else client.zrange(key, 0, -1, withscores=True)))
        return repr(held).encode()


async def test_nothing_that_a_serving_gateway_says_or_keeps_holds_a_secret(
    accounts: Accounts,
    echo: Echo,
    watch: Watch,
    talk: Any,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    traffic = Traffic(accounts, echo, watch, talk)
    limits = {"rpm_limit": 100_000, "tpm_limit": 10**9, "token_quota": 10**9, "budget": 10**6}
    await traffic.ask("POST", "/admin/users/quota", {"user_id": "alice", **limits})
    made = await traffic.new_key("/admin/users/alice/keys", "a key of alice", name="first")
    disabled = await traffic.new_key("/admin/users/alice/keys", "a disabled key")
    await traffic.ask("PATCH", f"/admin/keys/{disabled['key_id']}", {"disabled": True})
    rotated = await traffic.new_key(f"/admin/keys/{made['key_id']}/rotate", "a rotated key", overlap_seconds=600)
    revoked = await traffic.new_key("/admin/users/alice/keys", "a revoked key")
    await traffic.ask("DELETE", f"/admin/keys/{revoked['key_id']}")

    await traffic.administration()
    await traffic.vendors(rotated["key"])
    for model in ("mock", "gone"):
        await traffic.chats(rotated["key"], model)
    await traffic.strangers(made["key"], disabled["key"], revoked["key"])
    await traffic.clients(rotated["key"])
    await traffic.administration()

    said = "\n".join(echo.heard)
    for name in (one for one in SECRETS if one.startswith("vendor key")):
        assert SECRETS[name] in said, f"{name} was put to use"
    assert {200, 201, 400, 401, 404, 409, 429, 502} <= set(traffic.statuses)

    slow = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    headers = {"Authorization": f"Bearer {rotated['key']}"}
    async with accounts.http.post(accounts.url + "/v1/chat/completions", json=slow, headers=headers) as answer:
        await answer.content.readany()
        seen = Counter(type(one).__name__ for one in _shown(watch, accounts.gateway, *asyncio.all_tasks()))
    for name in ("Call", "Principal", "Target", "Settings", "SecretStr", "QuotaLimiter", "RedisStore", "SqlDatabase",
                 "OneKey", "Keyring", "Holders", "Key", "User", "BlockingConnectionPool", "AsyncEngine"):  # fmt: skip
        assert seen[name], f"no {name} was looked at"

    await accounts.gateway.services[LEDGER].flush()
    await _kept_clean(watch, database_url, redis_url, tmp_path)
    watch.clean(caplog.text, "the log")
    assert "failed" in caplog.text


def _shown(watch: Watch, *starts: object) -> Iterator[object]:
    for one in own_objects(*starts):
        watch.clean(repr(one), type(one))
        yield one


async def _kept_clean(watch: Watch, database_url: str, redis_url: str, folder: Path) -> None:
    dump = await database_dump(database_url, folder)
    assert b"alice" in dump
    watch.clean(dump, "the database")
    kept = redis_dump(redis_url)
    assert b"alice" in kept
    watch.clean(kept, "Redis")
    journal = contents(folder / "journal", "*")
    assert b"alice" in journal
    watch.clean(journal, "the journal")


def failing(redis_url: str, database_url: str) -> dict[str, str]:
    """Settings that cannot be served, each with a secret near the fault."""
    password, key = SECRETS["password of the database"], SECRETS["vendor key of the settings"]
    redis_password = SECRETS["password of Redis"]
    accounts = "[plugins.database]\n[plugins.auth_keys]\n[plugins.rate_limit]\n"
    database = f'[database]\nurl = "{database_url}"\nsecret = "{SECRETS["secret of the database"]}"\n'
    return {
        "redis that is no address": f'[redis]\nurl = "redis://:{redis_password}@host:port"\n{database}{accounts}',
        "redis of another kind": f'[redis]\nurl = "http://:{redis_password}@host"\n{database}{accounts}',
        "a database that is none": f'[database]\nurl = "mysql://root:{password}@host/name"\n{accounts}',
        "a database that is no address": f'[database]\nurl = "{password}"\n{accounts}',
        "a database that is away": f'[database]\nurl = "postgresql+asyncpg://me:{password}@127.0.0.1:9/x"\n'
                                   f'secret = "{SECRETS["secret of the database"]}"\n{accounts}',
        "another secret": database.replace(SECRETS["secret of the database"], PROMPT) + accounts,
        "a secret that is short": '[database]\nsecret = "zq12data"\n' + accounts,
        "a key that is short": f'[plugins.auth_keys]\nkeys = ["{PLAIN}", "{PLAIN}"]\nadmin_keys = "{ADMIN}"\n',
        "a model that is wrong": f'[[models]]\nname = "m"\nvendor = "openai"\napi_kex = "{key}"\ntimeout = "{key}"\n',
        "no TOML": f'[[models]]\nname = "m"\napi_key = "{key}\n',
        "an issuer's secret that is short": '[plugins.auth_jwt]\nsecret = "zq3issuer"\n',
        "two sources of keys": f'[plugins.auth_jwt]\nsecret = "{SECRETS["secret of the issuer"]}"\njwks_url = "x"\n',
    }  # fmt: skip


async def command(config: Path, capsys: pytest.CaptureFixture[str], words: str) -> str:
    """What the program prints."""
    with contextlib.suppress(SystemExit):  # of wrong usage
        await asyncio.to_thread(main, [*words.split(), "--config", str(config)])
    printed = capsys.readouterr()
    return printed.out + printed.err


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_failure_to_start_tells_a_secret(
    open_accounts: OpenAccounts, redis_url: str, database_url: str, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_accounts(database={"secret": SECRETS["secret of the database"]}):
        pass  # the database belongs to this secret now
    for name, text in failing(redis_url, database_url).items():
        with pytest.raises(StartupError) as caught:
            async with serving("[server]\nport = 0\n" + text):
                pass
        told = "".join(traceback.format_exception(caught.value))
        assert len(caught.value.faults) >= 1
        watch.clean(told, name)
        assert "zq" not in told, f"{name}: a part of one"
    watch.clean(caplog.text, "the log")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_command_tells_a_secret(
    open_accounts: OpenAccounts,
    accounts_text: Any,
    watch: Watch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = deployments("http://127.0.0.1:9", tmp_path / "reference")
    secret = {"database": {"secret": SECRETS["secret of the database"]}, "plugin_auth_keys": {"admin_keys": [ADMIN]}}
    config = tmp_path / "settings.toml"
    config.write_text(accounts_text(*models, **secret))
    for words in ("keys create --user alice --json", "keys create --admin --json"):
        printed = json.loads((await command(config, capsys, words)).partition("\n}")[0] + "}")
        watch.add(words, printed["key"])
    lists = ("models", "models --json", "plugins --json", "keys list", "keys list --json", "users list --json",
             "users show alice", "usage", "usage --json")  # fmt: skip
    for words in (*lists, "check", "schema", "keys revoke nothing", "nothing"):
        said = await command(config, capsys, words)
        assert said, words
        watch.clean(said, words)
