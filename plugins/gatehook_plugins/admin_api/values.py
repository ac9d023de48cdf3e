"""Between what people write and what is kept: dates and epoch milliseconds, dollars and nano-dollars."""

import re
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from gatehook import NANO, InvalidRequest

__all__ = ["DAY", "iso", "moment", "nano_dollars", "now", "period"]

DAY = 86_400_000
"""Milliseconds."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOST_PLUS = re.compile(r"(.*\d:.*) (\d\d:\d\d)")
"""A date-time whose zone had a plus sign: in an address that means a space, unless it is written %2B."""
_MILLISECOND = timedelta(milliseconds=1)
_LAST = 253_402_300_799_999
"""The last millisecond of the year 9999."""

_MOST = 999_999_999 * NANO
"""Nano-dollars: a signed 64-bit integer still holds them, with room to add."""


def now() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


def moment(text: str, param: str, *, end: bool = False) -> int:
    """Epoch milliseconds of an ISO 8601 date or date-time; without a time zone it is UTC.

    A date is its first moment; as the end of something it is included, so it is the next day's first moment.

    Raises:
        InvalidRequest: it is neither, or before 1970.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return _since_epoch(_time(text, param), param)
    return _since_epoch(datetime(day.year, day.month, day.day, tzinfo=UTC), param) + (DAY if end else 0)


def _time(text: str, param: str) -> datetime:
    try:
        at = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
    except ValueError:
        raise InvalidRequest(
            f"{param}: expected an ISO 8601 date or date-time, such as 2026-11-21 or 2026-11-21T10:00:00Z",
            param=param,
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _since_epoch(at: datetime, param: str) -> int:
    since = (at - _EPOCH) // _MILLISECOND
    if since < 0:
        raise InvalidRequest(f"{param}: must not be before 1970", param=param)
    return since


def period(start: str | None, end: str | None, at: int) -> tuple[int, int]:
    """From `start` until before `end`, in epoch milliseconds.

    Without a start it is 30 days long; without an end it ends at the moment `at`, which is now.

    Raises:
        InvalidRequest: a date cannot be read, or the start is not before the end.
    """
    until = at + 1 if end is None else moment(end, "end_date", end=True)
    since = max(until - 30 * DAY, 0) if start is None else moment(start, "start_date")
    if since >= until:  # also the day after an end that is a date, and so is included
        raise InvalidRequest("start_date: must be before end_date, which is now if not given", param="start_date")
    return since, until


def iso(at: int) -> str:
    """Epoch milliseconds as an ISO 8601 date-time in UTC; past the year 9999, which nothing can write, its end."""
    utc = _EPOCH + timedelta(milliseconds=min(at, _LAST))
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def nano_dollars(amount: Decimal, param: str, *, least: int = 0, most: int = _MOST) -> int:
    """Dollars in nano-dollars, exactly; from `least` to `most` of these.

    Raises:
        InvalidRequest: not a number, finer than nano-dollars, or out of bounds.
    """
    try:
        exact = amount * NANO
        fits = least <= exact <= most
    except ArithmeticError:  # NaN, or beyond what decimals can hold
        fits = False
    if not fits:
        bounds = f"from {least // NANO:,} to {most // NANO:,}"
        raise InvalidRequest(f"{param}: expected an amount of dollars {bounds}, such as 12.50", param=param)
    whole = int(exact)
    if Decimal(whole) / NANO != amount:  # a fraction was lost, here or when the product was rounded
        raise InvalidRequest(f"{param}: at most nine digits after the point", param=param)
    return whole
