"""Limiters are asked in order and settled in reverse, whichever of them wait."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from gatehook import Call, GatewayError, Outcome, Target
from gatehook.calls.stages import Ask, Permits

CALL, TARGET = Call("chat", "test", {}), Target("m#1", "m", "mock", "m")
WAITS = [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)]


class Keeper:
    """A limiter, and its own permit; it may wait at both, and have nothing to settle."""

    def __init__(self, name: str, log: list[str], *, waits: bool, permits: bool = True) -> None:
        self._name, self._log, self._waits, self._permits = name, log, waits, permits

    def ask(self, *arguments: object) -> Any:
        self._log.append(f"ask {self._name} {len(arguments)}")
        permit = self if self._permits else None
        return self._later(permit) if self._waits else permit

    def settle(self, outcome: Outcome) -> Awaitable[None] | None:
        self._log.append(f"settle {self._name} {outcome.status}")
        return self._later(None) if self._waits else None

    async def _later(self, given: Any) -> Any:
        await asyncio.sleep(0)
        return given


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def asks(log: list[str]) -> Callable[..., tuple[Ask, ...]]:
    def make(names: str, waits: Sequence[int] = (), nothing: str = "") -> tuple[Ask, ...]:
        keepers = [Keeper(one, log, waits=at in waits, permits=one not in nothing) for at, one in enumerate(names)]
        return tuple((keeper.ask, keeper) for keeper in keepers)

    return make


async def done(waits: Awaitable[None] | None) -> None:
    if waits is not None:
        await waits


@pytest.mark.parametrize("waits", WAITS)
@pytest.mark.parametrize("nothing", ["", "b", "ac"])
async def test_each_is_asked_once_and_settled_once(asks: Any, log: list[str], waits: Any, nothing: str) -> None:
    permits = Permits(set())
    asking = permits.admit(asks("abc", waits, nothing), CALL)
    assert (asking is not None) == bool(waits)
    await done(asking)
    assert log == ["ask a 1", "ask b 1", "ask c 1"]
    del log[:]
    await done(permits.settle(Outcome("complete", 200)))
    assert log == [f"settle {one} complete" for one in "cba" if one not in nothing]
    assert not permits.held


@pytest.mark.parametrize("waits", WAITS)
async def test_a_failed_attempt_gives_back_its_own_only(asks: Any, log: list[str], waits: Any) -> None:
    permits = Permits(set())
    await done(permits.admit(asks("xy", waits), CALL))
    await done(permits.admit_attempt(asks("abc", waits), CALL, TARGET))
    assert log == ["ask x 1", "ask y 1", "ask a 2", "ask b 2", "ask c 2"]
    del log[:]
    await permits.attempt_failed(GatewayError("no"))
    assert log == ["settle c failed", "settle b failed", "settle a failed"]
    await done(permits.admit_attempt(asks("d", waits), CALL, TARGET))
    del log[:]
    await permits.settle_rounds(Outcome("partial", 499), Outcome("complete", 200))
    assert log == ["settle d complete", "settle y partial", "settle x partial"]


@pytest.mark.parametrize("late", [False, True])
async def test_one_whose_own_work_was_cancelled_does_not_end_the_settling(
    asks: Any, log: list[str], late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Keeper):
        def settle(self, outcome: Outcome) -> Awaitable[None] | None:
            if not late:
                raise asyncio.CancelledError("its own")
            return self._cancelled()

        async def _cancelled(self) -> None:
            shared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(shared.cancel)
            await shared

    permits, broken = Permits(set()), Broken("b", log, waits=False)
    await done(permits.admit((*asks("a", (0,)), (broken.ask, broken), *asks("c")), CALL))
    del log[:]
    await done(permits.settle(Outcome("complete", 200)))
    assert log == ["settle c complete", "settle a complete"]
    assert "permit of Broken" in caplog.text


@pytest.mark.parametrize("waits", [(1,), (0, 1, 2)])
async def test_who_leaves_meanwhile_does_not_end_the_settling(asks: Any, log: list[str], waits: Any) -> None:
    settlements: set[Any] = set()
    permits = Permits(settlements)
    await done(permits.admit(asks("abc", waits), CALL))
    del log[:]
    leaving = asyncio.ensure_future(done(permits.settle(Outcome("complete", 200))))
    await asyncio.sleep(0)
    leaving.cancel()
    while settlements:
        await asyncio.wait(settlements)
    assert leaving.cancelled()
    assert log == ["settle c complete", "settle b complete", "settle a complete"]
