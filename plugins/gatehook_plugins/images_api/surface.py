"""OpenAI's dialect of pictures, as spoken with clients."""

from typing import Final

import msgspec
from aiohttp import web
from msgspec import UNSET

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
from gatehook.sse import DONE, frame
from gatehook_plugins.images_api.requests import ImageRequest

__all__ = ["ImageSurface"]

_decoder: Final = msgspec.json.Decoder(ImageRequest)


class ImageSurface:
    """Implements `gatehook.Surface`. Its answers are never streams."""

    name = "openai"
    canonical = True

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Check the body and fill the call from it.

        Raises:
            InvalidRequest: naming the field.
        """
        asked = _read(body)
        if asked.stream:
            raise InvalidRequest(
                "stream: pictures are not streamed here; leave it out", param="stream", code="unsupported_parameter"
            )
        call.model, call.choices = asked.model, asked.n or 1
        call.deferred = asked.deferred is True
        call.body = Document(raw=body) if asked.deferred is UNSET else _without_async(body)

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
        """The error object as an event."""
        return frame(self.error(call, error))


def _read(body: bytes) -> ImageRequest:
    try:
        if not body.isascii():
            body.decode()  # fields that are not looked at must not smuggle anything else to a vendor
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise misfit(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_slowly(body)


def _read_slowly(body: bytes) -> ImageRequest:
    """Not JSON, or JSON that the fast reader cannot hold; the slow one tells which."""
    try:
        return msgspec.convert(decode(body), ImageRequest)
    except MalformedJSON as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    except msgspec.ValidationError as error:
        raise misfit(error) from None
    except UnicodeEncodeError:
        raise InvalidRequest("a field's name is a lone surrogate and no text") from None


def _without_async(body: bytes) -> Document:
    """The request without the word that is for the gateway alone."""
    return Document({name: value for name, value in decode(body).items() if name != "async"})


_guard: type[Surface] = ImageSurface
