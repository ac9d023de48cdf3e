"""What is kept ready for callers: once for each, however many there are, and whoever they came in by."""

from typing import Any

import pytest

from gatehook import Call, Key, Limits, Principal, User
from gatehook.awaiting import awaited
from gatehook.catalog import LiveCatalog
from gatehook_plugins.rate_limit.limiter import RateLimiter
from gatehook_plugins.rate_limit.memory import MemoryStore

MINUTE = Limits(requests_per_minute=100)
ANN, BOB = User("ann", limits=MINUTE), User("bob", limits=MINUTE)


class Counting(MemoryStore):
    """Counts the gates that were made."""

    made = 0

    def gate(self, limits: Any) -> Any:
        self.made += 1
        return super().gate(limits)


@pytest.mark.parametrize(
    "callers",
    [
        [Principal("ann", key_id="jwt"), Principal("bob", key_id="jwt")],
        [Principal("ann", key_id="jwt", user=ANN), Principal("bob", key_id="jwt", user=BOB)],
        [Principal("ann", key_id=one, user=ANN, key=Key(one, "ann", "gk", limits=MINUTE)) for one in ("one", "two")],
        [
            Principal("ann", key_id="one", user=ANN, key=Key("one", "ann", "gk")),
            Principal("ann", key_id="jwt", user=ANN),
        ],
    ],
    ids=["tokens", "tokens of known users", "keys of one user", "a key and a token"],
)
async def test_callers_who_take_turns_are_remembered(callers: list[Principal]) -> None:
    store = Counting()
    limiter = RateLimiter(store, LiveCatalog([]), MINUTE, {})
    for _ in range(5):
        for principal in callers:
            await awaited(limiter.admit(Call("chat", "test", {}, principal=principal, model="m")))
            await limiter.standing(principal)
    assert store.made == len(callers)
