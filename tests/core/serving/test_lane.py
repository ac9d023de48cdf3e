"""The short way in: who gets which request, in what order, and what becomes of it when somebody leaves."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehook.calls.ready import Ready, ReadyStream, header_lines
from gatehook.serving import lane as lane_module
from gatehook.serving.lane import LaneConnection, LaneRequest

Handler = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


MINE = web.RequestKey("mine", int)


def ask(body: bytes, *fields: bytes, line: bytes = b"POST /call") -> bytes:
    """One request in the usual form."""
    head = [line + b" HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join([*head, b"", body])


def chunked(body: bytes) -> bytes:
    return ask(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + (
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    )


async def echo(request: web.Request, body: bytes) -> web.StreamResponse:
    return Ready(request, "X-Way: lane\r\n", body)


class Lane:
    """Answers POST /call."""

    def __init__(self) -> None:
        self.opens = True
        self.endpoints: Any = {"/call": SimpleNamespace(method="POST")}
        self.handler: Handler = echo

    def is_open(self) -> bool:
        return self.opens

    async def serve(self, endpoint: Any, request: web.Request, body: bytes) -> web.StreamResponse:
        return await self.handler(request, body)


@dataclass
class House:
    """A server with a lane, on a real socket."""

    port: int
    lane: Lane
    server: web.Server
    connections: list["Watched"] = field(default_factory=list)


class Watched(LaneConnection):
    """Counts how often it was looked at whether it lies idle."""

    looks = 0

    def _process_keepalive(self) -> None:
        self.looks += 1
        super()._process_keepalive()


@contextlib.asynccontextmanager
async def open_house(keepalive_timeout: float = 60.0) -> AsyncIterator[House]:
    async def by_aiohttp(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=await request.read(), headers={"X-Way": "aiohttp"})

    loop, lane, server = asyncio.get_running_loop(), Lane(), web.Server(by_aiohttp, handler_cancellation=True)
    connections: list[Watched] = []

    def connect() -> Watched:
        options = {**server._kwargs, "keepalive_timeout": keepalive_timeout, "access_log": None}
        connections.append(Watched(lane, server, loop=loop, **options))
        return connections[-1]

    listening = await loop.create_server(connect, "127.0.0.1", 0)
    try:
        yield House(listening.sockets[0].getsockname()[1], lane, server, connections)
    finally:
        listening.close()
        await server.shutdown(0.01)
        await listening.wait_closed()


@dataclass
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[str, bytes]:
        """The next answer: which way it came, and its body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200 "), head
        body = await self.reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
        return head.partition("x-way: ")[2].split("\r\n")[0], body

    async def send(self, *pieces: bytes) -> None:
        """Each piece in a packet of its own, as far as the system lets it."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def connected(house: House) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def until(condition: Callable[[], Any]) -> None:
    """Until something holds that nobody announces."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_call_goes_the_short_way_and_anything_else_aiohttps_and_each_comes_back() -> None:
    async with open_house() as house, connected(house) as client:
        for line, way in [(b"POST /call", "lane"), (b"POST /else", "aiohttp"), (b"GET /call", "aiohttp")] * 2:
            await client.send(ask(b"hi", line=line))
            assert await client.answer() == (way, b"hi")


async def test_a_request_is_all_that_aiohttps_is() -> None:
    seen: list[Any] = []

    async def look(request: web.Request, body: bytes) -> web.StreamResponse:
        assert isinstance(request, LaneRequest)
        seen.extend((request.method, request.path, request.version, request.host, request.remote, request.scheme))
        seen.extend((await request.read(), await request.json(), request.content_type, request.content_length))
        seen.extend((request.headers["x-a"], request.keep_alive, request.query_string, str(request.url)))
        request[MINE] = 1
        seen.extend((request[MINE], request.task is asyncio.current_task(), request.transport is not None))
        return web.Response(body=body, headers={"X-Way": "lane"})

    async with open_house() as house, connected(house) as client:
        house.lane.handler = look
        await client.send(ask(b"[1]", b"X-A: b", b"Content-Type: application/json"))
        assert await client.answer() == ("lane", b"[1]")
    assert seen[:6] == ["POST", "/call", (1, 1), "x", "127.0.0.1", "http"]
    assert seen[6:10] == [b"[1]", [1], "application/json", 3]
    assert seen[10:] == ["b", True, "", "http://x/call", 1, True, True]


