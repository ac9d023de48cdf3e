"""Looking for changes: cheap while there are none, and whatever becomes of the connection that is kept for it."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gatehook.accounts import User

NUMBER = "SELECT number FROM revision"


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks but the tests, however slow the machine is."""
    monkeypatch.setattr("gatehook_plugins.database.feed._PERIOD", 3600)
    monkeypatch.setattr("gatehook_plugins.database.glance._PATIENCE", 60)


class Watched:
    """A database that counts its transactions that read."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.glance = real.glance
        self.reads = 0

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Any]:
        self.reads += 1
        async with self._real.reading() as connection:
            yield connection


@pytest.fixture
def watched() -> Callable[[Any], Watched]:
    """Has a node follow changes in a database that counts."""

    def watch(node: Any) -> Watched:
        counted = node.directory._trail._database = Watched(node.database)
        return counted

    return watch


async def test_nothing_new_costs_no_transaction_and_a_change_is_seen_at_the_next_look(two: Any, watched: Any) -> None:
    here, there = two
    await there.directory._feed.look()
    counted, told = watched(there), list[tuple[str, str]]()
    there.directory.subscribe(lambda *change: told.append(change))
    for _ in range(3):
        await there.directory._feed.look()
    assert (counted.reads, told) == (0, [])
    for seen in (1, 2):
        await here.directory.create_user("me", User(f"u{seen}"))
        await there.directory._feed.look()
        assert told == [("user", f"u{n}") for n in range(1, seen + 1)]
        assert counted.reads == seen
        await there.directory._feed.look()
        assert counted.reads == seen


async def test_no_state_of_the_file_is_held(serving_at: Any, tmp_path: Path) -> None:
    """Else what is written ahead could never be entered into the file, which would grow for ever."""
    one = await serving_at(f"sqlite:///{tmp_path}/a.db")
    await one.directory._feed.look()
    await one.directory.create_user("me", User("u"))
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as other:
        is_busy, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not is_busy


async def test_what_cannot_be_asked_gives_nothing_and_is_not_asked_again_for_a_while(
    one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = await one.database.glance(NUMBER)
    assert number is not None
    assert await one.database.glance("SELECT nothing FROM nowhere") is None
    assert await one.database.glance(NUMBER) is None, "it rests"
    monkeypatch.setattr("gatehook_plugins.database.glance._REST", 0)
    one.database._glance._rests_until = 0
    for _ in range(20):
        assert await one.database.glance("SELECT nothing FROM nowhere") is None
        assert await one.database.glance(NUMBER) == number, "and no connection is lost"


async def test_who_gives_up_leaves_no_answer_for_the_next_question(one: Any) -> None:
    number = await one.database.glance(NUMBER)
    for turns in range(30):
        task = asyncio.create_task(one.database.glance("SELECT 'not for you'"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert await one.database.glance(NUMBER) == number


async def test_a_server_that_was_restarted_is_followed_all_the_same(
    own_postgres: Any, serving_at: Any, watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehook_plugins.database.glance._REST", 0)
    url = own_postgres.url("postgres")
    here, there = await serving_at(url), await serving_at(url)
    await there.directory._feed.look()
    own_postgres.stop()
    own_postgres.start()
    counted, told = watched(there), list[tuple[str, str]]()
    there.directory.subscribe(lambda *change: told.append(change))
    await here.directory.create_user("me", User("u"))
    await there.directory._feed.look()
    assert told == [("user", "u")]
    reads = counted.reads
    await there.directory._feed.look()
    assert counted.reads == reads, "looking is cheap again"
