"""A vendor's answer, whichever way it came; and what went wrong with the line to it, in words."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Mapping
from types import TracebackType
from typing import Protocol, Self

import aiohttp
from aiohttp.http import HttpProcessingError

from gatehook.errors import Retry, UpstreamError, UpstreamTimeout, redact
from gatehook.model import Target
from gatehook.retry_after import retry_after

__all__ = ["LINE_ERRORS", "SessionAnswer", "Upstream", "mapped", "reason"]

_DRAIN_SECONDS = 0.25
_ERROR_SECONDS = 5.0
_LONGEST_ERROR = 1 << 18
"""Bytes that are read of the body of an error."""

LINE_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)
"""What both ways raise; TimeoutError is an OSError."""


class Answer(Protocol):
    """An answer whose head has arrived, as either way gives it."""

    status: int

    @property
    def headers(self) -> Mapping[str, str]:
        """By names in any case."""

    @property
    def content_type(self) -> str:
        """As the header says it, in lower case; "" if there is none."""

    @property
    def arrived(self) -> bool:
        """Whether the whole answer has arrived, be it read or not."""

    def whole(self) -> bytes | None:
        """What is left of the body, if all of it has arrived and is to be had at once; else None."""

    def receive(self) -> Awaitable[bytes]:
        """What has arrived of the body, at least one byte; b"" at its end."""

    def done(self) -> None:
        """Give the connection back, or close it if anything of the answer is still to come."""


class SessionAnswer:
    """An `Answer` of aiohttp's ClientSession."""

    __slots__ = ("_response", "receive", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.receive = response.content.readany
        self.status = response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """By names in any case."""
        return self._response.headers

    @property
    def content_type(self) -> str:
        """As the header says it, in lower case; "" if there is none."""
        return self._response.headers.get("Content-Type", "").lower()

    @property
    def arrived(self) -> bool:
        """Whether the whole answer has arrived, be it read or not."""
        return self._response.content.is_eof()

    def whole(self) -> None:
        """None: there may be parts of it that aiohttp has not decompressed yet."""

    def done(self) -> None:
        """Give the connection back, or close it."""
        if self._response.content.is_eof():
            self._response.release()
        else:
            self._response.close()


class Upstream:
    """A vendor's answer whose headers have arrived. Leaving its context closes the connection unless all was read."""

    __slots__ = ("_answer", "_limit", "_target", "status")

    def __init__(self, answer: Answer, target: Target, limit: int) -> None:
        """`limit` is the most bytes that `read` takes."""
        self._answer = answer
        self._target = target
        self._limit = limit
        self.status = answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The vendor's headers, by names in any case."""
        return self._answer.headers

    @property
    def retry_after(self) -> float | None:
        """How many seconds the vendor asks to be left alone, None if it does not say."""
        return retry_after(self.headers)

    @property
    def is_event_stream(self) -> bool:
        """Whether the vendor says that this is a stream of events."""
        return self._answer.content_type.startswith("text/event-stream")

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            UpstreamError: the line was cut, or the body is over `egress.max_response`.
        """
        data = self._answer.whole()
        if data is None:
            data = await self._all()
        elif len(data) > self._limit:
            raise self._too_large()
        return data

    async def _all(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := await self.receive():
            size += len(part)
            if size > self._limit:
                raise self._too_large()
            parts.append(part)
        return b"".join(parts)

    def _too_large(self) -> UpstreamError:
        said = f"the answer is larger than egress.max_response ({self._limit} bytes)"
        return UpstreamError(f"{self._target.vendor}: {said}", retry=Retry.NEXT)

    async def read_error(self) -> bytes:
        """The body of an answer that is no success, for its words: its beginning, if it is long, slow or cut.

        What the status says must not be lost for what is wrong with the words.
        """
        body = bytearray()
        with contextlib.suppress(*LINE_ERRORS):
            async with asyncio.timeout(_ERROR_SECONDS):
                while len(body) < _LONGEST_ERROR and (part := await self._answer.receive()):
                    body += part
        return bytes(body[:_LONGEST_ERROR])

    async def receive(self) -> bytes:
        """What has arrived of the body, at least one byte; b"" at its end.

        Raises:
            UpstreamError: the line was cut.
        """
        try:
            return await self._answer.receive()
        except LINE_ERRORS as error:
            raise mapped(self._target, error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, at most one read ahead of the reader.

        Raises:
            UpstreamError: the line was cut.
        """
        while data := await self.receive():
            yield data

    async def drain(self) -> None:
        """Read what is left after the part that mattered, so that the connection can serve again; never for long."""
        if self._answer.arrived:
            return
        with contextlib.suppress(*LINE_ERRORS):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while await self._answer.receive():
                    pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer.done()


def reason(error: BaseException) -> str:
    """What went wrong, in words, without the URL (it may hold a signature)."""
    cause = getattr(error, "os_error", None) or error
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "the TLS certificate or handshake was not accepted"
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        return "the host name cannot be resolved or is not public"
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "the connection was cut in the middle of the answer"
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return "the answer is not valid HTTP"
    if isinstance(error, ValueError | aiohttp.NonHttpUrlClientError):
        return "the address or a header is not valid"
    if isinstance(cause, OSError) and (words := cause.strerror or str(cause)):  # of several addresses: the latter
        return words.lower()
    return type(error).__name__


def mapped(target: Target, error: Exception) -> UpstreamError:
    """The client library's error as ours, naming the vendor and nothing secret."""
    if isinstance(error, TimeoutError):
        return UpstreamTimeout(f"{target.vendor}: connecting took too long")
    return UpstreamError(f"{target.vendor}: {redact(reason(error), target.secrets())}")
