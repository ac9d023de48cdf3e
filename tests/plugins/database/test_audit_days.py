"""Old lines of the audit are deleted, and nobody misses a change by it."""

import time
from collections.abc import Callable
from typing import Any

from gatehook import User, trimming
from gatehook_plugins.database import trail
from gatehook_plugins.database.trail import EVERYTHING, Trail


async def changed(node: Any, monkeypatch: Any, *users: str, at: int) -> None:
    with monkeypatch.context() as clock:
        clock.setattr(trail, "now", lambda: at)
        for name in users:
            await node.directory.create_user("me", User(name))


async def test_old_lines_go_and_the_numbers_go_on(one: Any, monkeypatch: Any) -> None:
    now = time.time_ns() // 1_000_000
    await changed(one, monkeypatch, "a", "b", "c", at=now - 10_000)
    await changed(one, monkeypatch, "d", at=now)
    monkeypatch.setattr(trail, "_PIECE", 2)
    assert [await one.directory.forget(now - 5_000) for _ in range(3)] == [2, 1, 0]
    (line,) = await one.directory.audit()
    assert (line.subject, line.id) == ("d", 4)
    assert await one.directory.user("a")
    await one.directory.create_user("me", User("e"))
    assert [line.id for line in await one.directory.audit()] == [5, 4]


async def test_who_has_not_seen_what_is_forgotten_takes_everything_for_changed(one: Any, monkeypatch: Any) -> None:
    now = time.time_ns() // 1_000_000
    await changed(one, monkeypatch, "a", "b", at=now - 10_000)
    await changed(one, monkeypatch, "c", at=now)
    follower = Trail(one.database)
    assert await follower.since(0) == (3, [("user", "a"), ("user", "b"), ("user", "c")])
    await one.directory.forget(now - 5_000)
    assert await follower.since(0) == (3, (EVERYTHING,))
    assert await follower.since(1) == (3, (EVERYTHING,))
    assert await follower.since(2) == (3, [("user", "c")])


async def test_it_is_done_by_a_gateway_that_is_told_to(
    serving_at: Any, database_url: str, monkeypatch: Any, soon: Callable[..., Any]
) -> None:
    monkeypatch.setattr(trimming, "_FIRST", 0.001)
    monkeypatch.setattr(trimming, "_PERIOD", 0.01)
    one = await serving_at(database_url, more="audit_days = 1")
    await changed(one, monkeypatch, "a", at=1)

    async def is_gone() -> bool:
        return not await one.directory.audit()

    assert await soon(is_gone, 5.0)
