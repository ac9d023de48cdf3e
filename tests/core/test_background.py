"""Work that goes on while something is open."""

import asyncio

import pytest

from gatehook import meanwhile


async def test_it_runs_and_has_ended_when_what_is_open_has() -> None:
    begun, ended = asyncio.Event(), False

    async def work() -> None:
        nonlocal ended
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended = True

    async with meanwhile(work()):
        await begun.wait()
        assert not ended
    assert ended


async def test_a_failure_is_told_at_once_and_nothing_else_feels_it(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise RuntimeError("the disk is gone")

    async with meanwhile(work()):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (record,) = caplog.records
        assert "work has failed, and does not run any more" in record.message
    assert len(caplog.records) == 1


async def test_what_is_raised_inside_comes_out_and_the_work_is_over() -> None:
    tasks = asyncio.all_tasks()
    with pytest.raises(KeyError):
        async with meanwhile(asyncio.Event().wait()):
            raise KeyError
    assert asyncio.all_tasks() == tasks


async def test_a_cancellation_of_the_holder_is_not_swallowed() -> None:
    opened = asyncio.Event()

    async def held() -> None:
        async with meanwhile(asyncio.Event().wait()):
            opened.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(held())
    await opened.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
