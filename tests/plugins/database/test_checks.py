"""Properties of the values that are let in: whatever is accepted can be stored, and whatever is not is named."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import InvalidRequest
from gatehook.accounts import Caps, Key, Limits, User
from gatehook_plugins.database.checks import changed_key, changed_user, checked_id, is_text, page, plain
from gatehook_plugins.database.printing import seconds

T = TypeVar("T")

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
COUNT = st.none() | st.integers(0, 10**15)
MONEY = st.none() | st.integers(0, 10**18 - 1)


def tried(check: Callable[[], T]) -> tuple[T | None, InvalidRequest | None]:
    """What a check gives, or how it refuses."""
    try:
        return check(), None
    except InvalidRequest as refused:
        return None, refused


@given(st.text(max_size=140))
def test_an_id_is_refused_or_can_be_stored_as_it_is(text: str) -> None:
    taken, refused = tried(lambda: checked_id(text, "user_id"))
    if refused is not None:
        assert refused.param == "user_id"
        return
    assert taken == text == text.strip()
    assert 1 <= len(text) <= 128
    assert "/" not in text
    assert "\0" not in text
    text.encode("utf-8")


@given(st.text(st.characters(categories=["L", "N", "P"], exclude_characters="/"), min_size=1, max_size=128))
def test_letters_digits_and_signs_make_an_id(text: str) -> None:
    assert checked_id(text, "user_id") == text


@pytest.mark.parametrize("text", ["a\xa0b", "a\u3000b", "a\u2003b"])
def test_what_the_ledger_could_not_tell_from_another_is_no_id(text: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be shown"):
        checked_id(text, "user_id")


@given(ANYTHING)
def test_nothing_but_a_text_is_an_id(value: Any) -> None:
    if not isinstance(value, str):
        with pytest.raises(InvalidRequest):
            checked_id(value, "user_id")


@given(st.builds(Limits, COUNT, COUNT, COUNT), st.builds(Caps, COUNT, COUNT, COUNT, MONEY, MONEY, MONEY))
def test_limits_in_range_are_taken_as_they_are_and_fit_64_bits(limits: Limits, caps: Caps) -> None:
    user = changed_user(User("u"), {"limits": limits, "caps": caps})
    assert (user.limits, user.caps) == (limits, caps)
    numbers = [getattr(caps, name) or 0 for name in Caps.__struct_fields__]
    assert all(0 <= number < 2**63 for number in numbers)


@given(st.sampled_from([*Limits.__struct_fields__]), st.integers().filter(lambda n: not 0 <= n <= 10**15))
def test_limits_out_of_range_are_refused_by_name(name: str, number: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        changed_key(Key("k", "u", ""), {"limits": {name: number}})
    assert caught.value.param == f"limits.{name}"


@given(st.dictionaries(st.sampled_from([*User.__struct_fields__, "x"]), ANYTHING, max_size=4))
def test_changes_are_refused_by_name_or_give_a_sound_user(changes: dict[str, Any]) -> None:
    user, refused = tried(lambda: changed_user(User("u"), changes))
    if user is None:
        assert refused is not None
        assert (refused.param or "").partition(".")[0] in changes
        return
    assert changed_user(User("u"), {name: getattr(user, name) for name in changes}) == user
    assert isinstance(user.admin, bool)
    assert is_text(user.name)
    plain(changes)


@given(st.integers())
def test_a_page_holds_one_to_a_thousand(limit: int) -> None:
    assert 1 <= page(limit) <= 1000


@given(st.integers(0, 10**9 - 1), st.sampled_from("smhdw"))
def test_durations_are_read_as_written(number: int, unit: str) -> None:
    factor = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]
    assert seconds(f"{number}{unit}") == seconds(f" {number}{unit.upper()} ") == number * factor


@given(st.text(max_size=8))
def test_anything_else_is_no_duration(text: str) -> None:
    if not (text.strip()[:-1].isdigit() and text.strip()[:-1].isascii() and text.strip()[-1:].lower() in "smhdw"):
        with pytest.raises(ValueError, match="15m, 24h or 30d"):
            seconds(text)
