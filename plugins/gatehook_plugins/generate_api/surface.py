"""This API's dialect as spoken with clients: a prompt in, its text out."""

import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from gatehook import (
    Call,
    Chunk,
    Completion,
    Document,
    GatewayError,
    Principal,
    Surface,
    Usage,
    confirmation_of,
    decoded_answer,
    encode,
    read_object,
)
from gatehook.sse import frame
from gatehook_plugins.generate_api.errors import error_body, known_status
from gatehook_plugins.generate_api.requests import as_chat

__all__ = ["GenerateSurface", "result"]


class GenerateSurface:
    """Implements `gatehook.Surface`."""

    name = "generate"
    canonical = False

    def __init__(self, default_model: Callable[[Principal], str], *, always_streams: bool = False) -> None:
        """`default_model` tells the model of a caller that names none; `always_streams`: whatever `stream` says."""
        self._default_model = default_model
        self._always_streams = always_streams

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Check the body and fill the call from it.

        Raises:
            InvalidRequest: naming the field.
        """
        chat = as_chat(read_object(body, "a JSON object with 'prompt'"), self._default_model(call.principal))
        call.model = chat["model"]
        call.stream = chat.pop("stream", False) or self._always_streams
        if call.stream:
            chat["stream"] = True
        call.body = Document(chat)

    def answer(self, call: Call, completion: Completion) -> bytes:
        """``{"text", "usage", "latency"}``; the latency is in seconds."""
        return encode({**result(call, completion), "latency": round(time.monotonic() - call.started, 3)})

    def event(self, call: Call, chunk: Chunk) -> bytes:
        """``data: {"token", "finished": false}``; nothing where a chunk has no text."""
        text = _text(call, chunk, "delta")
        asked = confirmation_of(chunk.data)
        return frame(encode({"token": text, "finished": False, **asked})) if text or asked else b""

    def end(self, call: Call, usage: Usage | None) -> bytes:
        """``data: {"token": "", "finished": true}``."""
        return frame(encode({"token": "", "finished": True}))

    def error(self, call: Call, error: GatewayError) -> bytes:
        """``{"error": {"code", "message", "details"}}``."""
        return error_body(error)

    def status(self, error: GatewayError) -> int:
        """One that this API's clients know."""
        return known_status(error)

    def error_event(self, call: Call, error: GatewayError) -> bytes:
        """The error object as an event; no finished token follows it."""
        return frame(error_body(error))


def result(call: Call, completion: Completion) -> dict[str, Any]:
    """``{"text", "usage"}``; the text is empty where the model said none."""
    usage = completion.usage
    return {
        "text": _text(call, completion, "message"),
        "usage": {
            "prompt_tokens": usage and usage.prompt_tokens,
            "completion_tokens": usage and usage.completion_tokens,
            "total_tokens": usage and usage.total_tokens,
        },
        **confirmation_of(completion.data),
    }


def _text(call: Call, answer: Document, part: str) -> str:
    """What the first choice says.

    Raises:
        UpstreamError: the answer cannot be decoded.
    """
    choices = decoded_answer(call, answer).get("choices") or ()
    said = (choice[part].get("content") for choice in choices if choice.get("index", 0) == 0 and choice.get(part))
    return "".join(map(_words, said))


def _words(content: Any) -> str:
    """The text of a message. Mistral's reasoning models tell theirs in parts, of which the thoughts are none."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    texts = (part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


_implements: type[Surface] = GenerateSurface
