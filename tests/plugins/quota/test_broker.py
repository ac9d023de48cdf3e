"""Leases: asked for when needed, given back when not, and what happens when the database or a process is gone."""

import asyncio
import contextlib
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import (
    Call,
    Caps,
    GatewayError,
    Outcome,
    PermissionDenied,
    Permit,
    Pricing,
    RateLimited,
    Target,
    Unavailable,
    Usage,
)
from gatehook_plugins.quota import store
from gatehook_plugins.quota.account import Amount

DAY = 86_400


async def use(node: Any, user: str, prompt: int, completion: int = 0, **call: Any) -> None:
    request = node.call(user, **call)
    await node.end(request, await node.admit(request), prompt, completion)


async def refused(node: Any, user: str, **call: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await node.admit(node.call(user, **call))
    return caught.value


async def test_callers_without_caps_pass_by_but_are_booked(world: Any) -> None:
    node = world.node()
    call = node.call("free")
    assert await node.admit(call) is None
    await node.end(call, None, 10, 5)
    await node.ledger.flush()
    assert await world.balances("free") == dict.fromkeys(("all", "2026-11", "2026-11-21"), Amount(15, 20))
    assert await node.service.used("free") == dict.fromkeys(("all", "day", "month"), (15, 20))


async def test_the_settings_cap_those_who_have_no_caps_of_their_own(world: Any) -> None:
    node = world.node(default=Caps(tokens=50))
    rich = world.add(tokens=10**6)
    assert (await refused(node, "somebody", size=400)).code == "insufficient_quota"
    assert await node.admit(node.call(rich, size=400)) is not None


async def test_a_lease_serves_the_next_requests_without_the_database(world: Any, monkeypatch: Any) -> None:
    node, user = world.node(), world.add(tokens=10**6)
    await use(node, user, 10)
    monkeypatch.setattr(store, "standings", None)
    for _ in range(20):
        await use(node, user, 1)


async def test_while_the_database_is_away_the_lease_is_used_and_nothing_else(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, user, other = world.node(), world.add(tokens=10**6), world.add(tokens=10**6)
    await use(node, user, 10)

    async def away(*_: Any) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "standings", away)
        error = await refused(node, other)
        assert (error.status, error.code, error.retry_after) == (503, "quota_unavailable", 1)
        await use(node, user, 10)
        assert (await refused(node, user, size=100_000)).status == 503
        await use(node, user, 10)
    await use(node, other, 1)
    await use(node, user, 10, size=100_000)
    await node.settled()
    assert (await world.balances(user))["all"].tokens == 40
    assert await world.leases(user) == {}


async def test_a_server_that_stops_and_starts_again_is_nobody_s_credit(
    world_on_its_own_server: Any, own_postgres: Any
) -> None:
    world = world_on_its_own_server
    node, user, other = world.node(), world.add(tokens=10_000), world.add(tokens=100)
    await use(node, user, 10)
    own_postgres.stop()
    await use(node, user, 10)
    assert (await refused(node, other)).status == 503
    assert (await refused(node, user, size=4000)).status == 503
    own_postgres.start()
    await use(node, other, 10)
    await use(node, user, 10, size=4000)
    await node.settled()
    assert (await world.balances(user))["all"].tokens == 30
    assert await world.leases(user) == {}


async def test_a_commit_nobody_heard_of_leaves_nothing_leased_in_the_end(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, user = world.node(), world.add(tokens=10**6)
    real = store.write

    async def unheard(connection: AsyncConnection, *arguments: Any) -> None:
        await real(connection, *arguments)
        await connection.commit()
        raise Unavailable("the line broke")

    with monkeypatch.context() as patched:
        patched.setattr(store, "write", unheard)
        assert (await refused(node, user)).status == 503
    assert (await world.leases(user))[node.ledger.owner].tokens > 0
    await node.settled()
    assert await world.leases(user) == {}
    await use(node, user, 10)


async def test_a_client_that_leaves_while_it_waits_keeps_nothing(world: Any) -> None:
    node, user = world.node(), world.add(tokens=100)
    for turns in range(40):
        asking = asyncio.ensure_future(node.admit(node.call(user)))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        ended = (await asyncio.gather(asking, return_exceptions=True))[0]
        if not isinstance(ended, BaseException):
            ended.settle(Outcome("failed", 499))
    await node.settled()
    assert await world.leases(user) == {}
    assert await node.admit(node.call(user)) is not None


async def test_many_requests_at_once_share_few_transactions(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node = world.node()
    users = [world.add(tokens=10**6) for _ in range(20)]
    times = 0
    real = store.standings

    async def counted(*arguments: Any) -> Any:
        nonlocal times
        times += 1
        return await real(*arguments)

    monkeypatch.setattr(store, "standings", counted)
    await asyncio.gather(*(node.admit(node.call(user)) for user in users for _ in range(10)))
    assert times <= 3


async def test_who_has_used_up_a_cap_does_not_keep_the_database_busy(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, user = world.node(), world.add(tokens=100)
    await use(node, user, 40, 60, size=40, answer=60)
    await node.ledger.flush()
    assert (await refused(node, user)).code == "insufficient_quota"
    with monkeypatch.context() as patched:
        patched.setattr(store, "standings", None)
        for _ in range(10):
            assert (await refused(node, user)).code == "insufficient_quota"
        world.time += 1
        assert (await refused(node, user)).code == "quota_unavailable"
    world.change(user, tokens=1000)
    await use(node, user, 1)


async def test_of_requests_whose_bounds_do_not_fit_one_at_a_time_runs(world: Any) -> None:
    node, other, user = world.node(), world.node(), world.add(tokens=100)
    call = node.call(user, size=40, answer=90)
    permit = await node.admit(call)  # expects 100 at most 130
    assert (await refused(other, user, size=4, answer=1)).code == "quota_reserved"
    assert (await refused(node, user, size=4, answer=1)).code == "quota_reserved"
    await node.end(call, permit, 5, 5)
    await node.settled()
    await use(other, user, 1, size=4, answer=1)


async def test_lowered_caps_take_back_what_was_leased(world: Any) -> None:
    node, other, user = world.node(), world.node(), world.add(tokens=100_000)
    await use(node, user, 100)
    await node.ledger.flush()
    assert (await world.leases(user))[node.ledger.owner].tokens > 200
    await node.stop()
    world.change(user, tokens=200)
    for _ in range(3):
        await node.service.broker.round()
    node.task = asyncio.create_task(node.service.broker.run())
    assert sum(lease.tokens for lease in (await world.leases(user)).values()) <= 100
    assert (await refused(node, user, size=800)).code == "insufficient_quota"
    await use(other, user, 10, size=40)
    world.change(user, tokens=100_000)
    await use(node, user, 10, size=100_000)


async def test_what_lies_idle_goes_back(world: Any) -> None:
    node, user = world.node(), world.add(tokens=100_000)
    await use(node, user, 100)
    await node.settled()
    assert await world.leases(user) == {}
    assert node.service.broker.accounts == {}


async def test_what_a_settled_request_left_over_is_soon_there_for_other_processes(world: Any) -> None:
    node, other, user = world.node(), world.node(), world.add(tokens=1000)
    await use(node, user, 1, size=40, answer=900)
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(RateLimited):
                await use(other, user, 1, size=40, answer=800)
                break
            await asyncio.sleep(0.01)


async def test_a_new_day_and_a_new_month_start_anew(world: Any) -> None:
    node, user = world.node(), world.add(tokens_per_day=100, tokens_per_month=150)
    world.time += DAY - 1
    await use(node, user, 40, 60, size=40, answer=60)
    assert (await refused(node, user, size=40)).code == "quota_reserved"  # used, but nobody knows of which day
    await node.ledger.flush()
    error = await refused(node, user, size=40)
    assert (error.code, error.retry_after) == ("insufficient_quota", 1)
    world.time += 1
    await use(node, user, 40, 10, size=40, answer=10)
    await node.ledger.flush()
    error = await refused(node, user, size=40)
    assert "150 tokens a month; it starts anew on 2026-12-01" in error.message
    await node.settled()
    assert (await world.balances(user))["2026-11-22"].tokens == 50
    assert (await node.service.used(user))["day"] == (50, 60)
    world.time += 9 * DAY
    await use(node, user, 40, 10, size=40, answer=10)


async def test_a_machine_whose_clock_is_behind_respects_what_is_booked_on_the_new_day(world: Any) -> None:
    node, user = world.node(), world.add(tokens_per_day=100)
    world.time += DAY
    await use(node, user, 40, 60, size=40, answer=60)
    await node.settled()
    world.time -= 1
    assert (await refused(world.node(), user, size=40)).code == "insufficient_quota"


async def test_corrections_and_the_rows_of_the_dead_are_booked_without_touching_the_lease(world: Any) -> None:
    node, dead, user = world.node(), world.node(), world.add(tokens=10_000)
    await use(node, user, 10)
    call = dead.call(user)
    await dead.end(call, await dead.admit(call), 20, 0)
    await dead.crash()
    before = (await world.leases(user))[node.ledger.owner]
    await node.adopt(dead, close=False)
    assert (await world.leases(user))[node.ledger.owner] == before
    await node.adopt(dead)
    assert list(await world.leases(user)) == [node.ledger.owner]
    await node.ledger.flush()
    assert (await world.balances(user))["all"].tokens == 30


async def test_a_row_booked_before_its_request_is_settled_is_counted_once(world: Any) -> None:
    node, user = world.node(), world.add(tokens=10_000)
    call = node.call(user)
    permit = await node.admit(call)
    await node.end(call, None, 10, 5)
    await node.ledger.flush()
    call.target = node.catalog.group("m")[0]
    permit.settle(Outcome("complete", 200, Usage(10, 5)))
    await node.settled()
    assert (await world.balances(user))["all"].tokens == 15
    assert await world.leases(user) == {}
    assert node.service.broker.accounts == {}
    assert node.service.books.running == {}


async def test_a_lost_process_is_booked_as_used_and_unbooked_if_it_turns_up(world: Any, monkeypatch: Any) -> None:
    lost, node, user = world.node(), world.node(), world.add(tokens=10_000, tokens_per_day=10_000)
    await use(lost, user, 10)
    await lost.stop()  # silent from now on
    leased = (await world.leases(user))[lost.ledger.owner].tokens
    elapsed = 0.0
    monkeypatch.setattr(node.service.broker, "_elapsed", lambda: elapsed)
    await node.service.broker.renew()
    elapsed = 3599.0
    await node.service.broker.renew()
    assert (await world.leases(user))[lost.ledger.owner].tokens == leased
    elapsed = 3601.0
    await node.service.broker.renew()
    assert await world.leases(user) == {}
    assert (await world.balances(user))["all"].tokens == leased
    await lost.ledger.flush()  # it lives after all
    await lost.service.broker.renew()
    assert {amount.tokens for amount in (await world.balances(user)).values()} == {10}
    await lost.settled()
    assert await world.leases(user) == {}
    assert (await world.balances(user))["all"].tokens == 10


async def test_a_process_that_renews_is_not_lost(world: Any, monkeypatch: Any) -> None:
    alive, node, user = world.node(), world.node(), world.add(tokens=10_000)
    await use(alive, user, 10)
    for hours in range(3):
        monkeypatch.setattr(node.service.broker, "_elapsed", lambda: 3601.0 * hours)  # noqa: B023
        world.time += 3600
        await alive.service.broker.renew()
        await node.service.broker.renew()
    assert list(await world.leases(user)) == [alive.ledger.owner]


async def test_when_the_journal_of_a_lost_process_is_found_after_all_only_its_rows_count(
    world: Any, monkeypatch: Any
) -> None:
    lost, node, user = world.node(), world.node(), world.add(tokens=10_000)
    await use(lost, user, 10)
    await lost.crash()
    monkeypatch.setattr(node.service.broker, "_elapsed", lambda: 0.0)
    await node.service.broker.renew()
    monkeypatch.setattr(node.service.broker, "_elapsed", lambda: 4000.0)
    await node.service.broker.renew()
    await node.adopt(lost)
    assert (await world.balances(user))["all"].tokens == 10


def targets(**pricings: Pricing | None) -> list[Target]:
    return [Target(f"{name}#1", name, "mock", name, pricing=pricing) for name, pricing in pricings.items()]


async def test_a_model_without_a_price_is_refused_to_who_has_a_budget(world: Any) -> None:
    both = targets(m=None, priced=Pricing(1, 1))
    node, user, tokens = world.node(targets=both), world.add(budget=10**12), world.add(tokens=10**6)
    error = await refused(node, user)
    assert isinstance(error, PermissionDenied)
    assert (error.status, error.code, error.param) == (403, "unpriced_model", "model")
    assert await node.admit(node.call(tokens)) is not None
    assert await node.admit(node.call(user, model="priced")) is not None
    lenient = world.node(targets=both, allow_unpriced=True)
    assert await lenient.admit(lenient.call(user)) is not None


async def test_an_attempt_at_a_deployment_that_was_not_reserved_for_is_refused(world: Any) -> None:
    node, user = world.node(), world.add(budget=10**12)
    call: Call = node.call(user)
    permit: Permit = await node.admit(call)
    assert permit is not None
    good, unpriced, dearer = targets(good=Pricing(1, 1), unpriced=None, dearer=Pricing(10**6, 1))
    assert node.limiter.admit_attempt(call, good) is None
    with pytest.raises(PermissionDenied, match="'unpriced#1' has no price"):
        node.limiter.admit_attempt(call, unpriced)
    with pytest.raises(Unavailable, match="'dearer#1' costs more"):
        node.limiter.admit_attempt(call, dearer)
    assert node.limiter.admit_attempt(node.call("free"), unpriced) is None


async def test_the_next_request_is_reserved_for_by_the_price_of_now(world: Any) -> None:
    node, user = world.node(targets=targets(other=Pricing(1, 1))), world.add(budget=10**12)
    before, now = (Target("m#1", "m", "mock", "m", pricing=Pricing(price, 0)) for price in (1_000, 5_000))
    node.catalog.feed("rows", [before])
    first = await node.admit(node.call(user, size=40))
    node.catalog.feed("rows", [now])
    call = node.call(user, size=40)
    second = await node.admit(call)
    assert second.most.nano == 5 * first.most.nano
    assert node.limiter.admit_attempt(call, now) is None


async def test_a_free_model_can_be_used_when_the_budget_is_used_up(world: Any) -> None:
    node, user = world.node(targets=targets(m=Pricing(1, 1), free=Pricing(0, 0))), world.add(budget=0)
    assert (await refused(node, user)).code == "insufficient_quota"
    assert await node.admit(node.call(user, model="free")) is not None


async def test_absurd_requests_do_not_break_the_database(world: Any) -> None:
    node, user = world.node(), world.add(budget=10**9)
    for _ in range(50):
        call = node.call(user, size=4, answer=10**30)
        await node.end(call, await node.admit(call), 1, 0)
    await node.settled()
    assert (await world.balances(user))["all"] == Amount(50, 50)


async def test_ids_are_cut_as_the_ledger_cuts_them(world: Any) -> None:
    node = world.node(default=Caps(tokens=100))
    call = node.call("x" * 300 + "\0", size=40, answer=60)
    row = await node.end(call, await node.admit(call), 40, 60)
    node.ledger.rows = [structs.replace(row, user_id="x" * 256)]
    await node.ledger.flush()
    again = node.call("x" * 300, size=40)
    with pytest.raises(RateLimited, match="used up"):
        await node.admit(again)
