"""New settings without a lost request: the whole program in processes of its own, under traffic."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook.testing import Reply, StubUpstream

Text = Callable[..., str]
Wire = Any
Wait = Callable[..., Any]

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
IN_FORCE, REFUSED, ENDED = "the new settings are in force", "the old settings stay in force", "ended with status 0"


@dataclass
class Program:
    """`gatehook serve`, and what it has logged so far."""

    process: asyncio.subprocess.Process
    file: Path
    environ: Mapping[str, str]
    log: list[str] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return next(line for line in self.log if "listens on" in line).split("listens on ")[1].split()[0]

    async def read(self) -> None:
        """Follow the log to its end."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(line.decode().rstrip())
            self._news.set()
        self.log.append("")
        self._news.set()

    async def told(self, part: str, *, times: int = 1) -> str:
        """The line of the log that has this in it, once there are so many."""
        async with asyncio.timeout(20):
            while True:
                found = [line for line in self.log if part in line]
                if len(found) >= times:
                    return found[times - 1]
                assert self.log[-1:] != [""], self.log
                self._news.clear()
                await self._news.wait()

    def change(self, text: str) -> None:
        self.file.write_text(text)

    def hang_up(self) -> None:
        """Have it reload, as an operator does with kill."""
        self.process.send_signal(signal.SIGHUP)

    async def reload(self) -> tuple[int, str]:
        """`gatehook reload`: its exit status and all it says."""
        return await command("reload", self.file, self.environ)

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


async def command(name: str, file: Path, environ: Mapping[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "gatehook", name, "--config", str(file),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environ,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@contextlib.asynccontextmanager
async def served(
    text: str, folder: Path, starting: Callable[[Program], Awaitable[None]] | None = None
) -> AsyncIterator[Program]:
    """Run it in a process group of its own, which is killed at the end. `starting` is called before it listens."""
    (file := folder / "settings.toml").write_text(text)
    run = tempfile.mkdtemp(dir="/tmp")  # the path of a Unix socket may have 107 bytes, and that of a test is long
    environ = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": run}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "gatehook", "serve", "--config", str(file),
        stderr=asyncio.subprocess.PIPE, env=environ, start_new_session=True,
    )  # fmt: skip
    program = Program(process, file, environ)
    reading = asyncio.create_task(program.read())
    try:
        if starting is not None:
            await starting(program)
        await program.told("listens on")
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await reading
        shutil.rmtree(run)
    assert not any("Traceback" in line or "Warning" in line for line in program.log), program.log


@dataclass
class Traffic:
    """Clients that ask on and on, each on a connection that it keeps as long as it may; half of them for streams."""

    url: str
    streamed: str = "m"
    """The model of the streams."""
    good: int = 0
    failed: list[str] = field(default_factory=list)
    over: bool = False

    @contextlib.asynccontextmanager
    async def flowing(self, clients: int) -> AsyncIterator["Traffic"]:
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._client(stream=number % 2 == 0))
            try:
                yield self
            finally:
                self.over = True

    async def _client(self, *, stream: bool) -> None:
        asked = {**ASK, "model": self.streamed if stream else "m", "stream": stream}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http:
            while not self.over:
                try:
                    async with http.post(f"{self.url}/v1/chat/completions", json=asked) as answer:
                        body = await answer.read()
                        assert answer.status == 200, body
                        assert body.endswith(b"data: [DONE]\n\n") if stream else json.loads(body)["choices"], body
                    self.good += 1
                except Exception as error:  # noqa: BLE001  # whatever it is, it was a request that failed
                    self.failed.append(repr(error))

    async def more(self, count: int) -> None:
        """Until so many more have been answered."""
        goal = self.good + count
        async with asyncio.timeout(20):
            while self.good < goal:  # noqa: ASYNC110  # it is what the clients count
                await asyncio.sleep(0.01)


@pytest.fixture
def text(settings_text: Text) -> Text:
    """Settings with the mock vendor's model `m`, and one worker unless said otherwise."""

    def made(*models: Any, workers: int = 1, server: Any = None, **changes: Any) -> str:
        own = {"workers": workers, "shutdown_grace": 10, **(server or {})}
        return settings_text(*models or ({"name": "m", "vendor": "mock"},), server=own, **changes)

    return made


