"""Stores to test, each with a clock that a test turns, and servers that go away."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession

from gatehook import Authenticator, Credential, Principal, RedisSettings, SecretStr, Section, hookimpl
from gatehook.redis_line import RedisLine
from gatehook.testing import Served, serving
from gatehook_plugins.rate_limit import RateLimit
from gatehook_plugins.rate_limit.machine import MachineStore
from gatehook_plugins.rate_limit.memory import MemoryStore
from gatehook_plugins.rate_limit.shared import RedisStore

_prefixes = itertools.count()


class Clock:
    """Microseconds, which pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_250_000

    def __call__(self) -> int:
        return self.now

    def nanoseconds(self) -> int:
        return self.now * 1000

    def turn(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)


def line(url: str, timeout: float = 5, clock: Callable[[], float] = time.monotonic) -> RedisLine:
    settings = RedisSettings(url=SecretStr(url), timeout=timeout)
    return RedisLine(
        settings, logging.getLogger("gatehook.rate_limit"), gone="it is a test", back="it was", clock=clock
    )


@pytest.fixture(name="line")
def _line() -> Callable[..., RedisLine]:
    """Makes lines to Redis: ``line(url, timeout, clock)``."""
    return line


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(redis_url: str) -> Callable[..., AbstractAsyncContextManager[RedisStore]]:
    """Makes stores as each node of a cluster has one: `async with node(clock, prefix=…) as store`."""

    @asynccontextmanager
    async def make(clock: Clock | None = None, prefix: str = "gatehook") -> AsyncIterator[RedisStore]:
        store = RedisStore(line(redis_url), prefix, clock)
        async with store.lifespan():
            yield store

    return make


@pytest.fixture(params=["memory", "machine", "redis"])
async def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[Clock], Any]]:
    """Gives a store in which nothing is counted, each time it is called; the test runs once with each kind."""
    if request.param == "memory":
        yield lambda clock: MemoryStore(clock.nanoseconds)
        return
    if request.param == "machine":
        with contextlib.ExitStack() as stack:
            yield lambda clock: stack.enter_context(on_machine(clock, tmp_path / str(next(_prefixes))))
        return
    redis = line(request.getfixturevalue("redis_url"))
    yield lambda clock: RedisStore(redis, f"test{next(_prefixes)}", clock)
    await redis.close()


@contextlib.contextmanager
def on_machine(clock: Callable[[], int], folder: Path, worker: int = 0) -> Iterator[MachineStore]:
    """A store as one of the workers has it that share a folder."""
    folder.mkdir(exist_ok=True)
    store = MachineStore(clock)
    store.open(folder, worker)
    yield store
    store.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., MachineStore]]:
    """Makes stores as the workers of one machine have them: `worker(clock, number)`."""
    with contextlib.ExitStack() as stack:
        yield lambda clock, number=0: stack.enter_context(on_machine(clock, tmp_path / "shared", number))


@pytest.fixture
def store(fresh: Callable[[Clock], Any], clock: Clock) -> Any:
    return fresh(clock)


@pytest.fixture(params=["memory", "redis"])
def redis_table(request: pytest.FixtureRequest) -> str:
    """The [redis] table of a gateway that limits in memory, and of one that does so in Redis."""
    return (
        "" if request.param == "memory" else f'[redis]\nurl = "{request.getfixturevalue("redis_url")}"\ntimeout = 10\n'
    )


class OwnRedis:
    """A server that a test starts and stops; its address stays the same."""

    def __init__(self, program: str, folder: Path, port: int) -> None:
        self._program, self._folder = program, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = port
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.socket = folder / "s"

    def start(self) -> None:
        words = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        words += ["--unixsocket", str(self.socket), "--dir", str(self._folder)]
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
def own_redis(
    redis_server: str, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[OwnRedis]:
    """A server that does not run yet."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        program = client.info("server")["executable"]
    server = OwnRedis(program, tmp_path_factory.mktemp("r"), free_port())
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


# --- whole gateways ------------------------------------------------------------------------------------------------


PEOPLE: dict[str, Principal] = {}


class People:
    """Lets in whoever a test put among the people, by its token."""

    class Settings(Section):
        """[plugins.people]."""

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_authenticators(self) -> Iterable[Authenticator]:
        return [self]

    async def authenticate(self, credential: Credential) -> Principal | None:
        return PEOPLE.get(credential.token)


class Client:
    """Asks a gateway."""

    def __init__(self, served: Served, session: ClientSession) -> None:
        self.gateway = served.gateway
        self._session = session
        self._url = served.url

    async def ask(self, token: str = "", model: str = "m", *, stream: bool = False, **more: Any) -> Answer:
        """An answer: its status, its headers, its body (of a stream: the text)."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body, headers=headers) as answer:
            text = await answer.text()
            return Answer(answer.status, answer.headers, text if stream and answer.ok else json.loads(text))

    async def post(self, body: Any, token: str = "") -> ClientResponse:
        """The bare response, for tests that leave midway."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self._session.post(f"{self._url}/v1/chat/completions", json=body, headers=headers)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any


@pytest.fixture
def people() -> Iterator[dict[str, Principal]]:
    """Who may come in, by token; empty at first."""
    PEOPLE.clear()
    yield PEOPLE
    PEOPLE.clear()


@pytest.fixture
def gateway(people: dict[str, Principal]) -> Callable[..., AbstractAsyncContextManager[Client]]:
    """Serves a gateway: `async with gateway(settings) as client`; with `people` they must show their tokens."""

    @asynccontextmanager
    async def serve(settings: str, plugins: Mapping[str, type] | None = None) -> AsyncIterator[Client]:
        tables = "[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_mock]\n"
        tables += "[plugins.people]\n" if people else ""
        classes = {"rate_limit": RateLimit, "people": People, **(plugins or {})}
        async with serving(tables + settings, plugins=classes) as served, ClientSession() as session:
            yield Client(served, session)

    return serve


@dataclass(frozen=True)
class Reply:
    """What is told of limits is by names in lower case."""

    status: int
    limits: Mapping[str, str]
    body: bytes
    """As much as has come with the head."""


@pytest.fixture
def surfaces(people: dict[str, Principal]) -> Callable[..., AbstractAsyncContextManager[Callable[..., Any]]]:
    """Serves any gateway: `async with surfaces(settings) as ask`, then `await ask(method, path, body, token)`."""

    @asynccontextmanager
    async def serve(settings: str) -> AsyncIterator[Callable[..., Any]]:
        classes = {"rate_limit": RateLimit, "people": People}
        async with serving(settings, plugins=classes) as served, ClientSession() as session:

            async def ask(method: str, path: str, body: Any = None, token: str = "t", kind: str = "") -> Reply:
                headers = {"Content-Type": kind or "application/json"} if body is not None else {}
                if token:
                    headers["Authorization"] = f"Bearer {token}"
                data = body if body is None or isinstance(body, bytes) else json.dumps(body)
                url = served.url + path
                async with asyncio.timeout(20), session.request(method, url, data=data, headers=headers) as answer:
                    text = await answer.content.readany()
                    told = [(name.lower(), value) for name, value in answer.headers.items()]
                    limits = [one for one in told if "ratelimit" in one[0]]
                    assert len(dict(limits)) == len(limits), "a header is told twice"
                    return Reply(answer.status, dict(limits), text)

            yield ask

    return serve
