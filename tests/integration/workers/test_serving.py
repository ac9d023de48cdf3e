"""Several processes behind one port or Unix socket."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook.testing import Reply, StubUpstream

Wire = Any
Text = Callable[..., str]
Open = Callable[..., Any]

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


async def test_every_worker_answers_under_its_own_index(text: Text, tmp_path: Path, served: Open, lines: Open) -> None:
    async with served(text(), tmp_path) as program, lines(program.port, workers=3) as opened:
        assert {line.worker for line in opened} == {0, 1, 2}
        assert program.process.pid not in {line.pid for line in opened}
        folders = {(await line.ask("/who"))["shared"] for line in opened}
        (folder,) = map(Path, folders)
        assert folder.stat().st_mode & 0o777 == 0o700
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert not folder.exists()


async def test_a_deployment_that_failed_in_one_worker_is_given_a_rest_in_all(
    text: Text, tmp_path: Path, served: Open, lines: Open
) -> None:
    broken = Reply.of_json({"error": {"message": "out of order"}}, status=500)
    async with StubUpstream(broken) as bad:
        base = {"name": "m", "vendor": "openai", "base_url": f"{bad.url}/v1"}
        models = [{**base, "priority": place, "model": f"x{place}"} for place in (1, 2)]
        settings = text(*models, workers=2, plugin_cooldown={"failure_threshold": 2})
        async with served(settings, tmp_path) as program, lines(program.port, workers=2) as opened:
            one, other = {line.worker: line for line in opened}.values()
            assert await one.status(ASK) == 502
            assert await other.status(ASK) == 502, "each has told the other of its failure"
            assert len(bad.requests) == 4
            assert {await line.status(ASK) for line in (one, other, one, other)} == {503}
            assert len(bad.requests) == 4


async def test_the_program_tells_in_one_line_where_it_listens_and_in_how_many_processes(
    settings_text: Text, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(settings_text({"name": "m", "vendor": "mock"}, server={"workers": 2}))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "gatehook", "serve", "--config", str(file),
        stderr=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert process.stderr is not None
    told = (await process.stderr.readline()).decode()
    assert "Gatehook listens on http://127.0.0.1:" in told
    assert "and 1 model, in 2 processes;" in told
    process.send_signal(signal.SIGINT)
    rest = (await process.stderr.read()).decode()
    assert await process.wait() == 0
    assert "listens on" not in rest
    assert f"gatehook[{process.pid}]: stopping" in rest


async def test_a_worker_that_drains_is_not_ready_and_the_others_are(
    text: Text, tmp_path: Path, openai_wire: Wire, served: Open, lines: Open, slow: Open
) -> None:
    async with (
        StubUpstream(slow(openai_wire)) as stub,
        served(text(openai_wire.deployment(stub), workers=2), tmp_path) as program,
        lines(program.port, workers=2) as opened,
    ):
        leaving, staying = (next(line for line in opened if line.worker == index) for index in (0, 1))
        leaving.send("/v1/chat/completions", {**ASK, "stream": True})
        await leaving.reader.readuntil(b"first")
        os.kill(leaving.pid, signal.SIGTERM)
        assert await staying.ask("/health/ready") == {"status": "ok"}
        assert await staying.ask("/health/live") == {"status": "ok"}
        rest = await asyncio.wait_for(leaving.reader.read(), 10)
        assert rest.count(b"data: [DONE]\n\n") == 1
        assert "another takes its place" in await program.line("worker 0")
        async with lines(program.port, workers=2) as later:
            assert {line.worker for line in later} == {0, 1}
            assert leaving.pid not in {line.pid for line in later}


async def test_a_unix_socket_is_shared_and_its_file_removed_by_the_parent(
    text: Text, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, served: Open
) -> None:
    path = tmp_path_factory.mktemp("s") / "g.sock"
    settings = text(server={"uds": str(path)})
    async with served(settings, tmp_path) as program:
        assert program.address == f"unix:{path}"
        pids: set[int] = set()
        async with asyncio.timeout(20):
            while len(pids) < 3:
                async with (
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http,
                    http.get("http://gatehook/who") as answer,
                ):
                    pids.add((await answer.json())["pid"])
        os.kill(pids.pop(), signal.SIGTERM)
        await program.line("another takes its place")
        assert path.exists()
        program.process.kill()  # nobody removes the file ...
        await program.ended()
    async with served(settings, tmp_path) as program:  # ... and it is in nobody's way
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert not path.exists()
