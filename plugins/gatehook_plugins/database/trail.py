"""The audit: who changed what. Its ids are given out within each change's transaction, so they are in commit order.

Whoever has seen line n has seen every change before it; that is what lets other processes follow (see feed).
"""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import delete, insert, select, update

from gatehook import Change
from gatehook_plugins.database.checks import page, plain
from gatehook_plugins.database.engines import AsyncConnection
from gatehook_plugins.database.service import SqlDatabase
from gatehook_plugins.database.tables import audit, change_of, revision

__all__ = ["EVERYTHING", "Line", "Trail", "now"]

log: Final = logging.getLogger("gatehook.database")

EVERYTHING: Final = ("", "")
"""Told in place of the kind and the id of what has changed, when that is not known."""

_MOST: Final = 500
"""Changes that subscribers are told of one by one; where more have come at once, everything counts as changed."""
_NUMBER: Final = str(select(revision.c.number))
_PIECE: Final = 500
"""Old lines that are deleted in one transaction."""


def now() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


def _nothing() -> None: ...


class Line(Struct):
    """A change being made: its transaction, and what the audit will say of it."""

    connection: AsyncConnection
    action: str
    number: int
    """The audit's id of it: higher than of any change before, so it is the revision of what is changed, too."""
    detail: dict[str, Any] = {}
    committed: Callable[[], None] = _nothing
    """Called after the commit, before subscribers are told."""


class Trail:
    """Writes and reads the audit, and tells of changes."""

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database
        self._subscribers: list[Callable[[str, str], None]] = []

    @contextlib.asynccontextmanager
    async def change(self, actor: str, action: str, subject: str) -> AsyncIterator[Line]:
        """One change of `subject` and its line in the audit, in one transaction, or neither. Others wait meanwhile.

        Raises:
            Unavailable: the database is away.
        """
        async with self._database.writing() as connection:
            number = await _next(connection)
            line = Line(connection, action, number)
            yield line
            await _write(connection, number, actor, line.action, subject, line.detail)
        line.committed()
        self.tell([(action.partition(".")[0], subject)])

    async def note(self, connection: AsyncConnection, actor: str, action: str, subject: str, detail: Any) -> int:
        """Add a line in a transaction of somebody else's change; gives its id."""
        number = await _next(connection)
        await _write(connection, number, actor, action, subject, detail)
        return number

    async def lines(self, before: int | None, limit: int) -> Sequence[Change]:
        """The newest first, those with an id under `before`."""
        query = select(audit).order_by(audit.c.id.desc()).limit(page(limit))
        if before is not None:
            query = query.where(audit.c.id < before)
        async with self._database.reading() as connection:
            return [change_of(row) for row in await connection.execute(query)]

    async def forget(self, before: int) -> int:
        """Delete a few lines from before an instant (epoch ms), the oldest first; gives how many."""
        old = select(audit.c.id).where(audit.c.at < before).order_by(audit.c.id).limit(_PIECE)
        async with self._database.writing() as connection:
            return (await connection.execute(delete(audit).where(audit.c.id.in_(old)))).rowcount

    async def number(self) -> int:
        """The newest line's id."""
        async with self._database.reading() as connection:
            return int((await connection.execute(select(revision.c.number))).scalar_one())

    async def since(self, last: int) -> tuple[int, Sequence[tuple[str, str]]]:
        """The newest line's id, and what has changed (kind, id) after line `last`."""
        if await self._database.glance(_NUMBER) == last:
            return last, ()
        async with self._database.reading() as connection:
            number = int((await connection.execute(select(revision.c.number))).scalar_one())
            if number == last:
                return number, ()
            if not last < number <= last + _MOST:  # also when a backup was restored: the numbers begin again
                return number, (EVERYTHING,)
            query = select(audit.c.action, audit.c.subject).where(audit.c.id > last).order_by(audit.c.id)
            rows = (await connection.execute(query)).all()
            if len(rows) != number - last:  # some have been forgotten
                return number, (EVERYTHING,)
            return number, [(action.partition(".")[0], subject) for action, subject in rows]

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        """Call `changed(kind, id)` after every change, here or in another process; sometimes twice."""
        self._subscribers.append(changed)

    def tell(self, changes: Iterable[tuple[str, str]]) -> None:
        """Tell everybody who has subscribed."""
        for kind, subject in changes:
            for changed in self._subscribers:
                try:
                    changed(kind, subject)
                except Exception:
                    log.exception("%r failed on a change of %s %r", changed, kind, subject)


async def _next(connection: AsyncConnection) -> int:
    # The row stays locked until the transaction ends: changes are made one after another.
    taken = update(revision).values(number=revision.c.number + 1).returning(revision.c.number)
    return int((await connection.execute(taken)).scalar_one())


async def _write(connection: AsyncConnection, number: int, actor: str, action: str, subject: str, detail: Any) -> None:
    who = "".join(letter if letter.isprintable() else "?" for letter in actor)[:200]
    row = {"id": number, "at": now(), "actor": who, "action": action, "subject": subject, "detail": plain(detail or {})}
    await connection.execute(insert(audit).values(row))
