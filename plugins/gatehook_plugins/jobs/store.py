"""The life of a job in the database, once it is queued: running, ended; each change in one transaction with its event.

Whoever runs a job holds it by its owner and the number of its run. A change that names another finds nothing to change:
a process that was taken for dead cannot end a job that somebody else runs by now. So each job ends exactly once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from msgspec import Struct

from gatehook import Conflict, Database, GatewayError, NotFound, Quotas, decode, encode, envelope
from gatehook_plugins.jobs import statements as say
from gatehook_plugins.jobs.stored import fit_names
from gatehook_plugins.jobs.tables import ENDED, Status, bodies, events, jobs

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Claimed", "Limits", "Look", "Store", "now", "write_event"]

_CLAIM_LOCK: Final = 0x6761_7465_6A6F_6273
"""Key of an advisory lock of PostgreSQL, for claims alone: who counts what runs must see what others just began."""


def now() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Claimed(Struct, frozen=True):
    """A job that this process is to run."""

    id: str
    run: int
    tries: int
    call: str
    body: bytes
    cancelling: bool = False


class Look(Struct, frozen=True):
    """What there is to do."""

    waiting: bool
    """Something is queued that is due."""
    untold: bool
    """A webhook is due."""
    doomed: Sequence[str]
    """Jobs of who asks that are to be cancelled."""


class Limits(Struct, frozen=True):
    """How many jobs may run at the same time, in all processes."""

    per_user: int
    per_vendor: Mapping[str, int]


class Store:
    """All changes. Each method is one transaction, and raises Unavailable if the database is away."""

    def __init__(self, database: Database, quotas: Quotas | None, limits: Limits) -> None:
        self._database = database
        self._quotas = quotas
        self._limits = limits

    async def claim(self, owner: str, lease: float, most: int) -> Sequence[Claimed]:
        """Take up to `most` of the jobs that may run now, the most urgent first, for `lease` seconds."""

        async def work(connection: AsyncConnection) -> Sequence[Claimed]:
            if self._database.dialect == "postgresql":
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIM_LOCK)))
            if (await connection.execute(say.WAITING, {"now": now()})).first() is None:
                return []
            chosen = await self._chosen(connection, most)
            return [await _take(connection, job_id, owner, lease) for job_id in chosen]

        return await self._database.write(work)

    async def _chosen(self, connection: AsyncConnection, most: int) -> Sequence[str]:
        """Jobs within the limits. Who has reached one is left out when the next few are looked for."""
        room = _Room(self._limits)
        for user, vendor, count in await connection.execute(say.RUNNING):
            room.take(user, vendor, count)
        chosen: list[str] = []
        while left := most - len(chosen):
            without = {"chosen": chosen, "full_users": room.full_users, "full_vendors": room.full_vendors}
            queue, asked = (say.QUEUE_WITHOUT, without) if any(without.values()) else (say.QUEUE, {})
            batch = (await connection.execute(queue, {**asked, "now": now(), "most": left})).all()
            for job_id, user, vendor in batch:
                if room.has(user, vendor):
                    room.take(user, vendor)
                    chosen.append(job_id)
            if len(batch) < left:
                break
        return chosen

    async def renew(self, owner: str, job_ids: Sequence[str], lease: float) -> Mapping[str, int]:
        """Tell that these jobs' owner lives; gives those that are still its own, each with the number of its run."""
        until = now() + int(lease * 1000)
        mine = sa.and_(jobs.c.id.in_(job_ids), jobs.c.owner == owner, jobs.c.status == "running")
        kept = sa.update(jobs).where(mine).values(lease=until).returning(jobs.c.id, jobs.c.runs)

        async def work(connection: AsyncConnection) -> Mapping[str, int]:
            return {row.id: row.runs for row in await connection.execute(kept)}

        return await self._database.write(work)

    async def look(self, owner: str, *, busy: bool) -> Look:
        """What there is to do for a process; `busy`: it runs jobs, which somebody may want cancelled."""
        async with self._database.reading() as connection:
            seen = (await connection.execute(say.LOOK, {"now": now()})).one()
            doomed = list(await connection.scalars(say.DOOMED, {"of_owner": owner})) if busy else []
            return Look(bool(seen.waiting), bool(seen.untold), doomed)

    async def progressed(self, job: Claimed, fraction: float, data: Mapping[str, Any], preview: bytes) -> None:
        """Note how far it is. Of all previews, only the newest is kept."""

        async def work(connection: AsyncConnection) -> None:
            values = {**_held(job), "progress": fraction}
            row = await _moved(connection, say.HELD, values, "progress", data, preview or None)
            if row is not None and preview:
                await connection.execute(say.DROP_PREVIEWS, {"of_job_id": job.id, "of_before": row.events})

        await self._database.write(work)

    async def end(
        self,
        job: Claimed,
        status: Status,
        *,
        error: GatewayError | None = None,
        result: bytes | None = None,
        file: str | None = None,
        files: Sequence[str] = (),
        dropped: Sequence[str] = (),
    ) -> bool:
        """End a job that this process runs; False: it was no longer its own, and nothing has changed.

        Args:
            job: that this process runs.
            status: how it ended.
            error: why it failed.
            result: its answer, if a row takes it.
            file: holds its answer otherwise.
            files: all that are deleted with it.
            dropped: the parameters that its answer leaves out.
        """

        async def work(connection: AsyncConnection) -> bool:
            if not await self._ended(connection, say.END_HELD, _held(job), status, error, file, files, dropped):
                return False
            if result is not None:
                await connection.execute(say.ADD_BODY, {"job_id": job.id, "kind": "result", "body": result})
            return True

        return await self._database.write(work)

    async def put_back(self, job: Claimed, delay: float, why: GatewayError, *, counts: bool = True) -> bool:
        """Queue it again, to run in `delay` seconds at the earliest; False: it was no longer this process's own.

        Args:
            job: that this process runs.
            delay: seconds.
            why: for its events.
            counts: whether this was one of the tries that it has.
        """

        async def work(connection: AsyncConnection) -> bool:
            if await self._doomed(connection, job):
                return True
            values = _put_back(job, now() + int(delay * 1000), uncounted=0 if counts else 1)
            return await _moved(connection, say.QUEUE_HELD, values, "queued", envelope(why)) is not None

        return await self._database.write(work)

    async def postpone(self, job: Claimed, delay: float, why: GatewayError) -> bool:
        """As `put_back`, with all queued jobs of the same user and model: the same limit would refuse them too."""
        due = now() + int(delay * 1000)

        async def work(connection: AsyncConnection) -> bool:
            if await self._doomed(connection, job):
                return True
            values = _put_back(job, due, uncounted=1)
            row = await _moved(connection, say.QUEUE_HELD, values, "queued", envelope(why))
            if row is None:
                return False
            alike = {"of_user_id": row.user_id, "of_model": row.model, "of_later": due, "due": due}
            await connection.execute(say.ALIKE_LATER, alike)
            return True

        return await self._database.write(work)

    async def _doomed(self, connection: AsyncConnection, job: Claimed) -> bool:
        """End a job that somebody has cancelled meanwhile; whether somebody has."""
        return await self._ended(connection, say.END_DOOMED, _held(job), "cancelled")

    async def cancel(self, job_id: str) -> Status:
        """Cancel a job, or have its process do so; gives what its status is now.

        Raises:
            NotFound: there is none. Conflict: it has ended otherwise.
        """
        which = {"of_id": job_id}

        async def work(connection: AsyncConnection) -> Status:
            status: Status | None = (await connection.execute(say.STATUS, which)).scalar_one_or_none()
            if status is None:
                raise NotFound(f"there is no job {job_id!r}", code="job_not_found")
            if status == "queued":
                await self._ended(connection, say.END_QUEUED, which, "cancelled")
                return "cancelled"
            if status == "running":
                await connection.execute(say.CANCELLING, which)
            elif status != "cancelled":
                raise Conflict(
                    f"this job has {status} already; DELETE with ?purge=true deletes it and its result",
                    code="job_ended",
                )
            return status

        return await self._database.write(work)

    async def purge(self, job_ids: Sequence[str]) -> Sequence[str]:
        """Delete ended jobs and all that is kept of them; gives the files that went with them."""
        async with self._database.writing() as connection:
            gone = sa.delete(jobs).where(jobs.c.id.in_(job_ids), jobs.c.status.in_(ENDED))
            rows = (await connection.execute(gone.returning(jobs.c.id, jobs.c.file, jobs.c.files))).all()
            ids = [row.id for row in rows]
            await connection.execute(sa.delete(bodies).where(bodies.c.job_id.in_(ids)))
            await connection.execute(sa.delete(events).where(events.c.job_id.in_(ids)))
        return [file for row in rows for file in _files(row)]

    async def recover(self, job_id: str, run: int, *, repeat: bool, attempts: int, lost: GatewayError) -> Status | None:
        """See to a job whose owner has not been heard of: queue it again, or end it. None: it was, after all."""

        async def work(connection: AsyncConnection) -> Status | None:
            silent = {"of_id": job_id, "of_runs": run, "of_now": now()}
            row = (await connection.execute(say.SILENT, silent)).first()
            if row is None:
                return None
            status: Status = "cancelled" if row.cancelling else "failed"
            if row.cancelling or not repeat or row.tries >= attempts:
                await self._ended(connection, say.END_SILENT, silent, status, None if row.cancelling else lost)
                return status
            await _moved(connection, say.QUEUE_SILENT, {**silent, **_QUEUED, "due": now()}, "queued", envelope(lost))
            return "queued"

        return await self._database.write(work)

    async def expire(self, job_id: str, why: GatewayError) -> bool:
        """End a job that has waited for too long; False: it has not, after all."""

        async def work(connection: AsyncConnection) -> bool:
            return await self._ended(connection, say.END_OVERDUE, {"of_id": job_id, "of_now": now()}, "failed", why)

        return await self._database.write(work)

    async def _ended(
        self,
        connection: AsyncConnection,
        end: sa.Update,
        which: Mapping[str, Any],
        status: Status,
        error: GatewayError | None = None,
        file: str | None = None,
        files: Sequence[str] = (),
        dropped: Sequence[str] = (),
    ) -> bool:
        """The one way in which jobs end: its webhook is due, its request is deleted, its reservation given back."""
        at, job_id = now(), which["of_id"]
        values: dict[str, Any] = {
            **which,
            "ended": at,
            "status": status,
            "owner": None,
            "lease": None,
            "finished": at,
            "file": file,
            "files": encode(list(files)).decode() if files else None,
            "dropped": encode(fit_names(dropped)).decode() if dropped else None,
            "error": None if error is None else encode(envelope(error)["error"]).decode(),
        }
        if status == "succeeded":
            values["progress"] = 1.0
        row = await _moved(connection, end, values, status, {} if error is None else envelope(error))
        if row is None:
            return False
        await connection.execute(say.DROP_REQUEST, {"of_job_id": job_id})
        await connection.execute(say.DROP_PREVIEWS, {"of_job_id": job_id, "of_before": row.events})
        if self._quotas is not None:
            await self._quotas.release(connection, job_id)
        return True


