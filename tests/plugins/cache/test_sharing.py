"""Identical requests at the same time: one call, and what becomes of those that wait for it."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Call, Completion, Entry, InvalidRequest, Outcome
from gatehook_plugins.cache.sharing import Sharing

Gateway = Callable[..., AbstractAsyncContextManager[Any]]

SHARE = "share = true"
KEY = b"k"
ENTRY = Entry(Completion({"answer": 42}))
OVER = Outcome("failed", 502)


def a_call(**headers: str) -> Call:
    return Call("chat", "test", headers)


async def waiting(sharing: Sharing, count: int) -> None:
    """Wait until so many wait for an answer."""
    async with asyncio.timeout(5):
        while sum(len(flight.waiting) for flight in sharing._flights.values()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0)


def is_idle(sharing: Sharing) -> bool:
    return not sharing._flights and not sharing._led


def sharing_of(client: Any) -> Sharing:
    (cache,) = client.gateway.pipeline.concerns.answers.caches
    found = cache._sharing
    assert isinstance(found, Sharing)
    return found


# --- in a gateway --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_one_call_answers_all(gateway: Gateway, stream: bool) -> None:
    async with gateway(SHARE) as client:
        asked = [asyncio.create_task(client.ask(model="staged", stream=stream)) for _ in range(8)]
        await client.stage.calls(1)
        await waiting(sharing_of(client), 7)
        client.stage.acts[0].set_result("Good.")
        answers = await asyncio.gather(*asked)
        await client.stage.until(lambda: len(client.stage.outcomes) == 8)
        assert len(client.stage.acts) == 1
        assert is_idle(sharing_of(client))
    assert sorted(str(one.cache) for one in answers) == ["hit"] * 7 + ["miss"]
    assert len({one.text for one in answers}) == 1
    assert "Good." in answers[0].text
    assert sorted(one.status for one in client.stage.outcomes) == ["cached"] * 7 + ["complete"]


async def test_without_share_everybody_calls(gateway: Gateway) -> None:
    async with gateway() as client:
        asked = [asyncio.create_task(client.ask(model="staged")) for _ in range(3)]
        await client.stage.calls(3)
        for act in client.stage.acts:
            act.set_result("Good.")
        assert {one.cache for one in await asyncio.gather(*asked)} == {"miss"}


async def test_others_are_not_waited_for(gateway: Gateway) -> None:
    async with gateway(SHARE) as client:
        people = [asyncio.create_task(client.ask(model="staged", who=who)) for who in ("ann", "bob")]
        await client.stage.calls(2)
        for number, act in enumerate(client.stage.acts):
            act.set_result(f"Good {number}.")
        answers = await asyncio.gather(*people)
    assert {one.cache for one in answers} == {"miss"}
    assert answers[0].text != answers[1].text


async def test_a_failure_is_the_leader_s_own_and_one_takes_over(gateway: Gateway) -> None:
    async with gateway(SHARE) as client:
        asked = [asyncio.create_task(client.ask(model="staged")) for _ in range(4)]
        await client.stage.calls(1)
        await waiting(sharing_of(client), 3)
        client.stage.acts[0].set_exception(InvalidRequest("not like this"))
        await client.stage.calls(2)
        await waiting(sharing_of(client), 2)
        assert len(client.stage.acts) == 2
        client.stage.acts[1].set_result("Good.")
        answers = await asyncio.gather(*asked)
    assert sorted(one.status for one in answers) == [200, 200, 200, 400]
    assert sorted(str(one.cache) for one in answers) == ["hit", "hit", "miss", "miss"]


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_leaves_the_call_to_another(gateway: Gateway, stream: bool) -> None:
    async with gateway(SHARE) as client:
        first = asyncio.create_task(client.ask(model="staged", stream=stream))
        await client.stage.calls(1)
        others = [asyncio.create_task(client.ask(model="staged", stream=stream)) for _ in range(2)]
        await waiting(sharing_of(client), 2)
        first.cancel()
        await client.stage.calls(2)
        client.stage.acts[1].set_result("Good.")
        answers = await asyncio.gather(*others)
        await client.stage.until(lambda: len(client.stage.outcomes) == 3)
        assert sharing_of(client)._flights == {}
    assert sorted(str(one.cache) for one in answers) == ["hit", "miss"]


async def test_who_leaves_while_waiting_is_not_waited_for(gateway: Gateway) -> None:
    async with gateway(SHARE) as client:
        first = asyncio.create_task(client.ask(model="staged"))
        await client.stage.calls(1)
        second = asyncio.create_task(client.ask(model="staged"))
        await waiting(sharing_of(client), 1)
        second.cancel()
        await client.stage.until(lambda: len(client.stage.outcomes) == 1)
        assert client.stage.outcomes[0].http_status == 499
        client.stage.acts[0].set_exception(InvalidRequest("no"))
        assert (await first).status == 400
        await client.stage.until(lambda: len(client.stage.outcomes) == 2)
        assert sharing_of(client)._flights == {}


async def test_patience_ends_for_one_at_a_time(gateway: Gateway) -> None:
    async with gateway("share = true\nshare_wait = 0.2") as client:
        asked = [asyncio.create_task(client.ask(model="staged")) for _ in range(5)]
        await client.stage.calls(2)
        assert len(client.stage.acts) == 2
        client.stage.acts[1].set_result("Good.")  # the first one still has said nothing
        await client.stage.until(lambda: len(client.stage.outcomes) == 4)
        client.stage.acts[0].set_result("Late.")
        answers = await asyncio.gather(*asked)
    assert sorted(str(one.cache) for one in answers) == ["hit"] * 3 + ["miss"] * 2


async def test_an_answer_too_large_to_keep_is_shared_all_the_same(gateway: Gateway) -> None:
    async with gateway('share = true\nmax_entry = "100B"') as client:
        asked = [asyncio.create_task(client.ask(model="staged")) for _ in range(3)]
        await client.stage.calls(1)
        await waiting(sharing_of(client), 2)
        client.stage.acts[0].set_result("x" * 1000)
        answers = await asyncio.gather(*asked)
        assert len(client.stage.acts) == 1
    assert sorted(str(one.cache) for one in answers) == ["hit", "hit", "miss"]


async def test_only_if_cached_does_not_wait(gateway: Gateway) -> None:
    async with gateway(SHARE) as client:
        first = asyncio.create_task(client.ask(model="staged"))
        await client.stage.calls(1)
        assert (await client.ask("only-if-cached", model="staged")).status == 504
        client.stage.acts[0].set_result("Good.")
        assert (await first).status == 200


# --- by itself -----------------------------------------------------------------------------------------------------


async def test_after_failures_more_and_more_take_over_but_never_all() -> None:
    sharing = Sharing(60)
    first = a_call()
    assert await sharing.join(KEY, first) is None
    calls = [a_call() for _ in range(20)]
    tasks = [asyncio.create_task(sharing.join(KEY, call)) for call in calls]
    await waiting(sharing, 20)
    leading: Sequence[Call] = [first]
    waves = []
    while leading:
        waves.append(len(leading))
        for call in leading:
            sharing.finished(call, OVER)
        leading = [call for call in calls if call.id in sharing._led]
    assert waves == [1, 1, 2, 4, 8, 5]
    assert await asyncio.gather(*tasks) == [None] * 20
    assert sharing._flights == {}


async def test_who_was_to_take_over_and_leaves_at_that_moment_hands_on() -> None:
    sharing, first, second, third = Sharing(60), a_call(), a_call(), a_call()
    assert await sharing.join(KEY, first) is None
    heir = asyncio.create_task(sharing.join(KEY, second))
    last = asyncio.create_task(sharing.join(KEY, third))
    await waiting(sharing, 2)
    sharing.finished(first, OVER)
    heir.cancel()
    await asyncio.wait([heir])
    assert not last.done()
    sharing.finished(second, OVER)
    assert await last is None
    sharing.finished(third, OVER)
    assert is_idle(sharing)


async def test_a_leader_of_before_does_not_disturb_the_next_flight() -> None:
    sharing, first, second = Sharing(60), a_call(), a_call()
    assert await sharing.join(KEY, first) is None
    sharing.land(KEY, ENTRY)
    assert await sharing.join(KEY, second) is None
    waiter = asyncio.create_task(sharing.join(KEY, a_call()))
    await waiting(sharing, 1)
    sharing.finished(first, OVER)
    assert len(sharing._flights) == 1
    assert not waiter.done()
    sharing.land(KEY, ENTRY)
    assert await waiter is ENTRY


@given(st.integers(0, 2**32), st.integers(1, 12), st.floats(0, 1), st.floats(0, 0.5))
def test_whatever_happens_everybody_ends_and_nothing_is_left(seed: int, count: int, good: float, leaves: float) -> None:
    async def one(sharing: Sharing, chance: random.Random, got: list[object]) -> None:
        call = a_call()
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            entry = await sharing.join(KEY, call)
            got.append(entry)
            if entry is None:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                if chance.random() < good:
                    sharing.land(KEY, ENTRY)
        finally:
            sharing.finished(call, OVER)

    async def run() -> None:
        chance, sharing = random.Random(seed), Sharing(60)
        got: list[object] = []
        tasks = [asyncio.create_task(one(sharing, chance, got)) for _ in range(count)]
        gone = 0
        for task in tasks:
            if chance.random() < leaves:
                await asyncio.sleep(0)
                gone += task.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait(tasks)
        assert len(got) >= count - gone
        assert is_idle(sharing)

    asyncio.run(run())
