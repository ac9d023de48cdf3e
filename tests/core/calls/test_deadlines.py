"""Time limits: met a little late and never early, and never mistaken for a cancellation from outside."""

import asyncio
import time
from collections.abc import Callable

import pytest

from gatehook.calls import deadlines as module
from gatehook.calls.deadlines import Deadlines, Limit, Watch
from gatehook.errors import UpstreamTimeout

TICK = 0.02


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TICK", TICK)


def late(text: str = "late") -> Callable[[], Exception]:
    return lambda: UpstreamTimeout(text)


async def forever() -> None:
    await asyncio.Event().wait()


async def settled(deadlines: Deadlines) -> bool:
    """Whether nothing is looked at any more, and no timer runs, a moment after the last block was left."""
    for _ in range(200):
        if deadlines.timer is None and not deadlines.watches:
            return True
        await asyncio.sleep(TICK / 4)
    return False


async def test_expiry_raises_what_was_armed() -> None:
    deadlines = Deadlines()
    with pytest.raises(UpstreamTimeout, match="no answer") as caught, deadlines.watch().arm(0.01, late("no answer")):
        await forever()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0  # the task can go on as if nothing had happened
    await asyncio.sleep(0)
    assert await settled(deadlines)


async def test_each_expiry_raises_an_error_of_its_own() -> None:
    deadlines = Deadlines()
    errors = []
    for _ in range(2):
        with pytest.raises(UpstreamTimeout) as caught, deadlines.watch().arm(0, late()):
            await forever()
        errors.append(caught.value)
    assert errors[0] is not errors[1]


async def test_the_error_is_never_early_and_at_most_a_tick_late() -> None:
    deadlines = Deadlines()

    async def took(seconds: float) -> float:
        start = time.monotonic()
        with pytest.raises(UpstreamTimeout), deadlines.watch().arm(seconds, late()):
            await forever()
        return time.monotonic() - start

    limits = [0.0, 0.001, 0.019, 0.02, 0.021, 0.05, 0.1, 0.15]
    for limit, seconds in zip(limits, await asyncio.gather(*map(took, limits)), strict=True):
        assert limit <= seconds < limit + TICK + 0.5  # the rest is the machine's


async def test_until_ends_the_wait_before_its_seconds_are_over() -> None:
    deadlines = Deadlines()
    start = time.monotonic()
    watch = deadlines.watch()
    with pytest.raises(UpstreamTimeout), watch.arm(60, late(), until=watch.now() + 0.03):
        await forever()
    assert 0.03 <= time.monotonic() - start < 10


async def test_a_block_that_ends_in_time_is_left_in_peace() -> None:
    deadlines = Deadlines()
    with deadlines.watch().arm(0.03, late()):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.08)  # the limit passes outside the block
    assert await settled(deadlines)


async def test_an_unarmed_watch_never_expires() -> None:
    with Deadlines().watch():
        await asyncio.sleep(TICK * 4)


async def test_arming_anew_begins_the_time_anew() -> None:
    deadlines = Deadlines()

    async def work() -> None:
        with deadlines.watch() as watch:
            for _ in range(4):  # together longer than one wait may last
                watch.arm(0.2, late("first"))
                await asyncio.sleep(0.08)
            watch.arm(0.01, late("second"))
            await forever()

    with pytest.raises(UpstreamTimeout, match="second"):
        await work()


async def test_one_watch_serves_one_block_after_another() -> None:
    deadlines = Deadlines()
    watch = deadlines.watch()
    for text in ("one", "two"):
        with pytest.raises(UpstreamTimeout, match=text), watch.arm(0.01, late(text)):
            await forever()
        with watch:  # what was armed for the last block is forgotten
            await asyncio.sleep(TICK * 3)
        with watch.arm(10, late("never")):
            await asyncio.sleep(0)
    assert await settled(deadlines)


async def test_an_error_of_the_block_itself_passes() -> None:
    deadlines = Deadlines()
    with pytest.raises(KeyError), deadlines.watch().arm(10, late()):
        raise KeyError
    assert await settled(deadlines)


async def test_an_error_the_block_makes_of_the_expiry_passes() -> None:
    async def translating() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise KeyError from None

    deadlines = Deadlines()
    with pytest.raises(KeyError), deadlines.watch().arm(0.01, late()):
        await translating()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_cancellation_from_outside_passes_through() -> None:
    deadlines = Deadlines()
    entered = asyncio.Event()

    async def work() -> None:
        with deadlines.watch().arm(10, late()):
            entered.set()
            await forever()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert await settled(deadlines)


