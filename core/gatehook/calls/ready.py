"""Answers whose head is made as one piece of bytes: a plain 200, and a stream of events.

`web.Response` keeps its headers in a case-insensitive dictionary, adds some, checks each and serialises them: for an
answer whose headers are all known, that costs more than parsing the request did.
"""

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from aiohttp import web

from gatehook.calls.usual import Usual

__all__ = ["Ready", "ReadyStream", "header_lines", "sent", "suits"]


def suits(request: web.BaseRequest) -> bool:
    """Whether the client speaks HTTP/1.1 and keeps its connection, so that the answer needs no `Connection` header."""
    return isinstance(request, Usual) or (request.keep_alive and request.version == (1, 1))


class _Prepared(web.StreamResponse):
    """What aiohttp's connection handler asks of a response, and no more: it is prepared, and is written as bytes."""

    def __init__(self, request: web.BaseRequest) -> None:
        # The base class's state is not made: it serves changes before a head is sent, and there are none here.
        self._to = request

    @property
    def prepared(self) -> bool:
        """True: nothing is left to prepare."""
        return True

    @property
    def status(self) -> int:
        """The status, for plugins whose routes get this as an answer."""
        return web.HTTPOk.status_code

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing, as above."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # the base class's looks at the state that is not made


def sent(connection: web.RequestHandler, data: bytes) -> bool:
    """Write to a client; True if it has left much unread, so that the writer should be drained.

    Raises:
        ConnectionError: the client has left.
    """
    transport = connection.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has left")
    transport.write(data)
    return connection.writing_paused


class Ready(_Prepared):
    """A whole answer, written by `write_eof`."""

    def __init__(self, request: web.BaseRequest, lines: str, body: bytes) -> None:
        """The answer that the handler of a request is to return.

        Args:
            request: one that `suits`.
            lines: the headers, as `header_lines` writes them: all but Content-Type (JSON), Content-Length and Date.
            body: small enough to be written at once.
        """
        self._to = request
        self.data = (
            f"HTTP/1.1 200 OK\r\n{lines}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nDate: {_date(int(time.time()))}\r\n\r\n"
        ).encode() + body
        """The whole answer, head and body."""

    @property
    def keep_alive(self) -> bool:
        """True: see `suits`."""
        return True

    async def write_eof(self, data: Any = b"") -> None:
        """Write the whole answer, and wait if the client has left much unread.

        Raises:
            ConnectionError: the client has left.
        """
        if sent(self._to.protocol, self.data):
            await self._to.writer.drain()


class ReadyStream(_Prepared):
    """An answer in pieces; its head goes out with the first of them."""

    def __init__(self, request: web.BaseRequest, lines: str) -> None:
        """The answer that the handler of a request is to return.

        Args:
            request: one that `suits`.
            lines: the headers, as `header_lines` writes them: all but Transfer-Encoding and Date.
        """
        self._to = request
        self._connection = request.protocol
        self._head = (
            f"HTTP/1.1 200 OK\r\n{lines}Transfer-Encoding: chunked\r\nDate: {_date(int(time.time()))}\r\n\r\n"
        ).encode()
        self._stays = True
        self._has_ended = False

    @property
    def keep_alive(self) -> bool:
        """True, unless the answer was broken off."""
        return self._stays

    def force_close(self) -> None:
        """Have the connection closed after this answer."""
        self._stays = False

    def write_now(self, data: bytes) -> bool:
        """Write a piece after the head; False, and nothing is written, if the client has left or has much unread."""
        connection = self._connection
        transport = connection.transport
        if self._head or connection.writing_paused or transport is None or transport.is_closing():
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    async def write(self, data: Any) -> None:
        """Write a piece, before the first of them the head; waits if the client has left much unread.

        Raises:
            ConnectionError: the client has left.
        """
        piece = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if self._head:
            piece, self._head = self._head + piece, b""
            self._to.writer.output_size += len(piece)  # for whoever asks whether an answer was begun
        if piece and sent(self._connection, piece):
            await self._to.writer.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the last piece and the end; more than once does nothing.

        Raises:
            ConnectionError: the client has left.
        """
        if self._has_ended:
            return
        self._has_ended = True
        piece = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        head, self._head = self._head, b""
        if sent(self._connection, head + piece):
            await self._to.writer.drain()


def header_lines(headers: Mapping[str, str]) -> str:
    """Headers as lines, each ended by CRLF.

    Raises:
        ValueError: one would break out of its line.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    ends = len(headers)
    if lines.count("\n") != ends or lines.count("\r") != ends or "\0" in lines:
        raise ValueError("a header of the answer has a character that ends its line")
    return lines


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
