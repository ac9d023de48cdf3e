"""Servers and wires that say what a test wants, byte for byte."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import pytest
from tests.certificates import Authority
from yarl import URL

from gatehook.upstream import direct
from gatehook.upstream.answer import Line
from gatehook.upstream.connectors import trusting
from gatehook.upstream.dialing import Dialer, Origin
from gatehook.upstream.http1 import Connection, headers_in
from gatehook.upstream.inflating import decoded

ORIGIN = Origin("127.0.0.1", 1)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Wire(asyncio.Transport):
    """A transport without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.closed = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort


class Rig:
    """What the tests of the short way share; of a scheme, to which its servers keep."""

    origin = ORIGIN

    def __init__(self, scheme: str, authority: Authority) -> None:
        self.scheme = scheme
        self.authority = authority
        self.tls = authority.server("127.0.0.1", "::1") if scheme == "https" else None
        self._trusting = trusting(authority.pem)

    @property
    def most_sweeps(self) -> int:
        """How many sweeps an idle connection survives."""
        return direct._MOST_TLS_SWEEPS if self.tls else direct._MOST_SWEEPS

    def pool(self, timeout: float = 5.0) -> direct.Pool:
        """A pool that trusts the servers."""
        return direct.Pool(Dialer(timeout, self._trusting))

    def connected(self, pool: direct.Pool | None = None) -> tuple[Connection, Wire]:
        """A connection of a pool's whose bytes the test feeds itself, waiting for an answer."""
        pool = pool or self.pool()
        connection, wire = Connection(asyncio.get_running_loop(), ORIGIN, idle=pool._keep, lost=pool._lost), Wire()
        connection.connection_made(wire)
        return connection, wire

    @staticmethod
    async def begun(connection: Connection) -> Line:
        """Wait for the head, as `Pool.send` does."""
        while not connection.status:
            if connection.error is not None:
                raise connection.error
            await connection.news()
        return connection if connection.is_plain() else decoded(connection, headers_in(connection.head))

    @staticmethod
    async def rest(answer: Line) -> bytes:
        """Read to the end, piece by piece, and give the connection back."""
        body = b""
        while piece := await answer.receive():
            body += piece
        answer.release()
        return body

    async def read(self, connection: Connection) -> tuple[int, bytes]:
        answer = await self.begun(connection)
        status = answer.status
        return status, await self.rest(answer)

    @staticmethod
    def idle(pool: direct.Pool) -> int:
        return sum(map(len, pool._idle.values()))

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        """Wait for what another task is about to do; fails after a few seconds."""
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0.003)
        raise AssertionError("it never came true")

    @contextlib.asynccontextmanager
    async def server(self, handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[str]:
        """A server that does what `handler` does on each connection; gives its address."""
        tasks: set[asyncio.Task[Any]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await handler(reader, writer)
            finally:
                tasks.discard(task)
                writer.transport.abort()

        listening = await asyncio.start_server(serve, host, 0, ssl=self.tls)
        async with listening:
            name = f"[{host}]" if ":" in host else host
            yield f"{self.scheme}://{name}:{listening.sockets[0].getsockname()[1]}/"
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    async def head_of(reader: asyncio.StreamReader) -> bytes:
        return await reader.readuntil(b"\r\n\r\n")

    def saying(self, *pieces: bytes, then: str = "close") -> Handler:
        """Answers each request with these pieces, one read apart; then closes, or waits for the next."""

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await self.head_of(reader):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.002)
                if then == "close":
                    return

        return handler

    @staticmethod
    async def get(pool: direct.Pool, url: str, body: bytes = b"") -> Line:
        return await pool.send(direct.Request.to("POST", URL(url), {}), body)

    async def ask(self, pool: direct.Pool, url: str, body: bytes = b"") -> bytes:
        return await self.rest(await self.get(pool, url, body))

    @staticmethod
    def chunked(pieces: Iterable[bytes]) -> bytes:
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"

    @staticmethod
    def split(data: bytes, places: Iterable[int]) -> list[bytes]:
        edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
        return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


@pytest.fixture(scope="session")
def rigs(authority: Authority) -> Mapping[str, Rig]:
    """By scheme; tests to which that matters take each as their `rig`."""
    return {scheme: Rig(scheme, authority) for scheme in ("http", "https")}


@pytest.fixture(scope="session")
def rig(rigs: Mapping[str, Rig]) -> Rig:
    return rigs["http"]


@pytest.fixture
async def pool(rig: Rig) -> AsyncIterator[direct.Pool]:
    """A pool; when it is closed nothing of it may be left."""
    pool = rig.pool()
    yield pool
    pool.close()
    await rig.until(lambda: not pool._open)
    assert pool._sweeper is None
    assert asyncio.all_tasks() == {asyncio.current_task()}
