"""Connections serve again only when nothing is left on them."""

import asyncio
from typing import Any

import pytest
from aiohttp import ClientError

from gatehook.upstream import direct

ORIGIN = ("127.0.0.1", 1)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    b'3;name=val;q="x"\r\nabc\r\n0B\r\n\r\n\r\n0\r\n\r\nde\r\n0;last\r\nX-Trailer: 1\r\n\r\n'
)
CHUNKED_BODY = b"abc\r\n\r\n0\r\n\r\nde"


class TestReuse:
    @pytest.fixture(params=["http", "https"])
    def rig(self, request: pytest.FixtureRequest, rigs: Any) -> Any:
        return rigs[request.param]

    async def test_the_last_used_connection_serves_first(self, pool: direct.Pool, rig: Any) -> None:
        async with rig.server(rig.saying(OK, then="next")) as url:
            answers = [await rig.get(pool, url) for _ in range(3)]
            one, two, three = answers
            for number in (1, 0, 2):
                answers[number].release()
            assert [pool._take(origin) for origin in [next(iter(pool._idle))] * 4] == [three, one, two, None]

    async def test_the_sweep_closes_what_has_been_idle_for_long_and_only_that(
        self, pool: direct.Pool, rig: Any
    ) -> None:
        async with rig.server(rig.saying(OK, then="next")) as url:
            one, two, three = answers = [await rig.get(pool, url) for _ in range(3)]
            for answer in answers[:2]:
                answer.release()
            for _ in range(rig.most_sweeps - 1):
                pool._sweep()
            three.release()
            assert rig.idle(pool) == 3
            pool._sweep()
            assert list(pool._idle.values()) == [[three]]
            assert (one.transport, two.transport) == (None, None)
            for sweeps in range(1, rig.most_sweeps):
                assert (rig.idle(pool), three.sweeps) == (1, sweeps)
                pool._sweep()
            assert pool._idle == {}
            assert pool._sweeper is None
            await rig.until(lambda: not pool._open)

    async def test_what_serves_is_not_idle(self, pool: direct.Pool, rig: Any) -> None:
        async with rig.server(rig.saying(OK, then="next")) as url:
            for _ in range(rig.most_sweeps + 1):
                await rig.ask(pool, url)
                pool._sweep()
            assert len(pool._open) == rig.idle(pool) == 1

    async def test_the_sweep_comes_by_itself(
        self, pool: direct.Pool, monkeypatch: pytest.MonkeyPatch, rig: Any
    ) -> None:
        monkeypatch.setattr(direct, "_SWEEP_SECONDS", 0.005)
        async with rig.server(rig.saying(OK, then="next")) as url:
            await rig.ask(pool, url)
            await rig.until(lambda: not pool._open and not pool._idle and pool._sweeper is None)

    async def test_one_that_the_server_closed_meanwhile_is_not_used_again(self, pool: direct.Pool, rig: Any) -> None:
        async with rig.server(rig.saying(OK)) as url:  # says nothing of closing, and closes
            for _ in range(3):
                assert await rig.ask(pool, url) == b"ok"
                await rig.until(lambda: not pool._open)

    async def test_where_one_turns_out_to_be_dead_the_others_are_not_tried(self, pool: direct.Pool, rig: Any) -> None:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await rig.head_of(reader)
            writer.write(OK)
            await rig.head_of(reader)  # the next request; nothing tells of the loss until then

        async with rig.server(handler) as url:
            answers = [await rig.get(pool, url) for _ in range(4)]
            for answer in answers:
                await rig.rest(answer)
            assert rig.idle(pool) == 4
            with pytest.raises((ClientError, OSError)):
                await rig.get(pool, url)
            assert rig.idle(pool) == 0
            assert await rig.ask(pool, url) == b"ok"

    async def test_a_new_one_that_dies_says_nothing_of_the_others(self, pool: direct.Pool, rig: Any) -> None:
        dies = False

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await rig.head_of(reader) and not dies:
                writer.write(OK)

        async with rig.server(handler) as url:
            first = await rig.get(pool, url)
            dies = True
            with pytest.raises((ClientError, OSError)):
                await rig.get(pool, url)
            await rig.rest(first)
            assert rig.idle(pool) == 1

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ],
    )
    async def test_one_whose_server_says_that_it_will_close_is_not_used_again(
        self, answer: bytes, pool: direct.Pool, rig: Any
    ) -> None:
        async with rig.server(rig.saying(answer, then="next")) as url:
            assert await rig.ask(pool, url) == b"ok"
            assert rig.idle(pool) == 0

    @pytest.mark.parametrize("extra", [OK, b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nX: y", b"H", b"HTTP/1.1 100 C\r\n\r\n"])
    async def test_whatever_follows_an_answer_ends_the_connection(
        self, extra: bytes, pool: direct.Pool, rig: Any
    ) -> None:
        for answer, body in ((OK, b"ok"), (CHUNKED, CHUNKED_BODY)):
            for place in range(len(answer) - 3, len(answer) + len(extra)):
                connection, wire = rig.connected(pool)
                for piece in rig.split(answer + extra, (place,)):
                    connection.data_received(piece)
                assert (await rig.read(connection))[1] == body
                assert wire.closed, place
        assert rig.idle(pool) == 0

    @pytest.mark.parametrize("extra", [OK, b"H", b"\0garbage", b"HTTP/1.1 408 Timeout\r\n\r\n", b"x" * 200_000])
    async def test_whatever_comes_while_it_is_idle_ends_the_connection(
        self, extra: bytes, pool: direct.Pool, rig: Any
    ) -> None:
        for first in (1, len(extra)):
            connection, wire = rig.connected(pool)
            connection.data_received(OK)
            await rig.read(connection)
            assert rig.idle(pool) == 1
            connection.data_received(extra[:first])
            connection.data_received(extra[first:])
            assert pool._take(rig.origin) is None
            assert wire.closed

    async def test_a_half_read_answer_is_never_kept(self, pool: direct.Pool, rig: Any) -> None:
        for length in range(len(OK) - 2, len(OK)):
            connection, wire = rig.connected(pool)
            connection.data_received(OK[:length])
            answer = await rig.begun(connection)
            answer.release()
            assert wire.closed
        assert rig.idle(pool) == 0

    async def test_one_that_was_answered_before_it_was_asked_is_not_used_again(
        self, pool: direct.Pool, rig: Any
    ) -> None:
        connection, wire = rig.connected(pool)
        connection.data_received(OK)
        wire.unsent = 1
        assert await rig.read(connection) == (200, b"ok")
        assert wire.closed
        assert rig.idle(pool) == 0

    async def test_an_early_answer_to_a_large_body_is_read_and_its_connection_closed(
        self, pool: direct.Pool, rig: Any
    ) -> None:
        async with rig.server(rig.saying(b"HTTP/1.1 413 X\r\nContent-Length: 2\r\n\r\nno", then="next")) as url:
            answer = await rig.get(pool, url, bytes(30_000_000))
            assert (answer.status, await answer.receive()) == (413, b"no")
            answer.release()
            assert rig.idle(pool) == 0
            await rig.until(lambda: not pool._open)

    async def test_what_a_server_says_before_it_is_asked_is_its_answer(self, pool: direct.Pool, rig: Any) -> None:
        async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await reader.read()

        async with rig.server(busy) as url:
            answer = await rig.get(pool, url)
            assert answer.status == 503
            answer.release()
            assert rig.idle(pool) == 0

    async def test_the_end_closes_those_in_use_too_and_their_readers_are_told(
        self, pool: direct.Pool, rig: Any
    ) -> None:
        async with rig.server(rig.saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", then="next")) as url:
            answer = await rig.get(pool, url)
            assert await answer.receive() == b"part"
            reading = asyncio.create_task(answer.receive())
            await asyncio.sleep(0)
            pool.close()
            with pytest.raises(ClientError):
                await asyncio.wait_for(reading, 5)
            answer.release()
            assert rig.idle(pool) == 0
