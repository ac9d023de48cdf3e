"""The egress's short way: HTTP/1.1 over TCP or a Unix socket on aiohttp's response protocol, without ClientSession.

ClientSession spends more on a request than all the rest of the gateway (objects for the request, a task for its body,
timers, cookies); none of it is needed to send ready bytes to an operator's own http:// address and read the answer.
Parsing, decompression and back-pressure stay aiohttp's. Its protocol class is not part of aiohttp's public API: all
use of it is in this file, and where it does not fit, `available` is False and the egress takes the public way.
"""

import asyncio
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import StreamReader
from aiohttp.http import HttpProcessingError, RawResponseMessage
from yarl import URL

_LINE_LIMIT = 65536
_PARAMETERS: Mapping[str, Any] = {
    "read_until_eof": True,
    "auto_decompress": True,
    "read_bufsize": _LINE_LIMIT,
    "max_line_size": _LINE_LIMIT,
    "max_field_size": _LINE_LIMIT,
}

try:
    from aiohttp.client_proto import ResponseHandler

    available = _PARAMETERS.keys() <= inspect.signature(ResponseHandler.set_response_params).parameters.keys()
except (ImportError, AttributeError):  # another version of aiohttp
    ResponseHandler = object  # type: ignore[assignment, misc]
    available = False

_KEPT = {
    "_buffer",
    "_buffer_offset",
    "_cursor",
    "_eof",
    "_exception",
    "_http_chunk_splits",
    "_protocol",
    "_size",
    "_wait",
}
_at_once = _KEPT.issubset(dir(StreamReader)) and hasattr(ResponseHandler, "_reading_paused")
"""Whether aiohttp's reader keeps what has arrived in the way that `Answer.receive` knows."""

__all__ = ["Answer", "Pool", "Request", "available", "suits"]

