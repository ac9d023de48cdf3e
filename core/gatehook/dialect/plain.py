"""Chats of other dialects, for servers that know OpenAI's fields and no others.

OpenAI's dialect has no place for a failed tool, a picture that a tool gave, signed thoughts, a cache mark, a document
by its URL, a tool that Claude was taught. Surfaces whose dialect has them put them into the body all the same
(`Call.extended`). Vendors that translate find them in what `read_conversation` gives; those that pass bodies on send
what `plain_chat` makes of them.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook.errors import InvalidRequest, Retry

__all__ = ["FAILED", "is_taught", "notes_of", "plain_chat"]

FAILED: Final = "The tool failed: "
"""Put before what a failed tool gave, where a vendor has no other way to tell the model."""

_LONGEST_USER: Final = 64
"""Characters of `user` that OpenAI takes."""
_TEXT: Final = "data:text/plain;base64,"
_TAUGHT: Final = re.compile(r"(?:bash|computer|memory|text_editor)_\d{8}")
_LEFT_OUT: Final = frozenset(("cache_control", "thinking_blocks", "is_error"))
_NOTES: Final = ("context", "citations")
"""What may stand beside a document: what it is about, and whether answers are to cite it."""

Drop = Callable[[str], None]
Object = dict[str, Any]


def notes_of(part: Mapping[str, Any]) -> Object:
    """Those that stand beside a document; none beside other parts."""
    return {name: part[name] for name in _NOTES if part.get(name)} if part.get("type") == "file" else {}


def is_taught(tool: Any) -> bool:
    """Whether it is a tool that Claude was taught and a client runs, such as ``bash_20250124``; in Anthropic's form.

    It has a name, by which it is called like a function, and no schema. Those that Anthropic runs are none.
    """
    if not isinstance(tool, Mapping) or not isinstance(kind := tool.get("type"), str):
        return False
    return isinstance(tool.get("name"), str) and _TAUGHT.fullmatch(kind) is not None


def plain_chat(payload: Mapping[str, Any], drop: Drop) -> Object:
    """The request with nothing in it but what OpenAI's servers take; fields that it has no name for stay.

    Args:
        payload: the request.
        drop: told of what is lost.

    Raises:
        InvalidRequest: something that can neither be told nor left out.
    """
    plain = {name: value for name, value in payload.items() if name not in ("thinking", "output_config")}
    if payload.get("thinking") is not None:
        drop("thinking")  # most models would refuse to hear of an effort in its place
    if (own := payload.get("output_config")) and own.get("effort") != plain.get("reasoning_effort"):
        drop("output_config")  # which says more than what stands beside it
    if plain.get("service_tier") == "standard_only":
        plain["service_tier"] = "default"
    if len(plain.get("user") or "") > _LONGEST_USER:
        drop("user")
        del plain["user"]
    if plain.get("tools"):
        plain["tools"] = [_tool(tool, f"tools[{place}].type", drop) for place, tool in enumerate(plain["tools"])]
    plain["messages"] = list(_messages(plain["messages"], drop))
    return plain


def _tool(tool: Mapping[str, Any], path: str, drop: Drop) -> Object:
    if is_taught(tool):
        raise InvalidRequest(
            f"{path}: {tool['type']!r} is a tool of Anthropic's own, which this model does not have; "
            "offer tools of your own, with name and input_schema",
            param=path,
            code="unsupported_parameter",
            retry=Retry.NEXT,
        )
    return _bare(tool, drop)


def _messages(messages: Sequence[Mapping[str, Any]], drop: Drop) -> Iterator[Object]:
    """The messages; what tools have shown follows when all of them have answered."""
    shown: list[Object] = []
    for number, message in enumerate(messages):
        if shown and message["role"] != "tool":
            yield {"role": "user", "content": shown}
            shown = []
        plain = _bare(message, drop)
        if isinstance(content := message.get("content"), list):
            path = f"messages[{number}].content"
            parts = [_part(part, f"{path}[{place}]", drop) for place, part in enumerate(content)]
            plain["content"] = parts if message["role"] != "tool" else _told(parts, shown)
        if message.get("is_error"):
            plain["content"] = FAILED + (plain.get("content") or "")
        if calls := message.get("tool_calls"):
            plain["tool_calls"] = [_bare(call, drop) for call in calls]
        if message["role"] != "assistant" or any(plain.get(name) for name in _SAID):
            yield plain
    if shown:
        yield {"role": "user", "content": shown}


_SAID: Final = ("content", "tool_calls", "reasoning_content", "refusal")


def _bare(given: Mapping[str, Any], drop: Drop) -> Object:
    for name in ("cache_control", "thinking_blocks"):
        if name in given:
            drop(name)
    return {name: value for name, value in given.items() if name not in _LEFT_OUT}


def _told(parts: Sequence[Object], shown: list[Object]) -> str:
    """What a tool has said, as one text; what it has shown is added to `shown`."""
    shown += [part for part in parts if part["type"] != "text"]
    return "\n".join(part["text"] for part in parts if part["type"] == "text") or ("(shown below)" if parts else "")


def _part(part: Mapping[str, Any], path: str, drop: Drop) -> Object:
    plain, file = _bare(part, drop), part.get("file")
    if part["type"] != "file" or not isinstance(file, dict):
        return plain
    for name in notes_of(part):
        drop(f"{path}.{name}")
        del plain[name]
    if file.get("file_url"):
        raise InvalidRequest(
            f"{path}.file.file_url: documents by URL are not taken here; send the document itself, in base64",
            param=f"{path}.file.file_url",
            code="unsupported_parameter",
            retry=Retry.NEXT,
        )
    data = file.get("file_data") or ""
    if data.startswith(_TEXT):
        return {"type": "text", "text": _document(data.removeprefix(_TEXT), file.get("filename"))}
    return {**plain, "file": {"filename": "document", **file}} if data else plain


def _document(data: str, name: str | None) -> str:
    try:
        text = base64.b64decode(data, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        text = data
    return f"{name}\n\n{text}" if name else text
