"""Whatever a server says, this client reads of it what aiohttp's reads, or nothing."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiohttp import ClientError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehook.upstream.http1 import headers_in

LINE_ERRORS = (OSError, ClientError, HttpProcessingError)
CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    b'3;name=val;q="x"\r\nabc\r\n0B\r\n\r\n\r\n0\r\n\r\nde\r\n0;last\r\nX-Trailer: 1\r\n\r\n'
)
SEEDS = [
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}',
    CHUNKED,
    b"HTTP/1.0 404 None\r\nServer: a\r\nserver: b\r\nX:\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nnone",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Folded: a\r\n  b\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\nContent-Length: 3\nX-Latin: caf\xe9\n\nabc",
    b"HTTP/1.1 204 None\r\nContent-Length: 3\r\n\r\n",
    b'HTTP/1.1 304 Same\r\nETag: "x"\r\n\r\n',
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
]
TOKENS = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\0",
    b":",
    b";",
    b"0\r\n\r\n",
    b"Content-Length: 1\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"HTTP/1.1 100 C\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0",
    b"101",
    b"ffffffffffffffff",
    b"\xff\xfe",
]

Outcome = tuple[int, list[tuple[str, str]], bytes] | None


def told(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names in lower case: aiohttp writes those that it knows its own way."""
    return sorted((name.lower(), value) for name, value in headers.items())


async def by_aiohttp(data: bytes) -> Outcome:
    """What aiohttp's client makes of it, if the connection then ends.

    Byte by byte: what follows an answer spoils it for aiohttp if both come in one read, and only then.
    """
    handler = ResponseHandler(asyncio.get_running_loop())
    handler.connection_made(asyncio.Transport())
    handler.set_response_params(read_until_eof=True, max_line_size=65536, max_field_size=65536)
    handler.transport = None
    for byte in data:
        handler.data_received(bytes([byte]))
    handler.connection_lost(None)
    try:
        while True:
            message, content = await handler.read()
            if message.code == 101 or not 100 <= message.code < 200:
                break
        return message.code, told(message.headers), await content.read()
    except LINE_ERRORS:
        return None


async def by_us(rig: Any, pieces: Sequence[bytes]) -> Outcome:
    connection, wire = rig.connected()
    for piece in pieces:
        if not wire.closed:
            connection.data_received(piece)
    connection.eof_received()
    connection.connection_lost(None)
    try:
        answer = await rig.begun(connection)
        return answer.status, told(headers_in(answer.head)), await rig.rest(answer)
    except LINE_ERRORS:
        return None


def mutated(seed: bytes, rng: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data[place:place] = rng.choice(TOKENS)
        elif kind == 1:
            del data[place : place + rng.randint(1, 6)]
        elif kind == 2 and place < len(data):
            data[place] = rng.randrange(256)
        else:
            other = rng.choice(SEEDS)
            start = rng.randrange(len(other))
            data[place:place] = other[start : start + rng.randint(1, 40)]
    return bytes(data)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: repr(seed[9:40]))
async def test_well_known_answers_are_the_same(seed: bytes, rig: Any) -> None:
    ours, theirs = await by_us(rig, [seed]), await by_aiohttp(seed)
    assert ours == theirs


@settings(max_examples=300, deadline=None)
@given(number=st.integers(0, 2**32), seed=st.sampled_from(SEEDS), places=st.lists(st.integers(0, 400), max_size=3))
async def test_a_mutated_answer_is_the_same_or_refused(number: int, seed: bytes, places: list[int], rig: Any) -> None:
    data = mutated(seed, random.Random(number))
    ours = await by_us(rig, rig.split(data, places))
    if ours is not None:
        theirs = await by_aiohttp(data)
        assert ours == theirs


@settings(max_examples=200, deadline=None)
@given(number=st.integers(0, 2**32), seed=st.sampled_from(SEEDS), places=st.lists(st.integers(0, 400), max_size=4))
async def test_where_the_network_cuts_a_mutated_answer_changes_nothing(
    number: int, seed: bytes, places: list[int], rig: Any
) -> None:
    data = mutated(seed, random.Random(number))
    assert await by_us(rig, rig.split(data, places)) == await by_us(rig, [data])
