"""What is passed on straight from the socket, while its reader sleeps."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehook.upstream import direct
from gatehook.upstream.http1 import Connection

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Taker:
    """Takes what it is given, or not, in turn."""

    def __init__(self, takes: Iterable[bool]) -> None:
        self._takes = iter(takes)
        self.taken: list[bytes] = []

    def __call__(self, data: bytes) -> bool:
        takes = next(self._takes, True)
        if takes:
            self.taken.append(data)
        return takes


async def asleep(connection: Connection, taker: Any) -> "asyncio.Task[bytes]":
    """A reader that waits for what `taker` does not take."""
    reading = asyncio.create_task(connection.receive(taker))
    await asyncio.sleep(0)
    return reading


class TestPassingOn:
    async def test_the_reader_sleeps_while_all_is_taken(self, rig: Any) -> None:
        connection, _ = rig.connected()
        connection.data_received(HEAD)
        taker = Taker([True, True, False])
        reading = await asleep(connection, taker)
        for data in (b"a", b"b"):
            connection.data_received(chunk(data))
            await asyncio.sleep(0)
        assert taker.taken == [b"a", b"b"]
        assert not reading.done()
        connection.data_received(chunk(b"c") + chunk(b"d"))
        assert await reading == b"cd"
        assert taker.taken == [b"a", b"b"]

    async def test_a_size_that_comes_before_its_chunk_wakes_nobody(self, rig: Any) -> None:
        connection, _ = rig.connected()
        connection.data_received(HEAD)
        taker = Taker([True])
        reading = await asleep(connection, taker)
        connection.data_received(b"1\r\n")
        await asyncio.sleep(0)
        connection.data_received(b"a\r\n")
        assert taker.taken == [b"a"]
        assert not reading.done()
        connection.data_received(END)
        assert await reading == b""

    async def test_what_comes_while_nobody_waits_is_read(self, rig: Any) -> None:
        connection, _ = rig.connected()
        connection.data_received(HEAD)
        taker = Taker([False])
        reading = await asleep(connection, taker)
        connection.data_received(chunk(b"a"))
        connection.data_received(chunk(b"b"))  # the reader is awake, but did not run yet
        assert await reading == b"ab"
        connection.data_received(chunk(b"c"))
        assert await connection.receive(taker) == b"c"
        assert taker.taken == []

    async def test_nothing_is_passed_on_with_the_end(self, pool: direct.Pool, rig: Any) -> None:
        connection, _ = rig.connected(pool)
        connection.data_received(HEAD)
        taker = Taker([])
        reading = await asleep(connection, taker)
        connection.data_received(chunk(b"a") + END)
        assert await reading == b"a"
        assert taker.taken == []
        assert await connection.receive(taker) == b""
        connection.release()
        assert rig.idle(pool) == 1

    async def test_the_next_answer_is_not_passed_on(self, pool: direct.Pool, rig: Any) -> None:
        connection, _ = rig.connected(pool)
        connection.data_received(HEAD)
        taker = Taker([])
        reading = await asleep(connection, taker)
        connection.data_received(END)
        assert await reading == b""
        connection.release()
        assert [pool._take(rig.origin)] == [connection]
        answer = asyncio.create_task(rig.read(connection))
        await asyncio.sleep(0)
        connection.data_received(HEAD + chunk(b"secret"))
        await asyncio.sleep(0)
        connection.data_received(chunk(b"too") + END)
        assert await answer == (200, b"secrettoo")
        assert taker.taken == []

    async def test_nor_is_anything_to_who_has_left(self, rig: Any) -> None:
        connection, _ = rig.connected()
        connection.data_received(HEAD)
        taker = Taker([])
        reading = await asleep(connection, taker)
        reading.cancel()
        connection.data_received(chunk(b"a"))
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert taker.taken == []

    async def test_an_error_of_it_is_raised_in_the_reader(self, rig: Any) -> None:
        def broken(data: bytes) -> bool:
            raise RuntimeError("broken")

        connection, _ = rig.connected()
        connection.data_received(HEAD)
        reading = await asleep(connection, broken)
        connection.data_received(chunk(b"a"))
        with pytest.raises(RuntimeError, match="broken"):
            await reading

    async def test_what_goes_wrong_wakes_the_reader(self, rig: Any) -> None:
        connection, wire = rig.connected()
        connection.data_received(HEAD)
        taker = Taker([])
        reading = await asleep(connection, taker)
        connection.data_received(chunk(b"a"))
        connection.data_received(b"no size\r\n")
        with pytest.raises(Exception, match="chunk size"):
            await reading
        assert wire.closed
        assert taker.taken == [b"a"]

    @pytest.mark.parametrize("takes", [[True] * 9, [True, False], [False, True]])
    async def test_a_read_of_more_than_64_kib_is_whole(self, takes: list[bool], rig: Any) -> None:
        for size in (65_000, 65_529, 65_536, 70_000, 200_000):
            connection, wire = rig.connected()
            connection.data_received(HEAD)
            taker = Taker(takes)
            reading = await asleep(connection, taker)
            connection.data_received(chunk(bytes(size)))
            connection.data_received(chunk(b"last"))
            connection.data_received(END)
            body = b""
            while piece := await reading:
                body += piece
                reading = await asleep(connection, taker)
            assert sum(map(len, taker.taken)) + len(body) == size + 4
            assert not wire.closed

    @settings(max_examples=150, deadline=None)
    @given(
        pieces=st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=8),
        cuts=st.lists(st.integers(0, 300), max_size=12),
        takes=st.lists(st.booleans(), max_size=20),
        rests=st.lists(st.booleans(), max_size=20),
    )
    async def test_nothing_is_lost_doubled_or_out_of_order(
        self, pieces: list[bytes], cuts: list[int], takes: list[bool], rests: list[bool], rig: Any
    ) -> None:
        connection, _ = rig.connected()
        came: list[bytes] = []
        turns = iter(takes)

        def taker(data: bytes) -> bool:
            taken = next(turns, True)
            if taken:
                came.append(data)
            return taken

        async def read() -> None:
            while piece := await connection.receive(taker):
                came.append(piece)

        reading = asyncio.create_task(read())
        paused = iter(rests)
        for part in rig.split(HEAD + b"".join(map(chunk, pieces)) + END, cuts):
            connection.data_received(part)
            if next(paused, True):
                await asyncio.sleep(0)
        await asyncio.wait_for(reading, 5)
        assert b"".join(came) == b"".join(pieces)
