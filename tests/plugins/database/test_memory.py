"""What is answered from memory: how fast, for how long, and what a flood costs the database."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Unavailable
from gatehook.accounts import User
from gatehook_plugins.database.memory import Lru
from gatehook_plugins.database.vault import new_key


class Counted:
    """A database that counts who reads, and may be away or slow."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.reads = 0
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def glance(self, query: str) -> Any:
        return None if self.is_away else await self._real.glance(query)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Any]:
        self.reads += 1
        if self.is_away:
            raise Unavailable("away")
        async with self._real.reading() as connection:
            yield connection
            await self.gate.wait()


@pytest.fixture
async def node(serving_at: Any, tmp_path: Any) -> Any:
    """A gateway that serves, with a user and a key."""
    node = await serving_at(f"sqlite:///{tmp_path / 'a.db'}", grace=30)
    await node.directory.create_user("me", User("u"))
    node.key, node.text = await node.directory.create_key("me", "u")
    await node.directory.refresh()  # else what has just been made would be told of later, and be forgotten once
    node.counted = node.directory._memory._database = Counted(node.database)
    return node


async def test_a_known_key_costs_a_few_microseconds(node: Any) -> None:
    await node.directory.find(node.text)
    best = 1.0
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(100):
            await node.directory.find(node.text)
        best = min(best, (time.perf_counter() - began) / 100)
    assert best < 30e-6, "about 2 on an idle machine"
    assert node.counted.reads == 1


async def test_those_who_ask_for_one_key_at_once_share_one_query(node: Any) -> None:
    found = await asyncio.gather(*(node.directory.find(node.text) for _ in range(50)))
    assert {one[1].id for one in found} == {node.key.id}
    await asyncio.gather(*(node.directory.user("nobody") for _ in range(50)))
    assert node.counted.reads == 2


async def test_wrong_keys_are_remembered_too(node: Any) -> None:
    wrong = new_key()
    for _ in range(50):
        assert await node.directory.find(wrong) is None
        assert await node.directory.find("sk-something-else") is None
        assert await node.directory.user("nobody") is None
    assert node.counted.reads == 2


async def test_a_flood_of_wrong_keys_does_not_push_the_right_ones_out(node: Any) -> None:
    node.directory._memory._unknown = Lru(3)
    await node.directory.find(node.text)
    for _ in range(20):
        assert await node.directory.find(new_key()) is None
    assert len(node.directory._memory._unknown) == 3
    reads = node.counted.reads
    assert await node.directory.find(node.text)
    assert node.counted.reads == reads


async def test_who_gives_up_waiting_takes_nobody_along(node: Any) -> None:
    node.counted.gate.clear()
    hasty = asyncio.create_task(node.directory.find(node.text))
    patient = asyncio.create_task(node.directory.find(node.text))
    while not node.counted.reads:  # noqa: ASYNC110
        await asyncio.sleep(0)
    hasty.cancel()
    await asyncio.wait([hasty])
    node.counted.gate.set()
    assert await patient
    assert node.counted.reads == 1


async def test_an_answer_from_before_a_change_is_not_remembered(node: Any) -> None:
    node.counted.gate.clear()
    early = asyncio.create_task(node.directory.find(node.text))
    while not node.counted.reads:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)  # its snapshot is taken
    await node.directory.change_key("me", node.key.id, {"name": "new"})
    late = asyncio.create_task(node.directory.find(node.text))
    await asyncio.sleep(0)
    node.counted.gate.set()
    await early
    assert (await late)[1].name == "new"
    assert (await node.directory.find(node.text))[1].name == "new"


async def test_while_the_database_is_away_what_is_known_is_good_for_the_grace_and_no_longer(
    node: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    feed, memory, counted = node.directory._feed, node.directory._memory, node.counted
    node.directory._trail._database = counted
    assert await node.directory.find(node.text)
    counted.is_away = True

    async def missed() -> None:
        with pytest.raises(Unavailable):
            await feed.look()
        feed._missed()

    await missed()
    assert await node.directory.find(node.text), "from memory"
    reads = counted.reads
    with pytest.raises(Unavailable):
        await node.directory.find(new_key())
    assert counted.reads == reads, "nobody waits for what is away"

    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 31)
    await missed()
    await missed()
    with pytest.raises(Unavailable):
        await node.directory.find(node.text)
    with pytest.raises(Unavailable):
        await node.directory.user("u")

    counted.is_away = False
    await feed.look()
    assert await node.directory.find(node.text)
    assert not memory.is_away
    told = [record.getMessage() for record in caplog.records if record.name == "gatehook.database"]
    assert told == [
        "the database is away; users and keys in memory are good for 30 seconds",
        "the database has been away for 30 seconds; no keys are accepted until it is back",
        "the database is back; users and keys are looked up again",
    ]


async def test_following_goes_on_whatever_happens(node: Any, caplog: Any, soon: Any) -> None:
    trail = node.directory._trail
    real, trail.since = trail.since, None  # calling it is a TypeError

    async def is_told() -> bool:
        return "cannot be followed" in caplog.text

    assert await soon(is_told)
    trail.since = real

    async def is_back() -> bool:
        return not node.directory._memory.is_away

    assert await soon(is_back)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60), st.integers(1, 5))
def test_what_was_used_last_is_kept(steps: list[tuple[bool, int]], most: int) -> None:
    lru, model = Lru[int, int](most), list[int]()
    for is_put, key in steps:
        if is_put:
            lru.put(key, key)
        else:
            assert lru.get(key) == (key if key in model else None)
        if is_put or key in model:
            model = [*(one for one in model if one != key), key][-most:]
    assert len(lru) == len(model)
    assert all(lru.get(key) == key for key in model)
