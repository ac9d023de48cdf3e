"""The egress's short way: HTTP/1.1 over plain TCP on aiohttp's own response protocol, without its ClientSession.

ClientSession spends more on a request than all the rest of the gateway (objects for the request, a task for its body,
timers, cookies); none of it is needed to send ready bytes to an operator's own http:// address and read the answer.
Parsing, decompression and back-pressure stay aiohttp's. Its protocol class is not part of aiohttp's public API: all
use of it is in this file, and where it does not fit, `available` is False and the egress takes the public way.
"""

import asyncio
import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import StreamReader
from yarl import URL

try:
    from aiohttp.client_proto import ResponseHandler

    available = {"auto_decompress", "max_field_size", "read_bufsize", "read_until_eof"} <= set(
        inspect.signature(ResponseHandler.set_response_params).parameters
    )
except ImportError:  # another version of aiohttp
    available = False

__all__ = ["Answer", "Pool", "Request", "available"]

_IDLE_SECONDS = 15.0
"""Most servers keep an idle connection longer than this; one they are about to close must not be used."""
_LINE_LIMIT = 65536


@dataclass(frozen=True, slots=True)
class Request:
    """What is the same for every request to one URL with the same headers: where it goes, and its head."""

    host: str
    port: int
    head: bytes
    """Up to the Content-Length, whose value and the body follow."""

    @classmethod
    def to(cls, method: str, url: URL, headers: Mapping[str, str]) -> "Request":
        """Prepare a request.

        Raises:
            ValueError: a header that would break out of its line.
        """
        lines = [f"{method} {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        for line in lines:
            if any(letter in line for letter in "\r\n\0"):
                raise ValueError(f"a line break in the header {line.partition(':')[0]!r}")
        head = "\r\n".join([*lines, "Content-Length: "]).encode("utf-8")
        return cls(url.raw_host or "", url.port or 80, head)


class Answer:
    """An answer whose head has arrived; its body is read from `content`."""

    __slots__ = ("_connection", "_origin", "_pool", "content", "headers", "status")

    def __init__(self, pool: "Pool", origin: tuple[str, int], connection: "_Connection") -> None:
        self._pool = pool
        self._origin = origin
        self._connection = connection
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.content: StreamReader

    async def begin(self) -> None:
        """Wait for the head; interim answers (1xx) are passed over."""
        while True:
            message, self.content = await self._connection.read()
            if message.code >= 200:
                break
        self.status = message.code
        self.headers = message.headers

    def release(self) -> None:
        """Give the connection back, if the answer was read to its end."""
        self._pool.put(self._origin, self._connection)

    def close(self) -> None:
        """Close the connection: what is left of the answer must not meet the next request."""
        self._connection.close()


class _Connection(ResponseHandler):
    """One connection and when it was last used."""

    idle_since = 0.0

    def expect(self) -> None:
        """Get ready for one answer."""
        self.set_response_params(
            read_until_eof=True,
            auto_decompress=True,
            read_bufsize=_LINE_LIMIT,
            max_line_size=_LINE_LIMIT,
            max_field_size=_LINE_LIMIT,
        )


class Pool:
    """Idle connections by origin, the last used first."""

    def __init__(self, connect_timeout: float) -> None:
        """`connect_timeout` is in seconds."""
        self._connect_timeout = connect_timeout
        self._idle: dict[tuple[str, int], list[_Connection]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

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
            await answer.begin()
        except BaseException:
            connection.close()
            raise
        return answer

    def put(self, origin: tuple[str, int], connection: "_Connection") -> None:
        """Keep a connection for the next request, unless its answer or its server forbids it."""
        if connection.should_close or not connection.is_connected():
            connection.close()
            return
        idle = self._idle.setdefault(origin, [])
        now = connection.idle_since = self._now()
        while idle and idle[0].idle_since < now - _IDLE_SECONDS:
            idle.pop(0).close()
        idle.append(connection)

    def close(self) -> None:
        """Close all idle connections."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()

    def _take(self, origin: tuple[str, int]) -> "_Connection | None":
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if (
                connection.is_connected()
                and not connection.should_close
                and connection.idle_since >= self._now() - _IDLE_SECONDS
            ):
                return connection
            connection.close()
        return None

    async def _dial(self, origin: tuple[str, int]) -> "_Connection":
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout):
            _, connection = await loop.create_connection(lambda: _Connection(loop), *origin)
        return connection

    def _now(self) -> float:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.time()
