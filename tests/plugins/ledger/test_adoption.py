"""What a dead process left is entered once, wherever and however often the entering is broken off."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, cast

import pytest
from msgspec.structs import astuple
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import Services, Unavailable
from gatehook.accounts import UsageRow
from gatehook.services import DATABASE, Database, Posting
from gatehook_plugins.ledger.adoption import Adopter
from gatehook_plugins.ledger.booking import GROUP, Booker
from gatehook_plugins.ledger.journal import Journal
from gatehook_plugins.ledger.queries import rows as select_rows
from gatehook_plugins.ledger.records import Intent, Row
from gatehook_plugins.ledger.table import usage

MakeRow = Callable[..., Row]
MakeIntent = Callable[..., Intent]


class Booked(Posting, Protocol):
    booked: list[str]
    told: list[str]
    ended: list[str]
    refuses: Callable[[UsageRow], bool]


def names(directory: Path, pattern: str) -> list[str]:
    return [path.name for path in directory.glob(pattern)]


class Mortal:
    """A database that is gone after so many transactions: before the last one's commit, or after it."""

    def __init__(self, database: Database, left: int, *, commits_last: bool) -> None:
        self._database = database
        self._left = left
        self._commits_last = commits_last

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        self._left -= 1
        if self._left < 0 and not self._commits_last:
            raise Unavailable("gone")
        async with self._database.writing() as connection:
            yield connection
        if self._left < 0:
            raise Unavailable("gone")


def booker_of(database: object, *postings: Posting) -> Booker:
    services = Services()
    services.provide(DATABASE, cast("Database", database), "test")
    booker = Booker(services)
    for posting in postings:
        booker.add(posting)
    return booker


async def rows_of(database: Database) -> Sequence[UsageRow]:
    async with database.reading() as connection:
        return await select_rows(connection, None, None, None, 1000)


async def ids_in(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list(await connection.scalars(select(usage.c.request_id)))


async def test_rows_are_entered_and_requests_that_nobody_ended_become_failures(
    database: Database, books: Booked, tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent
) -> None:
    journal = Journal(tmp_path, "b")
    for number in range(3):
        journal.intend(an_intent(number))
    journal.enter(a_row(0))
    booker = booker_of(database, books)
    await booker.book([a_row(0)], again=False)
    journal.enter(a_row(1))
    journal.intend(an_intent(3, input_price=None))
    owner = journal.owner
    journal.close()
    books.told.clear()

    await Adopter(booker, tmp_path, "b").adopt()
    found = {row.request_id: row for row in await rows_of(database)}
    assert sorted(books.booked) == sorted(found) == [f"req_{number:06}" for number in range(4)]
    assert astuple(found["req_000000"]) == astuple(a_row(0))
    assert astuple(found["req_000001"]) == astuple(a_row(1))
    crashed = found["req_000002"]
    assert (crashed.outcome, crashed.code, crashed.provenance) == ("failed", "gateway_crashed", "estimated")
    assert (crashed.prompt_tokens, crashed.completion_tokens, crashed.cost) == (7, 0, 70)
    assert (crashed.user_id, crashed.key_id, crashed.model, crashed.at) == ("ann", "k1", "m", 1_000_000)
    assert found["req_000003"].input_cost is None
    assert found["req_000003"].output_cost is None
    assert books.told == ["req_000001", "req_000002", "req_000003"], "what was there already was told by its writer"
    assert books.ended == [owner]
    assert names(tmp_path, "*.journal") == names(tmp_path, "*.lock") == []


@pytest.mark.parametrize("commits_last", [False, True])
async def test_it_can_be_broken_off_anywhere(
    *, database: Database, books: Booked, tmp_path: Path, a_row: MakeRow, an_intent: MakeIntent, commits_last: bool
) -> None:
    journal = Journal(tmp_path, "b", segment_bytes=100_000)
    count = 2 * GROUP + 3
    for number in range(count + GROUP + 2):
        journal.intend(an_intent(number))
    for number in range(count):
        journal.enter(a_row(number))
    journal.close()
    for transactions in range(20):
        booker = booker_of(Mortal(database, transactions, commits_last=commits_last), books)
        try:
            await Adopter(booker, tmp_path, "b").adopt()
        except Unavailable:
            continue
        break
    everything = [f"req_{number:06}" for number in range(count + GROUP + 2)]
    assert sorted(await ids_in(database)) == sorted(books.booked) == everything
    assert transactions == 6, "three groups of rows, two of requests that nobody ended, and the end"
    assert names(tmp_path, "*.journal") == names(tmp_path, "*.lock") == []


async def test_two_that_adopt_at_once_enter_everything_once(
    database: Database, books: Booked, tmp_path: Path, a_row: MakeRow
) -> None:
    for start in range(0, 100, 10):
        journal = Journal(tmp_path, "b")
        for number in range(start, start + 10):
            journal.enter(a_row(number))
        journal.close()
    await asyncio.gather(*(Adopter(booker_of(database, books), tmp_path, "b").adopt() for _ in range(4)))
    assert sorted(books.booked) == sorted(await ids_in(database)) == [f"req_{number:06}" for number in range(100)]
    assert len(books.ended) == 10


async def test_a_journal_that_cannot_be_entered_holds_up_no_other(
    database: Database, books: Booked, tmp_path: Path, a_row: MakeRow
) -> None:
    for number in range(3):
        journal = Journal(tmp_path, "b")
        journal.enter(a_row(number))
        journal.close()
    books.refuses = lambda row: row.request_id == "req_000001"
    adopter = Adopter(booker_of(database, books), tmp_path, "b")
    with pytest.raises(ValueError, match="does not take"):
        await adopter.adopt()
    assert sorted(await ids_in(database)) == ["req_000000", "req_000002"]
    books.refuses = lambda row: False
    await adopter.adopt()
    assert len(await ids_in(database)) == 3


async def test_journals_of_another_database_are_told_once_and_left_alone(
    database: Database, books: Booked, tmp_path: Path, a_row: MakeRow, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path, "another")
    journal.enter(a_row(1))
    journal.close()
    adopter = Adopter(booker_of(database, books), tmp_path, "b")
    await adopter.adopt()
    await adopter.adopt()
    assert [journal.owner in message for message in caplog.messages] == [True]
    assert books.booked == []
    assert len(names(tmp_path, "*.journal")) == len(names(tmp_path, "*.lock")) == 1


async def test_nothing_is_adopted_before_the_gateway_serves(
    database: Database, books: Booked, tmp_path: Path, a_row: MakeRow
) -> None:
    journal = Journal(tmp_path, "b")
    journal.enter(a_row(1))
    journal.close()
    serving, asked = asyncio.Event(), asyncio.Event()

    def may_begin() -> bool:
        asked.set()
        return serving.is_set()

    task = asyncio.create_task(Adopter(booker_of(database, books), tmp_path, "b").run(may_begin))
    await asked.wait()
    assert books.booked == []
    serving.set()
    async with asyncio.timeout(10):
        while not books.ended:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)
    task.cancel()
    assert books.booked == ["req_000001"]
