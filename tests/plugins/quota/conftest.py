"""Processes of a gateway, as far as quotas go, on one real database: they come, book, crash and are adopted."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import select

from gatehook import (
    Call,
    Caps,
    Directory,
    Document,
    Ledger,
    Outcome,
    Permit,
    Pricing,
    Principal,
    SecretStr,
    Target,
    Usage,
    UsageRow,
    User,
)
from gatehook.awaiting import awaited
from gatehook.catalog import LiveCatalog
from gatehook_plugins.database.address import backend_of
from gatehook_plugins.database.service import SqlDatabase
from gatehook_plugins.quota.account import Amount
from gatehook_plugins.quota.books import Books
from gatehook_plugins.quota.limiter import QuotaLimiter
from gatehook_plugins.quota.service import QuotaService
from gatehook_plugins.quota.store import BALANCES, LEASES

PRICING = Pricing(input=1_000, output=2_000)
"""A nano-dollar a token of the prompt, two of the answer."""


class FakeLedger:
    """Keeps rows until they are flushed, one transaction for all; they outlive their process."""

    def __init__(self, owner: str, database: SqlDatabase) -> None:
        self.owner = owner
        self.rows: list[UsageRow] = []
        self.intents: dict[str, UsageRow] = {}
        self.postings: list[Books] = []
        self.writing = asyncio.Lock()
        self.is_dead = False
        self._database = database

    def book(self, posting: Books) -> None:
        self.postings.append(posting)

    async def flush(self) -> None:
        async with self.writing:
            rows, self.rows = self.rows, []
            if not rows or self.is_dead:
                self.rows += rows
                return
            try:
                async with self._database.writing() as connection:
                    for posting in self.postings:
                        await posting.post(connection, rows)
            except BaseException:
                self.rows += rows
                raise
            for posting in self.postings:
                posting.posted(rows)


class Node:
    """One process: admits requests, ends them, books them."""

    def __init__(self, world: "World", owner: str, default: Caps, targets: Sequence[Target], **options: Any) -> None:
        self.world = world
        self.catalog = LiveCatalog(targets)
        self.ledger = FakeLedger(owner, world.database)
        self.changed: list[Callable[[str, str], None]] = []
        directory = SimpleNamespace(user=world.user, subscribe=self.changed.append)
        self.service = QuotaService(
            world.database, cast("Directory", directory), cast("Ledger", self.ledger), default, lambda: world.time
        )
        self.limiter = QuotaLimiter(self.catalog, self.service, allow_unpriced=options.get("allow_unpriced", False))
        self.task = asyncio.create_task(self.service.broker.run())

    def call(self, user: str, *, size: int = 40, answer: int = 10, model: str = "m") -> Call:
        """A request of at most so many bytes, and tokens of an answer."""
        call = Call("chat", "openai", {}, principal=Principal(user, user=self.world.users.get(user)), model=model)
        call.body = Document({"messages": [], "max_tokens": answer}, b" " * size)
        return call

    async def admit(self, call: Call) -> Permit | None:
        """Raises what the limiter raises."""
        permit = await awaited(self.limiter.admit(call))
        self.ledger.intents[call.id] = self.row(call, Usage(0, 0))
        return permit

    async def end(self, call: Call, permit: Permit | None, prompt: int, completion: int) -> UsageRow:
        """The request has used this; the kernel settles, the ledger enters."""
        call.target = next(iter(self.catalog.group(call.model)), None)
        usage = Usage(prompt, completion)
        if permit is not None:
            pricing = None if call.target is None else call.target.pricing
            cost = None if pricing is None else usage.cost(pricing)
            await awaited(permit.settle(Outcome("complete", 200, usage, cost=cost)))
        row = self.row(call, usage)
        del self.ledger.intents[call.id]
        self.ledger.rows.append(row)
        return row

    def row(self, call: Call, usage: Usage) -> UsageRow:
        target = next(iter(self.catalog.group(call.model)), None)
        cost = usage.cost(target.pricing) if target is not None and target.pricing is not None else None
        return UsageRow(
            call.id, int(self.world.time * 1000), call.principal.id, "", "chat", "openai", call.model, "m#1", "mock",
            "complete", 200, "", "vendor", usage.prompt_tokens, usage.completion_tokens,
            input_cost=None if cost is None else cost.input, output_cost=None if cost is None else cost.output,
        )  # fmt: skip

    async def stop(self) -> None:
        """End the task that asks for leases: from now on a test does."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def settled(self) -> None:
        """Book everything, and give everything back."""
        await self.stop()
        await self.ledger.flush()
        for _ in range(4):
            self.service.broker.sweep()
            await self.service.broker.round()
        self.task = asyncio.create_task(self.service.broker.run())

    async def crash(self) -> None:
        """As kill -9 does; the journal stays."""
        async with self.ledger.writing:
            self.ledger.is_dead = True
        await self.stop()
        self.service.broker.close()
        self.world.forget(self)

    async def adopt(self, dead: "Node", *, close: bool = True) -> None:
        """Enter what a dead process left."""
        rows = [*dead.ledger.rows, *dead.ledger.intents.values()]
        dead.ledger.rows, dead.ledger.intents = [], {}
        books = self.ledger.postings[0]
        async with self.world.database.writing() as connection:
            if rows:
                await books.post(connection, rows)
        books.posted(rows)
        if close:
            async with self.world.database.writing() as connection:
                await books.closed(connection, dead.ledger.owner)


