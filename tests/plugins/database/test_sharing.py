"""Short work shares transactions: it is done once, wholly or not at all, and told when it is safe."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from gatehook import Unavailable

Work = Callable[[Any], Awaitable[int]]


def adds(n: int, pause: float = 0.0) -> Work:
    async def work(connection: Any) -> int:
        await connection.execute(text("INSERT INTO thing VALUES (:n)"), {"n": n})
        time.sleep(pause)  # noqa: ASYNC251  # it is on a thread, as a slow disk would be
        return n

    return work


async def rows(node: Any) -> list[int]:
    async with node.database.reading() as connection:
        return list(await connection.scalars(text("SELECT n FROM thing ORDER BY n")))


async def with_table(node: Any) -> Any:
    async with node.database.writing() as connection:
        await connection.execute(text("CREATE TABLE thing (n BIGINT PRIMARY KEY)"))
    return node


@pytest.fixture
async def thing(one: Any) -> Any:
    """A gateway that serves, on either database, and a table `thing`."""
    return await with_table(one)


@pytest.fixture
async def lite(serving_at: Any, tmp_path: Path) -> Any:
    """The same on SQLite, with little patience."""
    return await with_table(await serving_at(f"sqlite:///{tmp_path}/a.db", timeout=2.0))


@pytest.fixture
def begun(lite: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As many as transactions were begun to write."""
    begin, times = lite.database._backend.begin_within, list[int]()

    def counted(connection: Any) -> None:
        times.append(1)
        begin(connection)
        time.sleep(0.01)  # others come meanwhile

    monkeypatch.setattr(lite.database._backend, "begin_within", counted)
    return times


async def test_work_gives_what_it_gives_or_raises_what_it_raises_and_leaves_nothing_then(thing: Any) -> None:
    async def fails(connection: Any) -> None:
        await adds(2)(connection)
        raise ZeroDivisionError

    assert await thing.database.write(adds(1)) == 1
    with pytest.raises(ZeroDivisionError):
        await thing.database.write(fails)
    told = await asyncio.gather(
        *(thing.database.write(one) for one in (adds(3), fails, adds(1), adds(4))), return_exceptions=True
    )
    assert (told[0], type(told[1]), type(told[2]), told[3]) == (3, ZeroDivisionError, IntegrityError, 4)
    assert await rows(thing) == [1, 3, 4]


async def test_what_is_told_to_be_done_is_committed(lite: Any, tmp_path: Path) -> None:
    async def told(n: int) -> None:
        await lite.database.write(adds(n))
        with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as other:
            assert other.execute("SELECT n FROM thing WHERE n = ?", (n,)).fetchall() == [(n,)]

    await asyncio.gather(*(told(n) for n in range(30)))


async def test_a_crowd_shares_a_few_transactions(lite: Any, begun: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehook_plugins.database.sharing._LONG_ENOUGH", 60)  # else the slower, the more
    assert await asyncio.gather(*(lite.database.write(adds(n)) for n in range(300))) == list(range(300))
    assert await rows(lite) == list(range(300))
    assert 5 <= len(begun) <= 10


async def test_a_transaction_takes_no_more_after_a_moment(lite: Any, begun: list[int]) -> None:
    assert await asyncio.gather(*(lite.database.write(adds(n, 0.02)) for n in range(12))) == list(range(12))
    assert await rows(lite) == list(range(12))
    assert len(begun) >= 3


async def test_it_and_transactions_of_other_kinds_take_turns(lite: Any) -> None:
    async def counts(n: int) -> None:
        async with lite.database.writing() as connection:
            await adds(n)(connection)

    await asyncio.gather(*(counts(n) if n % 2 else lite.database.write(adds(n)) for n in range(40)))
    assert await rows(lite) == list(range(40))


async def test_who_gives_up_takes_nobody_along_and_his_own_is_done_once_or_never(lite: Any) -> None:
    for turn in range(30):
        tasks = [asyncio.create_task(lite.database.write(adds(8 * turn + n))) for n in range(8)]
        for _ in range(turn):
            await asyncio.sleep(0)
        tasks[turn % 8].cancel()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one for n, one in enumerate(told) if n != turn % 8] == [8 * turn + n for n in range(8) if n != turn % 8]
    assert 210 <= len(await rows(lite)) <= 240


async def test_when_the_file_is_locked_all_are_told_and_then_it_goes_on(lite: Any, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        told = await asyncio.gather(*(lite.database.write(adds(n)) for n in range(5)), return_exceptions=True)
        other.execute("ROLLBACK")
    assert [(type(one), getattr(one, "retry_after", None)) for one in told] == [(Unavailable, 1.0)] * 5
    assert await lite.database.write(adds(7)) == 7
    assert await rows(lite) == [7]


async def test_a_full_disk_is_told_to_all_of_a_group_and_nothing_of_it_is_left(lite: Any) -> None:
    async with lite.database.writing() as connection:
        await connection.execute(text("CREATE TABLE large (t TEXT)"))
    async with lite.database.writing() as connection:
        await connection.execute(text("PRAGMA max_page_count = 1"))  # no less than there are now

    async def fills(connection: Any) -> None:
        await connection.execute(text("INSERT INTO large VALUES (:t)"), {"t": "x" * 1_000_000})

    await lite.database.write(adds(1))
    told = await asyncio.gather(
        *(lite.database.write(one) for one in (adds(2), fills, adds(3))), return_exceptions=True
    )
    assert {type(one) for one in told} == {Unavailable}
    assert await rows(lite) == [1]
    assert await lite.database.write(adds(9)) == 9, "on a new connection, without the limit"


async def test_work_that_waits_for_something_else_is_a_mistake_that_harms_nobody(lite: Any) -> None:
    async def waits(connection: Any) -> int:
        await adds(1)(connection)
        await asyncio.sleep(0)
        return 1

    with pytest.raises(RuntimeError, match="may wait for nothing but"):
        await lite.database.write(waits)
    assert await lite.database.write(adds(2)) == 2
    assert await rows(lite) == [2]


async def test_threads_end_with_the_database(node_at: Any, tmp_path: Path) -> None:
    before = threading.active_count()
    one = node_at(f"sqlite:///{tmp_path}/a.db")
    async with one.database.opened():
        assert threading.active_count() > before
    while [thread for thread in threading.enumerate() if thread.name == "sqlite"]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
