"""A vendor that does not wait for the request, or ends the line when it likes: what it said counts, and is heard."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gatehook.testing import Reply

Dialect = Any
House = Callable[..., Any]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

BOTH = pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
LONG = "x" * (4 << 20)


@dataclass(frozen=True)
class Place:
    """All that a deployment wants to know of a vendor."""

    url: str


@contextlib.asynccontextmanager
async def played(serve: Serve) -> AsyncIterator[Place]:
    """A server on a real socket."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Place(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


def written(reply: Reply, status: bytes = b"200 OK", connection: bytes = b"keep-alive") -> bytes:
    body = reply.body if isinstance(reply.body, bytes) else b"".join(reply.body)
    head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nConnection: %b\r\n" % (status, reply.content_type.encode(), connection)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def taken(reader: asyncio.StreamReader) -> None:
    """One whole request.

    Raises:
        asyncio.IncompleteReadError: there is none any more.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


@BOTH
@pytest.mark.parametrize("halfway", [False, True], ids=["open", "half-closed"])
async def test_who_refuses_by_the_head_alone_is_heard(
    house: House, dialect: Dialect, streams: bool, halfway: bool
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(written(dialect.answer("caller"), b"400 Bad Request", b"close"))
        if halfway:
            writer.write_eof()
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        writer.close()

    async with (
        played(refuse) as place,
        house(dialect.wire.deployment(place, timeout=10), failover={"retries": 0}) as home,
    ):
        body = {"model": "m", "messages": [{"role": "user", "content": LONG}], "stream": streams}
        data, kind = io.BytesIO(json.dumps(body).encode()), {"Content-Type": "application/json"}
        async with home.http.post(f"{home.url}/v1/chat/completions", data=data, headers=kind) as answer:
            told = json.loads(await answer.read())["error"]["message"]
            assert (answer.status, told.startswith(dialect.wire.name)) == (400, True)


@BOTH
async def test_a_line_that_is_closed_between_two_requests_is_no_failure(
    house: House, dialect: Dialect, streams: bool
) -> None:
    closed: asyncio.Queue[None] = asyncio.Queue()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Promise to keep the line, and end it."""
        await taken(reader)
        writer.write(written(dialect.wire.stream(["fine"]) if streams else dialect.wire.text("fine")))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.put_nowait(None)

    async with (
        played(once) as place,
        house(dialect.wire.deployment(place, timeout=10), failover={"retries": 0}) as home,
    ):
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": streams}
        for _ in range(5):
            async with home.http.post(f"{home.url}/v1/chat/completions", json=body) as answer:
                assert (answer.status, b"fine" in await answer.read()) == (200, True)
            await closed.get()


async def test_done_is_not_kept_waiting_for_the_end_of_the_body(
    house: House, openai_wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehook.upstream.answer._DRAIN_SECONDS", 1.0)  # so long that it is seen who comes first
    ended = asyncio.Event()

    async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await taken(reader)
        body = b"".join(openai_wire.stream(["fine"]).body)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(body), body))
        with contextlib.suppress(ConnectionError):
            await reader.read()  # the last chunk never comes: until the gateway has had enough of it
        ended.set()
        writer.close()

    async with played(linger) as place, house(openai_wire.deployment(place, timeout=10)) as home:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with home.http.post(f"{home.url}/v1/chat/completions", json=body) as answer:
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
            assert not ended.is_set()
        await asyncio.wait_for(ended.wait(), 20)
