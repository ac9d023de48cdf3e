"""A vendor that sends far too much: the gateway holds no more of it than its limits say, and the error is honest."""

import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gatehook.testing import Reply

Dialect = Any
OpenWall = Callable[..., Any]

MB = 1 << 20
BOTH = pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """The most memory, in bytes, that was held since the test began."""
    tracemalloc.start(1)
    tracemalloc.reset_peak()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def bomb(size: int) -> bytes:
    """So many MB of spaces, compressed."""
    packer = zlib.compressobj(1, wbits=31)
    return b"".join(packer.compress(b" " * MB) for _ in range(size)) + packer.flush()


BOMB = bomb(200)


def error_of(answer: Any) -> Any:
    return json.loads(answer.body)["error"]


async def test_an_event_of_20_mb_goes_through(wall: OpenWall, dialect: Dialect) -> None:
    text = "x" * (20 * MB)
    async with wall(dialect.wire, [dialect.wire.stream([text])], streams=True) as opened:
        answer = await opened.ask()
        assert (answer.status, answer.cut) == (200, False)
        assert answer.text == text


async def test_an_event_without_end_is_refused_at_its_limit(
    wall: OpenWall, dialect: Dialect, peak: Callable[[], int]
) -> None:
    piece = b"x" * MB
    endless = Reply.of_events([b'data: {"x": "', *[piece] * 100], end="silence")
    async with wall(dialect.wire, [endless], streams=True, attempt=20) as opened:
        answer = await opened.ask()
        assert (answer.status, error_of(answer)["type"]) == (502, "server_error")
        assert "larger than" in error_of(answer)["message"]
        assert opened.calls == (1, 0)
    assert peak() < 60 * MB


@BOTH
async def test_an_error_of_100_mb_is_still_that_error(
    wall: OpenWall, dialect: Dialect, peak: Callable[[], int], streams: bool
) -> None:
    long = Reply([b'{"error": {"message": "', *[b"x" * MB] * 100], status=429, end="silence")
    async with wall(dialect.wire, [long], streams=streams, failover={"retries": 0}, patience=20, attempt=20) as opened:
        answer = await opened.ask()
        assert (answer.status, error_of(answer)["code"]) == (429, "rate_limit_exceeded")
        assert len(answer.body) < 10_000
    assert peak() < 10 * MB


@BOTH
@pytest.mark.parametrize("end", ["cut", "reset", "silence"])
async def test_an_error_whose_words_are_cut_or_never_come_is_still_that_error(
    wall: OpenWall, dialect: Dialect, streams: bool, end: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehook.upstream.answer._ERROR_SECONDS", 0.02)
    async with wall(dialect.wire, streams=streams) as opened:
        for status, told, tries in ((429, 429, 2), (401, 502, 1), (400, 400, 1), (503, 503, 2)):
            half = Reply(b'{"error": {"mess', status=status, end=end)
            answer, calls = await opened.play(half)
            assert (status, answer.status, calls) == (status, told, (tries, 0))


@BOTH
async def test_headers_without_end_are_an_honest_error(
    wall: OpenWall, dialect: Dialect, peak: Callable[[], int], streams: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    fields = b"".join(b"X-%d: y\r\n" % number for number in range(100_000))
    hostile = {
        "one long header": head + b"X-Long: " + b"y" * (1 * MB) + b"\r\n\r\n{}",
        "a header without end": head + b"X-Long: " + b"y" * (8 * MB),
        "very many headers": head + fields + b"\r\n{}",
        "a status line without end": b"HTTP/1.1 200 " + b"y" * MB,
    }
    async with wall(dialect.wire, streams=streams, failover={"retries": 0}, patience=20, attempt=5) as opened:
        for name, raw in hostile.items():
            answer, calls = await opened.play(Reply(raw, raw=True, end="silence"))
            assert (name, answer.status, calls) == (name, 502, (1, 0))
            assert error_of(answer)["message"].startswith(dialect.wire.name)
            assert "yyy" not in error_of(answer)["message"]
    assert peak() < 40 * MB


@BOTH
@pytest.mark.parametrize("status", [200, 500])
async def test_a_compressed_bomb_does_not_go_off(
    wall: OpenWall, dialect: Dialect, peak: Callable[[], int], streams: bool, status: int
) -> None:
    kind = "text/event-stream" if streams and status == 200 else "application/json"
    reply = Reply(BOMB, status, kind, {"Content-Encoding": "gzip"})
    async with wall(
        dialect.wire, [reply], streams=streams, egress={"max_response": "4MB"}, attempt=20,
        failover={"retries": 0}, patience=20
    ) as opened:  # fmt: skip
        answer = await opened.ask()
        assert answer.status == 502
        assert error_of(answer)["message"].startswith(dialect.wire.name)
    assert peak() < 60 * MB
