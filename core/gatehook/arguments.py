"""Whether the arguments of a tool call fit the tool's JSON Schema. The library for it is loaded at the first need."""

import functools
from collections.abc import Mapping
from typing import Any

__all__ = ["argument_fault", "schema_fault"]

_LONGEST = 300
"""Letters of the library's words: they repeat the value that does not fit."""


def schema_fault(schema: Any) -> str:
    """What is wrong with the schema of a tool's parameters, "" if nothing."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return "must be a JSON Schema of the type 'object'"
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema, default=_validator(patterns=True)).check_schema(schema)
    except SchemaError as error:
        return f"{error.json_path}: {error.message[:_LONGEST]}"
    return ""


def argument_fault(schema: Mapping[str, Any], arguments: Mapping[str, Any], *, patterns: bool = True) -> str:
    """What is wrong with the arguments, "" if nothing.

    Args:
        schema: of the tool's parameters.
        arguments: decoded.
        patterns: False if the schema is not to be trusted: one with a bad pattern could hang the whole process.
    """
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        # A registry of its own: the library would fetch a schema that is elsewhere, from wherever it is told to.
        error = best_match(_validator(patterns=patterns)(schema, registry=Registry()).iter_errors(arguments))
    except (Unresolvable, RecursionError):
        return "cannot be checked: the tool's schema refers to what is not there, or to itself without end"
    except Exception as error:  # noqa: BLE001  # of a schema that is none, or of a pattern that is none
        return f"cannot be checked: {type(error).__name__} in the tool's schema"
    return "" if error is None else f"{error.json_path}: {error.message[:_LONGEST]}"


@functools.cache
def _validator(*, patterns: bool) -> Any:
    """JSON Schema 2020-12, which is what vendors and MCP take schemas for."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    if patterns:
        return Draft202012Validator
    return extend(Draft202012Validator, {"pattern": _passed, "patternProperties": _passed})  # type: ignore[no-untyped-call]


def _passed(*_: object) -> None:
    """What is not tried."""
