"""What can be set of a model while the gateway runs, and what each value may be."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from gatehook import LONGEST_MODEL_NAME, InvalidRequest
from gatehook_plugins.database.checks import checked_text
from gatehook_plugins.database.fallbacks import nearest

__all__ = ["check_override"]

Check: TypeAlias = Callable[[Any, str], None]
"""Raises InvalidRequest about the value of a field."""

_MOST: Final = 10**15
"""The highest number of requests or tokens; anything above is a slip of the pen."""
_MOST_FALLBACKS: Final = 100


def check_override(changes: object) -> None:
    """Check what is to be set of a model; None, which takes a value back, may stand everywhere.

    Raises:
        InvalidRequest: an unknown key, or an invalid value; `param` names it.
    """
    _OVERRIDE(changes, "")


def _table(fields: Mapping[str, Check]) -> Check:
    def check(value: Any, param: str) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(param or "the body", "must be an object")
        for name, inner in value.items():
            place = f"{param}.{name}" if param else str(name)
            if name not in fields:
                raise _wrong(place[:80], f"unknown key{nearest(str(name), fields)}; there are: {', '.join(fields)}")
            if inner is not None:
                fields[name](inner, place)

    return check


def _whole(least: int, most: int) -> Check:
    def check(value: Any, param: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _wrong(param, f"must be a whole number from {least} to {most}, or null")

    return check


def _temperature(value: Any, param: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:  # NaN is neither
        raise _wrong(param, "must be a number from 0 to 2, or null")


def _flag(value: Any, param: str) -> None:
    if not isinstance(value, bool):
        raise _wrong(param, "must be true, false or null")


def _names(value: Any, param: str) -> None:
    if not isinstance(value, list) or len(value) > _MOST_FALLBACKS:
        raise _wrong(param, f"must be a list of at most {_MOST_FALLBACKS} names of models, or null")
    for place, name in enumerate(value):
        checked_text(name, f"{param}[{place}]", LONGEST_MODEL_NAME)


def _wrong(param: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {what}", param=param, code="invalid_value")


_OVERRIDE: Final = _table(
    {
        "enabled": _flag,
        "priority": _whole(-1_000_000, 1_000_000),
        "rate_limit": _table({"requests_per_minute": _whole(1, _MOST), "tokens_per_minute": _whole(1, _MOST)}),
        "fallback_models": _names,
        "parameters": _table({"default_temperature": _temperature, "max_tokens": _whole(1, _MOST)}),
    }
)
