"""The surroundings of `gatehook serve`: output that nobody takes, a container's first process, who is to be trusted."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.certificates import Authority

from gatehook.testing import Reply, StubUpstream

SETTINGS = """
[server]
uds = "s.sock"
shutdown_grace = 3
[plugins.health]
"""


def children(pid: int) -> set[str]:
    """The processes that it has begun."""
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # what is waited for is another process
            await asyncio.sleep(0.02)


async def ready(file: Path) -> int:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(file))) as http, asyncio.timeout(30):
        while True:
            try:
                async with http.get("http://gateway/health/ready") as answer:
                    return answer.status
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def unheard() -> int:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(
    ("open_it", "closed"),
    [(full, ""), (unheard, ""), (full, ">&-"), (full, "2>&-"), (full, "<&- >&- 2>&-")],
    ids=["full", "unheard", "no output", "no errors", "nothing"],
)
async def test_it_serves_on(tmp_path: Path, open_it: Callable[[], int], closed: str) -> None:
    (tmp_path / "settings.toml").write_text(SETTINGS)
    number = open_it()
    process: Any = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", f'exec "{sys.executable}" -m gatehook serve {closed}',
        stdout=number, stderr=number, cwd=tmp_path, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    os.close(number)
    try:
        assert await ready(tmp_path / "s.sock") == 200
        first = children(process.pid)
        process.send_signal(signal.SIGHUP)
        await until(lambda: bool(children(process.pid)) and not first & children(process.pid))
        assert await ready(tmp_path / "s.sock") == 200
        (second,) = children(process.pid)
        os.kill(int(second), signal.SIGKILL)
        await until(lambda: bool(children(process.pid) - {second}))
        assert await ready(tmp_path / "s.sock") == 200
        process.terminate()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert not (tmp_path / "s.sock").exists()


EARLY = """
import os, signal, sys
me, os.getpid = os.getpid(), lambda: 1
from gatehook.commands.cli import main
from gatehook.serving import supervisor
supervisor.supervise = lambda build, ready: (build(), os.kill(me, signal.SIGTERM))
sys.exit(main(["serve"]))
"""


async def test_a_container_that_is_stopped_while_it_starts_stops(tmp_path: Path) -> None:
    """Its first process has no default for signals: without a handler they would be lost."""
    (tmp_path / "settings.toml").write_text(SETTINGS)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", EARLY, cwd=tmp_path)
    async with asyncio.timeout(30):
        assert await process.wait() == 128 + signal.SIGTERM


TLS = """
[server]
uds = "s.sock"
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_openai]
[[models]]
name = "m"
vendor = "openai"
base_url = "{url}"
"""


@pytest.mark.parametrize("trusted", [True, False])
async def test_vendors_are_trusted_as_the_system_says(tmp_path: Path, authority: Authority, trusted: bool) -> None:
    file = tmp_path / "authorities.pem"
    file.write_text(authority.pem if trusted else Authority().pem)
    said = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ]}  # fmt: skip
    async with StubUpstream(Reply.of_json(said), tls=authority.server("127.0.0.1")) as stub:
        (tmp_path / "settings.toml").write_text(TLS.format(url=stub.url))
        environ = {"PATH": os.environ["PATH"], "SSL_CERT_FILE": str(file)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gatehook", "serve", cwd=tmp_path, env=environ, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(30):
                while not (tmp_path / "s.sock").exists():  # noqa: ASYNC110  # what is waited for is another process
                    await asyncio.sleep(0.02)
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            connector = aiohttp.UnixConnector(str(tmp_path / "s.sock"))
            async with (
                aiohttp.ClientSession(connector=connector) as http,
                http.post("http://gateway/v1/chat/completions", json=body) as answer,
            ):
                text = await answer.text()
                assert answer.status == (200 if trusted else 502), text
            if not trusted:
                assert "certificate is not accepted" in json.loads(text)["error"]["message"]
        finally:
            process.terminate()
            await process.wait()
