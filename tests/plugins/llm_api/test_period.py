"""Dates and windows, as queries write them."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import InvalidRequest
from gatehook_plugins.llm_api.period import Period

MONTH = dt.timedelta(days=30)
DAY_MS = 86_400_000
EARLY, LATE = (dt.datetime.fromisoformat(text) for text in ("1970-01-02", "2199-12-30"))  # naive, as hypothesis wants


def ms(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("start", "end", "begins", "ends"),
    [
        ("2026-11-01", "2026-11-30", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("2026-11-05", "2026-11-05", "2026-11-05T00:00:00Z", "2026-11-06T00:00:00Z"),
        ("2026-11-05T10:00:00", "2026-11-05T10:00:00.001Z", "2026-11-05T10:00:00Z", "2026-11-05T10:00:00.001Z"),
        ("2026-11-05T10:00:00+02:00", "2026-11-05", "2026-11-05T08:00:00Z", "2026-11-06T00:00:00Z"),
        ("2026-11-05T10:00:00 02:00", "2026-11-05 11:00", "2026-11-05T08:00:00Z", "2026-11-05T11:00:00Z"),
        ("2024-02-29", "2024-12-31", "2024-02-29T00:00:00Z", "2025-01-01T00:00:00Z"),
        ("1970-01-01", "2199-12-31", "1970-01-01T00:00:00Z", "2200-01-01T00:00:00Z"),
        ("20261101", "20261130", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("2026-W45-1", "2026-W45-7", "2026-11-02T00:00:00Z", "2026-11-09T00:00:00Z"),
        ("2026-11-05T10:00", "2026-11-05", "2026-11-05T10:00:00Z", "2026-11-06T00:00:00Z"),
    ],
)
def test_dates_name_a_period(start: str, end: str, begins: str, ends: str) -> None:
    period = Period.of_dates({"start_date": start, "end_date": end}, MONTH)
    assert (period.start, period.end) == (ms(begins), ms(ends))
    written = period.written()
    assert (ms(written["start"]), ms(written["end"])) == (period.start, period.end)


def test_without_dates_it_is_the_last_days_until_now() -> None:
    now = dt.datetime.now(dt.UTC).timestamp() * 1000
    for query in ({}, {"start_date": "", "end_date": ""}):
        period = Period.of_dates(query, MONTH)
        assert 0 < period.end - now < 5000
        assert period.end - period.start == 30 * DAY_MS
    alone = Period.of_dates({"end_date": "2026-01-31"}, MONTH)
    assert (alone.start, alone.end) == (ms("2026-01-02T00:00:00Z"), ms("2026-02-01T00:00:00Z"))
    assert Period.of_dates({"start_date": "2020-01-01"}, MONTH).start == ms("2020-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"start_date": "yesterday"}, "start_date"), ({"end_date": "2026-02-30"}, "end_date"),
        ({"start_date": "2026-13-01"}, "start_date"), ({"start_date": "01.02.2026"}, "start_date"),
        ({"start_date": "1767225600"}, "start_date"), ({"end_date": "2026-01-01T25:00"}, "end_date"),
        ({"start_date": "0001-01-01"}, "start_date"), ({"end_date": "9999-12-31"}, "end_date"),
        ({"end_date": "9999-12-31T23:59:59-14:00"}, "end_date"), ({"start_date": "99999-01-01"}, "start_date"),
        ({"start_date": "0001-01-01T00:00:00+14:00"}, "start_date"), ({"start_date": "2026-01-01\0"}, "start_date"),
        ({"start_date": "2026-11-02", "end_date": "2026-11-01"}, "start_date"),
        ({"start_date": "2026-11-01T00:00:01Z", "end_date": "2026-11-01T00:00:00Z"}, "start_date"),
        ({"start_date": "2199-01-01"}, "start_date"), ({"start_date": "2026-11-05 02:00 02:00 02:00"}, "start_date"),
        ({"start_date": "2026-11-01T00:00Z", "end_date": "2026-11-01T00:00Z"}, "start_date"),
        ({"end_date": " " * 20_000 + "2026-11-01"}, "end_date"), ({"end_date": "1:1: " * 20_000}, "end_date"),
        ({"start_date": "\u0662026-01-01"}, "start_date"), ({"start_date": "x" * 100_000}, "start_date"),
    ],
)  # fmt: skip
def test_a_date_that_is_none_is_refused_by_its_field(query: dict[str, str], field: str) -> None:
    for period in (Period.of_dates, Period.of_window):
        with pytest.raises(InvalidRequest) as refused:
            period(query, MONTH if period == Period.of_dates else 3600)  # type: ignore[arg-type]
        assert refused.value.param == field
        assert refused.value.message.startswith(f"{field}: ")
        assert len(refused.value.message) < 200


@given(st.text(max_size=30) | st.from_regex(r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d( |\+|-)\d\d:\d\d\Z"))
def test_any_text_is_a_date_or_refused(text: str) -> None:
    for query in ({"start_date": text}, {"end_date": text}, {"window": text}):
        try:
            period = Period.of_window(query, 60)
        except InvalidRequest:
            continue
        assert period.start < period.end


@given(st.datetimes(EARLY, LATE, timezones=st.just(dt.UTC)))
def test_a_moment_is_exact_to_the_millisecond(moment: dt.datetime) -> None:
    period = Period.of_dates({"start_date": moment.isoformat(), "end_date": "2199-12-31"}, MONTH)
    assert period.start == (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)


def test_a_window_is_seconds_until_now() -> None:
    now = dt.datetime.now(dt.UTC).timestamp() * 1000
    for query, seconds in (({}, 3600), ({"window": "1"}, 1), ({"window": "31622400"}, 31_622_400)):
        period = Period.of_window(query, 3600)
        assert period.end - period.start == seconds * 1000
        assert 0 < period.end - now < 5000
        assert period.minutes == seconds / 60


@pytest.mark.parametrize("window", ["0", "-1", "1.5", "1h", "31622401", "9" * 5000, " 60", "\u0661", "+5", "1e3"])
def test_a_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^window: expected whole seconds") as refused:
        Period.of_window({"window": window}, 60)
    assert refused.value.param == "window"


def test_a_window_beside_a_date_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^window: give either"):
        Period.of_window({"window": "60", "end_date": "2026-01-01"}, 60)
