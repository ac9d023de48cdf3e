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
        if isinstance(parsed, ChatRequest):
            path = missing_field(parsed.messages, parsed) if _has_typed_parts(parsed, body) else None
            if path is not None:
                raise InvalidRequest(f"{path}: required, but missing", param=path)
        call.body = Document(raw=body)
        if parsed.deferred is not None:
            call.deferred = parsed.deferred
            call.body = _without_async(call.payload)
        call.model = parsed.model
        if isinstance(parsed, EmbeddingRequest):
            _check_encoding(parsed)
            return
        call.max_tokens, call.choices = parsed.longest, parsed.answers
        call.stream = parsed.stream is True
        if parsed.stream_options is not None:
            if not call.stream:
                raise InvalidRequest("stream_options: allowed only when stream is true", param="stream_options")
            call.include_usage = parsed.stream_options.include_usage is True


def _has_typed_parts(parsed: ChatRequest, body: bytes) -> bool:
    """Whether there may be anything whose type says what else it needs; False is certain."""
    if parsed.response_format is not None or parsed.tool_choice is not None:
        return True
    # All else stands in lists beside, or within, that of the messages; and one byte is found faster than any word.
    return body.find(b"[", body.find(b"[") + 1) >= 0


def _without_async(body: Mapping[str, Any]) -> Document:
    """The body without the gateway's own field, which is no vendor's business."""
    return Document({name: value for name, value in body.items() if name != "async"})


def _check_encoding(request: EmbeddingRequest) -> None:
    if request.encoding_format not in (None, "float", "base64"):
        raise InvalidRequest("encoding_format: expected 'float' or 'base64'", param="encoding_format")


_guard: type[Surface] = OpenAISurface
