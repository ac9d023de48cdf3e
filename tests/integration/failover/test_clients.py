"""Clients that leave, do not read, or speak an older HTTP."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from gatehook.testing import Reply, StubUpstream

House = Callable[..., Any]
Wire = Any
Wait = Callable[..., Any]
Half = Callable[..., Reply]
Watcher = Any

USER: Any = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [USER]}
STREAM = {**CHAT, "stream": True}


async def raw_client(port: int, body: Any, *, version: str = "1.1", head: str = "") -> tuple[Any, Any]:
    """A client on a bare socket that has sent its request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw_request(body, version=version, head=head))
    await writer.drain()
    return reader, writer


def raw_request(body: Any, *, version: str = "1.1", head: str = "") -> bytes:
    raw = json.dumps(body).encode()
    lines = f"POST /v1/chat/completions HTTP/{version}\r\nHost: x\r\nContent-Type: application/json\r\n{head}"
    return f"{lines}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


WAITS: dict[str, Any] = {
    "before the head": lambda wire, half_of: Reply(status=0, end="silence"),
    "in the body": lambda wire, half_of: Reply(b'{"id"', end="silence"),
    "before the first event": lambda wire, half_of: Reply.of_events([], end="silence"),
    "after the first content": lambda wire, half_of: half_of(wire.stream(["first", "second"]), b"first", end="silence"),
}


@pytest.mark.parametrize("where", WAITS)
@pytest.mark.parametrize("abrupt", [False, True])
async def test_a_client_that_leaves_ends_the_vendors_call_at_once(
    watched: House, wire: Wire, watcher: Watcher, settled: Wait, where: str, abrupt: bool, half_of: Half
) -> None:
    body = CHAT if where == "in the body" else STREAM
    async with (
        StubUpstream(WAITS[where](wire, half_of)) as stub,
        watched(wire.deployment(stub), failover={"retries": 2}) as home,
    ):
        reader, writer = await raw_client(home.port, body)
        if where == "after the first content":
            await reader.readuntil(b"first")
        await settled(lambda: stub.requests)
        if abrupt:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        writer.close()
        for _ in range(100):  # a second, of those in which the machine does nothing else
            if stub.closed_early.is_set():
                break
            await asyncio.sleep(0.01)
        assert stub.closed_early.is_set()
        await settled(lambda: watcher.outcomes and not stub.open)
        assert not stub.open
        assert len(stub.requests) == 1
    (outcome,) = watcher.outcomes
    status = "partial" if where == "after the first content" else "failed"
    assert (outcome.status, outcome.http_status, outcome.code) == (status, 499, "client_left")


async def test_a_client_that_leaves_while_a_retry_waits_is_not_served(
    watched: House, openai_wire: Wire, watcher: Watcher, settled: Wait
) -> None:
    slow = openai_wire.error(429, "slow", headers={"Retry-After": "9"})
    async with StubUpstream(slow) as stub, watched(openai_wire.deployment(stub), failover={"retries": 2}) as home:
        _, writer = await raw_client(home.port, CHAT)
        await settled(lambda: watcher.failed)
        writer.close()
        await settled(lambda: watcher.outcomes)
        assert len(stub.requests) == 1
    assert watcher.outcomes[0].code == "client_left"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_does_not_read_is_let_go(
    watched: House, openai_wire: Wire, watcher: Watcher, settled: Wait, streamed: bool
) -> None:
    big = "x" * 50_000
    reply = openai_wire.stream([big] * 600) if streamed else openai_wire.text(big * 600)
    async with (
        StubUpstream(reply) as stub,
        watched(openai_wire.deployment(stub), server={"write_timeout": 0.3}) as home,
    ):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", home.port))
        await loop.sock_sendall(sock, raw_request(STREAM if streamed else CHAT))
        await settled(lambda: watcher.outcomes)
        received = 0
        async with asyncio.timeout(10):  # the line is closed, else this would wait for more
            with contextlib.suppress(ConnectionResetError):
                while data := await loop.sock_recv(sock, 1 << 20):
                    received += len(data)
        sock.close()
    assert received < 30_000_000
    (outcome,) = watcher.outcomes
    assert (outcome.status, outcome.http_status, outcome.code) == ("partial", 499, "client_left")
    assert outcome.usage is not None


