"""The way out: connections that serve again or never, faults told without a secret, and no way in to private nets."""

import asyncio
import contextlib
import gzip
import re
import socket
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import SecretStr
from yarl import URL

from gatehook.config.settings import EgressSettings
from gatehook.errors import InvalidRequest, Retry, UpstreamError, UpstreamTimeout
from gatehook.model import Target
from gatehook.testing import Reply, StubUpstream
from gatehook.upstream import direct
from gatehook.upstream import egress as module
from gatehook.upstream.egress import Egress, Upstream, is_public

KEY = "s3cr3t-Zq81-never-shown"
TARGET = Target("m#1", "m", "acme", "u", api_key=SecretStr(KEY))
HEADERS = {"Authorization": f"Bearer {KEY}"}


class Stub(StubUpstream):
    """Counts connections."""

    connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await super()._serve(reader, writer)


@contextlib.asynccontextmanager
async def raw(answer: bytes) -> AsyncIterator[str]:
    """A server that says `answer`, byte for byte, to every request, and closes; gives its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
def way() -> str:
    """Which of the two ways to a vendor is taken; the classes of tests that use both override it."""
    return "short"


@pytest.fixture
async def open_egress(way: str) -> AsyncIterator[Callable[..., Any]]:
    """Gives an open egress with any settings; closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(**settings: Any) -> Egress:
            egress = Egress(EgressSettings(**settings))
            if way == "long":  # as for https://, where there is no other
                egress._pool = None
            await stack.enter_async_context(egress.lifespan())
            return egress

        yield opened


@contextlib.asynccontextmanager
async def answered(egress: Egress, reply: Reply | bytes) -> AsyncIterator[Upstream]:
    """The answer of a server that gives `reply`, or says these very bytes."""
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(reply, bytes):
            url = await stack.enter_async_context(raw(reply))
        else:
            url = (await stack.enter_async_context(Stub(reply))).url
        upstream = await egress.request(TARGET, "GET", url, headers=HEADERS)
        yield await stack.enter_async_context(upstream)


