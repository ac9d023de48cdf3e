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
            _check_repetitions(schema)
            # Each schema has its own "#", so references are resolved before the next one comes.
            resolved = self._converter.resolve_refs(json.loads(json.dumps(schema)), name)
            return str(self._converter.visit(resolved, name))
        except Exception as error:  # noqa: BLE001  # the library raises whatever a strange schema leads to
            reason = str(error) or type(error).__name__
            raise Invalid(f"{param}: no grammar can be made of this schema: {reason[:200]}", param=param) from None


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _check_repetitions(schema: Any) -> None:
    """Refuse numbers that make a grammar explode.

    Raises:
        ValueError: one is too large.
    """
    if isinstance(schema, dict):
        for key in ("minItems", "maxItems", "minLength", "maxLength"):
            if isinstance(value := schema.get(key), int) and value > _MOST_REPEATED:
                raise ValueError(f"{key} is {value}, and may be {_MOST_REPEATED}")
        for times in re.findall(r"\{([\d, ]+)\}", str(schema.get("pattern", ""))):
            if any(int(each) > _MOST_REPEATED for each in re.findall(r"\d{1,9}", times)):
                raise ValueError(f"the pattern repeats {{{times}}} times; at most {_MOST_REPEATED} may be")
    children = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for child in children:
        _check_repetitions(child)