_IDLE_SECONDS = 4.0
"""Less than the 5 s after which uvicorn, Node and llama.cpp close a connection: one about to close is of no use."""
_METHODS = frozenset({"DELETE", "GET", "PATCH", "POST", "PUT"})
_NOT_OURS = frozenset({"connection", "content-length", "expect", "host", "te", "transfer-encoding", "upgrade"})
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def suits(method: str, url: URL, headers: Mapping[str, str]) -> bool:
    """Whether a request can go the short way: plain HTTP, and nothing that changes how it or its answer is framed."""
    return (
        url.scheme == "http"
        and bool(url.raw_host)
        and url.raw_user is None
        and url.raw_password is None
        and method in _METHODS
        and _NOT_OURS.isdisjoint(name.lower() for name in headers)
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What is the same for every request to one URL with the same headers: where it goes, and its head."""

    host: str
    """Or the path of a Unix socket, which begins with a slash."""
    port: int
    head: bytes = field(repr=False)  # it holds the vendor's key
    """Up to the Content-Length, whose value and the body follow."""

    @classmethod
    def to(cls, method: str, url: URL, headers: Mapping[str, str], uds: str = "") -> "Request":
        """Prepare a request that `suits`; for `uds`, the absolute path of a Unix socket, if it is given.

        Raises:
            ValueError: a header that would break out of its line.
        """
        lines = [f"{method} {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
        if _FORBIDDEN.search("".join(lines)):
            raise ValueError("a character that cannot be sent in the address")
        for name, value in headers.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"not a header's name: {name!r}")
            if _FORBIDDEN.search(value):
                raise ValueError(f"a character that cannot be sent in the header {name!r}")
            lines.append(f"{name}: {value}")
        head = "\r\n".join([*lines, "Content-Length: "]).encode("utf-8")
        if uds:
            return cls(uds, 0, head)
        return cls(url.raw_host or "", url.port if url.port is not None else 80, head)


class Answer:
    """An answer whose head has arrived; its body is read from `content`."""

    __slots__ = ("_connection", "_origin", "_pool", "content", "headers", "status")

    def __init__(self, pool: "Pool", origin: tuple[str, int], connection: "_Connection") -> None:
        self._pool = pool
        self._origin = origin
        self._connection: _Connection | None = connection
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.content: StreamReader

    def begins(self, head: tuple[RawResponseMessage, StreamReader], connection: "_Connection") -> bool:
        """Take a head; interim ones (1xx) are passed over, but for the one after which no other comes."""
        message, self.content = head
        if message.code == 101:  # it speaks something else now; nobody asked for that
            connection.force_close()
        elif 100 <= message.code < 200:
            return False
        self.status = message.code
        self.headers = message.headers
        return True

    async def receive(self) -> bytes:
        """What has arrived of the body, at least one byte; b"" at its end.

        As aiohttp's `readany()`, which takes a stream's many small pieces off its books one by one.
        """
        content = self.content
        if not _at_once or type(content) is not StreamReader or content._buffer_offset:
            return await content.readany()
        if content._exception is not None:
            raise content._exception
        while not content._buffer and not content._eof:
            await content._wait("receive")
        data = b"".join(content._buffer)
        content._buffer.clear()
        content._size = 0
        content._cursor += len(data)
        if content._http_chunk_splits:
            content._http_chunk_splits.clear()
        if content._protocol._reading_paused:
            content._protocol.resume_reading()
        return data

    def release(self) -> None:
        """Give the connection back, if the answer was read to its end. Once: it may be another's soon after."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.put(self._origin, connection)

    def close(self) -> None:
        """Close the connection: what is left of the answer must not meet the next request."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()


class _Connection(ResponseHandler):
    """One connection and when it was last used.

    It is always ended by `abort()`: `close()` would first write what is unsent, to a server that may never read it.
    """

    idle_since = 0.0

    among: "set[_Connection] | None" = None
    """The open ones, which it leaves when it is lost."""

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.among is not None:
            self.among.discard(self)
        super().connection_lost(exc)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        payload = self._payload
        super().set_exception(exc, *cause)
        # aiohttp tells only those who wait for a head; who reads the body of an answer gone wrong would wait for ever.
        if isinstance(exc, HttpProcessingError) and payload is not None and not payload.is_eof():
            payload.set_exception(exc)

    def expect(self) -> None:
        """Get ready for one answer."""
        self.set_response_params(**_PARAMETERS)

    def rest(self) -> bool:
        """Whether it can serve again. From here on a single byte from the server means that it cannot."""
        transport = self.transport
        parser, self._parser = self._parser, None  # without one, whatever comes makes `should_close` true
        if parser is None or transport is None or transport.is_closing() or self.should_close:
            return False
        if transport.get_write_buffer_size():  # answered before it was asked: the server may never read the rest
            return False
        try:
            return parser.feed_eof() is None  # None: nothing has come after the answer
        except HttpProcessingError:
            return False

    def is_usable(self, since: float) -> bool:
        """Whether it is still open, quiet, and was used at or after this time."""
        return self.idle_since >= since and self.is_connected() and not self.should_close


class Pool:
    """Connections by origin; of those that are idle the last used serves first."""

    def __init__(self, connect_timeout: float) -> None:
        """`connect_timeout` is in seconds."""
        self._connect_timeout = connect_timeout
        self._open: set[_Connection] = set()
        self._idle: dict[tuple[str, int], list[_Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._running: asyncio.AbstractEventLoop | None = None

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; kept, because asking for it is a system call on some versions of Python."""
        if self._running is None:
            self._running = asyncio.get_running_loop()
        return self._running

    async def send(self, request: Request, body: bytes) -> Answer:
        """Send one request; returns when the answer's head has arrived.

        Raises:
            OSError, TimeoutError, aiohttp.ClientError, aiohttp.http.HttpProcessingError: as the connection fails.
        """
        origin = (request.host, request.port)
        connection = self._take(origin)
        if connection is None:  # never `or`: a connection is also a queue, and an empty one is false
            connection = await self._dial(origin)
        answer = Answer(self, origin, connection)
        try:
            connection.expect()
            transport = connection.transport
            if transport is None:
                raise ConnectionResetError("the connection was closed before it was used")
            transport.write(b"%b%d\r\n\r\n%b" % (request.head, len(body), body))
            while not answer.begins(await connection.read(), connection):
                pass
        except BaseException:
            connection.abort()
            raise
        return answer

    def put(self, origin: tuple[str, int], connection: "_Connection") -> None:
        """Keep a connection for the next request, unless its answer or its server forbids it."""
        if not connection.rest():
            connection.abort()
            return
        loop = self._loop
        connection.idle_since = loop.time()
        self._idle.setdefault(origin, []).append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(_IDLE_SECONDS, self._sweep)

    def close(self) -> None:
        """Close all connections; answers that are still being read fail."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._running = None
        self._idle.clear()
        for connection in list(self._open):
            if connection.transport is not None:
                connection.transport.abort()  # past the protocol's own abort(), after which a reader waits for ever

    def _take(self, origin: tuple[str, int]) -> "_Connection | None":
        idle = self._idle.get(origin)
        if idle:
            since = self._loop.time() - _IDLE_SECONDS
            while idle:
                connection = idle.pop()
                if connection.is_usable(since):
                    return connection
                connection.abort()
        return None

    def _sweep(self) -> None:
        loop = self._loop
        since = loop.time() - _IDLE_SECONDS
        for origin, idle in list(self._idle.items()):
            self._idle[origin] = usable = []
            for connection in idle:
                if connection.is_usable(since):
                    usable.append(connection)
                else:
                    connection.abort()
            if not usable:
                del self._idle[origin]
        self._sweeper = loop.call_later(_IDLE_SECONDS, self._sweep) if self._idle else None

    async def _dial(self, origin: tuple[str, int]) -> "_Connection":
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout):
            if origin[0].startswith("/"):
                _, connection = await loop.create_unix_connection(lambda: _Connection(loop), origin[0])
            else:
                _, connection = await loop.create_connection(lambda: _Connection(loop), *origin)
        if connection.transport is not None:  # not yet lost; uvloop tells nothing of one that was cancelled just here
            self._open.add(connection)
            connection.among = self._open
        return connection