async def drained(upstream: Upstream, how: str, into: list[bytes]) -> None:
    """Read all there is."""
    if how == "read":
        into.append(await upstream.read())
    async for piece in upstream.chunks():
        into += [piece]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task is about to do; fails after a second."""
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


@pytest.mark.parametrize("way", ["short", "long"])
class TestPool:
    async def test_a_connection_whose_answer_was_read_to_its_end_serves_again(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply.of_json({"n": 1}), Reply(body=[b"a", b"b"])) as stub:
            async with await egress.request(TARGET, "POST", stub.url, headers=HEADERS, body=b"{}") as upstream:
                assert await upstream.read() == b'{"n": 1}'
            async with await egress.request(TARGET, "GET", stub.url + "/x", headers={}) as upstream:
                assert b"".join([piece async for piece in upstream.chunks()]) == b"ab"
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                assert await upstream.receive() == b"ab"
                assert await upstream.receive() == b""
            assert (stub.connections, len(stub.requests)) == (1, 3)

    async def test_a_half_read_answer_is_never_met_by_the_next_request(self, open_egress: Any) -> None:
        egress = await open_egress()
        first = Reply.of_events([b"data: mine\n\n", b"data: also mine\n\n"], pause=0.01)
        async with Stub(first, Reply.of_events(b"data: yours\n\n")) as stub:
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                assert b"mine" in await upstream.receive()
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                assert await upstream.read() == b"data: yours\n\n"
            assert stub.connections == 2
            await until(lambda: stub.open == 1)

    async def test_leaving_a_stream_closes_its_connection_at_once(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply.of_events(b"data: 1\n\n", end="silence")) as stub:
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                await upstream.receive()
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_an_unread_answer_is_closed_too(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply(body=b"x" * 20_000_000)) as stub:
            for _ in range(2):
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    assert upstream.status == 200
            assert stub.connections == 2

    @pytest.mark.parametrize("stage", ["head", "body"])
    async def test_cancelling_closes_the_connection(self, stage: str, open_egress: Any) -> None:
        egress = await open_egress()
        reply = Reply(status=0, end="silence") if stage == "head" else Reply(body=b"part", end="silence")
        async with Stub(reply) as stub:

            async def work() -> None:
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    await upstream.read()

            task = asyncio.create_task(work())
            await until(lambda: len(stub.requests) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_draining_saves_the_connection(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply.of_events([b"data: [DONE]\n\n", b"\n"], pause=0.01)) as stub:
            for _ in range(2):
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    await upstream.receive()
                    await upstream.drain()
                    await upstream.drain()  # nothing left: no harm
            assert stub.connections == 1

    @pytest.mark.parametrize("end", ["silence", "cut", "reset"])
    async def test_draining_never_takes_long_and_never_fails(self, end: Any, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply.of_events(b"data: [DONE]\n\n", end=end), Reply(body=b"next")) as stub:
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                await upstream.receive()
                async with asyncio.timeout(2):
                    await upstream.drain()
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                assert await upstream.read() == b"next"
            assert stub.connections == 2

    async def test_draining_an_endless_answer_ends(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply(body=[b"x" * 1000] * 10_000, pause=0.005)) as stub:
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream, asyncio.timeout(2):
                await upstream.receive()
                await upstream.drain()
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_an_answer_nobody_asked_for_is_not_taken_for_the_next_one(self, open_egress: Any) -> None:
        egress = await open_egress()
        answers = iter([b"first", b"second"])

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    for body in (next(answers), b"poison"):
                        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for expected in (b"first", b"second"):
                async with await egress.request(TARGET, "GET", url, headers={}) as upstream:
                    assert await upstream.read() == expected

    async def test_a_server_that_closes_after_each_answer_is_asked_on_new_connections(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply(body=b"x", end="close")) as stub:
            for _ in range(3):
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    assert await upstream.read() == b"x"
            assert stub.connections == 3

    async def test_requests_at_once_have_a_connection_each(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply(body=b"x", before=0.05)) as stub:

            async def work() -> bytes:
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    body: bytes = await upstream.read()
                    return body

            assert await asyncio.gather(*(work() for _ in range(80))) == [b"x"] * 80
            assert stub.connections == 80

    async def test_the_end_of_the_lifespan_closes_every_connection(self, way: str) -> None:
        egress = Egress(EgressSettings())
        if way == "long":
            egress._pool = None
        async with Stub(Reply(body=b"x")) as stub:
            async with egress.lifespan():
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    await upstream.read()
                assert stub.open == 1
            await until(lambda: stub.open == 0)
            with pytest.raises(RuntimeError, match="not open"):
                await egress.request(TARGET, "GET", stub.url, headers={})
            with pytest.raises(RuntimeError, match="not open"):
                await egress.fetch(stub.url, param="p")


def test_a_host_is_named_as_the_dns_knows_it() -> None:
    prepared = direct.Request.to("GET", URL("http://bücher.test:81/ä b?q=ö"), {})
    assert prepared.head.startswith(b"GET /%C3%A4%20b?q=%C3%B6 HTTP/1.1\r\nHost: xn--bcher-kva.test:81\r\n")
    assert prepared.origin == ("xn--bcher-kva.test", 81)


@pytest.mark.parametrize("way", ["short", "long"])
class TestRequest:
    async def test_what_is_sent_is_what_was_given_and_uncompressed_answers_are_asked_for(
        self, open_egress: Any
    ) -> None:
        egress = await open_egress()
        async with Stub(Reply(body=b"x", headers={"Set-Cookie": "session=1; Path=/"})) as stub:
            for _ in range(2):
                async with await egress.request(
                    TARGET, "POST", stub.url + "/v1?a=b%20c", headers=HEADERS, body=b"{}"
                ) as up:
                    await up.read()
            for sent in stub.requests:
                assert (sent.method, sent.path, sent.body) == ("POST", "/v1?a=b%20c", b"{}")
                assert sent.headers["authorization"] == f"Bearer {KEY}"
                assert sent.headers["accept-encoding"] == "identity"
                assert sent.headers["user-agent"] == "gatehook"
                assert "cookie" not in sent.headers  # one client's session is not another's

    async def test_interim_answers_are_passed_over(self, open_egress: Any) -> None:
        egress = await open_egress()
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        async with answered(egress, interim + b"HTTP/1.1 201 OK\r\nContent-Length: 1\r\n\r\nx") as upstream:
            assert (upstream.status, await upstream.read()) == (201, b"x")

    async def test_a_large_body_arrives_whole_and_one_without_a_body_is_none(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply(body=b"x")) as stub:
            for body in (bytes(5_000_000), b"", None):
                async with await egress.request(TARGET, "POST", stub.url, headers={}, body=body) as upstream:
                    await upstream.read()
            assert [len(sent.body) for sent in stub.requests] == [5_000_000, 0, 0]

    async def test_an_answer_is_read_whatever_its_framing(self, open_egress: Any) -> None:
        egress = await open_egress()
        for head, body in (
            (b"Content-Length: 3", b"abc"),
            (b"Transfer-Encoding: chunked", b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
            (b"Connection: close", b"abc"),  # until the connection ends
        ):
            async with answered(egress, b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body) as upstream:
                assert await upstream.read() == b"abc"

    async def test_one_vendors_headers_are_not_anothers(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply(body=b"x")) as stub:
            for key in ("one", "two", "one"):
                async with await egress.request(TARGET, "GET", stub.url, headers={"X-Key": key}) as upstream:
                    await upstream.read()
            assert [sent.headers["x-key"] for sent in stub.requests] == ["one", "two", "one"]
            assert all(sent.headers["host"] == stub.url.removeprefix("http://") for sent in stub.requests)

    async def test_redirects_are_not_followed_so_the_key_goes_nowhere_else(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with (
            Stub(Reply(body=b"stolen")) as thief,
            Stub(Reply(status=307, headers={"Location": thief.url})) as stub,
        ):
            async with await egress.request(TARGET, "POST", stub.url, headers=HEADERS, body=b"{}") as upstream:
                assert (upstream.status, upstream.headers["Location"]) == (307, thief.url)
                await upstream.read()
            assert thief.requests == []

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("3", 3.0),
            ("0.5", 0.5),
            ("-4", 0.0),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
            ("nan", None),
            ("inf", None),
            ("", None),
        ],
    )
    async def test_retry_after(self, value: str, seconds: float | None, open_egress: Any) -> None:
        egress = await open_egress()
        async with answered(egress, Reply(status=429, headers={"Retry-After": value})) as upstream:
            assert upstream.retry_after == seconds

    @pytest.mark.parametrize(
        ("declared", "is_stream"),
        [
            ("text/event-stream", True),
            ("Text/Event-Stream; charset=utf-8", True),
            ("application/json", False),
            ("text/html", False),
        ],
    )
    async def test_a_stream_is_what_says_so(self, declared: str, is_stream: bool, open_egress: Any) -> None:
        egress = await open_egress()
        async with answered(egress, Reply(content_type=declared)) as upstream:
            assert upstream.is_event_stream is is_stream


@pytest.mark.parametrize("way", ["short", "long"])
class TestLimit:
    @pytest.mark.parametrize("pieces", [[b"x" * 1001], [b"x" * 500, b"x" * 501], [b"x"] * 1001])
    async def test_an_answer_over_the_limit_is_refused(self, pieces: Sequence[bytes], open_egress: Any) -> None:
        egress = await open_egress(max_response=1000)
        async with Stub(Reply(body=pieces)) as stub:
            async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                with pytest.raises(UpstreamError, match=r"^acme: .*egress\.max_response \(1000 bytes\)") as caught:
                    await upstream.read()
            assert caught.value.retry is Retry.NEXT

    async def test_an_answer_of_just_the_limit_is_read(self, open_egress: Any) -> None:
        egress = await open_egress(max_response=1000)
        async with answered(egress, Reply(body=[b"x" * 500, b"x" * 500])) as upstream:
            assert len(await upstream.read()) == 1000

    @pytest.mark.parametrize(("length", "fits"), [(1000, True), (1001, False)])
    async def test_a_declared_length_counts_like_any(self, length: int, fits: bool, open_egress: Any) -> None:
        egress = await open_egress(max_response=1000)
        body = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length
        refusal = contextlib.nullcontext() if fits else pytest.raises(UpstreamError, match="max_response")
        async with answered(egress, body) as upstream:
            with refusal:
                assert len(await upstream.read()) == length

    async def test_a_small_compressed_answer_cannot_grow_over_the_limit(self, open_egress: Any) -> None:
        egress = await open_egress(max_response=1 << 20)
        bomb = gzip.compress(bytes(50 << 20))
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        async with raw(head + bomb) as url, await egress.request(TARGET, "GET", url, headers={}) as upstream:
            with pytest.raises(UpstreamError, match="max_response"):
                await upstream.read()


@pytest.mark.parametrize("way", ["short", "long"])
class TestFaults:
    @staticmethod
    def check(error: UpstreamError, words: str) -> None:
        assert error.message.startswith("acme: ")
        assert words in error.message
        assert KEY not in "".join(traceback.format_exception(error))  # nor in what a log would hold

    @pytest.mark.parametrize("end", ["cut", "reset"])
    async def test_a_line_cut_in_the_answer(self, end: Any, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply.of_events([b"data: 1\n\n", b"data: 2\n\n"], end=end, pause=0.02)) as stub:
            for how in ("read", "chunks"):
                got: list[bytes] = []
                async with await egress.request(TARGET, "GET", stub.url, headers=HEADERS) as upstream:
                    with pytest.raises(UpstreamError) as caught:
                        await drained(upstream, how, got)
                assert b"".join(got).startswith(b"data: 1\n\n" if how == "chunks" else b"")
                self.check(caught.value, "cut" if end == "cut" else "")
                assert (caught.value.status, caught.value.retry) == (502, Retry.SAME)

    async def test_a_line_cut_within_a_declared_length(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with answered(egress, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345") as upstream:
            with pytest.raises(UpstreamError) as caught:
                await upstream.read()
        self.check(caught.value, "cut in the middle")

    @pytest.mark.parametrize("end", ["cut", "reset"])
    async def test_a_line_cut_before_the_answer(self, end: Any, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply(status=0, end=end)) as stub:
            with pytest.raises(UpstreamError) as caught:
                await egress.request(TARGET, "POST", stub.url, headers=HEADERS, body=b"{}")
        self.check(caught.value, "")
        assert caught.value.retry is Retry.SAME

    async def test_a_refused_connection_names_the_vendor_and_not_the_key(self, open_egress: Any) -> None:
        egress = await open_egress()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(UpstreamError) as caught:
            await egress.request(TARGET, "GET", f"http://127.0.0.1:{port}/?key={KEY}", headers=HEADERS)
        assert KEY not in caught.value.message
        assert (caught.value.status, caught.value.code) == (502, "upstream_error")
        assert re.match(r"acme: .*(refused|connect)", caught.value.message)

    async def test_a_name_that_cannot_be_resolved(self, open_egress: Any) -> None:
        egress = await open_egress()
        with pytest.raises(UpstreamError) as caught:
            await egress.request(TARGET, "GET", "http://no-such-host.invalid/", headers=HEADERS)
        self.check(caught.value, "cannot be resolved")

    async def test_a_vendor_that_does_not_accept_the_connection_in_time(self, open_egress: Any) -> None:
        egress = await open_egress(connect_timeout=0.2)
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):  # fill its queue: further connections get no answer
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            with pytest.raises(UpstreamTimeout) as caught:
                await egress.request(TARGET, "GET", f"http://127.0.0.1:{listener.getsockname()[1]}", headers=HEADERS)
        self.check(caught.value, "connecting took too long")
        assert caught.value.status == 504

    @pytest.mark.parametrize(
        "answer",
        [
            b"SSH-2.0-OpenSSH_9\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"\0\1\2" * 100,
        ],
    )
    async def test_what_is_no_http(self, answer: bytes, open_egress: Any) -> None:
        egress = await open_egress()
        async with raw(answer) as url:
            with pytest.raises(UpstreamError) as caught:
                await egress.request(TARGET, "GET", url, headers=HEADERS)
        self.check(caught.value, "")

    @pytest.mark.parametrize("url", ["", "nonsense", "ftp://example.com", "http://", "http://[::1"])
    async def test_a_base_url_that_is_none(self, url: str, open_egress: Any) -> None:
        egress = await open_egress()
        with pytest.raises(UpstreamError) as caught:
            await egress.request(TARGET, "GET", url, headers=HEADERS)
        self.check(caught.value, "")

    async def test_a_key_with_a_line_break_is_not_sent_and_not_shown(self, open_egress: Any) -> None:
        egress = await open_egress()
        async with Stub(Reply()) as stub:
            with pytest.raises(UpstreamError) as caught:
                await egress.request(TARGET, "GET", stub.url, headers={"X-Key": KEY + "\r\nX-Evil: 1"})
            assert stub.requests == []
        assert KEY not in caught.value.message


# ---------------------------------------------------------------------------------------------------------------------
# URLs that clients send

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    # IPv4 in other spellings, as the C library reads them
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7F.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "0",
    "10.1",
    "167772161",
    # IPv6
    "::",
    "::1",
    "0:0:0:0:0:0:0:1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "ff0e::1",
    "2001:db8::1",
    "100::1",
    "3fff::1",
    "5f00::1",
    "4000::1",
    # IPv4 inside IPv6: mapped, compatible, translated, 6to4, NAT64 (well-known and local), Teredo, ORCHID
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "::127.0.0.1",
    "::7f00:1",
    "::ffff:0:127.0.0.1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b:1::7f00:1",
    "64:ff9b:1::808:808",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:20::1",
    # No addresses
    "",
    "localhost",
    "example.com",
    "127.0.0.1.",
    "256.1.1.1",
    "1.2.3.4.5",
    "::g",
    "[::1]",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "192.169.0.1",
    "100.128.0.1",
    "0x08080808",
    "134744072",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_on_the_public_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_on_the_public_internet(address: str) -> None:
    assert is_public(address)


class Names(AbstractResolver):
    """A DNS of the test's own: names to addresses; every question is noted."""

    def __init__(self, known: Mapping[str, Sequence[str]]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self.known:
            raise OSError(None, "no such name")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self.known[host]
        ]

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Sequence[str]]:
    """What the DNS says; fill it in before the egress is asked."""
    known: dict[str, Sequence[str]] = {}
    monkeypatch.setattr(module, "DefaultResolver", lambda: Names(known))
    return known


