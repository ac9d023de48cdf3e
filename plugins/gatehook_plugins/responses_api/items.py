"""The items of `input` as the messages of a chat.

What a model gave in one turn (reasoning, text, calls) are several items here and one message there; so consecutive
items of that kind become one. Reasoning goes back to where it came from: in plain as `reasoning_content`, which some
vendors want to see again, and signed as `thinking_blocks`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from msgspec import Struct

from gatehook import InvalidRequest
from gatehook.chats import Name, Text
from gatehook_plugins.responses_api.fitting import fitted_at
from gatehook_plugins.responses_api.namespaces import joined
from gatehook_plugins.responses_api.parts import InputPart, OutputPart, Refusal, as_content
from gatehook_plugins.responses_api.sealing import unsealed
from gatehook_plugins.responses_api.turn import Turn

__all__ = ["Messages"]

Object = dict[str, Any]


class Said(Struct):
    """What somebody else than the model says."""

    role: Literal["user", "system", "developer"]
    content: str | list[InputPart]


class Answered(Struct):
    """What the model said."""

    content: str | list[OutputPart]
    extra_content: Object | None = None


class Called(Struct):
    """A call of the model's."""

    call_id: Text
    name: Name
    arguments: str
    namespace: str | None = None
    extra_content: Object | None = None


class CalledCustom(Struct):
    """A call of a tool whose input is any text."""

    call_id: Text
    name: Name
    input: str
    namespace: str | None = None


class Result(Struct):
    """What the tool gave that was called."""

    call_id: Text
    output: str | list[InputPart]


class Thought(Struct):
    """A piece of reasoning."""

    text: str


class Reasoned(Struct):
    """What the model thought; in plain, and as its vendor has sealed it."""

    summary: list[Thought] | None = None
    content: list[Thought] | None = None
    encrypted_content: str | None = None
    extra_content: Object | None = None


class Messages:
    """Reads items in their order. `made` are the messages, `origins` where in the request each of them comes from."""

    def __init__(self, drop: Callable[[str], None]) -> None:
        """`drop` is told the path of what cannot be sent on, and need not be."""
        self.made: list[Object] = []
        self.origins: list[str] = []
        self._drop = drop
        self._turn: Turn | None = None
        """What the next item may belong to."""

    def instruct(self, instructions: str) -> None:
        """Begin with what the model is told to be."""
        self._add({"role": "system", "content": instructions}, "instructions")

    def read(self, given: str | Sequence[Object]) -> None:
        """Read the whole input.

        Raises:
            InvalidRequest: naming the path of what is wrong, or of an item of a type that cannot be sent on.
        """
        if isinstance(given, str):
            self._add({"role": "user", "content": given}, "input")
            return
        for number, item in enumerate(given):
            path = f"input[{number}]"
            kind = item.get("type") or ("message" if "role" in item else None)
            if kind is None:
                raise InvalidRequest(f"{path}.type: required, but missing", param=f"{path}.type")
            reader = self.READERS.get(kind) if isinstance(kind, str) else None
            if reader is None:
                raise _unknown(kind, path)
            reader(self, item, path)
        self._end_turn()

    def _add(self, message: Object, path: str) -> None:
        self._end_turn()
        self.made.append(message)
        self.origins.append(path)

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.end()
            self._turn = None

    def _answer(self, path: str) -> Turn:
        """The turn that an item of the model's belongs to."""
        if self._turn is None:
            turn = Turn()
            self._add(turn.message, path)
            self._turn = turn
        return self._turn

    def _message(self, item: Object, path: str) -> None:
        if item.get("role") == "assistant":
            self._answered(fitted_at(item, Answered, path), self._answer(path), path)
            return
        said = fitted_at(item, Said, path)
        self._add({"role": said.role, "content": as_content(said.content, f"{path}.content")}, path)

    def _answered(self, said: Answered, turn: Turn, path: str) -> None:
        given: str | Sequence[OutputPart] = said.content
        for part in given:
            if isinstance(part, Refusal):
                turn.refuse(part.refusal)
        words = given if isinstance(given, str) else [part for part in given if not isinstance(part, Refusal)]
        turn.say(as_content(words, f"{path}.content"))
        if said.extra_content:
            turn.prove(said.extra_content)

    def _call(self, item: Object, path: str) -> None:
        called = fitted_at(item, Called, path)
        extra = {"extra_content": called.extra_content} if called.extra_content else {}
        function = {"name": _name(called), "arguments": called.arguments}
        self._answer(path).call({"id": called.call_id, "type": "function", "function": function, **extra})

    def _custom(self, item: Object, path: str) -> None:
        called = fitted_at(item, CalledCustom, path)
        custom = {"name": _name(called), "input": called.input}
        self._answer(path).call({"id": called.call_id, "type": "custom", "custom": custom})

    def _result(self, item: Object, path: str) -> None:
        result = fitted_at(item, Result, path)
        content = as_content(result.output, f"{path}.output")
        self._add({"role": "tool", "tool_call_id": result.call_id, "content": content}, path)

    def _reasoning(self, item: Object, path: str) -> None:
        reasoned = fitted_at(item, Reasoned, path)
        blocks = unsealed(reasoned.encrypted_content) if reasoned.encrypted_content else []
        if blocks is None:
            self._drop(f"{path}.encrypted_content")
        turn = self._answer(path)
        turn.think("".join(one.text for one in reasoned.summary or reasoned.content or ()), blocks or ())
        if reasoned.extra_content:
            turn.prove(reasoned.extra_content)

    READERS: ClassVar[Mapping[str, Callable[["Messages", Object, str], None]]] = {
        "message": _message,
        "reasoning": _reasoning,
        "function_call": _call,
        "function_call_output": _result,
        "custom_tool_call": _custom,
        "custom_tool_call_output": _result,
    }
    """By the type of item. Not bound to an instance, which would hold itself until the garbage is collected."""


def _name(called: Called | CalledCustom) -> str:
    return joined(called.namespace, called.name) if called.namespace else called.name


def _unknown(kind: object, path: str) -> InvalidRequest:
    if kind == "item_reference":
        why = "this gateway keeps no items; send the item itself, as clients do that are told `store: false`"
    else:
        shown = repr(kind[:64]) if isinstance(kind, str) else "of this type"
        why = f"items {shown} cannot be sent on; there are: {', '.join(Messages.READERS)}"
    return InvalidRequest(f"{path}.type: {why}", param=f"{path}.type")
