"""Upstreams on Unix sockets, by both of the egress's ways; and vendors that get ready before their time begins."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gatehook import Attempt, Chunk, Completion, Operation, Parameter, StreamBuilder, UpstreamError, UpstreamTimeout
from gatehook.calls.attempts import Attempts
from gatehook.calls.deadlines import Deadlines
from gatehook.config.settings import EgressSettings, FailoverSettings
from gatehook.model import Target
from gatehook.testing import attempt
from gatehook.upstream.egress import Egress

TARGET = Target("m#1", "m", "acme", "u")


@contextlib.asynccontextmanager
async def server(path: Path) -> AsyncIterator[list[str]]:
    """Answers on a Unix socket with what it was sent; gives the hosts that it was asked for, and by whom."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        transport = request.transport
        seen.append(f"{request.host} {request.path} {id(transport)}")
        return web.Response(body=await request.read() or b"nothing", headers={"X-Method": request.method})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield seen
    finally:
        await runner.cleanup()


@pytest.fixture(params=["short", "long"])
async def egress(request: pytest.FixtureRequest) -> AsyncIterator[Egress]:
    """By either way; with a proxy, which has no say here."""
    opened = Egress(EgressSettings(proxy="http://127.0.0.1:1"))
    if request.param == "long":
        opened._pool = None
    async with opened.lifespan():
        yield opened


async def asked(egress: Egress, uds: Path, body: bytes | None = None) -> tuple[int, bytes]:
    url = "http://engine/v1/x"
    async with await egress.request(TARGET, "POST", url, headers={}, body=body, uds=str(uds)) as upstream:
        return upstream.status, await upstream.read()


async def test_a_request_goes_to_the_socket_whatever_its_url_says(egress: Egress, tmp_path: Path) -> None:
    async with server(tmp_path / "a") as seen:
        assert await asked(egress, tmp_path / "a", b"hello") == (200, b"hello")
        assert await asked(egress, tmp_path / "a") == (200, b"nothing")
        assert {one.rsplit(" ", 1)[0] for one in seen} == {"engine /v1/x"}
        assert len({one.rsplit(" ", 1)[1] for one in seen}) == 1, "one connection served both"


async def test_sockets_of_one_url_are_different_places(egress: Egress, tmp_path: Path) -> None:
    async with server(tmp_path / "a") as first, server(tmp_path / "b") as second:
        for name in ("a", "b", "a"):
            await asked(egress, tmp_path / name)
    assert (len(first), len(second)) == (2, 1)


async def test_a_socket_that_nobody_listens_on_is_an_error_that_names_the_vendor(
    egress: Egress, tmp_path: Path
) -> None:
    with pytest.raises(UpstreamError, match="acme: no such file or directory"):
        await asked(egress, tmp_path / "a")
    with (tmp_path / "a").open("w"), pytest.raises(UpstreamError, match="acme: connection refused"):
        await asked(egress, tmp_path / "a")


# --- vendors that get ready


class Slow:
    """A vendor that takes its time to get ready, and then to answer."""

    name = "slow"
    operations: frozenset[Operation] = frozenset({"chat"})
    parameters: Mapping[Operation, Mapping[str, Parameter]] = {}

    def __init__(self, ready: float, answer: float, *, prepares: bool = True) -> None:
        self._ready = ready
        self._answer = answer
        self.closed = False
        if prepares:
            self.prepares = True

    async def complete(self, attempt: Attempt) -> Completion:
        raise NotImplementedError

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        try:
            await asyncio.sleep(self._ready)
            yield []
            await asyncio.sleep(self._answer)
            answer = StreamBuilder(attempt.call)
            yield [answer.text("Hi"), answer.finish("stop")]
        finally:
            self.closed = True


async def begun(vendor: Slow, **target: Any) -> Any:
    attempts = Attempts(FailoverSettings(first_token_timeout=0.3), {"slow": vendor}, Deadlines())
    call = attempt({"model": "m", "messages": [], "stream": True}).call
    stream = await attempts.stream(call, Target("m#1", "m", "slow", "m", **target))
    await stream.aclose()
    return stream


async def test_the_time_until_the_first_content_begins_when_such_a_vendor_is_ready() -> None:
    stream = await begun(Slow(0.7, 0.0))
    assert stream.contents == 1


async def test_of_another_vendor_it_begins_at_once() -> None:
    vendor = Slow(0.7, 0.0, prepares=False)
    with pytest.raises(UpstreamTimeout, match=r"no content within 0\.3 s"):
        await begun(vendor)
    assert vendor.closed


async def test_a_vendor_that_is_ready_and_silent_is_given_up() -> None:
    vendor = Slow(0.0, 5.0)
    with pytest.raises(UpstreamTimeout, match=r"no content within 0\.3 s"):
        await begun(vendor)
    assert vendor.closed


async def test_a_vendor_that_does_not_get_ready_has_the_model_s_timeout() -> None:
    vendor = Slow(5.0, 0.0)
    with pytest.raises(UpstreamTimeout, match=r"not ready within 0\.2 s"):
        await begun(vendor, timeout=0.2)
    assert vendor.closed
