"""Heads of requests: what is read at once is what aiohttp's parser reads, and whatever is in doubt is left to it."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, AnyStr

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from gatehook.serving.heads import LONGEST, Head, read_head

USUAL = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n"


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """For aiohttp's parser, which wants one and does not run it."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def as_aiohttp_reads(text: bytes, loop: asyncio.AbstractEventLoop) -> Any:
    parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 16, max_line_size=32768, max_field_size=32768)
    messages, upgraded, tail = parser.feed_data(text)
    assert (len(messages), upgraded, tail) == (1, False, b"")
    return messages[0][0]


def same(head: Head, text: bytes, loop: asyncio.AbstractEventLoop) -> bool:
    theirs, ours = as_aiohttp_reads(text, loop), head.message
    assert (ours.method, ours.path, ours.version) == (theirs.method, theirs.path, theirs.version)
    # Names have no case, and aiohttp writes those that it knows its own way.
    assert _fields(ours.headers.items()) == _fields(theirs.headers.items())
    assert _fields(ours.raw_headers) == _fields(theirs.raw_headers)
    assert (ours.should_close, ours.compression, ours.upgrade, ours.chunked) == (
        theirs.should_close,
        theirs.compression,
        theirs.upgrade,
        theirs.chunked,
    )
    assert head.length == int(theirs.headers.get("Content-Length", "0"))
    return True


def _fields(headers: Iterable[tuple[AnyStr, AnyStr]]) -> list[tuple[AnyStr, AnyStr]]:
    return [(name.lower(), value) for name, value in headers]


def test_the_usual_is_read(loop: asyncio.AbstractEventLoop) -> None:
    head = read_head(USUAL)
    assert head is not None
    assert (head.text, head.length, head.headers["content-type"]) == (USUAL, 2, "application/json")
    assert head.message.url.path == "/v1/chat/completions"
    assert same(head, USUAL, loop)


@pytest.mark.parametrize(
    "field",
    [
        b"Transfer-Encoding: chunked",
        b"transfer-encoding: identity",
        b"Content-Length: 2",  # a second one
        b"content-length: 3",
        b"Content-Encoding: gzip",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b"Connection: close",
        b"Connection: keep-alive, Upgrade",
        b"X-A: one\r\n two",  # folded
        b"X-A : one",
        b" X-A: one",
        b": one",
        b"X-A",
        b"X-A: \xc3\xa9",
        b"X-A: a\x00b",
        b"X-A: a\rb",
        b"X-A: a\nb: c",
        b"X-A: \x7f",
        b"X\x80: a",
        b"\r\n".join(b"X-%d: a" % number for number in range(120)),
        b"X-A: " + b"a" * LONGEST,
        b"X-A: a\r\nx-a: a",
    ],
)
def test_the_unusual_is_left_alone(field: bytes) -> None:
    assert read_head(USUAL.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n\r\n")) is None


@pytest.mark.parametrize(
    "line",
    [
        b"POST /v1 HTTP/1.0",
        b"POST /v1 HTTP/1.10",
        b"POST  /v1 HTTP/1.1",
        b"POST http://x/v1 HTTP/1.1",
        b"post /v1 HTTP/1.1",
        b"CONNECT x:1 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"POST /v1#a HTTP/1.1",
        b"POST /\xc3\xa9 HTTP/1.1",
        b"POST /v1 HTTP/1.1\t",
        b"POST /v1",
        b"\r\nPOST /v1 HTTP/1.1",
    ],
)
def test_so_is_an_unusual_request_line(line: bytes) -> None:
    assert read_head(line + USUAL[USUAL.index(b"\r\n") :]) is None


@pytest.mark.parametrize("length", [b"", b"-1", b"+2", b"0x2", b"2,2", b"1e1", b"9" * 16, b"2 2"])
def test_a_length_that_is_no_plain_number_is_not_guessed(length: bytes) -> None:
    assert read_head(USUAL.replace(b"Content-Length: 2", b"Content-Length: " + length)) is None


def test_without_a_host_it_is_not_taken() -> None:
    assert read_head(USUAL.replace(b"Host: x\r\n", b"")) is None


def test_a_kept_connection_and_no_body_are_usual(loop: asyncio.AbstractEventLoop) -> None:
    text = b"GET /v1/models?a=b%20c HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive\r\nX-A:\r\nX-B: \t b \t\r\n\r\n"
    head = read_head(text)
    assert head is not None
    assert (head.length, head.headers["x-a"], head.headers["x-b"]) == (0, "", "b")
    assert same(head, text, loop)


NAMES = st.sampled_from(
    ["Host", "Content-Length", "Connection", "X-A", "Authorization", "Transfer-Encoding", "TE", "Keep-Alive", "Cookie"]
)
VALUES = st.one_of(
    st.sampled_from(["x", "2", "0", "", "keep-alive", "close", "chunked", "Bearer k", " 2 ", "2\t"]),
    st.text(st.characters(max_codepoint=255), max_size=12),
)
LINES = st.one_of(
    st.just("POST /v1/chat/completions HTTP/1.1"),
    st.builds("{} {} HTTP/1.1".format, st.sampled_from(["GET", "POST", "BREW"]), st.text("/a%2?#[ \u00e9", max_size=6)),
)


@given(LINES, st.lists(st.tuples(NAMES, VALUES), max_size=6), st.sampled_from([": ", ":", " : "]))
@example("POST / HTTP/1.1", [("Host", "x"), ("Content-Length", "2")], ": ")
def test_whatever_is_read_is_what_aiohttp_reads(
    loop: asyncio.AbstractEventLoop, line: str, fields: list[tuple[str, str]], colon: str
) -> None:
    lines = [line, *(f"{name}{colon}{value}" for name, value in fields)]
    text = "\r\n".join([*lines, "", ""]).encode("latin-1")
    if text.index(b"\r\n\r\n") == len(text) - 4:  # as its reader cuts it
        head = read_head(text)
        assert head is None or same(head, text, loop)


@given(st.integers(0, len(USUAL) - 5), st.binary(max_size=3), st.integers(0, 2))
@example(USUAL.index(b"tent-Type"), b"T", 1)
def test_a_head_with_damage_is_read_as_aiohttp_reads_it_or_not_at_all(
    loop: asyncio.AbstractEventLoop, place: int, damage: bytes, dropped: int
) -> None:
    text = USUAL[:place] + damage + USUAL[place + dropped :]
    end = text.find(b"\r\n\r\n")
    if end >= 0:
        head = read_head(text[: end + 4])
        assert head is None or same(head, text[: end + 4], loop)
