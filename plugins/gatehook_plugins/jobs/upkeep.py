"""What has to be done now and then about jobs whose process died, that waited too long, or that nobody needs."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

from gatehook import GatewayError, Unavailable, meanwhile
from gatehook_plugins.jobs.bell import Bell
from gatehook_plugins.jobs.dispatcher import Dispatcher
from gatehook_plugins.jobs.reading import Reader
from gatehook_plugins.jobs.results import Results
from gatehook_plugins.jobs.settings import JobsSettings
from gatehook_plugins.jobs.store import Store, now
from gatehook_plugins.jobs.tables import ENDED, STATUSES

__all__ = ["Upkeep"]

log: Final = logging.getLogger("gatehook.jobs")

_MOST_SECONDS: Final = 5.0


class Upkeep:
    """Every process does all of it; nothing is done twice, since each step finds its job as it was or not at all."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        results: Results,
        dispatcher: Dispatcher,
        bell: Bell,
        settings: JobsSettings,
        tidy: Callable[[str], Awaitable[None]],
        *,
        counting: bool,
    ) -> None:
        """`tidy` stops what a dead process has left of a job; `counting`: whether anybody wants to know how many."""
        self._store = store
        self._reader = reader
        self._results = results
        self._dispatcher = dispatcher
        self._bell = bell
        self._settings = settings
        self._tidy = tidy
        self._counting = counting
        self._silent: dict[tuple[str, int, int], float] = {}
        """When (monotonic) it was first seen that a lease had ended, by the job, its run and the lease."""
        self.counts: Mapping[str, int] = dict.fromkeys(STATUSES, 0)
        """As last counted."""

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """See to it while it lasts."""
        async with meanwhile(self._run()):
            yield

    async def _run(self) -> None:
        while True:
            try:
                await self.tend()
            except Unavailable:
                pass  # the database has logged it
            except Exception:
                log.exception("the jobs cannot be seen to")
            await asyncio.sleep(min(self._settings.lease / 3, _MOST_SECONDS))

    async def tend(self) -> None:
        """Do all of it once.

        Raises:
            Unavailable: the database is away.
        """
        await self._recover()
        await self._expire()
        await self._delete()
        if self._counting:
            self.counts = await self._reader.counts()

    async def _recover(self) -> None:
        settings = self._settings
        lost = GatewayError("the process that ran the job died", code="worker_lost")
        for job_id, run in await self._dead():
            status = await self._store.recover(
                job_id, run, repeat=settings.repeat, attempts=settings.max_attempts, lost=lost
            )
            if status is not None:
                log.warning("%s: the process that ran it died; it is %s", job_id, status)
                self._bell.ring(job_id)
                self._dispatcher.wake()
            if status in ENDED:
                await self._tidy(job_id)

    async def _dead(self) -> Sequence[tuple[str, int]]:
        """Runs whose process has had the time to renew their lease since it ended, and has not.

        The lease alone does not tell: where a clock is put forward, or a machine has slept, those of the living end.
        """
        at, patience = time.monotonic(), self._settings.lease / 2
        silent = {(job.id, job.runs, job.lease): at for job in await self._reader.silent()}
        self._silent = silent | {one: since for one, since in self._silent.items() if one in silent}
        return [(job_id, run) for (job_id, run, _), since in self._silent.items() if at - since >= patience]

    async def _expire(self) -> None:
        for job in await self._reader.overdue():
            why = GatewayError(
                f"the job could not be run within {self._settings.max_wait:g} s ([plugins.jobs] max_wait)",
                code="job_expired",
            )
            if await self._store.expire(job.id, why):
                self._bell.ring(job.id)
                if job.runs:
                    await self._tidy(job.id)

    async def _delete(self) -> None:
        """Delete what has ended long ago. One group at a time: whoever wants to write meanwhile gets its turn."""
        before = now() - int(self._settings.retention * 1000)
        while jobs := await self._reader.outdated(before):
            for file in await self._store.purge([job.id for job in jobs]):
                await self._results.delete(file)
