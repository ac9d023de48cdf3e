"""Rows into the database: many in one statement, whatever their number, each with its own fields and in their order."""

from collections.abc import Callable

import pytest
from msgspec.structs import astuple
from sqlalchemy import select

from gatehook import Database, Services
from gatehook_plugins.ledger.booking import Booker
from gatehook_plugins.ledger.records import Row
from gatehook_plugins.ledger.table import from_record, usage


@pytest.mark.parametrize("number", [0, 1, 7, 8, 31, 32, 33, 71, 200])
async def test_so_many_rows_are_written_in_their_order(
    database: Database, services: Services, a_row: Callable[..., Row], number: int
) -> None:
    rows = [a_row(one, prompt_tokens=one, first_token=one % 3 or None, code=f"c{one}") for one in range(number)]
    await Booker(services).book(rows, again=False)
    async with database.reading() as connection:
        found = (await connection.execute(select(usage).order_by(usage.c.id))).mappings()
        assert [astuple(from_record(one)) for one in found] == [astuple(one) for one in rows]