_QUEUED: Final[Mapping[str, Any]] = {"status": "queued", "owner": None, "lease": None, "progress": 0.0}


def _files(row: Any) -> Sequence[str]:
    """The result's, and those that it names."""
    named: Sequence[str] = () if row.files is None else decode(row.files)
    return named if row.file is None else [row.file, *named]


def _held(job: Claimed) -> Mapping[str, Any]:
    """Parameters that ask for the job, if it is still held by this run."""
    return {"of_id": job.id, "of_runs": job.run}


def _put_back(job: Claimed, due: int, *, uncounted: int) -> Mapping[str, Any]:
    return {**_held(job), **_QUEUED, "due": due, "uncounted": uncounted}


async def _take(connection: AsyncConnection, job_id: str, owner: str, lease: float) -> Claimed:
    """Have a queued job, which is locked, run."""
    at = now()
    values = {"of_id": job_id, "begun": at, "status": "running", "owner": owner, "progress": 0.0}
    row = await _moved(connection, say.TAKE, {**values, "lease": at + int(lease * 1000)}, "running")
    assert row is not None  # noqa: S101  # it is locked
    body = (await connection.execute(say.REQUEST, {"of_job_id": job_id})).scalar_one()
    return Claimed(job_id, row.runs, row.tries, row.call, body)