async def test_as_long_as_the_headers_stay_the_same_so_does_what_they_show() -> None:
    seen: list[LaneRequest] = []

    async def look(request: web.Request, body: bytes) -> web.StreamResponse:
        assert isinstance(request, LaneRequest)
        seen.append(request)
        return await echo(request, body)

    async with open_house() as house, connected(house) as client:
        house.lane.handler = look
        for fields in [(b"X-API-Key: a",)] * 2 + [(b"Authorization: bearer b", b"Content-Type: text/plain")]:
            await client.send(ask(b"hi", *fields))
            assert await client.answer() == ("lane", b"hi")
        async with connected(house) as other:
            await other.send(ask(b"hi", b"X-API-Key: a"))
            await other.answer()
    first, second, third, elsewhere = (one.credential for one in seen)
    assert [one.token for one in (first, second, third, elsewhere)] == ["a", "a", "b", "a"]
    assert first is second
    assert first is not elsewhere
    assert [one.is_json for one in seen] == [True, True, False, True]


async def test_it_may_arrive_in_any_two_pieces() -> None:
    text = ask(b"hello")
    async with open_house() as house, connected(house) as client:
        for place in range(1, len(text)):
            await client.send(text[:place], text[place:])
            assert await client.answer() == ("lane", b"hello")


@pytest.mark.parametrize("there", [b"POST /ca", ask(b"hello")[:-3]])
async def test_a_request_that_takes_its_time_is_aiohttps(there: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "_PATIENCE", 0.01)
    async with open_house() as house, connected(house) as client:
        await client.send(there)
        await until(lambda: house.connections[0]._theirs)
        await client.send(ask(b"hello")[len(there) :])
        assert await client.answer() == ("aiohttp", b"hello")
        await client.send(ask(b"next"))
        # Where its head was not there, nobody here knows where it ended: the connection stays aiohttp's.
        assert await client.answer() == ("lane" if there.startswith(ask(b"hello")[:40]) else "aiohttp", b"next")


async def test_a_large_body_is_aiohttps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "_WHOLE", 1000)
    async with open_house() as house, connected(house) as client:
        for size, way in [(1000, "lane"), (1001, "aiohttp"), (200_000, "aiohttp"), (10, "lane")]:
            await client.send(ask(b"a" * size))
            assert await client.answer() == (way, b"a" * size)


LONG = b"\r\n".join(b"X-%d: %b" % (number, b"a" * 800) for number in range(12))


@pytest.mark.parametrize(
    "field", [b"Expect: 100-continue", b"X-A: \xc3\xa9", b"Upgrade: h2c", b"Accept: a\r\nAccept: b", LONG]
)
async def test_what_is_unusual_is_aiohttps_from_then_on(field: bytes) -> None:
    async with open_house() as house, connected(house) as client:
        await client.send(ask(b"hi", field))
        assert await client.answer() == ("aiohttp", b"hi")
        await client.send(ask(b"next"))
        assert await client.answer() == ("aiohttp", b"next")


async def test_a_connection_that_its_client_gives_up_is_closed() -> None:
    async with open_house() as house, connected(house) as client:
        await client.send(ask(b"hi", b"Connection: close"))
        assert await client.answer() == ("aiohttp", b"hi")
        assert await client.reader.read() == b""


async def test_while_the_server_makes_room_everything_is_aiohttps() -> None:
    async with open_house() as house, connected(house) as client:
        house.lane.opens = False
        await client.send(ask(b"hi"))
        assert await client.answer() == ("aiohttp", b"hi")


async def test_without_the_inner_parts_of_aiohttp_everything_is_aiohttps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lane_module.available
    monkeypatch.setattr(lane_module, "available", False)
    async with open_house() as house, connected(house) as client:
        await client.send(ask(b"hi"))
        assert await client.answer() == ("aiohttp", b"hi")


REQUESTS = st.lists(
    st.builds(
        lambda kind, body: (kind, body),
        st.sampled_from(["call", "else", "chunked", "unusual"]),
        st.binary(max_size=40),
    ),
    min_size=1,
    max_size=8,
)


def written(kind: str, body: bytes) -> bytes:
    if kind == "chunked":
        return chunked(body)
    fields = [b"X-A: \xc3"] if kind == "unusual" else []
    return ask(body, *fields, line=b"POST /call" if kind == "call" else b"POST /else")


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.lists(st.integers(1, 60), max_size=30))
def test_whatever_comes_in_whatever_pieces_is_answered_in_its_order(
    requests: Sequence[tuple[str, bytes]], sizes: Sequence[int]
) -> None:
    text = b"".join(written(kind, body) for kind, body in requests)
    pieces, place = [], 0
    for size in sizes:
        pieces.append(text[place : place + size])
        place += size
    pieces = [piece for piece in [*pieces, text[place:]] if piece]

    async def run() -> None:
        async with open_house() as house, connected(house) as client:
            await client.send(*pieces)
            usual = True
            for kind, body in requests:
                way, echoed = await client.answer()
                assert echoed == body
                usual = usual and kind in ("call", "else")
                assert usual or way == "aiohttp"  # and where it is usual, one that comes behind aiohttp's may be, too

    asyncio.run(run())