@pytest.fixture
async def guarded(names: Any, open_egress: Any) -> Egress:
    """An egress as it is by default."""
    egress: Egress = await open_egress(max_fetch=1000)
    return egress


@pytest.fixture
async def lenient(open_egress: Any) -> Egress:
    """An egress whose clients' URLs may lie in private networks."""
    egress: Egress = await open_egress(max_fetch=1000, allow_private_urls=True)
    return egress


@pytest.fixture
def stub_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1, where the stubs are, counts as public; nothing else does that would not."""
    monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1" or is_public(address))


async def refused(egress: Egress, url: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest, match=r"^field: ") as caught:
        async with asyncio.timeout(10):
            await egress.fetch(url, param="field")
    error = caught.value
    assert (error.status, error.param) == (400, "field")
    return error


class TestGuard:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "0177.0.0.1",
            "127.0.0.1.",
            "127.1.",
            "0",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::1]",
            "[::]",
            "[::127.0.0.1]",
            "[2002:7f00:1::]",
            "[64:ff9b::7f00:1]",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "localhost",
            "localhost.",
            "LOCALHOST",
        ],
    )
    async def test_no_spelling_of_loopback_is_reached(self, host: str, open_egress: Any) -> None:
        egress = await open_egress()  # with the system's own resolver
        async with Stub(Reply(body=b"internal")) as stub:
            await refused(egress, stub.url.replace("127.0.0.1", host))
            assert (stub.connections, stub.requests) == (0, [])

    @pytest.mark.parametrize(
        "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1", "64:ff9b::7f00:1"]
    )
    async def test_a_name_that_leads_to_a_private_address_is_refused(
        self, address: str, guarded: Egress, names: dict[str, Sequence[str]]
    ) -> None:
        names["rebind.test"] = [address]
        async with Stub(Reply(body=b"internal")) as stub:
            error = await refused(guarded, stub.url.replace("127.0.0.1", "rebind.test"))
            assert stub.connections == 0
        assert "not public" in error.message
        assert address not in error.message  # it tells nothing of the network behind

    async def test_of_several_addresses_only_the_public_ones_are_tried(
        self, guarded: Egress, names: dict[str, Sequence[str]], stub_is_public: None
    ) -> None:
        names["mixed.test"] = ["::1", "127.0.0.2", "127.0.0.1"]
        async with Stub(Reply(body=b"public")) as stub:
            fetched = await guarded.fetch(stub.url.replace("127.0.0.1", "mixed.test"), param="field")
            assert (fetched.body, stub.connections) == (b"public", 1)

    async def test_a_name_is_asked_for_anew_each_time_and_the_address_that_was_checked_is_the_one_used(
        self, guarded: Egress, names: dict[str, Sequence[str]], stub_is_public: None
    ) -> None:
        async with Stub(Reply(body=b"public", end="close")) as stub:
            url = stub.url.replace("127.0.0.1", "rebind.test")
            names["rebind.test"] = ["127.0.0.1"]
            assert (await guarded.fetch(url, param="field")).body == b"public"
            names["rebind.test"] = ["127.0.0.2"]
            await refused(guarded, url)
            assert stub.connections == 1

    @pytest.mark.parametrize(
        "location",
        [
            "http://127.0.0.2:{port}/",
            "http://2130706434:{port}/",
            "//127.0.0.2:{port}/",
            "http://[::1]:{port}/",
            "http://[::ffff:127.0.0.2]:{port}/",
            "http://169.254.169.254/latest/meta-data/",
            "http://inside.test:{port}/",
            "http://localhost.:{port}/",
            "http://127.0.0.1.:{port}/",
            "ftp://127.0.0.1:{port}/",
            "file:///etc/passwd",
            "gopher://127.0.0.1:{port}/",
            "http://user:pw@127.0.0.1:{port}/",
            "http://[::1",
            "http://127.0.0.1:99999/",
            "http://" + "a" * 64 + ".test/",
        ],
    )
    async def test_a_redirect_leads_nowhere_a_client_may_not_go(
        self, location: str, guarded: Egress, names: dict[str, Sequence[str]], stub_is_public: None
    ) -> None:
        names["inside.test"] = ["127.0.0.2"]
        async with Stub(Reply(body=b"x")) as stub:
            location = location.replace("{port}", stub.url.rpartition(":")[2])
            stub.script(Reply(status=302, headers={"Location": location}), Reply(body=b"internal"))
            await refused(guarded, stub.url)
            assert len(stub.requests) == 1

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "x",
            "//example.com/a",
            "ftp://example.com/a",
            "file:///etc/passwd",
            "gopher://example.com",
            "data:image/png;base64,AAAA",
            "javascript:alert(1)",
            "http:",
            "http://",
            "http:///a",
            "http:example.com",
            "http://[::1",
            "http://[zz]/",
            "http://example.com:99999/",
            "http://example.com:x/",
            "http://user@example.com/",
            "http://user:pw@example.com/",
            "http://:pw@example.com/",
            "http://@/",
            "http://.test/",
            "http://a..test/",
            "http://" + "a" * 64 + ".test/",
            "http://" + "a." * 200 + "test/",
            "http://\ud83d.test/",
            "http://a b.test/",
            "http://a%00b.test/",
            "http://xn--a/",
            "http://\u202e.test/",
        ],
    )
    async def test_what_is_no_plain_web_address_is_refused(self, url: str, guarded: Egress) -> None:
        await refused(guarded, url)

    async def test_the_answer_tells_nothing_of_the_url(self, guarded: Egress, names: dict[str, Sequence[str]]) -> None:
        error = await refused(guarded, f"https://gone.test/a.png?signature={KEY}")
        assert KEY not in error.message
        names["in.test"] = ["10.0.0.7"]
        assert KEY not in (await refused(guarded, f"https://in.test/a.png?signature={KEY}")).message


class TestFetch:
    async def test_a_private_address_is_reached_where_the_operator_allows_it(self, lenient: Egress) -> None:
        async with Stub(Reply(body=[b"ab", b"c"], content_type="image/png; x=y")) as stub:
            fetched = await lenient.fetch(stub.url + "/a.png?x=1", param="field")
            assert (fetched.body, fetched.content_type) == (b"abc", "image/png")
            [sent] = stub.requests
            assert (sent.method, sent.path) == ("GET", "/a.png?x=1")
            assert sent.headers.keys().isdisjoint({"authorization", "cookie", "referer", "x-api-key"})

    @pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://user:pw@127.0.0.1/", "file:///etc/passwd", ""])
    async def test_allowing_private_addresses_allows_nothing_else(self, url: str, lenient: Egress) -> None:
        await refused(lenient, url)

    async def test_a_server_that_claims_no_type_claims_none(self, lenient: Egress) -> None:
        async with raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx") as url:
            assert (await lenient.fetch(url, param="field")).content_type == ""

    @pytest.mark.parametrize("status", [201, 204, 206, 304, 401, 404, 500])
    async def test_anything_but_a_200_is_refused_with_its_number(self, status: int, lenient: Egress) -> None:
        async with raw(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status) as url:
            assert (await refused(lenient, url)).message == f"field: the URL answered {status}"

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_three_redirects_are_followed_and_no_fourth(self, status: int, lenient: Egress) -> None:
        moved = Reply(status=status, headers={"Location": "../next?a=b"})
        async with Stub(moved, moved, moved, Reply(body=b"there")) as stub:
            assert (await lenient.fetch(stub.url + "/a/b/c/d", param="field")).body == b"there"
            assert [sent.path for sent in stub.requests] == ["/a/b/c/d", "/a/b/next?a=b", "/a/next?a=b", "/next?a=b"]
            stub.script(moved)
            assert "more than 3 redirects" in (await refused(lenient, stub.url)).message
            assert len(stub.requests) == 8

    async def test_a_redirect_without_an_address_is_refused(self, lenient: Egress) -> None:
        async with Stub(Reply(status=302)) as stub:
            assert "answered 302" in (await refused(lenient, stub.url)).message

    async def test_a_body_of_just_the_cap_is_read_and_one_over_it_refused(self, lenient: Egress) -> None:
        async with Stub(Reply(body=[b"x" * 500] * 2), Reply(body=[b"x" * 500, b"x" * 501])) as stub:
            assert len((await lenient.fetch(stub.url, param="field")).body) == 1000
            assert "egress.max_fetch (1000 bytes)" in (await refused(lenient, stub.url)).message

    async def test_an_endless_body_is_refused_as_soon_as_it_is_over_the_cap(self, lenient: Egress) -> None:
        async with Stub(Reply(body=b"x" * 1001, end="silence")) as stub:
            assert "max_fetch" in (await refused(lenient, stub.url)).message
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_a_small_compressed_body_cannot_grow_over_the_cap(self, lenient: Egress) -> None:
        bomb = gzip.compress(bytes(100 << 20))
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        async with raw(head + bomb) as url:
            assert "max_fetch" in (await refused(lenient, url)).message

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(status=0, end="cut"),
            Reply(status=0, end="reset"),
            Reply(body=b"x", end="cut"),
            Reply(body=b"x", end="reset"),
        ],
    )
    async def test_a_cut_line_is_told_as_the_urls_fault(self, reply: Reply, lenient: Egress) -> None:
        async with Stub(reply) as stub:
            assert "cannot fetch the URL" in (await refused(lenient, stub.url)).message

    @pytest.mark.parametrize("reply", [Reply(status=0, end="silence"), Reply(body=b"x", end="silence")])
    async def test_silence_ends_in_time(self, reply: Reply, open_egress: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_FETCH_SECONDS", 0.2)
        egress = await open_egress(allow_private_urls=True)
        async with Stub(reply) as stub:
            assert (await refused(egress, stub.url)).message == "field: cannot fetch the URL: took too long"
            await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_a_cookie_of_one_client_is_not_sent_for_another(self, lenient: Egress) -> None:
        async with Stub(Reply(body=b"x", headers={"Set-Cookie": "session=1"})) as stub:
            for _ in range(2):
                await lenient.fetch(stub.url, param="field")
            assert all("cookie" not in sent.headers for sent in stub.requests)
