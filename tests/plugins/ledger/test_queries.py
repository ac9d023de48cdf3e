"""What the ledger answers is what the rows say, on both databases."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import asdict
from sqlalchemy import insert

from gatehook.accounts import UsageRow
from gatehook.services import Database
from gatehook_plugins.ledger import queries
from gatehook_plugins.ledger.table import usage

MakeRow = Callable[..., UsageRow]

DAY = 86_400_000
ANSWERED = ("complete", "cached", "partial")


@pytest.fixture
async def rows(database: Database, a_row: MakeRow) -> Sequence[UsageRow]:
    """A few hundred of all kinds, in the table."""
    draw = random.Random(7)
    made = [
        UsageRow(
            **asdict(
                a_row(
                    number,
                    at=draw.randrange(3 * DAY),
                    user_id=draw.choice(["ann", "bob"]),
                    model=draw.choice(["m", "n", "o"]),
                    outcome=draw.choice(["complete", "cached", "partial", "failed", "rejected", "correction"]),
                    prompt_tokens=draw.randrange(-5, 1000),
                    completion_tokens=draw.randrange(1000),
                    input_cost=draw.choice([None, draw.randrange(10**15)]),
                    output_cost=draw.choice([None, draw.randrange(10**15)]),
                    latency=draw.randrange(5000),
                    first_token=draw.choice([None, 3]),
                )
            )
        )
        for number in range(400)
    ]
    async with database.writing() as connection:
        await connection.execute(insert(usage), [asdict(row) for row in made])
    return made


def chosen(rows: Sequence[UsageRow], start: int, end: int, user: str | None, model: str | None) -> list[UsageRow]:
    return [row for row in rows if start <= row.at < end and user in (None, row.user_id) and model in (None, row.model)]


RANGES: list[tuple[int, int, str | None, str | None]] = [
    (0, 3 * DAY, None, None),
    (DAY, 2 * DAY, None, None),
    (0, 3 * DAY, "ann", None),
    (DAY // 2, DAY, "bob", "n"),
    (5 * DAY, 6 * DAY, None, None),
    (DAY, 0, None, None),
]


KEYS: dict[queries.By, Callable[[UsageRow], Any]] = {
    "model": lambda row: row.model,
    "user": lambda row: row.user_id,
    "day": lambda row: row.at // DAY,
}


async def test_usage_and_totals(database: Database, rows: Sequence[UsageRow]) -> None:
    for start, end, user, model in RANGES:
        used = [row for row in chosen(rows, start, end, user, model) if row.outcome != "rejected"]
        for by, key in KEYS.items():
            names = sorted({key(row) for row in used})
            async with database.reading() as connection:
                found = await queries.totals(connection, by, start, end, user, model)
            assert [one.name for one in found] == names
            for one in found:
                group = [row for row in used if key(row) == one.name]
                assert one.requests == sum(row.outcome != "correction" for row in group)
                assert one.failed == sum(row.outcome == "failed" for row in group)
                assert one.unpriced == sum(row.input_cost is None for row in group)
                assert one.prompt_tokens == sum(row.prompt_tokens for row in group)
                assert one.completion_tokens == sum(row.completion_tokens for row in group)
                assert one.cost == sum(row.cost for row in group)
                assert all(type(figure) is int for figure in one[1:])
        async with database.reading() as connection:
            by_model = await queries.by_model(connection, start, end, user, model)
        assert {one.model: one.cost for one in by_model} == {
            name: sum(row.cost for row in used if row.model == name) for name in {row.model for row in used}
        }


async def test_percentiles_are_true_ones(database: Database, rows: Sequence[UsageRow]) -> None:
    for start, end, user, model in RANGES:
        asked = [row for row in chosen(rows, start, end, user, model) if row.outcome != "correction"]
        answered = sorted(row.latency for row in asked if row.outcome in ANSWERED)
        async with database.reading() as connection:
            found = await queries.performance(connection, start, end, user, model)
        assert (found.requests, found.answered) == (len(asked), len(answered))
        assert found.failed == sum(row.outcome == "failed" for row in asked)
        assert found.tokens == sum(row.tokens for row in asked)
        if not answered:
            assert (found.average, found.p50, found.p95, found.p99) == (None, None, None, None)
            continue
        assert found.average == pytest.approx(sum(answered) / len(answered))
        for percent, value in ((50, found.p50), (95, found.p95), (99, found.p99)):
            assert value == answered[math.ceil(len(answered) * percent / 100) - 1]


@pytest.mark.parametrize(("count", "expected"), [(1, (7, 7, 7)), (2, (7, 8, 8)), (100, (56, 101, 105))])
async def test_percentiles_of_few(
    database: Database, a_row: MakeRow, count: int, expected: tuple[int, int, int]
) -> None:
    async with database.writing() as connection:
        await connection.execute(insert(usage), [asdict(a_row(number, latency=number + 7)) for number in range(count)])
    async with database.reading() as connection:
        found = await queries.performance(connection, 0, 1 << 60, None, None)
    assert (found.p50, found.p95, found.p99) == expected


async def test_rows_come_newest_first(database: Database, rows: Sequence[UsageRow]) -> None:
    async def ask(user: str | None, model: str | None, before: int | None, limit: int) -> Sequence[UsageRow]:
        async with database.reading() as connection:
            return await queries.rows(connection, user, model, before, limit)

    newest = sorted(rows, key=lambda row: (row.at, row.request_id), reverse=True)
    assert await ask(None, None, None, 1000) == newest
    assert await ask(None, None, None, 7) == newest[:7]
    assert await ask("ann", "m", None, 5) == [r for r in newest if (r.user_id, r.model) == ("ann", "m")][:5]
    assert await ask(None, None, newest[9].at, 3) == [row for row in newest if row.at < newest[9].at][:3]
    assert await ask(None, None, None, 0) == []
    assert await ask(None, None, None, -1) == []


async def test_what_is_asked_for_is_no_sql(database: Database, rows: Sequence[UsageRow]) -> None:
    evil: Any = "' OR 1=1 --"
    async with database.reading() as connection:
        assert await queries.by_model(connection, 0, 1 << 60, evil, evil) == []
        assert await queries.rows(connection, evil, None, None, 10) == []
