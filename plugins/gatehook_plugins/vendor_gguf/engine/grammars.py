"""Grammars that force an answer into a form: JSON of a schema, or a call of a function."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatehook_plugins.vendor_gguf.engine.errors import Invalid
from gatehook_plugins.vendor_gguf.engine.families import Family
from gatehook_plugins.vendor_gguf.engine.requests import Format
from gatehook_plugins.vendor_gguf.engine.schemas import ANY, Budget, Unfit, normal_schema

__all__ = ["Rules"]

_LONGEST: Final = 1 << 18
"""The most characters of a grammar; one that repeats things thousands of times is slow for each token."""


class Rules:
    """Collects the alternatives that an answer may be."""

    def __init__(self) -> None:
        from gatehook_plugins.vendor_gguf.engine.gbnf import Grammar, literal

        self._grammar = Grammar()
        self._literal = literal
        self._budget = Budget()
        self._alternatives: list[str] = []

    def add_format(self, format: Format) -> None:
        """Add the alternative of JSON, of the format's schema if it has one.

        Raises:
            Invalid: no grammar can be made of the schema.
        """
        param = "response_format"
        if format.type == "json_object":
            self._alternatives.append(self._rule({"type": "object"}, "answer", param))
        elif format.json_schema is None:
            raise Invalid("response_format: json_schema is missing", param="response_format.json_schema")
        else:
            self._alternatives.append(self._rule(format.json_schema.schema_, "answer", f"{param}.json_schema.schema"))

    def add_calls(self, family: Family, functions: Sequence[Mapping[str, Any]], *, several: bool) -> None:
        """Add the alternative of a call of one of the functions, or with `several` of a number of calls.

        Raises:
            Invalid: no grammar can be made of the schema of a function's parameters.
        """
        calls = [self._call(family, function, at) for at, function in enumerate(functions)]
        one = f"( {' | '.join(calls)} )"
        many = f"( {self._written(family.between)} {one} )*" if several else ""
        self._alternatives.append(f"{self._written(family.open)} {one} {many} {self._written(family.close)}")

    def text(self) -> str:
        """The grammar in llama.cpp's notation; "" if anything may be answered.

        Raises:
            Invalid: it is too long.
        """
        if not self._alternatives:
            return ""
        text = f"root ::= {' | '.join(self._alternatives)}\n{self._grammar.text()}\n"
        if len(text) > _LONGEST:
            raise Invalid(f"the grammar of the schema is too long: {len(text)} characters, {_LONGEST} may be")
        return text

    def _call(self, family: Family, function: Mapping[str, Any], at: int) -> str:
        name, param = function["name"], f"tools[{at}].function.parameters"
        arguments = self._rule(function["parameters"], f"arguments-{at}", param, is_object=True)
        before, after = family.around(name)
        return f"{self._written(before)} {arguments} {self._written(after)}"

    def _rule(self, schema: Any, name: str, param: str, *, is_object: bool = False) -> str:
        """Add the rules of a schema; gives the name of the first."""
        try:
            normal = normal_schema(schema, self._budget, name=name)
            if is_object and normal == ANY:
                normal = {"type": "object"}
            if is_object and normal.get("type", "object") != "object":
                raise Unfit("#/type: arguments are an object")
            return self._grammar.schema(name, normal)
        except RecursionError:
            why = "nested too deeply"
        except Unfit as error:
            why = str(error)
        except (ValueError, AssertionError, TypeError, KeyError) as error:  # whatever the library does not take
            why = str(error)[:200] or type(error).__name__
        raise Invalid(f"{param}: no grammar can be made of this schema: {why}", param=param)

    def _written(self, text: str) -> str:
        return self._literal(text) if text else ""
