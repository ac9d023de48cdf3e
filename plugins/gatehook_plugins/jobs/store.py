"""The life of a job in the database, once it is queued: running, ended; each change in one transaction with its event.

Whoever runs a job holds it by its owner and the number of its run. A change that names another finds nothing to change:
a process that was taken for dead cannot end a job that somebody else runs by now. So each job ends exactly once.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import Conflict, Database, GatewayError, NotFound, Quotas, decode, encode, envelope
from gatehook_plugins.jobs.tables import ENDED, Status, bodies, events, jobs

__all__ = ["Claimed", "Limits", "Store", "now", "write_event"]

_CLAIM_LOCK: Final = 0x6761_7465_6A6F_6273
"""Of PostgreSQL, and of nothing else: who counts what runs must see what others have just begun."""


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
        async with self._database.writing() as connection:
            if self._database.dialect == "postgresql":
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIM_LOCK)))
            chosen = await self._chosen(connection, most)
            return [await self._take(connection, job_id, owner, lease) for job_id in chosen]

    async def _chosen(self, connection: AsyncConnection, most: int) -> Sequence[str]:
        """Jobs within the limits. Who has reached one is left out when the next few are looked for."""
        rows = await connection.execute(
            sa.select(jobs.c.user_id, jobs.c.vendor, sa.func.count())
            .where(jobs.c.status == "running")
            .group_by(jobs.c.user_id, jobs.c.vendor)
        )
        room = _Room(self._limits)
        for user, vendor, count in rows:
            room.take(user, vendor, count)
        chosen: list[str] = []
        while len(chosen) < most:
            found = sa.select(jobs.c.id, jobs.c.user_id, jobs.c.vendor).where(
                jobs.c.status == "queued",
                jobs.c.due <= now(),
                jobs.c.id.not_in(chosen),
                jobs.c.user_id.not_in(room.full_users),
                jobs.c.vendor.not_in(room.full_vendors),
            )
            batch = (
                await connection.execute(
                    found.order_by(jobs.c.rank, jobs.c.id).limit(most - len(chosen)).with_for_update(skip_locked=True)
                )
            ).all()
            if not batch:
                break
            for job_id, user, vendor in batch:
                if room.has(user, vendor):
                    room.take(user, vendor)
                    chosen.append(job_id)
        return chosen

    async def _take(self, connection: AsyncConnection, job_id: str, owner: str, lease: float) -> Claimed:
        at = now()
        row = await _moved(
            connection,
            (jobs.c.id == job_id,),
            {
                "status": "running", "owner": owner, "lease": at + int(lease * 1000), "runs": jobs.c.runs + 1,
                "tries": jobs.c.tries + 1, "started": sa.func.coalesce(jobs.c.started, at), "progress": 0.0,
            },
            "running",
        )  # fmt: skip
        assert row is not None  # noqa: S101  # it is locked
        body = sa.select(bodies.c.body).where(bodies.c.job_id == job_id, bodies.c.kind == "request")
        return Claimed(job_id, row.runs, row.tries, row.call, (await connection.execute(body)).scalar_one())

    async def renew(self, owner: str, job_ids: Sequence[str], lease: float) -> Mapping[str, int]:
        """Tell that these jobs' owner lives; gives those that are still its own, each with the number of its run."""
        until = now() + int(lease * 1000)
        mine = sa.and_(jobs.c.id.in_(job_ids), jobs.c.owner == owner, jobs.c.status == "running")
        kept = sa.update(jobs).where(mine).values(lease=until).returning(jobs.c.id, jobs.c.runs)
        async with self._database.writing() as connection:
            return {row.id: row.runs for row in await connection.execute(kept)}

    async def look(self, owner: str) -> tuple[bool, Sequence[str]]:
        """Whether something is queued that is due; and which of the owner's jobs are to be cancelled."""
        waiting = sa.select(jobs.c.id).where(jobs.c.status == "queued", jobs.c.due <= now()).limit(1)
        doomed = sa.select(jobs.c.id).where(jobs.c.status == "running", jobs.c.owner == owner, jobs.c.cancelling)
        async with self._database.reading() as connection:
            is_waiting = (await connection.execute(waiting)).first() is not None
            return is_waiting, list(await connection.scalars(doomed))

    async def progressed(self, job: Claimed, fraction: float, data: Mapping[str, Any], preview: bytes) -> None:
        """Note how far it is. Of all previews, only the newest is kept."""
        async with self._database.writing() as connection:
            row = await _moved(connection, _held(job), {"progress": fraction}, "progress", data, preview or None)
            if row is not None and preview:
                old = sa.and_(events.c.job_id == row.id, events.c.number < row.events, events.c.preview.is_not(None))
                await connection.execute(sa.update(events).where(old).values(preview=None))

    async def end(
        self,
        job: Claimed,
        status: Status,
        *,
        error: GatewayError | None = None,
        result: bytes | None = None,
        file: str | None = None,
        files: Sequence[str] = (),
    ) -> bool:
        """End a job that this process runs; False: it was no longer its own, and nothing has changed.

        Args:
            job: that this process runs.
            status: how it ended.
            error: why it failed.
            result: its answer, if a row takes it.
            file: holds its answer otherwise.
            files: all that are deleted with it.
        """
        async with self._database.writing() as connection:
            if not await self._ended(connection, _held(job), job.id, status, error, file, files):
                return False
            if result is not None:
                await connection.execute(sa.insert(bodies).values(job_id=job.id, kind="result", body=result))
            return True

    async def put_back(self, job: Claimed, delay: float, why: GatewayError, *, counts: bool = True) -> bool:
        """Queue it again, to run in `delay` seconds at the earliest; False: it was no longer this process's own.

        Args:
            job: that this process runs.
            delay: seconds.
            why: for its events.
            counts: whether this was one of the tries that it has.
        """
        values = {**_QUEUED, "due": now() + int(delay * 1000), "tries": jobs.c.tries - (0 if counts else 1)}
        async with self._database.writing() as connection:
            if await self._doomed(connection, job):
                return True
            return await _moved(connection, _held(job), values, "queued", envelope(why)) is not None

    async def postpone(self, job: Claimed, delay: float, why: GatewayError) -> bool:
        """As `put_back`, and of the same user and model nothing else runs before: a limit would refuse that too."""
        due = now() + int(delay * 1000)
        async with self._database.writing() as connection:
            if await self._doomed(connection, job):
                return True
            values = {**_QUEUED, "due": due, "tries": jobs.c.tries - 1}
            row = await _moved(connection, _held(job), values, "queued", envelope(why))
            if row is None:
                return False
            alike = sa.and_(jobs.c.user_id == row.user_id, jobs.c.status == "queued", jobs.c.model == row.model)
            later = sa.select(jobs.c.id).where(alike, jobs.c.due < due).with_for_update(skip_locked=True)
            await connection.execute(sa.update(jobs).where(jobs.c.id.in_(later)).values(due=due))
            return True

    async def _doomed(self, connection: AsyncConnection, job: Claimed) -> bool:
        """End a job that somebody has cancelled meanwhile; whether somebody has."""
        return await self._ended(connection, (*_held(job), jobs.c.cancelling), job.id, "cancelled")

    async def cancel(self, job_id: str) -> Status:
        """Cancel a job, or have its process do so; gives what its status is now.

        Raises:
            NotFound: there is none. Conflict: it has ended otherwise.
        """
        async with self._database.writing() as connection:
            found = sa.select(jobs.c.status).where(jobs.c.id == job_id).with_for_update()
            status: Status | None = (await connection.execute(found)).scalar_one_or_none()
            if status is None:
                raise NotFound(f"there is no job {job_id!r}", code="job_not_found")
            if status == "queued":
                await self._ended(connection, (jobs.c.id == job_id,), job_id, "cancelled")
                return "cancelled"
            if status == "running":
                await connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(cancelling=True))
            elif status != "cancelled":
                raise Conflict(
                    f"this job has {status} already; DELETE with ?purge=true deletes it and its result",
                    code="job_ended",
                )
            return status

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
        silent = (jobs.c.id == job_id, jobs.c.runs == run, jobs.c.status == "running", jobs.c.lease < now())
        async with self._database.writing() as connection:
            row = (await connection.execute(sa.select(jobs).where(*silent).with_for_update())).first()
            if row is None:
                return None
            status: Status = "cancelled" if row.cancelling else "failed"
            if row.cancelling or not repeat or row.tries >= attempts:
                await self._ended(connection, silent, job_id, status, None if row.cancelling else lost)
                return status
            await _moved(connection, silent, {**_QUEUED, "due": now()}, "queued", envelope(lost))
            return "queued"

    async def expire(self, job_id: str, why: GatewayError) -> None:
        """End a job that has waited for too long."""
        waiting = (jobs.c.id == job_id, jobs.c.status == "queued", jobs.c.deadline < now())
        async with self._database.writing() as connection:
            await self._ended(connection, waiting, job_id, "failed", why)

    async def _ended(
        self,
        connection: AsyncConnection,
        which: Iterable[sa.ColumnElement[bool]],
        job_id: str,
        status: Status,
        error: GatewayError | None = None,
        file: str | None = None,
        files: Sequence[str] = (),
    ) -> bool:
        """The one way in which jobs end: its webhook is due, its request is deleted, its reservation given back."""
        at = now()
        values: dict[str, Any] = {
            "status": status,
            "owner": None,
            "lease": None,
            "finished": at,
            "file": file,
            "files": encode(list(files)).decode() if files else None,
            "error": None if error is None else encode(envelope(error)["error"]).decode(),
            "webhook_due": sa.case((jobs.c.webhook.is_not(None), at), else_=None),
        }
        if status == "succeeded":
            values["progress"] = 1.0
        data = {} if error is None else envelope(error)
        if await _moved(connection, which, values, status, data) is None:
            return False
        await connection.execute(sa.delete(bodies).where(bodies.c.job_id == job_id, bodies.c.kind == "request"))
        await connection.execute(sa.update(events).where(events.c.job_id == job_id).values(preview=None))
        if self._quotas is not None:
            await self._quotas.release(connection, job_id)
        return True


_QUEUED: Final[Mapping[str, Any]] = {"status": "queued", "owner": None, "lease": None, "progress": 0.0}


def _files(row: Any) -> Sequence[str]:
    """The result's, and those that it names."""
    named: Sequence[str] = () if row.files is None else decode(row.files)
    return named if row.file is None else [row.file, *named]


def _held(job: Claimed) -> Sequence[sa.ColumnElement[bool]]:
    """That it is still this run's."""
    return jobs.c.id == job.id, jobs.c.runs == job.run, jobs.c.status == "running"


async def _moved(
    connection: AsyncConnection,
    which: Iterable[sa.ColumnElement[bool]],
    values: Mapping[str, Any],
    kind: str,
    data: Mapping[str, Any] | None = None,
    preview: bytes | None = None,
) -> Any:
    """Change one job, and write its event; gives its row as it is now, None if there is no such job."""
    change = sa.update(jobs).where(*which).values(**values, events=jobs.c.events + 1).returning(jobs)
    row = (await connection.execute(change)).first()
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
    await connection.execute(sa.insert(events).values(**row, data=encode(dict(data)).decode()))


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
