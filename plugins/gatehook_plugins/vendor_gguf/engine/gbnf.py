"""llama.cpp's own converter of JSON schemas to grammars, corrected where its grammars would allow bad JSON."""

import json
from typing import Any

from llama_cpp import llama_grammar

__all__ = ["Grammar", "literal"]

_library: Any = llama_grammar  # it has no types

_CHAR = r'[^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])'
"""A character in a JSON string; the library's own rule allows an unescaped line break, too."""

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def literal(text: str) -> str:
    """A text as a literal of a grammar."""
    return f'"{text.translate(_ESCAPES)}"'


class Grammar(_library.SchemaConverter):  # type: ignore[misc]
    """Collects the rules of several schemas, and those for the text around them."""

    def __init__(self) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)

    def schema(self, name: str, schema: dict[str, Any]) -> str:
        """Add the rules of a schema, in the form that `normal_schema` gives; returns the name of its first rule.

        Raises:
            ValueError, AssertionError, TypeError, KeyError, RecursionError: the library cannot make rules of it.
        """
        return str(self.visit(self.resolve_refs(schema, name), name))

    def rule(self, name: str, text: str) -> str:
        """Add one rule; returns its name."""
        return str(self._add_rule(name, text))

    def text(self) -> str:
        """All the rules."""
        return str(self.format_grammar())

    def _format_literal(self, text: str) -> str:
        """JSON text as a literal. The library does not escape backslashes, and splits characters beyond 16 bits."""
        value = json.dumps(json.loads(text), ensure_ascii=False)
        return literal(value if value.isascii() or value.encode(errors="ignore").decode() == value else text)

    def _add_primitive(self, name: str, rule: Any) -> str:
        return str(super()._add_primitive(name, _library.BuiltinRule(_CHAR, []) if name == "char" else rule))
