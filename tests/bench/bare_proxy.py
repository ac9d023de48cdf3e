"""The yardstick: the reverse proxy one writes with aiohttp from its documentation.

Application and router, the body parsed, one shared ClientSession, the upstream's bytes returned; streams pass through
a StreamResponse as they arrive. uvloop, no access log, no limit on connections; everything else is aiohttp's default.
"""

import argparse
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import uvloop
from aiohttp import web

SESSION = web.AppKey("session", aiohttp.ClientSession)
UPSTREAM = web.AppKey("upstream", str)
TLS_UPSTREAM = web.AppKey("tls_upstream", str)
HEADERS = {"Authorization": "Bearer sk-upstream-0123456789abcdef", "Content-Type": "application/json"}


async def chat(request: web.Request) -> web.StreamResponse:
    """Parse, forward, answer."""
    body = msgspec.json.decode(await request.read())
    upstream = TLS_UPSTREAM if body["model"].startswith("tls-") else UPSTREAM
    url = request.app[upstream] + "/v1/chat/completions"
    async with request.app[SESSION].post(url, data=msgspec.json.encode(body), headers=HEADERS) as answer:
        if body.get("stream"):
            return await relay(request, answer)
        return web.Response(body=await answer.read(), status=answer.status, content_type="application/json")


async def relay(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Pass a stream on as it comes."""
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async for data in answer.content.iter_any():
        await response.write(data)
    await response.write_eof()
    return response


async def health(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def client_session(app: web.Application) -> AsyncIterator[None]:
    """The one client session, for the lifetime of the application."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        app[SESSION] = session
        yield


def build(upstream: str, tls_upstream: str) -> web.Application:
    app = web.Application(client_max_size=32 << 20)
    app[UPSTREAM] = upstream
    app[TLS_UPSTREAM] = tls_upstream
    app.cleanup_ctx.append(client_session)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/health", health)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="bare aiohttp reverse proxy")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="for example http://127.0.0.1:9000")
    parser.add_argument("--tls-upstream", default="", help="for models whose names begin with tls-")
    args = parser.parse_args()
    loop = uvloop.new_event_loop()
    web.run_app(
        build(args.upstream, args.tls_upstream),
        host="127.0.0.1",
        port=args.port,
        print=None,
        access_log=None,
        loop=loop,
    )
