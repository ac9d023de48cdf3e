"""Periods of time, as the statistics' queries name them."""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Final, Self

from msgspec import Struct

from gatehook import InvalidRequest

__all__ = ["Period"]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
_DAY: Final = dt.timedelta(days=1)
_YEARS: Final = range(1970, 2200)
_LONGEST_WINDOW: Final = 366 * 86_400
_LONGEST_DATE: Final = len("2026-11-30")
"""What is longer has a time."""
_LONGEST_TEXT: Final = 40
_LOST_PLUS: Final = re.compile(r"(?<=\d) (?=\d\d:\d\d$)")
"""In a query a plus sign means a space, unless it is written %2B: "…T12:00:00 02:00" was meant to have a zone."""


class Period(Struct, frozen=True):
    """From `start` until before `end`, in epoch milliseconds."""

    start: int
    end: int

    @classmethod
    def of_dates(cls, query: Mapping[str, str], default: dt.timedelta) -> Self:
        """What `start_date` and `end_date` tell; `default` long where there is no start, until now without an end.

        Both are ISO 8601, dates or date-times, UTC where they name no zone. An `end_date` without a time is included.

        Raises:
            InvalidRequest: no such date, or the start is not before the end.
        """
        begun, ended = query.get("start_date"), query.get("end_date")
        end = _moment("end_date", ended, whole_day=True) if ended else _now()
        start = _moment("start_date", begun) if begun else end - default
        if start >= end:
            message = f"start_date: {_written(start)} is not before the end, {_written(end)}"
            raise InvalidRequest(message, param="start_date")
        return cls((start - _EPOCH) // _MILLISECOND, (end - _EPOCH) // _MILLISECOND)

    @classmethod
    def of_window(cls, query: Mapping[str, str], default: int) -> Self:
        """The last `window` seconds, or else `default`; or what `of_dates` tells, if the query names a date.

        Raises:
            InvalidRequest: a window that is no number or too long, or one beside a date.
        """
        window = query.get("window", "")
        if query.get("start_date") or query.get("end_date"):
            if window:
                raise InvalidRequest("window: give either a window or dates, not both", param="window")
            return cls.of_dates(query, dt.timedelta(seconds=default))
        if window and not (re.fullmatch(r"[0-9]{1,9}", window) and 1 <= int(window) <= _LONGEST_WINDOW):
            raise InvalidRequest(f"window: expected whole seconds, from 1 to {_LONGEST_WINDOW}", param="window")
        end = (_now() - _EPOCH) // _MILLISECOND
        return cls(end - int(window or default) * 1000, end)

    @property
    def minutes(self) -> float:
        """How long it is."""
        return (self.end - self.start) / 60_000

    def written(self) -> dict[str, str]:
        """Both ends, as ISO 8601 in UTC."""
        return {name: _written(_EPOCH + ms * _MILLISECOND) for name, ms in (("start", self.start), ("end", self.end))}


def _now() -> dt.datetime:
    """The next millisecond: what ended in this one has happened."""
    return dt.datetime.now(dt.UTC) + _MILLISECOND


def _moment(field: str, text: str, *, whole_day: bool = False) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(_with_plus(text[:_LONGEST_TEXT]))
    except ValueError:
        raise InvalidRequest(
            f"{field}: expected a date such as 2026-11-30, or a time such as 2026-11-30T12:00:00Z", param=field
        ) from None
    if moment.year not in _YEARS:
        raise InvalidRequest(f"{field}: expected a year from {_YEARS[0]} to {_YEARS[-1]}", param=field)
    if whole_day and len(text) <= _LONGEST_DATE:
        moment += _DAY
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def _with_plus(text: str) -> str:
    return _LOST_PLUS.sub("+", text) if text.count(":") > 1 else text


def _written(moment: dt.datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
