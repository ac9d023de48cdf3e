"""The egress's short way: HTTP/1.1 over TCP, TLS or a Unix socket, on connections of its own, without ClientSession.

ClientSession spends more on a request than all the rest of the gateway (objects for the request, a task for its body,
timers, cookies); none of it is needed to send ready bytes to an address of the operator's and to read the answer.
Where `http1` has no parser, `available` is False and the egress takes the long way for everything.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from yarl import URL

from gatehook.upstream.answer import Line
from gatehook.upstream.dialing import Dialer, Origin
from gatehook.upstream.http1 import PIECE, Connection, available, headers_in
from gatehook.upstream.inflating import decoded

__all__ = ["Pool", "Request", "available", "suits"]

_SWEEP_SECONDS = 1.0
_MOST_SWEEPS = 4
"""How many sweeps an idle connection survives: less than the 5 s after which uvicorn, Node and llama.cpp close theirs,
as a request on a connection that is about to close would fail."""
_MOST_TLS_SWEEPS = 50
"""The same with TLS, where a new connection takes three round trips, and load balancers close theirs after 60 s."""
_METHODS = frozenset({"DELETE", "GET", "PATCH", "POST", "PUT"})
_NOT_OURS = frozenset({"connection", "content-length", "expect", "host", "te", "transfer-encoding", "upgrade"})
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LENGTH = "Content-Length: "
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def suits(method: str, url: URL, headers: Mapping[str, str]) -> bool:
    """Whether a request can go the short way: with no header that changes how messages are framed."""
    return (
        url.scheme in ("http", "https")
        and bool(url.raw_host)
        and url.raw_user is None
        and url.raw_password is None
        and method in _METHODS
        and _NOT_OURS.isdisjoint(name.lower() for name in headers)
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What is the same for every request to one URL with the same headers: where it goes, and its head."""

    origin: Origin
    head: bytes = field(repr=False)  # it holds the vendor's key
    """The head up to "Content-Length: "; the length and the body follow."""

    @classmethod
    def to(cls, method: str, url: URL, headers: Mapping[str, str], uds: str = "") -> "Request":
        """Prepare a request that `suits`; `uds` is the absolute path of a Unix socket to send it to, if any.

        Raises:
            ValueError: a header that would break out of its line.
        """
        lines = [f"{method} {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
        if _FORBIDDEN.search("".join(lines)):
            raise ValueError("a character that cannot be sent in the address")
        lines += [_line(name, value) for name, value in headers.items()]
        head = "\r\n".join([*lines, _LENGTH]).encode("utf-8")
        if uds:
            return cls(Origin(uds), head)
        tls = url.scheme == "https"
        standard = 443 if tls else 80
        return cls(Origin(url.raw_host or "", standard if url.port is None else url.port, tls), head)

    def with_header(self, name: str, value: str) -> "Request":
        """The same with one more header.

        Raises:
            ValueError: it would break out of its line, or change how the request is framed.
        """
        if name.lower() in _NOT_OURS:
            raise ValueError(f"the header {name!r} is not the caller's to set")
        line = f"{_line(name, value)}\r\n{_LENGTH}".encode()
        return Request(self.origin, self.head[: -len(_LENGTH)] + line)


def _line(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a header's name: {name!r}")
    if _FORBIDDEN.search(value):
        raise ValueError(f"a character that cannot be sent in the header {name!r}")
    return f"{name}: {value}"


class Pool:
    """Connections by origin; of the idle ones, the one that was used last is taken first."""

    def __init__(self, dialer: Dialer) -> None:
        """`dialer` opens the connections."""
        self._dialer = dialer
        self._open: set[Connection] = set()
        self._lost = self._open.discard
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._running: asyncio.AbstractEventLoop | None = None

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; kept, because asking for it is a system call on some versions of Python."""
        if self._running is None:
            self._running = asyncio.get_running_loop()
        return self._running

    async def send(self, request: Request, body: bytes) -> Line:
        """Send one request; returns when the answer's head has arrived. The caller has to release what it gets.

        Raises:
            OSError, TimeoutError, aiohttp.ClientError, aiohttp.http.HttpProcessingError: as the connection fails.
        """
        kept = self._take(request.origin)
        connection = kept or await self._dial(request.origin)
        try:
            if len(body) <= PIECE:
                connection.write(b"%b%d\r\n\r\n%b" % (request.head, len(body), body))
            else:
                await connection.send(b"%b%d\r\n\r\n" % (request.head, len(body)), body)
            while not connection.status:
                if connection.error is not None:
                    raise connection.error
                await connection.news()
            return connection if connection.is_plain() else decoded(connection, headers_in(connection.head))
        except BaseException:
            if kept is not None and connection.error is not None and not connection.status:
                self._distrust(request.origin)
            connection.abort()
            raise

    def _distrust(self, origin: Origin) -> None:
        """Close what is idle, as one that was is dead: what killed it (a restart, a balancer) may have killed all."""
        for connection in self._idle.pop(origin, ()):
            connection.abort()

    def close(self) -> None:
        """Close all connections; answers that are still being read fail."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._running = None
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            transport = connection.transport
            if transport is not None and not transport.is_closing():
                connection.expect()
                return connection
        return None

    def _keep(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        connection.sweeps = 0
        try:
            self._idle[connection.origin].append(connection)
        except KeyError:
            self._idle[connection.origin] = [connection]
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for long; counting sweeps saves asking the clock for each request."""
        for origin, idle in list(self._idle.items()):
            self._idle[origin] = usable = []
            most = _MOST_TLS_SWEEPS if origin.tls else _MOST_SWEEPS
            for connection in idle:
                connection.sweeps += 1
                if connection.sweeps >= most:
                    connection.abort()
                elif connection.transport is not None:
                    usable.append(connection)
            if not usable:
                del self._idle[origin]
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if self._idle else None

    async def _dial(self, origin: Origin) -> Connection:
        connection = Connection(self._loop, origin, idle=self._keep, lost=self._lost)
        await self._dialer.dial(origin, connection)
        if connection.transport is not None:  # it may be lost already, of which uvloop does not always tell
            self._open.add(connection)
        return connection
