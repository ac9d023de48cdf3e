"""Listening, draining and signals; and `gatehook serve`, run as people run it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook import Gateway, StartupError
from gatehook.config.settings import load
from gatehook.serving.server import running
from gatehook.testing import Reply, StubUpstream, available, built

Wire = Any
Wait = Callable[..., Any]
Text = Callable[..., str]

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**CHAT, "stream": True}


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path short enough for a Unix socket."""
    path = tmp_path_factory.mktemp("s") / "g.sock"
    assert len(str(path)) < 100
    return path


def gateway(text: str, folder: Path, **environ: str) -> Gateway:
    file = folder / "settings.toml"
    file.write_text(text)
    return Gateway(load(file, environ=environ), available({}))


def unix(path: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)))


def exists(path: Path) -> str:
    """What is there: "socket", "file", "folder", or ""."""
    if not path.exists():
        return ""
    if path.is_dir():
        return "folder"
    return "socket" if stat.S_ISSOCK(path.stat().st_mode) else path.read_text()


def precious(path: Path, kind: str) -> None:
    """Put something there that must not be lost."""
    if kind == "folder":
        path.mkdir()
    else:
        path.write_text(kind)


# --- where it listens


async def test_tcp_gives_its_address(settings_text: Text, tmp_path: Path) -> None:
    async with (
        running(gateway(settings_text(), tmp_path)) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/health/live") as answer,
    ):
        assert url.startswith("http://127.0.0.1:")
        assert answer.status == 200


async def test_ipv6_loopback_is_written_in_brackets(settings_text: Text, tmp_path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    async with (
        running(gateway(settings_text(server={"host": "::1"}), tmp_path)) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/health/live") as answer,
    ):
        assert url.startswith("http://[::1]:")
        assert answer.status == 200


@pytest.mark.parametrize("by_environment", [True, False])
async def test_a_unix_socket_serves_and_is_removed_at_the_end(
    settings_text: Text, tmp_path: Path, socket_path: Path, openai_wire: Wire, by_environment: bool
) -> None:
    environ = {"LISTEN_MODE": "UDS", "UDS_PATH": str(socket_path)} if by_environment else {}
    server = {} if by_environment else {"uds": str(socket_path)}
    async with StubUpstream(openai_wire.stream(["a", "b"])) as stub:
        text = settings_text(openai_wire.deployment(stub), server=server)
        async with running(gateway(text, tmp_path, **environ)) as address, unix(socket_path) as http:
            assert address == f"unix:{socket_path}"
            assert exists(socket_path) == "socket"
            async with http.post("http://gatehook/v1/chat/completions", json=STREAM) as answer:
                assert answer.status == 200
                assert (await answer.read()).endswith(b"data: [DONE]\n\n")
    assert not exists(socket_path)


async def test_a_client_that_leaves_a_unix_socket_ends_the_vendors_call(
    settings_text: Text, tmp_path: Path, socket_path: Path, openai_wire: Wire, settled: Wait
) -> None:
    async with StubUpstream(Reply(status=0, end="silence")) as stub:
        text = settings_text(openai_wire.deployment(stub), server={"uds": str(socket_path)})
        async with running(gateway(text, tmp_path)), unix(socket_path) as http:
            asking = asyncio.create_task(http.post("http://gatehook/v1/chat/completions", json=CHAT))
            await settled(lambda: stub.requests)
            asking.cancel()
            await asyncio.wait_for(stub.closed_early.wait(), 5)
            await asyncio.wait([asking])


async def test_a_stale_socket_is_replaced(settings_text: Text, tmp_path: Path, socket_path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as killed:
        killed.bind(str(socket_path))
    text = settings_text(server={"uds": str(socket_path)})
    async with running(gateway(text, tmp_path)), unix(socket_path) as http, http.get("http://g/health/live") as answer:
        assert answer.status == 200


async def test_a_socket_that_another_server_listens_on_is_refused(
    settings_text: Text, tmp_path: Path, socket_path: Path
) -> None:
    text = settings_text(server={"uds": str(socket_path)})
    async with running(gateway(text, tmp_path)), unix(socket_path) as http:
        with pytest.raises(StartupError, match="another server is listening"):
            async with running(gateway(text, tmp_path)):
                pass
        async with http.get("http://g/health/live") as answer:
            assert answer.status == 200
        assert exists(socket_path)


async def test_a_server_that_takes_over_from_a_draining_one_keeps_its_socket(
    settings_text: Text, tmp_path: Path, socket_path: Path, openai_wire: Wire, settled: Wait
) -> None:
    slow = openai_wire.stream(["a", *["more"] * 6, "z"], pause=0.1)
    async with StubUpstream(slow) as stub:
        text = settings_text(openai_wire.deployment(stub), server={"uds": str(socket_path), "shutdown_grace": 10})
        old = contextlib.AsyncExitStack()
        await old.enter_async_context(running(gateway(text, tmp_path)))
        async with unix(socket_path) as http, http.post("http://g/v1/chat/completions", json=STREAM) as answer:
            ending = asyncio.create_task(old.aclose())
            await settled(lambda: not exists(socket_path))
            async with running(gateway(text, tmp_path)), unix(socket_path) as newer:
                assert (await answer.read()).endswith(b"data: [DONE]\n\n")
                await ending
                async with newer.get("http://g/health/live") as alive:
                    assert alive.status == 200


async def test_idle_connections_do_not_hold_up_the_end(settings_text: Text, tmp_path: Path) -> None:
    begun = time.monotonic()
    async with aiohttp.ClientSession() as http:
        async with running(gateway(settings_text(server={"shutdown_grace": 30}), tmp_path)) as url:
            async with http.get(f"{url}/health/live") as answer:
                assert answer.status == 200
            _, silent = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            _, half = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            half.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
            await half.drain()
        silent.close()
        half.close()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_what_is_no_socket_is_refused_and_kept(
    settings_text: Text, tmp_path: Path, socket_path: Path, kind: str
) -> None:
    precious(socket_path, kind)
    with pytest.raises(StartupError, match="is not a socket"):
        async with running(gateway(settings_text(server={"uds": str(socket_path)}), tmp_path)):
            pass
    assert exists(socket_path) == kind


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/no/such/folder/g.sock", "; make the folder '/no/such/folder' first"),
        ("/tmp/" + "x" * 200, "; it may have 107 bytes, and has 205"),
    ],
)
async def test_a_socket_path_that_cannot_be_is_told(settings_text: Text, tmp_path: Path, path: str, hint: str) -> None:
    with pytest.raises(StartupError, match=rf"^\[server\] uds: cannot listen on .*{hint}$"):
        async with running(gateway(settings_text(server={"uds": path}), tmp_path)):
            pass


