"""Sessions in the database. To decide is to change a row that is still `pending`: only one transaction can do that.

To ask once more for what follows a decision is, likewise, to change a row that is `halted`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from gatehook import ToolCall, decode, encode
from gatehook_plugins.tool_policy.sessions import Session, Status

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = [
    "SESSIONS",
    "abandon",
    "add",
    "alone",
    "close",
    "count",
    "expired",
    "find",
    "forget",
    "halt",
    "is_due",
    "resume",
    "waiting",
]

SESSIONS: Final = sa.Table(
    "tool_sessions",
    sa.MetaData(),
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("user_id", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("decided", sa.BigInteger, nullable=False),
    sa.Column("calls", sa.LargeBinary, nullable=False),
    sa.Column("kept", sa.LargeBinary, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
)
"""`decided` is when, epoch ms, 0 while it is pending; `calls` and `kept` are JSON, emptied by the decision.

One that is halted is kept again, with what came of the decision, as one that waits is.
"""

_LOCK: Final = 0x746F6F6C
"""First key of PostgreSQL's advisory locks for this table; used by nothing else."""

_EMPTY: Final[Mapping[str, bytes]] = {"calls": b"[]", "kept": b""}
"""What an ended session keeps."""

_COLUMNS: Final = (
    SESSIONS.c.id,
    SESSIONS.c.user_id,
    SESSIONS.c.model,
    SESSIONS.c.status,
    SESSIONS.c.created,
    SESSIONS.c.expires,
    SESSIONS.c.calls,
)


async def add(connection: AsyncConnection, session: Session) -> None:
    """Add a new session."""
    row = {name: getattr(session, name) for name in ("id", "user_id", "model", "status", "created", "expires")}
    calls = encode([msgspec.structs.asdict(one) for one in session.calls])
    await connection.execute(
        SESSIONS.insert().values(**row, decided=0, calls=calls, kept=session.kept, digest=session.digest)
    )


async def alone(connection: AsyncConnection, user_id: str) -> None:
    """Let no other transaction count this user's sessions before this one ends. On SQLite, each writes alone anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK, sa.func.hashtext(user_id))))


async def count(connection: AsyncConnection, user_id: str, now: int) -> int:
    """How many of a user's sessions keep a conversation at `now` (epoch ms): they wait for a decision or are halted."""
    kept = SESSIONS.c.status.in_(("pending", "halted"))
    query = sa.select(sa.func.count()).where(kept, SESSIONS.c.expires > now, SESSIONS.c.user_id == user_id)
    return int((await connection.execute(query)).scalar_one())


async def find(connection: AsyncConnection, id: str) -> Session | None:
    """The session of this id, whatever its status; None if there is none."""
    query = sa.select(*_COLUMNS, SESSIONS.c.kept, SESSIONS.c.digest).where(SESSIONS.c.id == id)
    row = (await connection.execute(query)).first()
    return None if row is None else _session(row)


async def waiting(connection: AsyncConnection, now: int, user_id: str | None, limit: int) -> Sequence[Session]:
    """Sessions that wait at `now` (epoch ms), of one user or of all, the oldest first; without `kept` and `digest`."""
    query = sa.select(*_COLUMNS).where(*_waiting(now)).order_by(SESSIONS.c.created, SESSIONS.c.id).limit(limit)
    if user_id is not None:
        query = query.where(SESSIONS.c.user_id == user_id)
    return [_session(row) for row in await connection.execute(query)]


async def close(connection: AsyncConnection, id: str, status: Status, now: int) -> bool:
    """End a session that is pending at `now` (epoch ms); False if somebody else has, or it is too late."""
    in_time = SESSIONS.c.expires <= now if status == "expired" else SESSIONS.c.expires > now
    one = sa.and_(SESSIONS.c.id == id, SESSIONS.c.status == "pending", in_time)
    return await _changed(connection, one, status=status, decided=now, **_EMPTY)


async def halt(connection: AsyncConnection, session: Session) -> None:
    """Keep one again that is decided, and may be forgotten by now: what follows the decision could not begin."""
    await connection.execute(SESSIONS.delete().where(SESSIONS.c.id == session.id))
    await add(connection, session)


async def resume(connection: AsyncConnection, id: str, now: int) -> bool:
    """Take up one that is halted at `now` (epoch ms); False: somebody else has, or it is too late."""
    one = sa.and_(SESSIONS.c.id == id, SESSIONS.c.status == "halted", SESSIONS.c.expires > now)
    return await _changed(connection, one, status="decided", decided=now, **_EMPTY)


async def abandon(connection: AsyncConnection, now: int) -> None:
    """End those that are halted, and were not taken up until `now` (epoch ms)."""
    late = sa.and_(SESSIONS.c.status == "halted", SESSIONS.c.expires <= now)
    await _changed(connection, late, status="decided", decided=now, **_EMPTY)


async def _changed(connection: AsyncConnection, which: sa.ColumnElement[bool], **values: Any) -> bool:
    """Change rows; whether there was one."""
    change = sa.update(SESSIONS).where(which).values(**values).returning(SESSIONS.c.id)
    return (await connection.execute(change)).first() is not None


async def is_due(connection: AsyncConnection, now: int, before: int) -> bool:
    """Whether there is something for `expired` or `forget`."""
    late = sa.and_(SESSIONS.c.status.in_(("pending", "halted")), SESSIONS.c.expires <= now)
    old = sa.and_(_is_over(), SESSIONS.c.decided < before)
    return (await connection.execute(sa.select(SESSIONS.c.id).where(sa.or_(late, old)).limit(1))).first() is not None


async def expired(connection: AsyncConnection, now: int, limit: int) -> Sequence[Session]:
    """Sessions that nobody has decided about in time."""
    query = sa.select(*_COLUMNS).where(SESSIONS.c.status == "pending", SESSIONS.c.expires <= now).limit(limit)
    return [_session(row) for row in await connection.execute(query)]


async def forget(connection: AsyncConnection, before: int) -> None:
    """Delete sessions that were decided `before` (epoch ms); the audit still tells of them."""
    await connection.execute(SESSIONS.delete().where(_is_over(), SESSIONS.c.decided < before))


def _is_over() -> sa.ColumnElement[bool]:
    return SESSIONS.c.status.in_(("decided", "expired"))


def _waiting(now: int) -> tuple[sa.ColumnElement[bool], ...]:
    return SESSIONS.c.status == "pending", SESSIONS.c.expires > now


def _session(row: Any) -> Session:
    values = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's own way to a row as a mapping
    values["calls"] = msgspec.convert(decode(values["calls"]), tuple[ToolCall, ...])
    return Session(**values)
