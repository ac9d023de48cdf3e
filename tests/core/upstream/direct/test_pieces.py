"""Any answer in any pieces."""

import asyncio
import contextlib
import gzip
import zlib
from typing import Any

import pytest
from aiohttp import ClientError
from aiohttp.http import HttpProcessingError
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehook.upstream import direct

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    b'3;name=val;q="x"\r\nabc\r\n0B\r\n\r\n\r\n0\r\n\r\nde\r\n0;last\r\nX-Trailer: 1\r\n\r\n'
)
CHUNKED_BODY = b"abc\r\n\r\n0\r\n\r\nde"
LINE_ERRORS = (OSError, ClientError, HttpProcessingError)


class TestPieces:
    async def test_an_answer_is_the_same_however_it_is_cut_in_two_or_three(self, pool: direct.Pool, rig: Any) -> None:
        for first in range(len(CHUNKED)):
            for second in {first, first + 1, first + 2, first + 7, len(CHUNKED) - 1}:
                connection, wire = rig.connected(pool)
                for piece in rig.split(CHUNKED, (first, second)):
                    connection.data_received(piece)
                assert await rig.read(connection) == (201, CHUNKED_BODY), (first, second)
                assert not wire.closed
        assert rig.idle(pool) > len(CHUNKED)

    async def test_an_answer_may_come_byte_by_byte_to_a_reader_that_waits(self, pool: direct.Pool, rig: Any) -> None:
        connection, _ = rig.connected(pool)
        reading = asyncio.create_task(rig.read(connection))
        for byte in CHUNKED:
            await asyncio.sleep(0)
            assert not reading.done()
            connection.data_received(bytes([byte]))
        assert await reading == (201, CHUNKED_BODY)
        assert rig.idle(pool) == 1

    async def test_an_answer_cut_off_anywhere_is_an_error_and_never_a_shorter_answer(
        self, pool: direct.Pool, rig: Any
    ) -> None:
        for length in range(len(CHUNKED)):
            connection, _ = rig.connected(pool)
            reading = asyncio.create_task(rig.read(connection))
            await asyncio.sleep(0)
            connection.data_received(CHUNKED[:length])
            await asyncio.sleep(0)
            connection.connection_lost(None)
            with pytest.raises(LINE_ERRORS):
                await asyncio.wait_for(reading, 5)
        assert rig.idle(pool) == 0

    async def test_a_byte_changed_anywhere_never_hangs_and_never_breaks_anything_else(
        self, pool: direct.Pool, rig: Any
    ) -> None:
        for place in range(len(CHUNKED)):
            for byte in (b"\0", b"\n", b"z", b"\xff"):
                connection, _ = rig.connected(pool)
                reading = asyncio.create_task(rig.read(connection))
                await asyncio.sleep(0)
                for piece in rig.split(CHUNKED[:place] + byte + CHUNKED[place + 1 :], (place, place + 1)):
                    connection.data_received(piece)
                    await asyncio.sleep(0)
                connection.connection_lost(None)  # whatever else is wrong, it ends now
                with contextlib.suppress(*LINE_ERRORS):
                    status, body = await asyncio.wait_for(reading, 5)
                    assert isinstance(body, bytes)
                    assert status

    @settings(max_examples=150, deadline=None)
    @given(
        pieces=st.lists(st.binary(min_size=1, max_size=200), max_size=6),
        places=st.lists(st.integers(0, 2000), max_size=12),
        framing=st.sampled_from(["length", "chunked", "end"]),
        encoding=st.sampled_from(["", "gzip", "deflate"]),
        interim=st.booleans(),
    )
    async def test_any_body_in_any_framing_arrives_whole(
        self, pieces: list[bytes], places: list[int], framing: str, encoding: str, interim: bool, rig: Any
    ) -> None:
        pool, body = rig.pool(1), b"".join(pieces)
        sent = {"": [body], "gzip": [gzip.compress(body)], "deflate": [zlib.compress(body)]}[encoding]
        if framing == "chunked" and not encoding:
            sent = pieces
        size = sum(map(len, sent))
        headers = {"length": b"Content-Length: %d\r\n" % size, "chunked": b"Transfer-Encoding: chunked\r\n", "end": b""}
        answer = b"HTTP/1.1 100 Continue\r\n\r\n" * interim + b"HTTP/1.1 200 OK\r\n" + headers[framing]
        answer += b"Content-Encoding: %b\r\n" % encoding.encode() if encoding else b""
        answer += b"\r\n" + (rig.chunked(sent) if framing == "chunked" else b"".join(sent))
        connection, _ = rig.connected(pool)
        reading = asyncio.create_task(rig.read(connection))
        for piece in rig.split(answer, places):
            connection.data_received(piece)
            await asyncio.sleep(0)
        if framing == "end":
            connection.connection_lost(None)
        assert await asyncio.wait_for(reading, 5) == (200, body)
        assert rig.idle(pool) == (framing != "end")
        pool.close()

    async def test_over_a_real_line_too(self, pool: direct.Pool, rig: Any) -> None:
        cuts = [[CHUNKED], [CHUNKED[:60], CHUNKED[60:]], [CHUNKED[i : i + 9] for i in range(0, len(CHUNKED), 9)]]
        for pieces in cuts:
            async with rig.server(rig.saying(*pieces, then="next")) as url:
                assert [await rig.ask(pool, url) for _ in range(3)] == [CHUNKED_BODY] * 3
                assert len(pool._open) == 1
            await rig.until(lambda: not pool._open)

    @pytest.mark.parametrize("status", [204, 304])
    async def test_an_answer_without_a_body_ends_with_its_head(self, status: int, pool: direct.Pool, rig: Any) -> None:
        async with rig.server(rig.saying(b"HTTP/1.1 %d X\r\nX-A: b\r\n\r\n" % status, then="next")) as url:
            for _ in range(2):
                assert await rig.ask(pool, url) == b""
            assert len(pool._open) == 1

    async def test_a_body_that_goes_wrong_after_the_head_is_told_at_once(self, pool: direct.Pool, rig: Any) -> None:
        async with rig.server(
            rig.saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"zz\r\n")
        ) as url:
            with pytest.raises(HttpProcessingError):
                await asyncio.wait_for(rig.ask(pool, url), 5)

    async def test_a_protocol_switch_is_an_answer_and_the_end_of_the_connection(
        self, pool: direct.Pool, rig: Any
    ) -> None:
        for upgrade in (b"Connection: upgrade\r\nUpgrade: websocket\r\n", b""):
            async with rig.server(rig.saying(b"HTTP/1.1 101 X\r\n" + upgrade + b"\r\n", then="next")) as url:
                async with asyncio.timeout(5):
                    answer = await rig.get(pool, url)
                assert (answer.status, await answer.receive()) == (101, b"")
                answer.release()
                assert rig.idle(pool) == 0

    async def test_an_answer_larger_than_the_buffers_waits_for_its_reader(self, pool: direct.Pool, rig: Any) -> None:
        body = bytes(range(256)) * 40_000
        async with rig.server(rig.saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)) as url:
            answer = await rig.get(pool, url)
            [connection] = pool._open
            await rig.until(lambda: connection._reading_paused)
            for _ in range(20):
                await asyncio.sleep(0)
            assert connection._unread < 1 << 20
            assert await rig.rest(answer) == body

    async def test_thousands_of_tiny_pieces_are_taken_at_once_and_reading_goes_on(
        self, pool: direct.Pool, rig: Any
    ) -> None:
        connection, _ = rig.connected(pool)
        pieces = [b"%05d" % number for number in range(20_000)]
        connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = await rig.begun(connection)
        *most, last = rig.split(rig.chunked(pieces), range(0, 200_000, 50_000))
        for piece in most:
            connection.data_received(piece)
        assert connection._reading_paused
        got = [await answer.receive()]
        assert not connection._reading_paused
        connection.data_received(last)
        got.append(await answer.receive())
        assert b"".join(got) == b"".join(pieces)
        assert await answer.receive() == b""
        answer.release()
        assert rig.idle(pool) == 1

    async def test_a_little_that_inflates_to_very_much_is_held_back_for_its_reader(
        self, pool: direct.Pool, rig: Any
    ) -> None:
        body = bytes(8_000_000)
        connection, _ = rig.connected(pool)
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = await rig.begun(connection)
        connection.data_received(rig.chunked(rig.split(gzip.compress(body), range(0, 8_000, 97))))
        got = b""
        while piece := await answer.receive():
            assert len(piece) <= 1 << 16
            got += piece
        assert got == body

    async def test_an_error_that_came_first_is_told_to_who_reads_later(self, pool: direct.Pool, rig: Any) -> None:
        connection, _ = rig.connected(pool)
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        answer = await rig.begun(connection)
        connection.connection_lost(ConnectionResetError("gone"))
        with pytest.raises(LINE_ERRORS):
            await answer.receive()
        answer.release()
