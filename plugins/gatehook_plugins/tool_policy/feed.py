"""GET /v1/tools/pending/events: sessions as they come and go, as server-sent events."""

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gatehook import PRINCIPAL, Principal, Unavailable, encode, limit_headers
from gatehook.sse import COMMENT, frame
from gatehook_plugins.tool_policy.desk import Desk
from gatehook_plugins.tool_policy.sessions import Session

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["PendingFeed"]

_MOST: Final = 500
"""Sessions that one watcher is told of at a time; the oldest first."""
_LOOK_SECONDS: Final = 1.0
"""Seconds between two looks whether the gateway shuts down, or a session has expired."""


class PendingFeed:
    """Tells each watcher of the sessions that it may decide about: `pending` when one comes, `resolved` when it goes.

    What a watcher knows is compared with what there is, so nothing is missed, however many things happen at once.
    """

    def __init__(self, gateway: "Gateway", desk: Desk) -> None:
        self._gateway = gateway
        self._desk = desk

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Everything that waits, and from then on what changes, until the client leaves or the gateway stops.

        Raises:
            RateLimited: too many of this caller's watch already. Unavailable: the database is away.
        """
        principal, known = request[PRINCIPAL], dict[str, Session]()
        with self._desk.watched(principal) as changed:
            first = await self._news(principal, known)
            response = web.StreamResponse(
                headers={
                    "Content-Type": "text/event-stream; charset=utf-8",
                    "Cache-Control": "no-cache",
                    "X-Accel-Buffering": "no",
                    "Server": "gatehook",
                    **await limit_headers(request),
                }
            )
            await response.prepare(request)
            if request.method == "HEAD":
                return response
            try:
                await response.write(first + COMMENT)  # so that the client sees that it listens
                await self._follow(principal, known, changed, response)
                await response.write_eof()
            except ConnectionError:  # the client left, or does not read
                response.force_close()
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _follow(
        self, principal: Principal, known: dict[str, Session], changed: asyncio.Event, response: web.StreamResponse
    ) -> None:
        heartbeat, heard = self._gateway.settings.server.heartbeat, time.monotonic()
        while not (self._gateway.draining or self._gateway.retiring):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _LOOK_SECONDS)
            now = time.time() * 1000
            data = b""
            if changed.is_set() or any(one.expires <= now for one in known.values()):
                changed.clear()
                try:
                    data = await self._news(principal, known)
                except Unavailable:  # the news will be told when the database is back
                    changed.set()
                    await asyncio.sleep(_LOOK_SECONDS)
            if not data and heartbeat and time.monotonic() - heard >= heartbeat:
                data = COMMENT
            if data:
                heard = time.monotonic()
                await response.write(data)

    async def _news(self, principal: Principal, known: dict[str, Session]) -> bytes:
        """What has come and gone since `known`, which is brought up to date."""
        there = {one.id: one for one in await self._desk.waiting(principal, _MOST)}
        gone = known.keys() - there.keys()
        come = [one for one in there.values() if one.id not in known]
        events = [frame(encode({"session_id": one}), "resolved") for one in known if one in gone]
        known.clear()
        known.update(there)
        return b"".join([*events, *(frame(encode(one.shown()), "pending") for one in come)])
