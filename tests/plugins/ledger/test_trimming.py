"""The ledger forgets what is old, and what it keeps is told as before; balances stay."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import asdict
from sqlalchemy import func, insert, select

from gatehook import DATABASE, LEDGER, QUOTAS, Services, Trimmer
from gatehook.accounts import UsageRow
from gatehook.services import Database
from gatehook.testing import serving
from gatehook_plugins.ledger import queries, trimming
from gatehook_plugins.ledger.table import usage

MakeRow = Callable[..., UsageRow]
DAY = 86_400_000


async def enter(database: Database, rows: list[UsageRow]) -> None:
    async with database.writing() as connection:
        await connection.execute(insert(usage), [asdict(row) for row in rows])


async def test_old_rows_go_in_pieces_and_statistics_tell_what_is_kept(
    database: Database, services: Services, a_row: MakeRow
) -> None:
    now = time.time_ns() // 1_000_000
    rows = [a_row(number, at=now - number * DAY // 100, user_id="ann", model="m") for number in range(1500)]
    await enter(database, rows)
    delete = functools.partial(trimming.delete_some, services)
    assert await delete(now - 14 * DAY) == 99  # a row of just this instant stays
    assert await Trimmer("rows", 5, delete).trim() == 1500 - 99 - 501 + 1
    kept = [row for row in rows if row.at > now - 5 * DAY]
    async with database.reading() as connection:
        (total,) = await queries.totals(connection, "user", 0, now + DAY, None, None)
        oldest = (await connection.execute(select(func.min(usage.c.at)))).scalar_one()
    assert (total.requests, oldest) == (len(kept), min(row.at for row in kept))


SETTINGS = """
[database]
url = "{url}"
secret = "a secret of more than thirty-two letters, for tests"
[plugins.database]
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.quota]
tokens = 1000
[plugins.ledger]
directory = "{journal}"
{more}
[[models]]
name = "m"
vendor = "mock"
options = {{ text = "Hi", usage = {{ prompt_tokens = 10, completion_tokens = 20 }} }}
"""


async def test_a_gateway_trims_when_it_is_told_to_and_what_a_user_has_left_does_not_change(
    database_url: str, tmp_path: Path, monkeypatch: Any, a_row: MakeRow
) -> None:
    monkeypatch.setattr("gatehook.trimming._FIRST", 0.001)
    monkeypatch.setattr("gatehook.trimming._PERIOD", 0.01)

    def settings(more: str) -> str:
        return SETTINGS.format(url=database_url, journal=tmp_path / "journal", more=more)

    async with serving(settings("")) as served:
        services = served.gateway.services
        old = a_row(1, at=1, user_id="ann", model="m")
        await enter(services[DATABASE], [old])
        assert [row.request_id for row in await services[LEDGER].rows(user_id="ann")] == [old.request_id]
        await services[LEDGER].correct("test", "ann", tokens=100, reason="a try")
        used = await services[QUOTAS].used("ann")
        assert any(tokens == 100 for tokens, _ in used.values())
    async with serving(settings("keep_days = 1")) as served:
        ledger = served.gateway.services[LEDGER]
        while old.request_id in [row.request_id for row in await ledger.rows(user_id="ann")]:
            pass
        (correction,) = await ledger.rows(user_id="ann")
        assert correction.prompt_tokens == 100
        assert await served.gateway.services[QUOTAS].used("ann") == used
