"""What only the store in Redis must do: share, survive nodes and clocks, and charge no answer that was lost twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import redis

from gatehook import Limits
from gatehook.awaiting import awaited
from gatehook.redis_line import Gone
from gatehook_plugins.rate_limit.rules import rules
from gatehook_plugins.rate_limit.shared import RedisStore
from gatehook_plugins.rate_limit.store import Grant

Node = Callable[..., AbstractAsyncContextManager[RedisStore]]

LIMIT = rules("key", "k", Limits(10, 1000, 2))


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def granted(store: RedisStore, limit: Any = LIMIT, tokens: int = 10) -> Grant:
    grant = (await awaited(store.gate(limit).admit(tokens))).grant
    assert grant is not None
    return grant


async def left(store: RedisStore) -> list[int]:
    """What is left, asked with a request that cannot pass."""
    probe = rules("key", "k", Limits(10, 1000, 2)) + rules("key", "nobody", Limits(0))
    return list((await awaited(store.gate(probe).admit(1))).left[:3])


async def test_nodes_share_every_limit(node: Node) -> None:
    async with node() as one, node() as other:
        first = await granted(one)
        await granted(other)
        assert not (await awaited(one.gate(LIMIT).admit(10))).admitted
        await awaited(first.gate.settle(first, 1, 300))
        assert await left(other) == [8, 690, 1]


async def test_hundreds_on_two_nodes_get_the_limit_exactly(node: Node) -> None:
    limit = rules("key", "k", Limits(50))
    async with node() as one, node() as other:
        asked = [store.gate(limit).admit(0) for _ in range(150) for store in (one, other)]
        assert sum(decision.admitted for decision in await asyncio.gather(*asked)) == 50


async def test_prefixes_keep_gateways_apart(node: Node) -> None:
    async with node(prefix="a") as one, node(prefix="b") as other:
        await granted(one)
        assert await left(other) == [10, 1000, 2]


async def test_all_keys_are_in_one_slot_of_a_cluster_and_expire(node: Node, server: redis.Redis) -> None:
    async with node(prefix="pre") as store:
        grant = await granted(store, LIMIT + rules("user", "{u}", Limits(5, 500, 5)))
        await awaited(grant.gate.settle(grant, 1, 1))
        await granted(store)
        keys = list(server.scan_iter())
        assert sorted(keys)[:2] == ["pre:rl:{limits}:concurrent:key:k", "pre:rl:{limits}:requests:key:k"]
        assert len({key[: key.index("}")] for key in keys}) == 1
        assert all(0 < server.pttl(key) <= 61_000 for key in keys)


async def test_a_server_that_forgot_the_scripts_is_taught_them_again(node: Node, server: redis.Redis) -> None:
    async with node() as store:
        grant = await granted(store)
        server.script_flush()
        await awaited(grant.gate.settle(grant, 1, 10))
        server.script_flush()
        await granted(store)
        assert await left(store) == [8, 980, 1]


async def test_a_node_that_ends_lets_go_of_what_it_ran(node: Node) -> None:
    async with node() as other:
        async with node() as one:
            await granted(one)
            await granted(one)
            assert (await left(other))[2] == 0
        assert (await left(other))[2] == 2


async def test_a_killed_node_s_requests_are_let_go_within_a_minute(
    redis_url: str, line: Any, node: Node, clock: Any
) -> None:
    to_redis = line(redis_url)
    killed = RedisStore(to_redis, "gatehook", clock)  # no lifespan: nothing renews its leases, nothing ends them
    await granted(killed)
    async with node(clock) as other:
        clock.turn(29.9)
        assert (await left(other))[2] == 1
        clock.turn(0.2)
        assert (await left(other))[2] == 2
    await to_redis.close()


async def test_what_runs_for_long_is_renewed(node: Node, clock: Any) -> None:
    async with node(clock) as one, node(clock) as other:
        grant = await granted(one)
        for _ in range(12):
            clock.turn(20)
            await one.beat()
        assert (await left(other))[2] == 1
        await awaited(grant.gate.settle(grant, 1, 0))
        await one.beat()
        assert (await left(other))[2] == 2


async def test_running_requests_count_again_after_redis_lost_them(node: Node, server: redis.Redis) -> None:
    async with node() as store:
        await granted(store)
        server.flushall()
        assert (await left(store))[2] == 2
        await store.beat()
        assert (await left(store))[2] == 1


async def test_a_request_that_ends_during_a_beat_stays_ended(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async with node() as store:
        grant = await granted(store)
        run = store._run

        async def settled_first(script: Any, keys: Any, arguments: Any) -> Any:
            monkeypatch.setattr(store, "_run", run)
            await awaited(grant.gate.settle(grant, 1, 0))
            return await run(script, keys, arguments)  # which renews what has just ended

        monkeypatch.setattr(store, "_run", settled_first)
        await store.beat()
        assert (await left(store))[2] == 1
        await store.beat()
        assert (await left(store))[2] == 2


async def test_more_run_than_one_script_renews(node: Node, server: redis.Redis) -> None:
    many = rules("key", "many", Limits(None, None, 5000))
    async with node() as store:
        await asyncio.gather(*(granted(store, many, 0) for _ in range(1201)))
        server.flushall()
        await store.beat()
        assert server.zcard("gatehook:rl:{limits}:concurrent:key:many") == 1201


@pytest.mark.parametrize("step", [2, 3600])
async def test_a_clock_that_is_set_back_lets_nobody_past_and_holds_nobody_for_ever(
    node: Node, clock: Any, step: int
) -> None:
    limit = rules("key", "k", Limits(3, 90))
    async with node(clock) as store:
        grants = [await granted(store, limit, 30) for _ in range(3)]
        clock.turn(-step)
        assert not (await awaited(store.gate(limit).admit(30))).admitted
        await awaited(grants[0].gate.settle(grants[0], 0, 10))
        assert (await awaited(store.gate(limit).admit(90))).left == [1, 20]
        clock.turn(61)
        await granted(store, limit, 90)


async def test_leases_outlive_no_clock_that_is_set_back(redis_url: str, line: Any, node: Node, clock: Any) -> None:
    to_redis = line(redis_url)
    await granted(RedisStore(to_redis, "gatehook", clock))  # of a node that dies
    async with node(clock) as other:
        clock.turn(-7200)
        assert (await left(other))[2] == 1
        clock.turn(30.1)
        assert (await left(other))[2] == 2
    await to_redis.close()


async def test_by_the_server_s_own_clock(node: Node, server: redis.Redis) -> None:
    async with node() as store:
        decision = await awaited(store.gate(LIMIT).admit(10))
        assert decision.grant is not None
        assert abs(decision.grant.slot - int(server.time()[0])) <= 1
        assert all(60_000_000 < one <= 61_000_000 for one in decision.resets[:2])


async def test_over_a_unix_socket(own_redis: Any, line: Any) -> None:
    own_redis.start()
    store = RedisStore(line(f"unix://{own_redis.socket}"), "gatehook")
    async with store.lifespan():
        await granted(store)
        assert await left(store) == [9, 990, 1]


def test_over_tls_a_connection_verifies_its_server(line: Any) -> None:
    pool = line("rediss://:secret@example.com:6380/0")._client.connection_pool
    assert pool.connection_class.__name__ == "SSLConnection"
    assert "cert_reqs" not in pool.connection_kwargs  # the library's default: required


@contextlib.asynccontextmanager
async def proxy(url: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Passes everything on, until `state["deaf"]`: then scripts still run, but their answers are lost."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    state: dict[str, Any] = {"deaf": False, "sent": 0}
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(65536):
            if answers and state["deaf"]:
                break
            state["sent"] += not answers and b"EVAL" in data
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, upstream))
        back = asyncio.create_task(pump(upstream_reader, writer, answers=True))
        await pump(reader, upstream, answers=False)
        await back

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", state
    server.close()
    for writer in writers:
        writer.close()
    await server.wait_closed()


async def test_a_lost_answer_charges_once_and_is_not_asked_for_again(redis_url: str, line: Any, node: Node) -> None:
    async with node() as other, proxy(redis_url) as (url, state):
        to_redis = line(url, 5, lambda: 0.0)
        store = RedisStore(to_redis, "gatehook")
        await granted(store)  # the script is known now
        state.update(deaf=True, sent=0)
        with pytest.raises(Gone):
            await awaited(store.gate(LIMIT).admit(10))
        assert state["sent"] == 1
        assert await left(other) == [8, 980, 0]
        assert len(store._ended) == 1  # let go with the next beat
        await to_redis.close()


async def test_a_client_that_leaves_while_it_is_asked_for_keeps_no_place(node: Node) -> None:
    async with node() as store:
        await granted(store)
        asking = asyncio.create_task(store.gate(LIMIT).admit(10))
        await asyncio.sleep(0)  # it runs until it waits
        assert store._line._commands
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.gather(*store._line._commands)
        await store.beat()
        assert (await left(store))[2] == 1


async def test_cancelled_commands_cost_the_pool_no_connection(node: Node) -> None:
    async with node() as store:
        for _ in range(5):
            asking = [asyncio.create_task(store.gate(LIMIT).admit(10)) for _ in range(50)]
            await asyncio.sleep(0.002)
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        await asyncio.gather(*store._line._commands, return_exceptions=True)
        assert store._line._client.connection_pool._in_use_connections == set()


async def test_what_a_client_reserved_that_left_meanwhile_is_given_back(node: Node) -> None:
    limit = rules("key", "k", Limits(1, 10, 1))
    async with node() as store:
        for _ in range(3):
            asking = asyncio.ensure_future(store.gate(limit).admit(10))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
            while store._line._commands:
                await asyncio.wait(set(store._line._commands))
        decision = await awaited(store.gate(limit).admit(10))
        assert decision.admitted
