"""Many submissions at once: all are taken, or refused for a reason of their own; and nothing is taken twice."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gatehook import Call, Document, Principal, RateLimited, SecretStr, Unavailable
from gatehook_plugins.database.address import backend_of
from gatehook_plugins.database.service import SqlDatabase
from gatehook_plugins.jobs.intake import Intake, NewJob
from gatehook_plugins.jobs.tables import jobs

TIMEOUT = 0.25


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqlDatabase]:
    """An SQLite file that nobody waits for longer than a moment."""
    url = SecretStr(f"sqlite:///{tmp_path}/a.db")
    database = SqlDatabase(backend_of(url, tmp_path, pool_size=5, timeout=TIMEOUT), TIMEOUT)
    async with database.opened():
        await database.migrate("jobs", "gatehook_plugins.jobs.migrations")
        yield database


def job(number: int) -> NewJob:
    return NewJob(f"job_{number:032x}", "v", "{}", 0, None, 60)


def call(user: str = "u", text: str = "hi") -> Call:
    return Call("chat", "openai", {}, principal=Principal(user), model="m", body=Document({"text": text}))


async def queued(database: SqlDatabase) -> list[str]:
    async with database.reading() as connection:
        return list(await connection.scalars(sa.select(jobs.c.id).order_by(jobs.c.id)))


async def test_a_crowd_is_taken_though_each_waits_for_the_disk(
    database: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = database._backend.begin_within

    def slow(connection: Any) -> None:  # as on a disk that takes its time with each transaction
        begin(connection)
        time.sleep(TIMEOUT / 10)

    monkeypatch.setattr(database._backend, "begin_within", slow)
    intake = Intake(database, None, 1000)
    taken = await asyncio.gather(*(intake.submit(job(number), call()) for number in range(300)))
    assert await queued(database) == sorted(taken) == [job(number).id for number in range(300)]


async def test_who_is_refused_takes_nobody_along_and_leaves_nothing(database: SqlDatabase) -> None:
    intake = Intake(database, None, 5)
    calls = [(job(number), call("greedy" if number % 2 else f"user-{number}")) for number in range(40)]
    told = await asyncio.gather(*(intake.submit(*one) for one in calls), return_exceptions=True)
    kinds = Counter(type(one) for one in told)
    assert kinds == {str: 25, RateLimited: 15}
    assert await queued(database) == [one for one in told if isinstance(one, str)]


async def test_one_that_cannot_be_written_is_alone_with_it(database: SqlDatabase) -> None:
    intake = Intake(database, None, 1000)
    await intake.submit(job(7), call())
    told = await asyncio.gather(
        *(intake.submit(job(number), call()) for number in range(10)), return_exceptions=True
    )  # of these one has the id of another
    assert [type(one) for one in told] == [IntegrityError if number == 7 else str for number in range(10)]
    assert len(await queued(database)) == 10


async def test_a_client_that_leaves_takes_nobody_along(database: SqlDatabase) -> None:
    intake, ids = Intake(database, None, 10_000), 0
    for turn in range(30):
        tasks = [asyncio.create_task(intake.submit(job(ids + number), call())) for number in range(8)]
        for _ in range(turn * 2):
            await asyncio.sleep(0)
        tasks[turn % 8].cancel()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for number, one in enumerate(told) if number != turn % 8] == [str] * 7
        ids += 8
    await intake.submit(job(ids), call())  # after all that came before
    there = await queued(database)
    assert 211 <= len(there) == len(set(there)) <= 241


async def test_a_database_that_is_away_is_told_to_all_and_then_it_goes_on(database: SqlDatabase) -> None:
    intake = Intake(database, None, 1000)
    async with database.writing():
        told = await asyncio.gather(
            *(intake.submit(job(number), call()) for number in range(10)), return_exceptions=True
        )
    assert {type(one) for one in told} == {Unavailable}
    assert all(one.retry_after for one in told if isinstance(one, Unavailable))
    assert await queued(database) == []
    assert await intake.submit(job(1), call()) == job(1).id


async def test_large_requests_go_in_several_transactions(database: SqlDatabase) -> None:
    intake, text = Intake(database, None, 1000), "x" * (1 << 21)
    taken = await asyncio.gather(*(intake.submit(job(number), call(text=text)) for number in range(12)))
    assert await queued(database) == sorted(taken)
