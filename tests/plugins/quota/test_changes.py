"""Requests that transforms and tools have changed since they were admitted: reserved as they are sent."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import Call, Caps, Document, RateLimited, Section, Target, Transform, estimate, hookimpl
from gatehook.awaiting import awaited
from gatehook.estimates import look_again
from gatehook.testing import serving
from gatehook_plugins.quota import store
from gatehook_plugins.quota.account import NOTHING, Amount


def become(call: Call, size: int) -> None:
    """As the kernel has it, after a transform."""
    call.body = Document(call.payload, b" " * size)
    look_again(call)


@pytest.mark.parametrize("size", [10, 40, 400])
async def test_it_is_reserved_as_it_has_become_and_booked_as_it_was(world: Any, size: int) -> None:
    node, user = world.node(), world.add(tokens=10_000)
    call = node.call(user, size=40, answer=10)
    permit = await node.admit(call)
    become(call, size)
    await node.limiter.admit_change(call)
    whole = node.call(user, size=size, answer=10)
    assert permit.most == permit.account.held == (await node.admit(whole)).most
    await node.end(whole, node.limiter._running[whole.id], prompt=0, completion=0)
    await node.limiter.admit_round(call)
    assert permit.account.held.tokens == 2 * (size + 10)
    await node.end(call, permit, prompt=30, completion=5)
    await node.settled()
    assert {amount.tokens for amount in (await world.balances(user)).values()} == {35}
    assert permit.account.held == NOTHING


async def test_what_a_cap_has_no_room_for_is_refused_and_nothing_stays_reserved(world: Any) -> None:
    node, user = world.node(), world.add(tokens=100)
    call = node.call(user, size=40, answer=10)
    permit = await node.admit(call)
    become(call, 4_000)
    with pytest.raises(RateLimited):
        await node.limiter.admit_change(call)
    assert permit.account.held == permit.most == NOTHING
    other = node.call(user, size=80, answer=10)
    await node.end(other, await node.admit(other), prompt=80, completion=10)
    await node.end(call, permit, prompt=0, completion=0)
    await node.settled()
    assert permit.account.held == NOTHING
    assert {amount.tokens for amount in (await world.balances(user)).values()} == {90}


async def test_one_that_is_expected_to_fit_may_still_grow_a_little(world: Any) -> None:
    """It went beyond the cap by its bound, not by what is expected of it; its own bound is not in its way."""
    node, user = world.node(), world.add(tokens=100)
    call = node.call(user, size=120, answer=10)
    permit = await node.admit(call)
    become(call, 140)
    await node.limiter.admit_change(call)
    assert permit.account.held.tokens == 150
    with pytest.raises(RateLimited):
        await node.admit(node.call(user, size=4, answer=1))
    await node.end(call, permit, prompt=0, completion=0)


async def test_who_leaves_while_more_is_asked_for_leaves_nothing_reserved(world: Any) -> None:
    node, user = world.node(), world.add(tokens=100_000)
    call = node.call(user, size=40, answer=10)
    permit = await node.admit(call)
    await node.stop()
    become(call, 90_000)
    asked = node.service.broker._wake
    asked.clear()
    growing = asyncio.create_task(node.limiter.admit_change(call))
    async with asyncio.timeout(5):
        await asked.wait()
    growing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await growing
    await node.end(call, permit, prompt=0, completion=0)
    await node.settled()
    assert permit.account.held == NOTHING


async def test_a_job_s_reservation_grows_with_its_request(world: Any) -> None:
    node, user = world.node(), world.add(tokens=1_000)
    submitted = node.call(user, size=40, answer=10)
    async with world.database.writing() as connection:
        await node.limiter.reservation("job", submitted)(connection)
    run = node.call(user, size=40, answer=10)
    run.id, run.reservation = "job.1", "job"
    permit = await node.admit(run)
    become(run, 400)
    await node.limiter.admit_change(run)
    async with world.database.reading() as connection:
        assert await store.reserved(connection, "job") == permit.most == Amount(410, 420)
    become(run, 4_000)
    with pytest.raises(RateLimited):
        await node.limiter.admit_change(run)


async def test_callers_without_caps_are_not_asked_about(world: Any) -> None:
    node = world.node()
    call = node.call(world.add())
    assert await node.admit(call) is None
    await node.limiter.admit_change(call)


async def test_fallbacks_count_whoever_has_estimated_the_request_before(world: Any) -> None:
    targets = [
        Target("m#1", "m", "mock", "m", fallbacks=("n",), max_tokens=100, context_window=200),
        Target("n#1", "n", "mock", "n", max_tokens=4_000, context_window=8_000),
    ]
    node = world.node(targets=targets, default=Caps(tokens=100_000))
    found = []
    for before in (False, True):
        call = Call("chat", "openai", {}, model="m", body=Document({"messages": []}, b" " * 300))
        if before:
            estimate(call, node.catalog.group("m"))
        permit = await awaited(node.limiter.admit(call))
        found.append(permit.most.tokens)
        assert call.size is not None
        assert call.size.completion_most == 4_000
    assert found == [4_300, 4_300]


SETTINGS = """
[database]
url = "sqlite:///{folder}/a.db"
secret = "a secret of more than thirty-two letters, for tests"
[plugins.database]
[plugins.ledger]
directory = "{folder}/journal"
[plugins.quota]
tokens = 3000
[plugins.changing]
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[[models]]
name = "m"
vendor = "mock"
"""


class Changing:
    """Adds words to requests."""

    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_transforms(self) -> Iterable[Transform]:
        return [self]

    async def transform(self, call: Call) -> None:
        message = {"role": "system", "content": call.payload["messages"][0]["content"] * 100}
        call.body = Document({**call.payload, "messages": [message, *call.payload["messages"]]})


async def test_a_gateway_refuses_what_grows_beyond_a_cap_before_a_vendor_is_called(tmp_path: Path) -> None:
    text = SETTINGS.format(folder=tmp_path)
    async with serving(text, plugins={"changing": Changing}) as served, ClientSession() as session:
        statuses = []
        for words in ("x" * 2, "x" * 200):
            body = {"model": "m", "messages": [{"role": "user", "content": words}], "max_tokens": 20}
            async with session.post(f"{served.url}/v1/chat/completions", json=body) as answer:
                statuses.append(answer.status)
                said = await answer.json()
    assert statuses == [200, 429]
    assert said["error"]["code"] == "insufficient_quota"
