"""What is damaged, breaks or ends: who is told, what is tried again, and when."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gatehook_plugins.vendor_gguf.failures import EngineFailed, Failures, Refusal

Make = Callable[..., Any]


@pytest.mark.parametrize("exact", [None, True, False])
async def test_what_is_damaged_makes_nothing_leave(world: Make, spec_of: Make, exact: bool | None) -> None:
    here = world(max_concurrent_models=1)
    here.manager.release(await here.manager.acquire(spec_of("a")))
    damaged = spec_of("b", fault="was cut")
    for _ in range(2):  # the second time, because it was refused a moment ago
        with pytest.raises(Refusal, match="the model 'b' cannot be loaded: it was cut") as caught:
            await (here.manager.acquire(damaged) if exact is None else here.manager.load(damaged, exact=exact))
        assert (caught.value.code, bool(caught.value.retry_after)) == ("model_load_failed", True)
    assert here.manager.failures["b"] == (1 if exact is None else 2)
    assert (here.loads(), here.status()) == (["a"], {"a": "loaded", "b": "failed"})
    await here.manager.acquire(msgspec.structs.replace(damaged, fault="", size=2))
    assert here.status() == {"b": "loaded"}


async def test_another_quantization_that_is_damaged_leaves_the_one_that_is_loaded(world: Make, spec_of: Make) -> None:
    here = world()
    here.manager.release(await here.manager.acquire(spec_of("a")))
    with pytest.raises(Refusal):
        await here.manager.load(spec_of("a", "other.gguf", fault="was cut"))
    assert (here.loads(), here.stopped) == (["a"], [])
    here.manager.release(await here.manager.acquire(spec_of("a")))
    assert here.loads() == ["a"]


async def test_a_crash_is_begun_again_at_once_and_then_each_time_later(world: Make, spec_of: Make) -> None:
    here = world()
    for number in (1, 2):
        resident = await here.manager.acquire(spec_of("a"))
        here.started[-1].crash()
        await resident.ended.wait()
        here.manager.release(resident)  # a lease outlives its model
        assert len(here.started) == number
    with pytest.raises(Refusal, match="has failed: it ended by signal SIGABRT: GGML_ASSERT") as refused:
        await here.manager.acquire(spec_of("a"))
    assert (refused.value.code, refused.value.retry_after) == ("engine_crashed", 1.0)
    assert here.status() == {"a": "failed"}
    await here.manager.load(spec_of("a"))  # who asks by hand is not kept waiting


async def test_what_cannot_be_loaded_is_refused_to_all_and_left_alone_until_it_changes(
    world: Make, spec_of: Make
) -> None:
    here = world()
    here.broken.add("a")
    answers = await asyncio.gather(*(here.manager.acquire(spec_of("a")) for _ in range(3)), return_exceptions=True)
    assert [getattr(one, "code", one) for one in answers] == ["model_load_failed"] * 3
    with pytest.raises(Refusal, match="cannot be loaded: it is broken"):
        await here.manager.acquire(spec_of("a"))
    assert here.loads() == ["a"]
    here.broken.clear()
    await here.manager.acquire(spec_of("a", "another file"))


async def test_closing_tells_those_who_wait_and_ends_what_runs(world: Make, spec_of: Make) -> None:
    here = world(slow=True, max_concurrent_models=1)
    waiting = [asyncio.create_task(here.manager.acquire(spec_of(name))) for name in "ab"]
    await here.begun(1)
    await here.manager.close()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [getattr(one, "code", one) for one in answers] == ["service_unavailable"] * 2
    with pytest.raises(Refusal):
        await here.manager.acquire(spec_of("c"))


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("failed to open '/srv/a b/m.gguf': No such file", "failed to open 'm.gguf': No such file"),
        ("fault in /opt/x.y/lib.so+0x1 | ~/z/t.py:7", "fault in lib.so+0x1 | t.py:7"),
        ("see https://example.com/help/me, 3/4 or 3 / 4", "see https://example.com/help/me, 3/4 or 3 / 4"),
    ],
)
def test_what_a_failure_tells_has_names_of_files_and_no_folders(spec_of: Make, reason: str, told: str) -> None:
    failure = Failures().note(spec_of("m", "/srv/a b/m.gguf"), EngineFailed(reason), 0.0)
    assert failure.refusal(0.0).message == f"the model 'm' cannot be loaded: it {told}"
