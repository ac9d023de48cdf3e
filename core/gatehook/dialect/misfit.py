"""The JSON of requests: read, and what those are refused with that do not fit their type."""

import difflib
import re
from collections.abc import Collection
from typing import Any, TypeVar

import msgspec

from gatehook.errors import InvalidRequest
from gatehook.jsonio import MalformedJSON, decode

__all__ = ["misfit", "read_as", "read_object"]

T = TypeVar("T")

_LONGEST = 200
"""Letters of what is wrong, and of names that are repeated from the request."""
_FAULT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)


def read_object(body: bytes, what: str = "a JSON object") -> dict[str, Any]:
    """A request's JSON object.

    Args:
        body: its text.
        what: was expected, for the message: "a JSON object with 'prompt'".

    Raises:
        InvalidRequest: it is none.
    """
    try:
        data = decode(body)
    except MalformedJSON as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise InvalidRequest(f"the body: expected {what}")
    return data


def read_as(body: bytes, kind: type[T]) -> T:
    """A request's JSON object, as a type.

    Args:
        body: its text.
        kind: a Struct, or `dict[str, Any]` for any object.

    Raises:
        InvalidRequest: it is none, or a field is wrong, missing or, where the type forbids that, unknown.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise misfit(error, getattr(kind, "__struct_fields__", ())) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        read_object(body)  # the slow reader tells more, or takes what is no text
        raise InvalidRequest("the body holds half of a surrogate pair, which is no text", code="invalid_json") from None


def misfit(error: msgspec.ValidationError, fields: Collection[str] = ()) -> InvalidRequest:
    """The field and what is wrong with it, in JSON's words: "messages[0].role: expected str, got int".

    Args:
        error: as msgspec tells it. It never repeats values, but the names of fields.
        fields: those that there are, to tell which was meant by an unknown one.
    """
    match = _FAULT.fullmatch(str(error))
    what, path = (match["what"], match["path"] or "") if match else (str(error), "")
    if missing := _MISSING.fullmatch(what):
        path, what = _below(path, missing["name"]), "required, but missing"
    elif unknown := _UNKNOWN.fullmatch(what):
        path, what = _below(path, unknown["name"][:_LONGEST]), f"no such field{_nearest(unknown['name'], fields)}"
    elif "matching regex" in what:  # of which all that there are forbid just these
        what = "must not contain control characters"
    what = what[:_LONGEST].replace("`", "").replace("Expected", "expected").replace("Invalid", "invalid")
    return InvalidRequest(f"{path or 'the body'}: {what}", param=path or None)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _nearest(word: str, words: Collection[str]) -> str:
    """What ends a message about `word`: the word most like it, else all of them."""
    found = difflib.get_close_matches(word[:_LONGEST].lower(), words, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; there are: {', '.join(words)}" if words else ""
