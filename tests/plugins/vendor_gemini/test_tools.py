"""Tools, the choice among them, and schemas converted for older models."""

from typing import Any

import pytest

from gatehook import InvalidRequest, Retry
from gatehook_plugins.vendor_gemini.schema import SchemaConverter
from gatehook_plugins.vendor_gemini.tools import function_calling, function_declarations


def declared(*tools: dict[str, Any], json_schema: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    dropped: list[str] = []
    return function_declarations(list(tools), dropped.append, json_schema=json_schema), dropped


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", **function}}


def converted(schema: Any) -> tuple[dict[str, Any], bool]:
    """The schema as Google's, and whether something was lost."""
    dropped: list[str] = []
    return SchemaConverter(schema, "schema", dropped.append).convert(), bool(dropped)


def test_json_schema_goes_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "additionalProperties": False, "$defs": {}}
    given = tool(description="Looks.", parameters=schema)
    assert declared(given) == ([{"name": "look", "description": "Looks.", "parametersJsonSchema": schema}], [])


@pytest.mark.parametrize("json_schema", [True, False])
@pytest.mark.parametrize("parameters", [{}, {"parameters": None}, {"parameters": {}}])
def test_a_function_without_parameters_has_no_schema(parameters: dict[str, Any], json_schema: bool) -> None:
    assert declared(tool(**parameters), json_schema=json_schema)[0] == [{"name": "look"}]


def test_an_older_model_gets_no_empty_object() -> None:
    assert declared(tool(parameters={"type": "object", "properties": {}}), json_schema=False)[0] == [{"name": "look"}]


def test_an_older_model_gets_googles_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    assert declared(tool(parameters=schema), json_schema=False) == (
        [{"name": "look", "parameters": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}}],
        [],
    )


def test_strict_is_dropped_with_a_signal_at_models_that_check_no_calls() -> None:
    assert declared(tool(strict=True), json_schema=False) == ([{"name": "look"}], ["tools[0].function.strict"])
    assert declared(tool(strict=False), json_schema=False) == ([{"name": "look"}], [])
    assert declared(tool(strict=True)) == ([{"name": "look"}], [])


@pytest.mark.parametrize(
    ("choice", "calling"),
    [
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "ANY"}),
        ("none", {"mode": "NONE"}),
        ({"type": "function", "function": {"name": "a"}}, {"mode": "ANY", "allowedFunctionNames": ["a"]}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool(name="a")]}},
            {"mode": "VALIDATED", "allowedFunctionNames": ["a"]},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool(name="b"), tool(name="a")]}},
            {"mode": "ANY", "allowedFunctionNames": ["b", "a"]},
        ),
    ],
)
def test_tool_choice(choice: Any, calling: dict[str, Any]) -> None:
    assert function_calling(choice, ["a", "b"]) == calling


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_choice_that_asks_for_nothing_needs_no_tools(choice: str) -> None:
    assert function_calling(choice, []) is None


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "missing"}},
        {"type": "function", "function": {}},
        {"type": "function"},
        {"type": "allowed_tools", "allowed_tools": {"tools": [tool(name="missing")]}},
    ],
)
def test_a_named_tool_must_exist(choice: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        function_calling(choice, ["a"])
    assert (caught.value.param, caught.value.retry) == ("tool_choice", Retry.NEVER)


@pytest.mark.parametrize(
    "choice",
    [
        None,
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "allowed_tools": {"tools": []}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "maybe", "tools": [tool(name="a")]}},
    ],
)
def test_a_choice_without_meaning_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidRequest):
        function_calling(choice, ["a"])


