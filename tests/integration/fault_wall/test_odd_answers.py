"""Answers that are odd on the wire, right or wrong: the client gets what was said, or an honest error, and no third."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gatehook.testing import Reply

Dialect = Any
OpenWall = Callable[..., Any]
Build = Callable[[Dialect, bool], Reply]

BOTH = pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
LONG = "x" * (1 << 20)


def good(dialect: Dialect, streams: bool, *pieces: str) -> Reply:
    """A whole answer, "fine"."""
    said = pieces or ("fi", "ne")
    return dialect.wire.stream(list(said)) if streams else dialect.wire.text("".join(said))  # type: ignore[no-any-return]


def whole(reply: Reply) -> bytes:
    return reply.body if isinstance(reply.body, bytes) else b"".join(reply.body)


def changed(change: Callable[[bytes], bytes], **headers: str) -> Build:
    """The good answer with other bytes in its body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda dialect, streams: replace(
        (told := good(dialect, streams)), body=change(whole(told)), headers={**told.headers, **named}
    )


def spoken(head: bytes, *, length: bool = True, body: Callable[[bytes], bytes] = bytes) -> Build:
    """The good answer with this head; the connection ends with it."""

    def made(dialect: Dialect, streams: bool) -> Reply:
        told = good(dialect, streams)
        data = body(whole(told))
        fields = b"Content-Type: " + told.content_type.encode() + b"\r\n"
        if length:
            fields += b"Content-Length: %d\r\n" % len(data)
        return Reply(head + fields + b"\r\n" + data, raw=True, end="close")

    return made


def only_in_streams(build: Build) -> Build:
    return lambda dialect, streams: build(dialect, streams) if streams else good(dialect, streams)


def after_the_end(dialect: Dialect, streams: bool) -> Reply:
    """More of the same after the terminal marker."""
    told = good(dialect, streams)
    if not streams:
        return told
    pieces: list[bytes] = [whole(told)] if isinstance(told.body, bytes) else list(told.body)
    if dialect.wire.name == "gemini":  # older models say with every event that they have finished
        return replace(told, body=[*pieces, b'data: {"usageMetadata": {}}\n\n', b"data: [DONE]\n\n"])
    return replace(told, body=[*pieces, pieces[-1], pieces[-1], *pieces[:2]])


