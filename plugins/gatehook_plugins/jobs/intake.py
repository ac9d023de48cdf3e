"""The way of jobs into the database. Those that come at the same time share a transaction: the disk is waited for once.

SQLite lets one transaction write at a time. If each submission had its own, those of a crowd would stand in line until
the last ones gave up.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import Call, Conflict, Database, GatewayError, Quotas, RateLimited, counted
from gatehook_plugins.jobs.store import now, write_event
from gatehook_plugins.jobs.stored import fit, user_id
from gatehook_plugins.jobs.tables import bodies, jobs

__all__ = ["Intake", "NewJob"]

_ROOM_LOCK: Final = 0x6A6F_6273
"""Of PostgreSQL, together with a user's hash."""
_MOST_JOBS, _MOST_BYTES = 64, 1 << 23
"""In one transaction: others want to write, too."""


class NewJob(Struct, frozen=True):
    """A job as it is submitted."""

    id: str
    vendor: str
    call: str
    """As `stored.stored` writes it."""
    priority: int
    webhook: str | None
    wait: float
    """Seconds until it must have begun."""
    idempotency_key: str | None = None
    """As the client said: the same user's submission under the same key is this one, made again."""
    digest: str | None = None
    """With such a key: of what is asked for."""


class _Waiting:
    """A submission that is not in the database yet."""

    def __init__(self, job: NewJob, call: Call) -> None:
        self.job = job
        self.call = call
        self.outcome = asyncio.get_running_loop().create_future()
        """The job's id; cancelled, if its client has left."""


class Intake:
    """Queues jobs."""

    def __init__(self, database: Database, quotas: Quotas | None, most: int) -> None:
        """`most` jobs of one user may be queued or running."""
        self._database = database
        self._quotas = quotas
        self._most = most
        self._waiting = deque[_Waiting]()
        self._writing: asyncio.Task[None] | None = None

    async def submit(self, job: NewJob, call: Call) -> str:
        """Queue a job, and reserve what it may use; gives its id, or that of the job that was queued by the same key.

        Raises:
            RateLimited: the caller has too many jobs queued already; or no quota left.
            Conflict: the key belongs to a job that was asked for something else. Unavailable: the database is away.
        """
        one = _Waiting(job, call)
        if self._database.dialect == "postgresql":
            await self._write([one])
        else:
            self._waiting.append(one)
            if self._writing is None or self._writing.done():
                self._writing = asyncio.create_task(self._write_all())
        job_id: str = await one.outcome
        return job_id

    async def close(self) -> None:
        """See what was begun to its end, also for clients that have left."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write_all(self) -> None:
        """Write until nobody waits. A task of its own: a client that leaves takes nobody else's job with it."""
        while group := self._group():
            await self._write(group)

    def _group(self) -> Sequence[_Waiting]:
        """The first of those who wait, as many as one transaction takes."""
        size, group = 0, list[_Waiting]()
        while self._waiting and len(group) < _MOST_JOBS and size < _MOST_BYTES:
            one = self._waiting.popleft()
            if not one.outcome.done():
                group.append(one)
                size += len(one.call.body.raw)
        return group

    async def _write(self, group: Sequence[_Waiting]) -> None:
        """Write them, and say what came of each."""
        outcomes: Sequence[str | Exception]
        try:
            async with self._database.writing() as connection:
                if len(group) == 1:
                    outcomes = [await self._queue(connection, group[0])]
                else:
                    outcomes = [await self._apart(connection, one) for one in group]
        except Exception as error:  # noqa: BLE001  # it is raised where it belongs
            if len(group) > 1 and not isinstance(error, GatewayError):
                for one in group:  # one of them is at fault, and no other shall suffer for it
                    await self._write([one])
                return
            outcomes = [error] * len(group)
        for one, outcome in zip(group, outcomes, strict=True):
            if one.outcome.done():
                continue
            if isinstance(outcome, str):
                one.outcome.set_result(outcome)
            else:
                one.outcome.set_exception(outcome)

    async def _apart(self, connection: AsyncConnection, one: _Waiting) -> str | Exception:
        """Queue one of several: what is refused leaves no trace, and the others stand."""
        try:
            async with connection.begin_nested():
                return await self._queue(connection, one)
        except GatewayError as error:
            return error

    async def _queue(self, connection: AsyncConnection, one: _Waiting) -> str:
        job, call = one.job, one.call
        user, at = user_id(call.principal.id), now()
        if self._database.dialect == "postgresql":  # so that nothing is submitted while we look
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ROOM_LOCK, sa.func.hashtext(user))))
        if job.idempotency_key is not None and (known := await _known(connection, user, job)) is not None:
            return known
        await self._check_room(connection, user)
        row = {
            "id": job.id, "user_id": user, "model": fit(call.model), "vendor": job.vendor, "call": job.call,
            "status": "queued", "rank": -job.priority, "due": at, "deadline": at + int(job.wait * 1000),
            "tries": 0, "runs": 0, "cancelling": False, "progress": 0.0, "events": 1, "created": at,
            "webhook": job.webhook, "webhook_tries": 0, "webhook_state": job.webhook and "pending",
            "idempotency_key": job.idempotency_key, "request_digest": job.digest,
        }  # fmt: skip
        await connection.execute(sa.insert(jobs).values(row))
        await connection.execute(sa.insert(bodies).values(job_id=job.id, kind="request", body=call.body.raw))
        await write_event(connection, job.id, 1, "queued", {"status": "queued"})
        if self._quotas is not None:
            await self._quotas.reserve(connection, job.id, call)
        return job.id

    async def _check_room(self, connection: AsyncConnection, user: str) -> None:
        is_open = sa.and_(jobs.c.user_id == user, jobs.c.status.in_(("queued", "running")))
        count = (await connection.execute(sa.select(sa.func.count()).select_from(jobs).where(is_open))).scalar_one()
        if count >= self._most:
            raise RateLimited(
                f"this user has {counted(count, 'job')} queued or running, and no more may be; wait for some to end",
                code="too_many_jobs",
                retry_after=10,
            )


async def _known(connection: AsyncConnection, user: str, job: NewJob) -> str | None:
    """The job that was submitted under the same key, if it is still kept."""
    same = sa.and_(jobs.c.user_id == user, jobs.c.idempotency_key == job.idempotency_key)
    row = (await connection.execute(sa.select(jobs.c.id, jobs.c.request_digest).where(same))).first()
    if row is None:
        return None
    if row.request_digest != job.digest:
        raise Conflict(
            f"Idempotency-Key: {row.id} was submitted under this key, and with another request; take a new key",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    return str(row.id)
