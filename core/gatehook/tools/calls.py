"""Tool calls in OpenAI's shape: read from messages, assembled from the chunks of a stream, and removed from them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gatehook.dialect.canonical import tool_call_id
from gatehook.jsonio import Document, encode
from gatehook.model import Chunk, Frames, ToolCall

__all__ = [
    "GAP",
    "OLD_FORM",
    "PartialMessage",
    "answers_of",
    "assembled",
    "calls_of",
    "identified",
    "may_call",
    "pending_form",
    "without_calls",
]

OLD_FORM: Final = "function_call"
"""The field of OpenAI's old form: one call per message, without an id, so that this word serves as one."""
GAP: Final = "\n\n"
"""What separates the model's texts of two rounds."""
_BEGUN: Final = {"function": {"name": "", "arguments": ""}, "custom": {"name": "", "input": ""}}
"""What a tool call is about, before the first piece of it."""
_FIELDS: Final = ("tool_calls", OLD_FORM)
_WORDS: Final = (b"tool_calls", b"function_call", b"\\u00")
"""An answer with calls holds one of these: a field's name, or a letter of it as an escape."""


def may_call(answer: Document | Frames) -> bool:
    """Whether there may be a tool call in an answer; found out without decoding it."""
    raw = answer.data if isinstance(answer, Frames) else answer.raw
    return any(word in raw for word in _WORDS)


def calls_of(message: Mapping[str, Any]) -> list[ToolCall]:
    """The calls of an assistant's message."""
    calls = [_tool_call(one) for one in message.get("tool_calls") or ()]
    if function := message.get(OLD_FORM):
        calls.append(_tool_call({"id": OLD_FORM, "function": function}))
    return calls


def identified(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with an id of its own for each call: some servers give none, or all the same."""
    known: set[str] = set()
    renamed = []
    for call in message.get("tool_calls") or ():
        key = call.get("id")
        if not isinstance(key, str) or not key or key in known:
            key = tool_call_id()
        known.add(key)
        renamed.append(call if call.get("id") == key else {**call, "id": key})
    return {**message, "tool_calls": renamed} if renamed else message


def own_words(message: Mapping[str, Any], said: str) -> Mapping[str, Any]:
    """The message without what was `said` in earlier rounds, which precedes its text as the client sees it."""
    content = message.get("content")
    if not said or not isinstance(content, str):
        return message
    return {**message, "content": content.removeprefix(said).removeprefix(GAP) or None}


def pending_form(call: ToolCall) -> dict[str, Any]:
    """A call as clients are shown it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def answers_of(message: Mapping[str, Any], contents: Mapping[str, str]) -> list[dict[str, Any]]:
    """The messages with the results of a message's calls, in their order; `contents` has the results by id."""
    return [
        {"role": "function", "name": call.name, "content": contents[call.id]}
        if call.id == OLD_FORM and OLD_FORM in message
        else {"role": "tool", "tool_call_id": call.id, "content": contents[call.id]}
        for call in calls_of(message)
        if call.id in contents
    ]


class PartialMessage:
    """A message of the model, assembled from the deltas of a stream."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        """The tool calls so far."""
        self._fields: dict[str, Any] = {"role": "assistant", "content": None}
        self._open: dict[Any, dict[str, Any]] = {}
        """The call that a number of the vendor's stands for now."""

    def add(self, delta: Mapping[str, Any]) -> None:
        """Take the next delta: texts, lists and calls grow, any other field has the last value."""
        for name, value in delta.items():
            known = self._fields.get(name)
            if name == "tool_calls":
                for fragment in value or ():
                    self._add_call(fragment)
            elif name == OLD_FORM:
                if value:
                    self._fields[name] = _joined(known or _BEGUN["function"], value)
            elif name != "role" and value is not None:
                more: Any = _unnumbered(value) if isinstance(value, list) else value
                joins = isinstance(known, str | list) and type(known) is type(more)
                self._fields[name] = known + more if joins else more

    def whole(self) -> dict[str, Any]:
        """The message of all deltas so far, as a plain answer has it."""
        return {**self._fields, "tool_calls": self.calls} if self.calls else dict(self._fields)

    def _add_call(self, fragment: Mapping[str, Any]) -> None:
        place, key = fragment.get("index"), fragment.get("id")
        call = self._open.get(place)
        # Some servers number no calls, or all of them 0: another id is another call.
        if call is None or (key and call["id"] not in ("", key)):
            call = self._open[place] = {"id": "", "type": "function"}
            self.calls.append(call)
        for name, value in fragment.items():
            if name in _BEGUN:
                call[name] = _joined(call.get(name) or _BEGUN[name], value or {})
            elif name != "index" and value:
                call[name] = value


def _unnumbered(listed: list[Any]) -> list[Any]:
    """A list without the numbers that its objects have in a stream."""
    return [{name: one[name] for name in one if name != "index"} if isinstance(one, dict) else one for one in listed]


def _joined(known: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A function with the next piece of its name and arguments."""
    pieces = {
        name: value if isinstance(value, str) else encode(value).decode() for name, value in more.items() if value
    }
    return {**known, **{name: known.get(name, "") + piece for name, piece in pieces.items()}}


def assembled(chunks: Iterable[Chunk]) -> dict[int, dict[str, Any]]:
    """The messages that a stream's chunks add up to, by the index of their choice."""
    messages: dict[int, PartialMessage] = {}
    for chunk in chunks:
        for choice in chunk.data.get("choices") or ():
            message = messages.setdefault(choice.get("index", 0), PartialMessage())
            message.add(choice.get("delta") or {})
    return {index: message.whole() for index, message in messages.items()}


def without_calls(chunks: Sequence[Chunk], *, ends: bool) -> list[Chunk]:
    """The chunks without their tool calls, and, unless the answer `ends` here, without its end.

    Where it ends, its finish reason becomes "stop", as it has no calls any more.
    """
    left = []
    for chunk in chunks:
        choices = []
        for choice in chunk.data.get("choices") or ():
            delta = {name: value for name, value in (choice.get("delta") or {}).items() if name not in _FIELDS}
            reason = "stop" if ends and choice.get("finish_reason") is not None else None
            if reason or any(value is not None for value in delta.values()):
                choices.append({**choice, "delta": delta, "finish_reason": reason})
        if choices or (ends and chunk.usage_only):
            data = {**chunk.data, "choices": choices}
            left.append(
                Chunk(
                    data,
                    content=chunk.content,
                    finished=ends and chunk.finished,
                    usage=chunk.usage,
                    usage_only=chunk.usage_only,
                )
            )
    return left


def _tool_call(data: Mapping[str, Any]) -> ToolCall:
    """The call of a function, or of a custom tool, whose input is any text."""
    call = data.get("function") or data.get("custom") or {}
    arguments = call.get("arguments") or call.get("input") or ""
    if not isinstance(arguments, str):  # some servers give an object instead of its JSON text
        arguments = encode(arguments).decode()
    return ToolCall(data.get("id") or "", call.get("name") or "", arguments)
