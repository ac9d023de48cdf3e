"""OpenAI's dialect as spoken with clients. It is the canonical form, so answers go out as they are."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from gatehook import Call, CanonicalSurface, Document, InvalidRequest, Surface, read_open
from gatehook.chats import missing_field
from gatehook_plugins.openai_api.requests import ChatRequest, CompletionRequest, EmbeddingRequest

__all__ = ["OpenAISurface"]

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "chat": msgspec.json.Decoder(ChatRequest),
    "completions": msgspec.json.Decoder(CompletionRequest),
    "embeddings": msgspec.json.Decoder(EmbeddingRequest),
}


class OpenAISurface(CanonicalSurface):
    """Implements `gatehook.Surface`."""

    name = "openai"

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Check the body and fill the call from it.

        Raises:
            InvalidRequest: naming the field.
        """
        parsed = read_open(body, _DECODERS[call.operation])
        kind = type(parsed)
        if kind is ChatRequest:
            # What `_check_typed_parts` looks at stands in lists beside, or within, that of the messages: with a single
            # list there is none of it. One byte is found faster than any word, from either end.
            if body.find(b"[") != body.rfind(b"[") or parsed.response_format or parsed.tool_choice:
                _check_typed_parts(parsed)
            # As `longest` and `answers` say, without their calls.
            call.max_tokens, call.choices = parsed.max_completion_tokens or parsed.max_tokens, parsed.n or 1
        elif kind is CompletionRequest:
            call.max_tokens, call.choices = parsed.longest, parsed.answers
        call.body = Document(raw=body)
        if parsed.deferred is not None:
            call.deferred = parsed.deferred
            call.body = _without_async(call.payload)
        call.model = parsed.model
        if kind is EmbeddingRequest:
            _check_encoding(parsed)
            return
        options = parsed.stream_options
        if parsed.stream:
            call.stream = True
            call.include_usage = options is not None and options.include_usage is True
        elif options is not None:
            raise InvalidRequest("stream_options: allowed only when stream is true", param="stream_options")


def _check_typed_parts(chat: ChatRequest) -> None:
    """Check that parts, tools and response formats have the fields that their types ask for.

    Raises:
        InvalidRequest: naming the field that is missing.
    """
    path = missing_field(chat.messages, chat)
    if path is not None:
        raise InvalidRequest(f"{path}: required, but missing", param=path)


def _without_async(body: Mapping[str, Any]) -> Document:
    """The body without the gateway's own field, which is no vendor's business."""
    return Document({name: value for name, value in body.items() if name != "async"})


def _check_encoding(request: EmbeddingRequest) -> None:
    if request.encoding_format not in (None, "float", "base64"):
        raise InvalidRequest("encoding_format: expected 'float' or 'base64'", param="encoding_format")


_implements: type[Surface] = OpenAISurface
