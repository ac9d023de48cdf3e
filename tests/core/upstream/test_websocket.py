"""WebSockets to vendors: no Origin, no redirects, no secrets in errors, large messages."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr
from tests.certificates import Authority

from gatehook.config.settings import EgressSettings
from gatehook.errors import UpstreamError
from gatehook.model import Target
from gatehook.upstream.egress import Egress
from gatehook.upstream.websocket import WebSocket

TARGET = Target("m#1", "m", "acme", "u", api_key=SecretStr("never-shown-123"))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/ws", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}/ws"
    finally:
        await runner.cleanup()


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    egress = Egress(EgressSettings(max_response=8 << 20))
    async with egress.lifespan():
        yield egress


async def test_with_tls_the_same_authorities_are_trusted_as_for_requests(authority: Authority) -> None:
    async def serve(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(await socket.receive_str())
        await socket.close()
        return socket

    async with server(serve, authority.server("127.0.0.1")) as url:
        for trusted in (authority.pem, ""):
            egress = Egress(EgressSettings(ca_certificates=SecretStr(trusted)))
            async with egress.lifespan():
                if trusted:
                    async with await _opened(egress, url) as socket:
                        await socket.send("hello")
                        assert [message async for message in socket] == ["hello"]
                else:
                    with pytest.raises(UpstreamError, match="the server's TLS certificate is not accepted"):
                        await _opened(egress, url)


async def _opened(egress: Egress, url: str) -> WebSocket:
    return await egress.websocket(TARGET, url, headers={"X-Key": "k"}, heartbeat=5)


async def test_messages_go_both_ways_and_may_be_large(egress: Egress) -> None:
    seen: dict[str, Any] = {}

    async def serve(request: web.Request) -> web.StreamResponse:
        seen.update(request.headers)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        seen["said"] = await socket.receive_str()
        await socket.send_str("text")
        await socket.send_bytes(bytes(5 << 20))
        await socket.close()
        return socket

    async with server(serve) as url, await _opened(egress, url) as socket:
        await socket.send("hello")
        heard = [message async for message in socket]
    assert heard[0] == "text"
    assert len(heard[1]) == 5 << 20
    assert (seen["said"], seen["X-Key"], "Origin" in seen) == ("hello", "k", False)


async def test_a_message_over_the_bound_is_an_error(egress: Egress) -> None:
    async def serve(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(bytes(9 << 20))
        return socket

    async with server(serve) as url, await egress.websocket(TARGET, url, headers={}, heartbeat=5) as socket:
        with pytest.raises(UpstreamError, match="acme: the WebSocket was cut"):
            async for _ in socket:
                pass


async def test_a_refusal_names_its_status(egress: Egress) -> None:
    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(status=403)

    async with server(serve) as url:
        with pytest.raises(UpstreamError, match="acme: answers 403 instead of a WebSocket"):
            await egress.websocket(TARGET, url, headers={}, heartbeat=5)


async def test_a_redirect_is_not_followed(egress: Egress) -> None:
    followed: list[str] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        followed.append(request.headers.get("X-Key", ""))
        return web.Response()

    async with server(elsewhere) as other:

        async def serve(request: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(other)

        async with server(serve) as url:
            with pytest.raises(UpstreamError, match=r"^acme: "):
                await egress.websocket(TARGET, url, headers={"X-Key": "k"}, heartbeat=5)
    assert followed == []


async def test_nobody_there_is_told_without_a_secret(egress: Egress) -> None:
    with pytest.raises(UpstreamError, match=r"^acme: ") as told:
        await egress.websocket(TARGET, "http://127.0.0.1:9/ws?key=never-shown-123", headers={}, heartbeat=5)
    assert "never-shown" not in str(told.value)


async def test_it_must_be_open() -> None:
    with pytest.raises(RuntimeError, match="lifespan"):
        await Egress(EgressSettings()).websocket(TARGET, "http://a", headers={}, heartbeat=5)
