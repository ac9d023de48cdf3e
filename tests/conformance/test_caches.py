"""The cache that is shipped keeps to everything the suite asks of a cache, in memory and in Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest_asyncio

from gatehook import Gateway
from gatehook.testing.conformance import CacheConformance


class TestMemory(CacheConformance):
    plugin = "cache"
    label = "cache: memory"
    settings = "[plugins.cache]\nttl = 1\nmax_entry = 4096\n"
    ttl = 1


class TestShared(CacheConformance):
    plugin = "cache"
    label = "cache: shared by all"
    settings = '[plugins.cache]\nscope = "all"\n'
    shared = True


class Relay:
    """A line to Redis that can be cut."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, redis_url: str) -> str:
        """Its address."""
        self._port = urlsplit(redis_url).port
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, there_writer]
        for source, goal in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, goal))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, goal: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                goal.write(data)
        goal.close()

    async def cut(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)


class TestRedis(CacheConformance):
    plugin = "cache"
    label = "cache: Redis"
    ttl = 1

    @pytest_asyncio.fixture(autouse=True)
    async def _in_redis(self, redis_url: str) -> AsyncIterator[None]:
        self.relay = Relay()
        table = '[plugins.cache]\nbackend = "redis"\nttl = 1\nmax_entry = 4096\n'
        self.settings = f'[redis]\nurl = "{await self.relay.open(redis_url)}"\ntimeout = 5\n{table}'
        yield
        await self.relay.cut()

    @asynccontextmanager
    async def broken(self, gateway: Gateway) -> AsyncIterator[None]:
        await self.relay.cut()
        yield
