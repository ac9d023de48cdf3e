"""The egress's short way: plain HTTP/1.1 over TCP or a Unix socket, on connections of its own, without ClientSession.

ClientSession spends more on a request than all the rest of the gateway (objects for the request, a task for its body,
timers, cookies); none of it is needed to send ready bytes to an operator's own http:// address and read the answer.
Where `http1` has no parser, `available` is False and the egress takes the long way for everything.
"""

import asyncio
import re
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict
from yarl import URL

from gatehook import inflating
from gatehook.http1 import PIECE, Connection, available

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

    origin: tuple[str, int]
    """Host and port; or the path of a Unix socket, which begins with a slash, and 0."""
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
            return cls((uds, 0), head)
        return cls((url.raw_host or "", url.port if url.port is not None else 80), head)


class Answer:
    """An answer whose head has arrived."""

    __slots__ = ("_connection", "_fields", "_headers", "_pool", "status")

    def __init__(self, pool: "Pool", connection: Connection) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self._fields = connection.fields
        self._headers: Mapping[str, str] | None = None
        self.status = connection.status

    @property
    def headers(self) -> Mapping[str, str]:
        """By names in any case; made when it is first asked for."""
        if self._headers is None:
            texts = [field.decode("utf-8", "surrogateescape") for field in self._fields]
            self._headers = CIMultiDict(
                (name, value.rstrip(" \t")) for name, value in zip(texts[::2], texts[1::2], strict=True)
            )
        return self._headers

    @property
    def content_type(self) -> str:
        """As the header says it, in lower case; "" if there is none. Cheaper than `headers`."""
        fields = self._fields
        for place in range(0, len(fields), 2):
            if fields[place].lower() == b"content-type":
                return fields[place + 1].decode("latin-1").lower()
        return ""

    @property
    def arrived(self) -> bool:
        """Whether the whole answer has arrived, be it read or not."""
        return self._connection is None or self._connection.whole

    def whole(self) -> bytes | None:
        """What is left of the body, if all of it has arrived; else None."""
        connection = self._connection
        return connection.take() if connection is not None and connection.whole else None

    def receive(self) -> Coroutine[Any, Any, bytes]:
        """What has arrived of the body, at least one byte; b"" at its end.

        Raises:
            OSError, aiohttp.ClientError, aiohttp.http.HttpProcessingError: the rest will not come.
        """
        connection = self._connection
        return connection.receive() if connection is not None else _nothing()

    def done(self) -> None:
        """Give the connection back, if the whole answer has arrived, else close it.

        What is left of an answer must not meet the next request. It counts once: the connection may be another's soon.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.put(connection)


class _Encoded(Answer):
    """An answer whose body has to be decoded."""

    __slots__ = ("_inflater",)

    def __init__(self, pool: "Pool", connection: Connection, encoding: str) -> None:
        """Raises HttpProcessingError where what decodes it is not installed."""
        super().__init__(pool, connection)
        self._inflater = inflating.Inflater(encoding)

    def whole(self) -> bytes | None:
        """None: what comes of it is not to be had at once."""
        return None

    async def receive(self) -> bytes:
        """As any answer's, decoded."""
        while True:
            if self._inflater.more and (data := self._inflater.inflate(b"")):
                return data
            received = await super().receive()
            if not received:
                self._inflater.finish()
                return b""
            if data := self._inflater.inflate(received):
                return data


async def _nothing() -> bytes:
    return b""


class Pool:
    """Connections by origin; of those that are idle the last used serves first."""

    def __init__(self, connect_timeout: float) -> None:
        """`connect_timeout` is in seconds."""
        self._connect_timeout = connect_timeout
        self._open: set[Connection] = set()
        self._idle: dict[tuple[str, int], list[Connection]] = {}
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
        connection = self._take(request.origin) or await self._dial(request.origin)
        try:
            if len(body) <= PIECE:
                connection.write(b"%b%d\r\n\r\n%b" % (request.head, len(body), body))
            else:
                await connection.send(b"%b%d\r\n\r\n" % (request.head, len(body)), body)
            while not connection.status:
                if connection.error is not None:
                    raise connection.error
                await connection.news()
            return self._decoded(connection) if connection.encoded else Answer(self, connection)
        except BaseException:
            connection.abort()
            raise

    def put(self, connection: Connection) -> None:
        """Keep a connection for the next request, unless its answer or its server forbids it."""
        if not connection.can_serve_again():
            connection.abort()
            return
        loop = self._loop
        connection.idle_since = loop.time()
        self._idle.setdefault(connection.origin, []).append(connection)
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
            connection.abort()

    def _decoded(self, connection: Connection) -> Answer:
        answer = Answer(self, connection)
        encoding = inflating.known(answer.headers.get("Content-Encoding", ""))
        return _Encoded(self, connection, encoding) if encoding else answer

    def _take(self, origin: tuple[str, int]) -> Connection | None:
        idle = self._idle.get(origin)
        if idle:
            since = self._loop.time() - _IDLE_SECONDS
            while idle:
                connection = idle.pop()
                if connection.is_usable(since):
                    connection.expect()
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

    async def _dial(self, origin: tuple[str, int]) -> Connection:
        loop = self._loop
        connection = Connection(loop, origin, self._open)
        async with asyncio.timeout(self._connect_timeout):
            if origin[0].startswith("/"):
                await loop.create_unix_connection(lambda: connection, origin[0])
            else:
                await loop.create_connection(lambda: connection, *origin)
        if connection.transport is not None:  # not yet lost; uvloop tells nothing of one that was cancelled just here
            self._open.add(connection)
        return connection