class World:
    """A database, and a clock."""

    def __init__(self, database: SqlDatabase) -> None:
        self.database = database
        self.time = 1_795_219_200.0
        """2026-11-21, midnight."""
        self.users: dict[str, User] = {}
        self._names = itertools.count()
        self._nodes: list[Node] = []

    async def user(self, user_id: str) -> User | None:
        return self.users.get(user_id)

    def add(self, **caps: int) -> str:
        """A new user with these caps."""
        name = f"user-{next(self._names)}"
        self.users[name] = User(name, caps=Caps(**caps))
        return name

    def change(self, user_id: str, **caps: int) -> None:
        """As an admin does; every process is told."""
        self.users[user_id] = User(user_id, caps=Caps(**caps))
        for node in self._nodes:
            for changed in node.changed:
                changed("user", user_id)

    def node(self, *, default: Caps | None = None, targets: Sequence[Target] | None = None, **options: Any) -> Node:
        owner = f"owner-{next(self._names)}"
        node = Node(
            self, owner, default or Caps(), targets or [Target("m#1", "m", "mock", "m", pricing=PRICING)], **options
        )
        self._nodes.append(node)
        return node

    async def balances(self, user_id: str) -> dict[str, Amount]:
        async with self.database.reading() as connection:
            rows = await connection.execute(select(BALANCES).where(BALANCES.c.user_id == user_id))
            return {row.period: Amount(row.tokens, row.nano) for row in rows}

    async def leases(self, user_id: str) -> dict[str, Amount]:
        async with self.database.reading() as connection:
            rows = await connection.execute(select(LEASES).where(LEASES.c.user_id == user_id, LEASES.c.booked == 0))
            return {row.owner: Amount(row.tokens, row.nano) for row in rows}

    async def close(self) -> None:
        for node in list(self._nodes):
            await node.crash()

    def forget(self, node: Node) -> None:
        if node in self._nodes:
            self._nodes.remove(node)


@contextlib.asynccontextmanager
async def world_at(url: str, folder: Path) -> AsyncIterator[World]:
    database = SqlDatabase(backend_of(SecretStr(url), folder, pool_size=5, timeout=5.0), 5.0)
    async with database.opened():
        await database.migrate("quota", "gatehook_plugins.quota.migrations")
        made = World(database)
        try:
            yield made
        finally:
            await made.close()


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """On a new database of either kind."""
    async with world_at(database_url, tmp_path) as made:
        yield made


@pytest.fixture
async def world_on_its_own_server(own_postgres: Any, tmp_path: Path) -> AsyncIterator[World]:
    """On a PostgreSQL server that the test may stop."""
    async with world_at(own_postgres.url("postgres"), tmp_path) as made:
        yield made
