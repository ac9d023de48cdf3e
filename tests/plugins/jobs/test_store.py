"""The life of jobs in the database, whatever processes do to them, in whatever order."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook import Call, Conflict, Document, GatewayError, Principal, SecretStr
from gatehook_plugins.database.address import backend_of
from gatehook_plugins.database.service import SqlDatabase
from gatehook_plugins.jobs.intake import Intake, NewJob
from gatehook_plugins.jobs.reading import Reader
from gatehook_plugins.jobs.store import Claimed, Limits, Store, now
from gatehook_plugins.jobs.stored import fit, read, revived, stored, user_id
from gatehook_plugins.jobs.tables import ENDED, bodies, events, jobs

PER_USER, PER_VENDOR = 2, 3
WHY = GatewayError("because")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "submit",
                "submit",
                "claim",
                "claim",
                "end",
                "fail",
                "again",
                "later",
                "cancel",
                "silence",
                "progress",
                "purge",
            ]
        ),
        st.integers(0, 3),
    ),
    max_size=40,
)


class World:
    """A database, processes that claim jobs, and what each believes to hold."""

    def __init__(self, database: SqlDatabase) -> None:
        self.database = database
        self.store = Store(database, None, Limits(PER_USER, {"v": PER_VENDOR}))
        self.intake = Intake(database, None, 1000)
        self.reader = Reader(database)
        self.ids: list[str] = []
        self.held: list[Claimed] = []
        self.ended: dict[str, str] = {}
        """What each job was said to have ended as."""
        self.doomed: set[str] = set()
        """Jobs that were to be cancelled while they ran."""

    async def step(self, what: str, number: int) -> None:
        """Do one thing; the number says to which job, or for whom."""
        store = self.store
        if what == "submit":
            await self.submit(f"user-{number}")
        elif what == "claim":
            self.held += await store.claim(f"process-{number}", 60, number + 1)
        elif what == "silence":
            await self.silence()
        elif what in ("cancel", "purge"):
            await self.be_rid_of(what, number)
        elif self.held:
            await self.tell(what, self.held[number % len(self.held)])

    async def submit(self, user: str) -> None:
        job_id = f"job_{len(self.ids):032x}"
        call = Call("chat", "openai", {}, principal=Principal(user), model="m", body=Document({"n": 1}))
        await self.intake.submit(NewJob(job_id, "v", stored(call, ()), len(self.ids) % 3, None, 60), call)
        self.ids.append(job_id)

    async def tell(self, what: str, job: Claimed) -> None:
        """A process tells of a run, which may be another's by now."""
        if what == "progress":
            await self.store.progressed(job, 0.5, {}, b"")
        elif what in ("again", "later"):
            put = self.store.put_back if what == "again" else self.store.postpone
            if await put(job, 0, WHY) and job.id in self.doomed:
                self.note(job.id, "cancelled")
        elif await self.store.end(job, "succeeded" if what == "end" else "failed", result=b"{}"):
            self.note(job.id, "succeeded" if what == "end" else "failed")

    async def silence(self) -> None:
        """Every process is silent for longer than its lease; another one looks after the jobs."""
        async with self.database.writing() as connection:
            await connection.execute(sa.update(jobs).where(jobs.c.lease.is_not(None)).values(lease=1))
        for job in await self.reader.silent():
            status = await self.store.recover(job.id, job.runs, repeat=True, attempts=3, lost=WHY)
            if status in ENDED:
                self.note(job.id, status)

    async def be_rid_of(self, what: str, number: int) -> None:
        if not self.ids:
            return
        job_id = self.ids[number % len(self.ids)]
        if what == "purge":
            if self.ended.get(job_id) is None:
                assert await self.store.purge([job_id]) == []
            return
        try:
            status = await self.store.cancel(job_id)
            if status == "cancelled" and job_id not in self.ended:
                self.note(job_id, "cancelled")
            elif status == "running":
                self.doomed.add(job_id)
        except Conflict:
            assert self.ended[job_id] in ("succeeded", "failed")

    def note(self, job_id: str, status: str) -> None:
        assert job_id not in self.ended, "a job has ended twice"
        self.ended[job_id] = status

    async def check(self) -> None:
        """What holds at any time."""
        async with self.database.reading() as connection:
            rows = (await connection.execute(sa.select(jobs).order_by(jobs.c.id))).all()
            numbers: dict[str, list[Any]] = {}
            for event in await connection.execute(sa.select(events).order_by(events.c.number)):
                numbers.setdefault(event.job_id, []).append(event)
            kinds = {(body.job_id, body.kind) for body in await connection.execute(sa.select(bodies))}
        assert [row.id for row in rows] == self.ids
        running = Counter(row.user_id for row in rows if row.status == "running")
        assert max(running.values(), default=0) <= PER_USER
        assert running.total() <= PER_VENDOR
        for row in rows:
            told = numbers[row.id]
            assert [event.number for event in told] == list(range(1, row.events + 1))
            ends = [event.kind for event in told if event.kind in ENDED]
            assert ends == ([row.status] if row.id in self.ended else [])
            assert row.status == self.ended.get(row.id, row.status)
            assert (row.finished is not None) == (row.id in self.ended)
            assert (row.owner is not None) == (row.status == "running")
            assert not (row.cancelling and row.status == "queued"), "it would run again, though it was cancelled"
            assert ((row.id, "request") in kinds) == (row.id not in self.ended)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_a_job_ends_once_and_no_more_run_than_may_whatever_happens(
    tmp_path: Path, steps: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        (tmp_path / "jobs.db").unlink(missing_ok=True)
        url = SecretStr(f"sqlite+aiosqlite:///{tmp_path / 'jobs.db'}")
        database = SqlDatabase(backend_of(url, tmp_path, pool_size=5, timeout=5.0), 5.0)
        async with database.opened():
            await database.migrate("jobs", "gatehook_plugins.jobs.migrations")
            world = World(database)
            for what, number in steps:
                await world.step(what, number)
            await world.check()

    asyncio.run(run())


async def test_processes_that_claim_at_once_keep_the_limits(database_url: str, tmp_path: Path) -> None:
    database = SqlDatabase(backend_of(SecretStr(database_url), tmp_path, pool_size=5, timeout=5.0), 5.0)
    async with database.opened():
        await database.migrate("jobs", "gatehook_plugins.jobs.migrations")
        world = World(database)
        for number in range(12):
            await world.submit(f"user-{number % 2}")
        claimed = await asyncio.gather(*(world.store.claim(f"process-{number}", 60, 3) for number in range(6)))
        ids = [job.id for jobs in claimed for job in jobs]
        assert len(ids) == len(set(ids)) == PER_VENDOR
        await world.check()


async def test_what_a_limit_refuses_has_all_of_its_kind_wait(database_url: str, tmp_path: Path) -> None:
    database = SqlDatabase(backend_of(SecretStr(database_url), tmp_path, pool_size=5, timeout=5.0), 5.0)
    async with database.opened():
        await database.migrate("jobs", "gatehook_plugins.jobs.migrations")
        world = World(database)
        for user in ("ann", "ann", "bob"):
            await world.submit(user)
        (job,) = await world.store.claim("process", 60, 1)
        assert await world.store.postpone(job, 60, WHY)
        assert not await world.store.postpone(job, 60, WHY), "the run is over"
        waiting = {row.id: (row.user_id, row.tries) for row in await world.reader.page(None, "queued", None, 10)}
        free = {waiting[one.id] for one in await world.store.claim("process", 60, 10)}
        assert free == {("bob", 0)} if waiting[job.id][0] == "ann" else {("ann", 0)}
        assert waiting[job.id][1] == 0, "it was not tried"
        await world.check()


async def test_jobs_do_not_stand_still_while_the_clock_is_put_back(database_url: str, tmp_path: Path) -> None:
    database = SqlDatabase(backend_of(SecretStr(database_url), tmp_path, pool_size=5, timeout=5.0), 5.0)
    async with database.opened():
        await database.migrate("jobs", "gatehook_plugins.jobs.migrations")
        world = World(database)
        for minutes in (9, 24 * 60):
            await world.submit("ann")
            async with database.writing() as connection:
                late = sa.update(jobs).where(jobs.c.id == world.ids[-1])
                await connection.execute(late.values(due=now() + minutes * 60_000))
        assert (await world.store.look("process", busy=False)).waiting
        assert [job.id for job in await world.store.claim("process", 60, 10)] == world.ids[1:], "9 minutes are a delay"
        assert not (await world.store.look("process", busy=False)).waiting


@given(st.text(), st.text(), st.none() | st.integers(1), st.none() | st.frozensets(st.text()))
def test_a_call_is_the_same_after_it_was_kept(
    model: str, name: str, longest: int | None, models: frozenset[str] | None
) -> None:
    principal = Principal(name, name, models=models)
    headers = {"Cache-Control": name, "Authorization": "secret-key"}
    call = Call("chat", "openai", headers, name, principal=principal, model=model, max_tokens=longest)
    text = stored(call, ["Cache-Control"])
    text.encode()  # every database can keep it
    assert "secret-key" not in text
    again = revived(read(text), b"{}", principal, "job_1", 2)
    assert (again.operation, again.surface, again.model, again.remote) == ("chat", "openai", model, name)
    assert (again.max_tokens, dict(again.headers), again.id) == (longest, {"Cache-Control": name}, "job_1.2")
    assert again.headers.get("cache-control") == name


@given(st.text(), st.text())
def test_ids_of_users_fit_into_any_database_and_stay_different(one: str, other: str) -> None:
    assert user_id(one) == fit(user_id(one))
    assert len(user_id(one)) <= 256
    assert (user_id(one) == user_id(other)) == (one == other)
