import time
from typing import Any

import jsonschema
import pytest

from gatehook_plugins.vendor_mock.schema import SchemaTooLarge, instance

TREE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value", "left", "children"],
        }
    },
    "$ref": "#/$defs/node",
}

SCHEMAS: list[Any] = [
    True,
    {},
    {"type": "null"},
    {"type": "boolean"},
    {"type": "string"},
    {"type": "string", "minLength": 9},
    {"type": "string", "maxLength": 2},
    {"type": "string", "maxLength": 0},
    *({"type": "string", "format": name} for name in ("date-time", "date", "time", "duration", "email", "hostname")),
    *({"type": "string", "format": name} for name in ("uri", "uuid", "ipv4", "ipv6", "regex", "json-pointer")),
    {"type": "integer"},
    {"type": "integer", "minimum": 3},
    {"type": "integer", "maximum": -3},
    {"type": "integer", "minimum": -9, "maximum": 9},
    {"type": "integer", "exclusiveMinimum": 0},
    {"type": "integer", "exclusiveMaximum": 0},
    {"type": "integer", "minimum": 5, "multipleOf": 4},
    {"type": "integer", "maximum": -5, "multipleOf": 4},
    {"type": "integer", "minimum": 2**60 + 1},
    {"type": "integer", "minimum": 10**400},
    {"type": "number", "minimum": 0.5},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "number", "minimum": 0.3, "multipleOf": 0.25},
    {"type": ["null", "string"]},
    {"type": ["integer", "null"]},
    {"enum": ["red", "green"]},
    {"const": {"a": [1]}},
    {"type": "array"},
    {"type": "array", "items": {"type": "integer"}, "minItems": 3},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2},
    {"type": "object"},
    {"type": "object", "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["b"]},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    {"type": "object", "properties": {"a": {"type": "string"}}, "minProperties": 3},
    {"properties": {"a": {"type": "array", "items": {"enum": [1]}, "minItems": 1}}, "required": ["a"]},
    {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1}]},
    {"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]}, {"type": "string"}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
               {"properties": {"b": {"type": "integer"}}, "required": ["b"]}]},
    {"$defs": {"x": {"type": "string", "minLength": 7}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/x"}},
     "required": ["a"]},
    {"$defs": {"a/b~c": {"type": "boolean"}}, "$ref": "#/$defs/a~1b~0c"},
    {"definitions": {"x": {"enum": [7]}}, "allOf": [{"$ref": "#/definitions/x"}]},
    TREE,
    {"type": ["object", "null"], "properties": {"next": {"$ref": "#"}}, "required": ["next"]},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_the_instance_conforms(schema: Any) -> None:
    jsonschema.validate(instance(schema), schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


def test_only_what_is_required_is_made() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a"]}
    assert instance(schema) == {"a": "text"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 10**9},
        {"type": "array", "minItems": 10**9},
        {"type": "object", "minProperties": 10**9},
        {"type": "array", "minItems": 1000, "items": {"type": "array", "minItems": 1000, "items": {"type": "string"}}},
        {"type": "array", "minItems": 9999, "items": {"const": "x" * 9999}},
        {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]},
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"anyOf": [{"$ref": "#"}]},
        {"allOf": [{"properties": {str(number): {}}} for number in range(20_000)]},
        {"type": "number", "minimum": 10**400, "multipleOf": 0.5},
    ],
    ids=lambda schema: str(schema)[:60],
)
def test_schemas_without_measure_are_refused_in_good_time(schema: Any) -> None:
    before = time.process_time()
    with pytest.raises(SchemaTooLarge):
        instance(schema)
    assert time.process_time() - before < 3


@pytest.mark.parametrize(
    "schema",
    [
        False,
        None,
        [],
        "string",
        {"type": 5},
        {"type": []},
        {"type": "martian"},
        {"$ref": 5},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/nowhere/at/all"},
        {"enum": []},
        {"enum": "red"},
        {"anyOf": []},
        {"anyOf": ["x", 5]},
        {"allOf": {}},
        {"type": "object", "properties": [], "required": "a"},
        {"type": "object", "required": [5, None, "a"]},
        {"type": "array", "items": 5, "minItems": 2},
        {"type": "array", "minItems": True},
        {"type": "string", "minLength": "9"},
        {"type": "string", "maxLength": -1},
        {"type": "string", "format": 5},
        {"type": "integer", "minimum": "3", "multipleOf": 0},
        {"type": "integer", "exclusiveMinimum": True},
        {"type": "integer", "minimum": 9, "maximum": 1},
    ],
    ids=str,
)
def test_senseless_schemas_give_something(schema: Any) -> None:
    instance(schema)
