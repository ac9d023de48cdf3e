"""Requests of several rounds, after tools of the gateway's own were run: each round is reserved before it begins."""

import dataclasses
from typing import Any

import pytest

from gatehook import Call, Pricing, RateLimited, Unavailable, Usage
from gatehook_plugins.quota import store
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


def over(call: Call, prompt: int, completion: int) -> None:
    """As the kernel has it, once rounds are over that took this together."""
    usage = Usage(prompt, completion)
    call.spent = usage, usage.cost(Pricing(input=1_000, output=2_000))


async def test_of_rounds_that_are_over_no_more_is_held_than_they_used(world: Any) -> None:
    user = world.add(tokens=200)
    node = world.node()
    call = node.call(user, size=100, answer=40)
    permit = await node.admit(call)
    for prompt, completion in ((20, 5), (45, 12), (180, 60)):
        over(call, prompt, completion)
        used = prompt + completion
        if used + 25 > 200:
            with pytest.raises(RateLimited):
                await node.limiter.admit_round(call)
        else:
            await node.limiter.admit_round(call)
            used += 140
        assert permit.most == permit.account.held
        assert permit.most.tokens == used
    await node.end(call, permit, prompt=180, completion=60)
    await node.settled()
    assert permit.account.held == NOTHING
    assert {amount.tokens for amount in (await world.balances(user)).values()} == {240}


async def test_a_job_s_rounds_that_are_over_need_no_more_than_they_used(world: Any) -> None:
    user = world.add(tokens=200)
    node = world.node()
    submitted = node.call(user, size=100, answer=40)
    async with world.database.writing() as connection:
        await node.limiter.reservation("job", submitted)(connection)
    call = node.call(user, size=100, answer=40)
    call.id, call.reservation = "job.1", "job"
    permit = await node.admit(call)
    for used in (20, 40):
        over(call, used, 0)
        await node.limiter.admit_round(call)
        assert permit.most.tokens == used + 140
    async with world.database.reading() as connection:
        assert (await store.reserved(connection, "job")).tokens == 180


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


@pytest.mark.parametrize("again", ["admit_round", "admit_change"])
async def test_what_is_reserved_anew_goes_by_the_prices_of_now(world: Any, again: str) -> None:
    node = world.node()
    call = node.call(world.add(budget=10**9))
    permit = await node.admit(call)
    dearer = Pricing(input=9_000, output=9_000)
    node.catalog.amend("a test", lambda target: dataclasses.replace(target, pricing=dearer))
    (target,) = node.catalog.group("m")
    with pytest.raises(Unavailable) as refused:
        node.limiter.admit_attempt(call, target)
    assert refused.value.code == "price_changed"
    before = permit.most.nano
    await getattr(node.limiter, again)(call)
    assert permit.most.nano >= 9 * (40 + 10) + (before if again == "admit_round" else 0)
    assert node.limiter.admit_attempt(call, target) is None
    await node.end(call, permit, prompt=0, completion=0)


async def test_callers_without_caps_are_not_asked_about(world: Any) -> None:
    node = world.node()
    call = node.call(world.add())
    assert await node.admit(call) is None
    await node.limiter.admit_round(call)
