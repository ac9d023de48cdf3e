"""Arguments checked against a tool's JSON Schema. Both come from outside: nothing is fetched, and work is bounded.

Importing this loads the library for JSON Schema.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator, FormatChecker, SchemaError, ValidationError, validators
from jsonschema.exceptions import best_match
from referencing import Registry

from gatehook.jsonio import MalformedJSON, check_depth, decode, encode
from gatehook.patterns import matches, steps

__all__ = ["SchemaFault", "ToolSchema", "compiled", "schema_fault"]

_LARGEST: Final = 1 << 17
"""Bytes of a schema's JSON."""
_MOST_NODES: Final = 5_000
"""Values in a schema, at any depth."""
_DEEPEST: Final = 60
"""Levels of nesting of a schema."""
_MOST_STEPS: Final = 10_000
"""Keywords that may be looked at for one call: a few references can ask for billions."""
_PATTERN_STEPS: Final = 10_000
"""Steps of a regular expression that count as one keyword."""
_MOST_COMPARED: Final = 1_000
"""Items of a list that `uniqueItems` may compare each with each."""
_LONGEST: Final = 500
"""Characters of a fault that a model or a client is told."""
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class SchemaFault(ValueError):
    """A schema that nothing will be checked against; the message says why."""


class _TooMuchWork(Exception):
    """The schema asks for more than is done for one call."""


class _Steps(FormatChecker):
    """Counts the keywords that are looked at.

    It poses as the checker of formats (none is checked), as that is the object which all parts of a validator share.
    """

    def __init__(self) -> None:
        super().__init__(())
        self._left = _MOST_STEPS

    def take(self, count: int = 1) -> None:
        """Count so many more.

        Raises:
            _TooMuchWork: there were too many.
        """
        self._left -= count
        if self._left < 0:
            raise _TooMuchWork


@functools.lru_cache(maxsize=16)
def _counting(base: Any) -> Any:
    """The validator class of a draft of JSON Schema, with all keywords counted, and some replaced by our own."""

    def counted(keyword: Keyword) -> Keyword:
        def count(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
            validator.format_checker.take()
            return keyword(validator, value, instance, schema)

        return count

    own = {name: keyword for name, keyword in _OWN.items() if name in base.VALIDATORS}
    keywords = {name: counted(keyword) for name, keyword in {**base.VALIDATORS, **own}.items()}
    return validators.extend(base, keywords)  # type: ignore[no-untyped-call]


class ToolSchema:
    """What the arguments of one tool must be."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Check the schema's bounds and references, but not whether it is a valid schema.

        Raises:
            SchemaFault: it refers to something beyond itself, or is too large or too deep.
        """
        _inspect(schema)
        self._schema = schema
        try:
            self._kind = _counting(validators.validator_for(schema, default=Draft202012Validator))
        except Exception:  # noqa: BLE001  # several kinds, for a "$schema" that is not a string
            raise SchemaFault("$schema is malformed") from None

    def fault(self, arguments: str) -> str:
        """What is wrong with the arguments (JSON text), for the model to read; "" if nothing is."""
        try:
            check_depth(arguments.encode("utf-8", "surrogatepass"))
            value = decode(arguments or "{}")  # some models write nothing where nothing is asked for
        except MalformedJSON as fault:
            return f"the arguments are not valid JSON: {fault}"[:_LONGEST]
        return self.misfit(value) if isinstance(value, dict) else "the arguments must be a JSON object"

    def misfit(self, value: Mapping[str, Any]) -> str:
        """The same for arguments that are decoded already."""
        # With an empty registry the library never fetches what a reference names.
        validator = self._kind(self._schema, registry=Registry(), format_checker=_Steps())
        try:
            error = best_match(validator.iter_errors(value))
        except (_TooMuchWork, RecursionError):
            return "the arguments cannot be checked: the tool's schema asks for too much"
        except Exception as fault:  # noqa: BLE001  # whatever a malformed schema makes the library stumble over
            return f"the arguments cannot be checked: the tool's schema is malformed ({type(fault).__name__})"
        if error is None:
            return ""
        return f"{error.json_path.removeprefix('$').removeprefix('.') or 'the arguments'}: {error.message}"[:_LONGEST]


@functools.lru_cache(maxsize=256)
def compiled(schema: bytes) -> ToolSchema:
    """The schema with this JSON text; those used lately are cached.

    Raises:
        SchemaFault: see `ToolSchema`.
    """
    if len(schema) > _LARGEST:
        raise SchemaFault(f"is larger than {_LARGEST} bytes")
    value = decode(schema)
    if not isinstance(value, dict):
        raise SchemaFault("must be a JSON object")
    return ToolSchema(value)


def schema_fault(schema: Any) -> str:
    """What is wrong with the schema of a tool that the gateway itself runs; "" if nothing is."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return "must be a JSON Schema of the type 'object'"
    try:
        compiled(encode(schema))
        validators.validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaFault as fault:
        return str(fault)
    except SchemaError as error:
        return f"{error.json_path}: {error.message}"[:_LONGEST]
    except (TypeError, RecursionError) as error:
        return f"cannot be written as JSON: {error}"[:_LONGEST]
    return ""


def _inspect(schema: Any) -> None:
    nodes, todo = 0, [(schema, 0)]
    while todo:
        value, depth = todo.pop()
        nodes += 1
        if nodes > _MOST_NODES or depth > _DEEPEST:
            raise SchemaFault(f"is too large: at most {_MOST_NODES} values, {_DEEPEST} deep")
        if isinstance(value, dict):
            for name in _REFERENCES:
                if isinstance(value.get(name), str) and not value[name].startswith("#"):
                    raise SchemaFault(f"{name} {value[name][:80]!r} leads out of the schema; only '#...' is followed")
            todo += [(one, depth + 1) for one in value.values()]
        elif isinstance(value, list):
            todo += [(one, depth + 1) for one in value]


def _unchecked(validator: Any, value: Any, instance: Any, schema: Any) -> None:
    """A keyword that is not checked."""


def _matches(validator: Any, pattern: str, text: str) -> bool | None:
    """As `patterns.matches`, with its steps counted."""
    validator.format_checker.take(1 + steps(pattern, text) // _PATTERN_STEPS)
    return matches(pattern, text)


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """An expression that might take too long is not tried."""
    if isinstance(instance, str) and _matches(validator, pattern, instance) is False:
        yield ValidationError(f"{instance[:80]!r} does not match {pattern!r}")


def _unique(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, list) and len(instance) > _MOST_COMPARED:
        raise _TooMuchWork
    yield from Draft202012Validator.VALIDATORS["uniqueItems"](validator, unique, instance, schema) or ()


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for pattern, below in patterns.items():
        for name, value in instance.items():
            if _matches(validator, pattern, name):
                yield from validator.descend(value, below, path=name, schema_path=pattern)


def _additional(validator: Any, below: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """For properties that the schema does not name, and whose names match none of its patterns for certain."""
    if not isinstance(instance, dict):
        return
    patterns, named = schema.get("patternProperties", {}), schema.get("properties", {})
    for name, value in instance.items():
        if name in named or any(_matches(validator, pattern, name) is not False for pattern in patterns):
            continue
        if below is False:
            yield ValidationError(f"{name[:80]!r} is not expected here")
        else:
            yield from validator.descend(value, below, path=name)


_OWN: Final[Mapping[str, Keyword]] = {
    "format": _unchecked,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional,
    "uniqueItems": _unique,
}
