"""Requests' JSON and query strings, read as types; and the 400 for a request that does not fit."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from multidict import MultiMapping

from gatehook.errors import InvalidRequest
from gatehook.jsonio import MalformedJSON, decode

__all__ = ["fitted", "misfit", "read_as", "read_object", "read_open", "read_query", "unread"]

T = TypeVar("T")

_LONGEST = 200
"""Characters of a fault's description, and of names that it repeats from the request."""
_FAULT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")
_VALUE = re.compile(r"Invalid (?:enum )?value (?P<value>.*)", re.DOTALL)
_STEP = re.compile(r"\[[^]]*\]|[^.[]+")
"""A field's name, or a place in a list, in a path."""
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)


def read_object(body: bytes, what: str = "a JSON object") -> dict[str, Any]:
    """A request's JSON object.

    Args:
        body: its text.
        what: what is expected, for the message: "a JSON object with 'prompt'".

    Raises:
        InvalidRequest: the body is not a JSON object.
    """
    data = _decoded(body)
    if not isinstance(data, dict):
        raise InvalidRequest(f"the body: expected {what}")
    return data


def _decoded(body: bytes) -> Any:
    try:
        return decode(body)
    except MalformedJSON as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None


def read_as(body: bytes, kind: type[T]) -> T:
    """A request's JSON object, as a type.

    Args:
        body: its text.
        kind: a Struct, or `dict[str, Any]` for any object.

    Raises:
        InvalidRequest: the body is not a JSON object; or a field is wrong, missing, or unknown where that is forbidden.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise misfit(error, getattr(kind, "__struct_fields__", ()), kind) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        read_object(body)  # the slow reader says what is wrong, or accepts lone surrogates, as in the next line
        raise InvalidRequest("the body holds half of a surrogate pair, which is no text", code="invalid_json") from None


def read_open(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A request's JSON object, which may have fields that its type does not name; they go to the vendor as they came.

    Args:
        body: its text.
        decoder: of a Struct that does not forbid unknown fields.

    Raises:
        InvalidRequest: the body is not a JSON object, or a field is wrong or missing.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec does not check the fields that it skips, and they go on to the vendor
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise misfit(error, kind=decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not JSON, or JSON with lone surrogates, which msgspec cannot hold: the slow reader finds out which.
        return fitted(_decoded(body), decoder.type)


def read_query(given: MultiMapping[str], kind: type[T]) -> T:
    """A request's query parameters, as a type.

    Args:
        given: `request.query`.
        kind: a Struct that forbids unknown fields.

    Raises:
        InvalidRequest: a parameter is wrong, unknown, or given twice.
    """
    for name in given:
        if len(given.getall(name)) > 1:
            raise InvalidRequest(f"{name[:64]}: given more than once", param=name[:64])
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise misfit(error, getattr(kind, "__struct_fields__", ()), kind) from None


def fitted(data: Any, kind: type[T]) -> T:
    """A decoded value of a request, as a type.

    Raises:
        InvalidRequest: a field does not fit; the message names it.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise misfit(error, kind=kind) from None
    except UnicodeEncodeError:
        raise InvalidRequest("a field's name, or a role, is a lone surrogate and no text") from None


def unread(given: Any, read: Any, path: str = "") -> Iterator[str]:
    """The paths of fields that a request has and its type does not name, as deep as that goes; but for empty ones.

    Args:
        given: the request, or a part of it, decoded.
        read: the same as its type, a Struct.
        path: where that is: "" or, as for a field's fields, "text.".
    """
    if isinstance(read, msgspec.Struct) and isinstance(given, dict):
        names = dict(zip(read.__struct_encode_fields__, read.__struct_fields__, strict=True))
        tag = read.__struct_config__.tag_field
        for name, value in given.items():
            if name in names:
                yield from unread(value, getattr(read, names[name]), f"{path}{name}.")
            elif name != tag and value not in (None, [], {}):
                yield path + name
    elif isinstance(read, list) and isinstance(given, list):
        for one, other in zip(given, read, strict=True):
            yield from unread(one, other, path)


def misfit(error: msgspec.ValidationError, fields: Collection[str] = (), kind: Any = None) -> InvalidRequest:
    """The error that names the field and what is wrong with it: "messages[0].role: expected str, got int".

    Args:
        error: msgspec's, which never repeats values, only names of fields.
        fields: the known fields, to suggest one for an unknown one.
        kind: the type, to suggest a value for an unknown one of a field that has one of several.
    """
    match = _FAULT.fullmatch(str(error))
    what, path = (match["what"], match["path"] or "") if match else (str(error), "")
    if missing := _MISSING.fullmatch(what):
        path, what = _below(path, missing["name"]), "required, but missing"
    elif unknown := _UNKNOWN.fullmatch(what):
        path, what = _below(path, unknown["name"][:_LONGEST]), f"no such field{_nearest(unknown['name'], fields)}"
    elif other := _VALUE.fullmatch(what):
        value = other["value"][:_LONGEST]
        word = value.removeprefix("'").removesuffix("'")
        shown = value if word == value else repr(word)
        what = f"invalid value {shown}{_nearest(word, _words(kind, path))}"
    elif "matching regex" in what:  # all patterns of our types forbid just these
        what = "must not contain control characters"
    else:
        what = what[:_LONGEST].replace("`", "").replace("Expected", "expected").replace("Invalid", "invalid")
    return InvalidRequest(f"{path or 'the body'}: {what}", param=path or None)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _words(kind: Any, path: str) -> Collection[str]:
    """What the field at `path` may say, where it is one of several words or tells types apart; () if not known."""
    if kind is None:
        return ()
    (top,), definitions = msgspec.json.schema_components([kind], ref_template="{name}")
    places = _alternatives(top, definitions)
    way = _STEP.findall(path)
    while way and way[-1].startswith("["):  # one of a list of words
        way.pop()
    field = way.pop() if way else ""
    for step in way:
        below = [_step(place, step) for place in places]
        places = [one for schema in below for one in _alternatives(schema, definitions)]
    found = [_enumerated(_step(place, field)) for place in places]
    return list(dict.fromkeys(str(word) for words in found for word in words))


def _alternatives(schema: Any, definitions: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a value may be, each without references."""
    if not isinstance(schema, dict):
        return []
    if "$ref" in schema:
        return _alternatives(definitions[schema["$ref"]], definitions)
    if "anyOf" in schema:
        return [one for other in schema["anyOf"] for one in _alternatives(other, definitions)]
    return [schema]


def _step(schema: Mapping[str, Any], step: str) -> Any:
    """The schema of a field, or of what is in a list or a mapping (for which a step begins with a bracket)."""
    if step.startswith("["):
        return schema.get("items") or schema.get("additionalProperties")
    return schema.get("properties", {}).get(step)


def _enumerated(schema: Any) -> Sequence[Any]:
    """The values that a field's schema lists, for itself or what it is a list of."""
    if isinstance(schema, list):
        return [value for one in schema for value in _enumerated(one)]
    if not isinstance(schema, dict):
        return ()
    return schema.get("enum") or _enumerated([schema.get("anyOf"), schema.get("items")])


def _nearest(word: str, words: Collection[str]) -> str:
    """The end of a message about an unknown word: the most similar known one, or all of them."""
    import difflib  # only faults need it

    found = difflib.get_close_matches(word[:_LONGEST].lower(), words, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; there are: {', '.join(words)}" if words else ""
