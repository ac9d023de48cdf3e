"""One HTTP/1.1 connection to a vendor, and the answer that is on it.

llhttp parses the bytes, through httptools, with framing, interim answers and trailers. Its pieces of a body go straight
into a list; the reader is woken once for each read of the socket, and takes them joined. Headers are parsed only when
somebody asks for them: until then only the bytes of the head are kept.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable

from aiohttp import ClientPayloadError, ServerDisconnectedError
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict

from gatehook.upstream.dialing import Origin

try:
    from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

    available = True
except ImportError:  # neither a wheel nor a compiler
    available = False

__all__ = ["PIECE", "Connection", "PassOn", "available", "headers_in", "is_event_stream"]

PassOn = Callable[[bytes], bool]
"""See `gatehook.Upstream.receive`."""

_LONGEST_HEAD = 65536
"""Bytes of a head, or of anything else in a row that is not body: interim answers, extensions, trailers."""
_MOST_HEADERS = 128
_ORDINARY = (b"http/1.1 2", b"http/1.1 4", b"http/1.1 5")
_EVENT_STREAM = re.compile(rb"\ncontent-type:[ \t]*text/event-stream", re.IGNORECASE)
_HIGH_WATER = 2 * 65536
"""Bytes that may wait for their reader; while there are more, the socket is not read."""
PIECE = 1 << 18
"""Bytes of a request's body that are written at once; a longer one is written in pieces, as the server takes them."""


