"""A server can neither fill the memory nor be flooded, and what comes of a connection is never another's."""

import asyncio
import gzip
import socket
import struct
import zlib
from typing import Any

import pytest
from aiohttp import ClientError
from aiohttp.http import HttpProcessingError

from gatehook.config.settings import EgressSettings
from gatehook.errors import UpstreamError
from gatehook.model import Target
from gatehook.testing import Reply, StubUpstream
from gatehook.upstream import direct
from gatehook.upstream.egress import Egress
from gatehook.upstream.http1 import PIECE, headers_in

TARGET = Target("m#1", "m", "acme", "u")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
KIB = 1024


def head(size: int) -> bytes:
    """A head of this many bytes, of a body of two."""
    start, end = b"HTTP/1.1 200 OK\r\nX: ", b"\r\nContent-Length: 2\r\n\r\n"
    return start + b"a" * (size - len(start) - len(end)) + end


class TestHead:
    @pytest.mark.parametrize("cut", [1, 40, 1000, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1])
    async def test_one_of_64_kib_with_its_body_is_read_wherever_it_is_cut(self, cut: int, rig: Any) -> None:
        for size in (64 * KIB - 2, 64 * KIB - 1):
            connection, _ = rig.connected()
            for piece in rig.split(head(size) + b"ok", (cut,)):
                connection.data_received(piece)
            assert await rig.read(connection) == (200, b"ok")

    @pytest.mark.parametrize("cut", [1, 40, 1000, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1])
    async def test_a_longer_one_is_refused_wherever_it_is_cut(self, cut: int, rig: Any) -> None:
        connection, wire = rig.connected()
        for piece in rig.split(head(64 * KIB + 1) + b"ok", (cut,)):
            connection.data_received(piece)
        with pytest.raises(HttpProcessingError):
            await rig.read(connection)
        assert wire.closed

    @pytest.mark.parametrize(
        ("begins", "again"),
        [
            (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
            (b"HTTP/1.1 200 OK\r\n", b"X: a\r\n"),
            (b"HTTP/1.1 200 ", b"K"),
            (b"", b"HTTP/1.1 103 Early\r\nX: a\r\n\r\n"),
            (b"", b"\r\n"),
            (HEAD + b"0\r\nX: ", b"a"),
            (HEAD + b"0\r\n", b"X: a\r\n"),
            (HEAD + b"3;", b"x"),
        ],
    )
    async def test_what_is_no_body_cannot_go_on_for_ever(self, begins: bytes, again: bytes, rig: Any) -> None:
        connection, wire = rig.connected()
        connection.data_received(begins)
        piece = again * (8 * KIB // len(again))
        for _ in range(9):
            connection.data_received(piece)
        assert wire.closed
        assert isinstance(connection.error, HttpProcessingError)

    async def test_a_slow_stream_in_small_reads_may_go_on_for_ever(self, rig: Any) -> None:
        connection, _ = rig.connected()
        connection.data_received(HEAD)
        answer = await rig.begun(connection)
        for _ in range(20_000):  # the size of a chunk and its content apart: more than 64 KiB of sizes
            connection.data_received(b"0003\r\n")
            connection.data_received(b"abc\r\n")
            assert await answer.receive() == b"abc"

    async def test_as_many_headers_as_aiohttp_allows(self, rig: Any) -> None:
        for number, fits in ((127, True), (128, False)):
            connection, _ = rig.connected()
            connection.data_received(b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * number + b"Content-Length: 2\r\n\r\nok")
            if fits:
                assert await rig.read(connection) == (200, b"ok")
            else:
                with pytest.raises(HttpProcessingError):
                    await rig.read(connection)

    def test_headers_are_read_as_they_were_sent(self) -> None:
        interim = b"HTTP/1.1 103 X\r\nLink: a\r\n\r\n"
        sent = interim + b"HTTP/1.1 200 OK\r\nX-A:  caf\xc3\xa9 \r\nx-a: \xff\r\nB:\r\n\r\nX-Not: one"
        headers = headers_in(sent)
        assert list(headers.items()) == [("X-A", "café"), ("x-a", "\udcff"), ("B", "")]
        assert headers["x-A"] == "café"


class TestBackPressure:
    async def test_reading_pauses_above_128_kib_and_goes_on_when_they_are_taken(self, rig: Any) -> None:
        connection, wire = rig.connected()
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(16):
            assert not wire.paused
            connection.data_received(bytes(8 * KIB))
        assert wire.paused
        assert len(await connection.receive()) == 128 * KIB
        assert not wire.paused

    async def test_a_connection_whose_answer_nobody_read_reads_again(self, pool: direct.Pool, rig: Any) -> None:
        connection, wire = rig.connected(pool)
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(150_000))
        connection.data_received(bytes(50_000))
        assert wire.paused
        assert connection.whole
        connection.release()
        assert [pool._take(rig.origin)] == [connection]
        assert not wire.paused
        connection.data_received(OK)
        assert await rig.read(connection) == (200, b"ok")

    async def test_what_comes_on_it_while_it_lies_idle_is_no_answer(self, pool: direct.Pool, rig: Any) -> None:
        connection, wire = rig.connected(pool)
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(150_000))
        connection.data_received(bytes(50_000))
        assert wire.paused
        connection.release()
        assert not wire.paused
        connection.data_received(OK)
        assert wire.closed
        assert pool._take(rig.origin) is None

    async def test_a_large_body_is_written_as_fast_as_the_server_takes_it(self, pool: direct.Pool, rig: Any) -> None:
        body = bytes(range(256)) * 40_000
        got = bytearray()
        slow = asyncio.Event()

        async def reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await rig.head_of(reader)
            await slow.wait()
            while len(got) < len(body):
                got.extend(await reader.read(1 << 20))
            writer.write(OK)

        async with rig.server(reads) as url:
            work = asyncio.create_task(rig.ask(pool, url, body))
            await rig.until(lambda: any(connection._writing_paused for connection in pool._open))
            [connection] = pool._open
            assert connection.transport is not None
            assert connection.transport.get_write_buffer_size() <= 2 * PIECE
            slow.set()
            assert await asyncio.wait_for(work, 20) == b"ok"
            assert got == body
            assert rig.idle(pool) == 1  # all of it was sent

    async def test_an_answer_stops_the_writing(self, pool: direct.Pool, rig: Any) -> None:
        connection, wire = rig.connected(pool)
        connection.pause_writing()
        sending = asyncio.create_task(connection.send(b"head", bytes(3 * PIECE)))
        await asyncio.sleep(0)
        assert wire.written == b"head"
        connection.resume_writing()
        connection.pause_writing()
        await asyncio.sleep(0)
        assert not sending.done()
        connection.data_received(OK)
        await asyncio.wait_for(sending, 5)
        assert len(wire.written) < 3 * PIECE
        connection.release()
        assert wire.closed  # the server still waits for the rest
        assert rig.idle(pool) == 0

    @pytest.mark.parametrize("lost", [None, ConnectionResetError("gone")])
    async def test_so_does_the_loss_of_the_connection(self, lost: Exception | None, rig: Any) -> None:
        connection, _ = rig.connected()
        connection.pause_writing()
        sending = asyncio.create_task(connection.send(b"head", bytes(3 * PIECE)))
        await asyncio.sleep(0)
        connection.connection_lost(lost)
        await asyncio.wait_for(sending, 5)
        with pytest.raises((OSError, ClientError)):
            await rig.begun(connection)


