"""Makes the smallest sensible value that a JSON Schema allows, for answers that must conform to one.

Covers what structured outputs and tools are written with: types, objects with required properties, arrays, enums,
constants, bounds, formats, references (also recursive ones), anyOf, oneOf and allOf. A `pattern` is not obeyed.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, Final

from gatehook import encode

__all__ = ["SchemaTooLarge", "instance"]

_MAX_SIZE: Final = 50_000
"""About as many characters as one instance may have: schemas come from clients, and may ask for any length."""
_MAX_DEPTH: Final = 60
_PREFER_NULL: Final = 6
"""From this depth on a value that may be null is null: this is what ends recursive schemas."""

_FORMATS: Final = {
    "date-time": "2025-01-01T00:00:00Z",
    "date": "2025-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "idn-email": "someone@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uri-reference": "/",
    "iri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "json-pointer": "/a",
    "regex": ".",
}


class SchemaTooLarge(ValueError):
    """The schema demands more than a mock writes, or something without end."""


def instance(schema: Any) -> Any:
    """A value that conforms to `schema`.

    Raises:
        SchemaTooLarge: it would be too large or too deep.
    """
    try:
        return _Maker(schema).make(schema, 0)
    except OverflowError:
        raise SchemaTooLarge("the schema demands too large a number") from None


class _Maker:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._size = 0

    def make(self, schema: Any, depth: int) -> Any:
        self._grow(1)
        if depth > _MAX_DEPTH:
            raise SchemaTooLarge("the schema never ends")
        schema = self._flat(schema, depth)
        if given := [schema["const"]] if "const" in schema else _list(schema, "enum")[:1]:
            self._grow(len(encode(given)))
            return given[0]
        match _type_of(schema, depth):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "integer":
                return _number(schema, whole=True)
            case "number":
                return _number(schema, whole=False)
            case "boolean":
                return True
            case _:
                return None

    def _grow(self, by: int) -> None:
        self._size += by
        if self._size > _MAX_SIZE:
            raise SchemaTooLarge("the schema demands too large a value")

    def _flat(self, schema: Any, depth: int) -> dict[str, Any]:
        """The schema with its references and combinations merged in."""
        flat: dict[str, Any] = schema if isinstance(schema, dict) else {}
        for _ in range(_MAX_DEPTH - depth):
            self._grow(1 + len(flat) + len(_table(flat, "properties")))
            if "$ref" in flat:
                flat = _merged(self._resolved(flat["$ref"]), _without(flat, "$ref"))
            elif parts := _list(flat, "allOf"):
                flat = _without(flat, "allOf")
                for part in parts:
                    flat = _merged(flat, self._flat(part, depth + 1))
                    self._grow(1 + len(flat) + len(_table(flat, "properties")))
            elif options := _list(flat, "anyOf"):
                flat = _merged(_without(flat, "anyOf"), self._chosen(options, depth))
            elif options := _list(flat, "oneOf"):
                flat = _merged(_without(flat, "oneOf"), self._chosen(options, depth))
            else:
                return flat
        raise SchemaTooLarge("the schema's references never end")

    def _chosen(self, options: list[Any], depth: int) -> Any:
        null = [one for one in options if isinstance(one, dict) and one.get("type") == "null"]
        others = [one for one in options if one not in null]
        return (null or others)[0] if depth >= _PREFER_NULL or not others else others[0]

    def _resolved(self, reference: Any) -> dict[str, Any]:
        found = self._root
        if not isinstance(reference, str) or not reference.startswith("#"):
            return {}
        for step in reference.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            found = found.get(step) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = _table(schema, "properties")
        other = schema.get("additionalProperties")
        names = dict.fromkeys(name for name in _list(schema, "required") if isinstance(name, str))
        least = _count(schema, "minProperties")
        for name in itertools.chain(properties, map("key{}".format, range(least))):
            if len(names) >= least:
                break
            names[name] = None
            self._grow(1)
        made: dict[str, Any] = {}
        for name in names:
            self._grow(len(name))
            made[name] = self.make(properties.get(name, other), depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        items = schema.get("items")
        first = _list(schema, "prefixItems") or (items if isinstance(items, list) else [])
        least = _count(schema, "minItems")
        return [self.make(first[n] if n < len(first) else items, depth + 1) for n in range(least)]

    def _string(self, schema: Mapping[str, Any]) -> str:
        known = schema.get("format")
        if isinstance(known, str) and known in _FORMATS:
            return _FORMATS[known]
        least = _count(schema, "minLength")
        self._grow(least)
        text = "text".ljust(least, "x")
        return text[: _count(schema, "maxLength")] if "maxLength" in schema else text


def _without(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}


def _merged(one: Mapping[str, Any], other: Any) -> dict[str, Any]:
    if not isinstance(other, dict):
        return dict(one)
    both = {**one, **other}
    if isinstance(one.get("properties"), dict) and isinstance(other.get("properties"), dict):
        both["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        both["required"] = [*_list(one, "required"), *_list(other, "required")]
    return both


def _type_of(schema: Mapping[str, Any], depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [one for one in kind if isinstance(one, str)]
        if "null" in kinds and (depth >= _PREFER_NULL or len(kinds) == 1):
            return "null"
        kind = next((one for one in kinds if one != "null"), None)
    if isinstance(kind, str):
        return kind
    for words, meant in _IMPLIED.items():
        if any(word in schema for word in words):
            return meant
    return "string"


_IMPLIED: Final = {
    ("properties", "required", "minProperties", "additionalProperties"): "object",
    ("items", "prefixItems", "minItems"): "array",
    ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"): "number",
}


def _table(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = schema.get(key)
    return value if isinstance(value, dict) else {}


def _list(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _count(schema: Mapping[str, Any], key: str) -> int:
    value = schema.get(key)
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0


def _bounds(schema: Mapping[str, Any], *keys: str) -> list[float]:
    return [value for key in keys if isinstance(value := schema.get(key), int | float) and not isinstance(value, bool)]


def _number(schema: Mapping[str, Any], *, whole: bool) -> float:
    """0, or what lies nearest to it within the bounds."""
    step = next((value for value in _bounds(schema, "multipleOf") if value > 0), 1 if whole else 0)
    low = max(_bounds(schema, "minimum", "exclusiveMinimum"), default=-math.inf)
    high = min(_bounds(schema, "maximum", "exclusiveMaximum"), default=math.inf)
    value = min(max(0, low), high)
    if step:
        value = -(-value // step) * step if value > 0 else value // step * step
    if value in _bounds(schema, "exclusiveMinimum", "exclusiveMaximum"):
        gap = high - low
        away = step or (gap / 2 if math.isfinite(gap) else 1)
        value += away if value == low else -away
    return int(value) if whole else value
