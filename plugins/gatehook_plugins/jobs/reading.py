"""Reads jobs from the database; changes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from gatehook import Database
from gatehook_plugins.jobs.store import now
from gatehook_plugins.jobs.tables import STATUSES, Status, bodies, events, jobs

__all__ = ["Reader"]

_GROUP: Final = 500
"""Jobs, or events, that are looked at in one go."""


class Reader:
    """All queries. Each raises Unavailable if the database is away. Rows have the columns of the tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def job(self, job_id: str) -> Any | None:
        """One job; None if there is none."""
        async with self._database.reading() as connection:
            return (await connection.execute(sa.select(jobs).where(jobs.c.id == job_id))).first()

    async def result(self, job_id: str) -> bytes | None:
        """The answer, if it is kept in a row."""
        found = sa.select(bodies.c.body).where(bodies.c.job_id == job_id, bodies.c.kind == "result")
        async with self._database.reading() as connection:
            body: bytes | None = (await connection.execute(found)).scalar_one_or_none()
            return body

    async def page(self, user: str | None, status: Status | None, after: str | None, limit: int) -> Sequence[Any]:
        """Jobs of one user (None: of all), the newest first; those older than `after`."""
        found = sa.select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if user is not None:
            found = found.where(jobs.c.user_id == user)
        if status is not None:
            found = found.where(jobs.c.status == status)
        if after is not None:
            found = found.where(jobs.c.id < after)
        async with self._database.reading() as connection:
            return (await connection.execute(found)).all()

    async def events(self, job_id: str, after: int) -> Sequence[Any]:
        """Events with a higher number than `after`, in their order; not all, if there are very many."""
        found = sa.select(events).where(events.c.job_id == job_id, events.c.number > after)
        async with self._database.reading() as connection:
            return (await connection.execute(found.order_by(events.c.number).limit(_GROUP))).all()

    async def counts(self) -> Mapping[str, int]:
        """How many there are of each status."""
        found = sa.select(jobs.c.status, sa.func.count()).group_by(jobs.c.status)
        async with self._database.reading() as connection:
            counted: dict[str, int] = {row.status: row[1] for row in await connection.execute(found)}
        return {status: counted.get(status, 0) for status in STATUSES}

    async def silent(self) -> Sequence[Any]:
        """Running jobs (`id`, `runs`, `lease`) whose owner's lease has ended."""
        found = sa.select(jobs.c.id, jobs.c.runs, jobs.c.lease).where(jobs.c.status == "running", jobs.c.lease < now())
        return await self._some(found)

    async def overdue(self) -> Sequence[Any]:
        """Queued jobs (`id`, `runs`) that should have begun by now."""
        return await self._some(
            sa.select(jobs.c.id, jobs.c.runs).where(jobs.c.status == "queued", jobs.c.deadline < now())
        )

    async def outdated(self, before: int) -> Sequence[Any]:
        """Jobs (`id`) that ended before an instant (epoch ms)."""
        return await self._some(sa.select(jobs.c.id).where(jobs.c.finished < before))

    async def _some(self, found: "sa.Select[Any]") -> Sequence[Any]:
        async with self._database.reading() as connection:
            rows: Sequence[Any] = (await connection.execute(found.limit(_GROUP))).all()
            return rows
