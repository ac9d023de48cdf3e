"""Several processes on one socket: real processes, real sockets, real signals."""

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from gatehook.serving.accepting import SharedSocket
from gatehook.serving.generation import Generation, Worker
from gatehook.testing import Reply, StubUpstream

Wire = Any
Wait = Callable[..., Any]
Text = Callable[..., str]

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}

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
                    case "hang": await asyncio.Event().wait()
            yield
        return [life]

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
try:
    supervise(
        lambda: built(Path(sys.argv[1]).read_text(), plugins={"probe": Probe}),
        lambda gateway, address, models: print("listens on", address, "with", models, file=sys.stderr, flush=True),
        start_limit=1,
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


# --- serving


async def test_every_worker_answers_under_its_own_index(text: Text, tmp_path: Path) -> None:
    async with served(text(), tmp_path) as program, lines(program.port, workers=3) as opened:
        assert {line.worker for line in opened} == {0, 1, 2}
        assert program.process.pid not in {line.pid for line in opened}
        folders = {(await line.ask("/who"))["shared"] for line in opened}
        (folder,) = map(Path, folders)
        assert folder.stat().st_mode & 0o777 == 0o700
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert not folder.exists()


async def test_a_deployment_that_failed_in_one_worker_is_given_a_rest_in_all(text: Text, tmp_path: Path) -> None:
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
    text: Text, tmp_path: Path, openai_wire: Wire
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


# --- stopping


@pytest.mark.parametrize("all_at_once", [False, True], ids=["parent", "process group"])
async def test_sigterm_lets_the_streams_of_every_worker_end(
    text: Text, tmp_path: Path, openai_wire: Wire, all_at_once: bool
) -> None:
    async with StubUpstream(slow(openai_wire)) as stub:
        settings = text(openai_wire.deployment(stub), server={"shutdown_grace": 20})
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


async def test_past_the_grace_running_requests_are_cancelled(text: Text, tmp_path: Path, settled: Wait) -> None:
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


async def test_a_second_signal_cuts_requests_off(text: Text, tmp_path: Path, settled: Wait) -> None:
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


async def test_a_worker_that_does_not_end_is_killed_by_a_third_signal(text: Text, tmp_path: Path) -> None:
    async with served(text(), tmp_path) as program, lines(program.port, workers=3) as opened:
        os.kill(opened[0].pid, signal.SIGSTOP)
        for _ in range(2):
            program.process.send_signal(signal.SIGTERM)
            await program.line("stop")
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0


async def test_workers_whose_parent_was_killed_let_requests_end_and_end(
    text: Text, tmp_path: Path, openai_wire: Wire
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


# --- dying


async def test_kill_9_of_a_worker_under_load_hurts_its_own_requests_only_and_it_is_replaced(
    text: Text, tmp_path: Path
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


async def test_a_successor_that_cannot_start_is_told_and_tried_again(text: Text, tmp_path: Path) -> None:
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


# --- starting


@pytest.mark.parametrize(
    ("fails", "worker", "told"),
    [
        ("fault", 0, "plugin 'probe': the probe is broken\nplugin 'probe': and so is its case"),
        ("fault", 2, "plugin 'probe': the probe is broken\nplugin 'probe': and so is its case"),
        ("error", 0, "plugin 'probe' cannot start: RuntimeError('out of order')"),
        ("exit", 1, "worker {} (process {}) ended with status 3 before it served"),
        ("kill", 0, "worker {} (process {}) was killed by SIGKILL before it served"),
    ],
)
async def test_a_worker_that_cannot_start_ends_all_and_is_told(
    text: Text, tmp_path: Path, fails: str, worker: int, told: str
) -> None:
    async with started(text(probe={"fails": fails, "worker": worker}), tmp_path) as program:
        assert await program.ended() == 1
        words = "\n".join(program.log)
        found = words.partition("process ")[2].partition(")")[0]
        assert words == told.format(worker, found)


async def test_a_start_that_hangs_can_be_ended(text: Text, tmp_path: Path) -> None:
    async with started(text(probe={"fails": "hang", "worker": 1}), tmp_path) as program:
        await asyncio.sleep(1)
        for _ in range(2):
            program.process.send_signal(signal.SIGTERM)
            await program.line("stop")
        assert await program.ended() == 0


async def test_new_workers_that_hang_are_given_up_and_the_old_ones_go_on(text: Text, tmp_path: Path) -> None:
    async with served(text(workers=2), tmp_path) as program, lines(program.port, workers=2) as opened:
        (tmp_path / "settings.toml").write_text(text(workers=2, probe={"fails": "hang", "worker": 3}))
        program.process.send_signal(signal.SIGHUP)
        await program.line("the old settings stay in force: the new workers did not serve within 1 s")
        for line in opened:
            assert await line.ask("/health/ready") == {"status": "ok"}
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0


async def test_a_taken_port_is_told_in_one_line(text: Text, tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        async with started(text(server={"port": taken.getsockname()[1]}), tmp_path) as program:
            assert await program.ended() == 1
    assert len(program.log) == 1
    assert "is another server running there?" in program.log[0]


# --- Unix sockets


async def test_a_unix_socket_is_shared_and_its_file_removed_by_the_parent(
    text: Text, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
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


# --- metrics


async def scrape(port: int) -> dict[str, float]:
    """The sum of every metric's samples."""
    sums: dict[str, float] = {}
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        for family in read_text(await answer.text()):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


async def test_metrics_are_summed_over_the_workers_and_outlive_them(text: Text, tmp_path: Path) -> None:
    model = {"name": "m", "vendor": "mock"}
    async with (
        served(text(model, plugin_metrics={"process": True}), tmp_path) as program,
        lines(program.port, workers=3, each=2) as opened,
    ):
        for number in range(200):
            await opened[number % len(opened)].ask("/v1/chat/completions", ASK)

        async def seen(requests: int) -> dict[str, float]:
            """The metrics once they show so many: a request is counted just after its answer."""
            async with asyncio.timeout(10):
                while (found := await scrape(program.port))["gateway_requests_total"] < requests:
                    pass
            return found

        found = await seen(200)
        assert found["gateway_requests_total"] == 200
        assert found["http_request_duration_seconds_count"] == 200
        assert found["gateway_requests_in_flight"] == 0
        tokens = found["gateway_tokens_total"]
        assert tokens > 0
        assert tokens % 200 == 0
        assert found["process_resident_memory_bytes"] > 0

        victim = opened[0].pid
        os.kill(victim, signal.SIGKILL)
        await program.line("another takes its place")
        async with lines(program.port, workers=3) as later:
            assert (await scrape(program.port))["gateway_requests_total"] == 200
            for line in later:
                await line.ask("/v1/chat/completions", ASK)
            found = await seen(200 + len(later))
            assert found["gateway_requests_total"] == 200 + len(later)
            assert found["gateway_tokens_total"] == tokens // 200 * (200 + len(later))


async def test_running_requests_are_summed_over_the_workers_that_live(
    text: Text, tmp_path: Path, settled: Wait
) -> None:
    async with StubUpstream(Reply(status=0, end="silence")) as stub:
        model = {"name": "m", "vendor": "openai", "base_url": stub.url}
        async with (
            served(text(model, plugin_metrics={}), tmp_path) as program,
            lines(program.port, workers=3) as opened,
        ):
            for line in opened:
                line.send("/v1/chat/completions", ASK)
            await settled(lambda: len(stub.requests) == len(opened))
            assert (await scrape(program.port))["gateway_requests_in_flight"] == len(opened)
            victim = opened[0].pid
            os.kill(victim, signal.SIGKILL)
            await program.line("another takes its place")
            left = sum(line.pid != victim for line in opened)
            assert (await scrape(program.port))["gateway_requests_in_flight"] == left


# --- limits


async def test_workers_share_rate_limits_and_free_what_a_dead_one_held(
    text: Text, tmp_path: Path, settled: Wait
) -> None:
    async with StubUpstream(Reply(status=0, end="silence")) as stub:
        model = {"name": "held", "vendor": "openai", "base_url": stub.url}
        limits = {"requests_per_minute": 12, "concurrent_requests": 1}
        settings = text({"name": "m", "vendor": "mock"}, model, plugin_rate_limit=limits)
        async with started(settings, tmp_path) as program:
            assert "shared by the 3 workers of this machine" in await program.line("rate limits")
            program.address = (await program.line("listens on")).split()[2]
            async with lines(program.port, workers=3) as opened:
                victim = opened[0]
                victim.send("/v1/chat/completions", {**ASK, "model": "held"})
                await settled(lambda: stub.requests)
                other = next(line for line in opened if line.pid != victim.pid)
                assert await other.status(ASK) == 429
                os.kill(victim.pid, signal.SIGKILL)
                await program.line("another takes its place")
                async with lines(program.port, workers=3, each=2) as later:
                    statuses = [await later[number % len(later)].status(ASK) for number in range(30)]
                assert statuses == [200] * 11 + [429] * 19