class Connection(asyncio.Protocol):
    """One connection: one request at a time, one reader, and one answer, which begins when `status` is set.

    It is always closed by `abort()`: a transport's `close()` would first write what is unsent, to a server that may
    never read it.
    """

    __slots__ = (
        "_idle",
        "_loop",
        "_lost",
        "_may_serve",
        "_parser",
        "_parts",
        "_pass_on",
        "_reading_paused",
        "_unread",
        "_unsent",
        "_waiter",
        "_writing_paused",
        "error",
        "head",
        "on_body",
        "origin",
        "status",
        "sweeps",
        "transport",
        "whole",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        *,
        idle: "Callable[[Connection], None]",
        lost: "Callable[[Connection], None]",
    ) -> None:
        """`idle` is called when it can serve another request, `lost` when it is closed."""
        self._loop = loop
        self._idle = idle
        self._lost = lost
        self.origin = origin
        self.sweeps = 0
        """How many sweeps of the pool it has been idle for."""
        self.transport: asyncio.Transport | None = None
        self.error: Exception | None = None
        """Why the rest of the answer will not come."""
        self.news().set_result(None)
        self._reading_paused = self._writing_paused = self._unsent = False
        self._parts: list[bytes] = []
        self.on_body = self._parts.append  # called for each of perhaps many pieces: without a Python frame
        self._parser = _parser(self)
        self.expect()

    def expect(self) -> None:
        """Get ready for the next answer; a new connection is ready."""
        self.status = 0
        self.head = b""
        """All that arrived up to, and together with, the end of the head."""
        self.whole = False
        """Whether the whole answer has arrived, read or not."""
        self._may_serve = False
        self._unread = 0
        self._pass_on: PassOn | None = None

    # --- what a request does

    def news(self) -> "asyncio.Future[None]":
        """A future that is done as soon as anything has changed, for the one task that reads or writes."""
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def write(self, data: bytes) -> None:
        """Write without waiting; `status` or `error` will tell what becomes of it."""
        if self.transport is not None:
            self.transport.write(data)

    async def send(self, head: bytes, body: bytes) -> None:
        """Write a request with a large body, as far as the server takes it before it answers."""
        self.write(head)
        for start in range(0, len(body), PIECE):
            while self._writing_paused and not self.status and self.error is None:
                await self.news()
            if self.status or self.transport is None or self.transport.is_closing():
                self._unsent = True
                return
            self.transport.write(memoryview(body)[start : start + PIECE])

    async def receive(self, pass_on: PassOn | None = None) -> bytes:
        """What has arrived of the body, waiting for at least one byte; b"" at its end.

        Args:
            pass_on: as for `gatehook.Upstream.receive`.

        Raises:
            OSError, aiohttp.ClientError, aiohttp.http.HttpProcessingError: the rest will not come.
        """
        while not self._parts and not self.whole and self.error is None:
            self._waiter = waiter = self._loop.create_future()  # as `news`, without the call
            self._pass_on = pass_on
            await waiter
            self._pass_on = None
        if self.error is not None:
            raise self.error
        return self.take()

    def take(self) -> bytes:
        """What has arrived of the body, without waiting; perhaps nothing."""
        data = b"".join(self._parts)
        self._parts.clear()
        self._unread = 0
        if self._reading_paused:
            self._reading_paused = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()
        return data

    def release(self) -> None:
        """Give the connection back; it is closed, unless the answer has ended in good order."""
        transport = self.transport
        if (
            self._may_serve
            and transport is not None
            and not self._unsent
            and not transport.get_write_buffer_size()  # it answered before it read the request, and may never read on
        ):
            if self._parts:
                self.take()  # drop what was not read, so that what the server sends from now on is noticed
            self._idle(self)
        else:
            self.abort()

    def is_plain(self) -> bool:
        """Whether the headers need not be parsed yet: the head is well-formed, and the body not encoded.

        False only means that the headers have to be looked at.
        """
        named = _upto_body(self.head).lower()
        return (
            named.startswith(_ORDINARY)  # not an interim answer, after which the real head would have been cut off
            and named.find(b"content-encoding") < 0  # `in` would first raise an error, and swallow it
            and named.find(b"\0") < 0
            and named.count(b"\n") <= _MOST_HEADERS
        )

    def abort(self) -> None:
        """Close it, whatever is on it; the reader gets an error."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()
        self._fail(ClientPayloadError("closed") if self.status else ServerDisconnectedError())

    # --- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and wake the reader once."""
        if self.whole:
            self.abort()  # nobody has asked for anything more
            return
        unread = self._unread + len(data)
        self._unread = unread
        if unread > _LONGEST_HEAD and self._split(data):
            return
        if not self.status:
            self.head += data
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._may_serve = False
            self._refuse(str(error))  # which does nothing if the answer is whole
        if not self._waiter.done() and (self._pass_on is None or not self._passed_on(self._pass_on)):
            self._waiter.set_result(None)

    def eof_received(self) -> None:
        """Close the connection: the server sends no more."""
        self._end(None)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is closed."""
        self._lost(self)
        self._end(exc)
        self.transport = None
        del self._parser  # a reference cycle: it holds this connection's methods

    def pause_writing(self) -> None:
        """Note that the server is slow to read."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Note that it has caught up."""
        self._writing_paused = False
        self._wake()

    # --- what the parser calls

    def on_message_begin(self) -> None:
        """Refuse a second answer; this is the only sign of its beginning."""
        if self.whole:
            raise ValueError("nobody asked for a second answer")

    def on_headers_complete(self) -> None:
        """Take the status of a head that has arrived, unless it is that of an interim answer."""
        status = self._parser.get_status_code()
        if status >= 200 or not _is_interim(status):
            self.status = status

    def on_message_complete(self) -> None:
        """Note that the answer is whole, if it was not an interim one; only now the parser knows about keep-alive."""
        if self.status:
            self.whole = True
            self._may_serve = self._parser.should_keep_alive()

    # --- how it goes on, and ends

    def _passed_on(self, pass_on: PassOn) -> bool:
        """Whether all that has arrived of the body was passed on, so that the reader may sleep on."""
        parts = self._parts
        if self.whole:
            return False
        try:
            if parts and not pass_on(parts[0] if len(parts) == 1 else b"".join(parts)):
                return False
        except Exception as error:  # noqa: BLE001  # the reader raises it
            self._fail(error)
            return True
        if parts:
            parts.clear()
            self._unread = 0
        return True

    def _split(self, data: bytes) -> bool:
        """Parse a read in two parts, so that heads are too long at the same byte however they are cut; True if done."""
        if self._parts:
            self._pause_reading()
            return False
        room = _LONGEST_HEAD + len(data) - self._unread
        self._unread -= len(data)
        if room > 0:
            self.data_received(data[:room])
        if self._parts or not self._unread:
            self.data_received(data[room:])
        elif self.whole:
            self.abort()  # nobody has asked for what comes after the answer
        else:
            self._refuse("more than 64 KiB that are no body")
        return True

    def _pause_reading(self) -> None:
        if self._unread > _HIGH_WATER and not self._reading_paused:
            self._reading_paused = True
            if self.transport is not None and not self.transport.is_closing():
                self.transport.pause_reading()

    def _refuse(self, why: str) -> None:
        if not self.whole:
            self._fail(HttpProcessingError(message=why))
            self.abort()

    def _wake(self) -> None:
        if not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, cause: Exception | None) -> None:
        """Deal with the end of what arrives: an answer without a length of its own ends here, any other is cut off."""
        if not self.status:
            self._fail(cause or ServerDisconnectedError())
        elif cause is None and self.error is None and self._lasts():
            self.whole = True
            self._wake()
        else:
            self._fail(ClientPayloadError(f"cut off: {cause}"))

    def _lasts(self) -> bool:
        """Whether the answer lasts until the connection is closed; if in doubt, it does not."""
        try:
            headers = headers_in(self.head)
        except HttpProcessingError:
            return False
        return "Content-Length" not in headers and "chunked" not in headers.get("Transfer-Encoding", "").lower()

    def _fail(self, error: Exception) -> None:
        if not self.whole and self.error is None:
            self.error = error
            self._wake()


