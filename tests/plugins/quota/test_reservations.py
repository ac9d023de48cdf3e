"""What is reserved for calls that are made later: nobody else's, whichever process asks, until it is given back."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import RateLimited, Unavailable
from gatehook_plugins.quota import store
from gatehook_plugins.quota.store import RESERVATIONS


async def reserve(node: Any, name: str, user: str, **size: int) -> bool:
    """Whether it was granted."""
    try:
        async with node.world.database.writing() as connection:
            await node.limiter.reservation(name, node.call(user, **size))(connection)
    except RateLimited:
        return False
    return True


async def left_of(world: Any, name: str) -> int | None:
    async with world.database.reading() as connection:
        tokens: int | None = await connection.scalar(select(RESERVATIONS.c.tokens).where(RESERVATIONS.c.name == name))
        return tokens


async def run(node: Any, name: str, user: str, number: int, used: int, **size: int) -> None:
    """A call made on a reservation."""
    call = node.call(user, **size)
    call.id, call.reservation = f"{name}.{number}", name
    permit = await node.admit(call)
    await node.end(call, permit, used, 0)
    await node.ledger.flush()


async def test_processes_that_reserve_and_admit_at_once_keep_the_cap(world: Any) -> None:
    nodes, user = [world.node() for _ in range(3)], world.add(tokens=1000)

    async def admit(node: Any) -> int:
        try:
            return int((await node.admit(node.call(user))).need.tokens)
        except (RateLimited, Unavailable):
            return 0

    asked = [reserve(node, f"job_{number}", user) for number in range(15) for node in nodes[:1]]
    asked += [reserve(nodes[1], f"other_{number}", user) for number in range(15)]
    granted, held = await asyncio.gather(asyncio.gather(*asked), asyncio.gather(*(admit(node) for node in nodes * 10)))
    async with world.database.reading() as connection:
        names = (await connection.execute(select(RESERVATIONS.c.tokens))).scalars().all()
    assert len(names) == sum(granted) > 0
    largest = max(*names, *held)
    assert sum(names) + sum(held) < 1000 + largest, "only one may go beyond the cap"


async def test_what_runs_on_a_reservation_is_taken_from_it_and_filled_up_again(world: Any) -> None:
    node, user = world.node(), world.add(tokens=1000)
    assert await reserve(node, "job_1", user)
    whole = await left_of(world, "job_1")
    assert whole is not None
    await run(node, "job_1", user, 1, 10)
    assert await left_of(world, "job_1") == whole - 10
    await run(node, "job_1", user, 2, 10)
    assert await left_of(world, "job_1") == whole - 10, "it was whole again before the second run"
    assert (await world.balances(user))["all"].tokens == 20
    assert await world.leases(user) == {}, "nothing of a lease was needed"


async def test_what_a_dead_process_s_run_has_used_is_taken_from_its_reservation(world: Any) -> None:
    dead, heir, user = world.node(), world.node(), world.add(tokens=1000)
    assert await reserve(dead, "job_1", user)
    whole = await left_of(world, "job_1")
    call = dead.call(user)
    call.id, call.reservation = "job_1.1", "job_1"
    permit = await dead.admit(call)
    await dead.end(call, permit, 30, 0)
    await dead.crash()
    assert await left_of(world, "job_1") == whole
    await heir.adopt(dead)
    assert whole is not None
    assert await left_of(world, "job_1") == whole - 30


async def test_a_reservation_cannot_be_filled_up_beyond_the_cap(world: Any) -> None:
    node, user = world.node(), world.add(tokens=100)
    assert await reserve(node, "job_1", user)
    await run(node, "job_1", user, 1, 95)
    with pytest.raises(RateLimited):
        await run(node, "job_1", user, 2, 95)


async def test_what_is_given_back_can_be_used_again(world: Any) -> None:
    node, user = world.node(), world.add(tokens=60)
    assert await reserve(node, "job_1", user)
    assert not await reserve(node, "job_2", user)

    async def give_back(connection: AsyncConnection) -> None:
        await store.release(connection, "job_1")
        await store.release(connection, "never")

    async with world.database.writing() as connection:
        await give_back(connection)
    assert await reserve(node, "job_2", user)


async def test_callers_without_caps_reserve_nothing(world: Any) -> None:
    node, user = world.node(), world.add()
    assert await reserve(node, "job_1", user)
    assert await left_of(world, "job_1") is None


async def test_each_round_of_what_runs_on_a_reservation_is_reserved_beside_those_before_it(world: Any) -> None:
    node, user = world.node(), world.add(tokens=300)
    assert await reserve(node, "job_1", user)
    whole = await left_of(world, "job_1")
    assert whole is not None
    call = node.call(user)
    call.id, call.reservation = "job_1.1", "job_1"
    await node.admit(call)
    for rounds in range(2, 7):
        await node.limiter.admit_round(call)
        assert await left_of(world, "job_1") == rounds * whole
    with pytest.raises(RateLimited):
        await node.limiter.admit_round(call)
    assert await left_of(world, "job_1") == 6 * whole == 300
