"""A worker that dies hurts nobody else's requests, and another takes its place."""

import asyncio
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from gatehook.serving.accepting import SharedSocket
from gatehook.serving.generation import Generation, Worker

Text = Callable[..., str]
Open = Callable[..., Any]
Line = Any

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


async def test_kill_9_of_a_worker_under_load_hurts_its_own_requests_only_and_it_is_replaced(
    text: Text, tmp_path: Path, served: Open, lines: Open
) -> None:
    async with (
        served(text({"name": "m", "vendor": "mock"}), tmp_path) as program,
        lines(program.port, workers=3, each=2) as opened,
    ):
        victim = opened[0]
        killed = asyncio.Event()

        async def load(line: Line) -> bool:
            """Ask on and on, for some time after the kill too; whether all was answered."""
            left = 20
            try:
                while left:
                    assert (await line.ask("/v1/chat/completions", ASK))["choices"]
                    left -= killed.is_set()
            except (ConnectionError, asyncio.IncompleteReadError):
                return False
            return True

        loads = [asyncio.create_task(load(line)) for line in opened]
        await asyncio.sleep(0.1)
        os.kill(victim.pid, signal.SIGKILL)
        killed.set()
        fine = await asyncio.gather(*loads)
        assert fine == [line.pid != victim.pid for line in opened]
        told = await program.line("another takes its place")
        assert f"worker {victim.worker} (process {victim.pid}) was killed by SIGKILL" in told
        async with lines(program.port, workers=3) as later:
            assert {line.worker for line in later} == {0, 1, 2}
            assert victim.pid not in {line.pid for line in later}


def test_successors_of_workers_that_die_young_wait_longer_and_longer() -> None:
    settings = SimpleNamespace(server=SimpleNamespace(workers=1, shutdown_grace=1))
    generation = Generation(cast("Any", SimpleNamespace(settings=settings)), SharedSocket(cast("Any", None)), [0])
    now, waits = 0.0, []
    for age in (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 100.0, 1.0):
        line = SimpleNamespace(close=lambda: None)
        generation.workers[0] = Worker(0, 1, cast("Any", line), born=now, models=1)
        generation.listened()
        now += age
        generation.died(generation.workers[0], "died", now)
        waits.append(round(generation.next_event() - now, 1) if generation.next_event() else 0.0)
        now = generation.next_event() or now
        assert generation.missing(now) == [0]
    assert waits == [0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10, 0, 0.2]
    generation.stop(b"d", now)
    assert generation.missing(math.inf) == []


async def test_a_successor_that_cannot_start_is_told_and_tried_again(
    text: Text, tmp_path: Path, served: Open, lines: Open
) -> None:
    mended = tmp_path / "mended"
    mended.touch()
    probe = {"fails": "fault", "worker": 1, "unless": str(mended)}
    async with served(text(probe=probe), tmp_path) as program, lines(program.port, workers=3) as opened:
        mended.unlink()
        victim, other = (next(line for line in opened if line.worker == index) for index in (1, 2))
        os.kill(victim.pid, signal.SIGKILL)
        assert "the probe is broken" in await program.line("worker 1 cannot start")
        assert await other.ask("/health/ready") == {"status": "ok"}
        mended.touch()
        async with lines(program.port, workers=3) as later:
            assert {line.worker for line in later} == {0, 1, 2}