async def test_a_port_in_use_is_told(settings_text: Text, tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            StartupError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*another server.*GATEHOOK_SERVER__PORT"
        ):
            async with running(gateway(settings_text(server={"port": port}), tmp_path)):
                pass


async def test_a_host_that_is_not_ours_is_told(settings_text: Text, tmp_path: Path) -> None:
    for host, hint in (("192.0.2.1", "; this machine has no such address"), ("no-such-host.invalid", "")):
        with pytest.raises(StartupError, match=rf"^\[server\] host: cannot listen on .*{hint}"):
            async with running(gateway(settings_text(server={"host": host}), tmp_path)):
                pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "127.0.0.1.example.com"])
def test_listening_beyond_this_machine_needs_authentication(settings_text: Text, host: str) -> None:
    with pytest.raises(StartupError, match="can be reached from other machines"):
        built(settings_text(server={"host": host})).require_safe()
    keys = {"keys": ["0123456789abcdef"]}
    for safe in (
        {"plugin_auth_keys": keys, "server": {"host": host}},
        {"server": {"host": host, "allow_anonymous": True}},
    ):
        built(settings_text(**safe)).require_safe()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_authentication(settings_text: Text, host: str) -> None:
    built(settings_text(server={"host": host})).require_safe()


def test_a_unix_socket_needs_no_authentication(settings_text: Text) -> None:
    built(settings_text(server={"host": "0.0.0.0", "uds": "/tmp/x.sock"})).require_safe()


# --- the program


@dataclass
class Program:
    """`gatehook serve` in a process of its own."""

    process: asyncio.subprocess.Process
    url: str
    log: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            assert self.process.stderr is not None
            self.log += (await self.process.stderr.read()).decode().splitlines()
            return await self.process.wait()