def _parser(protocol: object) -> "HttpResponseParser":
    parser = HttpResponseParser(protocol)
    # As lenient as aiohttp's client: invalid characters in headers, folded headers, bare line feeds.
    parser.set_dangerous_leniencies(
        lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser


def _is_interim(status: int) -> bool:
    if status == 0:
        raise ValueError("no status")
    return 100 <= status < 200 and status != 101  # 101 is final: the server switches to a protocol nobody asked for


class _Headers:
    """Parses an answer's beginning once more, for its headers, which the connection's parser does not keep."""

    def __init__(self) -> None:
        self.found: list[tuple[bytes, bytes]] = []
        self.has_nul = False
        self.parser = _parser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name, value.rstrip(b" \t")))
        self.has_nul |= b"\0" in value

    def on_headers_complete(self) -> None:
        if not _is_interim(self.parser.get_status_code()):
            raise EOFError
        self.found.clear()


def headers_in(head: bytes) -> CIMultiDict[str]:
    """The headers at the beginning of an answer, by names in any case.

    Args:
        head: the whole head; anything may follow it.

    Raises:
        HttpProcessingError: there are too many headers, or one holds a NUL.
    """
    headers = _Headers()
    with contextlib.suppress(HttpParserCallbackError):  # from the EOFError above
        headers.parser.feed_data(head)
    found = headers.found
    if len(found) > _MOST_HEADERS or headers.has_nul:
        raise HttpProcessingError(message="too many headers, or a NUL in one")
    return CIMultiDict((_text(name), _text(value)) for name, value in found)


def is_event_stream(head: bytes) -> bool:
    """Whether the head plainly says that a stream of events follows; if False, ask the parsed headers."""
    return _EVENT_STREAM.search(_upto_body(head)) is not None


def _upto_body(head: bytes) -> bytes:
    # As `partition` gives it, which would copy the body, too.
    end = head.find(b"\r\n\r\n")
    return head if end < 0 else head[:end]


def _text(field: bytes) -> str:
    return field.decode("utf-8", "surrogateescape")
