"""How long a vendor asks to be left alone."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["retry_after"]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from 0 on; None if the vendor says nothing, or nothing sensible.

    OpenAI's `retry-after-ms` is the finer of the two it sends. `Retry-After` is a number of seconds or a date
    (RFC 9110, 10.2.3), which is read by the vendor's own clock where it tells the time.

    Args:
        headers: of the answer; names in any case.
    """
    milliseconds = _number(headers.get("Retry-After-Ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("Retry-After", "")
    seconds = _number(told)
    if seconds is not None or not told:
        return seconds
    until = _moment(told)
    if until is None:
        return None
    now = _moment(headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


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
