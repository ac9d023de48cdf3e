"""How several workers end: requests have their time, and no process is left."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatehook.testing import Reply, StubUpstream

Wire = Any
Wait = Callable[..., Any]
Text = Callable[..., str]
Open = Callable[..., Any]

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("grace", [20, 10**9])
@pytest.mark.parametrize("all_at_once", [False, True], ids=["parent", "process group"])
async def test_sigterm_lets_the_streams_of_every_worker_end(
    text: Text,
    tmp_path: Path,
    openai_wire: Wire,
    all_at_once: bool,
    grace: float,
    served: Open,
    lines: Open,
    slow: Open,
    refused: Wait,
) -> None:
    async with StubUpstream(slow(openai_wire)) as stub:
        settings = text(openai_wire.deployment(stub), server={"shutdown_grace": grace})
        async with served(settings, tmp_path) as program, lines(program.port, workers=3) as opened:
            for line in opened:
                line.send("/v1/chat/completions", {**ASK, "stream": True})
            for line in opened:
                await line.reader.readuntil(b"first")
            if all_at_once:  # as service managers do
                os.killpg(program.process.pid, signal.SIGTERM)
            else:
                program.process.send_signal(signal.SIGTERM)
            assert await refused(program.port)
            for line in opened:
                rest = await asyncio.wait_for(line.reader.read(), 10)
                assert b"last" in rest
                assert b"data: [DONE]\n\n" in rest
            assert await program.ended() == 0
    assert not any("Traceback" in line for line in program.log), program.log


async def test_past_the_grace_running_requests_are_cancelled(
    text: Text, tmp_path: Path, settled: Wait, served: Open, lines: Open
) -> None:
    async with StubUpstream(Reply(status=0, end="silence")) as stub:
        model = {"name": "m", "vendor": "openai", "base_url": stub.url}
        async with (
            served(text(model, server={"shutdown_grace": 0.2}), tmp_path) as program,
            lines(program.port, workers=3) as opened,
        ):
            for line in opened:
                line.send("/v1/chat/completions", ASK)
            await settled(lambda: len(stub.requests) == len(opened))
            begun = time.monotonic()
            program.process.send_signal(signal.SIGTERM)
            assert await program.ended() == 0
            assert time.monotonic() - begun < 8
    assert not any("Traceback" in line for line in program.log), program.log


async def test_a_second_signal_cuts_requests_off(
    text: Text, tmp_path: Path, settled: Wait, served: Open, lines: Open
) -> None:
    async with StubUpstream(Reply(status=0, end="silence")) as stub:
        model = {"name": "m", "vendor": "openai", "base_url": stub.url}
        settings = text(model, server={"shutdown_grace": 60})
        async with served(settings, tmp_path) as program, lines(program.port, workers=3) as opened:
            for line in opened:
                line.send("/v1/chat/completions", ASK)
            await settled(lambda: len(stub.requests) == len(opened))
            begun = time.monotonic()
            for _ in range(2):
                program.process.send_signal(signal.SIGINT)
                await program.line("stop")
            assert await program.ended() == 0
            assert time.monotonic() - begun < 8
            await settled(lambda: not stub.open)
            assert not stub.open, "the vendors' calls were not ended"
    assert not any("Traceback" in line for line in program.log), program.log


async def test_a_worker_that_does_not_end_is_killed_by_a_third_signal(
    text: Text, tmp_path: Path, served: Open, lines: Open
) -> None:
    async with served(text(), tmp_path) as program, lines(program.port, workers=3) as opened:
        os.kill(opened[0].pid, signal.SIGSTOP)
        for _ in range(2):
            program.process.send_signal(signal.SIGTERM)
            await program.line("stop")
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0


async def test_workers_whose_parent_was_killed_let_requests_end_and_end(
    text: Text, tmp_path: Path, openai_wire: Wire, served: Open, lines: Open, slow: Open, refused: Wait
) -> None:
    async with (
        StubUpstream(slow(openai_wire)) as stub,
        served(text(openai_wire.deployment(stub)), tmp_path) as program,
        lines(program.port, workers=3) as opened,
    ):
        opened[0].send("/v1/chat/completions", {**ASK, "stream": True})
        await opened[0].reader.readuntil(b"first")
        program.process.kill()
        assert await refused(program.port)
        assert b"data: [DONE]\n\n" in await asyncio.wait_for(opened[0].reader.read(), 10)
        assert await program.ended() == -signal.SIGKILL
    assert sum("the parent process is gone" in line for line in program.log) == 3
