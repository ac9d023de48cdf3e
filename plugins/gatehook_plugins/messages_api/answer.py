"""Chat completions as messages (`anthropic.types.Message`): thinking first, then text, then tool calls."""

from collections.abc import Mapping
from typing import Any, Final

from gatehook import (
    Call,
    Document,
    MalformedJSON,
    UpstreamError,
    Usage,
    confirmation_of,
    decode,
    decoded_answer,
    tool_call_id,
)

__all__ = [
    "first_choice",
    "head",
    "message_of",
    "reasoning_of",
    "signed_of",
    "stop_of",
    "text_of",
    "told_usage",
    "tool_input",
    "usage_of",
]

Block = dict[str, Any]

_STOPS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def message_of(call: Call, document: Document, usage: Usage | None) -> dict[str, Any]:
    """The whole answer.

    Raises:
        UpstreamError: it cannot be read, or a tool call in it cannot be given as Anthropic's clients expect it.
    """
    data = decoded_answer(call, document)
    choice = first_choice(data)
    message = choice.get("message") or {}
    reason = choice.get("finish_reason")
    content = [*_thoughts(message)]
    if text := text_of(message.get("content")):
        content.append({"type": "text", "text": text})
    content += _calls(message.get("tool_calls") or (), cut=reason == "length")
    calls = any(block["type"] == "tool_use" for block in content)
    stop = stop_of(choice, message.get("refusal") or "", calls=calls)
    return {**head(call), "content": content, **stop, "usage": usage_of(usage), **confirmation_of(data)}


def first_choice(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The only one that was asked for; {} if there is none in this part of the answer."""
    return next((one for one in data.get("choices") or () if one.get("index", 0) == 0), {})


def head(call: Call) -> dict[str, Any]:
    """What is known of an answer before it has begun."""
    name = "msg_" + call.id.removeprefix("req_")
    return {"id": name, "type": "message", "role": "assistant", "model": call.public_name}


def stop_of(choice: Mapping[str, Any], refusal: str, *, calls: bool) -> dict[str, Any]:
    """Why an answer ended. The text that it stopped at is told where its vendor does, as `stop_reason` of the choice.

    Args:
        choice: the one with the finish reason.
        refusal: why the model refuses, "" if it does not.
        calls: whether it calls tools, which some vendors call a stop.
    """
    reason = _STOPS.get(choice.get("finish_reason") or "", "end_turn")
    at, details, told = None, None, choice.get("stop_reason")
    if refusal:
        reason, details = "refusal", {"type": "refusal", "category": None, "explanation": refusal}
    elif reason == "end_turn" and calls:
        reason = "tool_use"
    elif reason == "end_turn" and isinstance(told, str) and told:
        reason, at = "stop_sequence", told
    return {"stop_reason": reason, "stop_sequence": at, "stop_details": details}


def usage_of(usage: Usage | None) -> dict[str, Any]:
    """Tokens as Anthropic counts them: those read from a cache, or written to it, are not among the input's."""
    if usage is None:
        usage = Usage()
    fresh = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    written = {
        "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        "ephemeral_5m_input_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
    }
    return {
        "input_tokens": max(fresh, 0),
        "cache_creation": written,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def told_usage(told: Any) -> Usage | None:
    """What an event of OpenAI's tells in its `usage`; None if that is no such object."""
    if not isinstance(told, dict):
        return None
    details = told.get("prompt_tokens_details")
    cached = details if isinstance(details, dict) else {}
    return Usage(
        prompt_tokens=_count(told, "prompt_tokens"),
        completion_tokens=_count(told, "completion_tokens"),
        cached_tokens=_count(cached, "cached_tokens"),
        cache_write_tokens=_count(cached, "cache_write_tokens"),
    )


def _count(told: Mapping[str, Any], name: str) -> int:
    count = told.get(name)
    return count if isinstance(count, int) else 0


def reasoning_of(said: Mapping[str, Any]) -> str:
    """What was thought, in a message or a delta: by either of its names, or in parts, as Mistral's models tell it."""
    text = said.get("reasoning_content") or said.get("reasoning")
    if text:
        return text if isinstance(text, str) else ""
    content = said.get("content")
    parts = content if isinstance(content, list) else ()
    thoughts = (part for part in parts if isinstance(part, dict) and part.get("type") == "thinking")
    return "".join(text_of(part.get("thinking")) for part in thoughts)


def signed_of(said: Mapping[str, Any]) -> list[Block]:
    """The blocks of thoughts, in a message or a delta, that their vendor wants back as they are; not all are signed."""
    blocks = said.get("thinking_blocks")
    made = (_signed(block) for block in (blocks if isinstance(blocks, list) else ()) if isinstance(block, dict))
    return [block for block in made if block is not None]


def _signed(block: Mapping[str, Any]) -> Block | None:
    match block:
        case {"type": "thinking"}:
            return {
                "type": "thinking",
                "thinking": block.get("thinking") or "",
                "signature": block.get("signature") or "",
            }
        case {"type": "redacted_thinking", "data": str(data)}:
            return {"type": "redacted_thinking", "data": data}
    return None


def text_of(content: Any) -> str:
    """The text of a message or a delta; Mistral's reasoning models tell theirs in parts, thoughts among them."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = (part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


def tool_input(name: str, arguments: str) -> dict[str, Any]:
    """What a tool is called with.

    Raises:
        UpstreamError: the arguments are no JSON object. Something else in their place would be run as if it were meant.
    """
    try:
        given = decode(arguments or "{}")
    except MalformedJSON:
        given = None
    if not isinstance(given, dict):
        raise _malformed(f"the model's call of tool {name!r} has arguments that are no JSON object")
    return given


def _thoughts(message: Mapping[str, Any]) -> list[Block]:
    """The blocks that their vendor wants back as they are; if none says anything, the thoughts as they are told."""
    signed = signed_of(message)
    text = "" if any(block["type"] == "thinking" for block in signed) else reasoning_of(message)
    return [*([{"type": "thinking", "thinking": text, "signature": ""}] if text else []), *signed]


def _calls(calls: Any, *, cut: bool) -> list[Block]:
    """The tool calls; `cut`: the answer was too long, so the last of them may be incomplete, and is then left out."""
    made: list[Block] = []
    for place, call in enumerate(calls):
        function = call.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        try:
            given = tool_input(name, arguments)
        except UpstreamError:
            if cut and place == len(calls) - 1:
                return made
            raise
        known = call.get("id") or tool_call_id()
        made.append({"type": "tool_use", "id": known, "name": name, "input": given, **extra_of(call)})
    return made


def extra_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """What the vendor of a tool call wants back with it (a signature of Gemini's), if anything."""
    extra = call.get("extra_content")
    return {} if extra is None else {"extra_content": extra}


def _malformed(what: str) -> UpstreamError:
    return UpstreamError(what, code="upstream_malformed")
