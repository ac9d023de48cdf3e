"""Faults of the line to a vendor: told in words, naming the vendor and nothing secret."""

import asyncio
import contextlib
import errno
import os
import socket
import traceback
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from pydantic import SecretStr

from gatehook.errors import Retry, Unavailable, UpstreamError, UpstreamTimeout
from gatehook.model import Target
from gatehook.testing import Reply
from gatehook.upstream.answer import mapped
from gatehook.upstream.egress import Upstream

KEY = "s3cr3t-Zq81-never-shown"
TARGET = Target("m#1", "m", "acme", "u", api_key=SecretStr(KEY))
HEADERS = {"Authorization": f"Bearer {KEY}"}


async def drained(upstream: Upstream, how: str, into: list[bytes]) -> None:
    """Read all there is."""
    if how == "read":
        into.append(await upstream.read())
    async for piece in upstream.chunks():
        into += [piece]


@pytest.mark.parametrize(
    ("number", "told"), [(errno.EMFILE, "ulimit -n"), (errno.ENFILE, "fs.file-max"), (errno.ENOBUFS, "memory")]
)
def test_what_the_gateway_itself_lacks_is_not_the_vendor_s_fault(number: int, told: str) -> None:
    fault = OSError(number, os.strerror(number))
    several = OSError(f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] x, [Errno {number}] y")
    key = ConnectionKey("h", 443, True, True, None, None, None)
    for error in (fault, several, aiohttp.ClientConnectorError(key, fault)):
        made = mapped(TARGET, error)
        assert (type(made), made.status) == (Unavailable, 503)
        assert told in made.message


@pytest.mark.parametrize("way", ["short", "long"])
class TestFaults:
    @staticmethod
    def check(error: UpstreamError, words: str) -> None:
        assert error.message.startswith("acme: ")
        assert words in error.message
        assert KEY not in "".join(traceback.format_exception(error))  # nor in what a log would hold

    @pytest.mark.parametrize("end", ["cut", "reset"])
    async def test_a_line_cut_in_the_answer(self, end: Any, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        async with counting(Reply.of_events([b"data: 1\n\n", b"data: 2\n\n"], end=end, pause=0.02)) as stub:
            for how in ("read", "chunks"):
                got: list[bytes] = []
                async with await egress.request(TARGET, "GET", stub.url, headers=HEADERS) as upstream:
                    with pytest.raises(UpstreamError) as caught:
                        await drained(upstream, how, got)
                assert b"".join(got).startswith(b"data: 1\n\n" if how == "chunks" else b"")
                self.check(caught.value, "cut" if end == "cut" else "")
                assert (caught.value.status, caught.value.retry) == (502, Retry.SAME)

    async def test_a_line_cut_within_a_declared_length(self, open_egress: Any, answered: Any) -> None:
        egress = await open_egress()
        async with answered(egress, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345") as upstream:
            with pytest.raises(UpstreamError) as caught:
                await upstream.read()
        self.check(caught.value, "cut in the middle")

    @pytest.mark.parametrize("end", ["cut", "reset"])
    async def test_a_line_cut_before_the_answer(self, end: Any, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        async with counting(Reply(status=0, end=end)) as stub:
            with pytest.raises(UpstreamError) as caught:
                await egress.request(TARGET, "POST", stub.url, headers=HEADERS, body=b"{}")
        self.check(caught.value, "closed without an answer" if end == "cut" else "")
        assert caught.value.retry is Retry.SAME

    async def test_a_refused_connection_names_the_vendor_and_not_the_key(self, open_egress: Any) -> None:
        egress = await open_egress()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(UpstreamError) as caught:
            await egress.request(TARGET, "GET", f"http://127.0.0.1:{port}/?key={KEY}", headers=HEADERS)
        assert KEY not in caught.value.message
        assert (caught.value.status, caught.value.code) == (502, "upstream_error")
        assert caught.value.message == "acme: connection refused"

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

    async def test_a_proxy_that_does_not_answer_in_time(self, open_egress: Any) -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        proxy = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with proxy:
            port = proxy.sockets[0].getsockname()[1]
            egress = await open_egress(connect_timeout=0.2, proxy=f"http://127.0.0.1:{port}")
            with pytest.raises(UpstreamTimeout) as caught:
                async with asyncio.timeout(5):
                    await egress.request(TARGET, "GET", "https://api.example.com/", headers=HEADERS)
        self.check(caught.value, "connecting took too long")

    @pytest.mark.parametrize(
        "answer",
        [
            b"SSH-2.0-OpenSSH_9\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"\0\1\2" * 100,
        ],
    )
    async def test_what_is_no_http(self, answer: bytes, open_egress: Any, saying: Any) -> None:
        egress = await open_egress()
        async with saying(answer) as url:
            with pytest.raises(UpstreamError) as caught:
                await egress.request(TARGET, "GET", url, headers=HEADERS)
        self.check(caught.value, "")

    @pytest.mark.parametrize("url", ["", "nonsense", "ftp://example.com", "http://", "http://[::1"])
    async def test_a_base_url_that_is_none(self, url: str, open_egress: Any) -> None:
        egress = await open_egress()
        with pytest.raises(UpstreamError) as caught:
            await egress.request(TARGET, "GET", url, headers=HEADERS)
        self.check(caught.value, "")

    async def test_a_key_with_a_line_break_is_not_sent_and_not_shown(self, open_egress: Any, counting: Any) -> None:
        egress = await open_egress()
        async with counting(Reply()) as stub:
            with pytest.raises(UpstreamError) as caught:
                await egress.request(TARGET, "GET", stub.url, headers={"X-Key": KEY + "\r\nX-Evil: 1"})
            assert stub.requests == []
        assert KEY not in caught.value.message