@pytest.mark.parametrize("outside_first", [True, False])
async def test_a_cancellation_from_outside_in_the_same_moment_wins(outside_first: bool) -> None:
    deadlines = Deadlines()
    entered: asyncio.Future[Watch] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        with deadlines.watch().arm(10, late()) as watch:
            entered.set_result(watch)
            await forever()

    task = asyncio.create_task(work())
    watch = await entered
    if outside_first:
        task.cancel()
    watch.expire()
    if not outside_first:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_expiring_after_the_block_does_nothing() -> None:
    with Deadlines().watch().arm(10, late()) as watch:
        pass
    watch.expire()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("inner", "outer", "raised"), [(0.01, 10, "inner"), (10, 0.01, "outer"), (0.01, 0.01, "outer")]
)
async def test_nested_watches_raise_the_error_of_the_one_that_expired(inner: float, outer: float, raised: str) -> None:
    deadlines = Deadlines()
    with pytest.raises(UpstreamTimeout, match=raised), deadlines.watch().arm(outer, late("outer")):  # noqa: SIM117
        with deadlines.watch().arm(inner, late("inner")):
            await forever()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await settled(deadlines)


async def test_after_an_inner_expiry_the_outer_block_goes_on() -> None:
    deadlines = Deadlines()
    with deadlines.watch().arm(10, late("outer")):
        with pytest.raises(UpstreamTimeout, match="inner"), deadlines.watch().arm(0.01, late("inner")):
            await forever()
        await asyncio.sleep(TICK)


async def test_it_works_inside_asyncios_own_timeout_and_round_it() -> None:
    deadlines = Deadlines()

    async def work(seconds: float, ours: float, inner: float) -> None:
        async with asyncio.timeout(seconds):
            with deadlines.watch().arm(ours, late()):
                async with asyncio.timeout(inner):
                    await forever()

    with pytest.raises(TimeoutError):
        await work(0.01, 10, 10)
    with pytest.raises(UpstreamTimeout):
        await work(10, 0.01, 10)
    with pytest.raises(TimeoutError):
        await work(10, 10, 0.01)


async def test_many_watches_expire_each_in_its_own_task() -> None:
    deadlines = Deadlines()

    async def work(number: int) -> int:
        try:
            with deadlines.watch().arm(0.01 if number % 2 else 10, late(str(number))):
                await (forever() if number % 2 else asyncio.sleep(0.05))
        except UpstreamTimeout as error:
            return -int(error.message)
        return number

    assert await asyncio.gather(*map(work, range(200))) == [-n if n % 2 else n for n in range(200)]
    assert await settled(deadlines)


async def test_there_is_one_timer_for_all_and_none_when_idle() -> None:
    deadlines = Deadlines()
    assert deadlines.timer is None

    async def work() -> None:
        with deadlines.watch().arm(10, late()):
            await asyncio.sleep(TICK * 2)

    tasks = [asyncio.create_task(work()) for _ in range(50)]
    await asyncio.sleep(0)
    timer = deadlines.timer
    assert timer is not None
    scheduled = asyncio.get_running_loop()._scheduled
    assert sum(handle._callback == deadlines._look for handle in scheduled) == 1
    await asyncio.gather(*tasks)
    assert await settled(deadlines)
    with deadlines.watch().arm(10, late()):
        assert deadlines.timer is not None
    assert await settled(deadlines)


async def test_a_limit_set_again_and_again_counts_from_the_last_time() -> None:
    deadlines = Deadlines()

    async def work() -> None:
        limit = Limit(0.2, late("silence"))
        with deadlines.watch() as watch:
            for _ in range(4):  # together longer than one wait may last
                watch.limit = limit
                await asyncio.sleep(0.08)
            start = time.monotonic()
            watch.limit = limit
            try:
                await forever()
            finally:
                assert time.monotonic() - start >= 0.2  # never early

    with pytest.raises(UpstreamTimeout, match="silence"):
        await work()
    assert await settled(deadlines)


async def test_a_limit_set_again_ends_at_until() -> None:
    deadlines = Deadlines()
    watch = deadlines.watch()
    watch.limit = Limit(60, late("all of it"), watch.now() + 0.03)
    with pytest.raises(UpstreamTimeout, match="all of it"), watch:
        await forever()


async def test_a_paused_watch_forgets_its_limit() -> None:
    with Deadlines().watch() as watch:
        watch.limit = Limit(0, late())
        watch.pause()
        await asyncio.sleep(TICK * 4)
