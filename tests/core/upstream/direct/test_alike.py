"""Both ways to a vendor, side by side; and what happens where there is only one."""

import asyncio
import errno
import gzip
import importlib.util
import socket
import sys
import types
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from pydantic import SecretStr
from tests.certificates import Authority

from gatehook.config.settings import EgressSettings
from gatehook.errors import UpstreamError
from gatehook.model import Target
from gatehook.testing import Reply, StubUpstream
from gatehook.upstream import direct, http1
from gatehook.upstream.egress import Egress

TARGET = Target("m#1", "m", "acme", "u")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
    b'3;name=val;q="x"\r\nabc\r\n0B\r\n\r\n\r\n0\r\n\r\nde\r\n0;last\r\nX-Trailer: 1\r\n\r\n'
)


class TestAlike:
    """Whichever way is taken, the vendor's answer and its faults look the same."""

    @pytest.fixture(params=["http", "https"])
    def rig(self, request: pytest.FixtureRequest, rigs: Any) -> Any:
        return rigs[request.param]

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
    async def both(self, authority: Authority) -> AsyncIterator[tuple[Egress, Egress]]:
        settings = EgressSettings(ca_certificates=SecretStr(authority.pem))
        short, long = Egress(settings), Egress(settings)
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
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: x-gzip\r\n\r\n" + gzip.compress(b"abc")],
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: x-gzip\r\n\r\nabc"],
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: X-GZIP\r\n\r\n" + gzip.compress(bytes(3_000_000))],
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\n\r\n" + gzip.compress(gzip.compress(b"abc"))],
            [
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Encoding: deflate\r\n\r\n"
                + zlib.compress(gzip.compress(b"abc"))
            ],
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: strange\r\nContent-Length: 3\r\n\r\nabc"],
            [OK[:-1], b"kGARBAGE"],
            [b"HTTP/2 200\r\n\r\n"],
            [b"\r\n\r\n" + OK],
            [b""],
        ],
        ids=lambda pieces: repr(pieces[-1][:40]),
    )
    async def test_answers(self, pieces: Sequence[bytes], both: tuple[Egress, Egress], rig: Any) -> None:
        async with rig.server(rig.saying(*pieces)) as url:
            short, long = [await self.outcome(egress, url) for egress in both]
        assert short == long

    @pytest.mark.parametrize(
        ("encoding", "body", "says"),
        [
            ("gzip", b"plain", "not gzip"),
            ("x-gzip", b"plain", "not gzip"),
            ("deflate", b"\x78plain", "not deflate"),
            ("deflate", zlib.compress(b"abc")[:-3], "deflate ends too early"),
            ("gzip", gzip.compress(b"abc", mtime=0)[:-3], "gzip ends too early"),
            ("deflate, gzip", gzip.compress(b"\x78plain", mtime=0), "not deflate"),
            ("br", b"plain", "brotli"),
            ("zstd", b"plain", "zstd"),
        ],
    )
    @pytest.mark.parametrize("declared", [True, False])
    async def test_an_answer_that_is_not_encoded_as_it_says_is_told_as_such(
        self,
        encoding: str,
        body: bytes,
        says: str,
        declared: bool,
        both: Any,
        rig: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in ("HAS_BROTLI", "HAS_ZSTD"):
            monkeypatch.setattr(f"aiohttp.compression_utils.{name}", False)
        length = f"Content-Length: {len(body)}\r\n" if declared else ""
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n{length}\r\n"
        async with rig.server(rig.saying(head.encode() + body)) as url:
            short, long = [await self.outcome(egress, url) for egress in both]
        assert short == long
        assert "the answer's Content-Encoding cannot be undone" in str(short[1])
        assert says in str(short[1])

    async def test_an_error_that_cannot_be_undone_here_keeps_its_status(
        self, both: Any, rig: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aiohttp.compression_utils.HAS_BROTLI", False)
        answer = b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc"
        async with rig.server(rig.saying(answer)) as url:
            for egress in both:
                async with await egress.request(TARGET, "GET", url, headers={}) as upstream:
                    assert (upstream.status, upstream.retry_after, await upstream.read_error()) == (429, 7, b"")

    async def test_an_answer_that_goes_wrong_after_its_head_is_told_at_once(self, both: Any, rig: Any) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        async with rig.server(rig.saying(head, b"zz\r\n", then="next")) as url:
            short, long = [await self.outcome(egress, url) for egress in both]
        assert short == long
        assert "not valid HTTP" in str(short[1])

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
        self, method: str, body: bytes | None, headers: dict[str, str], both: tuple[Egress, Egress], rig: Any
    ) -> None:
        heads = []
        async with StubUpstream(Reply(body=b"x"), tls=rig.tls) as stub:
            for egress in both:
                await self.outcome(egress, stub.url + "/ä?ö= +%2B&x", method, headers=headers, body=body)
            for sent in stub.requests:
                rest = {name: value for name, value in sent.headers.items() if name != "content-length"}
                rest.setdefault("content-type", "application/octet-stream")  # aiohttp names one, if there is a body
                heads.append((sent.method, sent.path, rest, sent.body))
        assert len(heads) == 2
        assert heads[0] == heads[1]

    async def test_a_request_for_the_head_alone(self, both: tuple[Egress, Egress], rig: Any) -> None:
        async with rig.server(rig.saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", then="next")) as url:
            short, long = [await self.outcome(egress, url, "HEAD") for egress in both]
        assert short == long == (200, [("Content-Length", "5")], b"")

    async def test_a_user_in_the_address_is_told_to_the_vendor_as_such(
        self, both: tuple[Egress, Egress], rig: Any
    ) -> None:
        async with StubUpstream(Reply(body=b"x"), tls=rig.tls) as stub:
            for egress in both:
                await self.outcome(egress, stub.url.replace("//", "//user:pw@"))
            for sent in stub.requests:
                assert sent.headers["authorization"] == "Basic dXNlcjpwdw=="
                assert sent.headers["host"] == stub.url.partition("//")[2]

    async def test_ipv6(self, both: tuple[Egress, Egress], rig: Any) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        async with rig.server(rig.saying(OK), "::1") as url:
            short, long = [await self.outcome(egress, url) for egress in both]
        assert short == long == (200, [("Content-Length", "2")], b"ok")

    async def test_several_addresses_that_all_refuse_are_told_in_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def refused(*args: Any, **rest: Any) -> Any:
            one, two = (
                f"[Errno {number}] Connect call failed ('10.0.0.7', 1)"
                for number in (errno.ECONNREFUSED, errno.ENETUNREACH)
            )
            raise OSError(f"Multiple exceptions: {one}, {two}, {one}")  # as aiohappyeyeballs says it

        egress = Egress(EgressSettings())
        monkeypatch.setattr("gatehook.upstream.dialing.start_connection", refused)
        async with egress.lifespan():
            told = (await self.outcome(egress, "http://127.0.0.1:1/"))[1]
        assert told == "acme: connection refused, network is unreachable"

    async def test_draining_a_stream_that_goes_wrong_never_fails(self, both: tuple[Egress, Egress], rig: Any) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        async with rig.server(rig.saying(head, b"zz\r\n")) as url:
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

    @pytest.mark.parametrize("status", [407, 403, 503])
    async def test_what_the_proxy_refuses_is_told_as_the_proxy_s(self, status: int) -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            assert await self.through(f"127.0.0.1:{port}") == f"acme: the proxy answered {status}"

    async def test_a_proxy_that_is_down_is_told_as_the_proxy(self) -> None:
        assert await self.through("127.0.0.1:1") == "acme: the proxy cannot be reached: connection refused"

    async def test_a_proxy_whose_name_cannot_be_resolved_is_told_as_the_proxy(self) -> None:
        told = await self.through("proxy.invalid")
        assert told == "acme: the proxy cannot be reached: its host name cannot be resolved"

    @staticmethod
    async def through(proxy: str) -> str:
        egress = Egress(EgressSettings(proxy=f"http://user:password@{proxy}"))
        async with egress.lifespan(), asyncio.timeout(10):
            with pytest.raises(UpstreamError) as caught:
                await egress.request(TARGET, "GET", "https://127.0.0.1:2/", headers={})
            with pytest.raises(UpstreamError) as also:
                await egress.websocket(TARGET, "https://127.0.0.1:2/", headers={}, heartbeat=9)
        assert also.value.message == caught.value.message
        return caught.value.message
