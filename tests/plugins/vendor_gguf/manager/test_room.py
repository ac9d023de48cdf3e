"""What is loaded, what goes, who waits: decided so that nobody's request is dropped and no limit is broken."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from gatehook_plugins.vendor_gguf.failures import Refusal
from gatehook_plugins.vendor_gguf.messages import Spec

Make = Callable[..., Any]


async def test_one_load_serves_all_who_wait(world: Make, spec_of: Make) -> None:
    here = world(slow=True)
    waiting = [asyncio.create_task(here.manager.acquire(spec_of("a"))) for _ in range(5)]
    engine = await here.begun(1)
    await here.tick()
    assert here.status() == {"a": "loading"}
    engine.loaded.set()
    residents = await asyncio.gather(*waiting)
    assert here.loads() == ["a"]
    assert residents[0].leases == 5


async def test_a_waiter_that_left_starts_no_load(world: Make, spec_of: Make) -> None:
    here = world(max_concurrent_models=1)
    busy = await here.manager.acquire(spec_of("a"))
    gone, stays = (asyncio.create_task(here.manager.acquire(spec_of(name))) for name in ("b", "c"))
    await here.tick()
    gone.cancel()
    await here.tick()
    here.manager.release(busy)
    await stays
    assert here.loads() == ["a", "c"]
    assert here.status() == {"c": "loaded"}


async def test_a_lease_that_comes_as_its_waiter_leaves_is_given_back(world: Make, spec_of: Make) -> None:
    here = world(slow=True)
    waiting = asyncio.create_task(here.manager.acquire(spec_of("a")))
    engine = await here.begun(1)
    await here.tick()
    engine.loaded.set()
    resident = here.manager._residents["a"]
    await here.until(lambda: resident.leases > 0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        here.manager.release(await waiting)
    assert resident.leases == 0


async def test_the_least_recently_used_idle_model_goes_and_a_busy_one_stays(world: Make, spec_of: Make) -> None:
    here = world(max_concurrent_models=3)
    a, b, c = [await here.manager.acquire(spec_of(name)) for name in "abc"]
    here.manager.release(b)
    await asyncio.sleep(0.001)
    here.manager.release(c)
    d = await here.manager.acquire(spec_of("d"))
    assert [one.name for one in here.stopped] == ["b"]
    assert here.status() == {"a": "loaded", "c": "loaded", "d": "loaded"}
    assert (a.leases, d.leases) == (1, 1)


async def test_memory_makes_as_many_go_as_are_needed_and_none_in_vain(world: Make, spec_of: Make) -> None:
    here = world(max_concurrent_models=9, memory_limit=10)
    for name in "abc":
        here.manager.release(await here.manager.acquire(spec_of(name, need=3)))
    held = await here.manager.acquire(spec_of("a", need=3))
    here.manager.release(await here.manager.acquire(spec_of("d", need=6)))
    assert [one.name for one in here.stopped] == ["b", "c"]
    waiting = asyncio.create_task(here.manager.acquire(spec_of("e", need=9)))
    await here.tick()
    assert len(here.stopped) == 2, "a is busy: the going of d alone would not be enough"
    here.manager.release(held)
    await waiting


async def test_who_finds_no_room_is_told_when_to_come_again(world: Make, spec_of: Make) -> None:
    here = world(max_concurrent_models=1, queue_timeout=0.02)
    busy = await here.manager.acquire(spec_of("a"))
    with pytest.raises(Refusal, match=r"no room for the model 'b' within 0.02 s \(queue_timeout\); busy or pinned: a"):
        await here.manager.acquire(spec_of("b"))
    assert here.status() == {"a": "loaded"}
    here.manager.release(busy)
    assert here.loads() == ["a"]


async def test_what_is_larger_than_the_limit_is_refused_at_once_with_both_numbers(world: Make, spec_of: Make) -> None:
    here = world(memory_limit=2 * 10**9)
    with pytest.raises(Refusal, match=r"needs 3.5 GB of memory, and memory_limit is 2.0 GB;") as refused:
        await here.manager.acquire(spec_of("a", need=3_500_000_000))
    assert refused.value.code == "model_too_large"
    assert here.loads() == []


async def test_a_closer_look_decides_where_the_estimate_would_refuse(world: Make, spec_of: Make) -> None:
    here = world(memory_limit=10, measured=8)
    here.manager.release(await here.manager.acquire(spec_of("a", need=12)))
    assert here.manager.memory == 8
    await here.manager.acquire(spec_of("a", need=12))
    assert [one.name for one in here.looked_at] == ["a"]


async def test_a_model_that_is_always_busy_makes_room_for_one_that_waits(world: Make, spec_of: Make) -> None:
    here = world(max_concurrent_models=1, switch_after=0.01)
    busy = await here.manager.acquire(spec_of("a"))
    other = asyncio.create_task(here.manager.acquire(spec_of("b")))
    await here.until(lambda: busy.leaving)
    again = asyncio.create_task(here.manager.acquire(spec_of("a")))
    await here.tick()
    assert not other.done()
    assert here.stopped == [], "it still answers"
    here.manager.release(busy)
    here.manager.release(await other)
    await again
    assert here.loads() == ["a", "b", "a"]


async def test_a_crowd_that_wants_one_model_has_it_looked_at_once(world: Make, spec_of: Make) -> None:
    here = world(memory_limit=10)
    looked, known = [], asyncio.Event()

    async def measure(spec: Spec) -> int:
        looked.append(spec)
        await known.wait()
        return 8

    here.manager._measure = measure
    asked = [asyncio.create_task(here.manager.acquire(spec_of("a", need=11))) for _ in range(20)]
    await here.tick()
    known.set()
    for waiting in asked:
        here.manager.release(await waiting)
    assert len(looked) == 1


async def test_where_all_places_are_pinned_the_others_are_refused_at_once(world: Make, spec_of: Make) -> None:
    here = world(pinned=(spec_of("p"), spec_of("q")))
    await here.until(lambda: here.status() == {"p": "loaded", "q": "loaded"})
    with pytest.raises(Refusal, match=r"all 2 that may be loaded \(max_concurrent_models\) are pinned"):
        await here.manager.acquire(spec_of("a"))


async def test_an_idle_model_goes_after_its_time(world: Make, spec_of: Make) -> None:
    here = world(idle_ttl=0.02)
    resident = await here.manager.acquire(spec_of("a"))
    await asyncio.sleep(0.05)
    assert here.status() == {"a": "loaded"}
    here.manager.release(resident)
    await asyncio.wait_for(resident.ended.wait(), 5)
    assert here.status() == {}


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_nobody_is_lost_and_no_limit_is_broken(world: Make, spec_of: Make, seed: int) -> None:
    """Requests of random models that come, wait, leave and end; loads, unloads and crashes between them."""
    dice = random.Random(seed)
    here = world(max_concurrent_models=2, memory_limit=10, switch_after=0.001, queue_timeout=30, idle_ttl=0.01)
    names = ["a", "b", "c", "d", "e"]
    needs = dict(zip(names, (3, 4, 5, 6, 10), strict=True))
    served: list[str] = []

    async def request(name: str) -> None:
        await asyncio.sleep(dice.random() * 0.05)
        while True:
            try:
                resident = await here.manager.acquire(spec_of(name, need=needs[name]))
            except Refusal as refusal:
                if refusal.code not in ("engine_crashed", "model_load_failed"):  # stopped while it was being loaded
                    raise
                await asyncio.sleep(0.01)
                here.manager._failures.forget(name)
                continue
            try:
                assert resident.spec.name == name
                await asyncio.sleep(dice.random() * 0.003)
                ended = resident.engine.ended
                assert not ended.done() or ended.exception(), "nobody stops a model that answers"
            finally:
                here.manager.release(resident)
            served.append(name)
            return

    async def meddle() -> None:
        for _ in range(15):
            await asyncio.sleep(dice.random() * 0.005)
            match dice.randrange(3):
                case 0:
                    await here.manager.unload(dice.choice(names))
                case 1 if alive := [one for one in here.living if one.loaded.is_set() and not one.ended.done()]:
                    dice.choice(alive).crash()
                case _:
                    with contextlib.suppress(Refusal):
                        name = dice.choice(names)
                        await here.manager.load(spec_of(name, need=needs[name]))

    tasks = [asyncio.create_task(request(dice.choice(names))) for _ in range(40)]
    leaving = [task for task in tasks if dice.random() < 0.2]
    for task in leaving:
        asyncio.get_running_loop().call_later(dice.random() * 0.05, task.cancel)
    await asyncio.wait_for(asyncio.gather(meddle(), *tasks, return_exceptions=True), 30)
    assert all(task.cancelled() or task.exception() is None for task in tasks)
    assert len(served) == sum(not task.cancelled() for task in tasks)
    assert not here.manager._wants
    assert all(one.leases == 0 for one in here.manager._residents.values())
