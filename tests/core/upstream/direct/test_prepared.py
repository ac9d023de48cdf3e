"""Requests that are prepared once and sent with each body; by either way."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from gatehook.config.settings import EgressSettings
from gatehook.errors import UpstreamError
from gatehook.model import Target
from gatehook.testing import Reply, StubUpstream
from gatehook.upstream.egress import Egress

KEY = "s3cr3t-Zq81-never-shown"
TARGET = Target("m#1", "m", "acme", "u", api_key=SecretStr(KEY))


@pytest.fixture(params=["short", "long"])
async def egress(request: pytest.FixtureRequest) -> AsyncIterator[Egress]:
    opened = Egress(EgressSettings())
    if request.param == "long":
        opened._pool = None
    async with opened.lifespan():
        yield opened


async def test_one_is_sent_with_each_body(egress: Egress) -> None:
    async with StubUpstream(Reply(body=b"x")) as stub:
        prepared = egress.prepare(TARGET, "POST", stub.url + "/p", headers={"X-A": "b"})
        for body in (b"one", b"two", None):
            async with await egress.send(prepared, body) as upstream:
                assert await upstream.read() == b"x"
        assert [sent.body for sent in stub.requests] == [b"one", b"two", b""]
        assert {(sent.method, sent.path, sent.headers["x-a"]) for sent in stub.requests} == {("POST", "/p", "b")}


async def test_one_more_header_is_for_one_request(egress: Egress) -> None:
    async with StubUpstream(Reply(body=b"x")) as stub:
        prepared = egress.prepare(TARGET, "POST", stub.url + "/p", headers={"X-A": "b"})
        for one in (prepared.with_header("X-Once", "1"), prepared.with_header("X-Once", "2"), prepared):
            async with await egress.send(one, b"body") as upstream:
                assert await upstream.read() == b"x"
        assert [sent.headers.get("x-once") for sent in stub.requests] == ["1", "2", None]
        assert {(sent.headers["x-a"], sent.body) for sent in stub.requests} == {("b", b"body")}


@pytest.mark.parametrize(("name", "value"), [("X\r\nY", "1"), ("X", "1\r\nX-Evil: 1"), ("Content-Length", "1")])
def test_one_more_header_that_cannot_be_sent_is_refused(name: str, value: str) -> None:
    prepared = Egress(EgressSettings()).prepare(TARGET, "GET", "http://h/", headers={})
    with pytest.raises(UpstreamError, match="acme: the address or a header is not valid"):
        prepared.with_header(name, value)


async def test_one_that_cannot_be_sent_names_the_vendor_and_no_secret(egress: Egress) -> None:
    async with StubUpstream(Reply()) as stub:
        for url, headers in (("http://[::1", {}), (stub.url, {"X-Key": KEY + "\r\nX-Evil: 1"})):
            with pytest.raises(UpstreamError, match="acme: the address or a header is not valid") as caught:
                await egress.send(egress.prepare(TARGET, "GET", url, headers=headers))
            assert KEY not in caught.value.message
        assert stub.requests == []


def test_one_shows_no_secret() -> None:
    prepared = Egress(EgressSettings()).prepare(TARGET, "GET", "http://h/", headers={"Authorization": f"Bearer {KEY}"})
    assert prepared.way is not None
    assert KEY not in repr(prepared)


async def test_one_that_was_prepared_for_the_short_way_goes_the_long_one_where_there_is_no_other() -> None:
    egress = Egress(EgressSettings())
    async with StubUpstream(Reply(body=b"x")) as stub, egress.lifespan():
        prepared = egress.prepare(TARGET, "GET", stub.url, headers={})
        assert prepared.way is not None
        egress._pool = None
        async with await egress.send(prepared) as upstream:
            assert await upstream.read() == b"x"


async def test_nothing_is_sent_before_the_egress_is_open() -> None:
    egress = Egress(EgressSettings())
    with pytest.raises(RuntimeError, match="not open"):
        await egress.send(egress.prepare(TARGET, "GET", "http://127.0.0.1:1/", headers={}))
