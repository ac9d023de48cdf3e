"""Takes jobs from the queue and runs them in this process, a few at a time, as long as it serves."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

from gatehook import GatewayError, Ledger, Progress, Unavailable
from gatehook_plugins.jobs.bell import Bell
from gatehook_plugins.jobs.progress import Reports
from gatehook_plugins.jobs.results import Kept, Results
from gatehook_plugins.jobs.runner import Ending, Runner
from gatehook_plugins.jobs.settings import JobsSettings
from gatehook_plugins.jobs.store import Claimed, Store
from gatehook_plugins.jobs.stored import read, user_id

__all__ = ["Dispatcher"]

log: Final = logging.getLogger("gatehook.jobs")

_BEGIN_SECONDS: Final = 0.02
_PATIENCE: Final = 1.0
"""Seconds between two tries to write down how a job ended, while the database is away."""
_LAST_SECONDS: Final = 5.0
"""Seconds in which jobs that were broken off at the end have to be written down."""


class _Run:
    """A job that runs here."""

    def __init__(self, job: Claimed) -> None:
        self.job = job
        self.task: asyncio.Task[None] | None = None
        self.why: Literal["", "cancelled", "interrupted", "lost"] = ""
        """For what reason it was broken off."""
        self.calls = False
        """Whether the call is being made: only then is there something to break off."""
        self.is_over = False
        """Whether the call has ended, and only that is to be written down."""

    def break_off(self, why: Literal["cancelled", "interrupted", "lost"]) -> None:
        """Break off the call, or never begin it; once, for the first reason."""
        if self.why or self.is_over or self.task is None:
            return
        self.why = why
        if self.calls:
            self.task.cancel()


class Dispatcher:
    """The worker of one process."""

    def __init__(
        self,
        store: Store,
        runner: Runner,
        results: Results,
        bell: Bell,
        ledger: Ledger | None,
        settings: JobsSettings,
        is_open: Callable[[], bool],
        grace: float,
        tell: Callable[[], None],
    ) -> None:
        """Nothing runs yet.

        Args:
            store: where jobs are.
            runner: makes their calls.
            results: keeps their answers.
            bell: is rung when something happens to one.
            ledger: what was used is booked there before a job has ended.
            settings: how many, and when.
            is_open: tells whether jobs may be begun.
            grace: the seconds that running ones get at the end.
            tell: is called when webhooks may be due.
        """
        self._store = store
        self._runner = runner
        self._results = results
        self._bell = bell
        self._ledger = ledger
        self._settings = settings
        self._is_open = is_open
        self._grace = grace
        self._tell = tell
        self._running: dict[str, _Run] = {}
        self._wake = asyncio.Event()
        self._reports = Reports(store, bell)
        self._is_closing = False
        self._next_look = 0.0
        """When (monotonic) the database is asked at the latest what others want of the jobs that run here."""
        self._shut: float | None = None
        """Since when (monotonic) no jobs are begun: running ones have their grace from there."""
        self.owner = ""
        """This process, as the database knows it."""

    def wake(self) -> None:
        """There may be something to run."""
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Break off a job, if it runs here."""
        if (run := self._running.get(job_id)) is not None:
            run.break_off("cancelled")

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Run jobs while it lasts. Those that have not ended when the grace is over are queued again."""
        self.owner = secrets.token_hex(8)
        tasks = [asyncio.create_task(one) for one in (self._dispatch(), self._stay_alive(), self._reports.write())]
        try:
            yield
        except BaseException:
            self._grace = 0.0  # cut off: nothing is waited for
            raise
        finally:
            self._is_closing = True
            self._wake.set()
            await asyncio.gather(tasks[0], return_exceptions=True)  # not cancelled: what it claims shall be run
            await self._finish()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish(self) -> None:
        """Let running jobs end, then break them off."""
        if running := self._tasks():
            spent = 0.0 if self._shut is None else time.monotonic() - self._shut
            await asyncio.wait(running, timeout=max(self._grace - spent, 0.0))
        for run in self._running.values():
            run.break_off("interrupted")
        if running := self._tasks():
            await asyncio.wait(running, timeout=_LAST_SECONDS)
        for task in self._tasks():  # the database is away: when their lease ends, another process takes over
            task.cancel()
        await asyncio.gather(*self._tasks(), return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [run.task for run in self._running.values() if run.task is not None]

    async def _dispatch(self) -> None:
        """Look at the queue, again and again: at once when woken, otherwise now and then."""
        while not (self._is_open() or self._is_closing):  # noqa: ASYNC110  # nobody announces it
            await asyncio.sleep(_BEGIN_SECONDS)
        while not self._is_closing:
            try:
                await self._look()
            except Unavailable:
                await asyncio.sleep(_PATIENCE)  # the database has logged it
            except Exception:
                log.exception("the queue cannot be looked at")
                await asyncio.sleep(_PATIENCE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll):
                    await self._wake.wait()

    async def _look(self) -> None:
        woken = self._wake.is_set()
        self._wake.clear()
        if not woken or time.monotonic() >= self._next_look:  # who is woken all the time hears of cancellations, too
            self._next_look = time.monotonic() + self._settings.poll
            seen = await self._store.look(self.owner, busy=bool(self._running))
            woken = woken or seen.waiting
            for job_id in seen.doomed:
                self.cancel(job_id)
            if seen.untold:
                self._tell()
        if not self._is_open():
            self._shut = self._shut or time.monotonic()
            return
        free = self._settings.concurrency - len(self._running)
        if woken and free > 0:
            for job in await self._store.claim(self.owner, self._settings.lease, free):
                self._begin(job)

    def _begin(self, job: Claimed) -> None:
        run = self._running[job.id] = _Run(job)
        run.task = asyncio.create_task(self._run(run), name=job.id)
        self._bell.ring(job.id)

    async def _run(self, run: _Run) -> None:
        job = run.job
        try:
            ending = await self._ending(run)
            run.calls, run.is_over = False, True
            if ending is not None:
                await self._write(run, ending)
        except Exception:
            log.exception("%s: how it ended cannot be written down", job.id)
        finally:
            self._reports.forget(job.id)
            if self._running.get(job.id) is run:
                del self._running[job.id]
            self._bell.ring(job.id)
            self._wake.set()
            self._tell()

    async def _ending(self, run: _Run) -> Ending | None:
        """How a run ended; None if that is no longer for this process to say."""

        def report(progress: Progress) -> None:
            self._reports.report(run.job, progress)

        if run.why:
            return self._broken_off(run)
        run.calls = True
        try:
            return await self._runner.run(run.job, report)
        except asyncio.CancelledError:
            if not run.why or run.task is None:
                raise
            run.task.uncancel()
            return self._broken_off(run)
        except Exception:
            log.exception("%s: internal error", run.job.id)
            return Ending("failed", GatewayError(f"internal error; the gateway's log tells more under {run.job.id}"))

    def _broken_off(self, run: _Run) -> Ending | None:
        if run.why == "lost":
            return None
        if run.why == "cancelled":
            return Ending("cancelled")
        error = Unavailable("the gateway was stopped while the job ran", code="interrupted")
        return Ending("interrupted" if self._settings.repeat or not run.calls else "failed", error)

    async def _write(self, run: _Run, ending: Ending) -> None:
        """Write down how a run ended, as soon as the database is there; what was answered must not be lost."""
        kept = Kept()
        while True:
            try:
                if self._ledger is not None:
                    await self._ledger.flush()  # before the reservation goes, what was used must be booked
                if ending.kind == "succeeded" and kept == Kept():
                    kept, ending = await self._kept(run.job, ending)
                is_written = await self._written(run.job, ending, kept)
                break
            except Unavailable:
                await asyncio.sleep(_PATIENCE)
        # A file that was stored for nothing is left to expire: it may be the result after all, if the database had
        # written it and only failed to say so.
        if not is_written:
            log.warning("%s: it had ended already, or another process has taken it over", run.job.id)

    async def _kept(self, job: Claimed, ending: Ending) -> tuple[Kept, Ending]:
        """Where the answer is kept, and how the run ended: failed, if there was no place for it."""
        try:
            return await self._results.keep(ending.body, user_id(read(job.call).caller.id)), ending
        except Unavailable:
            raise
        except GatewayError as error:
            return Kept(), Ending("failed", error)

    async def _written(self, job: Claimed, ending: Ending, kept: Kept) -> bool:
        store, error = self._store, ending.error or GatewayError("the job was broken off")
        match ending.kind:
            case "again":
                return await store.put_back(job, ending.delay, error)
            case "interrupted":
                return await store.put_back(job, 0, error, counts=False)
            case "later":
                return await store.postpone(job, ending.delay, error)
            case "succeeded":
                files, dropped = ending.files, ending.dropped
                return await store.end(job, "succeeded", result=kept.body, file=kept.file, files=files, dropped=dropped)
            case status:
                return await store.end(job, status, error=ending.error)

    async def _stay_alive(self) -> None:
        """Renew the leases. Who cannot, or has lost a job to another process, breaks the run off."""
        lease = self._settings.lease
        until = time.monotonic() + lease
        while True:
            await asyncio.sleep(min(lease / 3, max(until - time.monotonic(), 0.05)))
            asked, running = time.monotonic(), list(self._running.values())
            if not running:
                until = asked + lease
                continue
            try:
                async with asyncio.timeout(max(until - asked, 0.05)):
                    held = await self._store.renew(self.owner, [run.job.id for run in running], lease)
            except (Unavailable, TimeoutError):
                if time.monotonic() >= until:
                    self._lose(running)
            except Exception:
                log.exception("the lease of running jobs cannot be renewed")
            else:
                until = asked + lease
                self._lose([run for run in running if held.get(run.job.id) != run.job.run])

    def _lose(self, runs: list[_Run]) -> None:
        for run in runs:
            if self._running.get(run.job.id) is run:
                run.break_off("lost")
