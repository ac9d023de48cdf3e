"""Memory that is never more than it may be, and a Redis that is slow, gone, or full of something else."""

import asyncio
import contextlib
import logging
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatehook import RedisSettings, SecretStr
from gatehook_plugins.cache.memory import OVERHEAD, MemoryStore
from gatehook_plugins.cache.redis_store import RedisStore

Gateway = Callable[..., AbstractAsyncContextManager[Any]]

MOST = 10_000
KEYS = st.binary(min_size=1, max_size=1)


class Clock:
    """Seconds, which pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def got(store: MemoryStore, key: bytes) -> bytes | None:
    return store.get(key)


class Shelf(RuleBasedStateMachine):
    """Puts, gets and time in any order: the bound holds, and what is given is what was put last, and not too old."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore(MOST, self.clock)
        self.last: dict[bytes, tuple[bytes, float]] = {}

    @rule(key=KEYS, size=st.integers(0, MOST + 500), seconds=st.sampled_from([0.5, 10, 100]))
    def put(self, key: bytes, size: int, seconds: float) -> None:
        data = key * size
        self.store.put(key, data, seconds)
        if size + OVERHEAD <= MOST:
            self.last[key] = data, self.clock.now + seconds
            assert got(self.store, key) == data

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        if (found := got(self.store, key)) is not None:
            data, until = self.last[key]
            assert found == data
            assert self.clock.now < until

    @rule(seconds=st.sampled_from([0.1, 1, 50]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def it_fits(self) -> None:
        assert self.store.size <= MOST


TestShelf = Shelf.TestCase


def test_what_was_not_used_for_longest_leaves_first() -> None:
    store = MemoryStore(3 * (OVERHEAD + 10))
    for key in (b"a", b"b", b"c"):
        store.put(key, b"x" * 10, 60)
    assert got(store, b"a") is not None
    store.put(b"d", b"x" * 10, 60)
    assert [key for key in (b"a", b"b", b"c", b"d") if got(store, key) is not None] == [b"a", b"c", b"d"]


@given(st.integers(0, 2000))
def test_what_it_holds_is_counted_in_full(size: int) -> None:
    count = 300
    store = MemoryStore(1 << 30)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            store.put(number.to_bytes(32), bytes(size), 60)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held <= store.size


# --- Redis ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def opened(url: str, timeout: float = 5) -> AsyncIterator[RedisStore]:
    store = RedisStore(RedisSettings(url=SecretStr(url), timeout=timeout))
    async with store.lifespan():
        yield store


async def put(store: RedisStore, key: bytes, data: bytes, seconds: float = 60) -> None:
    store.put(key, data, seconds)
    await asyncio.gather(*store._writes)


async def test_it_lies_under_a_hashed_name_and_goes_by_itself(redis_url: str) -> None:
    async with opened(redis_url) as store:
        await put(store, b"\x01" * 32, b"answer", 100)
        assert await store.get(b"\x01" * 32) == b"answer"
        assert await store.get(b"\x02" * 32) is None
    with redis.Redis.from_url(redis_url) as client:
        (name,) = client.keys()
        assert name == b"gatehook:cache:1:" + b"01" * 32
        assert 99_000 < client.pttl(name) <= 100_000


async def test_what_is_on_its_way_arrives_before_the_end(redis_url: str) -> None:
    async with opened(redis_url) as store:
        store.put(b"k", b"answer", 60)
    async with opened(redis_url) as store:
        assert await store.get(b"k") == b"answer"


async def test_a_silent_redis_costs_one_timeout_a_second_and_is_told_once(
    silent_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(silent_url, 0.1) as store:
        began = time.monotonic()
        for _ in range(200):
            assert await store.get(b"k") is None
            store.put(b"k", b"answer", 60)
        assert time.monotonic() - began < 5, "each by itself they would wait for twenty seconds"
    assert caplog.text.count("Redis is gone") == 1
    assert "no answers are cached" in caplog.text


async def test_writes_do_not_pile_up(silent_url: str) -> None:
    async with opened(silent_url, 0.1) as store:
        for number in range(500):
            store.put(number.to_bytes(2), b"answer", 60)
        assert len(store._writes) == 16


async def test_who_leaves_while_redis_is_asked_breaks_nothing(redis_url: str) -> None:
    async with opened(redis_url) as store:
        await put(store, b"k", b"answer")
        for turns in range(40):
            asking = asyncio.create_task(store.get(b"k"))
            for _ in range(turns % 7):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
        assert await store.get(b"k") == b"answer"


async def test_without_redis_every_request_is_a_miss_until_it_is_back(
    gateway: Gateway, own_redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    table = f'[redis]\nurl = "{own_redis.url}"\ntimeout = 2\n'

    async def mark(client: Any) -> str:
        answer = await client.ask()
        assert answer.status == 200
        (cache,) = client.gateway.pipeline.concerns.answers.caches
        await asyncio.gather(*cache._store._writes)
        cache._store._line._ask_again = 0.0  # a second later
        return str(answer.cache)

    async with gateway('backend = "redis"', table) as client:
        assert [await mark(client) for _ in range(3)] == ["miss"] * 3
        own_redis.start()
        assert [await mark(client) for _ in range(3)] == ["miss", "hit", "hit"]
        own_redis.stop()
        assert [await mark(client) for _ in range(2)] == ["miss"] * 2
    told = [record.message.partition(" (")[0] for record in caplog.records if record.name == "gatehook.cache"]
    assert told == ["Redis is gone", "Redis answers again; answers are cached", "Redis is gone"]


async def test_what_is_none_of_ours_is_a_miss(gateway: Gateway, redis_url: str) -> None:
    table = f'[redis]\nurl = "{redis_url}"\ntimeout = 5\n'
    async with gateway('backend = "redis"', table) as client:
        (cache,) = client.gateway.pipeline.concerns.answers.caches
        await client.ask()
        await asyncio.gather(*cache._store._writes)
        with redis.Redis.from_url(redis_url) as there:
            (name,) = there.keys()
            for foreign in (b"", b"\x93", b"{}", b"\x93\xcb" + b"\0" * 8 + b"\x90\x91\xa4what"):
                there.set(name, foreign)
                assert (await client.ask()).cache == "miss"
                await asyncio.gather(*cache._store._writes)
            assert (await client.ask()).cache == "hit"
            there.delete(name)
            there.lpush(name, b"a list")
        assert (await client.ask()).status == 200
