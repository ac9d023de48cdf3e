"""JSON schemas normalised to the few forms that llama.cpp's converter turns into a correct grammar.

The converter ignores what it does not expect: a list of types with an enum beside it, `allOf` of anything but objects,
two references with the same last name. So the schemas that it gets from here have one meaning only, and are bounded.
What a grammar cannot hold (ranges of numbers, great lengths, patterns beyond plain ones) is left out; the model still
sees it in its prompt.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any
from urllib.parse import unquote

from gatehook_plugins.vendor_gguf.engine.patterns import MAX_REPEAT, compiles, plain_pattern

__all__ = ["ANY", "Budget", "Unfit", "normal_schema"]

Schema = dict[str, Any]

MAX_DEPTH = 32
MAX_OPTIONAL = 128
"""The most optional properties of one object; a grammar has a rule for each that may come first."""
MAX_NAME = 256
"""The most characters of a property's name."""

ANY: Schema = {"type": "value"}
"""Any JSON value, by the name of the converter's own rule for it."""

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_SHOWS_TYPE = {
    "object": ("properties", "additionalProperties", "required"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
}
_FORMATS = ("date", "time", "date-time", "uuid")
_ALTERNATIVES = ("anyOf", "oneOf")
_MEANING = {"type", "enum", "const", "$ref", "allOf", *_ALTERNATIVES, *chain.from_iterable(_SHOWS_TYPE.values())}
"""The keywords that a grammar can express."""


class Unfit(ValueError):
    """A schema that cannot become a grammar; says why and where."""


class Budget:
    """How much all the schemas of one request may hold together."""

    def __init__(self, size: int = 8_000) -> None:
        """`size` counts subschemas, repetitions and, in pieces of 32 characters, constants."""
        self._left = size

    def spend(self, size: int, where: str) -> None:
        """Take `size` off.

        Raises:
            Unfit: there is not that much left.
        """
        self._left -= size
        if self._left < 0:
            raise Unfit(f"too large for a grammar, at {where}")


def normal_schema(schema: Any, budget: Budget, *, name: str) -> Schema:
    """A schema of the same meaning, as far as a grammar can hold it, for the converter.

    Args:
        schema: what a client gave.
        budget: what it may hold; shared by the schemas of one request.
        name: letters, digits and dashes, to tell its definitions from those of another schema.

    Raises:
        Unfit: no grammar can be made of it, or it is too large or too deep.
    """
    return _Reader(schema, budget, name).read()


class _Reader:
    def __init__(self, root: Any, budget: Budget, name: str) -> None:
        self._root = root
        self._budget = budget
        self._name = name
        self._names: dict[str, str] = {}
        """The definitions' names in the result, by the reference as it is written in the schema."""

    def read(self) -> Schema:
        out = self._schema(self._root, "#", 0)
        definitions: dict[str, Schema] = {}
        while len(definitions) < len(self._names):  # each may refer to further ones
            for reference, name in list(self._names.items())[len(definitions) :]:
                definitions[name] = self._schema(self._target(reference, reference), reference, 0)
        _check_progress(definitions)
        if "$ref" in out:  # beside a reference the converter does not look for definitions
            out = {"anyOf": [out]}
        return {**out, "$defs": definitions} if definitions else out

    def _schema(self, node: Any, where: str, depth: int) -> Schema:
        self._budget.spend(1, where)
        if depth > MAX_DEPTH:
            raise Unfit(f"nested more than {MAX_DEPTH} levels deep, at {where[:80]}…")
        if node is True:
            return ANY
        if not isinstance(node, Mapping):
            raise Unfit(f"{where}: expected a schema, which is an object" + (", not false" if node is False else ""))
        if "$ref" in node:
            return {"$ref": f"#/$defs/{self._definition(node['$ref'], where)}"}
        if "allOf" in node:
            return self._schema(self._all_of(node, where), where, depth + 1)
        for word in _ALTERNATIVES:
            if word in node:
                return self._any_of(node, word, where, depth)
        if "const" in node:
            return {"const": self._constant(node["const"], where)}
        if "enum" in node:
            return {"enum": [self._constant(value, where) for value in _sequence(node["enum"], f"{where}/enum")]}
        return self._typed(node, where, depth)

    def _typed(self, node: Mapping[str, Any], where: str, depth: int) -> Schema:
        shown = (kind for kind, words in _SHOWS_TYPE.items() if node.keys() & set(words))
        kind = node["type"] if "type" in node else next(shown, None)
        if kind is None:
            return ANY
        if isinstance(kind, list):
            if len(kind) > len(_TYPES):
                raise Unfit(f"{where}/type: more types than there are")
            return {"anyOf": [self._schema({**node, "type": one}, where, depth + 1) for one in _sequence(kind, where)]}
        match kind:
            case "object":
                return self._object(node, where, depth)
            case "array":
                return self._array(node, where, depth)
            case "string":
                return self._string(node, where)
            case _ if kind in _TYPES:
                return {"type": kind}
        raise Unfit(f"{where}/type: expected one of {', '.join(_TYPES)}, not {str(kind)[:40]!r}")

    def _object(self, node: Mapping[str, Any], where: str, depth: int) -> Schema:
        given = _mapping(node.get("properties", {}), f"{where}/properties")
        required = [name for name in _list(node.get("required", []), f"{where}/required") if isinstance(name, str)]
        for name in (*given, *required):
            if len(name) > MAX_NAME or name == "$ref":
                raise Unfit(f"{where}/properties: a property cannot be called {name[:40]!r} in a grammar")
        wanted = {**given, **{name: True for name in required if name not in given}}
        properties = {name: self._schema(one, f"{where}/properties/{name}", depth + 1) for name, one in wanted.items()}
        if len(properties) - len(set(required)) > MAX_OPTIONAL:
            raise Unfit(f"{where}: more than {MAX_OPTIONAL} optional properties in one object")
        others = node.get("additionalProperties", "properties" not in node)
        if others is True and not properties:
            return {"type": "object"}
        out: Schema = {"type": "object", "properties": properties, "required": required}
        if others is not False:
            out["additionalProperties"] = self._schema(others, f"{where}/additionalProperties", depth + 1)
        return out

    def _array(self, node: Mapping[str, Any], where: str, depth: int) -> Schema:
        items = node.get("items", True)
        first = node.get("prefixItems", items if isinstance(items, list) else [] if items is False else None)
        if first is not None:
            listed = [
                self._schema(one, f"{where}/prefixItems/{at}", depth + 1)
                for at, one in enumerate(_list(first, f"{where}/prefixItems"))
            ]
            return {"type": "array", "prefixItems": listed}
        lengths = self._lengths(node, "minItems", "maxItems", where)
        return {"type": "array", "items": self._schema(items, f"{where}/items", depth + 1), **lengths}

    def _string(self, node: Mapping[str, Any], where: str) -> Schema:
        if node.get("format") in _FORMATS:
            return {"type": "string", "format": node["format"]}
        pattern = node.get("pattern")
        if isinstance(pattern, str) and not compiles(pattern):
            raise Unfit(f"{where}/pattern: no regular expression")
        if isinstance(pattern, str) and (plain := plain_pattern(pattern)) is not None:
            self._budget.spend(len(plain) // 8 + 1, f"{where}/pattern")
            return {"type": "string", "pattern": plain}
        return {"type": "string", **self._lengths(node, "minLength", "maxLength", where)}

    def _lengths(self, node: Mapping[str, Any], least: str, most: str, where: str) -> Schema:
        low, high = _count(node.get(least), f"{where}/{least}"), _count(node.get(most), f"{where}/{most}")
        if low is not None and low > MAX_REPEAT:
            raise Unfit(f"{where}/{least}: a grammar counts to {MAX_REPEAT} only")
        if high is not None and high > MAX_REPEAT:
            high = None
        if low is not None and high is not None and low > high:
            raise Unfit(f"{where}: {least} is above {most}")
        self._budget.spend(high or low or 0, where)
        return {word: count for word, count in ((least, low), (most, high)) if count is not None}

    def _any_of(self, node: Mapping[str, Any], word: str, where: str, depth: int) -> Schema:
        beside = {key: value for key, value in node.items() if key in _MEANING and key != word}
        branches = _sequence(node[word], f"{where}/{word}")
        return {
            "anyOf": [
                self._schema(self._merged(beside, one, where, 0) if beside else one, f"{where}/{word}/{at}", depth + 1)
                for at, one in enumerate(branches)
            ]
        }

    def _all_of(self, node: Mapping[str, Any], where: str) -> Schema:
        out = {key: value for key, value in node.items() if key in _MEANING and key != "allOf"}
        for part in _sequence(node["allOf"], f"{where}/allOf"):
            out = self._merged(out, part, where, 0)
        return out

    def _merged(self, one: Schema, other: Any, where: str, steps: int) -> Schema:
        """Both schemas as one: their properties and required names together; of any other keyword the second counts."""
        if other is True:
            return one
        if not isinstance(other, Mapping):
            raise Unfit(f"{where}: expected a schema, which is an object")
        self._budget.spend(1 + len(one) + len(other), where)
        if steps > MAX_DEPTH:
            raise Unfit(f"{where}: the references go round in a circle")
        if "$ref" in other:
            beside = {key: value for key, value in other.items() if key != "$ref"}
            out = self._merged(one, beside, where, steps + 1)
            return self._merged(out, self._target(other["$ref"], where), where, steps + 1)
        if any(word in one and word in other for word in _ALTERNATIVES):
            raise Unfit(f"{where}: alternatives on both sides of an allOf")
        out = {**one, **{key: value for key, value in other.items() if key in _MEANING}}
        if "properties" in one and "properties" in other:
            out["properties"] = {**_mapping(one["properties"], where), **_mapping(other["properties"], where)}
        for word in ("required", "allOf"):
            if word in one and word in other:
                out[word] = [*_list(one[word], where), *_list(other[word], where)]
        return out

    def _definition(self, reference: Any, where: str) -> str:
        self._target(reference, where)
        return self._names.setdefault(reference, f"{self._name}-ref-{len(self._names)}")

    def _target(self, reference: Any, where: str) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise Unfit(f"{where}/$ref: expected a reference into the same schema, such as '#/$defs/name'")
        node = self._root
        for step in unquote(reference).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            try:
                node = node[int(step)] if isinstance(node, list) else node[step]
            except (KeyError, IndexError, ValueError, TypeError):
                raise Unfit(f"{where}/$ref: there is no {reference[:80]!r} in this schema") from None
        return node

    def _constant(self, value: Any, where: str) -> Any:
        self._budget.spend(1 + len(json.dumps(value)) // 32, where)
        return value


def _check_progress(definitions: Mapping[str, Schema]) -> None:
    """Refuse a definition that begins with itself: nothing matches it, and its grammar would recurse for ever.

    Raises:
        Unfit: there is one.
    """
    done: set[str] = set()
    for name in definitions:
        trail: list[tuple[str, bool]] = [(name, False)]
        open_names: set[str] = set()
        while trail:
            current, left = trail.pop()
            if left:
                open_names.discard(current)
                done.add(current)
            elif current in open_names:
                raise Unfit("a definition refers to itself and to nothing else")
            elif current not in done:
                open_names.add(current)
                trail.append((current, True))
                trail += [(found, False) for found in _begins_with(definitions[current])]


def _begins_with(schema: Schema) -> list[str]:
    if "$ref" in schema:
        return [schema["$ref"].rsplit("/", 1)[1]]
    return [name for one in schema.get("anyOf", ()) for name in _begins_with(one)]


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Unfit(f"{where}: expected an object")
    return value


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise Unfit(f"{where}: expected a list")
    return value


def _sequence(value: Any, where: str) -> Sequence[Any]:
    if not _list(value, where):
        raise Unfit(f"{where}: expected at least one entry")
    return value  # type: ignore[no-any-return]


def _count(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise Unfit(f"{where}: expected a count")
    return int(value)
