"""Writes new jobs into the database."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from msgspec import Struct

from gatehook import Call, Conflict, Database, Quotas, RateLimited, Reserve, counted
from gatehook_plugins.jobs import statements as say
from gatehook_plugins.jobs.store import now, write_event
from gatehook_plugins.jobs.stored import fit, user_id

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Intake", "NewJob"]

_ROOM_LOCK: Final = 0x6A6F_6273
"""First key of an advisory lock of PostgreSQL; the second is a user's hash."""


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
    """With such a key, of what is asked for: the same request gives the same."""


class Intake:
    """Queues jobs."""

    def __init__(self, database: Database, quotas: Quotas | None, most: int) -> None:
        """`most` jobs of one user may be queued or running."""
        self._database = database
        self._quotas = quotas
        self._most = most

    async def submit(self, job: NewJob, call: Call) -> str:
        """Queue a job, and reserve what it may use; gives its id, or that of the job that was queued by the same key.

        Raises:
            RateLimited: the caller has too many jobs queued already; or no quota left.
            Conflict: the key belongs to a job that was asked for something else. Unavailable: the database is away.
        """
        reserve = _nothing if self._quotas is None else self._quotas.reservation(job.id, call)
        return await self._database.write(partial(self._queue, job, call, reserve))

    async def _queue(self, job: NewJob, call: Call, reserve: Reserve, connection: AsyncConnection) -> str:
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
        await connection.execute(say.ADD_JOB, row)
        await connection.execute(say.ADD_BODY, {"job_id": job.id, "kind": "request", "body": call.body.raw})
        await write_event(connection, job.id, 1, "queued", {"status": "queued"})
        await reserve(connection)
        return job.id

    async def _check_room(self, connection: AsyncConnection, user: str) -> None:
        count = (await connection.execute(say.OPEN, {"of_user_id": user})).scalar_one()
        if count >= self._most:
            raise RateLimited(
                f"this user has {counted(count, 'job')} queued or running, and no more may be; wait for some to end",
                code="too_many_jobs",
                retry_after=10,
            )


async def _nothing(connection: AsyncConnection) -> None: ...


async def _known(connection: AsyncConnection, user: str, job: NewJob) -> str | None:
    """The job that was submitted under the same key, if it is still kept."""
    same = {"of_user_id": user, "of_idempotency_key": job.idempotency_key}
    row = (await connection.execute(say.SAME_KEY, same)).first()
    if row is None:
        return None
    if row.request_digest != job.digest:
        raise Conflict(
            f"Idempotency-Key: {row.id} was submitted under this key, and with another request; take a new key",
            param="Idempotency-Key",
            code="idempotency_key_reused",
            final=True,
        )
    return str(row.id)