class TestEnd:
    UNTIL_THE_END = b"HTTP/1.1 200 OK\r\n\r\nabc"

    async def test_an_answer_without_a_length_ends_with_its_connection(self, rig: Any) -> None:
        connection, wire = rig.connected()
        connection.data_received(self.UNTIL_THE_END)
        connection.eof_received()
        assert await rig.read(connection) == (200, b"abc")
        assert wire.closed

    async def test_but_not_by_a_reset_nor_because_we_end_it(self, rig: Any) -> None:
        for ended in ("reset", "aborted"):
            connection, _ = rig.connected()
            connection.data_received(self.UNTIL_THE_END)
            answer = await rig.begun(connection)
            assert await answer.receive() == b"abc"
            reading = asyncio.create_task(answer.receive())
            await asyncio.sleep(0)
            if ended == "reset":
                connection.connection_lost(ConnectionResetError("gone"))
            else:
                connection.abort()
                connection.connection_lost(None)
            with pytest.raises(ClientError):
                await asyncio.wait_for(reading, 5)

    @pytest.mark.parametrize("framing", [b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n", b""])
    async def test_a_reset_in_the_answer_is_a_cut(self, framing: bytes, rig: Any) -> None:
        async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await rig.head_of(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n1\r\na\r\n")
            await writer.drain()
            await reader.readexactly(1)
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        egress = Egress(EgressSettings())
        async with (
            rig.server(resets) as url,
            egress.lifespan(),
            await egress.request(TARGET, "POST", url, headers={}, body=b"") as upstream,
        ):
            await upstream.receive()
            assert egress._pool is not None
            [connection] = egress._pool._open
            connection.write(b"x")  # the sign to reset
            with pytest.raises(UpstreamError, match="acme: the connection was cut in the middle of the answer"):
                await asyncio.wait_for(upstream.receive(), 5)

    async def test_an_answer_that_was_left_reads_nothing_of_the_next(self) -> None:
        egress = Egress(EgressSettings())
        async with StubUpstream(Reply(body=b"first"), Reply(body=b"second")) as stub, egress.lifespan():
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as left:
                assert await left.receive() == b"first"
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                assert (await left.receive(), await left.read(), await left.read_error()) == (b"", b"", b"")
                await left.drain()
                await left.__aexit__(None, None, None)
                assert left.at_once() == b""
                assert left.headers["content-type"] == "application/json"
                assert await upstream.read() == b"second"


class TestEncodings:
    @staticmethod
    async def decoded(rig: Any, encoding: bytes, body: bytes) -> bytes:
        connection, _ = rig.connected()
        connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-ENCODING: %b\r\n" % encoding)
        connection.data_received(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        status, text = await rig.read(connection)
        assert status == 200
        assert isinstance(text, bytes)
        return text

    async def test_what_can_be_undone_is(self, rig: Any) -> None:
        raw = zlib.compressobj(wbits=-15)
        bodies = {
            b"gzip": gzip.compress(b"one ") + gzip.compress(b"two"),
            b"GZip": gzip.compress(b"one two"),
            b"deflate": zlib.compress(b"one two"),
            b"Deflate": raw.compress(b"one two") + raw.flush(),  # without its frame, as some send it
            b"identity": b"one two",
            b"x-gzip": gzip.compress(b"one two"),
            b"deflate, X-Gzip": gzip.compress(zlib.compress(b"one two")),
            b"gzip\r\ncontent-encoding: identity": gzip.compress(b"one two"),
            b"gzip\r\ncontent-encoding: deflate": zlib.compress(gzip.compress(b"one two")),
            b"gzip, unheard-of": b"one two",
            b", ".join([b"gzip"] * 5): b"one two",
            b"unheard-of": b"one two",
        }
        for encoding, body in bodies.items():
            assert await self.decoded(rig, encoding, body) == b"one two", encoding

    @pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
    async def test_an_empty_body_is_empty(self, encoding: bytes, rig: Any) -> None:
        assert await self.decoded(rig, encoding, b"") == b""

    async def test_what_is_not_encoded_so_is_an_error(self, rig: Any) -> None:
        packed = gzip.compress(b"x")
        for encoding, body in (
            (b"gzip", b"plain"),
            *((b"gzip", packed[:-cut]) for cut in range(1, len(packed))),
            (b"gzip", packed + packed[:-1]),
            (b"x-gzip, gzip", gzip.compress(packed[:-8])),
            (b"deflate", b"\x78plain"),
            (b"deflate", zlib.compress(b"x")[:-3]),
        ):
            with pytest.raises(HttpProcessingError, match=encoding.decode().split("-")[-1].split(",")[0]):
                await self.decoded(rig, encoding, body)

    async def test_what_cannot_be_undone_here_is_an_error(self, monkeypatch: pytest.MonkeyPatch, rig: Any) -> None:
        for name in ("HAS_BROTLI", "HAS_ZSTD"):
            monkeypatch.setattr(f"aiohttp.compression_utils.{name}", False)
        for encoding in (b"br", b"zstd"):
            with pytest.raises(HttpProcessingError, match="install"):
                await self.decoded(rig, encoding, b"x")

    async def test_an_error_that_cannot_be_undone_here_keeps_its_status(
        self, monkeypatch: pytest.MonkeyPatch, rig: Any
    ) -> None:
        monkeypatch.setattr("aiohttp.compression_utils.HAS_BROTLI", False)
        answer = b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc"
        egress = Egress(EgressSettings())
        async with rig.server(rig.saying(answer, then="next")) as url, egress.lifespan():
            async with await egress.request(TARGET, "POST", url, headers={}, body=b"") as upstream:
                assert (upstream.status, upstream.retry_after, await upstream.read_error()) == (429, 7, b"")
            async with await egress.request(TARGET, "POST", url, headers={}, body=b"") as upstream:
                with pytest.raises(UpstreamError, match="Content-Encoding cannot be undone"):
                    await upstream.read()

    async def test_a_body_that_names_the_header_is_not_encoded(self, rig: Any) -> None:
        body = b"\r\nContent-Encoding: gzip\r\n\r\n"
        connection, _ = rig.connected()
        connection.data_received(b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(body) + body)
        assert await rig.read(connection) == (200, body)


async def test_nothing_waits_to_be_sent_in_larger_packets(pool: direct.Pool, rig: Any) -> None:
    async with rig.server(rig.saying(OK, then="next")) as url:
        answer = await rig.get(pool, url)
        line = answer.transport.get_extra_info("socket")
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        answer.release()
