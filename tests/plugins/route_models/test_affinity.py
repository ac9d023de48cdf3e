from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatehook import Principal, Target
from gatehook_plugins.route_models.affinity import Affinity
from gatehook_plugins.route_models.tiers import Tier

Make = Callable[..., Any]


def tier(weights: dict[str, float]) -> Tier:
    return Tier([Target(key, "a", "mock", "m") for key in weights], list(weights.values()))


def places(weights: dict[str, float], sessions: int = 2000) -> list[str]:
    affinity, made = Affinity("user"), tier(weights)
    return [affinity.order(made, number.to_bytes(16))[0].key for number in range(sessions)]


async def test_a_session_stays_at_its_deployment(routed: Make, tier: Make) -> None:
    one = routed(*tier(8), affinity="header:X-Session")
    for session in ("one", "two", "three"):
        assert len({tuple(await one.keys(session=session)) for _ in range(20)}) == 1
    assert len({await one.first(session=str(number)) for number in range(100)}) == 8


async def test_a_request_without_a_session_goes_by_the_strategy(routed: Make, tier: Make) -> None:
    one = routed(*tier(3), affinity="header:X-Session", strategy="round_robin")
    assert [await one.first() for _ in range(3)] == ["a#0", "a#1", "a#2"]
    nobody = routed(*tier(3), affinity="user", strategy="round_robin")
    assert [await nobody.first() for _ in range(3)] == ["a#0", "a#1", "a#2"]


async def test_users_are_sessions_and_the_same_session_of_two_users_is_two(routed: Make, tier: Make) -> None:
    users = [Principal(f"u{number}") for number in range(60)]
    one = routed(*tier(4), affinity="user")
    assert len({await one.first(principal=users[0]) for _ in range(20)}) == 1
    assert len({await one.first(principal=user) for user in users}) == 4
    named = routed(*tier(4), affinity="header:X-Session")
    assert len({await named.first(principal=user, session="1") for user in users}) == 4


async def test_all_processes_agree(routed: Make, tier: Make) -> None:
    one, other = (routed(*tier(5), affinity="header:X-Session", seed=seed) for seed in (1, 2))
    for number in range(50):
        assert await one.keys(session=str(number)) == await other.keys(session=str(number))


def test_weights_share_the_sessions() -> None:
    found = Counter(places({"a": 1.0, "b": 3.0}))
    assert 0.70 < found["b"] / 2000 < 0.80


@given(
    weights=st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 5), min_size=2, max_size=6),
    data=st.data(),
)
def test_who_leaves_moves_only_its_own_sessions(weights: dict[str, int], data: st.DataObject) -> None:
    leaving = data.draw(st.sampled_from(sorted(weights)))
    left = {key: float(weight) for key, weight in weights.items() if key != leaving}
    before = places({key: float(weight) for key, weight in weights.items()}, 100)
    for was, now in zip(before, places(left, 100), strict=True):
        assert was in (now, leaving)


def test_a_heavier_weight_only_draws_sessions() -> None:
    before, after = places({"a": 1.0, "b": 1.0, "c": 1.0}), places({"a": 2.0, "b": 1.0, "c": 1.0})
    moved = [(was, now) for was, now in zip(before, after, strict=True) if was != now]
    assert {now for _, now in moved} == {"a"}
    assert 0.10 < len(moved) / 2000 < 0.24  # from a third to a half


def test_weights_of_any_size_rank() -> None:
    assert set(places({"a": 5e-324, "b": 1.7e308, "c": 1.7e308}, 200)) == {"b", "c"}


def test_sessions_do_not_fill_the_memory() -> None:
    affinity, made = Affinity("user"), tier({"a": 1.0, "b": 1.0})
    for number in range(12_000):
        affinity.order(made, number.to_bytes(16))
    assert len(affinity._orders) == 10_000
