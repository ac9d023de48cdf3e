"""/v1/tools: what waits for a decision, and deciding."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from aiohttp import web
from msgspec.structs import replace

from gatehook import CATALOG, DIRECTORY, PRINCIPAL, Call, Document, Route, ToolCall, encode
from gatehook_plugins.tool_policy.decisions import decided, require_allowed
from gatehook_plugins.tool_policy.desk import Desk
from gatehook_plugins.tool_policy.feed import PendingFeed
from gatehook_plugins.tool_policy.release import as_events, next_request, own_calls, to_client, turn_after
from gatehook_plugins.tool_policy.requests import Confirm, Deny, asked_limit, read
from gatehook_plugins.tool_policy.sessions import Decision, Kept, Session
from gatehook_plugins.tool_policy.standing import Standing
from gatehook_plugins.tool_policy.surface import TurnSurface

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["ToolRoutes"]

_BROKEN_OFF: Final = "error: this call was broken off, and nobody knows what came of it"


class ToolRoutes:
    """The handlers, for whoever may decide: the user who asked, and admins."""

    def __init__(self, gateway: "Gateway", desk: Desk, standing: Standing) -> None:
        self._gateway = gateway
        self._catalog = gateway.services[CATALOG]
        self._directory = gateway.services[DIRECTORY]
        self._desk = desk
        self._standing = standing
        self._surface = TurnSurface()
        self._feed = PendingFeed(gateway, desk)

    def routes(self) -> Iterable[Route]:
        """All of them."""
        yield Route("POST", "/v1/tools/confirm", self.confirm)
        yield Route("POST", "/v1/tools/deny", self.deny)
        yield Route("GET", "/v1/tools/pending", self.pending)
        yield Route("GET", "/v1/tools/pending/events", self._feed.stream)

    async def pending(self, request: web.Request) -> web.Response:
        """The sessions that wait for a decision of the caller's, the oldest first; for admins, everybody's."""
        limit = asked_limit(request)
        sessions = await self._desk.waiting(request[PRINCIPAL], limit + 1)
        listed = {
            "object": "list",
            "data": [one.shown() for one in sessions[:limit]],
            "has_more": len(sessions) > limit,
        }
        return web.Response(body=encode(listed), headers={"Content-Type": "application/json"})

    async def confirm(self, request: web.Request) -> web.StreamResponse:
        """Approve some calls, and refuse the others.

        Raises:
            GatewayError: see `Desk.session`, `decided`, `require_allowed`, `Desk.decide` and `Desk.resume`.
        """
        return await self._decide(request, await read(request, Confirm))

    async def deny(self, request: web.Request) -> web.StreamResponse:
        """Refuse all calls of a session.

        Raises:
            GatewayError: see `Desk.session`, `Desk.decide` and `Desk.resume`.
        """
        asked = await read(request, Deny)
        return await self._decide(request, Confirm(asked.session_id, [], reason=asked.reason, stream=asked.stream))

    async def _decide(self, request: web.Request, asked: Confirm) -> web.StreamResponse:
        session = await self._desk.session(asked.session_id, request[PRINCIPAL])
        kept = session.conversation()
        decision = decided(asked, session, kept)
        call = await self._call(request, session, kept, stream=asked.stream)
        if kept.decision is None:
            require_allowed(decision, session, self._standing, self._catalog)
            await self._desk.decide(request[PRINCIPAL].actor, session, decision)
            kept = await self._made(call, session, kept, decision)
        else:
            await self._desk.resume(session, kept, decision)
        turn = turn_after(session, kept, decision)
        if not turn.left:
            call.body = Document(next_request(kept, turn, stream=asked.stream))
            return await self._next_turn(call, request, session, kept)
        answer = to_client(call, session, turn)
        headers = {"X-Request-ID": call.id, "Content-Type": "application/json"}
        if asked.stream:
            headers |= {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        return web.Response(body=as_events(call, answer) if asked.stream else answer.raw, headers=headers)

    async def _next_turn(self, call: Call, request: web.Request, session: Session, kept: Kept) -> web.StreamResponse:
        """The model's. If a limit refuses it, or it fails before its answer begins, it may be asked for again."""
        begun = False
        try:
            response = await self._gateway.answer(call, self._surface, request)
            begun = response.status < web.HTTPBadRequest.status_code
            return response
        finally:
            if not begun:
                await self._desk.halt(session, kept)

    async def _made(self, call: Call, session: Session, kept: Kept, decision: Decision) -> Kept:
        """Make the calls of the gateway's own tools that may be made, at the same time; gives what came of them too.

        If the client leaves meanwhile, the rest may be asked for again; what was broken off then is not run again.
        """
        calls = own_calls(session, kept, decision)
        made = {one.id: _BROKEN_OFF for one in calls}

        async def make(one: ToolCall) -> None:
            made[one.id] = await self._gateway.execute(call, one)

        kept = replace(kept, decision=decision, made=made)
        try:
            await asyncio.gather(*map(make, calls))
        except asyncio.CancelledError:
            await self._desk.halt(session, kept)
            raise
        return kept

    async def _call(self, request: web.Request, session: Session, kept: Kept, *, stream: bool) -> Call:
        """The call for the next turn, made as the user who asked, whoever decides: by that user's limits and rights.

        Raises:
            PermissionDenied: that user may call nothing any more; the session still waits.
        """
        call = Call("chat", self._surface.name, request.headers, request.remote or "")
        own = request[PRINCIPAL].id == session.user_id
        call.principal = request[PRINCIPAL] if own else await kept.caller.principal(self._directory)
        call.model, call.stream, call.extended = session.model, stream, kept.extended
        call.include_usage = stream and (kept.body.get("stream_options") or {}).get("include_usage") is True
        return call
