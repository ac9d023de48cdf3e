"""A reload that meets a plugin whose loading never ends: the old workers serve on, and the parent is not lost."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

PROGRAM = """
import logging, os, sys, time
from pathlib import Path
from aiohttp import web
from gatehook import Route, Section, hookimpl
from gatehook.serving.supervisor import supervise
from gatehook.testing import built

def forever():
    print("it never ends", file=sys.stderr, flush=True)
    while True:
        time.sleep(1)

class Endless:
    class Settings(Section):
        at: str = ""

    def __init__(self, settings):
        self._at = settings.at
        if self._at == "init":
            forever()

    @hookimpl
    def register_routes(self):
        if self._at == "hook":
            forever()
        async def who(request):
            return web.Response(text=str(os.getpid()))
        return [Route("GET", "/who", who, auth=False)]

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
supervise(
    lambda: built(Path(sys.argv[1]).read_text(), plugins={"endless": Endless}),
    lambda gateway, address, models: print("listens on", address, file=sys.stderr, flush=True),
    start_limit=float(sys.argv[2]),
)
"""


class Program:
    """A parent with two workers."""

    def __init__(self, process: asyncio.subprocess.Process, settings: Path) -> None:
        self.process = process
        self._settings = settings

    def reload(self, at: str) -> None:
        """With a plugin that never ends there; "" for none."""
        self._settings.write_text(f'[server]\nport = 0\nworkers = 2\n[plugins.endless]\nat = "{at}"\n')
        self.process.send_signal(signal.SIGHUP)

    async def line(self, part: str) -> str:
        """The next line of the log that has this in it."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while line := (await self.process.stderr.readline()).decode().rstrip():
                if part in line:
                    return line
        raise AssertionError(f"no {part!r}")


@contextlib.asynccontextmanager
async def started(folder: Path, *, limit: float) -> AsyncIterator[tuple[Program, str]]:
    """The program in a process group of its own, which is killed at the end; and its address."""
    settings = folder / "settings.toml"
    settings.write_text("[server]\nport = 0\nworkers = 2\n[plugins.endless]\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(settings), str(limit), stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    program = Program(process, settings)
    try:
        yield program, (await program.line("listens on")).removeprefix("listens on ")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


@pytest.mark.parametrize("at", ["init", "hook"])
async def test_it_is_given_up_after_a_while_and_the_next_reload_is_heard(tmp_path: Path, at: str) -> None:
    async with started(tmp_path, limit=3) as (program, url), aiohttp.ClientSession() as http:
        program.reload(at)
        await program.line("it never ends")
        async with http.get(f"{url}/who") as answer:
            worker = int(await answer.text())
        told = await program.line("the old settings stay in force")
        assert told.endswith("the plugins were not loaded within 3 s")
        os.kill(worker, signal.SIGKILL)  # the parent looks after its workers again
        await program.line("SIGKILL")
        program.reload("")
        await program.line("the new settings are in force")
        program.process.send_signal(signal.SIGTERM)
        assert await program.process.wait() == 0


async def test_a_signal_to_stop_is_heard_meanwhile(tmp_path: Path) -> None:
    async with started(tmp_path, limit=60) as (program, _):
        program.reload("init")
        await program.line("it never ends")
        program.process.send_signal(signal.SIGTERM)
        assert (await program.line("the old settings stay in force")).endswith("the gateway is stopping")
        async with asyncio.timeout(10):
            assert await program.process.wait() == 0
