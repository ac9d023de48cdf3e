"""A plugin that blocks its process for good: the program, two workers, and a third party's distribution."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

SOURCE = """
import os, time
from aiohttp import web
from gatehook import Route, Section, hookimpl

def compute():
    while True:
        time.sleep(1)

class Acme:
    class Settings(Section): ...
    def __init__(self, settings): ...
    @hookimpl
    def register_routes(self):
        async def who(request):
            return web.Response(text=str(os.getpid()))
        async def block(request):
            compute()
        return [Route("GET", "/who", who, auth=False), Route("GET", "/block", block, auth=False)]
"""
SETTINGS = "[server]\nport = 0\nworkers = 2\nblocked_warning = 0.5\nblocked_limit = 2\n[plugins.acme]\n"


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[str, asyncio.StreamReader]]:
    """The program with the distribution installed: its address, and its log from there on."""
    info = folder / "site" / "gatehook_acme-7.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gatehook-acme\nVersion: 7.1\n")
    (info / "entry_points.txt").write_text("[gatehook]\nacme = gatehook_acme:Acme\n")
    (folder / "site" / "gatehook_acme.py").write_text(SOURCE)
    (folder / "settings.toml").write_text(SETTINGS)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gatehook", "serve", "--config", str(folder / "settings.toml"),
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder / "site")},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        yield (await line_with(process.stderr, "Gatehook listens on ")).split()[3], process.stderr
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def line_with(log: asyncio.StreamReader, words: str) -> str:
    async with asyncio.timeout(20):
        while line := (await log.readline()).decode():
            if words in line:
                return line
    raise AssertionError(f"no {words!r} in the log")


async def test_the_others_serve_on_and_the_blocked_one_is_named_and_replaced(tmp_path: Path) -> None:
    async with serving(tmp_path) as (url, log):
        blocked = aiohttp.ClientSession(url)
        stuck = asyncio.create_task(blocked.get("/block"))
        warning = await line_with(log, "plugin 'acme' (gatehook-acme 7.1) is at ")
        assert "stands still" in warning
        assert warning.endswith(", in compute\n")
        before = await self_told(url)
        assert len(before) == 1, "the other worker answers while one is blocked"
        last = await line_with(log, "gives up its place to a new one")
        assert "plugin 'acme' (gatehook-acme 7.1) is at " in last
        assert "was killed by SIGKILL; another takes its place" in await line_with(log, "was killed")
        async with asyncio.timeout(20):
            while len(await self_told(url)) < 2:
                pass
        await asyncio.wait([stuck])
        assert isinstance(stuck.exception(), aiohttp.ClientError)
        await blocked.close()


async def self_told(url: str) -> set[str]:
    """The processes that answer some requests, each on a connection of its own."""

    async def one() -> str:
        async with aiohttp.ClientSession(url) as http, http.get("/who") as answer:
            return await answer.text()

    return set(await asyncio.gather(*(one() for _ in range(8))))
