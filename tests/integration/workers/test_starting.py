"""Workers that cannot start, or do not come to an end of it."""

import contextlib
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Text = Callable[..., str]
Open = Callable[..., Any]


@pytest.mark.parametrize(
    ("fails", "worker", "told"),
    [
        ("fault", 0, "plugin 'probe': the probe is broken\nplugin 'probe': and so is its case"),
        ("fault", 2, "plugin 'probe': the probe is broken\nplugin 'probe': and so is its case"),
        ("error", 0, "plugin 'probe' cannot start: RuntimeError('out of order'), at {place}"),
        ("exit", 1, "worker {} (process {}) ended with status 3 before it served"),
        ("kill", 0, "worker {} (process {}) was killed by SIGKILL before it served"),
    ],
)
async def test_a_worker_that_cannot_start_ends_all_and_is_told(
    text: Text, tmp_path: Path, fails: str, worker: int, told: str, started: Open
) -> None:
    async with started(text(probe={"fails": fails, "worker": worker}), tmp_path) as program:
        assert await program.ended() == 1
        words = "\n".join(program.log)
        found = words.partition("process ")[2].partition(")")[0]
        place = words.rpartition(", at ")[2]
        assert words == told.format(worker, found, place=place)
        assert fails != "error" or re.fullmatch(r"<string>:\d+, in Probe\.register_lifespans\.<locals>\.life", place)


async def test_a_start_that_hangs_can_be_ended(text: Text, tmp_path: Path, started: Open) -> None:
    async with started(text(probe={"fails": "hang", "worker": 1}), tmp_path) as program:
        await program.line("hangs")
        for _ in range(2):
            program.process.send_signal(signal.SIGTERM)
            await program.line("stop")
        assert await program.ended() == 0


async def test_new_workers_that_hang_are_given_up_and_the_old_ones_go_on(
    text: Text, tmp_path: Path, served: Open, lines: Open
) -> None:
    async with served(text(workers=2), tmp_path) as program, lines(program.port, workers=2) as opened:
        (tmp_path / "settings.toml").write_text(text(workers=2, probe={"fails": "hang", "worker": 3}))
        program.process.send_signal(signal.SIGHUP)
        await program.line("the old settings stay in force: the new workers did not serve within 3 s")
        for line in opened:
            assert await line.ask("/health/ready") == {"status": "ok"}
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0


async def test_a_taken_port_is_told_in_one_line(text: Text, tmp_path: Path, started: Open) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        async with started(text(server={"port": taken.getsockname()[1]}), tmp_path) as program:
            assert await program.ended() == 1
    assert len(program.log) == 1
    assert "is another server running there?" in program.log[0]
