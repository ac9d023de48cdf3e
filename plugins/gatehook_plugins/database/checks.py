"""What users and keys may look like: every value that comes from outside is looked at here, and nowhere else."""

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from gatehook import LONGEST_MODEL_NAME, NANO, Caps, InvalidRequest, Key, Limits, User

__all__ = ["LATEST", "changed_key", "changed_user", "checked_id", "checked_text", "is_text", "page", "plain"]

S = TypeVar("S", Limits, Caps)

LATEST: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""

_MOST: Final = 10**15
"""The highest limit of requests or tokens; anything above is a slip of the pen."""

_MOST_MONEY: Final = 10**9 * NANO - 1
"""The highest cap of money, in nano-dollars."""

_MOST_MODELS: Final = 1000


def checked_id(value: object, param: str, most: int = 128, *, slash: bool = False) -> str:
    """An id: 1 to `most` characters that can be shown, no spaces at its ends; "/" only if `slash` allows it.

    The ledger keeps just these as they are: of any others, two might become one there.

    Raises:
        InvalidRequest: `value` is no such id.
    """
    text = checked_text(value, param, most)
    if not text:
        raise _wrong(param, "must not be empty")
    if text != text.strip():
        raise _wrong(param, "must not begin or end with a space")
    if not text.isprintable():
        raise _wrong(param, "must not contain signs that cannot be shown, nor spaces other than the plain one")
    if "/" in text and not slash:
        raise _wrong(param, "must not contain '/'")
    return text


def changed_user(user: User, changes: Mapping[str, Any]) -> User:
    """The user with these fields changed; `limits` and `caps` may be mappings, of which only what is named changes.

    Raises:
        InvalidRequest: an unknown field, or an invalid value; `param` names it.
    """
    return msgspec.structs.replace(user, **_checked(user, changes, _USER))


def changed_key(key: Key, changes: Mapping[str, Any]) -> Key:
    """The key with these fields changed.

    Raises:
        InvalidRequest: as for users.
    """
    return msgspec.structs.replace(key, **_checked(key, changes, _KEY))


def is_text(value: str, most: int = 200) -> bool:
    """Whether a database can be asked for `value`: at most `most` characters, none of them a control character."""
    return len(value) <= most and not any(unicodedata.category(letter).startswith("C") for letter in value)


def page(limit: int) -> int:
    """The size of a page for somebody who asks for `limit` rows: from 1 to 1000."""
    return max(1, min(limit, 1000))


def plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes as JSON can hold them, for the audit."""
    shown: dict[str, Any] = msgspec.to_builtins({**changes}, order="sorted")
    return shown


def _checked(
    now: User | Key, changes: Mapping[str, Any], fields: Mapping[str, Callable[[Any, str, Any], Any]]
) -> dict[str, Any]:
    if unknown := [name for name in changes if name not in fields]:
        raise _wrong(str(unknown[0])[:80], f"cannot be changed; there are: {', '.join(fields)}")
    return {name: fields[name](value, name, getattr(now, name)) for name, value in changes.items()}


def checked_text(value: object, param: str, most: int) -> str:
    """A text of `most` characters at most, without control characters.

    Raises:
        InvalidRequest: `value` is no such text.
    """
    if not isinstance(value, str):
        raise _wrong(param, "must be a text")
    if len(value) > most:
        raise _wrong(param, f"must have {most} characters at most")
    if not is_text(value, most):
        raise _wrong(param, "must not contain control characters")
    return value


def _name(value: object, param: str, now: object) -> str:
    return checked_text(value, param, 200)


def _flag(value: object, param: str, now: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(param, "must be true or false")
    return value


def _models(value: object, param: str, now: object) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple | set | frozenset):
        raise _wrong(param, "must be a list of names, or null for all")
    if len(value) > _MOST_MODELS:
        raise _wrong(param, f"must name {_MOST_MODELS} models at most")
    names = frozenset(checked_text(name, param, LONGEST_MODEL_NAME) for name in value)
    if "" in names:
        raise _wrong(param, "must not contain an empty name")
    return names


def _moment(value: object, param: str, now: object) -> int | None:
    return None if value is None else _count(value, param, LATEST)


def _count(value: object, param: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(param, "must be a whole number, or null for none")
    if not 0 <= value <= most:
        raise _wrong(param, f"must be from 0 to {most}")
    return value


def _numbers(value: object, param: str, now: S) -> S:
    if isinstance(value, type(now)):
        value = msgspec.structs.asdict(value)
    if not isinstance(value, Mapping):
        raise _wrong(param, "must be an object")
    known = now.__struct_fields__
    for name, number in value.items():
        place = f"{param}.{str(name)[:80]}"
        if name not in known:
            raise _wrong(place, f"is unknown; there are: {', '.join(known)}")
        if number is not None:
            _count(number, place, _MOST_MONEY if name.startswith("budget") else _MOST)
    return msgspec.structs.replace(now, **value)


def _wrong(param: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {what}", param=param, code="invalid_value")


_USER: Final[Mapping[str, Callable[[Any, str, Any], Any]]] = {
    "name": _name,
    "admin": _flag,
    "disabled": _flag,
    "models": _models,
    "limits": _numbers,
    "caps": _numbers,
}

_KEY: Final[Mapping[str, Callable[[Any, str, Any], Any]]] = {
    "name": _name,
    "admin": _flag,
    "disabled": _flag,
    "models": _models,
    "limits": _numbers,
    "expires": _moment,
}
