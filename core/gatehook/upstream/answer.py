"""A vendor's answer, over either way of the egress; and errors of its connection, in words."""

import asyncio
import contextlib
import errno
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from types import TracebackType
from typing import Protocol, Self

import aiohttp
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import ContentEncodingError

from gatehook.errors import GatewayError, Retry, Unavailable, UpstreamError, UpstreamTimeout, redact
from gatehook.model import Target
from gatehook.upstream.http1 import PassOn, headers_in, is_event_stream
from gatehook.upstream.retry_after import retry_after

__all__ = ["LINE_ERRORS", "Line", "SessionLine", "Upstream", "mapped", "reason"]

_DRAIN_SECONDS = 0.05
"""How long `drain` waits for an answer's end. The client's [DONE] waits as long, and a new connection costs less."""
_ERROR_SECONDS = 5.0
"""How long the body of an error is waited for."""
_LONGEST_ERROR = 1 << 18
"""Bytes that are read of the body of an error."""

LINE_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)
"""The errors of a connection, on either way; TimeoutError is an OSError."""


_ERRNO = re.compile(r"\[Errno (\d+)\]")
_SHORT_OF = {
    errno.EMFILE: "open files (`ulimit -n`, or systemd's LimitNOFILE, allows too few)",
    errno.ENFILE: "open files (the machine allows too few: fs.file-max)",
    errno.ENOBUFS: "memory for connections",
    errno.ENOMEM: "memory",
}
"""What the gateway's own process or machine has no more of; no vendor is to blame for that."""


class Line(Protocol):
    """A connection on which the head of an answer has arrived, on either way of the egress."""

    status: int

    @property
    def head(self) -> bytes | Mapping[str, str]:
        """The headers, or the answer's first bytes, which hold them."""

    @property
    def whole(self) -> bool:
        """Whether the whole answer has arrived, so that `take` gives all that is left of it."""

    def take(self) -> bytes:
        """What has arrived of the body, without waiting; perhaps nothing."""

    def receive(self, pass_on: PassOn | None = None) -> Awaitable[bytes]:
        """What has arrived of the body, waiting for at least one byte; b"" at its end. It need not know `pass_on`."""

    def release(self) -> None:
        """Give the connection back to its pool, or close it if a part of the answer is still to come."""


class SessionLine:
    """A `Line` of aiohttp's ClientSession."""

    __slots__ = ("_closed", "_response", "head", "status", "take")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.head = response.headers
        self.take = response.content.read_nowait
        self._closed: asyncio.Future[None] | None = None
        connection = response.connection  # None: the whole answer has arrived
        if connection is not None and connection.protocol is not None:
            self._closed = connection.protocol.closed
            if self._closed is not None:
                self._closed.add_done_callback(self._lost)

    @property
    def whole(self) -> bool:
        """Whether all of the answer has arrived."""
        content = self._response.content
        return content.is_eof() and content.exception() is None

    def receive(self, pass_on: PassOn | None = None) -> Awaitable[bytes]:
        """What has arrived of the body."""
        return self._response.content.readany()

    def release(self) -> None:
        """Give the connection back to its pool, or close it."""
        if self._closed is not None:
            self._closed.remove_done_callback(self._lost)
        if self._response.content.is_eof():
            self._response.release()
        else:
            self._response.close()

    def _lost(self, closed: "asyncio.Future[None]") -> None:
        # aiohttp closes the connection of an answer that is malformed after its head, but its reader waits for ever.
        content = self._response.content
        if not closed.cancelled():
            closed.exception()  # retrieved, or asyncio would log it; aiohttp has raised it in the reader
        if not content.is_eof() and content.exception() is None:
            content.set_exception(HttpProcessingError(message="the answer goes wrong after its head"))


class _Nothing:
    """Takes the place of the `Line` of an answer that was released: another answer may soon be on that connection."""

    status = 0
    head: Mapping[str, str] = {}
    whole = True

    def take(self) -> bytes:
        return b""

    async def receive(self, pass_on: PassOn | None = None) -> bytes:
        return b""

    def release(self) -> None:
        """Do nothing: it was released."""


_NOTHING = _Nothing()


