"""POST /batch/generate: several prompts side by side, each a request like any other."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from gatehook import (
    PRINCIPAL,
    Call,
    Completion,
    ConcurrencyLimited,
    Document,
    GatewayError,
    Principal,
    decode,
    encode,
    read_body,
)
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

        What a vendor had no place for is named in ``"dropped_params"``: one header would not tell whose it is.

        Raises:
            InvalidRequest: there are no requests, or too many. What is wrong with one of them is told in its place.
        """
        asked = read_batch(await read_body(request))
        results = await _Crew(lambda data: self._generate(request, data), asked).results()
        return web.Response(body=encode({"results": results}), headers={"Content-Type": "application/json"})

    async def _generate(self, request: web.Request, data: Any) -> dict[str, Any]:
        """The result of one request.

        Raises:
            GatewayError: why it has none.
        """
        call = Call("chat", "generate", request.headers, request.remote or "", principal=request[PRINCIPAL])
        chat = as_chat(data, self._default_model(call.principal))
        chat.pop("stream", None)
        call.model, call.body = chat["model"], Document(chat)
        made = result(call, await self._calls.run(call))
        return {**made, "dropped_params": call.dropped} if call.dropped else made


class _Crew:
    """Workers who make the requests of one batch, each one after another.

    One whose request is refused since there is no room beside those of the others puts it back, and leaves: another
    takes it when its own has ended. So no more are tried than there is room for, once that is known.
    """

    def __init__(self, make: Callable[[Any], Awaitable[dict[str, Any]]], asked: Sequence[Any]) -> None:
        self._make = make
        self._waiting = deque(enumerate(asked))
        self._results: list[dict[str, Any]] = [{} for _ in asked]
        self._workers = min(_AT_ONCE, len(asked))
        self._ended = 0

    async def results(self) -> Sequence[dict[str, Any]]:
        """Of all requests, in their order; an error is a result, too."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())
        return self._results

    async def _work(self) -> None:
        while self._waiting:
            place, data = self._waiting.popleft()
            ended = self._ended
            try:
                self._results[place] = await self._make(data)
            except GatewayError as error:
                if isinstance(error, ConcurrencyLimited) and (self._workers > 1 or self._ended > ended):
                    self._waiting.appendleft((place, data))
                    if self._workers == 1:
                        continue  # the others have ended meanwhile, so that there may be room now
                    break
                self._results[place] = dict(decode(error_body(error)))
            self._ended += 1
        self._workers -= 1
