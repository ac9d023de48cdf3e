"""How long a vendor asks to be left alone, in every form it may say so."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gatehook.upstream.retry_after import retry_after

NOON = "Wed, 21 Oct 2026 12:00:00 GMT"


def told(**headers: str) -> float | None:
    return retry_after(CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7),
        ({"retry_after": " 0.5 "}, 0.5),
        ({"retry_after": "-4"}, 0),
        ({"retry_after": "1e308"}, 7 * 86_400),
        ({"retry_after": "Tue, 21 Dec 9999 12:00:30 GMT", "date": NOON}, 7 * 86_400),
        ({"retry_after_ms": "1e300"}, 7 * 86_400),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "2026-10-21T12:00:30Z", "date": NOON}, None),
        ({"retry_after": "Wed, 21 Oct 2026 12:00:30 GMT", "date": NOON}, 30),
        ({"retry_after": "Wed, 21 Oct 2026 14:00:30 +0200", "date": NOON}, 30),
        ({"retry_after": "Wed, 21 Oct 2026 12:00:30 -0000", "date": NOON}, 30),
        ({"retry_after": "Wednesday, 21-Oct-26 12:00:30 GMT", "date": NOON}, 30),
        ({"retry_after": "Wed, 21 Oct 2026 11:59:00 GMT", "date": NOON}, 0),
        ({"retry_after": "Wed, 99 Oct 2026 11:59:00 GMT", "date": NOON}, None),
        ({"retry_after_ms": "1500"}, 1.5),
        ({"retry_after_ms": "1500", "retry_after": "2"}, 1.5),
        ({"retry_after_ms": "?", "retry_after": "2"}, 2),
        ({"retry_after_ms": "-1"}, 0),
    ],
)
def test_each_form_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert told(**headers) == seconds


def test_without_the_vendor_s_time_ours_is_taken() -> None:
    later = datetime.now(UTC) + timedelta(minutes=1)
    seconds = told(retry_after=format_datetime(later, usegmt=True), date="once upon a time")
    assert seconds is not None
    assert 55 < seconds <= 60


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_whatever_is_said_it_is_a_time_or_nothing(seconds: str, milliseconds: str, date: str) -> None:
    found = told(retry_after=seconds, retry_after_ms=milliseconds, date=date)
    assert found is None or 0 <= found <= 7 * 86_400


@given(st.integers(0, 10**6))
def test_a_date_is_as_good_as_its_distance(seconds: int) -> None:
    now = datetime(2026, 10, 21, 12, tzinfo=UTC)
    until = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
    assert told(retry_after=until, date=NOON) == min(seconds, 7 * 86_400)
