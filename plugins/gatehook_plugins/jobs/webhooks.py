"""Tells whoever asked for it that a job has ended: signed, at least once, and never in a worker's way."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import sqlalchemy as sa

from gatehook import Database, Egress, InvalidRequest, Unavailable, counted, encode
from gatehook_plugins.jobs.signing import signed
from gatehook_plugins.jobs.store import now
from gatehook_plugins.jobs.tables import jobs
from gatehook_plugins.jobs.views import view

__all__ = ["HEADER", "Courier"]

log: Final = logging.getLogger("gatehook.jobs")

HEADER: Final = "X-Gatehook-Webhook"
"""Where a request says whom to tell."""
_AT_ONCE: Final = 16
_LEASE_MS: Final = 60_000
"""A delivery that was begun and not ended is tried again after so long: its process died."""
_FIRST_BACKOFF: Final = 5.0
_LONGEST_BACKOFF: Final = 3600.0


class Courier:
    """Delivers, in tasks of its own."""

    def __init__(self, database: Database, egress: Egress, key: bytes, attempts: int, poll: float) -> None:
        """`poll` is the seconds between two looks for what is due."""
        self._database = database
        self._egress = egress
        self._key = key
        self._attempts = attempts
        self._poll = poll
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Deliver while it lasts. What is under way at the end is tried again by whoever serves next."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            for one in (task, *self._tasks):
                one.cancel()
            await asyncio.gather(task, *self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                for job in await self._taken(_AT_ONCE - len(self._tasks)):
                    delivery = asyncio.create_task(self._deliver(job))
                    self._tasks.add(delivery)
                    delivery.add_done_callback(self._tasks.discard)
            except Unavailable:
                pass  # the database has logged it
            except Exception:
                log.exception("webhooks cannot be looked for")
            await asyncio.sleep(self._poll)

    async def _taken(self, most: int) -> list[Any]:
        """Jobs to tell of, which no other process is at."""
        at = now()
        due = sa.select(jobs.c.id, jobs.c.webhook_due).where(jobs.c.webhook_due <= at)
        async with self._database.reading() as connection:
            found = (await connection.execute(due.order_by(jobs.c.webhook_due).limit(most))).all()
        taken = []
        for job_id, was_due in found:
            mine = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.webhook_due == was_due)
            async with self._database.writing() as connection:
                row = (await connection.execute(mine.values(webhook_due=at + _LEASE_MS).returning(jobs))).first()
            if row is not None:
                taken.append(row)
        return taken

    async def _deliver(self, job: Any) -> None:
        ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(job.finished / 1000))
        body = encode({"type": f"job.{job.status}", "timestamp": ended, "data": view(job)})
        headers = signed(self._key, job.id, int(time.time()), body)
        try:
            status = await self._egress.post(job.webhook, body, headers=headers, param=HEADER)
            trouble = "" if 200 <= status < 300 else f"it answered {status}"
        except InvalidRequest as error:
            trouble = error.message
        except Exception:
            log.exception("%s: its webhook failed", job.id)
            trouble = "an internal error"
        try:
            await self._note(job, trouble)
        except Unavailable:
            pass  # it will be told again: better twice than never
        except Exception:
            log.exception("%s: what became of its webhook cannot be written down", job.id)

    async def _note(self, job: Any, trouble: str) -> None:
        tries = job.webhook_tries + 1
        values: dict[str, Any] = {"webhook_tries": tries, "webhook_due": None, "webhook_state": "delivered"}
        if trouble and tries < self._attempts:
            delay = min(_FIRST_BACKOFF * 2 ** (tries - 1), _LONGEST_BACKOFF) * random.uniform(0.5, 1)  # noqa: S311
            values |= {"webhook_due": now() + int(delay * 1000), "webhook_state": "pending"}
        elif trouble:
            log.warning("%s: its webhook is given up after %s: %s", job.id, counted(tries, "attempt"), trouble)
            values["webhook_state"] = "failed"
        async with self._database.writing() as connection:
            await connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(values))
