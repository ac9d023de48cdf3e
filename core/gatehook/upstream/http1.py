"""One HTTP/1.1 connection to a vendor, and the answer that is on it.

llhttp reads the bytes, through httptools: framing, interim answers and trailers are its business. Its pieces of a body
go straight into a list; whoever reads is woken once for each read of the socket, and takes them joined. Headers are
not taken apart before somebody asks for them: what is kept of the head is its bytes.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable

from aiohttp import ClientPayloadError, ServerDisconnectedError
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict

try:
    from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

    available = True
except ImportError:  # neither a wheel nor a compiler
    available = False

__all__ = ["PIECE", "Connection", "available", "headers_in", "is_event_stream"]

_LONGEST_HEAD = 65536
"""Bytes, also of anything else that comes at a stretch and is no body: interim answers, extensions, trailers."""
_MOST_HEADERS = 128
_ORDINARY = (b"http/1.1 2", b"http/1.1 4", b"http/1.1 5")
_EVENT_STREAM = re.compile(rb"\ncontent-type:[ \t]*text/event-stream", re.IGNORECASE)
_HIGH_WATER = 2 * 65536
"""Bytes that may wait for their reader; while there are more, none are read."""
PIECE = 1 << 18
"""Bytes of a request's body; what is longer is written in pieces, as fast as the server takes them."""


