"""The tools that are shipped keep to everything the suite asks of tools: those of an HTTP API, and of an MCP server."""

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest_asyncio
from aiohttp import web

from gatehook import Call, Gateway
from gatehook.testing.conformance import ToolConformance

SECRET = "Bearer token-of-nobody"
MCP_SERVER = Path(__file__).parents[1] / "plugins" / "mcp_tools" / "real_server.py"


async def weather(request: web.Request) -> web.Response:
    """A server that knows two cities, and repeats what it is sent."""
    city = request.match_info["city"]
    headers = dict(request.headers)
    if city not in ("Paris", "Oslo"):
        return web.json_response({"error": "no such city", "sent": headers}, status=404)
    return web.json_response({"city": city, "days": request.query.get("days"), "key": headers["Authorization"]})


class TestHttpTools(ToolConformance):
    plugin = "http_tools"
    good = (("weather", {"city": "Paris", "days": 3}), ("weather", {"city": "Oslo"}))
    bad = (("weather", {"city": "Nowhere"}),)
    secrets = (SECRET.removeprefix("Bearer "),)

    @pytest_asyncio.fixture(autouse=True)
    async def server(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/weather/{city}", weather)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        parameters = '{ properties = { city = { type = "string" }, days = { type = "integer" } }, required = ["city"] }'
        self.settings = (
            '[plugins.http_tools.tools.weather]\ndescription = "The weather of a city."\n'
            f'url = "http://127.0.0.1:{self.runner.addresses[0][1]}/weather/{{city}}"\n'
            f'headers = {{ Authorization = "{SECRET}" }}\nparameters = {parameters}\nmodels = ["m"]\n'
        )
        yield
        await self.runner.cleanup()

    def stranger(self) -> Call:
        call = self.call()
        call.model = "another"
        return call

    def broken(self, gateway: Gateway) -> AbstractAsyncContextManager[None]:
        @contextlib.asynccontextmanager
        async def away() -> AsyncIterator[None]:
            await self.runner.cleanup()
            yield

        return away()


class TestMcpTools(ToolConformance):
    plugin = "mcp_tools"
    settings = (
        f"[plugins.mcp_tools.servers.s]\ncommand = {json.dumps([sys.executable, str(MCP_SERVER), 'stdio'])}\n"
        'include = ["add", "say", "fail"]\nrequired = true\nmodels = ["m"]\n'
    )
    good = (("s__add", {"a": 2, "b": 3}), ("s__say", {"text": "grüße"}))
    bad: Any = (("s__fail", {"reason": "as it was told to"}),)

    def stranger(self) -> Call:
        call = self.call()
        call.model = "another"
        return call