async def _moved(
    connection: AsyncConnection,
    move: sa.Update,
    values: Mapping[str, Any],
    kind: str,
    data: Mapping[str, Any] | None = None,
    preview: bytes | None = None,
) -> Any:
    """Change one job, and write its event; gives its row as it is now, None if there is no such job."""
    row = (await connection.execute(move, values)).first()
    if row is not None:
        told = {"status": row.status, "progress": row.progress, **(data or {})}
        await write_event(connection, row.id, row.events, kind, told, preview)
    return row


async def write_event(
    connection: AsyncConnection,
    job_id: str,
    number: int,
    kind: str,
    data: Mapping[str, Any],
    preview: bytes | None = None,
) -> None:
    """One more event of a job."""
    row = {"job_id": job_id, "number": number, "at": now(), "kind": kind, "preview": preview}
    await connection.execute(say.ADD_EVENT, {**row, "data": encode(dict(data)).decode()})


class _Room:
    """What the limits leave."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._users: dict[str, int] = {}
        self._vendors: dict[str, int] = {}

    def take(self, user: str, vendor: str, count: int = 1) -> None:
        """So many run, or will."""
        self._users[user] = self._users.get(user, 0) + count
        self._vendors[vendor] = self._vendors.get(vendor, 0) + count

    def has(self, user: str, vendor: str) -> bool:
        """Whether another one may run."""
        return user not in self.full_users and vendor not in self.full_vendors

    @property
    def full_users(self) -> Sequence[str]:
        """Those who may have no more."""
        return [user for user, count in self._users.items() if count >= self._limits.per_user]

    @property
    def full_vendors(self) -> Sequence[str]:
        """Those that may be given no more."""
        limits = self._limits.per_vendor
        return [vendor for vendor, limit in limits.items() if self._vendors.get(vendor, 0) >= limit]
