"""Grammars that make an answer what was asked for: JSON of a schema, a call of a function."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatehook_plugins.vendor_gguf.engine.errors import Invalid
from gatehook_plugins.vendor_gguf.engine.families import Family
from gatehook_plugins.vendor_gguf.engine.requests import Format

__all__ = ["Rules"]

_LONGEST: Final = 1 << 18
"""Characters of a grammar; one that repeats things thousands of times is slow for each token."""
_MOST_REPEATED: Final = 1000


class Rules:
    """Collects what an answer may be: one of the alternatives that are added."""

    def __init__(self) -> None:
        from llama_cpp.llama_grammar import SchemaConverter

        make: Any = SchemaConverter  # without types
        self._converter = make(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._alternatives: list[str] = []

    def add_format(self, format: Format) -> None:
        """JSON, and of its schema.

        Raises:
            Invalid: the schema has something that no grammar can be made of.
        """
        param = "response_format"
        if format.type == "json_object":
            self._alternatives.append(self._rule({"type": "object"}, "answer", param))
        elif format.json_schema is None:
            raise Invalid("response_format: json_schema is missing", param="response_format.json_schema")
        else:
            self._alternatives.append(self._rule(format.json_schema.schema_, "answer", f"{param}.json_schema.schema"))

    def add_calls(self, family: Family, functions: Sequence[Mapping[str, Any]], *, several: bool) -> None:
        """A call of one of the functions, or with `several` of more than one, as the model's family writes them.

        Raises:
            Invalid: the schema of its parameters has something that no grammar can be made of.
        """
        calls = [self._call(family, function, at) for at, function in enumerate(functions)]
        one = f"( {' | '.join(calls)} )"
        many = f"( {_literal(family.between)} {one} )*" if several else ""
        self._alternatives.append(f"{_literal(family.open)} {one} {many} {_literal(family.close)}")

    def text(self) -> str:
        """In llama.cpp's notation; "" if anything may be answered.

        Raises:
            Invalid: it is too long.
        """
        if not self._alternatives:
            return ""
        text = f"root ::= {' | '.join(self._alternatives)}\n{self._converter.format_grammar()}\n"
        if len(text) > _LONGEST:
            raise Invalid(f"the grammar of the schema is too long: {len(text)} characters, {_LONGEST} may be")
        return text

    def _call(self, family: Family, function: Mapping[str, Any], at: int) -> str:
        name, schema = function["name"], function["parameters"]
        arguments = self._rule(schema, f"arguments-{at}", f"tools[{at}].function.parameters")
        before, after = family.around(name)
        return f"{_literal(before)} {arguments} {_literal(after)}"

    def _rule(self, schema: Any, name: str, param: str) -> str:
        """The name of the rule for what a schema describes."""
        try:
            _check(schema)
            resolved = self._converter.resolve_refs(_with_own_references(schema, name), name)
            return str(self._converter.visit(resolved, name))
        except Exception as error:  # noqa: BLE001  # the library raises whatever a strange schema leads to
            reason = str(error) or type(error).__name__
            raise Invalid(f"{param}: no grammar can be made of this schema: {reason[:200]}", param=param) from None


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _with_own_references(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """A copy whose references have names of their own: rules are named by the last part of a reference alone.

    Raises:
        LookupError: one leads nowhere.
    """
    names: dict[str, str] = {}

    def renamed(node: Any) -> Any:
        if isinstance(node, list):
            return [renamed(each) for each in node]
        if not isinstance(node, dict):
            return node
        copy = {key: renamed(value) for key, value in node.items()}
        if isinstance(ref := node.get("$ref"), str) and ref.startswith("#/"):
            copy["$ref"] = f"#/$defs/{names.setdefault(ref, f'{name}-ref{len(names)}')}"
        return copy

    copy: dict[str, Any] = renamed({key: value for key, value in schema.items() if key != "$defs"})
    definitions: dict[str, Any] = {}
    while missing := [ref for ref, own in names.items() if own not in definitions]:
        for ref in missing:
            target: Any = schema
            for part in ref.split("/")[1:]:
                target = target[part.replace("~1", "/").replace("~0", "~")]
            definitions[names[ref]] = renamed(target)
    return {**copy, "$defs": definitions} if definitions else copy


def _check(schema: Any) -> None:
    """Refuse what the library makes huge grammars of, or never comes to an end with.

    Raises:
        ValueError: there is such a thing.
    """
    if isinstance(schema, dict):
        for key in ("minItems", "maxItems", "minLength", "maxLength"):
            if isinstance(value := schema.get(key), int) and value > _MOST_REPEATED:
                raise ValueError(f"{key} is {value}, and may be {_MOST_REPEATED}")
        if isinstance(pattern := schema.get("pattern"), str):
            _check_pattern(pattern)
    children = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for child in children:
        _check(child)


def _check_pattern(pattern: str) -> None:
    plain = re.sub(r"\[(?:\\.|[^\]\\])*\]", "", re.sub(r"\\[^\[\]]", "", pattern))
    if any(int(times) > _MOST_REPEATED for times in re.findall(r"(?<=[{, ])\d{1,9}", plain)):
        raise ValueError(f"the pattern repeats something more than {_MOST_REPEATED} times")
    if re.search(r"[\]}]", re.sub(r"\{[^}]*\}|\\.", "", plain)):
        raise ValueError("the pattern has a closing bracket without an opening one")
