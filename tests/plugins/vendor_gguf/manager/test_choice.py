"""What the operator has chosen: pins, models loaded and unloaded by hand, quantizations, newer settings."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gatehook_plugins.vendor_gguf.failures import Refusal
from gatehook_plugins.vendor_gguf.messages import Rules

Make = Callable[..., Any]


async def test_pinned_models_are_loaded_at_once_and_make_no_room(world: Make, spec_of: Make) -> None:
    here = world(pinned=(spec_of("p", need=4),), max_concurrent_models=2, memory_limit=10)
    await here.until(lambda: here.status() == {"p": "loaded"})
    for name in "abc":
        here.manager.release(await here.manager.acquire(spec_of(name)))
    assert "p" not in [one.name for one in here.stopped]
    with pytest.raises(Refusal, match=r"needs 0.0 MB of memory, .* of which pinned models take 0.0 MB"):
        await here.manager.acquire(spec_of("d", need=7))


async def test_a_pinned_model_that_crashes_is_loaded_again(world: Make, spec_of: Make) -> None:
    here = world(pinned=(spec_of("p"),))
    engine = await here.begun(1)
    await here.tick()
    engine.crash()
    await here.begun(2)
    await here.tick()
    assert here.status()["p"] == "loaded"
    await here.manager.unload("p")
    await here.tick()
    assert here.loads() == ["p", "p"], "who unloads it by hand means it"


async def test_a_model_that_is_pinned_twice_is_unloaded_by_hand_like_any(world: Make, spec_of: Make) -> None:
    here = world(pinned=(spec_of("p"), spec_of("p")))
    await here.until(lambda: here.status() == {"p": "loaded"})
    await here.manager.unload("p")
    await here.tick()
    assert here.loads() == ["p"]


async def test_without_auto_load_only_load_loads(world: Make, spec_of: Make) -> None:
    here = world(auto_load=False, idle_ttl=0.01)
    with pytest.raises(Refusal, match="not loaded, and auto_load is off") as refused:
        await here.manager.acquire(spec_of("a"))
    assert refused.value.code == "model_not_loaded"
    await here.manager.load(spec_of("a"))
    await asyncio.sleep(0.03)
    here.manager.release(await here.manager.acquire(spec_of("a")))  # who loads it by hand means it to stay
    await here.manager.unload("a")
    with pytest.raises(Refusal):
        await here.manager.acquire(spec_of("a"))


async def test_unload_waits_for_requests_and_those_that_come_meanwhile_have_it_loaded_again(
    world: Make, spec_of: Make
) -> None:
    here = world()
    resident = await here.manager.acquire(spec_of("a"))
    unloading = asyncio.create_task(here.manager.unload("a"))
    later = asyncio.create_task(here.manager.acquire(spec_of("a")))
    await here.tick()
    assert not unloading.done()
    here.manager.release(resident)
    await unloading
    await later
    assert here.loads() == ["a", "a"]
    await here.manager.unload("unknown")


async def test_another_quantization_takes_the_place_of_the_loaded_one_when_it_is_idle(
    world: Make, spec_of: Make
) -> None:
    here = world(max_concurrent_models=1)
    usual, other = spec_of("a", "a-Q8_0.gguf"), spec_of("a", "a-Q4_0.gguf")
    resident = await here.manager.acquire(usual)
    loading = asyncio.create_task(here.manager.load(other))
    waiting = asyncio.create_task(here.manager.acquire(usual))
    await here.tick()
    assert not loading.done()
    here.manager.release(resident)
    await loading
    assert (await waiting).spec == other, "requests take what is loaded"
    await here.manager.load(usual, exact=False)
    assert [one.spec.options.path for one in here.started] == ["a-Q8_0.gguf", "a-Q4_0.gguf"]


async def test_what_was_chosen_comes_back_after_it_made_room_until_it_is_unloaded_or_resettled(
    world: Make, spec_of: Make
) -> None:
    here = world(max_concurrent_models=1)
    usual, chosen, other = spec_of("a", "a-Q8_0.gguf"), spec_of("a", "a-Q4_0.gguf"), spec_of("b")
    await here.manager.load(chosen)
    here.manager.release(await here.manager.acquire(other))
    again = await here.manager.acquire(usual)
    assert again.spec == chosen
    here.manager.release(again)
    assert (await here.manager.acquire(resettled := spec_of("a", "c", origin="2", stamp=2.0))).spec == resettled
    await here.tick()


async def test_a_choice_ends_with_unload_and_with_what_cannot_be_loaded(world: Make, spec_of: Make) -> None:
    here = world(max_concurrent_models=1, memory_limit=10)
    usual, chosen = spec_of("a", "a-Q8_0.gguf"), spec_of("a", "a-Q4_0.gguf")
    await here.manager.load(chosen)
    await here.manager.unload("a")
    with pytest.raises(Refusal, match="needs"):
        await here.manager.load(spec_of("a", "a-F16.gguf", need=11))
    resident = await here.manager.acquire(usual)
    assert resident.spec == usual


async def test_newer_settings_replace_a_model_and_older_ones_do_not(world: Make, spec_of: Make) -> None:
    here = world()
    old, new = spec_of("a", "x", origin="1", stamp=1.0), spec_of("a", "x", origin="2", stamp=2.0)
    here.manager.release(await here.manager.acquire(old))
    assert (await here.manager.acquire(new)).spec == new
    assert (await here.manager.acquire(old)).spec == new
    assert here.loads() == ["a", "a"]


async def test_older_rules_do_not_replace_newer_ones(world: Make) -> None:
    here = world(stamp=5.0)
    here.manager.adopt(Rules(stamp=4.0, max_concurrent_models=9))
    assert here.manager._rules.max_concurrent_models == 2
    here.manager.adopt(Rules(stamp=6.0, max_concurrent_models=9))
    assert here.manager._rules.max_concurrent_models == 9
