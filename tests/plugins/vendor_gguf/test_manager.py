"""What is loaded, what goes, who waits: decided so that nobody's request is dropped and no limit is broken."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest

from gatehook_plugins.vendor_gguf.failures import EngineFailed, Refusal
from gatehook_plugins.vendor_gguf.manager import Manager
from gatehook_plugins.vendor_gguf.messages import Rules, Spec
from gatehook_plugins.vendor_gguf.resident import Resident

Make = Callable[..., Spec]
Report = Callable[[float], None]


class Engine:
    """A process as the manager sees it: loaded and ended when the test says so, or at once."""

    socket, memory, context = "", None, 0

    def __init__(self, spec: Spec, world: "World") -> None:
        self.spec = spec
        self.world = world
        self.loaded = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not world.slow:
            self.loaded.set()

    async def begin(self, progress: Report, timeout: float) -> None:
        self.world.living.append(self)
        self.world.check()
        progress(0.5)
        self.ended.add_done_callback(lambda _: self.loaded.set())
        await self.loaded.wait()
        if self.spec.name in self.world.broken:
            self.world.living.remove(self)
            raise EngineFailed("is broken")
        if self.ended.done():
            self.world.living.remove(self)
            self.ended.exception()
            raise EngineFailed("was stopped")

    async def wait(self) -> None:
        try:
            await self.ended
            await asyncio.sleep(0)  # a process takes a moment to end
        finally:
            self.world.living.remove(self)

    def stop(self) -> None:
        self.world.stopped.append(self.spec)
        if not self.ended.done():
            self.ended.set_result(None)

    def crash(self, served: float = 1.0) -> None:
        self.ended.set_exception(EngineFailed("ended by signal SIGABRT: GGML_ASSERT", served=served))


@dataclass
class World:
    """A manager, its processes, and the limits that must hold at every moment."""

    rules: Rules
    slow: bool = False
    measured: int | None = None
    broken: set[str] = field(default_factory=set)
    started: list[Engine] = field(default_factory=list)
    living: list[Engine] = field(default_factory=list)
    stopped: list[Spec] = field(default_factory=list)
    looked_at: list[Spec] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manager = Manager(self._start, self._measure)
        self.manager.adopt(self.rules)

    def _start(self, spec: Spec) -> Engine:
        self.started.append(Engine(spec, self))
        return self.started[-1]

    async def _measure(self, spec: Spec) -> int | None:
        self.looked_at.append(spec)
        return self.measured

    def check(self) -> None:
        assert len(self.living) <= self.rules.max_concurrent_models
        assert sum(one.spec.need for one in self.living) <= self.rules.memory_limit

    def loads(self) -> list[str]:
        return [one.spec.name for one in self.started]

    def status(self) -> dict[str, str]:
        return {state.name: state.status for state in self.manager.states()}


@pytest.fixture
async def world() -> AsyncIterator[Callable[..., World]]:
    made: list[World] = []

    def make(*, slow: bool = False, measured: int | None = None, **rules: Any) -> World:
        usual: dict[str, Any] = {"stamp": 1.0, "switch_after": 60.0, "max_concurrent_models": 2}
        made.append(World(Rules(**(usual | rules)), slow=slow, measured=measured))
        return made[-1]

    yield make
    for one in made:
        await one.manager.close()
        assert one.living == []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0)


async def started(world: World, count: int) -> Engine:
    """The engine that is begun as the `count`-th."""
    await until(lambda: len(world.started) >= count)
    return world.started[count - 1]


async def tick() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_load_serves_all_who_wait(world: Callable[..., World], spec_of: Make) -> None:
    here = world(slow=True)
    waiting = [asyncio.create_task(here.manager.acquire(spec_of("a"))) for _ in range(5)]
    engine = await started(here, 1)
    await tick()
    assert here.status() == {"a": "loading"}
    engine.loaded.set()
    residents = await asyncio.gather(*waiting)
    assert here.loads() == ["a"]
    assert residents[0].leases == 5


@pytest.mark.parametrize("exact", [None, True, False])
async def test_what_is_damaged_makes_nothing_leave(
    world: Callable[..., World], spec_of: Make, exact: bool | None
) -> None:
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


async def test_another_quantization_that_is_damaged_leaves_the_one_that_is_loaded(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world()
    here.manager.release(await here.manager.acquire(spec_of("a")))
    with pytest.raises(Refusal):
        await here.manager.load(spec_of("a", "other.gguf", fault="was cut"))
    assert (here.loads(), here.stopped) == (["a"], [])
    here.manager.release(await here.manager.acquire(spec_of("a")))
    assert here.loads() == ["a"]


async def test_a_waiter_that_left_starts_no_load(world: Callable[..., World], spec_of: Make) -> None:
    here = world(max_concurrent_models=1)
    busy = await here.manager.acquire(spec_of("a"))
    gone, stays = (asyncio.create_task(here.manager.acquire(spec_of(name))) for name in ("b", "c"))
    await tick()
    gone.cancel()
    await tick()
    here.manager.release(busy)
    await stays
    assert here.loads() == ["a", "c"]
    assert here.status() == {"c": "loaded"}


async def test_a_lease_that_comes_as_its_waiter_leaves_is_given_back(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(slow=True)
    waiting = asyncio.create_task(here.manager.acquire(spec_of("a")))
    engine = await started(here, 1)
    await tick()
    engine.loaded.set()
    resident = here.manager._residents["a"]
    await until(lambda: resident.leases > 0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        here.manager.release(await waiting)
    assert resident.leases == 0


async def test_the_least_recently_used_idle_model_goes_and_a_busy_one_stays(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(max_concurrent_models=3)
    a, b, c = [await here.manager.acquire(spec_of(name)) for name in "abc"]
    here.manager.release(b)
    await asyncio.sleep(0.001)
    here.manager.release(c)
    d = await here.manager.acquire(spec_of("d"))
    assert [one.name for one in here.stopped] == ["b"]
    assert here.status() == {"a": "loaded", "c": "loaded", "d": "loaded"}
    assert (a.leases, d.leases) == (1, 1)


async def test_memory_makes_as_many_go_as_are_needed_and_none_in_vain(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(max_concurrent_models=9, memory_limit=10)
    for name in "abc":
        here.manager.release(await here.manager.acquire(spec_of(name, need=3)))
    held = await here.manager.acquire(spec_of("a", need=3))
    here.manager.release(await here.manager.acquire(spec_of("d", need=6)))
    assert [one.name for one in here.stopped] == ["b", "c"]
    waiting = asyncio.create_task(here.manager.acquire(spec_of("e", need=9)))
    await tick()
    assert len(here.stopped) == 2, "a is busy: the going of d alone would not be enough"
    here.manager.release(held)
    await waiting


async def test_who_finds_no_room_is_told_when_to_come_again(world: Callable[..., World], spec_of: Make) -> None:
    here = world(max_concurrent_models=1, queue_timeout=0.02)
    busy = await here.manager.acquire(spec_of("a"))
    with pytest.raises(Refusal, match=r"no room for the model 'b' within 0.02 s \(queue_timeout\); busy or pinned: a"):
        await here.manager.acquire(spec_of("b"))
    assert here.status() == {"a": "loaded"}
    here.manager.release(busy)
    assert here.loads() == ["a"]


async def test_what_is_larger_than_the_limit_is_refused_at_once_with_both_numbers(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(memory_limit=2 * 10**9)
    with pytest.raises(Refusal, match=r"needs 3.5 GB of memory, and memory_limit is 2.0 GB;") as refused:
        await here.manager.acquire(spec_of("a", need=3_500_000_000))
    assert refused.value.code == "model_too_large"
    assert here.loads() == []


async def test_a_closer_look_decides_where_the_estimate_would_refuse(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(memory_limit=10, measured=8)
    here.manager.release(await here.manager.acquire(spec_of("a", need=12)))
    assert here.manager.memory == 8
    await here.manager.acquire(spec_of("a", need=12))
    assert [one.name for one in here.looked_at] == ["a"]


async def test_a_model_that_is_always_busy_makes_room_for_one_that_waits(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(max_concurrent_models=1, switch_after=0.01)
    busy = await here.manager.acquire(spec_of("a"))
    other = asyncio.create_task(here.manager.acquire(spec_of("b")))
    await until(lambda: busy.leaving)
    again = asyncio.create_task(here.manager.acquire(spec_of("a")))
    await tick()
    assert not other.done()
    assert here.stopped == [], "it still answers"
    here.manager.release(busy)
    here.manager.release(await other)
    await again
    assert here.loads() == ["a", "b", "a"]


async def test_pinned_models_are_loaded_at_once_and_make_no_room(world: Callable[..., World], spec_of: Make) -> None:
    here = world(pinned=(spec_of("p", need=4),), max_concurrent_models=2, memory_limit=10)
    await until(lambda: here.status() == {"p": "loaded"})
    for name in "abc":
        here.manager.release(await here.manager.acquire(spec_of(name)))
    assert "p" not in [one.name for one in here.stopped]
    with pytest.raises(Refusal, match=r"needs 0.0 MB of memory, .* of which pinned models take 0.0 MB"):
        await here.manager.acquire(spec_of("d", need=7))


async def test_a_pinned_model_that_crashes_is_loaded_again(world: Callable[..., World], spec_of: Make) -> None:
    here = world(pinned=(spec_of("p"),))
    engine = await started(here, 1)
    await tick()
    engine.crash()
    await started(here, 2)
    await tick()
    assert here.status()["p"] == "loaded"
    await here.manager.unload("p")
    await tick()
    assert here.loads() == ["p", "p"], "who unloads it by hand means it"


async def test_a_model_that_is_pinned_twice_is_unloaded_by_hand_like_any(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(pinned=(spec_of("p"), spec_of("p")))
    await until(lambda: here.status() == {"p": "loaded"})
    await here.manager.unload("p")
    await tick()
    assert here.loads() == ["p"]


async def test_a_crowd_that_wants_one_model_has_it_looked_at_once(world: Callable[..., World], spec_of: Make) -> None:
    here = world(memory_limit=10)
    looked, known = [], asyncio.Event()

    async def measure(spec: Spec) -> int:
        looked.append(spec)
        await known.wait()
        return 8

    here.manager._measure = measure
    asked = [asyncio.create_task(here.manager.acquire(spec_of("a", need=11))) for _ in range(20)]
    await tick()
    known.set()
    for waiting in asked:
        here.manager.release(await waiting)
    assert len(looked) == 1


async def test_where_all_places_are_pinned_the_others_are_refused_at_once(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(pinned=(spec_of("p"), spec_of("q")))
    await until(lambda: here.status() == {"p": "loaded", "q": "loaded"})
    with pytest.raises(Refusal, match=r"all 2 that may be loaded \(max_concurrent_models\) are pinned"):
        await here.manager.acquire(spec_of("a"))


async def test_an_idle_model_goes_after_its_time(world: Callable[..., World], spec_of: Make) -> None:
    here = world(idle_ttl=0.02)
    resident = await here.manager.acquire(spec_of("a"))
    await asyncio.sleep(0.05)
    assert here.status() == {"a": "loaded"}
    here.manager.release(resident)
    await asyncio.wait_for(resident.ended.wait(), 5)
    assert here.status() == {}


async def test_without_auto_load_only_load_loads(world: Callable[..., World], spec_of: Make) -> None:
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
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world()
    resident = await here.manager.acquire(spec_of("a"))
    unloading = asyncio.create_task(here.manager.unload("a"))
    later = asyncio.create_task(here.manager.acquire(spec_of("a")))
    await tick()
    assert not unloading.done()
    here.manager.release(resident)
    await unloading
    await later
    assert here.loads() == ["a", "a"]
    await here.manager.unload("unknown")


async def test_another_quantization_takes_the_place_of_the_loaded_one_when_it_is_idle(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(max_concurrent_models=1)
    usual, other = spec_of("a", "a-Q8_0.gguf"), spec_of("a", "a-Q4_0.gguf")
    resident = await here.manager.acquire(usual)
    loading = asyncio.create_task(here.manager.load(other))
    waiting = asyncio.create_task(here.manager.acquire(usual))
    await tick()
    assert not loading.done()
    here.manager.release(resident)
    await loading
    assert (await waiting).spec == other, "requests take what is loaded"
    await here.manager.load(usual, exact=False)
    assert [one.spec.options.path for one in here.started] == ["a-Q8_0.gguf", "a-Q4_0.gguf"]


async def test_what_was_chosen_comes_back_after_it_made_room_until_it_is_unloaded_or_resettled(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(max_concurrent_models=1)
    usual, chosen, other = spec_of("a", "a-Q8_0.gguf"), spec_of("a", "a-Q4_0.gguf"), spec_of("b")
    await here.manager.load(chosen)
    here.manager.release(await here.manager.acquire(other))
    again = await here.manager.acquire(usual)
    assert again.spec == chosen
    here.manager.release(again)
    assert (await here.manager.acquire(resettled := spec_of("a", "c", origin="2", stamp=2.0))).spec == resettled
    await tick()


async def test_a_choice_ends_with_unload_and_with_what_cannot_be_loaded(
    world: Callable[..., World], spec_of: Make
) -> None:
    here = world(max_concurrent_models=1, memory_limit=10)
    usual, chosen = spec_of("a", "a-Q8_0.gguf"), spec_of("a", "a-Q4_0.gguf")
    await here.manager.load(chosen)
    await here.manager.unload("a")
    with pytest.raises(Refusal, match="needs"):
        await here.manager.load(spec_of("a", "a-F16.gguf", need=11))
    resident = await here.manager.acquire(usual)
    assert resident.spec == usual


async def test_newer_settings_replace_a_model_and_older_ones_do_not(world: Callable[..., World], spec_of: Make) -> None:
    here = world()
    old, new = spec_of("a", "x", origin="1", stamp=1.0), spec_of("a", "x", origin="2", stamp=2.0)
    here.manager.release(await here.manager.acquire(old))
    assert (await here.manager.acquire(new)).spec == new
    assert (await here.manager.acquire(old)).spec == new
    assert here.loads() == ["a", "a"]


async def test_older_rules_do_not_replace_newer_ones(world: Callable[..., World]) -> None:
    here = world(stamp=5.0)
    here.manager.adopt(Rules(stamp=4.0, max_concurrent_models=9))
    assert here.manager._rules.max_concurrent_models == 2
    here.manager.adopt(Rules(stamp=6.0, max_concurrent_models=9))
    assert here.manager._rules.max_concurrent_models == 9


async def test_a_crash_is_begun_again_at_once_and_then_each_time_later(
    world: Callable[..., World], spec_of: Make
) -> None:
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
    world: Callable[..., World], spec_of: Make
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


async def test_closing_tells_those_who_wait_and_ends_what_runs(world: Callable[..., World], spec_of: Make) -> None:
    here = world(slow=True, max_concurrent_models=1)
    waiting = [asyncio.create_task(here.manager.acquire(spec_of(name))) for name in "ab"]
    await started(here, 1)
    await here.manager.close()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [getattr(one, "code", one) for one in answers] == ["service_unavailable"] * 2
    with pytest.raises(Refusal):
        await here.manager.acquire(spec_of("c"))


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_nobody_is_lost_and_no_limit_is_broken(
    world: Callable[..., World], spec_of: Make, seed: int
) -> None:
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
                resident: Resident = await here.manager.acquire(spec_of(name, need=needs[name]))
            except Refusal as refusal:
                if refusal.code not in ("engine_crashed", "model_load_failed"):  # stopped while it was being loaded
                    raise
                await asyncio.sleep(0.01)
                here.manager._failures.forget(name)
                continue
            try:
                assert resident.spec.name == name
                await asyncio.sleep(dice.random() * 0.003)
                ended = cast("Engine", resident.engine).ended
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
