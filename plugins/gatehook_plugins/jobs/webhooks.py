"""Tells whoever asked for it that a job has ended: signed, at least once, and never in a worker's way."""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import sqlalchemy as sa

from gatehook import Database, Egress, InvalidRequest, Unavailable, counted, encode
from gatehook_plugins.jobs.due import LONGEST_WEBHOOK_BACKOFF, is_due
from gatehook_plugins.jobs.signing import signed
from gatehook_plugins.jobs.store import now
from gatehook_plugins.jobs.tables import jobs
from gatehook_plugins.jobs.views import view

__all__ = ["HEADER", "Courier"]

log: Final = logging.getLogger("gatehook.jobs")

HEADER: Final = "X-Gatehook-Webhook"
"""Where a request says whom to tell."""
_AT_ONCE: Final = 64
_OF_ONE_USER: Final = 8
"""Of those: whose receivers are all dead does not keep the others' waiting."""
_LEASE_MS: Final = 60_000
"""A delivery that was begun and not ended is tried again after so long: its process died."""
_FIRST_BACKOFF: Final = 5.0


class Courier:
    """Delivers, in tasks of its own."""

    def __init__(self, database: Database, egress: Egress, key: bytes, attempts: int) -> None:
        """Nothing is delivered yet."""
        self._database = database
        self._egress = egress
        self._key = key
        self._attempts = attempts
        self._wake = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], str] = {}
        """What is being delivered, and for which user."""

    def wake(self) -> None:
        """Something may be due. Nobody else looks for it: who looks at the queue sees that, too."""
        self._wake.set()

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
            await self._wake.wait()
            self._wake.clear()
            try:
                for job in await self._taken():
                    delivery = asyncio.create_task(self._deliver(job))
                    self._tasks[delivery] = job.user_id
                    delivery.add_done_callback(self._done)
            except Unavailable:
                pass  # the database has logged it
            except Exception:
                log.exception("webhooks cannot be looked for")

    def _done(self, delivery: "asyncio.Task[None]") -> None:
        del self._tasks[delivery]
        self._wake.set()

    async def _due(self, at: int) -> Sequence[Any]:
        """Jobs to tell of, the longest due first: as many as there are places, for nobody more than a share of them."""
        users = Counter(self._tasks.values())
        is_now = is_due(jobs.c.webhook_due, LONGEST_WEBHOOK_BACKOFF)
        due = sa.select(jobs.c.id, jobs.c.user_id, jobs.c.webhook_due).where(is_now)
        found: list[Any] = []
        async with self._database.reading() as connection:
            while left := _AT_ONCE - users.total():
                full = [user for user, count in users.items() if count >= _OF_ONE_USER]
                others = due.where(jobs.c.user_id.not_in(full), jobs.c.id.not_in([job.id for job in found]))
                batch = (await connection.execute(others.order_by(jobs.c.webhook_due).limit(left), {"now": at})).all()
                for job in batch:
                    if users[job.user_id] < _OF_ONE_USER:
                        users[job.user_id] += 1
                        found.append(job)
                if len(batch) < left:
                    break
        return found

    async def _taken(self) -> Sequence[Any]:
        """The same, each of which no other process is at."""
        at, taken = now(), []
        for job in await self._due(at):
            mine = sa.update(jobs).where(jobs.c.id == job.id, jobs.c.webhook_due == job.webhook_due)
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
            delay = min(_FIRST_BACKOFF * 2 ** (tries - 1), LONGEST_WEBHOOK_BACKOFF) * random.uniform(0.5, 1)  # noqa: S311
            values |= {"webhook_due": now() + int(delay * 1000), "webhook_state": "pending"}
        elif trouble:
            log.warning("%s: its webhook is given up after %s: %s", job.id, counted(tries, "attempt"), trouble)
            values["webhook_state"] = "failed"
        async with self._database.writing() as connection:
            await connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(values))
