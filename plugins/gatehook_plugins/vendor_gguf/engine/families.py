"""The notations in which families of models write a call of a function."""

import json
import re
from typing import Final

from msgspec import Struct

__all__ = ["FUNCTION_TAGS", "HERMES", "LLAMA", "MISTRAL", "Family", "family_of"]


class Family(Struct, frozen=True):
    """A notation: the marks around the JSON of a call, or of several."""

    marks: tuple[str, ...]
    """Where a call may begin in an answer."""
    head: re.Pattern[str]
    """What stands before the JSON. A group "name", if any, is the function's name, and the JSON then its arguments."""
    closes: tuple[str, ...]
    """What may stand after the JSON."""
    open: str
    between: str
    close: str
    """What a model writes before, between and after calls."""
    arguments: str = "arguments"
    """The key of the arguments in the JSON."""
    tagged: bool = False
    """Whether the name of the function is written in a tag, and not in the JSON."""
    first: bool = False
    """Whether a call must be the first thing in an answer."""

    def around(self, function: str) -> tuple[str, str]:
        """What a model writes before and after the arguments of a call."""
        if self.tagged:
            return f"<function={function}>", "</function>"
        return f'{{"name": {json.dumps(function)}, "{self.arguments}": ', "}"


HERMES: Final = Family(
    marks=("<tool_call>",),
    head=re.compile(r"<tool_call>\s*"),
    closes=("</tool_call>",),
    open="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    close="\n</tool_call>",
)
MISTRAL: Final = Family(
    marks=("[TOOL_CALLS]",),
    head=re.compile(r"\[TOOL_CALLS\]\s*(?:(?P<name>[\w.-]{1,64})(?:\[CALL_ID\]\w+)?\[ARGS\])?\s*"),
    closes=("</s>",),
    open="[TOOL_CALLS][",
    between=", ",
    close="]",
)
LLAMA: Final = Family(
    marks=("<|python_tag|>", "{"),
    head=re.compile(r"(?:<\|python_tag\|>)?\s*"),
    closes=(";", "<|eom_id|>"),
    open="",
    between="; ",
    close="",
    arguments="parameters",
    first=True,
)
FUNCTION_TAGS: Final = Family(
    marks=("<function=",),
    head=re.compile(r"<function=(?P<name>[\w.-]{1,64})>\s*"),
    closes=("</function>",),
    open="",
    between="",
    close="",
    tagged=True,
)


def family_of(template: str) -> Family:
    """The family of the model with this chat template; `HERMES` for one that is told in words how to call."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if "<tool_call>" in template:
        return HERMES
    if "<function=" in template:
        return FUNCTION_TAGS
    if "<|python_tag|>" in template or "ipython" in template:
        return LLAMA
    return HERMES