@pytest.mark.parametrize(
    ("schema", "result", "lossy"),
    [
        ({"type": "string", "format": "date-time"}, {"type": "STRING", "format": "date-time"}, False),
        ({"type": "string", "format": "uri"}, {"type": "STRING"}, True),
        ({"type": ["string", "null"]}, {"type": "STRING", "nullable": True}, False),
        ({"type": ["string", "integer"]}, {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}, False),
        ({"type": "null"}, {"type": "NULL"}, False),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"type": "INTEGER", "nullable": True}, False),
        (
            {"description": "outer", "anyOf": [{"type": "string", "description": "inner"}, {"type": "null"}]},
            {"type": "STRING", "nullable": True, "description": "outer"},
            False,
        ),
        (
            {"oneOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
            {"anyOf": [{"type": "INTEGER"}, {"type": "STRING"}], "nullable": True},
            False,
        ),
        ({"const": "x"}, {"type": "STRING", "enum": ["x"]}, False),
        ({"const": 3}, {"type": "INTEGER", "description": "One of: 3."}, True),
        ({"const": True}, {"type": "BOOLEAN", "description": "One of: True."}, True),
        ({"enum": ["a", None]}, {"type": "STRING", "nullable": True, "enum": ["a"]}, False),
        ({"enum": [None]}, {"nullable": True}, False),
        ({"type": "string", "enum": []}, {"type": "STRING"}, False),
        (
            {"type": "number", "enum": [1, 2.5], "description": "Size."},
            {"type": "NUMBER", "description": "Size. One of: 1, 2.5."},
            True,
        ),
        ({"enum": [1, "a"]}, {"type": "STRING", "description": "One of: 1, a."}, True),
        ({"type": "integer", "exclusiveMinimum": 3}, {"type": "INTEGER"}, True),
        (
            {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            {"type": "ARRAY", "items": {"type": "STRING"}, "maxItems": 2},
            False,
        ),
        ({"type": "array", "items": True}, {"type": "ARRAY", "items": {}}, False),
        (
            {"properties": {"a": {"type": "string"}}, "required": ["a", "gone"]},
            {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["a"]},
            False,
        ),
        (
            {
                "allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}],
                "properties": {"b": {"type": "integer"}},
                "required": ["b"],
            },
            {
                "type": "OBJECT",
                "properties": {"a": {"type": "STRING"}, "b": {"type": "INTEGER"}},
                "required": ["b", "a"],
            },
            False,
        ),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/A", "description": "mine"}},
                "$defs": {"A": {"type": "string", "description": "its"}},
            },
            {"type": "OBJECT", "properties": {"a": {"type": "STRING", "description": "mine"}}},
            False,
        ),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/a~1b%20c"}},
                "$defs": {"a/b c": {"allOf": [{"$ref": "#/$defs/B"}]}, "B": {"type": "number"}},
            },
            {"type": "OBJECT", "properties": {"a": {"type": "NUMBER"}}},
            False,
        ),
        ({"$ref": "#/anyOf/0", "anyOf": [{"type": "string"}]}, {"type": "STRING"}, False),
    ],
)
def test_schemas_are_converted(schema: Any, result: dict[str, Any], lossy: bool) -> None:
    assert converted(schema) == (result, lossy)


def test_one_definition_may_be_used_twice() -> None:
    schema = {"properties": {name: {"$ref": "#/$defs/A"} for name in "ab"}, "$defs": {"A": {"type": "string"}}}
    assert converted(schema)[0]["properties"] == {"a": {"type": "STRING"}, "b": {"type": "STRING"}}


BOMB = {f"d{n}": {"properties": {side: {"$ref": f"#/$defs/d{n + 1}"} for side in "ab"}} for n in range(40)}
CHAIN = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(900)}
NEST = {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(900)}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"child": {"$ref": "#"}}},
        {"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"next": {"anyOf": [{"$ref": "#/$defs/A"}]}}}}},
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
        {"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"allOf": [{"$ref": "#/$defs/A"}]}}},
        {"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"properties": {"x": {"allOf": [{"$ref": "#/$defs/A"}]}}}}},
        {"$ref": "#/$defs/d0", "$defs": {**BOMB, "d40": {"type": "string"}}},
        {"$ref": "#/$defs/d0", "$defs": {**CHAIN, "d900": {"type": "string"}}},
        {"$ref": "#/$defs/d0", "$defs": {**NEST, "d900": {"type": "string"}}},
        {"$ref": "#/$defs/missing"},
        {"$ref": "other.json"},
        {"$ref": "#/title", "title": "t"},
        {"allOf": ["x"]},
        {"properties": {"a": "x"}},
        [],
    ],
)
def test_schemas_without_end_or_sense_are_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        converted(schema)
    assert (caught.value.param, caught.value.retry) == ("schema", Retry.NEXT)
