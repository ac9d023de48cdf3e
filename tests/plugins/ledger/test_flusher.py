"""Group commit: every row once, in order, whatever the database does meanwhile."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import SecretStr, Services, Unavailable
from gatehook.accounts import UsageRow
from gatehook.services import DATABASE, Database, Posting
from gatehook_plugins.database.address import backend_of
from gatehook_plugins.database.service import SqlDatabase
from gatehook_plugins.ledger.booking import GROUP, Booker
from gatehook_plugins.ledger.flusher import Flusher
from gatehook_plugins.ledger.journal import Journal
from gatehook_plugins.ledger.records import Row
from gatehook_plugins.ledger.table import usage

MakeRow = Callable[..., Row]
LONG = 3600.0
"""An interval that ends in no test."""
MORE_THAN_FITS = 1000
"""Rows, into a segment of a journal."""


class Booked(Posting, Protocol):
    booked: list[str]
    told: list[str]
    refuses: Callable[[UsageRow], bool]


class Fickle:
    """A database that is away when told so, and may lose the answer to a commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_away = False
        self.loses = 0
        self.transactions = 0
        self.asked, self.moves = asyncio.Event(), asyncio.Event()
        self.moves.set()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        self.asked.set()
        await self.moves.wait()
        if self.is_away:
            raise Unavailable("away")
        async with self._database.writing() as connection:
            yield connection
        self.transactions += 1
        if self.loses:
            self.loses -= 1
            raise Unavailable("the line broke after the commit")


@pytest.fixture
def fickle(database: Database) -> Fickle:
    return Fickle(database)


@pytest.fixture
def made(
    fickle: Fickle, books: Booked, tmp_path: Path
) -> Callable[..., AbstractAsyncContextManager[tuple[Flusher, Journal]]]:
    @asynccontextmanager
    async def make(interval: float = LONG, **rest: Any) -> AsyncIterator[tuple[Flusher, Journal]]:
        services = Services()
        services.provide(DATABASE, cast("Database", fickle), "test")
        booker = Booker(services)
        booker.add(books)
        journal = Journal(tmp_path / "journal", "b", segment_bytes=20_000)
        flusher = Flusher(booker, journal, interval, **rest)
        task = asyncio.create_task(flusher.run())
        try:
            yield flusher, journal
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return make


FullDisk = Callable[[], AbstractContextManager[None]]
Made = Callable[..., AbstractAsyncContextManager[tuple[Flusher, Journal]]]


async def in_database(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list(await connection.scalars(select(usage.c.request_id).order_by(usage.c.id)))


def ids(rows: Sequence[UsageRow]) -> list[str]:
    return [row.request_id for row in rows]


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)


async def test_rows_arrive_in_order_and_in_groups(
    made: Made, database: Database, fickle: Fickle, books: Booked, a_row: MakeRow
) -> None:
    rows = [a_row(number) for number in range(2 * GROUP + 7)]
    async with made() as (flusher, journal):
        for row in rows:
            flusher.enter(row)
        await flusher.flush()
        assert await in_database(database) == ids(rows) == books.booked == books.told
        assert fickle.transactions == 3
        assert journal.is_settled
        await flusher.flush()


async def test_a_row_waits_no_longer_than_the_interval(made: Made, books: Booked, a_row: MakeRow) -> None:
    async with made(0.01) as (flusher, _):
        for number in range(3):
            flusher.enter(a_row(number))
            await eventually(lambda count=number + 1: len(books.told) == count)  # type: ignore[misc]


async def test_a_full_group_does_not_wait(made: Made, books: Booked, a_row: MakeRow) -> None:
    async with made() as (flusher, _):
        for number in range(GROUP):
            flusher.enter(a_row(number))
        await eventually(lambda: len(books.told) == GROUP)


async def test_a_flush_waits_for_what_ended_before_it_and_not_after(made: Made, books: Booked, a_row: MakeRow) -> None:
    async with made() as (flusher, _):
        flusher.enter(a_row(1))
        flushing = asyncio.create_task(flusher.flush())
        await asyncio.sleep(0)
        flusher.enter(a_row(2))
        await flushing
        assert "req_000001" in books.told
        await flusher.flush()
        assert books.told == ["req_000001", "req_000002"]


async def test_who_flushes_when_nobody_writes_any_more_is_told_so_and_does_not_wait(
    made: Made, fickle: Fickle, a_row: MakeRow
) -> None:
    async with made() as (flusher, journal):
        fickle.moves.clear()
        flusher.enter(a_row(1))
        flushing = asyncio.create_task(flusher.flush())
        await fickle.asked.wait()
    with pytest.raises(Unavailable, match="nothing is lost"):
        await flushing
    with pytest.raises(Unavailable, match="nothing is lost"):
        await flusher.flush()
    assert not journal.is_settled


