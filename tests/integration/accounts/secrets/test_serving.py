"""No secret comes out of a gateway that serves: not in answers, logs, metrics, objects' texts, files or Redis."""

import asyncio
import gc
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatehook import LEDGER

Accounts = Any
Traffic = Any
Watch = Any

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
    traffic: Traffic,
    watch: Watch,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
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

    said = "\n".join(traffic.echo.heard)
    for name in (one for one in watch.secrets if one.startswith("vendor key")):
        assert watch.secrets[name] in said, f"{name} was put to use"
    assert {200, 201, 400, 401, 404, 409, 429, 502} <= set(traffic.statuses)

    slow = {
        "model": "slow",
        "stream": True,
        "messages": [{"role": "user", "content": watch.secrets["what a client says"]}],
    }
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
