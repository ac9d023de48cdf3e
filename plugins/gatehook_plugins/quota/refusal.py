"""Why a request is refused, in words: which cap it would pass, what is left of it, and when it starts anew."""

import calendar
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from msgspec import Struct

from gatehook import NANO, Caps, ConcurrencyLimited, RateLimited
from gatehook_plugins.quota.account import Need, Standing

__all__ = ["reserved", "used_up", "written"]

_PERIODS: Final = ("in all", "a day", "a month")
"""In the order of `Caps.of_tokens`."""
_LONGEST_FIRST: Final = (0, 2, 1)


class _Cap(Struct, frozen=True):
    """One cap, and what stands against it."""

    what: str
    """"quota" for tokens, "budget" for money."""
    period: int
    most: int
    used: int
    needed: int

    @property
    def left(self) -> int:
        return self.most - self.used

    @property
    def is_short(self) -> bool:
        """Whether the request would not fit even if nothing else were running."""
        return bool(self.needed) and self.left < self.needed


def used_up(caps: Caps, standing: Standing, need: Need, now: float) -> RateLimited | None:
    """What to tell a client whose request would pass a cap even if nothing else were running; None if it would not.

    Only what is booked is called used up: of the rest some comes back, and some may belong to the day before.

    Args:
        caps: the user's.
        standing: what the database said.
        need: of the request.
        now: epoch seconds.
    """
    for cap in _caps(caps, standing, need):
        if cap.is_short:
            return _used_up(cap, now)
    return None


def reserved() -> RateLimited:
    """What to tell a client whose request was not admitted for another reason."""
    return ConcurrencyLimited(
        "what is left for this user is reserved by requests that are running or have just ended; try again in a moment",
        code="quota_reserved",
        retry_after=1,
    )


def _caps(caps: Caps, standing: Standing, need: Need) -> Iterator[_Cap]:
    """All that are set, those that last longest first."""
    for period in _LONGEST_FIRST:
        used = standing.periods[period]
        if (most := caps.of_tokens[period]) is not None:
            yield _Cap("quota", period, most, used.tokens, _at_least_one(need.expected.tokens, need.most.tokens))
        if (most := caps.of_money[period]) is not None:
            yield _Cap("budget", period, most, used.nano, _at_least_one(need.expected.nano, need.most.nano))


def _at_least_one(expected: int, most: int) -> int:
    return max(expected, 1) if most else 0


def _used_up(cap: _Cap, now: float) -> RateLimited:
    whole = f"{written(cap.what, cap.most)} {_PERIODS[cap.period]}"
    if cap.left <= 0:
        message = f"the {cap.what} of this user is used up: {whole}"
    else:
        left, needed = written(cap.what, cap.left), written(cap.what, cap.needed)
        message = (
            f"what is left of this user's {cap.what}, {left} of {whole}, is less than this request "
            f"is expected to use, {needed}"
        )
    end = _end(cap.period, now)
    if end is None:
        return RateLimited(message, code="insufficient_quota", final=True)
    message += f"; it starts anew on {end.date().isoformat()}"
    return RateLimited(message, code="insufficient_quota", retry_after=max(end.timestamp() - now, 1), final=True)


def _end(period: int, now: float) -> datetime | None:
    """When a day or month ends, UTC."""
    if period == 0:
        return None
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = 1 if period == 1 else calendar.monthrange(today.year, today.month)[1] - today.day + 1
    return today + timedelta(days=days)


def written(what: str, amount: int) -> str:
    """An amount for people: "1,000 tokens", "$10.00", "$0.000125"."""
    if what == "quota":
        return f"{amount:,} token{'' if amount == 1 else 's'}"
    text = f"{Decimal(amount) / NANO:,.9f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"${whole}.{cents:0<2}"