@contextlib.asynccontextmanager
async def served(text: str, folder: Path, **environ: str) -> AsyncIterator[Program]:
    """Run `gatehook serve`; it is killed at the end if it has not ended."""
    file = folder / "settings.toml"
    file.write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "gatehook", "serve", "--config", str(file),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"], **environ},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        log: list[str] = []
        async with asyncio.timeout(30):
            while not any("listens on" in line for line in log):
                line = await process.stderr.readline()
                assert line, log
                log.append(line.decode().rstrip())
        yield Program(process, log[-1].split("listens on ")[1].split(" ")[0], log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def opened_stream(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream whose first content has been received."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = json.dumps(STREAM).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)
    await reader.readuntil(b"first")
    return reader, writer


async def refuses(port: int) -> bool:
    """Whether new connections are refused, sooner or later."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except (ConnectionRefusedError, ConnectionResetError):  # refused, or dropped with the queue of those who wait
            return True
        writer.close()
        await asyncio.sleep(0.01)
    return False


async def test_sigterm_lets_a_running_stream_end_and_refuses_new_connections(
    settings_text: Text, tmp_path: Path, openai_wire: Wire
) -> None:
    slow = openai_wire.stream(["first", *["more"] * 8, "last"], pause=0.1)
    async with StubUpstream(slow) as stub:
        text = settings_text(openai_wire.deployment(stub), server={"shutdown_grace": 20})
        async with served(text, tmp_path) as program:
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", program.port)
            reader, writer = await opened_stream(program.port)
            program.process.send_signal(signal.SIGTERM)
            assert await refuses(program.port)
            rest = await asyncio.wait_for(reader.read(), 10)
            assert b"last" in rest
            assert b"data: [DONE]\n\n" in rest
            assert await program.ended() == 0
            assert await idle.read() == b""
            for one in (writer, idle_writer):
                one.close()
    assert not any("Traceback" in line for line in program.log)
    assert any("stopping" in line for line in program.log)


async def test_past_the_grace_running_requests_are_cancelled(
    settings_text: Text, tmp_path: Path, openai_wire: Wire
) -> None:
    half = [piece for piece in openai_wire.stream(["first", "last"]).body if b"last" not in piece][:2]
    async with StubUpstream(Reply.of_events(half, end="silence")) as stub:
        text = settings_text(openai_wire.deployment(stub), server={"shutdown_grace": 0.2})
        async with served(text, tmp_path) as program:
            reader, writer = await opened_stream(program.port)
            begun = time.monotonic()
            program.process.send_signal(signal.SIGTERM)
            rest = b""
            with contextlib.suppress(ConnectionError):
                rest = await asyncio.wait_for(reader.read(), 10)
            assert b"[DONE]" not in rest
            assert await program.ended() == 0
            assert time.monotonic() - begun < 8
            await asyncio.wait_for(stub.closed_early.wait(), 5)
            writer.close()
    assert not any("Traceback" in line for line in program.log), program.log
    assert any("1 request did not end within 0.2 s" in line for line in program.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(
    settings_text: Text, tmp_path: Path, socket_path: Path, openai_wire: Wire, number: signal.Signals, settled: Wait
) -> None:
    async with StubUpstream(Reply(status=0, end="silence")) as stub:
        text = settings_text(openai_wire.deployment(stub), server={"shutdown_grace": 60, "uds": str(socket_path)})
        async with served(text, tmp_path) as program, unix(socket_path) as http:
            asking = asyncio.create_task(http.post("http://gatehook/v1/chat/completions", json=CHAT))
            await settled(lambda: stub.requests)
            begun = time.monotonic()
            program.process.send_signal(number)
            assert program.process.stderr is not None
            while b"stopping" not in (await program.process.stderr.readline()):
                pass
            program.process.send_signal(number)
            await program.ended()
            assert time.monotonic() - begun < 8
            await asyncio.wait_for(stub.closed_early.wait(), 5)
            await asyncio.wait([asking])
            assert asking.exception() is not None
    assert not any("Traceback" in line for line in program.log), program.log
    assert not exists(socket_path)


async def test_an_idle_server_ends_at_once_on_either_signal(settings_text: Text, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        async with served(settings_text(), tmp_path) as program:
            begun = time.monotonic()
            program.process.send_signal(number)
            assert await program.ended() == 0
            assert time.monotonic() - begun < 5


async def test_serving_tells_what_is_off_and_that_nobody_is_asked_for_a_key(
    settings_text: Text, tmp_path: Path
) -> None:
    off = {"name": "n", "vendor": "openai", "api_key": "env:NOT_SET"}
    lost = {"name": "o", "vendor": "nobody"}
    text = settings_text({"name": "m", "vendor": "mock"}, off, lost)
    async with served(text, tmp_path) as program:
        log = "\n".join(program.log)
    assert "model n is off" in log
    assert "NOT_SET" in log
    assert "no enabled plugin provides vendor 'nobody'" in log
    assert "no authentication plugin is on" in log


async def program(*words: str, **environ: str) -> tuple[int, str, str]:
    """Run a short command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "gatehook", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"], **environ},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_serve_tells_a_taken_port_in_one_line_and_ends_with_1(settings_text: Text, tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        (tmp_path / "settings.toml").write_text(settings_text())
        status, out, err = await program(
            "serve", "--config", str(tmp_path / "settings.toml"), GATEHOOK_SERVER__PORT=port
        )
    assert (status, out) == (1, "")
    assert port in err
    assert "Traceback" not in err


async def test_a_broken_pipe_is_no_fault(settings_text: Text, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(settings_text(*({"name": f"m{n}", "vendor": "mock"} for n in range(3000))))
    command = f"{sys.executable} -W error -m gatehook models --config {tmp_path}/settings.toml | head -1"
    shell = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await shell.communicate()
    assert out.decode().split()[0] == "NAME"
    assert err == b""