OK = b"HTTP/1.1 200 OK\r\n"
FINE: dict[str, Build] = {
    "100 Continue before it": spoken(b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
    "102 and 103 before it": spoken(
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + OK
    ),
    "HTTP/1.0, to the end of the line": spoken(b"HTTP/1.0 200 OK\r\n", length=False),
    "to the end of the line": spoken(OK + b"Connection: close\r\n", length=False),
    "no reason": spoken(b"HTTP/1.1 200\r\n"),
    "headers in capitals": spoken(b"HTTP/1.1 200 OK\r\nSERVER: X\r\nCONNECTION: CLOSE\r\n"),
    "byte order mark": changed(lambda body: b"\xef\xbb\xbf" + body),
    "CRLF": changed(lambda body: body.replace(b"\n", b"\r\n")),
    "CR": changed(lambda body: body.replace(b"\n", b"\r")),
    "white space around it": changed(lambda body: b"\n\n" + body + b"\n\n\n"),
    "comments": only_in_streams(changed(lambda body: b": hi\n\n:\n\n" + body.replace(b"data:", b": c\ndata:"))),
    "unknown fields": only_in_streams(changed(lambda body: body.replace(b"data:", b"id: 7\nretry: 10\ndata:"))),
    "no space after the colon": only_in_streams(changed(lambda body: body.replace(b"data: ", b"data:"))),
    "no last empty line": only_in_streams(changed(lambda body: body.rstrip(b"\n"))),
    "more after the end": after_the_end,
    "gzip": changed(gzip.compress, Content_Encoding="gzip"),
    "content of 1 MB": lambda dialect, streams: good(dialect, streams, LONG, "fine"),
}


@BOTH
async def test_what_is_odd_and_right_is_read(wall: OpenWall, dialect: Dialect, streams: bool) -> None:
    async with wall(dialect.wire, streams=streams, failover={"retries": 0}) as opened:
        for name, build in FINE.items():
            answer, calls = await opened.play(build(dialect, streams))
            assert (name, answer.status, answer.cut, calls, answer.error) == (name, 200, False, (1, 0), None)
            assert (name, answer.text) == (name, f"{LONG}fine" if name == "content of 1 MB" else "fine")


def stated(told: bytes, status: int = 200, **headers: str) -> Build:
    """An answer of these bytes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda dialect, streams: Reply(told, status, headers=named)


def raw(told: bytes) -> Build:
    """These bytes, and the end of the line."""
    return lambda dialect, streams: Reply(told, raw=True, end="close")


def mislabelled(**changes: Any) -> Build:
    """The good answer with something else about it."""
    return lambda dialect, streams: replace(good(dialect, streams), **changes)


def in_place_of_the_other(dialect: Dialect, streams: bool) -> Reply:
    """A whole answer where a stream was asked for, and a stream where none was."""
    return good(dialect, not streams)


def under_the_other_name(dialect: Dialect, streams: bool) -> Reply:
    """The same, that says it is what was asked for."""
    return replace(good(dialect, not streams), content_type=good(dialect, streams).content_type)


def cut_in_the_coding(dialect: Dialect, streams: bool) -> Reply:
    """Half of a compressed answer, as if it were all."""
    packed = gzip.compress(whole(good(dialect, streams)))
    return replace(good(dialect, streams), body=packed[: len(packed) // 2], headers={"Content-Encoding": "gzip"})


def zipped(kind: str) -> Build:
    """The vendor's own error, compressed."""

    def made(dialect: Dialect, streams: bool) -> Reply:
        told = dialect.answer(kind)
        return replace(told, body=gzip.compress(whole(told)), headers={"Content-Encoding": "gzip"})  # type: ignore[no-any-return]

    return made


def rate(told: str) -> Build:
    return lambda dialect, streams: dialect.answer("rate", headers={"Retry-After": told})


def deep_event(dialect: Dialect, streams: bool) -> Reply:
    return Reply.of_events(b"data: " + DEEP + b"\n\n") if streams else Reply(DEEP)


WEEK = str(7 * 86_400)
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
Honest = tuple[Build, int, int, str | None]
"""What is played, how often it is tried, the status for the client, and the Retry-After."""
WRONG: dict[str, Honest] = {
    "204": (raw(b"HTTP/1.1 204 No Content\r\n\r\n"), 2, 502, None),
    "201": (mislabelled(status=201), 2, 502, None),
    "206": (mislabelled(status=206), 2, 502, None),
    "304": (raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"), 1, 502, None),
    "101": (raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nPARTIAL-"), 2, 502, None),
    "100, and nothing else": (raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 3), 2, 502, None),
    "999": (raw(b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n{}"), 2, 502, None),
    "402": (stated(b'{"error": {"message": "pay"}}', 402), 1, 502, None),
    "429, less than no time": (rate("-5"), 2, 429, "0"),
    "429, until long ago": (rate("Wed, 21 Oct 1999 12:00:07 GMT"), 2, 429, "0"),
    "429, for ever": (rate("1e308"), 1, 429, WEEK),
    "429, for 400 digits": (rate("9" * 400), 2, 429, None),
    "429, until the year 9999": (rate("Tue, 21 Dec 9999 12:00:07 GMT"), 1, 429, WEEK),
    "429, soon": (rate("soon"), 2, 429, None),
    "429, not a number": (rate("nan"), 2, 429, None),
    "429, until a day that is none": (rate("Wed, 99 Oct 99999 12:00:07 GMT"), 2, 429, None),
    "a compressed error": (zipped("caller"), 1, 400, None),
    "a compressed rate limit": (zipped("rate"), 2, 429, None),
    "compressed, it says": (mislabelled(headers={"Content-Encoding": "gzip"}), 2, 502, None),
    "cut where it is compressed": (cut_in_the_coding, 2, 502, None),
    "the other kind": (in_place_of_the_other, 2, 502, None),
    "the other kind, mislabelled": (under_the_other_name, 2, 502, None),
    "an empty object": (stated(b"{}"), 2, 502, None),
    "a hundred thousand levels": (deep_event, 2, 502, None),
    "not UTF-8": (changed(lambda body: body.replace(b"fi", b"\xff\xfe").replace(b"ne", b"\xff")), 2, 502, None),
    "two lengths": (raw(OK + b"Content-Length: 3\r\nContent-Length: 9\r\n\r\n{}"), 2, 502, None),
    "less than no length": (raw(OK + b"Content-Length: -3\r\n\r\n{}"), 2, 502, None),
    "a length and chunks": (
        raw(OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"), 2, 502, None
    ),
    "two answers": (raw((OK + b"Content-Length: 2\r\n\r\n{}") * 2), 2, 502, None),
    "an error in words": (stated(b'{"error": "no"}'), 2, 502, None),
    "an error that is true": (stated(b'{"error": true}'), 2, 502, None),
    "an error that is a list": (stated(b'{"error": [{"message": "no"}]}'), 2, 502, None),
    "an error that is a number": (stated(b'{"error": 7}'), 2, 502, None),
}  # fmt: skip


@BOTH
async def test_what_is_odd_and_wrong_is_an_honest_error(wall: OpenWall, dialect: Dialect, streams: bool) -> None:
    async with wall(dialect.wire, streams=streams) as opened:
        for name, (build, tries, status, wait) in WRONG.items():
            answer, calls = await opened.play(build(dialect, streams))
            error = json.loads(answer.body)["error"]
            assert (name, answer.status, calls) == (name, status, (tries, 0))
            assert (name, answer.headers.get("Retry-After")) == (name, wait)
            assert error["message"].startswith(dialect.wire.name)
            assert "choices" not in error["message"], f"{name}: half an answer is no message"
