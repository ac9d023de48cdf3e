"""The body of `/api/chat` (ollama's ChatRequest)."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatehook import (
    Attempt,
    Conversation,
    Egress,
    InvalidRequest,
    Media,
    Part,
    Retry,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    read_conversation,
    sniff,
)
from gatehook_ollama.options import Options

__all__ = ["chat_body", "refused"]

_RUNTIME: Final = ("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty")
_LEVELS: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
_MOST_IMAGES: Final = 32
"""Images that are fetched for one request: enough for any real one, too few to flood another site with downloads."""


async def chat_body(attempt: Attempt, payload: Mapping[str, Any], options: Options, egress: Egress) -> dict[str, Any]:
    """Write the request for a chat, all but `keep_alive`.

    Args:
        attempt: whose deployment is called, and which is told what is lost.
        payload: the chat in OpenAI's shape.
        options: the deployment's.
        egress: gets the images that the client gave by URL.

    Raises:
        InvalidRequest: something Ollama cannot do; another deployment may.
    """
    body: dict[str, Any] = {"model": attempt.target.model, "stream": attempt.call.stream}
    body |= _switches(payload, options, attempt.target.model)
    if runtime := _runtime(payload, options, attempt.target.max_tokens):
        body["options"] = runtime
    if tools := _tools(payload):
        body["tools"] = tools
    conversation = read_conversation(payload["messages"], attempt.drop, system="in_place")
    if not conversation.turns:
        raise refused("messages", "Ollama needs a message that is neither empty nor a system message")
    images = await _fetched(conversation, egress)
    body["messages"] = [*({"role": "system", "content": one.text} for one in conversation.system)]
    for turn in conversation.turns:
        body["messages"] += _messages(turn.role, turn.parts, images, attempt)
    return body


def _switches(payload: Mapping[str, Any], options: Options, model: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (effort := payload.get("reasoning_effort")) is not None:
        found["think"] = _think(effort, model, options)
    elif options.think is not None:
        found["think"] = options.think
    if (form := _format(payload.get("response_format"))) is not None:
        found["format"] = form
    for name in ("logprobs", "top_logprobs"):
        if payload.get(name):
            found[name] = payload[name]
    return found


def _think(effort: Any, model: str, options: Options) -> bool | str:
    if effort == "none":
        return False
    if effort not in _LEVELS:
        raise refused("reasoning_effort", f"expected one of none, {', '.join(_LEVELS)}")
    # Servers answer 400 to a level at a model that can only think or not.
    has_levels = "gpt-oss" in model.lower() or isinstance(options.think, str)
    return _LEVELS[effort] if has_levels else True


def _format(wanted: Any) -> str | Mapping[str, Any] | None:
    """Ollama's `format`: "json", a JSON schema, or None."""
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return "json"
    if kind != "json_schema":
        raise refused("response_format.type", "expected text, json_object or json_schema")
    schema = (wanted.get("json_schema") or {}).get("schema")
    if not isinstance(schema, dict):
        raise refused("response_format.json_schema.schema", "expected a JSON schema")
    return schema


def _runtime(payload: Mapping[str, Any], options: Options, longest: int | None) -> dict[str, Any]:
    found: dict[str, Any] = dict(options.runtime)
    if options.num_ctx is not None:
        found["num_ctx"] = options.num_ctx
    found |= {name: payload[name] for name in _RUNTIME if name in payload}
    if stop := payload.get("stop"):
        found["stop"] = [stop] if isinstance(stop, str) else stop
    limit = payload.get("max_completion_tokens", payload.get("max_tokens", longest))
    if limit is not None:
        found["num_predict"] = limit
    return found


def _tools(payload: Mapping[str, Any]) -> Sequence[Any]:
    """The tools, in OpenAI's shape, which is Ollama's too."""
    tools, choice = payload.get("tools") or (), payload.get("tool_choice", "auto")
    if choice == "none":
        return ()
    if choice != "auto":
        raise refused("tool_choice", "Ollama cannot be made to call a tool; only 'auto' and 'none' can be translated")
    for number, tool in enumerate(tools):
        if tool.get("type", "function") != "function":
            raise refused(f"tools[{number}].type", f"only function tools can be translated, not {tool['type']!r}")
        if not isinstance(tool.get("function"), dict):
            raise InvalidRequest(f"tools[{number}].function: expected a function", param=f"tools[{number}].function")
    return list(tools)


def _messages(role: str, parts: Sequence[Part], images: Mapping[str, str], attempt: Attempt) -> list[dict[str, Any]]:
    """The messages of one turn: each tool's result is one, and all else another."""
    found = [_result(part, images) for part in parts if isinstance(part, ToolResult)]
    said = [part for part in parts if not isinstance(part, ToolResult)]
    if not said:
        return found
    words = [part.text for part in said if isinstance(part, Text)]
    message: dict[str, Any] = {"role": role, "content": "\n\n".join(words)}
    if shown := [_image(part, images) for part in said if isinstance(part, Media)]:
        message["images"] = shown
    if thought := "".join(part.text for part in said if isinstance(part, Thinking)):
        message["thinking"] = thought
    if any(isinstance(part, Thinking) and part.redacted for part in said):
        attempt.drop("thinking_blocks")
    if calls := [_call(part) for part in said if isinstance(part, ToolUse)]:
        message["tool_calls"] = calls
    return [*found, message]


def _call(call: ToolUse) -> dict[str, Any]:
    return {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}


def _result(result: ToolResult, images: Mapping[str, str]) -> dict[str, Any]:
    words = [part.text for part in result.parts if isinstance(part, Text)]
    message = {"role": "tool", "tool_name": result.name, "tool_call_id": result.id, "content": "\n\n".join(words)}
    shown = [_image(part, images) for part in result.parts if isinstance(part, Media)]
    return message | ({"images": shown} if shown else {})


def _image(media: Media, images: Mapping[str, str]) -> str:
    if media.kind != "image" or media.file_id:
        raise refused(media.path, "Ollama takes text and images")
    return media.blob.base64 if media.blob is not None else images[media.url]


async def _fetched(conversation: Conversation, egress: Egress) -> Mapping[str, str]:
    """The images that clients gave by URL, as base64, by their URL: Ollama fetches nothing itself."""
    found = [part for turn in conversation.turns for part in turn.parts]
    found += [inner for part in found if isinstance(part, ToolResult) for inner in part.parts]
    wanted = {one.url: one.url_path for one in found if isinstance(one, Media) and one.url}
    if len(wanted) > _MOST_IMAGES:
        raise refused("messages", f"more than {_MOST_IMAGES} images by URL")
    bodies = await asyncio.gather(*(_fetch(egress, url, param) for url, param in wanted.items()))
    return dict(zip(wanted, bodies, strict=True))


async def _fetch(egress: Egress, url: str, param: str) -> str:
    body = (await egress.fetch(url, param=param)).body
    if not sniff(body[:16]).startswith("image/"):
        raise InvalidRequest(f"{param}: what the URL gives is no image", param=param)
    return base64.b64encode(body).decode("ascii")


def refused(path: str, why: str) -> InvalidRequest:
    """The error for what Ollama cannot do; another deployment is tried."""
    return InvalidRequest(f"{path}: {why}", param=path, retry=Retry.NEXT)
