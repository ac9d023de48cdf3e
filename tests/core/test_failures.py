"""Which exceptions are a plugin's failure: a cancellation is one where nobody has cancelled the task."""

import asyncio

import pytest

from gatehook.errors import GatewayError
from gatehook.failures import is_failure


@pytest.mark.parametrize(
    ("error", "fails"),
    [
        (RuntimeError("x"), True),
        (GatewayError("x"), True),
        (SystemExit(3), True),
        (asyncio.CancelledError("its own"), True),
        (KeyboardInterrupt(), False),
        (GeneratorExit(), False),
    ],
    ids=repr,
)
async def test_what_is_raised(error: BaseException, fails: bool) -> None:
    assert is_failure(error) is fails


async def what_is_awaited(found: list[bool], awaited: asyncio.Future[None]) -> None:
    try:
        await awaited
    except asyncio.CancelledError as error:
        found.append(is_failure(error))
        raise


@pytest.mark.parametrize("theirs", [False, True])
async def test_a_cancelled_task_is_no_failure_and_a_cancelled_future_is_one(theirs: bool) -> None:
    found: list[bool] = []
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(what_is_awaited(found, future))
    await asyncio.sleep(0)
    (future if theirs else task).cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert found == [theirs]


async def test_a_time_limit_that_cancels_is_no_failure() -> None:
    found: list[bool] = []
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await what_is_awaited(found, future)
    assert found == [False]


async def test_where_no_task_runs_nobody_can_have_cancelled_it() -> None:
    loop = asyncio.get_running_loop()
    found: asyncio.Future[bool] = loop.create_future()
    loop.call_soon(lambda: found.set_result(is_failure(asyncio.CancelledError("its own"))))
    assert await found
