"""OpenAI's dialect of pictures, as spoken with clients."""

from typing import Final

import msgspec
from aiohttp import web
from msgspec import UNSET

from gatehook import Call, CanonicalSurface, Document, InvalidRequest, Surface, decode, read_open
from gatehook_plugins.images_api.requests import ImageRequest, check_size

__all__ = ["ImageSurface"]

_decoder: Final = msgspec.json.Decoder(ImageRequest)


class ImageSurface(CanonicalSurface):
    """Implements `gatehook.Surface`. Its answers are never streams."""

    name = "openai"

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Check the body and fill the call from it.

        Raises:
            InvalidRequest: naming the field.
        """
        asked = read_open(body, _decoder)
        check_size(asked.size)
        if asked.stream:
            raise InvalidRequest(
                "stream: pictures are not streamed here; leave it out", param="stream", code="unsupported_parameter"
            )
        call.model, call.choices = asked.model, asked.n or 1
        call.deferred = asked.deferred is True
        call.body = Document(raw=body) if asked.deferred is UNSET else _without_async(body)


def _without_async(body: bytes) -> Document:
    """The request without `async`, which is for the gateway alone."""
    return Document({name: value for name, value in decode(body).items() if name != "async"})


_implements: type[Surface] = ImageSurface
