"""Old rows are deleted a few at a time, now and then, whatever happens."""

import asyncio
import logging
import time
from typing import Any

import pytest

from gatehook import Trimmer, Unavailable, trimming

DAY = 86_400_000


class Table:
    """Deletes at most two rows at once; fails when it is told to."""

    def __init__(self, *ages: float) -> None:
        now = time.time_ns() // 1_000_000
        self.rows = [now - int(days * DAY) for days in ages]
        self.fails = 0
        self.asked = 0
        self.empty = asyncio.Event()

    async def delete(self, before: int) -> int:
        self.asked += 1
        if self.fails:
            self.fails -= 1
            raise Unavailable("the database is away")
        old = [row for row in sorted(self.rows) if row < before][:2]
        self.rows = [row for row in self.rows if row not in old]
        if not old:
            self.empty.set()
        return len(old)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST", "_PERIOD", "_BREATH"):
        monkeypatch.setattr(trimming, name, 0.001)


async def test_what_is_older_goes_in_pieces_and_the_rest_stays(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "gatehook")
    table = Table(9, 8.5, 8, 7.5, 7.01, 6.99, 1, 0)
    trimmer = Trimmer("rows of the test", 7, table.delete)
    assert await trimmer.trim() == 5
    assert (len(table.rows), table.asked) == (3, 4)
    assert "rows of the test deleted, as they are older than 7 days: 5" in caplog.text
    assert await trimmer.trim() == 0


async def test_it_is_done_again_and_again_and_a_failure_is_told_and_no_end(caplog: Any) -> None:
    table = Table(2, 3, 4)
    table.fails = 1
    async with Trimmer("rows of the test", 1, table.delete).lifespan(), asyncio.timeout(5):
        await table.empty.wait()
        table.rows.append(0)
        table.empty.clear()
        await table.empty.wait()
    assert table.rows == []
    assert "rows of the test that are too old cannot be deleted now: the database is away" in caplog.text


async def test_it_ends_with_its_lifespan() -> None:
    before = asyncio.all_tasks()
    async with Trimmer("rows of the test", 1, Table().delete).lifespan():
        assert len(asyncio.all_tasks() - before) == 1
    assert asyncio.all_tasks() == before
