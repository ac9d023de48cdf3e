"""OpenAI's dialect as spoken with clients. It is the canonical form, so answers go out as they are."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from gatehook import (
    Call,
    Chunk,
    Completion,
    Document,
    GatewayError,
    InvalidRequest,
    MalformedJSON,
    Surface,
    Usage,
    decode,
    encode,
    envelope,
    misfit,
)
from gatehook.chats import missing_field
from gatehook.sse import DONE, frame
from gatehook_plugins.openai_api.requests import ChatRequest, CompletionRequest, EmbeddingRequest

__all__ = ["OpenAISurface"]

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "chat": msgspec.json.Decoder(ChatRequest),
    "completions": msgspec.json.Decoder(CompletionRequest),
    "embeddings": msgspec.json.Decoder(EmbeddingRequest),
}


class OpenAISurface:
    """Implements `gatehook.Surface`."""

    name = "openai"
    canonical = True

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Check the body and fill the call from it.

        Raises:
            InvalidRequest: naming the field.
        """
        parsed = _parsed(call.operation, body)
        if isinstance(parsed, ChatRequest):
            path = missing_field(parsed.messages, parsed) if _has_typed_parts(body) else None
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

    def answer(self, call: Call, completion: Completion) -> bytes:
        """The answer's bytes, as the vendor's plugin made them."""
        return completion.raw

    def event(self, call: Call, chunk: Chunk) -> bytes:
        """``data: {…}`` and an empty line."""
        return frame(chunk.raw)

    def end(self, call: Call, usage: Usage | None) -> bytes:
        """``data: [DONE]``."""
        return DONE

    def error(self, call: Call, error: GatewayError) -> bytes:
        """``{"error": {"message", "type", "param", "code"}}``."""
        return encode(envelope(error))

    def error_event(self, call: Call, error: GatewayError) -> bytes:
        """The error object as an event; no [DONE] follows it."""
        return frame(self.error(call, error))


def _has_typed_parts(body: bytes) -> bool:
    """Whether there may be anything whose type says what else it needs; False is certain."""
    # The type of a tool call may be left out; and a letter of a name may be escaped. Not by `in`: it would first try
    # whether the text is a number, and make an error of that, each time.
    return body.find(b'"type"') >= 0 or body.find(b'"tool_calls"') >= 0 or body.find(b"\\u00") >= 0


def _parsed(operation: str, body: bytes) -> Any:
    decoder = _DECODERS[operation]
    try:
        if not body.isascii():
            body.decode()  # fields that are not looked at must not smuggle anything else to a vendor
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise misfit(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not JSON, or JSON with lone surrogates, which msgspec cannot hold; the slow reader tells which.
        try:
            return msgspec.convert(decode(body), decoder.type)
        except MalformedJSON as error:
            raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
        except msgspec.ValidationError as error:
            raise misfit(error) from None
        except UnicodeEncodeError:
            raise InvalidRequest("a field's name, or a role, is a lone surrogate and no text") from None


def _without_async(body: Mapping[str, Any]) -> Document:
    """The body without the gateway's own field, which is no vendor's business."""
    return Document({name: value for name, value in body.items() if name != "async"})


def _check_encoding(request: EmbeddingRequest) -> None:
    if request.encoding_format not in (None, "float", "base64"):
        raise InvalidRequest("encoding_format: expected 'float' or 'base64'", param="encoding_format")


_guard: type[Surface] = OpenAISurface