class Connection(asyncio.Protocol):
    """One connection: one request at a time, one reader, and one answer, which begins when `status` is set.

    It is always ended by `abort()`: `close()` would first write what is unsent, to a server that may never read it.
    """

    __slots__ = (
        "_idle",
        "_loop",
        "_lost",
        "_may_serve",
        "_parser",
        "_parts",
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
        origin: tuple[str, int],
        *,
        idle: "Callable[[Connection], None]",
        lost: "Callable[[Connection], None]",
    ) -> None:
        """`idle` is called when it can serve again, `lost` when it is gone."""
        self._loop = loop
        self._idle = idle
        self._lost = lost
        self.origin = origin
        self.sweeps = 0
        """How often its keeper has looked at it since it served."""
        self.transport: asyncio.Transport | None = None
        self.error: Exception | None = None
        """Why no more of the answer will come."""
        self.news().set_result(None)
        self._reading_paused = self._writing_paused = self._unsent = False
        self._parts: list[bytes] = []
        self.on_body = self._parts.append  # called for each piece, and there may be many: no frame of ours
        self._parser = _parser(self)
        self.expect()

    def expect(self) -> None:
        """Get ready for one answer; a new connection is."""
        self.status = 0
        self.head = b""
        """What came until the head was complete, and with it."""
        self.whole = False
        """Whether all of the answer has arrived, be it read or not."""
        self._may_serve = False
        self._unread = 0

    # --- what a request does

    def news(self) -> "asyncio.Future[None]":
        """Done as soon as anything has changed; for the one who reads, or writes."""
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def write(self, data: bytes) -> None:
        """Write, without waiting; what becomes of it, `status` or `error` will tell."""
        if self.transport is not None:
            self.transport.write(data)

    async def send(self, head: bytes, body: bytes) -> None:
        """Write a request whose body is large, as much of it as the server takes before it answers."""
        self.write(head)
        for start in range(0, len(body), PIECE):
            while self._writing_paused and not self.status and self.error is None:
                await self.news()
            if self.status or self.transport is None or self.transport.is_closing():
                self._unsent = True
                return
            self.transport.write(memoryview(body)[start : start + PIECE])

    async def receive(self) -> bytes:
        """What has arrived of the body, at least one byte; b"" at its end.

        Raises:
            OSError, aiohttp.ClientError, aiohttp.http.HttpProcessingError: the rest will not come.
        """
        while self.error is None:
            if self._parts:
                return self.take()
            if self.whole:
                return b""
            await self.news()
        raise self.error

    def take(self) -> bytes:
        """What has arrived of the body, perhaps nothing."""
        data = b"".join(self._parts)
        self._parts.clear()
        self._unread = 0
        if self._reading_paused:
            self._reading_paused = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()
        return data

    def release(self) -> None:
        """The reader has done with the answer, which ends the connection if it did not end in good order itself."""
        transport = self.transport
        if (
            self._may_serve
            and transport is not None
            and not self._unsent
            and not transport.get_write_buffer_size()  # answered before it was asked: it may never read the rest
        ):
            if self._parts:
                self.take()  # what nobody has read; what the server says from now on is to be noticed
            self._idle(self)
        else:
            self.abort()

    def is_plain(self) -> bool:
        """Whether nothing in the head matters until somebody asks for it: it is well-formed, and the body not encoded.

        "No" may be wrong, and is worth a look at the headers.
        """
        named = self.head.partition(b"\r\n\r\n")[0].lower()
        return (
            named.startswith(_ORDINARY)  # so that what was cut off was not the head
            and named.find(b"content-encoding") < 0  # `in` would make an error of its being no number first
            and named.find(b"\0") < 0
            and named.count(b"\n") <= _MOST_HEADERS
        )

    def abort(self) -> None:
        """End it, whatever is on it; who reads is told."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()
        self._fail(ServerDisconnectedError())

    # --- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and wake the reader once."""
        if self.whole:
            self.abort()  # nobody asked for it
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
            self._refuse(str(error))  # unless it came after the answer
        if not self._waiter.done():
            self._waiter.set_result(None)

    def eof_received(self) -> None:
        """The server will send no more."""
        self._end(None)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._lost(self)
        self._end(exc)
        self.transport = None
        del self._parser  # which holds this connection's methods

    def pause_writing(self) -> None:
        """The server is slow to read."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writing_paused = False
        self._wake()

    # --- what the parser calls

    def on_message_begin(self) -> None:
        """Refuse to read on after the answer: of the beginning of another there would be no other sign."""
        if self.whole:
            raise ValueError("nobody asked for a second answer")

    def on_headers_complete(self) -> None:
        """A head has arrived: the answer's, or one that only says that the answer will come."""
        status = self._parser.get_status_code()
        if status >= 200 or not _is_interim(status):
            self.status = status

    def on_message_complete(self) -> None:
        """The answer, or an interim one, is whole; what the parser thinks of the connection it says only here."""
        if self.status:
            self.whole = True
            self._may_serve = self._parser.should_keep_alive()

    # --- how it goes on, and ends

    def _split(self, data: bytes) -> bool:
        """Whether a read was dealt with in two parts, for a head that is too long to be noticed wherever it is cut."""
        if self._parts:
            self._pause_reading()
            return False
        room = _LONGEST_HEAD + len(data) - self._unread
        self._unread -= len(data)
        if room > 0:
            self.data_received(data[:room])
        if self._parts:
            self.data_received(data[room:])
        elif self.whole:
            self.abort()  # for what comes after it
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
        """No more will be read: the end of an answer that ends so, of any other the loss."""
        if not self.status:
            self._fail(cause or ServerDisconnectedError())
        elif cause is None and self.error is None and self._lasts():
            self.whole = True
            self._wake()
        else:
            self._fail(ClientPayloadError(f"cut off: {cause}"))

    def _lasts(self) -> bool:
        """Whether the answer lasts as long as its connection; if in doubt it does not, and is cut."""
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
    # What aiohttp's own client is lenient about: signs that no header should hold, folded headers, bare line feeds.
    parser.set_dangerous_leniencies(
        lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
    )
    return parser


def _is_interim(status: int) -> bool:
    if status == 0:
        raise ValueError("no status")
    return 100 <= status < 200 and status != 101  # 101: it speaks something else now, which nobody asked for


class _Headers:
    """Reads the headers out of an answer's beginning, once more; the parser that found where they end kept none."""

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
        head: at least all of the head; what follows it does no harm.

    Raises:
        HttpProcessingError: there are too many, or one is not a line of text.
    """
    headers = _Headers()
    with contextlib.suppress(HttpParserCallbackError):  # the EOFError
        headers.parser.feed_data(head)
    found = headers.found
    if len(found) > _MOST_HEADERS or headers.has_nul:
        raise HttpProcessingError(message="too many headers, or a NUL in one")
    return CIMultiDict((_text(name), _text(value)) for name, value in found)


def is_event_stream(head: bytes) -> bool:
    """Whether the head of an answer plainly says so; if it does not, its headers may still."""
    return _EVENT_STREAM.search(head.partition(b"\r\n\r\n")[0]) is not None


def _text(field: bytes) -> str:
    return field.decode("utf-8", "surrogateescape")
