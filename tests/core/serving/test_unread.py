"""Clients that leave their answers unread, on real sockets: whatever is left to send, they are cut off in time."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from gatehook.serving.lane import LaneConnection

LARGE = 16_000_000
"""Bytes that no system's buffers hold."""


class Connection(LaneConnection):
    """Tells when it is lost."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lost = asyncio.Event()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.lost.set()


@dataclass
class House:
    """A server whose answers are as long as their paths say, and how its requests ended."""

    address: tuple[str, int] = ("", 0)
    connected: asyncio.Queue[Connection] = field(default_factory=asyncio.Queue)
    ended: list[str] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        size, times = (int(part) for part in request.path[1:].split("x"))
        try:
            response.content_length = size * times
            await response.prepare(request)
            for _ in range(times):
                await response.write(b"." * size)
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionError):
            self.ended.append("cut")
            raise
        self.ended.append("whole")
        return response


@contextlib.asynccontextmanager
async def open_house(write_timeout: float) -> AsyncIterator[House]:
    house, loop = House(), asyncio.get_running_loop()
    server = web.Server(house.answer, handler_cancellation=True)

    def connect() -> Connection:
        options: dict[str, Any] = {**server._kwargs, "access_log": None}
        connection = Connection(None, server, write_timeout=write_timeout, loop=loop, **options)
        house.connected.put_nowait(connection)
        return connection

    listening = await loop.create_server(connect, "127.0.0.1", 0)
    house.address = listening.sockets[0].getsockname()
    try:
        yield house
    finally:
        listening.close()
        await server.shutdown(0.01)
        await listening.wait_closed()


async def connected(house: House, *asked: str) -> socket.socket:
    """A client that has sent its requests, and can hold next to nothing of the answers."""
    client, loop = socket.socket(), asyncio.get_running_loop()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await loop.sock_connect(client, house.address)
    await loop.sock_sendall(client, "".join(f"GET /{one}\r\nHost: x\r\n\r\n" for one in asked).encode())
    return client


async def received(client: socket.socket) -> int:
    """How many bytes come before the connection ends."""
    count, loop = 0, asyncio.get_running_loop()
    with contextlib.suppress(ConnectionResetError):
        while data := await loop.sock_recv(client, 1 << 20):
            count += len(data)
    return count


@pytest.mark.parametrize(
    "asked",
    [
        [f"{LARGE}x1 HTTP/1.1"],
        [f"50000x{LARGE // 50_000} HTTP/1.1"],
        ["30000x1 HTTP/1.1"] * (LARGE // 30_000),
        [f"{LARGE}x1 HTTP/1.1\r\nConnection: close"],
        [f"{LARGE}x1 HTTP/1.0"],
    ],
    ids=["at once", "in pieces", "many", "the last", "by HTTP/1.0"],
)
async def test_who_reads_nothing_is_cut_off(asked: list[str]) -> None:
    async with open_house(0.2) as house, asyncio.timeout(30):
        with await connected(house, *asked) as client:
            await (await house.connected.get()).lost.wait()
            assert await received(client) < LARGE


@pytest.mark.parametrize("pieces", [1, 100])
async def test_who_reads_slowly_gets_everything(pieces: int) -> None:
    loop = asyncio.get_running_loop()
    async with open_house(0.5) as house, asyncio.timeout(40):
        with await connected(house, f"{LARGE // pieces}x{pieces} HTTP/1.1\r\nConnection: close") as client:
            begun, count = loop.time(), 0
            while loop.time() - begun < 2:  # several times as long as it may read nothing
                count += len(await loop.sock_recv(client, 20_000))
                await asyncio.sleep(0.02)
            assert LARGE < count + await received(client) < LARGE + 1000
        assert house.ended == ["whole"]
        assert (await house.connected.get())._unread_timer is None
