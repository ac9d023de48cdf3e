"""How families of models write a call of a function, and the calls in what they wrote."""

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from gatehook_plugins.vendor_gguf.engine.text import withheld

__all__ = ["FUNCTION_TAGS", "HERMES", "LLAMA", "MISTRAL", "CallReader", "Family", "FoundCall", "family_of"]


class Family(Struct, frozen=True):
    """The marks around a call. Between them is a JSON object, or a list of such."""

    name: str
    begins: tuple[str, ...]
    """Where a call may begin in a text."""
    open: str
    between: str
    close: str
    """What is written before, between and after calls."""
    arguments: str = "arguments"
    """What the arguments are called."""
    tagged: bool = False
    """Whether the name of the function is in the tag, and the arguments alone are JSON."""
    only_first: bool = False
    """Whether a call must be the first thing in an answer."""

    def around(self, function: str) -> tuple[str, str]:
        """What is written before and after the arguments of a call."""
        if self.tagged:
            return f"<function={function}>", "</function>"
        return f'{{"name": {json.dumps(function)}, "{self.arguments}": ', "}"


HERMES: Final = Family("hermes", ("<tool_call>",), "<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")
MISTRAL: Final = Family("mistral", ("[TOOL_CALLS]",), "[TOOL_CALLS][", ", ", "]")
LLAMA: Final = Family("llama", ("<|python_tag|>", "{"), "", "; ", "", arguments="parameters", only_first=True)
FUNCTION_TAGS: Final = Family("function tags", ("<function=",), "", "", "", tagged=True)


def family_of(template: str) -> Family:
    """The family of the model with this chat template; those that are told in words how to call are of the first."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if "<tool_call>" in template:
        return HERMES
    if "<function=" in template:
        return FUNCTION_TAGS
    if "<|python_tag|>" in template or "ipython" in template:
        return LLAMA
    return HERMES


class FoundCall(Struct):
    """A call in an answer."""

    name: str
    arguments: str
    """JSON."""


_NAME: Final = re.compile(r"<function=([^>\s]{1,64})>\s*")
_CLOSES: Final = re.compile(r"\s*(</tool_call>|</function>|<\|eom_id\|>)")
_BETWEEN: Final = re.compile(r"\s*[,;\]]?\s*")
_LONGEST: Final = 1 << 20
"""Characters of a call; what is longer is a text."""


class CallReader:
    """Finds the calls in a text that comes bit by bit. What is no call after all is given out as text."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._held = ""
        self._within = False
        """Whether the held text begins with a mark, or follows a call within the same marks."""
        self._said = False
        """Whether there was a text before."""

    def push(self, text: str) -> tuple[str, list[FoundCall]]:
        """What is certain to be text, and the calls that are complete."""
        self._held += text
        said, calls = "", []
        while True:
            if not self._within:
                said += self._until_mark()
                if not self._within:
                    break
            found = self._call()
            if found is None:
                break
            if isinstance(found, str):
                said += found
                self._said = True
            else:
                calls += found
        return said, calls

    def finish(self) -> tuple[str, list[FoundCall]]:
        """What is left at the end."""
        said, calls = "", []
        if self._within and (end := _object_end(self._held, self._held.find("{"))) > 0:
            # A model may end its answer without the closing mark.
            calls = _calls(self._family, self._held[:end])
            self._held = self._held[end:].strip() if calls else self._held
        said, self._held = self._held, ""
        return said, calls

    def _until_mark(self) -> str:
        held, marks = self._held, self._family.begins
        if self._family.only_first:
            if self._said or (begun := held.lstrip()) and not any(
                mark.startswith(begun) or begun.startswith(mark) for mark in marks
            ):
                self._held, self._said = "", True
                return held
            if any(held.lstrip().startswith(mark) for mark in marks):
                self._held, self._within = held.lstrip(), True
            return ""
        at = min((found for mark in marks if (found := held.find(mark)) >= 0), default=-1)
        if at >= 0:
            self._held, self._within = held[at:], True
            return held[:at].rstrip() if not held[:at].strip() else held[:at]
        keep = len(held) - withheld(held, marks)
        said, self._held = held[:keep], held[keep:]
        if not said.strip() and not self._said:  # blanks before a call are none of the answer
            self._held = said + self._held
            return ""
        self._said = True
        return said

    def _call(self) -> list[FoundCall] | str | None:
        """The calls at the beginning of the held text; a text if they are none; None as long as that is open."""
        held = self._held
        start = self._start()
        if start is None:
            return self._give_up() if len(held) > _LONGEST else None
        if start < 0:
            return self._give_up()
        end = _object_end(held, start)
        if end == 0:
            return self._give_up() if len(held) > _LONGEST else None
        calls = _calls(self._family, held[:end])
        if not calls:
            return self._give_up()
        rest = held[end:]
        closed = _CLOSES.match(rest)
        if closed is None and self._family.close.strip() and "</" in self._family.close:
            close = self._family.close.strip()
            if close.startswith(rest.strip()):  # it is still coming
                return None
        self._held, self._within = rest[closed.end() :] if closed else rest, False
        if self._family.only_first:
            self._held = _BETWEEN.sub("", self._held, count=1)
        return calls

    def _start(self) -> int | None:
        """Where the JSON begins; None if it has not come yet, -1 if there is none."""
        held = self._held
        mark = next((mark for mark in self._family.begins if held.startswith(mark)), "")
        after = len(mark) if mark != "{" else 0
        if self._family.tagged:
            named = _NAME.match(held)
            if named is None:
                return None if ">" not in held and len(held) < 100 else -1  # noqa: PLR2004
            after = named.end()
        rest = held[after:].lstrip()
        if not rest:
            return None
        return len(held) - len(rest) if rest[0] in "{[" else -1

    def _give_up(self) -> str:
        """It is a text. Its mark is passed, so that it is not looked at again."""
        mark = next((mark for mark in self._family.begins if self._held.startswith(mark)), self._held)
        self._held, self._within = self._held[len(mark) :], False
        return mark


def _object_end(text: str, start: int) -> int:
    """Where the JSON value that begins at `start` is over; 0 if it is not."""
    if start < 0:
        return 0
    depth, quoted, escaped = 0, False, False
    for at in range(start, len(text)):
        char = text[at]
        if quoted:
            quoted, escaped = escaped or char != '"', not escaped and char == "\\"
        elif char == '"':
            quoted = True
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
            if depth == 0:
                return at + 1
    return 0


def _calls(family: Family, text: str) -> list[FoundCall]:
    """The calls in a complete text, with its marks; none if it is something else."""
    start = min((at for mark in "{[" if (at := text.find(mark, _mark_length(family, text))) >= 0), default=-1)
    if start < 0:
        return []
    try:
        value = json.loads(text[start:])
    except (ValueError, RecursionError):
        return []
    if family.tagged:
        named = _NAME.match(text)
        return [FoundCall(named[1], _dumps(value))] if named and isinstance(value, dict) else []
    values = value if isinstance(value, list) else [value]
    calls = [_one(each) for each in values]
    return [call for call in calls if call is not None] if all(calls) else []


def _mark_length(family: Family, text: str) -> int:
    return max((len(mark) for mark in family.begins if mark != "{" and text.startswith(mark)), default=0)


def _one(value: Any) -> FoundCall | None:  # noqa: ANN401
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str):
        return None
    arguments = next((value[key] for key in ("arguments", "parameters") if key in value), {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return FoundCall(name, _dumps(arguments)) if isinstance(arguments, dict) else None


def _dumps(value: Sequence[Any] | dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
