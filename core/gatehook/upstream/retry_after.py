"""How long a vendor asks to be left alone."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["retry_after"]

_LONGEST = 7 * 86_400.0
"""Seconds; longer times are cut to this, as clients put them into timers, and a date of the year 9999 breaks some."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from 0 to a week; None if the vendor says nothing, or nothing sensible.

    OpenAI also sends `Retry-After-Ms`, which is finer. `Retry-After` is a number of seconds or a date (RFC 9110,
    10.2.3); a date is compared with the vendor's own clock, if the answer has a `Date`.

    Args:
        headers: of the answer; names in any case.
    """
    milliseconds = _number(headers.get("Retry-After-Ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, _LONGEST)
    told = headers.get("Retry-After", "")
    seconds = _number(told)
    if seconds is not None:
        return min(seconds, _LONGEST)
    if not told:
        return None
    until = _moment(told)
    if until is None:
        return None
    now = _moment(headers.get("Date", "")) or datetime.now(UTC)
    return min(max(0.0, (until - now).total_seconds()), _LONGEST)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
