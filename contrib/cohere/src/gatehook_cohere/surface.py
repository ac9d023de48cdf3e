"""The dialect of `/v1/rerank`, as Cohere's and Jina's clients speak it."""

from typing import Annotated, Final

import msgspec
from aiohttp import web

from gatehook import (
    Call,
    Chunk,
    Completion,
    Document,
    GatewayError,
    Surface,
    Usage,
    encode,
    envelope,
    read_open,
)

__all__ = ["RerankSurface"]

_MOST_DOCUMENTS: Final = 10_000


class _Text(msgspec.Struct):
    text: str


class _Request(msgspec.Struct):
    model: str
    query: str
    documents: Annotated[list[str | _Text], msgspec.Meta(min_length=1, max_length=_MOST_DOCUMENTS)]
    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, msgspec.Meta(ge=1)] | None = None


_decoder: Final = msgspec.json.Decoder(_Request)


class RerankSurface:
    """Implements `gatehook.Surface`; there are no streams."""

    name = "rerank"
    canonical = False

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Check the body and fill the call from it.

        Raises:
            InvalidRequest: naming the field.
        """
        parsed = read_open(body, _decoder)
        call.body = Document(raw=body)
        call.model = parsed.model
        call.choices = 0  # no text is written: nothing is to be reserved for one

    def answer(self, call: Call, completion: Completion) -> bytes:
        """The answer as the vendor's plugin made it."""
        return completion.raw

    def event(self, call: Call, chunk: Chunk) -> bytes:
        """Never called."""
        return b""

    def end(self, call: Call, usage: Usage | None) -> bytes:
        """Never called."""
        return b""

    def error(self, call: Call, error: GatewayError) -> bytes:
        """OpenAI's error object; and `message`, which is where Cohere's clients look."""
        return encode({"message": error.message, **envelope(error)})

    def error_event(self, call: Call, error: GatewayError) -> bytes:
        """Never called."""
        return b""


_implements: type[Surface] = RerankSurface
