"""The administrator's routes to the Ollama servers: `/admin/ollama/models` and `/admin/ollama/pull`."""

import contextlib

import msgspec
from aiohttp import web

from gatehook import Catalog, Egress, GatewayError, InvalidRequest, Target, encode, envelope, read_as, read_body
from gatehook_ollama.library import Library
from gatehook_ollama.options import base

__all__ = ["Routes"]


class _Pull(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    server: str = ""


class Routes:
    """The handlers. They reach only servers that the settings name: no request can send the gateway elsewhere."""

    def __init__(self, egress: Egress, catalog: Catalog, base_url: str) -> None:
        self._egress = egress
        self._catalog = catalog
        self._base_url = base_url

    async def models(self, request: web.Request) -> web.Response:
        """Each server with its models, or with the error that it gave."""
        found = []
        for url, target in self._servers().items():
            try:
                found.append({"server": url, "models": await Library(self._egress, target).models()})
            except GatewayError as error:
                found.append({"server": url, "models": [], "error": error.message})
        return web.json_response(body=encode({"servers": found}))

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Download a model; the answer is a line of JSON for each step. It stops when the client disconnects."""
        wanted = read_as(await read_body(request), _Pull)
        library = Library(self._egress, self._server(wanted.server))
        async with contextlib.aclosing(library.pull(wanted.model)) as states:
            first = await anext(states)  # what fails at once has a status of its own
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Server": "gatehook"})
            await response.prepare(request)
            try:
                await response.write(msgspec.json.encode(first) + b"\n")
                async for state in states:
                    await response.write(msgspec.json.encode(state) + b"\n")
            except GatewayError as error:
                await response.write(encode(envelope(error)) + b"\n")
        await response.write_eof()
        return response

    def _server(self, wanted: str) -> Target:
        servers = self._servers()
        found = servers.get(base(wanted or self._base_url))
        if found is None:
            known = ", ".join(servers)
            raise InvalidRequest(f"server: the settings do not name {wanted!r}; they name: {known}", param="server")
        return found

    def _servers(self) -> dict[str, Target]:
        """The servers by address: the one of the plugin's settings, and those of the models."""
        own = base(self._base_url)
        servers = {own: Target("ollama", "ollama", "ollama", "", base_url=own)}
        for group in self._catalog.groups().values():
            for target in group:
                if target.vendor == "ollama":
                    servers[base(target.base_url or own)] = Target(
                        target.key, target.name, "ollama", target.model, target.base_url or own, target.api_key
                    )
        return servers
