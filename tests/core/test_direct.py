"""The short way: any answer in any pieces, connections that serve again only when nothing is left on them, no leaks."""

import asyncio
import contextlib
import gzip
import importlib.util
import itertools
import socket
import sys
import types
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import pytest
from aiohttp import ClientError
from aiohttp.http import HttpProcessingError
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from gatehook import direct, http1
from gatehook.egress import Egress
from gatehook.errors import UpstreamError
from gatehook.http1 import Connection
from gatehook.model import Target
from gatehook.settings import EgressSettings
from gatehook.testing import Reply, StubUpstream

ORIGIN = ("127.0.0.1", 1)
TARGET = Target("m#1", "m", "acme", "u")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    b'3;name=val;q="x"\r\nabc\r\n0B\r\n\r\n\r\n0\r\n\r\nde\r\n0;last\r\nX-Trailer: 1\r\n\r\n'
)
CHUNKED_BODY = b"abc\r\n\r\n0\r\n\r\nde"
LINE_ERRORS = (OSError, ClientError, HttpProcessingError)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Wire(asyncio.Transport):
    """A transport without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        """Tests feed little, or mean to feed too much."""

    def resume_reading(self) -> None:
        """As above."""

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort


def connected() -> tuple[Connection, Wire]:
    """A connection whose bytes the test feeds itself, waiting for an answer."""
    connection, wire = Connection(asyncio.get_running_loop(), ORIGIN, set()), Wire()
    connection.connection_made(wire)
    return connection, wire


async def begun(pool: direct.Pool, connection: Connection) -> direct.Answer:
    """Wait for the head, as `Pool.send` does."""
    while not connection.status:
        if connection.error:
            raise connection.error
        await connection.news()
    return pool._decoded(connection) if connection.encoded else direct.Answer(pool, connection)


async def rest(answer: direct.Answer) -> bytes:
    """Read to the end, piece by piece, and give the connection back."""
    body = b""
    while piece := await answer.receive():
        body += piece
    answer.done()
    return body


async def read(pool: direct.Pool, connection: Connection) -> tuple[int, bytes]:
    answer = await begun(pool, connection)
    return answer.status, await rest(answer)


def idle(pool: direct.Pool) -> int:
    return sum(map(len, pool._idle.values()))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task is about to do; fails after a few seconds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.003)
    raise AssertionError("it never came true")


@contextlib.asynccontextmanager
async def server(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[str]:
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

    listening = await asyncio.start_server(serve, host, 0)
    async with listening:
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{listening.sockets[0].getsockname()[1]}/"
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def saying(*pieces: bytes, then: str = "close") -> Handler:
    """Answers each request with these pieces, one read apart; then closes, or waits for the next."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await head_of(reader):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.002)
            if then == "close":
                return

    return handler


@pytest.fixture
async def pool() -> AsyncIterator[direct.Pool]:
    """A pool; when it is closed nothing of it may be left."""
    pool = direct.Pool(5.0)
    yield pool
    pool.close()
    await until(lambda: not pool._open)
    assert pool._sweeper is None
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def get(pool: direct.Pool, url: str, body: bytes = b"") -> direct.Answer:
    return await pool.send(direct.Request.to("POST", URL(url), {}), body)


async def ask(pool: direct.Pool, url: str) -> bytes:
    return await rest(await get(pool, url))


