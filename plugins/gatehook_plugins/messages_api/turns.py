"""The messages of a request as OpenAI's: what tools have given stands by itself, before what the user says with it."""

import base64
from collections.abc import Callable, Sequence
from typing import Any

from gatehook import encode
from gatehook_plugins.messages_api.requests import (
    Assistant,
    Base64,
    Document,
    Image,
    Message,
    PlainText,
    Redacted,
    SearchResult,
    Thinking,
    ToolResult,
    ToolUse,
    User,
    Web,
    Words,
)

__all__ = ["messages_of", "system_of"]

Part = dict[str, Any]
Lose = Callable[[str], None]


def system_of(system: str | Sequence[Words] | None) -> list[dict[str, Any]]:
    """The message that tells the model what to be; none if that is nothing."""
    return [_said("system", system)] if system else []


def messages_of(messages: Sequence[Message], lose: Lose) -> list[dict[str, Any]]:
    """The conversation; `lose` is told the path of what has no place in it."""
    made: list[dict[str, Any]] = []
    later: list[dict[str, Any]] = []  # what the user says, until the last of successive turns has told its results
    for number, message in enumerate(messages):
        if isinstance(message, User):
            _read_user(message, f"messages[{number}].content", made, later, lose)
            continue
        made += later
        later.clear()
        made += _answers(message) if isinstance(message, Assistant) else [_said("system", message.content)]
    return made + later


def _read_user(message: User, path: str, results: list[dict[str, Any]], said: list[dict[str, Any]], lose: Lose) -> None:
    """Add what tools gave to `results`, and the rest to `said`."""
    if isinstance(message.content, str):
        said.append({"role": "user", "content": message.content})
        return
    parts: list[Part] = []
    for place, block in enumerate(message.content):
        if isinstance(block, ToolResult):
            results.append(_result(block, f"{path}[{place}].content", lose))
        else:
            parts.append(_part(block, f"{path}[{place}]", lose))
    if parts:
        said.append({"role": "user", "content": _plainest(parts)})


def _result(block: ToolResult, path: str, lose: Lose) -> dict[str, Any]:
    given = block.content or ""
    parts: list[Part] = (
        [{"type": "text", "text": given}]
        if isinstance(given, str)
        else [_part(part, f"{path}[{place}]", lose) for place, part in enumerate(given)]
    )
    if block.cache_control is not None:
        parts[-1]["cache_control"] = block.cache_control
    message: dict[str, Any] = {"role": "tool", "tool_call_id": block.tool_use_id, "content": _plainest(parts)}
    if block.is_error:
        message["is_error"] = True
    return message


def _answers(message: Assistant) -> list[dict[str, Any]]:
    """An earlier answer: one message, or several where it thought again after having said something."""
    if isinstance(message.content, str):
        return [{"role": "assistant", "content": message.content}]
    answers = [_Answer()]
    for block in message.content:
        if isinstance(block, Thinking | Redacted) and answers[-1].has_spoken:
            answers.append(_Answer())
        answers[-1].take(block)
    return [answer.message() for answer in answers]


class _Answer:
    """One message of the model's, gathered by kind of block."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._signed: list[dict[str, str]] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []

    @property
    def has_spoken(self) -> bool:
        """Whether thoughts would be put before words that were said first. Calls and their results stay together."""
        return bool(self._parts) and not self._calls

    def take(self, block: Words | Thinking | Redacted | ToolUse) -> None:
        match block:
            case Words():
                self._parts.append(_words(block))
            case Thinking(thinking=text, signature=signature) if signature:
                self._signed.append({"type": "thinking", "thinking": text, "signature": signature})
            case Thinking():
                self._reasoning.append(block.thinking)
            case Redacted():
                self._signed.append({"type": "redacted_thinking", "data": block.data})
            case ToolUse():
                self._calls.append(_call(block))

    def message(self) -> dict[str, Any]:
        made: dict[str, Any] = {"role": "assistant", "content": _plainest(self._parts) if self._parts else ""}
        if reasoning := "".join(self._reasoning):
            made["reasoning_content"] = reasoning
        if self._signed:
            made["thinking_blocks"] = self._signed
        if self._calls:
            made["content"] = made["content"] or None
            made["tool_calls"] = self._calls
        return made


def _call(block: ToolUse) -> dict[str, Any]:
    function = {"name": block.name, "arguments": encode(block.input).decode()}
    call = _marked({"id": block.id, "type": "function", "function": function}, block.cache_control)
    if block.extra_content is not None:
        call["extra_content"] = block.extra_content
    return call


def _said(role: str, content: str | Sequence[Words]) -> dict[str, Any]:
    told = content if isinstance(content, str) else _plainest([_words(block) for block in content])
    return {"role": role, "content": told}


def _plainest(parts: list[Part]) -> str | list[Part]:
    """A single text as such, which every server takes; parts otherwise."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return str(parts[0]["text"])
    return parts or ""


def _part(block: Words | Image | Document | SearchResult, path: str, lose: Lose) -> Part:
    match block:
        case Words():
            return _words(block)
        case Image(source=source):
            url = source.url if isinstance(source, Web) else _data_url(source)
            return _marked({"type": "image_url", "image_url": {"url": url}}, block.cache_control)
        case Document():
            return _document(block)
        case SearchResult():
            return _document(_found(block, path, lose))


def _found(result: SearchResult, path: str, lose: Lose) -> Document:
    """What a search has found, as the document that it is to every model."""
    if result.citations and result.citations.get("enabled"):
        lose(f"{path}.citations")
    text = "\n\n".join(block.text for block in result.content)
    return Document(
        source=PlainText(text),
        title=f"{result.title} ({result.source})" if result.title else result.source,
        cache_control=result.cache_control,
    )


def _document(block: Document) -> Part:
    file = {"filename": block.title} if block.title else {}
    match block.source:
        case Web(url=url):
            file["file_url"] = url
        case PlainText(data=text):
            inline = base64.b64encode(text.encode("utf-8", "replace")).decode()
            file["file_data"] = f"data:text/plain;base64,{inline}"
        case Base64() as source:
            file["file_data"] = _data_url(source)
    part: Part = {"type": "file", "file": file}
    if block.context:
        part["context"] = block.context
    if block.citations and block.citations.get("enabled"):
        part["citations"] = block.citations
    return _marked(part, block.cache_control)


def _data_url(source: Base64) -> str:
    return f"data:{source.media_type};base64,{source.data}"


def _words(block: Words) -> Part:
    return _marked({"type": "text", "text": block.text}, block.cache_control)


def _marked(part: Part, mark: dict[str, Any] | None) -> Part:
    if mark is not None:
        part["cache_control"] = mark
    return part
