"""JSON Schema as Google's own Schema object, for models before 2.5 that read nothing else.

That object is a subset of OpenAPI 3.0: no references, no unions of types, no constants, enums of texts only.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from gatehook import InvalidRequest, Retry

__all__ = ["SchemaConverter"]

_Trail = tuple[str, ...]
"""The references followed on the way to a sub-schema, and "" for every level of nesting."""

_MOST_NODES: Final = 2000
"""Sub-schemas after all references are written out; a few nested references can ask for billions."""

_DEEPEST: Final = 100

_COPIED: Final = (
    "title", "description", "nullable", "default", "example", "maxItems", "minItems", "maxProperties", "minProperties",
    "maximum", "minimum", "maxLength", "minLength", "pattern", "propertyOrdering",
)  # fmt: skip
_HANDLED: Final = frozenset(
    {*_COPIED, "type", "format", "enum", "const", "anyOf", "oneOf", "properties", "required", "items"}
)
_WORDLESS: Final = frozenset(
    {"$schema", "$id", "$comment", "$defs", "definitions", "$anchor", "examples", "additionalProperties"}
)
"""Left out without a word: they name things, or say what the model does anyway."""

_FORMATS: Final = {"STRING": ("enum", "date-time"), "NUMBER": ("float", "double"), "INTEGER": ("int32", "int64")}
_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})


class SchemaConverter:
    """Converts one schema; `path` names it in errors and, through `drop`, when a keyword had to be left out."""

    def __init__(self, root: Any, path: str, drop: Callable[[str], None]) -> None:
        self._root = root
        self._path = path
        self._drop = drop
        self._nodes = 0

    def convert(self) -> dict[str, Any]:
        """The Schema object.

        Raises:
            InvalidRequest: a reference that leads nowhere or round in a circle, or too much in all.
        """
        return self._schema(self._root, ())

    def _schema(self, given: Any, trail: _Trail) -> dict[str, Any]:
        self._nodes += 1
        if self._nodes > _MOST_NODES or len(trail) > _DEEPEST:
            raise self._refused("too large once its references are written out")
        if isinstance(given, bool):
            return {}
        if not isinstance(given, dict):
            raise self._refused("every schema must be an object")
        schema, trail = self._merged(*self._resolved(given, (*trail, "")))
        result = {key: schema[key] for key in _COPIED if key in schema}
        if any(key not in _HANDLED and key not in _WORDLESS for key in schema):
            self._drop(self._path)
        self._type(schema, result)
        self._alternatives(schema, trail, result)
        self._values(schema, result)
        self._children(schema, trail, result)
        return result

    def _resolved(self, schema: Mapping[str, Any], trail: _Trail) -> tuple[Mapping[str, Any], _Trail]:
        while isinstance(reference := schema.get("$ref"), str):
            if reference in trail:
                raise self._refused(f"{reference} refers to itself, which this model's schemas cannot express")
            trail = (*trail, reference)
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**self._lookup(reference), **beside}
        return schema, trail

    def _lookup(self, reference: str) -> Mapping[str, Any]:
        place: Any = self._root
        if not reference.startswith("#"):
            raise self._refused(f"{reference} is outside the schema")
        for step in reference[1:].split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
                place = place[int(name)]
            elif isinstance(place, dict) and name in place:
                place = place[name]
            else:
                raise self._refused(f"{reference} leads nowhere")
        if not isinstance(place, dict):
            raise self._refused(f"{reference} is no schema")
        return place

    def _merged(self, schema: Mapping[str, Any], trail: _Trail) -> tuple[Mapping[str, Any], _Trail]:
        """The schema with what its allOf demands written into it."""
        if "allOf" not in schema:
            return schema, trail
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for one in _list(schema["allOf"]):
            if not isinstance(one, dict) or len(trail) > _DEEPEST:
                raise self._refused("every schema must be an object, and nested less deeply")
            part, trail = self._merged(*self._resolved(one, (*trail, "")))
            _merge(merged, part)
        return merged, trail

    def _type(self, schema: Mapping[str, Any], result: dict[str, Any]) -> None:
        kinds = [kind for kind in _list(schema.get("type")) if isinstance(kind, str) and kind.lower() in _TYPES]
        if any(kind.lower() == "null" for kind in kinds) and len(kinds) > 1:
            result["nullable"] = True
            kinds = [kind for kind in kinds if kind.lower() != "null"]
        if len(kinds) == 1:
            result["type"] = kinds[0].upper()
        elif kinds:
            result["anyOf"] = [{"type": kind.upper()} for kind in kinds]
        elif "properties" in schema:
            result["type"] = "OBJECT"
        if schema.get("format") is not None:
            if schema["format"] in _FORMATS.get(result.get("type", ""), ()):
                result["format"] = schema["format"]
            else:
                self._drop(self._path)

    def _alternatives(self, schema: Mapping[str, Any], trail: _Trail, result: dict[str, Any]) -> None:
        given = [*_list(schema.get("anyOf")), *_list(schema.get("oneOf"))]
        if not given:
            return
        kept = [one for one in given if not (isinstance(one, dict) and one.get("type") == "null")]
        if len(kept) < len(given):
            result["nullable"] = True
        converted = [self._schema(one, trail) for one in kept]
        if len(converted) == 1:
            # What stands beside the union (a description) is nearer to its reader than what stands inside.
            result.update({**converted[0], **result})
        elif converted:
            result["anyOf"] = converted

    def _values(self, schema: Mapping[str, Any], result: dict[str, Any]) -> None:
        values = [schema["const"]] if "const" in schema else _list(schema.get("enum"))
        if not values:
            return
        if None in values:
            result["nullable"] = True
        values = [value for value in values if value is not None]
        if not values:
            return
        if all(isinstance(value, str) for value in values):
            result.setdefault("type", "STRING")
            result["enum"] = values
            return
        # Numbers cannot be listed, and listing their texts would make the model answer with texts.
        words = f"One of: {', '.join(map(str, values))}."
        result["description"] = f"{result['description']} {words}" if result.get("description") else words
        result.setdefault("type", _type_of(values))
        self._drop(self._path)

    def _children(self, schema: Mapping[str, Any], trail: _Trail, result: dict[str, Any]) -> None:
        properties = schema.get("properties")
        if isinstance(properties, dict) and properties:
            result["properties"] = {name: self._schema(one, trail) for name, one in properties.items()}
            required = [name for name in dict.fromkeys(map(str, _list(schema.get("required")))) if name in properties]
            if required:
                result["required"] = required
        if "items" in schema:
            result["items"] = self._schema(schema["items"], trail)

    def _refused(self, why: str) -> InvalidRequest:
        return InvalidRequest(f"{self._path}: {why}", param=self._path, retry=Retry.NEXT)


def _merge(merged: dict[str, Any], part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        if key == "properties" and isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = {**value, **merged[key]}
        elif key == "required":
            merged[key] = [*_list(merged.get(key)), *_list(value)]
        else:
            merged.setdefault(key, value)


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _type_of(values: Iterable[Any]) -> str:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "BOOLEAN"
    if kinds == {int}:
        return "INTEGER"
    return "NUMBER" if kinds <= {int, float} else "STRING"