def chunked(pieces: Iterable[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


def split(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


class TestPieces:
    async def test_an_answer_is_the_same_however_it_is_cut_in_two_or_three(self, pool: direct.Pool) -> None:
        for first in range(len(CHUNKED)):
            for second in {first, first + 1, first + 2, first + 7, len(CHUNKED) - 1}:
                connection, wire = connected()
                for piece in split(CHUNKED, (first, second)):
                    connection.data_received(piece)
                assert await read(pool, connection) == (201, CHUNKED_BODY), (first, second)
                assert not wire.closed
        assert idle(pool) > len(CHUNKED)

    async def test_an_answer_may_come_byte_by_byte_to_a_reader_that_waits(self, pool: direct.Pool) -> None:
        connection, _ = connected()
        reading = asyncio.create_task(read(pool, connection))
        for byte in CHUNKED:
            await asyncio.sleep(0)
            assert not reading.done()
            connection.data_received(bytes([byte]))
        assert await reading == (201, CHUNKED_BODY)
        assert idle(pool) == 1

    async def test_an_answer_cut_off_anywhere_is_an_error_and_never_a_shorter_answer(self, pool: direct.Pool) -> None:
        for length in range(len(CHUNKED)):
            connection, _ = connected()
            reading = asyncio.create_task(read(pool, connection))
            await asyncio.sleep(0)
            connection.data_received(CHUNKED[:length])
            await asyncio.sleep(0)
            connection.connection_lost(None)
            with pytest.raises(LINE_ERRORS):
                await asyncio.wait_for(reading, 5)
        assert idle(pool) == 0

    async def test_a_byte_changed_anywhere_never_hangs_and_never_breaks_anything_else(self, pool: direct.Pool) -> None:
        for place in range(len(CHUNKED)):
            for byte in (b"\0", b"\n", b"z", b"\xff"):
                connection, _ = connected()
                reading = asyncio.create_task(read(pool, connection))
                await asyncio.sleep(0)
                for piece in split(CHUNKED[:place] + byte + CHUNKED[place + 1 :], (place, place + 1)):
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
        self, pieces: list[bytes], places: list[int], framing: str, encoding: str, interim: bool
    ) -> None:
        pool, body = direct.Pool(1), b"".join(pieces)
        sent = {"": [body], "gzip": [gzip.compress(body)], "deflate": [zlib.compress(body)]}[encoding]
        if framing == "chunked" and not encoding:
            sent = pieces
        size = sum(map(len, sent))
        headers = {"length": b"Content-Length: %d\r\n" % size, "chunked": b"Transfer-Encoding: chunked\r\n", "end": b""}
        answer = b"HTTP/1.1 100 Continue\r\n\r\n" * interim + b"HTTP/1.1 200 OK\r\n" + headers[framing]
        answer += b"Content-Encoding: %b\r\n" % encoding.encode() if encoding else b""
        answer += b"\r\n" + (chunked(sent) if framing == "chunked" else b"".join(sent))
        connection, _ = connected()
        reading = asyncio.create_task(read(pool, connection))
        for piece in split(answer, places):
            connection.data_received(piece)
            await asyncio.sleep(0)
        if framing == "end":
            connection.connection_lost(None)
        assert await asyncio.wait_for(reading, 5) == (200, body)
        assert idle(pool) == (framing != "end")
        pool.close()

    async def test_over_a_real_line_too(self, pool: direct.Pool) -> None:
        cuts = [[CHUNKED], [CHUNKED[:60], CHUNKED[60:]], [CHUNKED[i : i + 9] for i in range(0, len(CHUNKED), 9)]]
        for pieces in cuts:
            async with server(saying(*pieces, then="next")) as url:
                assert [await ask(pool, url) for _ in range(3)] == [CHUNKED_BODY] * 3
                assert len(pool._open) == 1
            await until(lambda: not pool._open)

    @pytest.mark.parametrize("status", [204, 304])
    async def test_an_answer_without_a_body_ends_with_its_head(self, status: int, pool: direct.Pool) -> None:
        async with server(saying(b"HTTP/1.1 %d X\r\nX-A: b\r\n\r\n" % status, then="next")) as url:
            for _ in range(2):
                assert await ask(pool, url) == b""
            assert len(pool._open) == 1

    async def test_a_body_that_goes_wrong_after_the_head_is_told_at_once(self, pool: direct.Pool) -> None:
        async with server(
            saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"zz\r\n")
        ) as url:
            with pytest.raises(HttpProcessingError):
                await asyncio.wait_for(ask(pool, url), 5)

    async def test_a_protocol_switch_is_an_answer_and_the_end_of_the_connection(self, pool: direct.Pool) -> None:
        for upgrade in (b"Connection: upgrade\r\nUpgrade: websocket\r\n", b""):
            async with server(saying(b"HTTP/1.1 101 X\r\n" + upgrade + b"\r\n", then="next")) as url:
                async with asyncio.timeout(5):
                    answer = await get(pool, url)
                assert (answer.status, await answer.receive()) == (101, b"")
                answer.done()
                assert idle(pool) == 0

    async def test_an_answer_larger_than_the_buffers_waits_for_its_reader(self, pool: direct.Pool) -> None:
        body = bytes(range(256)) * 40_000
        async with server(saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)) as url:
            answer = await get(pool, url)
            [connection] = pool._open
            await until(lambda: connection._reading_paused)
            for _ in range(20):
                await asyncio.sleep(0)
            assert connection._unread < 1 << 20
            assert await rest(answer) == body

    async def test_thousands_of_tiny_pieces_are_taken_at_once_and_reading_goes_on(self, pool: direct.Pool) -> None:
        connection, _ = connected()
        pieces = [b"%05d" % number for number in range(20_000)]
        connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = await begun(pool, connection)
        *most, last = split(chunked(pieces), range(0, 200_000, 50_000))
        for piece in most:
            connection.data_received(piece)
        assert connection._reading_paused
        got = [await answer.receive()]
        assert not connection._reading_paused
        connection.data_received(last)
        got.append(await answer.receive())
        assert b"".join(got) == b"".join(pieces)
        assert await answer.receive() == b""
        answer.done()
        assert idle(pool) == 1

    async def test_a_little_that_inflates_to_very_much_is_held_back_for_its_reader(self, pool: direct.Pool) -> None:
        body = bytes(8_000_000)
        connection, _ = connected()
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = await begun(pool, connection)
        connection.data_received(chunked(split(gzip.compress(body), range(0, 8_000, 97))))
        got = b""
        while piece := await answer.receive():
            assert len(piece) <= 1 << 16
            got += piece
        assert got == body

    async def test_an_error_that_came_first_is_told_to_who_reads_later(self, pool: direct.Pool) -> None:
        connection, _ = connected()
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        answer = await begun(pool, connection)
        connection.connection_lost(ConnectionResetError("gone"))
        with pytest.raises(LINE_ERRORS):
            await answer.receive()
        answer.done()


