"""What the commands write: tables for people, JSON for programs; and how they read durations."""

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gatehook import Caps, Key, Limits, User, dollars

__all__ = ["as_json", "key_row", "moment", "note", "say", "seconds", "table", "user_lines", "user_row"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhdw])", re.ASCII)


def seconds(text: str) -> int:
    """A duration such as "90s", "15m", "24h", "30d" or "2w", in seconds.

    Raises:
        ValueError: `text` is no duration.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError("expected a duration such as 15m, 24h or 30d")
    return int(match[1]) * _UNITS[match[2]]


def say(text: str) -> None:
    """A line for whoever asked, or a program that reads on."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line for people only."""
    sys.stderr.write(text + "\n")


def as_json(value: Any) -> str:
    """Users and keys as they are: times in epoch milliseconds, money in nano-dollars."""
    return json.dumps(msgspec.to_builtins(value, order="deterministic"), indent=2, ensure_ascii=False)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, as wide as their widest cell."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows])
    return "\n".join(line.rstrip() for line in lines)


def key_row(key: Key, now: int) -> Sequence[str]:
    """ID, BEGINS, USER, NAME, ROLE, MODELS, LIMITS, EXPIRES, STATE."""
    state = "disabled" if key.disabled else "expired" if key.expires is not None and key.expires <= now else "on"
    role = "admin" if key.admin else "user"
    expires = "never" if key.expires is None else moment(key.expires)
    return (key.id, key.prefix, key.user_id, key.name or "-", role, _models(key.models), _limits(key.limits), expires,
            state)  # fmt: skip


def user_row(user: User) -> Sequence[str]:
    """ID, NAME, ROLE, MODELS, LIMITS, CAPS, STATE."""
    role = "admin" if user.admin else "user"
    state = "disabled" if user.disabled else "on"
    return user.id, user.name or "-", role, _models(user.models), _limits(user.limits), _caps(user.caps), state


def user_lines(user: User) -> str:
    """Everything of one user, a line each."""
    head = ("id", "name", "role", "models", "limits", "caps", "state", "created", "updated")
    row = (*user_row(user), moment(user.created), moment(user.updated))
    return "\n".join(f"{name:<8} {value}" for name, value in zip(head, row, strict=True))


def _models(models: frozenset[str] | None) -> str:
    return "all" if models is None else ", ".join(sorted(models)) or "none"


def _limits(limits: Limits) -> str:
    units = ("requests/min", "tokens/min", "at once")
    return _told(f"{limit} {unit}" for limit, unit in zip(_values(limits), units, strict=True) if limit is not None)


def _caps(caps: Caps) -> str:
    periods = ("", "/day", "/month")
    tokens = [f"{cap} tokens{period}" for cap, period in zip(caps.of_tokens, periods, strict=True) if cap is not None]
    money = [
        f"${dollars(cap):g}{period}" for cap, period in zip(caps.of_money, periods, strict=True) if cap is not None
    ]
    return _told([*tokens, *money])


def _values(limits: Limits) -> Sequence[int | None]:
    return limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent_requests


def _told(parts: Any) -> str:
    return ", ".join(parts) or "none"


def moment(at: int) -> str:
    """Epoch milliseconds in UTC, to the minute."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M") + "Z"
