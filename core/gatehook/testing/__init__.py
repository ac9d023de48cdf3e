"""The published test kit: a gateway on a real socket, upstreams that play what a test wrote, and answers in pieces."""

import asyncio
import contextlib
import functools
import json
import socket
import ssl
import struct
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from multidict import CIMultiDict

from gatehook.app import Gateway
from gatehook.config.settings import load
from gatehook.errors import UpstreamError
from gatehook.jsonio import Document
from gatehook.loader.loading import installed
from gatehook.model import Attempt, Call, Operation, Target
from gatehook.serving.server import running
from gatehook.upstream.egress import Egress, Fetched, PreparedRequest
from gatehook.upstream.http1 import PassOn
from gatehook.upstream.retry_after import retry_after

__all__ = [
    "Recorded",
    "Replay",
    "ReplayEgress",
    "Reply",
    "Served",
    "StubUpstream",
    "attempt",
    "available",
    "built",
    "serving",
    "splits",
]


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that is serving: its address (``http://127.0.0.1:PORT``) and the object itself."""

    url: str
    gateway: Gateway


@dataclass(frozen=True, slots=True)
class _Entry:
    """Stands for an entry point: a plugin class that a test defined."""

    name: str
    cls: type
    dist: None = None

    @property
    def value(self) -> str:
        return f"{self.cls.__module__}:{self.cls.__qualname__}"

    def load(self) -> type:
        return self.cls


def available(plugins: Mapping[str, type]) -> dict[str, Any]:
    """The installed plugins plus these classes, as `Gateway` takes them."""
    return {**_installed(tuple(sys.path)), **{name: _Entry(name, cls) for name, cls in plugins.items()}}


@functools.lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """The installed plugins, cached by sys.path: finding them takes longer than all else of a start."""
    return installed()


@contextlib.asynccontextmanager
async def serving(settings: str, *, plugins: Mapping[str, type] | None = None) -> AsyncIterator[Served]:
    """Serve a gateway on a free port.

    Args:
        settings: the text of a settings.toml; without `server.port` or `server.uds` the port is a free one.
        plugins: plugin classes by name, besides those installed; each still needs its [plugins.NAME] table.
    """
    gateway = built(settings, plugins=plugins)
    async with running(gateway) as url:
        yield Served(url, gateway)


def built(settings: str, *, plugins: Mapping[str, type] | None = None) -> Gateway:
    """A gateway as `serving()` makes it, not serving yet.

    Raises:
        StartupError: with every fault.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "settings.toml")
        file.write_text(settings, "utf-8")
        loaded = load(file, environ={"GATEHOOK_SERVER__PORT": "0"} if _leaves_port_open(settings) else {})
    return Gateway(loaded, available(plugins or {}))


def _leaves_port_open(settings: str) -> bool:
    try:
        server = tomllib.loads(settings).get("server", {})
    except tomllib.TOMLDecodeError:
        return True  # loading it tells what is wrong
    return not isinstance(server, dict) or server.keys().isdisjoint({"port", "uds"})


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request that a stub received."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a stub answers.

    `body` is one piece, or several that are written one after another. `end`: "close" and "keep" end the answer
    properly, "cut" closes the connection before its end, "reset" resets it, "silence" sends nothing more and keeps it
    open. With status 0 no answer is begun at all. `raw` sends the pieces as they are, without a head and unframed.
    `pause` is in seconds, before every piece but the first; `before` likewise before the head.
    """

    body: bytes | Sequence[bytes] = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    end: Literal["keep", "close", "cut", "reset", "silence"] = "keep"
    before: float = 0.0
    pause: float = 0.0
    raw: bool = False

    @classmethod
    def of_json(cls, value: Any, **rest: Any) -> Self:
        """A JSON answer."""
        return cls(body=json.dumps(value).encode(), **rest)

    @classmethod
    def of_events(cls, body: bytes | Sequence[bytes], **rest: Any) -> Self:
        """A stream of server-sent events, already framed."""
        return cls(body=body, content_type="text/event-stream", **rest)


class StubUpstream:
    """A vendor on a real socket: records every request and gives the scripted replies in order; the last one repeats.

    Use as an async context manager; `url` is its address, ``http://127.0.0.1:PORT``. With `tls`, a server's context, it
    speaks TLS, and `url` is https://. With `uds`, a path, it listens on this Unix socket instead, whatever host a
    request names.
    """

    def __init__(self, *replies: Reply, uds: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.uds = uds
        self._tls = tls
        self.requests: list[Recorded] = []
        self.open = 0
        """Connections that are open now."""
        self.closed_early = asyncio.Event()
        """Set when a client closes a connection before its answer has ended."""
        self.written = 0
        """Bytes of answers that the system has taken over, all connections together."""
        self._arrived = asyncio.Condition()
        self._replies = list(replies)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def script(self, *replies: Reply) -> None:
        """Replace the replies that are left."""
        self._replies = list(replies)

    @property
    def url(self) -> str:
        """Its address."""
        assert self._server is not None, "enter the stub first"  # noqa: S101  # a test kit's own guard
        if self.uds:
            return "http://localhost"
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def asked(self, times: int = 1) -> None:
        """Wait until so many requests have arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= times)

    async def __aenter__(self) -> Self:
        if self.uds:
            self._server = await asyncio.start_unix_server(self._serve, self.uds)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None  # noqa: S101
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._tasks.add(task)
        self.open += 1
        try:
            while request := await _read_request(reader):
                self.requests.append(request)
                async with self._arrived:
                    self._arrived.notify_all()
                reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
                if not await self._play(reply, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # it is cancelled when the test is over, which asyncio would log
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _play(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Write one reply; False if the connection is to be closed after it."""
        gone = asyncio.create_task(self._watch(reader))
        try:
            await asyncio.sleep(reply.before)
            if reply.status:
                await self._write(reply, writer, gone)
        finally:
            gone.cancel()
            await asyncio.wait([gone])  # `await gone` could not tell its cancellation from this task's own
        if reply.end == "silence":
            await self._watch(reader)
            return False
        if reply.end == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return reply.end == "keep" and reply.status != 0

    async def _write(self, reply: Reply, writer: asyncio.StreamWriter, gone: asyncio.Task[None]) -> None:
        pieces = [reply.body] if isinstance(reply.body, bytes) else list(reply.body)
        head = [
            f"HTTP/1.1 {reply.status} Scripted",
            f"Content-Type: {reply.content_type}",
            "Transfer-Encoding: chunked",
        ]
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        if reply.end == "close":
            head.append("Connection: close")
        if not reply.raw:
            writer.write(("\r\n".join(head) + "\r\n\r\n").encode())
        for number, piece in enumerate(pieces):
            if number and reply.pause:
                await asyncio.wait([gone], timeout=reply.pause)
            if reply.raw:
                writer.write(piece)
            elif piece:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            self.written += len(piece)
        if reply.end in ("keep", "close") and not reply.raw:
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        """Wait until the client closes; it sends nothing while it waits for an answer."""
        try:
            gone = not await reader.read(1)
        except ConnectionError:  # closing with something unread resets the line
            gone = True
        if gone:
            self.closed_early.set()


async def _read_request(reader: asyncio.StreamReader) -> Recorded | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Recorded(method, path, headers, body)


class Replay:
    """An upstream answer played from memory; has the interface of `gatehook.Upstream`."""

    def __init__(
        self,
        pieces: bytes | Iterable[bytes],
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        fails: Exception | None = None,
    ) -> None:
        """`fails` is raised after the last piece, as a cut line would."""
        self.status = status
        self.headers: Mapping[str, str] = {"Content-Type": content_type, **(headers or {})}
        self.is_event_stream = content_type.startswith("text/event-stream")
        self.retry_after = retry_after(CIMultiDict(self.headers))
        self.closed = False
        self._pieces = [pieces] if isinstance(pieces, bytes) else list(pieces)
        self._fails = fails
        self._left: AsyncIterator[bytes] | None = None

    async def read(self) -> bytes:
        """All pieces joined."""
        if self._fails:
            raise self._fails
        return b"".join(self._pieces)

    def at_once(self) -> bytes | None:
        """All pieces joined; None if something else follows them."""
        if self._fails:
            return None
        self.closed = True
        return b"".join(self._pieces)

    async def read_error(self) -> bytes:
        """All pieces joined, also if the line is cut after them."""
        return b"".join(self._pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces, one by one."""
        for piece in self._pieces:
            yield piece
        if self._fails:
            raise self._fails

    async def receive(self, pass_on: PassOn | None = None) -> bytes:
        """The next piece that `pass_on` does not take, b"" after the last."""
        if self._left is None:
            self._left = self.chunks()
        async for piece in self._left:
            if piece and (pass_on is None or not pass_on(piece)):
                return piece
        return b""

    async def receive_last(self, until: float) -> bytes:
        """As `receive`; a fault is the end."""
        try:
            return await self.receive()
        except UpstreamError:
            return b""

    async def drain(self) -> None:
        """Nothing is left."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True


class ReplayEgress(Egress):
    """Stands in for the real egress: plays replays in order (the last one repeats) and records what was sent."""

    def __init__(self, *replays: Replay, fetched: Mapping[str, Fetched] | None = None) -> None:
        self.requests: list[Recorded] = []
        self._replays = list(replays)
        self._fetched = dict(fetched or {})

    def prepare(
        self, target: Target, method: str, url: Any, *, headers: Mapping[str, str], uds: str = ""
    ) -> PreparedRequest:
        """Keep the arguments; nothing is prepared."""
        return PreparedRequest(target, method, url, headers, uds, None)

    async def send(self, prepared: PreparedRequest, body: bytes | None = None) -> Any:
        """Record the request, and return the next replay."""
        self.requests.append(Recorded(prepared.method, str(prepared.url), dict(prepared.headers), body or b""))
        return self._replays.pop(0) if len(self._replays) > 1 else self._replays[0]

    async def fetch(self, url: str, *, param: str) -> Fetched:
        """What the test put behind `url`."""
        return self._fetched[url]


def attempt(
    payload: Mapping[str, Any],
    *,
    operation: Operation = "chat",
    target: Target | None = None,
    **target_fields: Any,
) -> Attempt:
    """An attempt as the kernel would make it, for calling a vendor directly; extra keywords go to the Target."""
    data = dict(payload)
    call = Call(operation=operation, surface="test", headers={})
    call.body = Document(data)
    call.model = str(data.get("model", "public-name"))
    call.stream = data.get("stream") is True
    call.include_usage = bool((data.get("stream_options") or {}).get("include_usage"))
    if target is None:
        defaults: dict[str, Any] = {
            "key": f"{call.model}#1",
            "name": call.model,
            "vendor": "test",
            "model": "upstream-model",
        }
        target = Target(**(defaults | target_fields))
    return Attempt(call, target, data)


def splits(body: bytes) -> Iterable[Sequence[bytes]]:
    """The body cut in two at every byte, then byte by byte, then whole."""
    for place in range(1, len(body)):
        yield [body[:place], body[place:]]
    yield [body[place : place + 1] for place in range(len(body))]
    yield [body]
