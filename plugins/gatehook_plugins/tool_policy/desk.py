"""Where tool calls wait for a decision: kept in the database, decided once, and denied when nobody decides in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gatehook import (
    Call,
    Conflict,
    Database,
    Directory,
    NotFound,
    PermissionDenied,
    Principal,
    Question,
    RateLimited,
    Unavailable,
    meanwhile,
)
from gatehook_plugins.tool_policy import store
from gatehook_plugins.tool_policy.sessions import (
    Decision,
    Kept,
    Session,
    arguments_digest,
    halted_session,
    new_session,
    printable,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Desk"]

log: Final = logging.getLogger("gatehook.tool_policy")

_SWEEP_SECONDS: Final = 15.0
_AT_ONCE: Final = 100
"""Sessions that expire in one transaction."""
_MOST_WATCHERS: Final = 16
"""Watchers of one user, in one process: each asks the database with every change."""


class Desk:
    """Keeps the sessions of all processes, and lets each be decided once."""

    def __init__(
        self,
        database: Database,
        directory: Directory,
        *,
        lifetime: float,
        retention: float,
        most: int,
        largest: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`lifetime` and `retention` are in seconds, `largest` in bytes, `most` for each user; see the settings."""
        self._database = database
        self._directory = directory
        self._lifetime = round(lifetime * 1000)
        self._retention = round(retention * 1000)
        self._most = most
        self._largest = largest
        self._clock = now
        self._watching: dict[asyncio.Event, str] = {}
        """The events of watchers, each with the id of the principal who watches."""
        directory.subscribe(self._changed)

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Make the table, and let sessions expire.

        Raises:
            StartupError: the table cannot be brought up to date.
        """
        async with self._database.opened():
            await self._database.migrate("tool_policy", "gatehook_plugins.tool_policy.migrations")
            async with meanwhile(self._sweep()):
                yield

    async def keep(self, call: Call, question: Question) -> dict[str, Any]:
        """Keep calls until somebody decides; gives what the client is told.

        Raises:
            PermissionDenied: they are too large. RateLimited: too many of this user's wait already.
            Unavailable: the database is away.
        """
        now = self._now()
        session = new_session(call, question, now, self._lifetime)
        if len(session.kept) > self._largest:
            raise PermissionDenied(
                f"a tool call needs a confirmation, and the conversation is too large to be kept until then: "
                f"{len(session.kept)} bytes (tool_policy.max_conversation is {self._largest})",
                code="tool_call_denied",
            )
        detail = _detail(session, {one.id: {"decision": "asked"} for one in session.calls})

        async def kept(connection: AsyncConnection) -> None:
            await store.alone(connection, session.user_id)
            if await store.count(connection, session.user_id, now) >= self._most:
                raise RateLimited(
                    f"{self._most} tool calls wait for a confirmation already, or for the turn after it "
                    "(tool_policy.max_pending); decide about some at /v1/tools/confirm or /v1/tools/deny",
                    code="too_many_pending",
                )
            await store.add(connection, session)
            await self._directory.note(connection, session.user_id, "tool.ask", session.id, detail)

        await self._database.write(kept)
        self._changed("", "")
        return {"session_id": session.id, "expires_at": session.expires // 1000}

    async def session(self, id: str, principal: Principal) -> Session:
        """The session that waits, or is halted, under this id, if the caller may decide about it.

        Raises:
            NotFound: there is none of this id, or it is somebody else's. Conflict: it is over, or has expired.
            PermissionDenied: it is not what was kept. Unavailable: the database is away.
        """
        async with self._database.reading() as connection:
            session = await store.find(connection, id)
        if session is None or not _may_see(principal, session):
            raise NotFound("there is no such session", param="session_id", code="session_not_found")
        self._require_open(session)
        if not session.is_sound():
            log.error("tool session %s is not what was kept; nothing of it is released", session.id)
            raise PermissionDenied("the session was tampered with", param="session_id", code="session_unsound")
        return session

    def _require_open(self, session: Session) -> None:
        if session.status == "decided":
            raise _already_resolved()
        if session.status == "expired" or session.expires <= self._now():
            what = (
                "asked in time for what follows"
                if session.status == "halted"
                else "decided in time, so the calls are denied"
            )
            raise Conflict(f"nobody {what}", param="session_id", code="session_expired")

    async def decide(self, actor: str, session: Session, decision: Decision) -> None:
        """Make the decision, once and for all.

        Raises:
            Conflict: somebody else has decided, or it has expired meanwhile. Unavailable: the database is away.
        """
        calls = {one.id: _told(one.arguments, decision.approved.get(one.id)) for one in session.calls}
        action = "tool.confirm" if decision.approved else "tool.deny"
        detail = _detail(session, calls, decision.reason)

        async def decided(connection: AsyncConnection) -> None:
            if not await store.close(connection, session.id, "decided", self._now()):
                self._require_open(session)
                raise _already_resolved()
            await self._directory.note(connection, actor, action, session.id, detail)

        await self._database.write(decided)
        self._changed("", "")

    async def halt(self, session: Session, kept: Kept) -> None:
        """Keep what follows a decision, as it could not begin: for as long as a question waits, it may be asked for.

        While the database is away it is lost, which the log tells.
        """
        halted = halted_session(session, kept, self._now() + self._lifetime)
        try:
            await self._database.write(lambda connection: store.halt(connection, halted))
        except Unavailable:
            log.error("what follows the decision about tool session %s is lost", session.id)  # noqa: TRY400  # the database tells why

    async def resume(self, session: Session, kept: Kept, decision: Decision) -> None:
        """Take up what follows a decision, for one who makes the same again: of several at a time, for one.

        Raises:
            Conflict: something else was decided, somebody else asks for it now, or it is too late.
            Unavailable: the database is away.
        """
        if decision != kept.decision:
            raise _already_resolved()

        async def resumed(connection: AsyncConnection) -> None:
            if not await store.resume(connection, session.id, self._now()):
                self._require_open(session)
                raise _already_resolved()

        await self._database.write(resumed)

    async def waiting(self, principal: Principal, limit: int) -> Sequence[Session]:
        """The sessions that this caller may decide about, the oldest first: an admin about everybody's.

        Raises:
            Unavailable: the database is away.
        """
        async with self._database.reading() as connection:
            user_id = None if principal.admin else principal.id
            return await store.waiting(connection, self._now(), user_id, limit)

    @contextlib.contextmanager
    def watched(self, principal: Principal) -> Iterator[asyncio.Event]:
        """Gives an event that is set whenever sessions may have come or gone.

        Raises:
            RateLimited: too many of this caller's watch already, in this process.
        """
        if list(self._watching.values()).count(principal.id) >= _MOST_WATCHERS:
            raise RateLimited(
                f"{_MOST_WATCHERS} streams of yours watch already; close some, or ask /v1/tools/pending",
                code="too_many_watchers",
            )
        event = asyncio.Event()
        self._watching[event] = principal.id
        try:
            yield event
        finally:
            del self._watching[event]

    def _changed(self, kind: str, id: str) -> None:
        if kind in ("", "tool"):
            for event in self._watching:
                event.set()

    def _now(self) -> int:
        return int(self._clock() * 1000)

    async def _sweep(self) -> None:
        while True:
            try:
                await self.expire()
            except Unavailable:  # told by the database itself; what has expired cannot be confirmed anyhow
                pass
            except Exception:
                log.exception("tool calls that nobody decided about cannot be denied")
            await asyncio.sleep(_SWEEP_SECONDS)

    async def expire(self) -> None:
        """Deny what nobody has decided about in time, end what is halted, and forget what was decided long ago.

        Raises:
            Unavailable: the database is away.
        """
        now = self._now()
        before = now - self._retention
        async with self._database.reading() as connection:
            if not await store.is_due(connection, now, before):
                return

        async def denied(connection: AsyncConnection) -> None:
            await store.abandon(connection, now)
            await store.forget(connection, before)
            for session in await store.expired(connection, now, _AT_ONCE):
                if await store.close(connection, session.id, "expired", now):
                    detail = _detail(session, {one.id: {"decision": "expired"} for one in session.calls})
                    await self._directory.note(connection, "gateway", "tool.expire", session.id, detail)

        await self._database.write(denied)
        self._changed("", "")


def _may_see(principal: Principal, session: Session) -> bool:
    return principal.admin or principal.id == session.user_id


def _already_resolved() -> Conflict:
    return Conflict("somebody has decided already", param="session_id", code="already_resolved")


def _told(arguments: str, approved: str | None) -> dict[str, str]:
    """What the audit says of the decision about one call."""
    if approved is None:
        return {"decision": "refused"}
    if approved == arguments:
        return {"decision": "approved"}
    return {"decision": "edited", "edited": arguments_digest(approved)}


def _detail(session: Session, decisions: Mapping[str, Mapping[str, str]], reason: str = "") -> dict[str, Any]:
    calls = [
        {
            "id": printable(one.id),
            "name": printable(one.name),
            "arguments": arguments_digest(one.arguments),
            **decisions[one.id],
        }
        for one in session.calls
    ]
    return {"user": session.user_id, "model": session.model, "calls": calls, **({"reason": reason} if reason else {})}
