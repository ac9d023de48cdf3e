"""What a request asks of the mock, read from OpenAI's shape. Wrong types are refused, naming the field."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from gatehook import InvalidRequest

__all__ = ["Ask", "Prompt", "count", "number", "read_chat", "read_input", "read_prompts", "tokens"]

_TOKEN: Final = re.compile(r"\s*\S+|\s+")
_MAX_N: Final = 128
"""OpenAI's limit."""


def tokens(text: str) -> list[str]:
    """The text in the pieces that count as its tokens: words, each with the space before it."""
    return _TOKEN.findall(text)


def count(text: str) -> int:
    """How many tokens a text has."""
    return sum(1 for _ in _TOKEN.finditer(text))


class Ask(Struct, frozen=True):
    """One question, of whatever operation. `said` are the user's last words."""

    said: str
    prompt_tokens: int
    n: int = 1
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    may_think: bool = False
    """Whether the answer can hold reasoning."""
    may_call: bool = False
    """Whether tool calls are allowed."""
    forced: Sequence[Mapping[str, Any]] = ()
    """The functions of which one must be called, if one must: names and schemas of the parameters."""
    as_json: bool = False
    """Whether the answer must be a JSON object."""
    schema: Any = None
    """What that object must conform to, if to anything."""


class Prompt(Struct, frozen=True):
    """A prompt or an input: its text ("" where tokens were sent), its tokens, and what it is known by."""

    text: str
    tokens: int
    identity: str


def read_chat(payload: Mapping[str, Any], cap: int | None) -> Ask:
    """Read a chat.

    Args:
        payload: the request.
        cap: the deployment's own limit of tokens in an answer.

    Raises:
        InvalidRequest: a field of a wrong type, or a choice of a tool that is not there.
    """
    messages = payload.get("messages")
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise _wrong("messages", "expected a list of messages")
    texts = [(one.get("role"), _text_of(one.get("content"))) for one in messages]
    forced, may_call = _tool_choice(payload)
    as_json, schema = _shape(payload.get("response_format"))
    return Ask(
        said=next((text for role, text in reversed(texts) if role in ("user", "tool", "function") and text), ""),
        prompt_tokens=sum(count(text) for _, text in texts),
        n=number(payload, "n", most=_MAX_N) or 1,
        stop=_stop(payload),
        max_tokens=_cap(payload, cap),
        may_think=True,
        may_call=may_call,
        forced=forced,
        as_json=as_json,
        schema=schema,
    )


def read_prompts(payload: Mapping[str, Any], cap: int | None) -> Sequence[Ask]:
    """Read a text completion: one question for each prompt.

    Raises:
        InvalidRequest: a field of a wrong type.
    """
    n = number(payload, "n", most=_MAX_N) or 1
    stop = _stop(payload)
    limit = _cap(payload, cap, least=0)
    return [
        Ask(prompt.text, prompt.tokens, n=n, stop=stop, max_tokens=limit)
        for prompt in read_input(payload.get("prompt"), "prompt")
    ]


def read_input(value: Any, param: str) -> Sequence[Prompt]:
    """Read a text, a list of texts, a list of tokens, or a list of lists of tokens.

    Raises:
        InvalidRequest: none of these.
    """
    if isinstance(value, str):
        return [_prompt(value)]
    if isinstance(value, list) and value:
        if _are_tokens(value):
            return [_token_prompt(value)]
        if all(isinstance(one, str) for one in value):
            return [_prompt(one) for one in value]
        if all(isinstance(one, list) and one and _are_tokens(one) for one in value):
            return [_token_prompt(one) for one in value]
    raise _wrong(param, "expected a text, a list of texts, or lists of tokens")


def number(payload: Mapping[str, Any], name: str, *, most: int, least: int = 1) -> int | None:
    """A whole number of the request, None if it is absent or null.

    Raises:
        InvalidRequest: anything else.
    """
    value = payload.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(name, f"expected a whole number from {least} to {most}")
    return value


def _wrong(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {why}", param=param)


def _are_tokens(values: Iterable[Any]) -> bool:
    return all(isinstance(one, int) and not isinstance(one, bool) for one in values)


def _prompt(text: str) -> Prompt:
    return Prompt(text, count(text), f"text:{text}")


def _token_prompt(values: Sequence[int]) -> Prompt:
    return Prompt("", len(values), f"tokens:{','.join(map(str, values))}")


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return " ".join(text for text in texts if isinstance(text, str))


def _stop(payload: Mapping[str, Any]) -> tuple[str, ...]:
    stop = payload.get("stop")
    words = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _wrong("stop", "expected a text or a list of texts")
    return tuple(word for word in words if word)


def _cap(payload: Mapping[str, Any], cap: int | None, *, least: int = 1) -> int | None:
    """The most tokens of an answer: by `max_completion_tokens`, else `max_tokens`, and never above `cap`."""
    asked = [number(payload, name, least=least, most=2**31) for name in ("max_completion_tokens", "max_tokens")]
    limits = [limit for limit in (next((one for one in asked if one is not None), None), cap) if limit is not None]
    return min(limits, default=None)


def _shape(wanted: Any) -> tuple[bool, Any]:
    """Whether the answer must be JSON, and its schema."""
    match wanted:
        case None | {"type": "text"}:
            return False, None
        case {"type": "json_object"}:
            return True, None
        case {"type": "json_schema", "json_schema": dict() as named} if isinstance(named.get("schema"), dict | None):
            return True, named.get("schema")
    raise _wrong(
        "response_format", "expected the type 'text', 'json_object' or 'json_schema', and a schema for the last"
    )


def _tool_choice(payload: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], bool]:
    """The functions of which one must be called, and whether any may be called."""
    functions = _functions(payload)
    match payload.get("tool_choice"):
        case None | "auto" | {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}:
            return (), True
        case "none":
            return (), False
        case "required":
            wanted = list(functions)
        case {"type": "function", "function": {"name": str() as name}}:
            wanted = [name]
        case {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": list() as tools}}:
            wanted = list(_functions({"tools": tools}))
        case _:
            raise _wrong("tool_choice", "expected 'none', 'auto', 'required' or a function")
    if not wanted:
        raise _wrong("tool_choice", "a tool call is required, but 'tools' holds no function")
    if lost := [name for name in wanted if name not in functions]:
        raise _wrong("tool_choice", f"the function {lost[0]!r} is not among 'tools'")
    return [functions[name] for name in wanted], True


def _functions(payload: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    tools = payload.get("tools")
    if tools is None:
        return {}
    if not isinstance(tools, list):
        raise _wrong("tools", "expected a list of tools")
    functions = (
        tool["function"] for tool in tools if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    )
    return {one["name"]: one for one in functions if isinstance(one.get("name"), str)}
