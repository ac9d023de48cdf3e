"""One change of the configuration, and every worker of a real program serves by it: at once here, soon everywhere."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

Text = Callable[..., str]

ADMIN = "admin-of-the-config-0123456789"
PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from aiohttp import web
from gatehook import Route, Section, hookimpl
from gatehook.testing import built
from gatehook.serving.supervisor import supervise

class Probe:
    class Settings(Section): ...

    def __init__(self, settings): ...

    @hookimpl
    def register_routes(self, gateway):
        async def who(request):
            return web.json_response({"pid": os.getpid()})
        return [Route("GET", "/who", who, auth=False)]

supervise(
    lambda: built(Path(sys.argv[1]).read_text(), plugins={"probe": Probe}),
    lambda gateway, address, models: print("listens on", address, flush=True),
)
"""


@contextlib.asynccontextmanager
async def served(text: str, folder: Path) -> AsyncIterator[str]:
    """The address of the program, which is stopped as an operator stops it."""
    (file := folder / "settings.toml").write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", PROGRAM, str(file),
        stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            while b"listens on" not in (line := await process.stdout.readline()):
                assert line, "it has ended"
            yield line.decode().split()[2]
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


class Client:
    """A connection that is kept, so that one worker answers it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1), headers={"Authorization": f"Bearer {ADMIN}"}
        )

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, str]:
        """Status, body and ETag."""
        async with self.http.request(method, self._url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json(), answer.headers.get("ETag", "")

    async def chat(self, model: str) -> int:
        status, _, _ = await self.ask(
            "POST", "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
        )
        return status


@contextlib.asynccontextmanager
async def one_of_each(url: str, workers: int) -> AsyncIterator[list[Client]]:
    """A client of every worker."""
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(20):
        found: dict[int, Client] = {}
        while len(found) < workers:
            client = Client(url)
            await stack.enter_async_context(client.http)
            _, who, _ = await client.ask("GET", "/who")
            found.setdefault(who["pid"], client)
        yield list(found.values())


async def within_a_second(question: Callable[[], Any], wanted: Any) -> None:
    """Asked a hundred times, the worker knows it. The clock on the wall would count what a busy machine does else."""
    for _ in range(100):
        if await question() == wanted:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never learnt of it")


@pytest.fixture
def text(settings_text: Text, database_url: str) -> str:
    """Two workers and two models on one database."""
    return settings_text(
        {"name": "m", "vendor": "mock"},
        {"name": "spare", "vendor": "mock"},
        server={"workers": 2},
        database={"url": database_url, "secret": "pepper-of-the-database-0123456789"},
        plugin_database={},
        plugin_auth_keys={"admin_keys": [ADMIN]},
        plugin_llm_api={},
        plugin_probe={},
    )


async def test_one_change_is_served_by_every_worker_and_after_a_restart(text: str, tmp_path: Path) -> None:
    path = "/api/llm/config/models/m"
    async with served(text, tmp_path) as url, one_of_each(url, 2) as (here, there):
        assert [await one.chat("m") for one in (here, there)] == [200, 200]
        status, config, tag = await here.ask("PUT", path, {"enabled": False, "priority": 4})
        assert (status, config["enabled"], config["priority"]) == (200, False, 4)
        refused = await here.chat("m")
        assert refused in (404, 503)
        await within_a_second(lambda: there.chat("m"), refused)
        assert await there.ask("GET", path) == (200, config, tag)
        edits = [one.ask("PUT", path, {"priority": n}, **{"If-Match": tag}) for n, one in enumerate((here, there))]
        assert sorted(status for status, _, _ in await asyncio.gather(*edits)) == [200, 412]
        balance = "/api/v1/llm/config/load-balancing"
        status, shared, _ = await there.ask("PUT", balance, {"strategy": "round_robin", "weights": {"m": 0.4}})
        assert (status, shared["strategy"], shared["weights"]) == (200, "round_robin", {"m": 0.4})

        async def strategy() -> str:
            return str((await here.ask("GET", balance))[1]["strategy"])

        await within_a_second(strategy, "round_robin")
        _, config, tag = await here.ask("PUT", path, {"fallback_models": ["spare"]})
        assert await here.chat("m") == 200
        await within_a_second(lambda: there.chat("m"), 200)
    async with served(text, tmp_path) as url, one_of_each(url, 2) as clients:
        for client in clients:
            assert await client.ask("GET", path) == (200, config, tag)
            assert await client.chat("m") == 200, "by its fallback"
            assert (await client.ask("GET", balance))[1] == shared
