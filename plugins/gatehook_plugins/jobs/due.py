"""When something that is put off is due: also after somebody has put the clock back."""

from typing import Any, Final

import sqlalchemy as sa

__all__ = ["LONGEST_BACKOFF", "LONGEST_WEBHOOK_BACKOFF", "is_due"]

LONGEST_BACKOFF: Final = 600.0
"""Seconds; nothing puts a job off for longer at once."""
LONGEST_WEBHOOK_BACKOFF: Final = 3600.0
"""The same for the deliveries of a webhook."""


def is_due(column: "sa.Column[Any]", longest: float) -> sa.ColumnElement[bool]:
    """The condition that a time, in epoch milliseconds, has come at `now`; NULL never does.

    What is further ahead than the `longest` delay, in seconds, was written before the clock was put back: it would
    stand still for as long as that was.
    """
    now = sa.bindparam("now", type_=sa.BigInteger)
    return sa.or_(column <= now, column > now + int(longest * 1000))
