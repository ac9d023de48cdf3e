"""Ways out, and servers to be reached by them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from gatehook.config.settings import EgressSettings
from gatehook.model import Target
from gatehook.testing import Reply, StubUpstream
from gatehook.upstream.egress import Egress, Upstream

KEY = "s3cr3t-Zq81-never-shown"


class Stub(StubUpstream):
    """Counts connections."""

    connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await super()._serve(reader, writer)


@contextlib.asynccontextmanager
async def raw(answer: bytes) -> AsyncIterator[str]:
    """A server that says `answer`, byte for byte, to every request, and closes; gives its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
def way() -> str:
    """Which of the two ways to a vendor is taken; the classes of tests that use both override it."""
    return "short"


@pytest.fixture
async def open_egress(way: str) -> AsyncIterator[Callable[..., Any]]:
    """Gives an open egress with any settings; closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(**settings: Any) -> Egress:
            egress = Egress(EgressSettings(**settings))
            if way == "long":  # as for https://, where there is no other
                egress._pool = None
            await stack.enter_async_context(egress.lifespan())
            return egress

        yield opened


@pytest.fixture
def counting() -> type[Stub]:
    """A server that counts its connections."""
    return Stub


@pytest.fixture
def saying() -> Callable[[bytes], Any]:
    """A server that says these very bytes."""
    return raw


@pytest.fixture
def answered() -> Callable[..., Any]:
    """The answer of a server that gives a reply, or says these very bytes."""
    target = Target("m#1", "m", "acme", "u", api_key=SecretStr(KEY))

    @contextlib.asynccontextmanager
    async def answered(egress: Egress, reply: Reply | bytes) -> AsyncIterator[Upstream]:
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(reply, bytes):
                url = await stack.enter_async_context(raw(reply))
            else:
                url = (await stack.enter_async_context(Stub(reply))).url
            upstream = await egress.request(target, "GET", url, headers={"Authorization": f"Bearer {KEY}"})
            yield await stack.enter_async_context(upstream)

    return answered