async def test_what_comes_while_one_is_answered_waits_and_is_not_taken_in_without_end() -> None:
    going = asyncio.Event()

    async def slow(request: web.Request, body: bytes) -> web.StreamResponse:
        await going.wait()
        return await echo(request, body)

    bodies = [b"%d" % number + b"x" * 3000 for number in range(200)]
    async with open_house() as house, connected(house) as client:
        house.lane.handler = slow
        sending = asyncio.create_task(client.send(*map(ask, bodies)))
        await until(lambda: house.connections and house.connections[0]._holds_reading)
        held = len(house.connections[0]._held)
        assert lane_module._HELD <= held < lane_module._HELD + (1 << 18)
        going.set()
        for body in bodies:
            assert (await client.answer())[1] == body
        await sending


async def test_a_client_that_leaves_ends_what_is_done_for_it() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request, body: bytes) -> web.StreamResponse:
        begun.set()
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
        finally:
            ended.set()

    async with open_house() as house:
        house.lane.handler = slow
        async with connected(house) as client:
            await client.send(ask(b"hi"))
            await begun.wait()
        await asyncio.wait_for(ended.wait(), 5)
        await until(lambda: not house.server.connections)


async def test_a_shutdown_waits_for_the_answer_and_then_ends_it() -> None:
    begun, going, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request, body: bytes) -> web.StreamResponse:
        begun.set()
        try:
            await going.wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return await echo(request, body)

    for waits in (True, False):
        begun.clear()
        async with open_house() as house, connected(house) as client:
            house.lane.handler = slow
            await client.send(ask(b"hi"))
            await begun.wait()
            (connection,) = house.connections
            assert connection.busy
            house.server.pre_shutdown()
            ending = asyncio.create_task(house.server.shutdown(10 if waits else 0.01))
            if waits:
                await until(functools.partial(getattr, connection, "_handler_waiter"))
                going.set()
            await ending
            assert cancelled.is_set() is not waits
            going.clear()


async def test_a_long_answer_is_no_idle_connection_and_an_idle_one_is_closed() -> None:
    going = asyncio.Event()

    async def slow(request: web.Request, body: bytes) -> web.StreamResponse:
        await going.wait()
        return await echo(request, body)

    async with open_house(keepalive_timeout=0.02) as house, connected(house) as client:
        house.lane.handler = slow
        await client.send(ask(b"hi"))
        await until(lambda: house.connections and house.connections[0].looks >= 3)
        going.set()
        assert await client.answer() == ("lane", b"hi")
        assert await client.reader.read() == b""


async def test_a_fault_ends_the_connection_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: web.Request, body: bytes) -> web.StreamResponse:
        raise ValueError("oh")

    async with open_house() as house, connected(house) as client:
        house.lane.handler = broken
        await client.send(ask(b"hi"))
        assert await client.reader.read() == b""
    assert "oh" in caplog.text


async def test_a_stream_is_chunked_and_one_that_breaks_off_ends_the_connection() -> None:
    async def stream(request: web.Request, body: bytes) -> web.StreamResponse:
        answer = ReadyStream(request, "Content-Type: text/event-stream\r\n")
        await answer.write(b"one")
        await answer.write(b"")
        await answer.write(b"two" * 10)
        if body == b"break":
            answer.force_close()
        else:
            await answer.write_eof(b"end")
        return answer

    async with open_house() as house, connected(house) as client:
        house.lane.handler = stream
        for body in (b"go", b"go", b"break"):
            await client.send(ask(body))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b"Transfer-Encoding: chunked\r\n" in head
            rest = await client.reader.readuntil(b"0\r\n\r\n")
            told = b"3\r\none\r\n1e\r\n" + b"two" * 10 + b"\r\n"
            assert rest == told + (b"" if body == b"break" else b"3\r\nend\r\n") + b"0\r\n\r\n"
        assert await client.reader.read() == b""


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\rb", "a\0b"])
def test_a_header_that_would_break_out_of_its_line_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="ends its line"):
        header_lines({"X-A": value, "X-B": "c"})
    with pytest.raises(ValueError, match="ends its line"):
        header_lines({value: "c"})
