"""Tool calls in OpenAI's shape: read from messages, assembled from the chunks of a stream, and removed from them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gatehook.dialect.canonical import tool_call_id
from gatehook.jsonio import Document, encode
from gatehook.model import Chunk, Frames, ToolCall

__all__ = [
    "GAP",
    "OLD_FORM",
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
    calls = message.get("tool_calls") or ()
    ids = [one.get("id") for one in calls]
    if all(ids) and len(set(ids)) == len(ids):
        return message
    known: set[str] = set()
    renamed = []
    for call in calls:
        if not call.get("id") or call["id"] in known:
            call = {**call, "id": tool_call_id()}
        known.add(call["id"])
        renamed.append(call)
    return {**message, "tool_calls": renamed}


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


def assembled(chunks: Iterable[Chunk]) -> dict[int, dict[str, Any]]:
    """The messages that a stream's chunks add up to, by the index of their choice."""
    messages: dict[int, _Message] = {}
    for chunk in chunks:
        for choice in chunk.data.get("choices") or ():
            message = messages.setdefault(choice.get("index", 0), _Message())
            message.add(choice.get("delta") or {})
    return {index: message.whole() for index, message in messages.items()}


class _Message:
    """One message, as far as it has come."""

    def __init__(self) -> None:
        self._data: dict[str, Any] = {"role": "assistant", "content": None}
        self._calls: dict[tuple[Any, ...], dict[str, Any]] = {}

    def add(self, delta: Mapping[str, Any]) -> None:
        for name, value in delta.items():
            known = self._data.get(name)
            if name == "tool_calls":
                for fragment in value or ():
                    self._add((fragment.get("index"),), fragment)
            elif name == OLD_FORM:
                if value:
                    self._add((OLD_FORM,), {"function": value})
            elif name != "role" and value is not None:
                joins = isinstance(known, str | list) and type(known) is type(value)
                self._data[name] = known + value if joins else value

    def _add(self, place: tuple[Any, ...], fragment: Mapping[str, Any]) -> None:
        known = self._calls.get(place)
        if known is not None and fragment.get("id") and known["id"] not in ("", fragment["id"]):
            # Some servers number no calls, or all of them 0: another id is another call.
            self._calls[(*place, known["id"])] = self._calls.pop(place)
        call = self._calls.setdefault(place, {"id": "", "type": "function"})
        for name, value in fragment.items():
            if name in ("function", "custom"):
                call[name] = _joined(call.get(name) or {}, value or {})
            elif name != "index" and value:
                call[name] = value

    def whole(self) -> dict[str, Any]:
        calls = {place: call for place, call in self._calls.items() if place != (OLD_FORM,)}
        if calls:
            self._data["tool_calls"] = list(calls.values())
        if old := self._calls.get((OLD_FORM,)):
            self._data[OLD_FORM] = old["function"]
        return self._data


def _joined(known: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A function with the next piece of its name and arguments."""
    pieces = {
        name: value if isinstance(value, str) else encode(value).decode() for name, value in more.items() if value
    }
    return {"name": "", **known, **{name: known.get(name, "") + piece for name, piece in pieces.items()}}


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
