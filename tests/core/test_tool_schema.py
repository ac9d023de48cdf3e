"""Arguments against schemas, and schemas and patterns that mean harm."""

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import encode
from gatehook.patterns import matches
from gatehook.tool_schema import SchemaFault, compiled, schema_fault

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}


def fault(schema: Any, arguments: str) -> str:
    return compiled(encode(schema)).fault(arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"city": "Rome"}', ""),
        ('{"city": "Rome", "days": 2}', ""),
        ("{}", "the arguments: 'city' is a required property"),
        ("", "the arguments: 'city' is a required property"),
        ('{"city": "rome"}', "city: 'rome' does not match '^[A-Z]'"),
        ('{"city": "Rome", "days": 0}', "days: 0 is less than the minimum of 1"),
        ('{"city": "Rome", "day": 1}', "the arguments: 'day' is not expected here"),
        ('["Rome"]', "the arguments must be a JSON object"),
        ('{"city": "Ro', "the arguments are not valid JSON: "),
        ("[" * 5000, "the arguments are not valid JSON: nested more than 200 levels deep"),
    ],
)
def test_what_is_wrong_with_arguments_is_told_to_the_model(arguments: str, told: str) -> None:
    found = fault(CITY, arguments)
    assert found.startswith(told)
    assert bool(found) == bool(told)


def test_a_tool_that_asks_for_nothing_may_be_called_with_nothing() -> None:
    assert fault({"type": "object"}, "") == ""
    assert fault({}, "{}") == ""


def test_references_within_the_schema_are_followed() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}
    assert fault(schema, '{"a": 1}') == ""
    assert fault(schema, '{"a": "1"}') == "a: '1' is not of type 'integer'"


@pytest.mark.parametrize("name", ["$ref", "$dynamicRef", "$recursiveRef"])
@pytest.mark.parametrize("reference", ["http://127.0.0.1:9/s.json", "file:///etc/passwd", "other.json", ""])
def test_references_that_lead_out_are_refused(name: str, reference: str) -> None:
    with pytest.raises(SchemaFault, match="leads out of the schema"):
        fault({"properties": {"a": {name: reference}}}, "{}")


def test_an_id_makes_nothing_be_fetched() -> None:
    schema = {"$id": "http://127.0.0.1:9/s.json", "properties": {"a": {"$ref": "#/$defs/gone"}}}
    assert "malformed" in fault(schema, '{"a": 1}')


@pytest.mark.parametrize(
    "schema",
    [{"a": [0] * 6000}, {"a": "x" * 200_000}, {"$schema": 7}, [], True],
    ids=["wide", "long", "odd", "list", "bool"],
)
def test_schemas_that_nothing_is_checked_against_are_refused(schema: Any) -> None:
    with pytest.raises(SchemaFault):
        fault(schema, "{}")


def test_a_schema_that_is_too_deep_is_refused() -> None:
    schema: Any = {}
    for _ in range(80):
        schema = {"not": schema}
    with pytest.raises(SchemaFault, match="too large"):
        fault(schema, "{}")


def bomb() -> Any:
    """Two references to the next, thirty times: a billion ways down."""
    layers: dict[str, Any] = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(30)
    }
    return {"$defs": {**layers, "d30": {"type": "string"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        (bomb(), "{}"),
        ({"$ref": "#"}, "{}"),
        ({"properties": {"a": {"uniqueItems": True}}}, '{"a": [' + ", ".join(["{}"] * 5000) + "]}"),
        ({"patternProperties": {f"^a*a*b{n}$": False for n in range(2000)}}, '{"' + "a" * 400 + '": 1}'),
        ({"properties": {"a": {"items": {"pattern": "^a*a*b"}}}}, '{"a": ' + json.dumps(["a" * 400] * 3000) + "}"),
    ],
    ids=["references", "itself", "unique", "names", "texts"],
)
def test_schemas_that_ask_for_too_much_are_given_up_in_time(schema: Any, arguments: str) -> None:
    begun = time.process_time()
    found = fault(schema, arguments)
    assert time.process_time() - begun < 5
    assert found


@pytest.mark.parametrize("schema", [{"type": 7}, {"properties": [1]}, {"required": 1}, {"patternProperties": 1}])
def test_malformed_schemas_let_nothing_through(schema: Any) -> None:
    assert "malformed" in fault(schema, '{"a": 1}')


def test_many_texts_of_usual_lengths_are_checked_against_a_usual_pattern() -> None:
    schema = {"properties": {"to": {"items": {"pattern": r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$"}}}}
    assert fault(schema, json.dumps({"to": ["somebody@example.org"] * 500})) == ""
    assert "does not match" in fault(schema, json.dumps({"to": ["somebody@example.org"] * 500 + ["nobody"]}))


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "object"}, ""),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, ""),
        ({"type": "array"}, "must be a JSON Schema of the type 'object'"),
        (True, "must be a JSON Schema of the type 'object'"),
        ({"type": "object", "properties": {"a": {"type": "whole"}}}, "$.properties.a.type: 'whole' is not valid"),
        ({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/"}}}, "$ref 'http://127.0.0.1:9/' leads"),
        ({"type": "object", "a": [0] * 6000}, "is too large"),
    ],
)
def test_the_schema_of_an_own_tool_is_looked_at_closely(schema: Any, told: str) -> None:
    found = schema_fault(schema)
    assert found.startswith(told)
    assert bool(found) == bool(told)


def test_properties_by_pattern_are_checked_and_expected() -> None:
    schema = {"patternProperties": {"^x_": {"type": "integer"}}, "additionalProperties": False}
    assert fault(schema, '{"x_a": 1}') == ""
    assert "not of type 'integer'" in fault(schema, '{"x_a": "1"}')
    assert "not expected" in fault(schema, '{"y": 1}')


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^[a-z0-9_-]+$", "abc", True),
        (r"^\d{4}-\d{2}-\d{2}$", "2026-11-21", True),
        (r"^\d{4}-\d{2}-\d{2}$", "21.11.2026", False),
        ("^[^@]+@[^@]+$", "a@b", True),
        ("(?:ab){2}", "xababx", True),
        ("a|b", "c", False),
        ("(a+)+$", "a" * 40 + "!", None),
        ("(a|a)*b", "a" * 40, None),
        ("(a|b|c)(a|b|c)*d", "abc", None),
        ("(a?){40}a{40}", "a" * 40, None),
        ("(){1000000000}", "", None),
        ("a*a*a*a*a*b", "a" * 100, None),
        (r"(a)\1", "aa", None),
        ("(?=a)a", "a", None),
        ("[", "a", None),
        ("[[a]", "a", True),
        ("a" * 2000, "a", None),
    ],
)
def test_expressions_are_tried_where_that_is_cheap(pattern: str, text: str, found: bool | None) -> None:
    assert matches(pattern, text) is found


@given(st.text("ab(|)*+?{2,}[]^$.\\", max_size=24), st.text("ab", max_size=60))
def test_whatever_is_tried_is_told_rightly_and_soon(pattern: str, text: str) -> None:
    begun = time.process_time()
    found = matches(pattern, text)
    assert time.process_time() - begun < 2
    if found is not None:
        assert found == (re.search(pattern, text) is not None)
