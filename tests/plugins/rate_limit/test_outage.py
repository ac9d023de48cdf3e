"""Redis is slow, silent, stopped, started again, not installed: nobody waits for long, and what is declared happens."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import redis

from gatehook import Limits, Principal, StartupError, User
from gatehook.awaiting import awaited
from gatehook.redis_line import Gone, RedisLine
from gatehook.testing import built
from gatehook_plugins.rate_limit import RateLimit
from gatehook_plugins.rate_limit.rules import rules
from gatehook_plugins.rate_limit.shared import RedisStore

Gateway = Callable[..., AbstractAsyncContextManager[Any]]
Line = Callable[..., RedisLine]

MODEL = '[[models]]\nname = "m"\nvendor = "mock"\n'
LIMIT = rules("key", "k", Limits(1000, None, 100))


def settings(url: str, on_failure: str = "local", timeout: float = 0.1) -> str:
    return (
        f'[redis]\nurl = "{url}"\ntimeout = {timeout}\n[plugins.rate_limit]\non_failure = "{on_failure}"\n'
        f"requests_per_minute = 5\n{MODEL}"
    )


def line_of(client: Any) -> RedisLine:
    (limiter,) = client.gateway.pipeline.concerns.limiters
    found: RedisLine = limiter._store._store._line
    return found


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "gatehook.rate_limit"]


async def test_local_each_node_limits_by_itself(
    gateway: Gateway, silent_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(settings(silent_url)) as client:
        answers = [await client.ask() for _ in range(6)]
        assert [one.status for one in answers] == [200] * 5 + [429]
        assert answers[0].headers["X-RateLimit-Remaining"] == "4"
    assert said(caplog) == [
        "Redis is gone (no answer within 0.1 s); until it answers, each node limits by itself"
    ] or said(caplog)[0].startswith("Redis is gone (TimeoutError")


@pytest.mark.parametrize(
    ("plugin", "meanwhile"),
    [
        ("[plugins.rate_limit]", "each node limits by itself"),
        ('[plugins.cache]\nbackend = "redis"', "no answers are cached"),
        ("[plugins.cooldown]", "each node rests deployments by itself"),
    ],
)
async def test_a_redis_that_is_not_there_is_told_at_the_start_not_at_the_first_request(
    gateway: Gateway, free_port: Callable[[], int], caplog: pytest.LogCaptureFixture, plugin: str, meanwhile: str
) -> None:
    async with gateway(f'[redis]\nurl = "redis://:pass-word@127.0.0.1:{free_port()}/0"\n{plugin}\n{MODEL}'):
        async with asyncio.timeout(5):  # cooldown looks beside the start
            while not (told := [one for one in caplog.messages if "Redis" in one]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert len(told) == 1
    assert told[0].startswith("Redis is gone (ConnectionError: ")
    assert told[0].endswith(f"; until it answers, {meanwhile}")
    assert "pass-word" not in caplog.text


async def test_open_nothing_is_limited(gateway: Gateway, silent_url: str) -> None:
    async with gateway(settings(silent_url, "open")) as client:
        answers = [await client.ask() for _ in range(8)]
        assert {one.status for one in answers} == {200}
        assert not [name for name in answers[0].headers if "ratelimit" in name.lower()]


async def test_closed_nobody_who_is_limited_gets_in(gateway: Gateway, silent_url: str) -> None:
    async with gateway(settings(silent_url, "closed")) as client:
        answer = await client.ask()
        assert (answer.status, answer.body["error"]["code"]) == (503, "rate_limiter_unavailable")
        assert answer.headers["Retry-After"] == "1"


async def test_only_one_caller_a_second_waits_for_a_redis_that_is_gone(silent_url: str, line: Line) -> None:
    now = [100.0]
    to_redis = line(silent_url, 0.05, lambda: now[0])
    store = RedisStore(to_redis, "p")
    asked = await asyncio.gather(*(store.gate(LIMIT).admit(0) for _ in range(10)), return_exceptions=True)
    assert all(isinstance(one, Gone) for one in asked)

    async def ask_again() -> list[bool]:
        found = await asyncio.gather(*(store.gate(LIMIT).admit(0) for _ in range(10)), return_exceptions=True)
        return sorted(one.asked for one in found if isinstance(one, Gone))

    now[0] += 0.99
    assert await ask_again() == [False] * 10
    now[0] += 0.02
    assert await ask_again() == [False] * 9 + [True]
    assert await ask_again() == [False] * 10
    await to_redis.close()


async def test_no_request_waits_longer_than_the_deadline(gateway: Gateway, silent_url: str) -> None:
    async with gateway(settings(silent_url, "open", timeout=0.2)) as client:
        await client.ask(model="unknown")  # everything is warm, and Redis known to be gone
        line_of(client)._ask_again = 0
        start = time.monotonic()
        await asyncio.gather(*(client.ask() for _ in range(50)))
        assert time.monotonic() - start < 5, "one after another they would wait for ten seconds"


async def test_stopped_and_started_again_in_the_middle_of_traffic(
    gateway: Gateway, people: dict[str, Principal], own_redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    people["t"] = Principal("ann", user=User("ann", limits=Limits(1000, None, 50)))

    async def traffic(client: Any, *, streams: bool = True) -> None:
        asking = (client.ask("t", stream=streams and number % 2 == 0) for number in range(30))
        answers = await asyncio.gather(*asking)
        assert {one.status for one in answers} == {200}

    own_redis.start()
    async with gateway(settings(own_redis.url, timeout=1)) as client:
        await traffic(client)
        assert said(caplog) == []
        going_on = asyncio.create_task(traffic(client))
        own_redis.stop()
        await going_on
        await traffic(client)
        assert len(said(caplog)) == 1
        assert said(caplog)[0].endswith("until it answers, each node limits by itself")

        own_redis.start()
        line_of(client)._ask_again = 0  # a second has passed
        await traffic(client, streams=False)  # whose answers come when they are settled
        assert said(caplog)[1:] == ["Redis answers again; limits are shared between nodes"]
        with redis.Redis.from_url(own_redis.url) as server:
            assert server.exists("gatehook:rl:{limits}:requests:user:ann")
            assert not server.exists("gatehook:rl:{limits}:concurrent:user:ann")


async def test_a_redis_that_is_away_at_the_start_is_found_later(gateway: Gateway, own_redis: Any) -> None:
    async with gateway(settings(own_redis.url, timeout=1)) as client:
        assert (await client.ask()).status == 200
        own_redis.start()
        line_of(client)._ask_again = 0
        assert (await client.ask()).status == 200
        with redis.Redis.from_url(own_redis.url) as server:
            assert server.exists("gatehook:rl:{limits}:requests:user:anonymous")


async def test_what_was_granted_before_redis_went_is_settled_without_an_error(own_redis: Any, line: Line) -> None:
    own_redis.start()
    now = [0.0]
    to_redis = line(own_redis.url, 1, lambda: now[0])
    store = RedisStore(to_redis, "p")
    async with store.lifespan():
        grant = (await awaited(store.gate(LIMIT).admit(0))).grant
        assert grant is not None
        own_redis.stop()
        await awaited(grant.gate.settle(grant, 1, 0))
        with pytest.raises(Gone):
            await store.beat()
        assert list(store._ended) == [grant.holder]
        own_redis.start()
        now[0] += 2
        await store.beat()
        assert store._ended == store._held == {}


async def test_an_outage_keeps_no_record_of_those_who_were_not_asked_for(silent_url: str, line: Line) -> None:
    to_redis = line(silent_url, 0.05, lambda: 0.0)
    store = RedisStore(to_redis, "p")
    for _ in range(100):
        with pytest.raises(Gone):
            await awaited(store.gate(LIMIT).admit(0))
    assert len(store._ended) == 1
    await to_redis.close()


async def test_an_error_that_redis_answers_with_is_an_outage_too(
    redis_url: str, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    to_redis = line(redis_url.replace("redis://", "redis://nobody:hunter2hunter2@"), 1)
    with pytest.raises(Gone):
        await awaited(RedisStore(to_redis, "p").gate(LIMIT).admit(0))
    assert "AuthenticationError" in said(caplog)[0]
    assert "hunter2" not in caplog.text
    assert logging.getLevelName(caplog.records[0].levelno) == "WARNING"
    await to_redis.close()


def test_without_the_package_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shared", "outage"):
        monkeypatch.delitem(sys.modules, f"gatehook_plugins.rate_limit.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(StartupError, match=r"pip install 'gatehook\[redis\]'"):
        built(settings("redis://127.0.0.1:1/0"), plugins={"rate_limit": RateLimit})


@pytest.mark.parametrize("url", ["http://u:sesame@h/0", "sesame", "redis://h:sesame/0", "redis://h:99999/0"])
def test_a_wrong_address_is_told_without_repeating_it(url: str) -> None:
    with pytest.raises(StartupError, match=r"\[redis\] url: expected redis://HOST:PORT/N") as caught:
        built(settings(url), plugins={"rate_limit": RateLimit})
    assert "sesame" not in str(caught.value)
