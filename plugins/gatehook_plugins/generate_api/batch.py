"""POST /batch/generate: several prompts side by side, each a request like any other."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from aiohttp import web

from gatehook import PRINCIPAL, Call, Completion, Document, GatewayError, Principal, decode, encode, read_body
from gatehook_plugins.generate_api.errors import error_body
from gatehook_plugins.generate_api.requests import as_chat, read_batch
from gatehook_plugins.generate_api.surface import result

__all__ = ["Batch", "Calls"]

_AT_ONCE: Final = 16
"""Requests of one batch that run at the same time."""


class Calls(Protocol):
    """What makes calls: the gateway."""

    async def run(self, call: Call) -> Completion:
        """Make a plain call.

        Raises:
            GatewayError: what its client is to be told.
        """
        ...


class Batch:
    """The handler."""

    def __init__(self, calls: Calls, default_model: Callable[[Principal], str]) -> None:
        """`default_model` tells the model that a caller uses where it names none."""
        self._calls = calls
        self._default_model = default_model

    async def generate(self, request: web.Request) -> web.Response:
        """``{"results": [{"text", "usage"}]}`` in the order of the requests; one that failed holds ``"error"``.

        Raises:
            InvalidRequest: there are no requests, or too many. What is wrong with one of them is told in its place.
        """
        asked = read_batch(await read_body(request))
        enough = asyncio.Semaphore(_AT_ONCE)

        async def one(data: Any) -> dict[str, Any]:
            async with enough:
                return await self._generate(request, data)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(data)) for data in asked]
        return web.Response(
            body=encode({"results": [task.result() for task in tasks]}), headers={"Content-Type": "application/json"}
        )

    async def _generate(self, request: web.Request, data: Any) -> dict[str, Any]:
        call = Call("chat", "generate", request.headers, request.remote or "", principal=request[PRINCIPAL])
        try:
            chat = as_chat(data, self._default_model(call.principal))
            chat.pop("stream", None)
            call.model, call.body = chat["model"], Document(chat)
            return result(call, await self._calls.run(call))
        except GatewayError as error:
            return dict(decode(error_body(error)))
