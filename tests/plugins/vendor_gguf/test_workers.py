"""Several workers share one copy of a model, through reloads and deaths: the whole program in processes of its own."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

Write = Callable[..., Path]

PROGRAM = """
import sys
from gatehook.commands.cli import main
import gatehook_plugins.vendor_gguf as plugin
from gatehook_plugins.vendor_gguf import link
plugin.is_installed = lambda: True
link._ENGINE = sys.argv[2:]
sys.exit(main(["serve", "--config", sys.argv[1]]))
"""

SETTINGS = """
[server]
port = 0
workers = {workers}
shutdown_grace = 5
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_gguf]
models_dir = "{folder}"
{more}
"""


@dataclass
class Program:
    """`gatehook serve`, and what it has logged so far."""

    process: asyncio.subprocess.Process
    file: Path
    log: list[str] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._news:
                self.log.append(line.decode().rstrip())
                self._news.notify_all()

    async def told(self, part: str, times: int = 1) -> str:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: sum(part in line for line in self.log) >= times)
        return [line for line in self.log if part in line][times - 1]

    @property
    def url(self) -> str:
        return next(line for line in self.log if "listens on" in line).split("listens on ")[1].split()[0]

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def post(self, http: aiohttp.ClientSession, model: str, text: str = "Hi", **more: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return http.post(f"{self.url}/v1/chat/completions", json=body)

    async def engine(self, model: str = "a") -> int:
        """The process that answers, asked by a connection of its own, which any worker may take."""
        async with aiohttp.ClientSession() as http, self.post(http, model) as answer:
            said = await answer.json()
            assert answer.status == 200, said
            return int(said["choices"][0]["message"]["content"].split()[2])


@pytest.fixture
def program(tmp_path: Path, stand_in: tuple[str, ...]) -> Callable[..., Any]:
    @contextlib.asynccontextmanager
    async def run(workers: int, more: str = "") -> AsyncIterator[Program]:
        file = tmp_path / "settings.toml"
        file.write_text(SETTINGS.format(workers=workers, folder=tmp_path, more=more))
        (tmp_path / "run").mkdir(mode=0o700)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", PROGRAM, str(file), *stand_in,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
            env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path / "run")},
        )  # fmt: skip
        served = Program(process, file)
        reading = asyncio.create_task(served.read())
        try:
            await served.told("listens on")
            yield served
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
            await process.wait()
            await reading  # to the end: nobody holds the log any more, so the host and the models have ended
        assert not any("Traceback" in line or "Warning" in line for line in served.log), served.log

    return run


async def test_all_workers_share_one_copy_of_a_model(program: Callable[..., Any], gguf: Write) -> None:
    gguf("a.gguf")
    async with program(workers=3) as served:
        engines = await asyncio.gather(*(served.engine() for _ in range(24)))
        assert len(set(engines)) == 1
        assert sum("is loaded" in line for line in served.log) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(engines[0], 0)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_reload_leaves_models_and_streams_as_they_are(
    program: Callable[..., Any], gguf: Write, workers: int
) -> None:
    gguf("a.gguf")
    async with program(workers=workers) as served, aiohttp.ClientSession() as http:
        engine = await served.engine()
        async with served.post(http, "a", "slow", stream=True) as stream:
            await stream.content.readany()
            served.process.send_signal(signal.SIGHUP)
            await served.told("the new settings are in force")
            assert await served.engine() == engine
            assert await stream.content.readany()
        await served.told("ended with status 0", times=workers)
        assert await served.engine() == engine


async def test_settings_that_change_a_model_have_it_loaded_anew(program: Callable[..., Any], gguf: Write) -> None:
    gguf("a.gguf")
    async with program(workers=1) as served:
        engine = await served.engine()
        served.file.write_text(served.file.read_text() + "\ncontext = 128\n")
        served.process.send_signal(signal.SIGHUP)
        await served.told("ended with status 0")
        assert await served.engine() != engine
        await served.told("a is loaded anew")


async def test_a_worker_that_is_killed_gives_its_leases_back(program: Callable[..., Any], gguf: Write) -> None:
    for name in "ab":
        gguf(f"{name}.gguf")
    async with program(workers=1, more="max_concurrent_models = 1") as served, aiohttp.ClientSession() as http:
        async with served.post(http, "a", "slow", stream=True) as stream:
            await stream.content.readany()
            os.kill(served.workers()[0], signal.SIGKILL)
            with contextlib.suppress(aiohttp.ClientError):
                await stream.content.read()
        assert await served.engine("b")
        await served.told("a is unloaded")