class TestReuse:
    async def test_the_last_used_connection_serves_first(self, pool: direct.Pool) -> None:
        async with server(saying(OK, then="next")) as url:
            answers = [await get(pool, url) for _ in range(3)]
            one, two, three = (answer._connection for answer in answers)
            for number in (1, 0, 2):
                answers[number].done()
            assert [pool._take(origin) for origin in [next(iter(pool._idle))] * 4] == [three, one, two, None]

    async def test_giving_back_twice_gives_back_once(self, pool: direct.Pool) -> None:
        async with server(saying(OK, then="next")) as url:
            answer = await get(pool, url)
            for _ in range(3):
                answer.done()
            assert idle(pool) == 1
            other = await get(pool, url)  # on the same connection
            answer.done()
            assert (idle(pool), len(pool._open)) == (0, 1)
            assert await other.receive() == b"ok"
            other.done()
            assert idle(pool) == 1

    async def test_one_idle_for_long_is_not_used_again(self, pool: direct.Pool) -> None:
        async with server(saying(OK, then="next")) as url:
            await ask(pool, url)
            [[old]] = pool._idle.values()
            old.idle_since -= direct._IDLE_SECONDS + 1
            await ask(pool, url)
            assert old.transport is None
            await until(lambda: len(pool._open) == 1)

    async def test_the_sweep_closes_what_has_been_idle_for_long_and_only_that(self, pool: direct.Pool) -> None:
        async with server(saying(OK, then="next")) as url:
            answers = [await get(pool, url) for _ in range(3)]
            for answer in answers:
                answer.done()
            [[one, two, three]] = pool._idle.values()
            one.idle_since -= 100
            two.idle_since -= 100
            pool._sweep()
            assert list(pool._idle.values()) == [[three]]
            assert (one.transport, two.transport) == (None, None)
            assert pool._sweeper is not None
            three.idle_since -= 100
            pool._sweep()
            assert pool._idle == {}
            assert pool._sweeper is None
            await until(lambda: not pool._open)

    async def test_the_sweep_comes_by_itself(self, pool: direct.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(direct, "_IDLE_SECONDS", 0.02)
        async with server(saying(OK, then="next")) as url:
            await ask(pool, url)
            await until(lambda: not pool._open and not pool._idle and pool._sweeper is None)

    async def test_one_that_the_server_closed_meanwhile_is_not_used_again(self, pool: direct.Pool) -> None:
        async with server(saying(OK)) as url:  # says nothing of closing, and closes
            for _ in range(3):
                assert await ask(pool, url) == b"ok"
                await until(lambda: not pool._open)

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ],
    )
    async def test_one_whose_server_says_that_it_will_close_is_not_used_again(
        self, answer: bytes, pool: direct.Pool
    ) -> None:
        async with server(saying(answer, then="next")) as url:
            assert await ask(pool, url) == b"ok"
            assert idle(pool) == 0

    @pytest.mark.parametrize("extra", [OK, b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nX: y", b"H", b"HTTP/1.1 100 C\r\n\r\n"])
    async def test_whatever_follows_an_answer_ends_the_connection(self, extra: bytes, pool: direct.Pool) -> None:
        for answer, body in ((OK, b"ok"), (CHUNKED, CHUNKED_BODY)):
            for place in range(len(answer) - 3, len(answer) + len(extra)):
                connection, wire = connected()
                for piece in split(answer + extra, (place,)):
                    connection.data_received(piece)
                assert (await read(pool, connection))[1] == body
                assert wire.closed, place
        assert idle(pool) == 0

    @pytest.mark.parametrize("extra", [OK, b"H", b"\0garbage", b"HTTP/1.1 408 Timeout\r\n\r\n", b"x" * 200_000])
    async def test_whatever_comes_while_it_is_idle_ends_the_connection(self, extra: bytes, pool: direct.Pool) -> None:
        for first in (1, len(extra)):
            connection, wire = connected()
            connection.data_received(OK)
            await read(pool, connection)
            assert idle(pool) == 1
            connection.data_received(extra[:first])
            connection.data_received(extra[first:])
            assert pool._take(ORIGIN) is None
            assert wire.closed

    async def test_a_half_read_answer_is_never_kept(self, pool: direct.Pool) -> None:
        for length in range(len(OK) - 2, len(OK)):
            connection, wire = connected()
            connection.data_received(OK[:length])
            answer = await begun(pool, connection)
            answer.done()
            assert wire.closed
        assert idle(pool) == 0

    async def test_one_that_was_answered_before_it_was_asked_is_not_used_again(self, pool: direct.Pool) -> None:
        connection, wire = connected()
        connection.data_received(OK)
        wire.unsent = 1
        assert await read(pool, connection) == (200, b"ok")
        assert wire.closed
        assert idle(pool) == 0

    async def test_an_early_answer_to_a_large_body_is_read_and_its_connection_closed(self, pool: direct.Pool) -> None:
        async with server(saying(b"HTTP/1.1 413 X\r\nContent-Length: 2\r\n\r\nno", then="next")) as url:
            answer = await get(pool, url, bytes(30_000_000))
            assert (answer.status, await answer.receive()) == (413, b"no")
            answer.done()
            assert idle(pool) == 0
            await until(lambda: not pool._open)

    async def test_what_a_server_says_before_it_is_asked_is_its_answer(self, pool: direct.Pool) -> None:
        async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await reader.read()

        async with server(busy) as url:
            answer = await get(pool, url)
            assert answer.status == 503
            answer.done()
            assert idle(pool) == 0

    async def test_the_end_closes_those_in_use_too_and_their_readers_are_told(self, pool: direct.Pool) -> None:
        async with server(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", then="next")) as url:
            answer = await get(pool, url)
            assert await answer.receive() == b"part"
            reading = asyncio.create_task(answer.receive())
            await asyncio.sleep(0)
            pool.close()
            with pytest.raises(ClientError):
                await asyncio.wait_for(reading, 5)
            answer.done()
            assert idle(pool) == 0


class TestLeaving:
    """However a request ends, nothing of it stays: no task, no open connection, nothing half read in the pool."""

    @staticmethod
    async def cancelled(work: asyncio.Task[Any]) -> None:
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    async def test_cancelled_while_connecting(self, pool: direct.Pool) -> None:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):  # fill its queue: further connections get no answer
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            work = asyncio.create_task(get(pool, f"http://127.0.0.1:{listener.getsockname()[1]}/"))
            await asyncio.sleep(0.05)
            assert not work.done()
            await self.cancelled(work)
        assert not pool._open

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 100 C\r\n\r\n", OK[:20]])
    async def test_cancelled_while_waiting_for_the_head(self, said: bytes, pool: direct.Pool) -> None:
        asked = asyncio.Event()
        gone = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            writer.write(said)
            asked.set()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            gone.set()

        async with server(silent) as url:
            work = asyncio.create_task(get(pool, url))
            await asyncio.wait_for(asked.wait(), 5)
            await self.cancelled(work)
            await asyncio.wait_for(gone.wait(), 5)
            await until(lambda: not pool._open)

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def test_cancelled_at_any_step_of_the_loop(self, loop: str) -> None:
        if loop == "uvloop" and not importlib.util.find_spec("uvloop"):
            pytest.skip("uvloop is not installed")
        seen = 0

        async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal seen
            seen += 1
            try:
                await saying(OK, then="next")(reader, writer)
            finally:
                seen -= 1

        async def work() -> None:
            pool, finished = direct.Pool(5.0), 0
            async with server(counted) as url:
                for steps in range(60):
                    task = asyncio.create_task(ask(pool, url))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        finished += await task == b"ok"
                    await until(lambda: seen == len(pool._open) == idle(pool))
                    assert await ask(pool, url) == b"ok"
                    if steps % 2:  # half the time there is none to be used again
                        pool.close()
                assert finished < 60
                pool.close()
                await until(lambda: not pool._open)

        if loop == "uvloop":
            import uvloop

            uvloop.run(work())
        else:
            asyncio.run(work())

    async def test_a_server_that_never_reads_does_not_hold_the_connection(self, pool: direct.Pool) -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            work = asyncio.create_task(get(pool, f"http://127.0.0.1:{listener.getsockname()[1]}/", bytes(20_000_000)))
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            with accepted:
                await until(lambda: len(pool._open) == 1)
                await asyncio.sleep(0.01)
                await self.cancelled(work)
                await until(lambda: not pool._open)

    async def test_a_connection_in_use_when_the_server_goes_is_told_as_such(self, pool: direct.Pool) -> None:
        async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)

        async with server(leaves) as url:
            with pytest.raises((ClientError, OSError)):
                await get(pool, url)
            await until(lambda: not pool._open)

    async def test_connecting_has_its_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def never(*args: Any, **rest: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
        with pytest.raises(TimeoutError):
            await get(direct.Pool(0.02), "http://127.0.0.1:1/")


class TestRequest:
    @pytest.mark.parametrize(
        ("url", "host", "port", "first", "named"),
        [
            ("http://h", "h", 80, "/", "h"),
            ("http://H:80?a=b", "h", 80, "/?a=b", "h"),
            ("http://h:81/a%2Fb?c=%20#d", "h", 81, "/a%2Fb?c=+", "h:81"),
            ("http://h./ü", "h.", 80, "/%C3%BC", "h"),
            ("http://[::1]/", "::1", 80, "/", "[::1]"),
            ("http://[::1]:81/", "::1", 81, "/", "[::1]:81"),
            ("http://h:0/", "h", 0, "/", "h:0"),
        ],
    )
    def test_where_it_goes(self, url: str, host: str, port: int, first: str, named: str) -> None:
        request = direct.Request.to("GET", URL(url), {"A": "ä b"})
        assert request.origin == (host, port)
        [line, *rest] = request.head.decode().split("\r\n")
        assert line.startswith("GET /")
        assert line == f"GET {first} HTTP/1.1" or URL(url).query_string in line.replace("%20", " ")
        assert rest == [f"Host: {named}", "A: ä b", "Content-Length: "]

    @pytest.mark.parametrize("name", ["", "A B", "A:B", "A\r\nB", "Ä", "A\0", " A", "A\n"])
    def test_a_header_whose_name_is_none_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="not a header's name"):
            direct.Request.to("GET", URL("http://h/"), {name: "1"})

    @pytest.mark.parametrize(
        "value", ["secret\r\nB: 1", "secret\n", "secret\0", "secret\udcff", "secret\x7f", "\x0bsecret"]
    )
    def test_a_header_that_would_break_its_line_is_refused_and_not_repeated(self, value: str) -> None:
        with pytest.raises(ValueError, match="in the header 'A'") as caught:
            direct.Request.to("GET", URL("http://h/"), {"A": value})
        assert "secret" not in repr(caught.value)

    def test_a_path_cannot_break_its_line(self) -> None:
        with pytest.raises(ValueError, match=r"cannot be sent in the address$"):
            direct.Request.to("GET", URL("http://h/secret\x0b", encoded=True), {})

    @pytest.mark.parametrize(
        ("method", "url", "headers"),
        [
            ("GET", "https://h/", {}),
            ("GET", "nonsense", {}),
            ("GET", "http:///x", {}),
            ("GET", "http://user@h/", {}),
            ("GET", "http://user:pw@h/", {}),
            ("HEAD", "http://h/", {}),
            ("CONNECT", "http://h/", {}),
            ("GET / HTTP/1.1\r\nX: ", "http://h/", {}),
            *(
                ("POST", "http://h/", {name: "1"})
                for name in ("host", "CONTENT-LENGTH", "Transfer-Encoding", "Connection")
            ),
            ("POST", "http://h/", {"Expect": "100-continue"}),
        ],
    )
    def test_what_does_not_go_the_short_way(self, method: str, url: str, headers: dict[str, str]) -> None:
        assert not direct.suits(method, URL(url), headers)

    async def test_head_and_body_are_sent_as_they_are(self, pool: direct.Pool) -> None:
        got: list[bytes] = []

        async def listening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for length in (3, 0):
                got.append(await head_of(reader) + await reader.readexactly(length))
                writer.write(OK)

        async with server(listening) as url:
            request = direct.Request.to("POST", URL(url + "p"), {"A": "b"})
            for body in (b"abc", b""):
                answer = await pool.send(request, body)
                assert await answer.receive() == b"ok"
                answer.done()
        host = url.removeprefix("http://").rstrip("/").encode()
        head = b"POST /p HTTP/1.1\r\nHost: %b\r\nA: b\r\nContent-Length: %d\r\n\r\n%b"
        assert got == [head % (host, 3, b"abc"), head % (host, 0, b"")]


class TestAlike:
    """Whichever way is taken, the vendor's answer and its faults look the same."""

    @staticmethod
    async def outcome(egress: Egress, url: str, method: str = "GET", **rest: Any) -> tuple[object, ...]:
        try:
            async with (
                asyncio.timeout(10),
                await egress.request(TARGET, method, url, headers=rest.get("headers", {}), body=rest.get("body")) as up,
            ):
                return up.status, sorted(up.headers.items()), await up.read()
        except UpstreamError as error:
            return type(error), error.message, error.retry, error.status

    @pytest.fixture
    async def both(self) -> AsyncIterator[tuple[Egress, Egress]]:
        short, long = Egress(EgressSettings()), Egress(EgressSettings())
        assert short._pool is not None
        long._pool = None
        async with short.lifespan(), long.lifespan():
            yield short, long

    @pytest.mark.parametrize(
        "pieces",
        [
            [OK],
            [CHUNKED],
            [CHUNKED[:100], CHUNKED[100:]],
            [b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nabc"],
            [b"HTTP/1.1 101 X\r\n\r\n"],
            [b"HTTP/1.1 099 X\r\n\r\n"],
            [b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n"],
            [b"HTTP/1.1 204 X\r\n\r\n"],
            [b"HTTP/1.1 304 X\r\nContent-Length: 10\r\n\r\n"],
            [b"HTTP/1.0 200 OK\r\n\r\nabc"],
            [b"HTTP/1.1 200 OK\r\n\r\n", b"abc", b"def"],
            [b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx"],
            [b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nX-A:   spaced  \r\nX-A: again\r\nContent-Length: 0\r\n\r\n"],
            [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
            [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"],
            [b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx"],
            [b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nx"],
            [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"abc"],
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabcd"],
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc"],
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nabc"],
            [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n"],
            [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"],
            [b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n"],
            [b"HTTP/1.1 200 " + b"O" * 70_000 + b"\r\n\r\n"],
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"],
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(3_000_000))],
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: strange\r\nContent-Length: 3\r\n\r\nabc"],
            [OK[:-1], b"kGARBAGE"],
            [b"HTTP/2 200\r\n\r\n"],
            [b"\r\n\r\n" + OK],
            [b""],
        ],
        ids=lambda pieces: repr(pieces[-1][:40]),
    )
    async def test_answers(self, pieces: Sequence[bytes], both: tuple[Egress, Egress]) -> None:
        async with server(saying(*pieces)) as url:
            short, long = [await self.outcome(egress, url) for egress in both]
        assert short == long

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "nonsense",
            "http://",
            "http:///x",
            "ftp://h/",
            "http://h:99999/",
            "http://a..b/",
            f"http://{'a' * 64}.t/",
        ],
    )
    async def test_addresses_that_are_none(self, url: str, both: tuple[Egress, Egress]) -> None:
        short, long = [await self.outcome(egress, url) for egress in both]
        assert short == long
        assert "Error" not in str(short[1])  # words, not the name of a class

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": "Bearer k", "Content-Type": "a/b"},
            {"user-agent": "mine", "ACCEPT": "a/b"},
            {"Host": "elsewhere:1"},
            {"X-A": "ä"},
        ],
    )
    @pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b"{}"), ("PUT", b""), ("DELETE", None)])
    async def test_requests(
        self, method: str, body: bytes | None, headers: dict[str, str], both: tuple[Egress, Egress]
    ) -> None:
        heads = []
        async with StubUpstream(Reply(body=b"x")) as stub:
            for egress in both:
                await self.outcome(egress, stub.url + "/ä?ö= +%2B&x", method, headers=headers, body=body)
            for sent in stub.requests:
                rest = {name: value for name, value in sent.headers.items() if name != "content-length"}
                rest.setdefault("content-type", "application/octet-stream")  # aiohttp names one, if there is a body
                heads.append((sent.method, sent.path, rest, sent.body))
        assert len(heads) == 2
        assert heads[0] == heads[1]

    async def test_a_request_for_the_head_alone(self, both: tuple[Egress, Egress]) -> None:
        async with server(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", then="next")) as url:
            short, long = [await self.outcome(egress, url, "HEAD") for egress in both]
        assert short == long == (200, [("Content-Length", "5")], b"")

    async def test_a_user_in_the_address_is_told_to_the_vendor_as_such(self, both: tuple[Egress, Egress]) -> None:
        async with StubUpstream(Reply(body=b"x")) as stub:
            for egress in both:
                await self.outcome(egress, stub.url.replace("//", "//user:pw@"))
            for sent in stub.requests:
                assert sent.headers["authorization"] == "Basic dXNlcjpwdw=="
                assert sent.headers["host"] == stub.url.removeprefix("http://")

    async def test_ipv6(self, both: tuple[Egress, Egress]) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        async with server(saying(OK), "::1") as url:
            short, long = [await self.outcome(egress, url) for egress in both]
        assert short == long == (200, [("Content-Length", "2")], b"ok")

    async def test_several_addresses_that_all_refuse_are_told_in_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def refused(*args: Any, **rest: Any) -> Any:
            raise OSError("Multiple exceptions: [Errno 111] one, [Errno 111] two")  # as asyncio says it

        egress = Egress(EgressSettings())
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refused)
        async with egress.lifespan():
            assert "[errno 111] one" in str((await self.outcome(egress, "http://127.0.0.1:1/"))[1])

    async def test_draining_a_stream_that_goes_wrong_never_fails(self, both: tuple[Egress, Egress]) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        async with server(saying(head, b"zz\r\n")) as url:
            for egress in both:
                async with await egress.request(TARGET, "GET", url, headers={}) as upstream:
                    assert await upstream.receive() == b"abc"
                    await upstream.drain()


class TestFallback:
    @staticmethod
    def again(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
        """The module of connections, as it would be loaded now."""
        spec = importlib.util.spec_from_file_location("http1_again", http1.__file__)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "http1_again", module)
        spec.loader.exec_module(module)
        return module

    def test_where_there_is_a_parser_the_short_way_is_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert direct.available
        assert self.again(monkeypatch).available
        assert Egress(EgressSettings()).prepare(TARGET, "GET", "http://127.0.0.1:1/", headers={}).way is not None

    async def test_where_there_is_none_the_long_way_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "httptools", None)
        assert self.again(monkeypatch).available is False
        monkeypatch.setattr(direct, "available", False)
        egress = Egress(EgressSettings())
        assert egress.prepare(TARGET, "GET", "http://127.0.0.1:1/", headers={}).way is None
        async with (
            StubUpstream(Reply(body=b"x")) as stub,
            egress.lifespan(),
            await egress.request(TARGET, "GET", stub.url, headers={}) as upstream,
        ):
            assert (upstream.status, await upstream.read()) == (200, b"x")

    def test_with_a_proxy_the_public_way_is_taken(self) -> None:
        egress = Egress(EgressSettings(proxy="http://127.0.0.1:1"))
        assert egress.prepare(TARGET, "GET", "http://127.0.0.1:2/", headers={}).way is None