async def test_while_the_database_is_away_nothing_is_lost_and_the_log_tells_it_twice(
    made: Made, database: Database, fickle: Fickle, a_row: MakeRow, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gatehook.ledger")
    async with made(0.01) as (flusher, journal):
        fickle.is_away = True
        for number in range(5):
            flusher.enter(a_row(number))
            with pytest.raises(Unavailable, match="nothing is lost"):
                await flusher.flush()
        fickle.is_away = False
        await flusher.flush()
        assert await in_database(database) == ids([a_row(number) for number in range(5)])
        assert journal.is_settled
        await eventually(lambda: len(caplog.records) == 2)
    assert "cannot write to the database" in caplog.messages[0]
    assert "again" in caplog.messages[1]


async def test_it_tries_again_by_itself(made: Made, fickle: Fickle, books: Booked, a_row: MakeRow) -> None:
    async with made(0.0) as (flusher, _):
        fickle.is_away = True
        flusher.enter(a_row(1))
        with pytest.raises(Unavailable):
            await flusher.flush()
        fickle.is_away = False
        await eventually(lambda: books.told == ["req_000001"])


async def test_a_commit_whose_answer_is_lost_books_nothing_twice(
    made: Made, database: Database, fickle: Fickle, books: Booked, a_row: MakeRow
) -> None:
    async with made() as (flusher, _):
        for number in range(3):
            flusher.enter(a_row(number))
        fickle.loses = 1
        with pytest.raises(Unavailable):
            await flusher.flush()
        flusher.enter(a_row(3))
        await flusher.flush()
        expected = ids([a_row(number) for number in range(4)])
        assert await in_database(database) == books.booked == books.told == expected


async def test_a_row_that_nobody_takes_does_not_hold_up_the_others(
    made: Made, database: Database, books: Booked, a_row: MakeRow, caplog: pytest.LogCaptureFixture
) -> None:
    books.refuses = lambda row: row.request_id == "req_000002"
    async with made() as (flusher, journal):
        for number in range(5):
            flusher.enter(a_row(number))
        await flusher.flush()
        assert await in_database(database) == [f"req_{number:06}" for number in (0, 1, 3, 4)] == books.told
        assert not journal.is_settled, "it stays there"
    assert "req_000002" in caplog.text


async def test_a_posting_that_takes_nothing_is_waited_for(
    made: Made, database: Database, books: Booked, a_row: MakeRow
) -> None:
    books.refuses = lambda row: True
    async with made() as (flusher, journal):
        for number in range(3):
            flusher.enter(a_row(number))
        with pytest.raises(Unavailable):
            await flusher.flush()
        assert await in_database(database) == [], "no row without its posting"
        books.refuses = lambda row: False
        await flusher.flush()
        assert len(books.told) == 3
        assert journal.is_settled


async def test_too_many_rows_stay_in_the_journal_and_come_back_in_order(
    made: Made, database: Database, fickle: Fickle, books: Booked, a_row: MakeRow
) -> None:
    rows = [a_row(number) for number in range(700)]
    async with made(most_waiting=100) as (flusher, journal):
        fickle.is_away = True
        for row in rows[:600]:
            flusher.enter(row)
        with pytest.raises(Unavailable):
            await flusher.flush()
        assert len(flusher._waiting) == 100
        fickle.is_away = False
        flushing = asyncio.create_task(flusher.flush())
        for row in rows[600:]:
            flusher.enter(row)
            await asyncio.sleep(0)
        await flushing
        await flusher.flush()
        assert await in_database(database) == ids(rows) == books.told
        assert journal.is_settled
        assert len(list((journal._directory).glob("*.journal"))) == 1
        flusher.enter(a_row(900))
        await flusher.flush()
        assert books.told[-1] == "req_000900"


async def test_a_row_that_cannot_be_journalled_still_arrives(
    made: Made, books: Booked, a_row: MakeRow, full_disk: FullDisk, caplog: pytest.LogCaptureFixture
) -> None:
    async with made() as (flusher, journal):
        with full_disk():
            for number in range(MORE_THAN_FITS):
                flusher.enter(a_row(number))
            assert None in journal._runs
            await flusher.flush()
        flusher.enter(a_row(MORE_THAN_FITS))
        await flusher.flush()
        assert len(books.told) == MORE_THAN_FITS + 1
        assert journal.is_settled
    assert [message.split(",")[0] for message in caplog.messages] == [
        "the ledger's journal cannot be written",
        "the ledger's journal can be written again",
    ]


async def test_with_no_room_anywhere_refusals_are_forgotten(
    made: Made, fickle: Fickle, a_row: MakeRow, full_disk: FullDisk
) -> None:
    async with made(most_waiting=10) as (flusher, journal):
        fickle.is_away = True
        with full_disk():
            with contextlib.suppress(OSError):
                for number in range(MORE_THAN_FITS):
                    journal.leave(a_row(number, latency=0))
            for number in range(100):
                flusher.enter(a_row(number, outcome="rejected" if number % 10 else "complete"))
        assert len(flusher._waiting) == 19, "ten, and then those that used something"


async def test_a_locked_file_is_waited_for(tmp_path: Path, a_row: MakeRow) -> None:
    file = tmp_path / "locked.db"
    database = SqlDatabase(
        backend_of(SecretStr(f"sqlite+aiosqlite:///{file}"), tmp_path, pool_size=1, timeout=0.05), 0.05
    )
    async with database.opened():
        await database.migrate("ledger", "gatehook_plugins.ledger.migrations")
        services = Services()
        services.provide(DATABASE, database, "test")
        flusher = Flusher(Booker(services), Journal(tmp_path / "journal", "b"), 0.01)
        task = asyncio.create_task(flusher.run())
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            flusher.enter(a_row(1))
            with pytest.raises(Unavailable):
                await flusher.flush()
            other.execute("ROLLBACK")
        await flusher.flush()
        assert await in_database(database) == ["req_000001"]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_journal_that_somebody_deleted_does_not_stop_the_rest(
    made: Made, database: Database, fickle: Fickle, a_row: MakeRow, caplog: pytest.LogCaptureFixture
) -> None:
    async with made(most_waiting=10) as (flusher, journal):
        fickle.is_away = True
        for number in range(20):
            flusher.enter(a_row(number))
        for path in journal._directory.glob("*.journal"):
            path.unlink()
        fickle.is_away = False
        await flusher.flush()
        assert len(await in_database(database)) == 10
        flusher.enter(a_row(99))
        await flusher.flush()
        assert len(await in_database(database)) == 11
    assert "cannot be read back" in caplog.text