async def status(url: str, path: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(url + path) as answer:
        return answer.status


# --- no request is lost


async def test_no_request_fails_over_reloads_with_a_plugin_toggled_bad_settings_and_other_workers(
    text: Text, tmp_path: Path, openai_wire: Wire
) -> None:
    async with StubUpstream(openai_wire.stream(["a", *["b"] * 5], pause=0.02)) as stub:
        models = ({"name": "m", "vendor": "mock"}, openai_wire.deployment(stub, "slow"))
        async with served(text(*models, workers=2), tmp_path) as program:
            async with Traffic(program.url, streamed="slow").flowing(12) as traffic:
                await traffic.more(100)
                assert await status(program.url, "/metrics") == 404

                program.change(text(*models, workers=2, plugin_metrics={}))
                program.hang_up()
                await program.told(IN_FORCE)
                await traffic.more(100)
                assert await status(program.url, "/metrics") == 200

                program.change(text(*models, workers=2, plugin_metrics={"nonsense": 1}, server={"prot": 1}))
                program.hang_up()
                assert "prot" in await program.told(REFUSED)
                assert "nonsense" in await program.told(REFUSED, times=2)
                await traffic.more(100)

                program.change(text(*models, workers=3, plugin_metrics={}))
                program.hang_up()
                assert "3 workers" in await program.told(IN_FORCE, times=2)
                await traffic.more(100)
                await program.told(ENDED, times=4)  # both of the first, and of the second generation
                await traffic.more(100)
            assert traffic.failed == []
            assert not any("cancelled" in line or "killed" in line for line in program.log), program.log


async def test_from_one_process_to_three_and_back(text: Text, tmp_path: Path) -> None:
    async with served(text(), tmp_path) as program, Traffic(program.url).flowing(8) as traffic:
        for workers in (3, 1):
            await traffic.more(50)
            program.change(text(workers=workers))
            code, said = await program.reload()
            assert (code, said) == (0, f"reloaded: 1 model at {program.url}, {workers} worker{'s' * (workers > 1)}\n")
            await traffic.more(50)
        assert traffic.failed == []


async def test_a_stream_that_has_begun_ends_in_the_old_generation(
    text: Text, tmp_path: Path, openai_wire: Wire, settled: Wait
) -> None:
    async with StubUpstream(openai_wire.stream(["first", *["more"] * 20, "last"], pause=0.05)) as stub:
        model = openai_wire.deployment(stub)
        async with served(text(model), tmp_path) as program:
            async with (
                aiohttp.ClientSession() as http,
                http.post(f"{program.url}/v1/chat/completions", json={**ASK, "stream": True}) as answer,
            ):
                await answer.content.readuntil(b"\n\n")
                program.change(text(model, plugin_metrics={}))
                assert (await program.reload())[0] == 0
                assert await status(program.url, "/metrics") == 200
                rest = await answer.content.read()
                assert b"last" in rest
                assert rest.endswith(b"data: [DONE]\n\n")
            await program.told(ENDED)


async def test_past_the_grace_the_old_generation_s_streams_are_cancelled(
    text: Text, tmp_path: Path, openai_wire: Wire
) -> None:
    async with StubUpstream(openai_wire.stream(["first", *["more"] * 600, "last"], pause=0.05)) as stub:
        settings = text(openai_wire.deployment(stub), server={"shutdown_grace": 0.3})
        async with (
            served(settings, tmp_path) as program,
            aiohttp.ClientSession() as http,
            http.post(f"{program.url}/v1/chat/completions", json={**ASK, "stream": True}) as answer,
        ):
            await answer.content.readuntil(b"\n\n")
            program.hang_up()
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()
            await program.told("did not end within 0.3 s: cancelled")


def is_deaf(pid: int) -> bool:
    """Whether SIGHUP waits to be delivered to a process."""
    blocked = Path(f"/proc/{pid}/status").read_text().partition("SigBlk:")[2].split()[0]
    return bool(int(blocked, 16) & 1)


async def test_a_reload_that_is_asked_for_while_it_starts_is_made_afterwards(text: Text, tmp_path: Path) -> None:
    async def hang_up_early(program: Program) -> None:
        while not is_deaf(program.process.pid):  # noqa: ASYNC110  # before that, Python itself starts
            await asyncio.sleep(0.001)
        program.hang_up()

    async with served(text(), tmp_path, hang_up_early) as program:
        await program.told(IN_FORCE)
        assert await status(program.url, "/v1/models") == 200


async def test_what_the_old_generation_accepts_last_has_the_whole_grace(
    text: Text, tmp_path: Path, openai_wire: Wire
) -> None:
    async with StubUpstream(openai_wire.stream(["first", *["more"] * 18, "last"], pause=0.1)) as stub:
        models = ({"name": "m", "vendor": "mock"}, openai_wire.deployment(stub, "slow"))
        async with (
            served(text(*models, server={"shutdown_grace": 3}), tmp_path) as program,
            aiohttp.ClientSession() as http,
        ):
            async with http.post(f"{program.url}/v1/chat/completions", json=ASK) as answer:
                assert answer.status == 200
            assert (await program.reload())[0] == 0
            await asyncio.sleep(2)  # of the three seconds for which it still accepts requests of known clients
            body = {**ASK, "model": "slow", "stream": True}
            async with http.post(f"{program.url}/v1/chat/completions", json=body) as answer:
                assert answer.headers["Connection"] == "close"  # it is the old one
                assert (await answer.read()).endswith(b"data: [DONE]\n\n")


async def test_an_answer_of_the_old_generation_is_the_last_on_its_connection(text: Text, tmp_path: Path) -> None:
    async with served(text(), tmp_path) as program, aiohttp.ClientSession() as http:
        for expected in (None, "close", None):
            async with http.post(f"{program.url}/v1/chat/completions", json=ASK) as answer:
                assert answer.status == 200
                assert answer.headers.get("Connection") == expected
            if expected is None and not any(IN_FORCE in line for line in program.log):
                assert (await program.reload())[0] == 0


async def test_the_old_generation_is_ready_until_it_is_gone(text: Text, tmp_path: Path) -> None:
    async with served(text(), tmp_path) as program, aiohttp.ClientSession() as http:
        async with http.get(f"{program.url}/health/ready") as answer:
            assert answer.status == 200
        assert (await program.reload())[0] == 0
        async with http.get(f"{program.url}/health/ready") as answer:  # on the connection to the old one
            assert (answer.status, answer.headers.get("Connection")) == (200, "close")


# --- what cannot be


async def test_faults_are_told_by_the_command_and_nothing_changes(text: Text, tmp_path: Path) -> None:
    async with served(text(plugin_metrics={}), tmp_path) as program:
        program.change(text(server={"port": "many"}, plugin_nothing={}))
        code, said = await program.reload()
        assert code == 1
        assert "port" in said
        assert "nothing" in said
        assert said.endswith(f"{REFUSED}\n")
        assert await status(program.url, "/metrics") == 200


async def test_a_generation_that_cannot_start_is_told_and_the_old_one_goes_on(text: Text, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with served(text(), tmp_path) as program, Traffic(program.url).flowing(4) as traffic:
        database = {"url": "sqlite:///file/gatehook.db"}
        program.change(text(workers=2, database=database, plugin_database={}))
        code, said = await program.reload()
        assert code == 1
        assert "plugin 'database'" in said
        await traffic.more(50)
        program.change(text())
        assert (await program.reload())[0] == 0
        await traffic.more(50)
        assert traffic.failed == []


async def test_an_address_that_is_taken_is_refused_and_another_is_moved_to(
    text: Text, tmp_path: Path, settled: Wait
) -> None:
    async with served(text(), tmp_path) as one, StubUpstream(Reply()) as stub:
        taken = int(stub.url.rpartition(":")[2].partition("/")[0])
        one.change(text(server={"port": taken}))
        code, said = await one.reload()
        assert (code, "cannot listen" in said) == (1, True)
        path = tmp_path / "g.sock"
        one.change(text(server={"uds": str(path)}))
        assert (await one.reload()) == (0, f"reloaded: 1 model at unix:{path}, 1 worker\n")
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http,
            http.post("http://gatehook/v1/chat/completions", json=ASK) as answer,
        ):
            assert answer.status == 200
        await one.told(ENDED)
        with pytest.raises(aiohttp.ClientConnectionError):
            await status(one.url, "/health/ready")
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0
        assert not path.exists()


async def test_a_socket_whose_file_was_removed_is_made_again(text: Text, tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    async with served(text(server={"uds": str(path)}), tmp_path) as one:
        path.unlink()
        assert (await one.reload()) == (0, f"reloaded: 1 model at unix:{path}, 1 worker\n")
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http,
            http.post("http://gatehook/v1/chat/completions", json=ASK) as answer,
        ):
            assert answer.status == 200


async def test_a_socket_of_another_server_at_its_path_is_told_and_left_alone(text: Text, tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    async with served(text(server={"uds": str(path)}), tmp_path) as one:
        path.unlink()
        async with await asyncio.start_unix_server(lambda _, writer: writer.close(), path):
            fault = f"[server] uds: another server is listening on {str(path)!r}; stop it, or name another path"
            code, said = await one.reload()
            assert (code, fault in said) == (1, True)
            assert any(f"the old settings stay in force: {fault}" in line for line in one.log)
            one.change(text(server={"uds": str(tmp_path / "other.sock")}))
            assert (await one.reload())[0] == 0
            await one.told(ENDED)
            assert path.is_socket()


async def test_the_end_leaves_a_socket_of_another_server_alone_and_a_reload_takes_a_dead_one_s_path(
    text: Text, tmp_path: Path
) -> None:
    path = tmp_path / "g.sock"
    async with served(text(server={"uds": str(path)}), tmp_path) as one:
        path.unlink()
        async with await asyncio.start_unix_server(lambda _, writer: writer.close(), path):
            pass
        assert (await one.reload())[0] == 0
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http,
            http.get("http://gatehook/health/ready") as answer,
        ):
            assert answer.status == 200
        path.unlink()
        async with await asyncio.start_unix_server(lambda _, writer: writer.close(), path):
            one.process.send_signal(signal.SIGTERM)
            assert await one.ended() == 0
            assert path.is_socket()


async def test_without_a_gateway_the_command_says_so(
    text: Text, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (file := tmp_path / "settings.toml").write_text(text())
    run = tmp_path_factory.mktemp("r")
    code, said = await command("reload", file, {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(run)})
    assert (code, said) == (1, f"no gateway is running with {file}, or another user runs it\n")


# --- signals and deaths


async def test_reloads_that_come_together_are_done_one_after_another(text: Text, tmp_path: Path) -> None:
    async with served(text(), tmp_path) as program, Traffic(program.url).flowing(4) as traffic:
        answers = await asyncio.gather(*(program.reload() for _ in range(4)))
        assert {code for code, _ in answers} == {0}
        for _ in range(5):
            program.hang_up()
        await traffic.more(100)
        assert traffic.failed == []
        program.process.send_signal(signal.SIGTERM)
        await program.told("stopping")
        traffic.over = True
        assert await program.ended() == 0


async def test_a_worker_killed_after_a_reload_is_replaced_in_the_new_generation(text: Text, tmp_path: Path) -> None:
    async with served(text(plugin_metrics={}), tmp_path) as program:
        program.change(text())
        assert (await program.reload())[0] == 0
        await program.told(ENDED)
        (worker,) = await children(program.process.pid)
        os.kill(worker, signal.SIGKILL)
        await program.told("another takes its place")
        async with asyncio.timeout(20):
            while await children(program.process.pid) in ([], [worker]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await status(program.url, "/metrics") == 404


async def children(pid: int) -> list[int]:
    """Of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]  # noqa: ASYNC240


async def test_sigterm_in_the_middle_of_a_reload_ends_both_generations(text: Text, tmp_path: Path) -> None:
    async with served(text(workers=2), tmp_path) as program:
        program.change(text(workers=4))
        program.hang_up()
        await program.told("reloading")
        begun = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert time.monotonic() - begun < 15


# --- what the generations share


async def scraped(url: str) -> float:
    """All requests that the metrics know of."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as answer:
        found = re.findall(r"^gateway_requests_total{.*} ([0-9.]+)$", await answer.text(), re.MULTILINE)
        return sum(map(float, found))


@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (2, 1, 2, 1)])
async def test_the_metrics_of_several_workers_outlive_their_generation(
    text: Text, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    async with served(text(workers=sizes[0], plugin_metrics={}), tmp_path) as program:
        for generation, following in enumerate(sizes[1:], 1):
            for _ in range(10):
                async with aiohttp.ClientSession() as http, http.post(f"{program.url}/v1/chat/completions", json=ASK):
                    pass
            async with asyncio.timeout(10):
                while await scraped(program.url) != 10 * generation:  # a request is counted just after its answer
                    pass
            program.change(text(workers=following, plugin_metrics={}))
            assert (await program.reload())[0] == 0
            assert await scraped(program.url) == 10 * generation
            await program.told(ENDED, times=sum(sizes[:generation]))
            assert await scraped(program.url) == 10 * generation


async def test_the_limits_of_several_workers_outlive_their_generation(text: Text, tmp_path: Path) -> None:
    limited = text(workers=2, plugin_rate_limit={"requests_per_minute": 6})
    async with served(limited, tmp_path) as program:
        statuses = []
        for _ in range(4):
            for _ in range(2):
                async with (
                    aiohttp.ClientSession() as http,
                    http.post(f"{program.url}/v1/chat/completions", json=ASK) as answer,
                ):
                    statuses.append(answer.status)
            assert (await program.reload())[0] == 0
        assert statuses == [200] * 6 + [429] * 2


# --- the admin API


async def test_an_admin_reloads_over_http_and_is_told_what_is_wrong(text: Text, tmp_path: Path) -> None:
    key = "admin-key-0123456789abcdef"
    accounts: dict[str, Any] = {
        "database": {"url": f"sqlite:///{tmp_path}/gatehook.db"},
        "plugin_database": {},
        "plugin_admin_api": {},
        "plugin_auth_keys": {"admin_keys": [key]},
    }

    async def reloaded() -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        async with aiohttp.ClientSession() as http, http.post(f"{program.url}/admin/reload", headers=headers) as answer:
            return answer.status, await answer.json()

    async with served(text(**accounts), tmp_path) as program:
        program.change(text(workers=2, plugin_metrics={}, **accounts))
        assert await reloaded() == (200, {"object": "reload", "address": program.url, "models": 1, "workers": 2})
        assert await status(program.url, "/metrics") == 200
        program.change(text(server={"prot": 1}, **accounts))
        code, said = await reloaded()
        assert (code, said["error"]["code"]) == (400, "invalid_settings")
        assert "prot" in said["error"]["message"]
