"""Requests of several rounds, after tools of the gateway's own were run: each round is reserved before it begins."""

from typing import Any

import pytest

from gatehook import RateLimited
from gatehook_plugins.quota.account import NOTHING


async def test_each_round_is_reserved_beside_those_before_it_and_all_are_booked_as_one(world: Any) -> None:
    user = world.add(tokens=200)
    node = world.node()
    call = node.call(user, size=40, answer=10)
    permit = await node.admit(call)
    first = permit.account.held
    await node.limiter.admit_round(call)
    await node.limiter.admit_round(call)
    assert permit.account.held == first + first + first
    await node.end(call, permit, prompt=60, completion=20)
    assert permit.account.held.tokens == 80
    await node.settled()
    assert {amount.tokens for amount in (await world.balances(user)).values()} == {80}
    assert permit.account.held == NOTHING


async def test_a_round_that_a_cap_has_no_room_for_is_refused_and_what_was_used_is_booked(world: Any) -> None:
    user = world.add(tokens=130)
    node = world.node()
    call = node.call(user, size=40, answer=20)
    permit = await node.admit(call)
    await node.limiter.admit_round(call)
    with pytest.raises(RateLimited, match="reserved"):
        await node.limiter.admit_round(call)
    await node.end(call, permit, prompt=40, completion=15)
    await node.settled()
    assert permit.account.held == NOTHING
    assert {amount.tokens for amount in (await world.balances(user)).values()} == {55}


async def test_callers_without_caps_are_not_asked_about(world: Any) -> None:
    node = world.node()
    call = node.call(world.add())
    assert await node.admit(call) is None
    await node.limiter.admit_round(call)
