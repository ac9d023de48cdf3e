"""How connections are opened: names, addresses, TLS."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from tests.certificates import Authority
from yarl import URL

from gatehook.config.settings import EgressSettings
from gatehook.errors import UpstreamError, UpstreamTimeout
from gatehook.model import Target
from gatehook.testing import Reply, StubUpstream
from gatehook.upstream import connectors
from gatehook.upstream.answer import reason
from gatehook.upstream.dialing import Dialer, Origin
from gatehook.upstream.egress import Egress

TARGET = Target("m#1", "m", "acme", "u")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def ways(authority: Authority) -> AsyncIterator[Sequence[Egress]]:
    """The short way and the long one; both trust the authority."""
    settings = EgressSettings(connect_timeout=0.5, ca_certificates=SecretStr(authority.pem))
    short, long = Egress(settings), Egress(settings)
    long._pool = None
    async with short.lifespan(), long.lifespan():
        yield short, long


async def refused(egress: Egress, url: str) -> str:
    """Why a request fails."""
    with pytest.raises(UpstreamError) as caught:
        await asyncio.wait_for(egress.request(TARGET, "POST", url, headers={}, body=b"{}"), 10)
    return caught.value.message


class TestTLS:
    async def test_who_does_not_prove_who_they_are_get_nothing(
        self, authority: Authority, ways: Sequence[Egress]
    ) -> None:
        servers = {
            "certificate has expired": authority.server("127.0.0.1", days=-1),
            "IP address mismatch, certificate is not valid for '127.0.0.1'": authority.server("elsewhere.test"),
            "unable to get local issuer certificate": Authority().server("127.0.0.1"),
        }
        for why, tls in servers.items():
            async with StubUpstream(Reply(body=b"x"), tls=tls) as stub:
                for egress in ways:
                    said = await refused(egress, stub.url)
                    assert said.rstrip(".") == f"acme: the server's TLS certificate is not accepted: {why}"
                assert stub.requests == []

    async def test_without_further_authorities_only_the_systems_are_trusted(self, authority: Authority) -> None:
        egress = Egress(EgressSettings())
        async with (
            StubUpstream(Reply(body=b"x"), tls=authority.server("127.0.0.1")) as stub,
            egress.lifespan(),
        ):
            assert "unable to get local issuer certificate" in await refused(egress, stub.url)

    async def test_the_name_of_the_server_is_told_to_it(
        self, authority: Authority, ways: Sequence[Egress], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def resolved(host: str, port: int, **rest: Any) -> Any:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        told: list[str | None] = []
        tls = authority.server("vendor.test")
        tls.sni_callback = lambda _, name, __: told.append(name)
        async with StubUpstream(Reply(body=b"x"), tls=tls) as stub:
            url = stub.url.replace("127.0.0.1", "vendor.test")
            for egress in ways:
                for named in (url, url.replace("vendor.test", "vendor.test.")):  # with the dot that ends a full name
                    async with await egress.request(TARGET, "GET", named, headers={}) as upstream:
                        assert await upstream.read() == b"x"
        assert told == ["vendor.test"] * 4

    async def test_a_server_that_does_not_speak_tls(self, ways: Sequence[Egress], rig: Any) -> None:
        async def puzzled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await reader.read()

        async with rig.server(puzzled) as url:
            for egress in ways:
                assert await refused(egress, url.replace("http:", "https:")) == "acme: TLS fails: wrong version number"

    async def test_a_server_that_leaves_or_is_silent_in_the_handshake(self, ways: Sequence[Egress], rig: Any) -> None:
        async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)

        async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        for egress in ways:
            async with rig.server(leaves) as url:
                assert (await refused(egress, url.replace("http:", "https:"))).startswith("acme: ")
            async with rig.server(listens) as url:
                with pytest.raises(UpstreamTimeout, match="acme: connecting took too long"):
                    await egress.request(TARGET, "GET", url.replace("http:", "https:"), headers={})

    async def test_a_stream_is_read_as_it_comes_and_left_at_once(
        self, authority: Authority, ways: Sequence[Egress]
    ) -> None:
        reply = Reply.of_events([b"data: 1\n\n", b"data: 2\n\n"], end="silence")
        async with StubUpstream(reply, tls=authority.server("127.0.0.1")) as stub:
            for egress in ways:
                stub.closed_early.clear()
                async with await egress.request(TARGET, "GET", stub.url, headers={}) as upstream:
                    got = b""
                    while got.count(b"data") < 2:
                        got += await upstream.receive()
                await asyncio.wait_for(stub.closed_early.wait(), 5)

    async def test_over_a_unix_socket_it_goes_the_long_way(self, ways: Sequence[Egress]) -> None:
        for url, short in (("https://localhost/", False), ("http://localhost/", True)):
            prepared = ways[0].prepare(TARGET, "GET", url, headers={}, uds="/run/x")
            assert (prepared.way is not None) is short

    def test_aiohttps_context_is_taken_where_it_has_one(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        theirs = connectors.trusting("")
        assert theirs is connectors.trusting("")
        assert connectors.trusting(authority.pem) is not theirs
        monkeypatch.delattr("aiohttp.connector._SSL_CONTEXT_VERIFIED")
        ours = connectors.trusting("")
        assert ours is not theirs
        for context in (theirs, ours, connectors.trusting(authority.pem)):
            assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
            assert context.cert_store_stats()["x509_ca"] >= theirs.cert_store_stats()["x509_ca"]

    @pytest.mark.parametrize("text", ["nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "ä"])
    def test_what_is_no_certificate_is_a_fault_of_the_settings(self, text: str) -> None:
        with pytest.raises(ValidationError, match="of certificates in PEM") as caught:
            EgressSettings(ca_certificates=SecretStr(text))
        assert text not in str(caught.value)

    def test_a_line_that_is_reset_in_the_handshake_is_told_in_words(self) -> None:
        assert reason(ConnectionResetError()) == "the connection was reset"  # uvloop's has none


class TestAddresses:
    async def test_of_several_the_first_that_answers_is_taken(self, monkeypatch: pytest.MonkeyPatch, rig: Any) -> None:
        async with rig.server(rig.saying(OK)) as url:
            port = URL(url).port
            with contextlib.ExitStack() as stack:
                silent = stack.enter_context(socket.socket())
                try:
                    silent.bind(("127.0.0.2", port))
                except OSError as error:
                    pytest.skip(f"this system has only one address of its own: {error}")
                silent.listen(0)
                for _ in range(4):  # fill its queue: further connections get no answer
                    waiting = stack.enter_context(socket.socket())
                    waiting.setblocking(False)
                    waiting.connect_ex(silent.getsockname())
                stream = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
                found = [(*stream, (host, port)) for host in ("127.0.0.2", "127.0.0.1")]

                loop = asyncio.get_running_loop()
                resolve = loop.getaddrinfo

                async def resolved(host: str, *args: Any, **rest: Any) -> Any:
                    return found if host == "several.test" else await resolve(host, *args, **rest)

                monkeypatch.setattr(loop, "getaddrinfo", resolved)
                pool = rig.pool()
                assert await rig.ask(pool, f"http://several.test:{port}/") == b"ok"
                pool.close()
                await rig.until(lambda: not pool._open)

    async def test_a_name_is_looked_up_once_for_all_who_ask_meanwhile(
        self, monkeypatch: pytest.MonkeyPatch, rig: Any
    ) -> None:
        asked: list[str] = []
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def resolved(host: str, *args: Any, **rest: Any) -> Any:
            asked.append(host)
            return await answer

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        dialer = Dialer(5.0, connectors.trusting(""))
        dials = [asyncio.create_task(dialer.dial(Origin("h.test", 1), asyncio.Protocol())) for _ in range(5)]
        await asyncio.sleep(0)
        dials[0].cancel()  # who asked first leaves; the others still get the answer
        await asyncio.sleep(0)
        answer.set_exception(socket.gaierror(-2, "Name or service not known"))
        ended = await asyncio.gather(*dials, return_exceptions=True)
        assert [type(one) for one in ended] == [asyncio.CancelledError, *[socket.gaierror] * 4]
        assert asked == ["h.test"]
        with pytest.raises(socket.gaierror):
            await dialer.dial(Origin("h.test", 1), asyncio.Protocol())
        assert asked == ["h.test"] * 2  # nothing is kept

    async def test_a_lookup_that_nobody_waits_for_any_more_ends_silently(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        ended = asyncio.Event()

        async def resolved(*args: Any, **rest: Any) -> Any:
            try:
                await asyncio.sleep(0.01)
                raise socket.gaierror(-2, "Name or service not known")
            finally:
                ended.set()

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        dialer = Dialer(0.001, connectors.trusting(""))
        with pytest.raises(TimeoutError):
            await dialer.dial(Origin("h.test", 1), asyncio.Protocol())
        await asyncio.wait_for(ended.wait(), 5)
        await asyncio.sleep(0)
        assert dialer._lookups == {}
        assert caplog.text == ""

    @pytest.mark.parametrize("way", ["short", "long"])
    async def test_the_system_watches_connections_on_which_nothing_passes(
        self, way: str, monkeypatch: pytest.MonkeyPatch, rig: Any
    ) -> None:
        made: list[socket.socket] = []

        def kept_alive(address: Any) -> socket.socket:
            made.append(connectors.kept_alive(address))
            return made[-1]

        for module in ("dialing", "egress"):
            monkeypatch.setattr(f"gatehook.upstream.{module}.kept_alive", kept_alive)
        egress = Egress(EgressSettings())
        if way == "long":
            egress._pool = None
        async with rig.server(rig.saying(OK, then="next")) as url, egress.lifespan():
            async with await egress.request(TARGET, "GET", url, headers={}) as upstream:
                assert await upstream.read() == b"ok"
            [line] = made
            assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_KEEPIDLE"):
                assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60

    def test_a_socket_without_such_options_is_made_all_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connectors, "_KEEP_ALIVE", {"TCP_UNHEARD_OF": 1, "TCP_KEEPCNT": -5})
        connectors.kept_alive((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))).close()


async def test_with_tls_nothing_waits_to_be_sent_in_larger_packets_either(rigs: Any) -> None:
    rig = rigs["https"]
    pool = rig.pool()
    async with rig.server(rig.saying(OK, then="next")) as url:
        answer = await rig.get(pool, url)
        line = answer.transport.get_extra_info("socket")
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert answer.transport.get_extra_info("ssl_object").selected_alpn_protocol() in (None, "http/1.1")
        assert answer.origin == (URL(url).host, URL(url).port, True)
        answer.release()
        pool.close()
        await rig.until(lambda: not pool._open)
