"""Dates and dollars, as people write them."""

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatehook import InvalidRequest
from gatehook.accounts import dollars
from gatehook_plugins.admin_api.values import DAY, iso, moment, nano_dollars, period

MOST = 999_999_999 * 10**9
NOON = 1_795_262_400_000  # 2026-11-21T12:00:00Z


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21", NOON - DAY // 2),
        ("2026-11-21T12:00:00", NOON),
        ("2026-11-21T12:00:00Z", NOON),
        ("2026-11-21 12:00", NOON),
        ("2026-11-21T14:00:00+02:00", NOON),
        ("2026-11-21T14:00:00 02:00", NOON),  # an address's "+" that was not written %2B
        ("2026-11-21T12:00:00.123456Z", NOON + 123),
    ],
)
def test_a_date_or_date_time_is_utc_unless_it_names_a_zone(text: str, expected: int) -> None:
    assert moment(text, "start_date") == expected


def test_a_date_as_an_end_is_included_and_a_date_time_is_not_moved() -> None:
    assert moment("2026-11-21", "end_date", end=True) == NOON + DAY // 2
    assert moment("9999-12-31", "end_date", end=True) == 253_402_300_800_000
    assert moment("2026-11-21T12:00:00", "end_date", end=True) == NOON


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-02-30", "21.11.2026", "1795262400", "\x00", "∞"])
def test_what_is_no_date_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^start_date: expected an ISO 8601 date") as refused:
        moment(text, "start_date")
    assert refused.value.param == "start_date"


@pytest.mark.parametrize("text", ["1969-12-31", "0001-01-01T00:00:00+14:00"])
def test_what_was_before_1970_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="before 1970"):
        moment(text, "start_date")


@given(st.text(max_size=40))
def test_no_text_does_anything_but_name_a_moment_or_be_refused(text: str) -> None:
    with suppress(InvalidRequest):
        assert moment(text, "before") >= 0


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)), st.integers(-1439, 1439))  # noqa: DTZ001
def test_every_zone_leads_to_the_same_moment_and_back(naive: datetime, minutes: int) -> None:
    at = naive.replace(microsecond=naive.microsecond // 1000 * 1000, tzinfo=UTC)
    elsewhere = at.astimezone(timezone(timedelta(minutes=minutes)))
    assert moment(elsewhere.isoformat(), "start_date") == moment(at.isoformat(), "start_date")
    assert moment(iso(moment(at.isoformat(), "start_date")), "start_date") == moment(at.isoformat(), "start_date")


@given(st.dates(date(1970, 1, 1), date(9999, 12, 30)))
def test_a_day_is_from_its_first_moment_until_the_next_days(day: date) -> None:
    start, end = period(day.isoformat(), day.isoformat(), NOON)
    assert end - start == DAY
    assert end == moment((day + timedelta(1)).isoformat(), "start_date")


def test_a_period_is_thirty_days_long_and_ends_now_unless_told_otherwise() -> None:
    assert period(None, None, NOON) == (NOON + 1 - 30 * DAY, NOON + 1)
    assert period(None, "1970-01-02", NOON) == (0, 2 * DAY)


@pytest.mark.parametrize(
    ("start", "end"),
    [("2026-11-22", "2026-11-20"), ("2026-11-22", "2026-11-21"), ("2999-01-01", None), ("2026-11-22T10:00Z",) * 2],
)
def test_a_start_after_the_end_is_refused(start: str, end: str | None) -> None:
    with pytest.raises(InvalidRequest, match="start_date"):
        period(start, end, NOON)


@given(st.integers(0, MOST))
@example(MOST)
def test_every_amount_of_nano_dollars_can_be_written_exactly(amount: int) -> None:
    assert nano_dollars(Decimal(amount).scaleb(-9), "budget") == amount


@given(st.integers(0, 10**15))
def test_what_answers_show_is_read_back_as_the_same_amount(amount: int) -> None:
    assert nano_dollars(Decimal(str(dollars(amount))), "budget") == amount


@given(st.decimals())
def test_an_amount_is_exact_or_refused(amount: Decimal) -> None:
    with suppress(InvalidRequest):
        assert Decimal(nano_dollars(amount, "cost", least=-MOST)).scaleb(-9) == amount


@pytest.mark.parametrize(
    "text", ["-0.01", "NaN", "sNaN", "Infinity", "1e9", "1e400", "1e-10", "1.00000000000000000000000000001"]
)
def test_absurd_amounts_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^budget: "):
        nano_dollars(Decimal(text), "budget")
