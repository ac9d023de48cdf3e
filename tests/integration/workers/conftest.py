"""A parent and its workers, as processes of their own, and connections to them."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gatehook.testing import Reply

Wire = Any
Wait = Callable[..., Any]
Text = Callable[..., str]
Open = Callable[..., Any]


PROGRAM = '''
import asyncio, contextlib, logging, os, sys
from pathlib import Path
from aiohttp import web
from gatehook import Route, Section, StartupError, hookimpl
from gatehook.testing import built
from gatehook.serving.supervisor import supervise

class Probe:
    """Tells which worker answers, and fails to start on demand."""

    class Settings(Section):
        fails: str = ""
        worker: int = 0
        unless: str = ""

    def __init__(self, settings):
        self.settings = settings

    @hookimpl
    def register_routes(self, gateway):
        async def who(request):
            return web.json_response({"pid": os.getpid(), "worker": gateway.worker, "shared": str(gateway.shared)})
        return [Route("GET", "/who", who, auth=False)]

    @hookimpl
    def register_lifespans(self, gateway):
        @contextlib.asynccontextmanager
        async def life():
            mine = gateway.worker == self.settings.worker
            if mine and not (self.settings.unless and Path(self.settings.unless).exists()):
                match self.settings.fails:
                    case "fault": raise StartupError("the probe is broken", "and so is its case")
                    case "error": raise RuntimeError("out of order")
                    case "exit": os._exit(3)
                    case "kill": os.kill(os.getpid(), 9)
                    case "hang":
                        print("hangs", file=sys.stderr, flush=True)
                        await asyncio.Event().wait()
            yield
        return [life]

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
try:
    supervise(
        lambda: built(Path(sys.argv[1]).read_text(), plugins={"probe": Probe}),
        lambda gateway, address, models: print("listens on", address, "with", models, file=sys.stderr, flush=True),
        start_limit=3,
    )
except StartupError as error:
    print(*error.faults, sep="\\n", file=sys.stderr)
    sys.exit(1)
'''


@dataclass
class Program:
    """A parent and its workers."""

    process: asyncio.subprocess.Process
    address: str
    log: list[str]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    async def line(self, part: str) -> str:
        """The next line of the log that has this in it."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while line := (await self.process.stderr.readline()).decode().rstrip():
                self.log.append(line)
                if part in line:
                    return line
        raise AssertionError(f"no {part!r} in {self.log}")

    async def ended(self) -> int:
        """The parent's exit status, once all workers have ended too: each of them holds the log open."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            self.log += (await self.process.stderr.read()).decode().splitlines()
            return await self.process.wait()


@contextlib.asynccontextmanager
async def started(text: str, folder: Path) -> AsyncIterator[Program]:
    """The program in a process group of its own, which is killed at the end."""
    (folder / "settings.toml").write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", PROGRAM, str(folder / "settings.toml"),
        stderr=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}, start_new_session=True,
    )  # fmt: skip
    try:
        yield Program(process, "", [])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


@contextlib.asynccontextmanager
async def served(text: str, folder: Path) -> AsyncIterator[Program]:
    """The program, once it listens."""
    async with started(text, folder) as program:
        program.address = (await program.line("listens on")).split()[2]
        yield program


@dataclass
class Line:
    """A connection that is kept, and the worker at its other end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pid: int = 0
    worker: int = 0

    async def ask(self, path: str, body: Any = None) -> Any:
        """One request and its answer's JSON."""
        self.send(path, body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head, head
        return json.loads(await self._body(head))

    async def status(self, body: Any) -> int:
        """The status of one call."""
        self.send("/v1/chat/completions", body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        await self._body(head)
        return int(head.split()[1])

    def send(self, path: str, body: Any = None) -> None:
        raw = b"" if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)

    async def _body(self, head: bytes) -> bytes:
        size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return await self.reader.readexactly(int(size.split(b":")[1]))


@contextlib.asynccontextmanager
async def lines(port: int, *, workers: int, each: int = 1) -> AsyncIterator[list[Line]]:
    """Connections, so many of them or more to each of so many workers."""
    opened: list[Line] = []
    try:
        async with asyncio.timeout(20):
            while True:
                line = Line(*await asyncio.open_connection("127.0.0.1", port))
                opened.append(line)
                who = await line.ask("/who")
                line.pid, line.worker = who["pid"], who["worker"]
                counts = [sum(one.pid == pid for one in opened) for pid in {one.pid for one in opened}]
                if len(counts) >= workers and min(counts) >= each:
                    break
        yield opened
    finally:
        for line in opened:
            line.writer.close()


async def refused(port: int) -> bool:
    """Whether new connections are refused, sooner or later."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        writer.close()
        await asyncio.sleep(0.01)
    return False


@pytest.fixture
def text(settings_text: Text) -> Text:
    """Settings with the probe, and three workers unless said otherwise."""

    def made(*models: Any, workers: int = 3, probe: Any = None, server: Any = None, **changes: Any) -> str:
        own = {"workers": workers, **(server or {})}
        return settings_text(*models, server=own, plugin_probe=probe or {}, **changes)

    return made


def slow(wire: Wire) -> Reply:
    """A stream of half a second."""
    reply: Reply = wire.stream(["first", *["more"] * 8, "last"], pause=0.05)
    return reply


@pytest.fixture(name="started")
def started_fixture() -> Open:
    """Starts the program with these settings in a folder."""
    return started


@pytest.fixture(name="served")
def served_fixture() -> Open:
    """Starts the program, and waits until it listens."""
    return served


@pytest.fixture(name="lines")
def lines_fixture() -> Open:
    """Opens connections, so many of them or more to each of so many workers."""
    return lines


@pytest.fixture(name="refused")
def refused_fixture() -> Wait:
    """Tells whether new connections to a port are refused, sooner or later."""
    return refused


@pytest.fixture(name="slow")
def slow_fixture() -> Callable[[Wire], Reply]:
    """Makes a stream of half a second."""
    return slow
