"""Whether the database can be used, as its last use told; and found out again though nobody uses it."""

import asyncio
import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from sqlalchemy import text

from gatehook import DATABASE, DIRECTORY, Unavailable
from gatehook.accounts import User
from gatehook.testing import serving


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehook_plugins.database.recovery._PAUSE", 0.02)


async def until(database: Any, *, works: bool) -> None:
    async with asyncio.timeout(10):
        while database.works is not works:  # noqa: ASYNC110  # nobody announces it
            await asyncio.sleep(0.01)


def told(caplog: Any) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_what_cannot_be_written_to_is_noticed_and_works_again_by_itself(serving_at: Any, tmp_path: Path) -> None:
    one = await serving_at(f"sqlite:///{tmp_path / 'a.db'}", timeout=0.1)
    assert one.database.works
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await one.directory.create_user("me", User("u"))
        assert not one.database.works
        assert await one.directory.users() == [], "reading alone does not do"
        assert not one.database.works
        other.execute("COMMIT")
    await until(one.database, works=True)
    async with one.database.reading() as connection:
        tables = await connection.scalars(text("SELECT name FROM sqlite_master WHERE name LIKE 'gatehook_trial%'"))
        assert tables.all() == []


async def test_a_database_that_was_replaced_is_told_in_one_line(
    serving_at: Any, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = await serving_at(database_url, more="[plugins.quota]\n[plugins.ledger]")
    moves = [("leases", "leases_away"), ("alembic_version_quota", "version_away")]
    for name, away in moves:
        async with one.database.writing() as connection:
            await connection.execute(text(f"ALTER TABLE {name} RENAME TO {away}"))
    for _ in range(3):
        with pytest.raises(Unavailable, match="the database is not available now"):
            async with one.database.reading() as connection:
                await connection.execute(text("SELECT * FROM leases"))
    assert not one.database.works
    lines = [line for line in told(caplog) if "has been replaced" in line]
    assert len(lines) == 1
    assert "the tables of quota are gone; put it back as it was, or restart the gateway" in lines[0]
    assert "Traceback" not in caplog.text
    for name, away in moves:
        async with one.database.writing() as connection:
            await connection.execute(text(f"ALTER TABLE {away} RENAME TO {name}"))
    await until(one.database, works=True)
    assert any("has all its tables again" in line for line in told(caplog))


async def test_health_goes_by_it(tmp_path: Path) -> None:
    settings = f"""
        [database]
        url = "sqlite:///{tmp_path / "a.db"}"
        timeout = 0.1
        secret = "a secret of more than thirty-two letters, for tests"
        [plugins.database]
        [plugins.health]
    """
    async with serving(settings) as served, ClientSession() as http:

        async def ready() -> int:
            async with http.get(f"{served.url}/health/ready") as answer:
                return answer.status

        assert await ready() == 200
        with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable):
                await served.gateway.services[DIRECTORY].create_user("me", User("u"))
            assert await ready() == 503
            other.execute("COMMIT")
        await until(served.gateway.services[DATABASE], works=True)
        assert await ready() == 200
