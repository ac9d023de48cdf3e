"""What a refused client is told."""

import pytest

from gatehook import Caps, RateLimited
from gatehook_plugins.quota.account import Amount, Need, Standing
from gatehook_plugins.quota.refusal import reserved, used_up, written

NOON = 1_795_262_400.0
"""2026-11-21."""
DOLLAR = 10**9


NEED = Need(Amount(10, DOLLAR // 20), Amount(10, DOLLAR // 20))


def refused(caps: Caps, standing: Standing) -> RateLimited:
    error = used_up(caps, standing, NEED, NOON)
    assert error is not None
    assert error.final
    return error


def test_a_used_up_budget_tells_the_cap_and_when_it_starts_anew() -> None:
    error = refused(Caps(budget_per_month=10 * DOLLAR), Standing(month=Amount(0, 10 * DOLLAR)))
    assert error.message == "the budget of this user is used up: $10.00 a month; it starts anew on 2026-12-01"
    assert (error.status, error.code, error.type) == (429, "insufficient_quota", "rate_limit_error")
    assert error.retry_after == (9 * 24 + 12) * 3600


def test_a_used_up_quota_of_a_day_starts_anew_at_midnight() -> None:
    error = refused(Caps(tokens_per_day=1000), Standing(day=Amount(1005)))
    assert error.message == "the quota of this user is used up: 1,000 tokens a day; it starts anew on 2026-11-22"
    assert error.retry_after == 12 * 3600


def test_a_cap_in_all_never_starts_anew() -> None:
    error = refused(Caps(tokens=1000), Standing(total=Amount(1000)))
    assert error.message == "the quota of this user is used up: 1,000 tokens in all"
    assert error.retry_after is None


def test_too_little_that_is_left_is_told() -> None:
    error = refused(Caps(budget_per_day=10 * DOLLAR), Standing(day=Amount(0, 998 * DOLLAR // 100)))
    assert error.message == (
        "what is left of this user's budget, $0.02 of $10.00 a day, is less than this request is expected to use, "
        "$0.05; it starts anew on 2026-11-22"
    )


def test_of_several_caps_the_one_that_lasts_longest_is_told() -> None:
    caps, standing = Caps(tokens_per_day=5, budget_per_month=1, tokens=7), Standing(Amount(7), Amount(7), Amount(7, 5))
    assert "7 tokens in all" in refused(caps, standing).message


def test_what_is_not_booked_may_come_back_in_a_moment() -> None:
    assert used_up(Caps(tokens=1000), Standing(Amount(45), others=Amount(950)), NEED, NOON) is None
    assert (reserved().status, reserved().code, reserved().retry_after) == (429, "quota_reserved", 1)
    assert not reserved().final


@pytest.mark.parametrize(
    ("what", "amount", "text"),
    [
        ("quota", 1, "1 token"),
        ("quota", 1234567, "1,234,567 tokens"),
        ("budget", 10 * DOLLAR, "$10.00"),
        ("budget", 1, "$0.000000001"),
        ("budget", 125_000, "$0.000125"),
        ("budget", 1_234_500_000_000, "$1,234.50"),
        ("budget", 0, "$0.00"),
    ],
)
def test_amounts_are_written_for_people(what: str, amount: int, text: str) -> None:
    assert written(what, amount) == text
