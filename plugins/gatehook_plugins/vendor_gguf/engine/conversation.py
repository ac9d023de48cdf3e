"""Messages and tools, in the form that chat templates expect."""

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from gatehook_plugins.vendor_gguf.engine.errors import Invalid
from gatehook_plugins.vendor_gguf.engine.requests import Message, Tool

__all__ = ["messages_for", "simpler", "tools_for"]

Said = dict[str, Any]

_OFFER: Final = (
    "You may call functions. They are given as JSON:\n{tools}\n"
    "To call one, write nothing but its name and arguments as JSON between two tags:\n"
    '<tool_call>\n{{"name": "the name", "arguments": {{}}}}\n</tool_call>'
)


def tools_for(tools: Sequence[Tool]) -> list[Said]:
    """The functions, as templates expect them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.function.name,
                "description": tool.function.description or "",
                "parameters": tool.function.parameters or {"type": "object", "properties": {}},
            },
        }
        for tool in tools
    ]


def messages_for(messages: Sequence[Message], tools: Sequence[Said], *, knows_tools: bool) -> list[Said]:
    """The messages; for a template without tools, the tools, their calls and results become text.

    Raises:
        Invalid: a content is no text, or the arguments of a call are no JSON object.
    """
    said = [_message(message, f"messages[{at}]") for at, message in enumerate(messages)]
    if knows_tools:
        return said
    said = [_in_words(message) for message in said]
    if not tools:
        return said
    offer = _OFFER.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools))
    if said[0]["role"] == "system":
        return [{**said[0], "content": f"{said[0]['content']}\n\n{offer}"}, *said[1:]]
    return [{"role": "system", "content": offer}, *said]


def simpler(messages: Sequence[Said]) -> list[Said]:
    """The same for strict templates: no system message, roles in turn, ids of nine letters and digits."""
    said: list[Said] = []
    for message in messages:
        message = {**message, "role": "user"} if message["role"] == "system" else _with_short_ids(message)
        if said and said[-1]["role"] == message["role"] in ("user", "assistant") and "tool_calls" not in said[-1]:
            both = (said[-1]["content"], message["content"])
            message = {**message, "content": "\n\n".join(filter(None, both))}
            said.pop()
        said.append(message)
    return said


def _with_short_ids(message: Said) -> Said:
    if "tool_call_id" in message:
        return {**message, "tool_call_id": _short(message["tool_call_id"])}
    if "tool_calls" in message:
        return {**message, "tool_calls": [{**call, "id": _short(call["id"])} for call in message["tool_calls"]]}
    return message


def _short(id: str) -> str:
    """Nine letters and digits, the same ones for the same id."""
    return id if re.fullmatch(r"[A-Za-z0-9]{9}", id) else blake2b(id.encode("utf-8", "replace")).hexdigest()[:9]


def _message(message: Message, where: str) -> Said:
    role = "system" if message.role == "developer" else message.role
    said: Said = {"role": role, "content": _text(message.content, where)}
    if message.tool_calls:
        said["tool_calls"] = [_call(call, f"{where}.tool_calls[{at}]") for at, call in enumerate(message.tool_calls)]
    for key in ("tool_call_id", "name", "reasoning_content"):
        if (value := getattr(message, key)) is not None:
            said[key] = value
    return said


def _text(content: str | Sequence[Mapping[str, Any]] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for at, part in enumerate(content):
        if part.get("type") not in ("text", "refusal") or not isinstance(text := part.get(part["type"]), str):
            kind = part.get("type")
            param = f"{where}.content[{at}]"
            raise Invalid(f"{param}: this model reads text only; its type is {kind!r}", param=param)
        texts.append(text)
    return "\n".join(texts)


def _call(call: Mapping[str, Any], where: str) -> Said:
    function = call.get("function")
    name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (None, None)
    if not isinstance(name, str):
        raise Invalid(f"{where}: function.name is missing", param=where)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}", parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise Invalid(f"{where}: function.arguments is no JSON", param=where) from None
    if not isinstance(arguments, dict | None):
        raise Invalid(f"{where}: function.arguments is no JSON object", param=where)
    return {"id": call.get("id") or "", "type": "function", "function": {"name": name, "arguments": arguments or {}}}


def _no_constant(name: str) -> None:
    """NaN and Infinity, which are no JSON.

    Raises:
        ValueError: always.
    """
    raise ValueError(name)


def _in_words(message: Said) -> Said:
    """Calls and results as text of the assistant and the user, whom every template knows."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.pop("tool_calls", [])
    ]
    content = "\n".join(filter(None, [message["content"], *calls]))
    return {**message, "content": content}
