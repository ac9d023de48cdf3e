"""A database with the ledger's table, rows to enter into it, somebody who books them, and a disk that is full."""

import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import SecretStr, Services
from gatehook.accounts import UsageRow
from gatehook.services import DATABASE, Database
from gatehook_plugins.database.address import backend_of
from gatehook_plugins.database.service import SqlDatabase
from gatehook_plugins.ledger.records import Intent, Row


class Books:
    """A posting that notes what it is told, in the order of telling."""

    def __init__(self) -> None:
        self.booked: list[str] = []
        self.told: list[str] = []
        self.ended: list[str] = []
        self.refuses: Callable[[UsageRow], bool] = lambda row: False

    async def post(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
        if any(map(self.refuses, rows)):
            raise ValueError("this posting does not take that row")
        self.booked += [row.request_id for row in rows]

    def posted(self, rows: Sequence[UsageRow]) -> None:
        self.told += [row.request_id for row in rows]

    async def closed(self, connection: AsyncConnection, owner: str) -> None:
        self.ended.append(owner)


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """Open, with the ledger's tables."""
    made = SqlDatabase(backend_of(SecretStr(database_url), tmp_path, pool_size=5, timeout=1.0), 1.0)
    async with made.opened():
        await made.migrate("ledger", "gatehook_plugins.ledger.migrations")
        yield made


@pytest.fixture
def services(database: Database) -> Services:
    offered = Services()
    offered.provide(DATABASE, database, "test")
    return offered


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """While it is, no segment of a journal can be begun."""

    def allocate(file: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", allocate)
            yield

    return full


@pytest.fixture
def a_row() -> Callable[..., Row]:
    """Makes the n-th row."""

    def make(number: int, **fields: Any) -> Row:
        values: dict[str, Any] = {
            "request_id": f"req_{number:06}",
            "at": 1_000_000 + number,
            "user_id": "ann",
            "key_id": "k1",
            "operation": "chat",
            "surface": "openai",
            "model": "m",
            "deployment": "m#1",
            "vendor": "mock",
            "outcome": "complete",
            "http_status": 200,
            "code": "",
            "provenance": "vendor",
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "input_cost": 100,
            "output_cost": 200,
            "latency": number % 1000,
            "attempts": 1,
        }
        return Row(**(values | fields))

    return make


@pytest.fixture
def an_intent() -> Callable[..., Intent]:
    """Makes the intent of the n-th row."""

    def make(number: int, **fields: Any) -> Intent:
        values: dict[str, Any] = {
            "request_id": f"req_{number:06}",
            "at": 1_000_000,
            "user_id": "ann",
            "key_id": "k1",
            "operation": "chat",
            "surface": "openai",
            "model": "m",
            "prompt_tokens": 7,
            "input_price": 10_000,
        }
        return Intent(**(values | fields))

    return make