async def test_a_client_that_reads_none_of_many_small_answers_is_let_go(
    watched: House, openai_wire: Wire, watcher: Watcher
) -> None:
    async with (
        StubUpstream(openai_wire.text("x" * 60_000)) as stub,
        watched(openai_wire.deployment(stub), server={"write_timeout": 0.3}) as home,
    ):
        sock, loop = socket.socket(), asyncio.get_running_loop()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", home.port))
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while True:
                    await loop.sock_sendall(sock, raw_request(CHAT) * 100)
        sock.close()
    assert {outcome.status for outcome in watcher.outcomes} == {"complete"}


@pytest.mark.parametrize("size", [65_000, 65_536, 65_537, 3_000_000])
async def test_a_large_plain_answer_arrives_whole(house: House, wire: Wire, size: int) -> None:
    text = "é" * (size // 2)
    async with StubUpstream(wire.text(text)) as stub, house(wire.deployment(stub)) as home:
        for _ in range(2):
            status, answer, headers = await home.ask()
            assert (status, answer["choices"][0]["message"]["content"]) == (200, text)
            assert int(headers["Content-Length"]) > size
            assert headers["Content-Type"] == "application/json"


async def test_a_slow_client_that_reads_gets_everything(house: House, openai_wire: Wire) -> None:
    big = "x" * 50_000
    async with (
        StubUpstream(openai_wire.stream([big] * 100)) as stub,
        house(openai_wire.deployment(stub), server={"write_timeout": 1}) as home,
    ):
        reader, writer = await raw_client(home.port, STREAM, head="Connection: close\r\n")
        received = b""
        while data := await reader.read(1 << 18):
            received += data
            await asyncio.sleep(0)
        writer.close()
    assert received.count(b"x" * 50_000) == 100
    assert b"data: [DONE]" in received


async def chunk_of(reader: asyncio.StreamReader) -> bytes:
    """The next chunk of an answer in chunks: what was written at once."""
    size = int(await reader.readline(), 16)
    return (await reader.readexactly(size + 2))[:-2]


@pytest.mark.parametrize("head", ["", "Connection: close\r\n"])
async def test_nobody_may_hold_a_stream_back_and_whole_events_go_out_at_once(
    house: House, wire: Wire, half_of: Half, head: str
) -> None:
    reply = half_of(wire.stream(["first", "second"]), b"first", end="silence")
    async with StubUpstream(reply) as stub, house(wire.deployment(stub)) as home, asyncio.timeout(30):
        reader, writer = await raw_client(home.port, STREAM, head=head)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        told = b""
        while b"first" not in told:  # the vendor says nothing after it
            told = await chunk_of(reader)
            assert told.startswith(b"data: ")
            assert told.endswith(b"}\n\n")
        writer.close()
    assert status == "HTTP/1.1 200 OK"
    assert (fields["cache-control"], fields["x-accel-buffering"]) == ("no-cache", "no")
    assert fields["content-type"] == "text/event-stream; charset=utf-8"
    assert not fields.keys() & {"content-length", "content-encoding"}


async def test_an_http_1_0_client_gets_a_stream_that_the_end_of_the_line_ends(
    house: House, wire: Wire, content: Callable[[bytes], str]
) -> None:
    async with StubUpstream(wire.stream(["a", "b"])) as stub, house(wire.deployment(stub)) as home:
        reader, writer = await raw_client(home.port, STREAM, version="1.0")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    assert b"chunked" not in head.lower()
    assert content(body) == "ab"
    assert body.endswith(b"data: [DONE]\n\n")


async def test_an_http_1_0_client_gets_a_plain_answer(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.text("a")) as stub, house(wire.deployment(stub)) as home:
        reader, writer = await raw_client(home.port, CHAT, version="1.0")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert b"HTTP/1.0 200" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"] == "a"


async def test_pipelined_requests_are_answered_in_order(house: House, wire: Wire) -> None:
    replies = (wire.stream(["first"]), wire.text("second"), wire.error(500, "third"), wire.text("fourth"))
    async with StubUpstream(*replies) as stub, house(wire.deployment(stub)) as home:
        reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
        last = raw_request(CHAT, head="Connection: close\r\n")
        writer.write(raw_request(STREAM) + raw_request(CHAT) * 2 + last)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert len(stub.requests) == 4
    places = [answer.index(word) for word in (b"first", b"[DONE]", b"second", b"third", b"fourth")]
    assert places == sorted(places)
    assert answer.count(b"HTTP/1.1 200") == 3
