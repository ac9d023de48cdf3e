"""Many rows at once: what they say of users, days and reservations is summed before the database is told."""

import random
from collections import Counter
from typing import Any

import pytest

from gatehook import Outcome, Usage, UsageRow
from gatehook_plugins.quota import store
from gatehook_plugins.quota.account import Amount

DAY = 86_400_000
MIDNIGHT = 1_795_219_200_000
"""2026-11-21, epoch milliseconds."""
DAYS = {MIDNIGHT - 1: "2026-11-20", MIDNIGHT: "2026-11-21", MIDNIGHT + 10 * DAY: "2026-12-01"}


def row(request_id: str, user: str, at: int, tokens: int, nano: int | None) -> UsageRow:
    return UsageRow(
        request_id, at, user, "", "chat", "openai", "m", "m#1", "mock", "complete", 200, "", "vendor",
        tokens // 2, tokens - tokens // 2, input_cost=nano, output_cost=None if nano is None else 1,
    )  # fmt: skip


async def test_the_balances_are_the_sums_of_all_rows(world: Any) -> None:
    node, draw = world.node(), random.Random(7)
    rows, said = [], Counter[tuple[str, str, str]]()
    for number in range(300):
        user, at = draw.choice(["ann", "bob", "cy"]), draw.choice(list(DAYS))
        tokens, nano = draw.randint(-50, 1000), draw.choice([None, 0, draw.randint(-50, 10**12)])
        rows.append(row(f"req_{number}", user, at, tokens, nano))
        for period in ("all", DAYS[at], DAYS[at][:7]):
            said[user, period, "tokens"] += tokens
            said[user, period, "nano"] += 0 if nano is None else nano + 1
    async with world.database.writing() as connection:
        await node.service.books.post(connection, rows)
    for user in ("ann", "bob", "cy"):
        found = await world.balances(user)
        assert found == {
            period: Amount(said[user, period, "tokens"], said[user, period, "nano"])
            for period in ("all", "2026-11", "2026-11-20", "2026-11-21", "2026-12", "2026-12-01")
        }


async def test_rows_that_use_nothing_leave_the_balances_alone(world: Any) -> None:
    node = world.node()
    async with world.database.writing() as connection:
        await node.service.books.post(connection, [row("req_1", "ann", MIDNIGHT, 0, None)])
        await node.service.books.post(connection, [])
    assert await world.balances("ann") == {}


async def test_what_is_made_on_a_reservation_goes_out_of_it_and_not_below_nothing(world: Any) -> None:
    node = world.node()
    async with world.database.writing() as connection:
        for name in ("job_1", "job_2", "job_3"):
            await store.reserve(connection, name, "ann", Amount(100, 1000))
        used = [
            ("job_1.a", 30, 99),
            ("job_1.b", 30, 99),
            ("job_2.a", 500, 9),
            ("job_3.a", -500, -10),
            ("job_4.a", 1, 1),
        ]
        await node.service.books.post(connection, [row(name, "ann", MIDNIGHT, *amount) for name, *amount in used])
        left = [await store.reserved(connection, name) for name in ("job_1", "job_2", "job_3", "job_4")]
    assert left == [Amount(40, 800), Amount(0, 990), Amount(100, 1000), Amount()]


async def test_only_what_was_used_here_goes_out_of_the_lease(world: Any) -> None:
    node, user = world.node(), world.add(tokens=10**9, budget=10**9)
    call = node.call(user, size=40, answer=10)
    permit = await node.admit(call)
    before = (await world.leases(user))[node.ledger.owner]
    mine = await node.end(call, permit, 7, 5)
    async with world.database.writing() as connection:
        await node.service.books.post(connection, [mine, row("req_x", user, MIDNIGHT, 500, 500)])
    assert (await world.leases(user))[node.ledger.owner] == before - Amount(12, 7 + 10)
    assert (await world.balances(user))["all"] == Amount(512, 17 + 501)


@pytest.mark.parametrize("again", [False, True])
async def test_what_is_held_goes_with_the_row_whenever_the_request_is_settled(world: Any, again: bool) -> None:
    node, user = world.node(), world.add(tokens=10**9, budget=10**9)
    books = node.service.books
    calls = [node.call(user, size=40, answer=10) for _ in range(4)]
    before, between, after, other = [await node.admit(call) for call in calls]
    account = before.account
    assert account.held == other.most + other.most + other.most + other.most
    rows = [node.row(call, Usage(7, 5)) for call in calls[:3]]
    outcome = Outcome("complete", 200, Usage(7, 5), cost=Usage(7, 5).cost(node.catalog.group("m")[0].pricing))
    before.settle(outcome)
    async with world.database.writing() as connection:
        await books.post(connection, rows)
    between.settle(outcome)
    books.posted(list(rows) if again else rows)
    after.settle(outcome)
    assert account.held == other.most
    assert books.running == {other.request_id: other}
    other.settle(Outcome("failed", 499))
    assert (account.held, books.running) == (Amount(), {})
    lease = (await world.leases(user))[node.ledger.owner]
    assert lease == account.free, "all that is leased is free"