class Upstream:
    """A vendor's answer whose headers have arrived. Leaving its context closes the connection, unless all was read."""

    __slots__ = ("_head", "_limit", "_line", "_target", "status")

    def __init__(self, line: Line, target: Target, limit: int) -> None:
        """`limit` is the most bytes that `read` accepts."""
        self._line = line
        self._target = target
        self._limit = limit
        self._head = line.head
        self.status = line.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The vendor's headers, by names in any case."""
        if isinstance(self._head, bytes):
            self._head = headers_in(self._head)
        return self._head

    @property
    def retry_after(self) -> float | None:
        """The seconds for which the vendor asks to be left alone; None if it does not say."""
        return retry_after(self.headers)

    @property
    def is_event_stream(self) -> bool:
        """Whether the vendor says that this is a stream of events."""
        if isinstance(self._head, bytes) and is_event_stream(self._head):
            return True
        return self.headers.get("Content-Type", "").lower().startswith("text/event-stream")

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            UpstreamError: the line was cut, or the body is over `egress.max_response`.
        """
        line = self._line
        if line.whole:
            data = line.take()
            if len(data) > self._limit:
                raise self._too_large()
            return data
        return await self._all()

    def at_once(self) -> bytes | None:
        """The whole body, if it has all arrived, and the connection is released; None: enter the context and `read`.

        Raises:
            UpstreamError: as `read`.
        """
        line = self._line
        if not line.whole:
            return None
        data, self._line = line.take(), _NOTHING
        line.release()
        if len(data) > self._limit:
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
        """The body of an error answer, for its message; only its beginning, if it is long, slow or cut off.

        Nothing is raised, as the status must not be lost because of the body.
        """
        body = bytearray()
        with contextlib.suppress(*LINE_ERRORS):
            async with asyncio.timeout(_ERROR_SECONDS):
                while len(body) < _LONGEST_ERROR and (part := await self._line.receive()):
                    body += part
        return bytes(body[:_LONGEST_ERROR])

    async def receive(self, pass_on: PassOn | None = None) -> bytes:
        """What has arrived of the body, at least one byte; b"" at its end.

        Args:
            pass_on: while this waits, it may be given what arrives, straight from the socket; what it takes (True) is
                not waited for any longer, what it refuses (False) is what this gives. It must not wait.

        Raises:
            UpstreamError: the line was cut.
        """
        try:
            return await self._line.receive(pass_on)
        except LINE_ERRORS as error:
            raise mapped(self._target, error) from error

    async def receive_last(self, until: float) -> bytes:
        """What comes after the end was told, b"" at its end, as which the loss of the line counts, and silence.

        Args:
            until: when nobody waits any more, in the loop's time.
        """
        try:
            async with asyncio.timeout_at(until):
                return await self.receive()
        except (UpstreamError, TimeoutError):
            return b""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, at most one read ahead of the reader.

        Raises:
            UpstreamError: the line was cut.
        """
        while data := await self.receive():
            yield data

    async def drain(self) -> None:
        """Read what is left after the part that mattered, but not for long, so that the connection can serve again."""
        if self._line.whole:
            return
        with contextlib.suppress(*LINE_ERRORS):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while await self._line.receive():
                    pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        line, self._line = self._line, _NOTHING
        line.release()


def reason(error: BaseException, *, proxied: bool = False) -> str:
    """What went wrong, in words, without the URL, which may hold a signature.

    Args:
        error: the connection's.
        proxied: whether it goes through a proxy, which then has the only host name that is resolved here.
    """
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's TLS certificate is not accepted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS fails: {(cause.reason or str(cause)).replace('_', ' ').lower()}"
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        if proxied:
            return "the proxy cannot be reached: its host name cannot be resolved"
        return "the host name cannot be resolved or is not public"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection was cut in the middle of the answer"
    if isinstance(error, ContentEncodingError):
        return f"the answer's Content-Encoding cannot be undone: {error.message}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy cannot be reached: {_said_by_the_system(error.os_error)}"
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return "the answer is not valid HTTP"
    if isinstance(error, ValueError | aiohttp.NonHttpUrlClientError):
        return "the address or a header is not valid"
    return _said_by_the_system(cause) if isinstance(cause, OSError) else type(error).__name__


def _said_by_the_system(error: OSError) -> str:
    """Without the addresses that asyncio adds, which may be those of a private network."""
    if numbers := _numbers(error):
        return ", ".join(dict.fromkeys(os.strerror(number).lower() for number in numbers))
    return str(error).lower() or "the connection was reset"  # as uvloop has it, if that happens in a handshake


def _numbers(error: BaseException) -> list[int]:
    """The system's numbers of an error; several, if several addresses were tried."""
    if not isinstance(error, OSError):
        return []
    return [error.errno] if error.errno else [int(number) for number in _ERRNO.findall(str(error))]


def mapped(target: Target, error: Exception, *, proxied: bool = False) -> GatewayError:
    """A connection's error as ours; its message names the vendor, and holds no secret. `proxied` as for `reason`."""
    if isinstance(error, TimeoutError):
        return UpstreamTimeout(f"{target.vendor}: connecting took too long")
    lacks = [_SHORT_OF[number] for number in _numbers(getattr(error, "os_error", error)) if number in _SHORT_OF]
    if lacks:
        return Unavailable(f"the gateway cannot connect to {target.vendor}: it has no more {lacks[0]}")
    return UpstreamError(f"{target.vendor}: {redact(reason(error, proxied=proxied), target.secrets())}")
