"""Gateways that cache, people who ask, a vendor that answers when a test says so, and Redis servers that go away."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import (
    Attempt,
    Authenticator,
    Call,
    Chunk,
    Completion,
    Credential,
    Observer,
    Operation,
    Outcome,
    Principal,
    Section,
    StreamBuilder,
    Usage,
    Vendor,
    completion,
    hookimpl,
)
from gatehook.testing import Served, serving
from gatehook_plugins.cache import CachePlugin

TABLES = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.vendor_openai]
[plugins.people]
[plugins.stage]
[plugins.cache]
{cache}
[[models]]
name = "m"
aliases = ["fast"]
vendor = "mock"
pricing = {{ input_per_1k_tokens = 1, output_per_1k_tokens = 2 }}
options = {{ text = "Fine.", usage = {{ prompt_tokens = 40, completion_tokens = 60 }} }}
[[models]]
name = "staged"
vendor = "stage"
[failover]
retries = 0
"""


class People:
    """Lets in who names itself, as "user" or "user/key"."""

    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_authenticators(self) -> Iterable[Authenticator]:
        return [self]

    async def authenticate(self, credential: Credential) -> Principal | None:
        user, _, key = (credential.token or "ann").partition("/")
        return Principal(user, key_id=key or f"{user}-key")


Act = str | Exception


class Stage:
    """A vendor whose every call waits for the test; and an observer of how calls end."""

    class Settings(Section): ...

    name = "stage"
    operations: frozenset[Operation] = frozenset({"chat"})
    parameters: Mapping[Operation, Mapping[str, Any]] = {}

    def __init__(self, settings: Settings) -> None:
        self.acts: list[asyncio.Future[Act]] = []
        self.outcomes: list[Outcome] = []
        self.moved = asyncio.Event()
        Stage.now = self

    now: Stage

    @hookimpl
    def register_vendors(self) -> Iterable[Vendor]:
        return [self]

    @hookimpl
    def register_observers(self) -> Iterable[Observer]:
        stage = self

        class Ends(Observer):
            def finished(self, call: Call, outcome: Outcome) -> None:
                stage.outcomes.append(outcome)
                stage.moved.set()

        return [Ends()]

    async def complete(self, attempt: Attempt) -> Completion:
        text = await self._act()
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return completion(attempt.call, [choice], Usage(10, 20))

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        builder = StreamBuilder(attempt.call)
        yield [builder.text("Well, ")]
        yield [builder.text(await self._act())]
        yield [builder.finish("stop"), builder.usage(Usage(10, 20))]

    async def _act(self) -> str:
        waiting: asyncio.Future[Act] = asyncio.get_running_loop().create_future()
        self.acts.append(waiting)
        self.moved.set()
        act = await waiting
        if isinstance(act, Exception):
            raise act
        return act

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until something is so; it is looked at whenever a call begins or ends."""
        async with asyncio.timeout(10):
            while not happened():
                self.moved.clear()
                await self.moved.wait()

    async def calls(self, count: int) -> None:
        """Wait until the vendor has been called so often."""
        await self.until(lambda: len(self.acts) >= count)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def cache(self) -> str | None:
        """What X-Cache says."""
        return self.headers.get("X-Cache")

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Client:
    """Asks a gateway."""

    def __init__(self, served: Served, session: ClientSession) -> None:
        self.gateway = served.gateway
        self.stage = Stage.now
        self.url = served.url
        self.session = session

    async def ask(
        self, control: str = "", *, who: str = "ann", path: str = "chat/completions", data: bytes = b"", **more: Any
    ) -> Answer:
        """An answer; `control` is the Cache-Control of the request."""
        headers = {"Authorization": f"Bearer {who}", "Content-Type": "application/json"}
        if control:
            headers["Cache-Control"] = control
        body: dict[str, Any] = {"model": "m"}
        if path == "chat/completions":
            body["messages"] = [{"role": "user", "content": "hi"}]
        text = data or json.dumps({**body, **more}).encode()
        async with self.session.post(f"{self.url}/v1/{path}", data=text, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.text())


Gateway = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def gateway() -> Gateway:
    """Serves a gateway: `async with gateway(lines of [plugins.cache], more settings) as client`."""

    @asynccontextmanager
    async def serve(cache: str = "", more: str = "", **plugins: type) -> AsyncIterator[Client]:
        classes = {"cache": CachePlugin, "people": People, "stage": Stage, **plugins}
        settings = TABLES.format(cache=cache) + more
        async with serving(settings, plugins=classes) as served, ClientSession() as session:
            yield Client(served, session)

    return serve


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The line of [plugins.cache], and the table beside it, of each backend."""
    if request.param == "memory":
        return "", ""
    url = request.getfixturevalue("redis_url")
    return 'backend = "redis"', f'[redis]\nurl = "{url}"\ntimeout = 5\n'


class OwnRedis:
    """A server that a test starts and stops; its address stays the same."""

    def __init__(self, program: str, port: int) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._port = port
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        words = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([self._program, *words], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(5)
            self._process = None


@pytest.fixture
def own_redis(redis_server: str, free_port: Callable[[], int]) -> Iterator[OwnRedis]:
    """A server that does not run yet."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        program = client.info("server")["executable"]
    server = OwnRedis(program, free_port())
    yield server
    server.stop()


@pytest.fixture
async def silent_url() -> AsyncIterator[str]:
    """A Redis that takes connections and never says a word."""
    writers: list[asyncio.StreamWriter] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while await reader.read(4096):
            pass
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    server.close()
    for writer in writers:
        writer.close()
    await server.wait_closed()
