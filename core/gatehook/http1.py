"""One HTTP/1.1 connection to a vendor, and the answer that is on it.

llhttp reads the bytes, through httptools: framing, interim answers and trailers are its business. Its pieces of a body
go straight into a list; whoever reads is woken once for each read of the socket, and takes them joined.
"""

import asyncio

from aiohttp import ClientPayloadError, ServerDisconnectedError
from aiohttp.http import HttpProcessingError

try:
    from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

    available = True
except ImportError:  # neither a wheel nor a compiler
    available = False

__all__ = ["PIECE", "Connection", "available"]

_LONGEST_HEAD = 65536
"""Bytes, also of anything else that comes at a stretch and is no body: interim answers, extensions, trailers."""
_MOST_FIELDS = 128
_HIGH_WATER = 2 * 65536
"""Bytes that may wait for their reader; while there are more, none are read."""
PIECE = 1 << 18
"""Bytes of a request's body; what is longer is written in pieces, as fast as the server takes them."""
_SWITCHING = 101


class Connection(asyncio.Protocol):
    """One connection: one request at a time, one reader, and one answer, which begins when `status` is set.

    It is always ended by `abort()`: `close()` would first write what is unsent, to a server that may never read it.
    """

    __slots__ = (
        "_among",
        "_keep_alive",
        "_lines",
        "_loop",
        "_parser",
        "_parts",
        "_reading_paused",
        "_room",
        "_unread",
        "_unsent",
        "_waiter",
        "_writing_paused",
        "encoded",
        "error",
        "fields",
        "idle_since",
        "on_body",
        "origin",
        "status",
        "transport",
        "whole",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: tuple[str, int], among: "set[Connection]") -> None:
        """`among` are the open ones, which it leaves when it is lost; to join them is its maker's business."""
        self._loop = loop
        self._among = among
        self.origin = origin
        self.transport: asyncio.Transport | None = None
        self.error: Exception | None = None
        """Why no more of the answer will come."""
        self.idle_since = 0.0
        """When it last served, by the loop's clock."""
        self._waiter: asyncio.Future[None] | None = None
        self._reading_paused = self._writing_paused = False
        self._lines: list[bytes] = []
        self._parts: list[bytes] = []
        self.on_body = (
            self._parts.append
        )  # of httptools' callbacks the one that is called most, without a frame of ours
        self._parser = HttpResponseParser(self)
        # What aiohttp's own client is lenient about: signs that no header should hold, folded headers, bare line feeds.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self.expect()

    def expect(self) -> None:
        """Get ready for one answer; a new connection is."""
        self.status = 0
        self.fields: list[bytes] = []
        """Names and values of the answer's headers, in turn."""
        self.encoded = False
        """Whether the answer may be compressed."""
        self.whole = False
        """Whether all of the answer has arrived, be it read or not."""
        self._keep_alive = self._unsent = False
        self._room = _LONGEST_HEAD
        self._unread = 0
        if self._parts:  # of an answer that nobody read
            self._parts.clear()

    # --- what a request does

    def news(self) -> "asyncio.Future[None]":
        """Done as soon as anything has changed; for the one who reads, or writes."""
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def write(self, data: bytes | memoryview) -> None:
        """Write at once; what becomes of it, `status` or `error` will tell."""
        if self.transport is not None:
            self.transport.write(data)

    async def send(self, head: bytes, body: bytes) -> None:
        """Write a request whose body is large, as much of it as the server takes before it answers."""
        self.write(head)
        for start in range(0, len(body), PIECE):
            while self._writing_paused and not self.status and self.error is None:
                await self.news()
            if self.status or self.error is not None:
                self._unsent = True
                return
            self.write(memoryview(body)[start : start + PIECE])

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
        if self._reading_paused and self.transport is not None:
            self._reading_paused = False
            self.transport.resume_reading()
        return data

    def can_serve_again(self) -> bool:
        """Whether the answer came to its end in good order, and nothing is left of the request."""
        transport = self.transport
        return (
            self._keep_alive
            and not self._unsent
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()  # answered before it was asked: it may never read the rest
        )

    def is_usable(self, since: float) -> bool:
        """Whether it is still open, and was used at or after this time."""
        return self.idle_since >= since and self.transport is not None and not self.transport.is_closing()

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
        if self.whole or self.error is not None:
            self.abort()  # nobody asked for it
            return
        if len(data) > self._room:
            self._in_pieces(data)
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._keep_alive = False
            if not self.whole:
                self._fail(HttpProcessingError(message=str(error)))
                self.abort()
                return
        if self._parts:
            self._room = _LONGEST_HEAD
            self._unread += len(data)
            if self._unread > _HIGH_WATER and not self.whole:
                self._pause()
        else:
            self._room -= len(data)
            if self._room <= 0 and not self.whole:
                self._fail(HttpProcessingError(message="more than 64 KiB that are no body"))
                self.abort()
        if self.status:
            self._wake()

    def eof_received(self) -> None:
        """The server will send no more."""
        self._end(None)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._among.discard(self)
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
        self._lines = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header or, after the head, a trailer."""
        self._lines += (name, value)

    def on_headers_complete(self) -> None:
        """The head has arrived: the answer's, or one that only says that the answer will come."""
        status = self._parser.get_status_code()
        if status < 200 and status != _SWITCHING:
            if status < 1:
                raise ValueError("no status")
            if status >= 100:
                return
        lines, self._lines = self._lines, []
        named = b"\n".join(lines).lower()
        if len(lines) > 2 * _MOST_FIELDS or b"\0" in named:
            raise ValueError("too many headers, or a NUL in one")
        self.encoded = b"content-encoding" in named
        self.fields = lines
        self.status = status

    def on_message_complete(self) -> None:
        """The answer, or an interim one, is whole; what the parser thinks of the connection it says only here."""
        if self.status:
            self.whole = True
            self._keep_alive = self._parser.should_keep_alive()

    # --- how it goes on, and ends

    def _in_pieces(self, data: bytes) -> None:
        """Parse a large read so that a head that is too long is noticed wherever the network has cut it."""
        start = 0
        while start < len(data):
            end = start + self._room
            self.data_received(data[start:end])
            start = end
            if self.whole or self.error is not None:
                if start < len(data):
                    self.abort()
                return

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():  # done: cancelled a moment ago
            waiter.set_result(None)

    def _pause(self) -> None:
        if not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def _end(self, cause: Exception | None) -> None:
        """No more will be read: the end of an answer that ends so, of any other the loss."""
        if cause is None and self.status and not self.whole and self.error is None and self._lasts():
            self.whole = True
            self._wake()
        elif self.status:
            self._fail(ClientPayloadError(f"cut off: {cause}"))
        else:
            self._fail(cause or ServerDisconnectedError())

    def _lasts(self) -> bool:
        """Whether the answer lasts as long as its connection; if in doubt it does not, and is cut."""
        for name, value in zip(self.fields[::2], self.fields[1::2], strict=True):
            if name.lower() == b"content-length" or (
                name.lower() == b"transfer-encoding" and b"chunked" in value.lower()
            ):
                return False
        return True

    def _fail(self, error: Exception) -> None:
        if not self.whole and self.error is None:
            self.error = error
            self._wake()
