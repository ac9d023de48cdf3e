"""The short way in: inference calls that arrive in the usual form are answered without aiohttp's server machinery.

Each connection is aiohttp's, and what is not an inference call, or is unusual in any way, goes to its parser as it
came. This file only decides, between two requests, who gets the next one. aiohttp's connection class is not made to be
extended: all that is assumed of its private parts is in this file, and where they are missing, `available` is False and
every request goes aiohttp's way.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Final, Protocol

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD
from yarl import URL

from gatehook.calls.ready import Ready, sent
from gatehook.calls.usual import Usual
from gatehook.protocols import Endpoint
from gatehook.serving.heads import LONGEST, Head, read_head
from gatehook.serving.unread import UnreadLimit

__all__ = ["Lane", "LaneConnection", "LaneRequest", "available"]

log = logging.getLogger("gatehook")

_INNER: Final = frozenset(
    {
        "_close",
        "_current_request",
        "_force_close",
        "_handler_waiter",
        "_keepalive_timeout",
        "_messages",
        "_next_keepalive_close_time",
        "_process_keepalive",
        "_request_in_progress",
    }
)
available = set(dir(web.RequestHandler)) >= _INNER
"""Whether aiohttp's connection class has the private parts that are used here."""

_WHOLE: Final = 1 << 18
"""Bytes of a body that is collected here; larger ones are left to aiohttp, which reads them in pieces."""
_PATIENCE: Final = 0.1
"""Seconds in which a request that has begun to arrive must be complete; after that aiohttp gets it, with its limits."""
_HELD: Final = 1 << 16
"""Bytes of further requests that are read while one is answered."""
_END: Final = b"\r\n\r\n"


class Lane(Protocol):
    """What answers the calls that take the short way."""

    def is_open(self) -> bool:
        """Whether it takes calls: not while the process drains, when connections are closed after their answers."""
        ...

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """The endpoints of inference calls, by path."""
        ...

    def serve(self, endpoint: Endpoint, request: web.Request, body: bytes) -> Awaitable[web.StreamResponse]:
        """Answer one call; see `Pipeline.serve`."""
        ...


class LaneRequest(Usual, web.Request):
    """A request whose head and body are here. It has all that aiohttp's request has, made when it is asked for."""

    ATTRS = web.Request.ATTRS | {"_writer", "credential", "is_json"}

    _version = HttpVersion11
    _payload = EMPTY_PAYLOAD
    _client_max_size = 1 << 20
    _client_max_fields = 1000
    _writer: AbstractStreamWriter | None = None

    _protocol: "LaneConnection"

    def __init__(self, head: Head, body: bytes, protocol: "LaneConnection", loop: asyncio.AbstractEventLoop) -> None:
        # The base class's __init__ would take longer than parsing the head did.
        self._message = head.message
        self._headers = head.headers
        self.credential = head.credential
        self.is_json = head.is_json
        self._protocol = protocol
        self._loop = loop
        self._read_bytes = body
        self._cache = {}

    @property
    def _method(self) -> str:  # type: ignore[override]
        return self._message.method

    @property
    def _rel_url(self) -> URL:  # type: ignore[override]
        return self._message.url

    @property
    def keep_alive(self) -> bool:
        """True: requests that close their connection do not come here."""
        return True

    @property
    def remote(self) -> str | None:
        """The client's address; None if its socket has none."""
        return self._protocol.remote

    @property
    def _state(self) -> dict[Any, Any]:  # type: ignore[override]
        return self._cache.setdefault("state", {})  # type: ignore[no-any-return]

    @property
    def _task(self) -> "asyncio.Task[None] | None":  # type: ignore[override]
        return asyncio.current_task(self._loop)

    @property
    def _payload_writer(self) -> AbstractStreamWriter:  # type: ignore[override]
        if self._writer is None:
            self._writer = StreamWriter(self._protocol, self._loop)
        return self._writer

    @property
    def _transport_sslcontext(self) -> Any:  # type: ignore[override]
        return self._protocol.ssl_context

    @property
    def _transport_peername(self) -> Any:  # type: ignore[override]
        return self._protocol.peername

    @property
    def _transport_sockname(self) -> Any:  # type: ignore[override]
        return self._protocol.sockname

    def _cancel(self, exc: BaseException) -> None:
        """Do nothing: the body is here, and nobody waits for it."""


class LaneConnection(UnreadLimit):
    """aiohttp's connection, with the short way beside aiohttp's own. Without a `lane` it behaves as aiohttp's."""

    __slots__ = ("_endpoint", "_held", "_holds_reading", "_known", "_lane", "_running", "_theirs", "_timer", "remote")

    def __init__(self, lane: Lane | None, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lane = lane if available else None
        self._known: Head | None = None
        """The last head: clients mostly send the same one again."""
        self._endpoint: Endpoint | None = None
        """Its endpoint, if that is answered here."""
        self._theirs = 0
        """Bytes to come of the request that aiohttp is reading; -1: aiohttp gets all that comes from now on."""
        self._held = b""
        """What has arrived of requests that have not been passed to anybody yet."""
        self._holds_reading = False
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None
        self.remote: str | None = None
        """The client's address; None if its socket has none."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the client's address."""
        super().connection_made(transport)
        peer = self.peername
        self.remote = str(peer[0]) if isinstance(peer, (list, tuple)) else None if peer is None else str(peer)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or waits for it."""
        return self._current_request is not None or bool(self._messages)

    def data_received(self, data: bytes) -> None:
        """Decide who gets what the client has sent."""
        head, lane, endpoint = self._known, self._lane, self._endpoint
        if (  # what nearly always comes: one request, like the one that was answered before it
            head is not None
            and lane is not None
            and endpoint is not None
            and len(data) == head.size
            and data.startswith(head.text)
            and not (self._theirs or self._held or self._running or self._current_request or self._messages)
            and not (self._close or self._force_close)
            and lane.is_open()
        ):
            self._begin(lane, endpoint, head, data[len(head.text) :])
        elif lane is None or self._theirs < 0 or not data:  # aiohttp passes no data to wake its parser
            super().data_received(data)
        elif not (self._close or self._force_close):
            self._take(self._held + data if self._held else data)

    def _take(self, data: bytes) -> None:
        """Pass each request to whoever is to answer it; hold one that is incomplete, or that comes while one runs."""
        self._held = b""
        while data:
            if self._theirs:
                data = self._pass_on(data)
            elif self._running is not None:
                self._hold(data)
                return
            else:
                head = self._head(data)
                if head is None:
                    if _END in data or len(data) >= LONGEST:
                        self._theirs = -1
                        continue
                    self._await(data)
                    return
                lane, endpoint = self._lane, self._endpoint
                if endpoint is None or lane is None or not lane.is_open() or self.busy:
                    self._theirs = head.size
                elif len(data) < head.size:
                    self._await(data)
                    return
                else:
                    self._begin(lane, endpoint, head, data[len(head.text) : head.size])
                    data = data[head.size :]

    def _head(self, data: bytes) -> Head | None:
        """The head at the beginning of `data`; None if it is not complete, or unusual."""
        known = self._known
        if known is not None and data.startswith(known.text):
            return known
        end = data.find(_END, 0, LONGEST)
        if end < 0:
            return None
        self._known = known = read_head(data[: end + len(_END)])
        self._endpoint = None if known is None else self._called(known)
        return known

    def _called(self, head: Head) -> Endpoint | None:
        """The endpoint of a request that is answered here; None for one that aiohttp gets."""
        endpoint = None if self._lane is None else self._lane.endpoints.get(head.message.path)
        if endpoint is None or endpoint.method != head.message.method or head.length > _WHOLE:
            return None
        return endpoint

    def _pass_on(self, data: bytes) -> bytes:
        """Pass to aiohttp what belongs to the request that it is reading; returns the rest."""
        if self._theirs < 0:
            super().data_received(data)
            return b""
        theirs, rest = data[: self._theirs], data[self._theirs :]
        self._theirs -= len(theirs)
        super().data_received(theirs)
        return rest

    def _await(self, data: bytes) -> None:
        """Wait for the rest of a request."""
        self._held = data
        if self._timer is None:
            self._timer = self._loop.call_later(_PATIENCE, self._give_over)

    def _give_over(self) -> None:
        """Leave a request to aiohttp whose rest has not come in time."""
        self._timer = None
        data, self._held = self._held, b""
        if data and self._running is None:
            head = self._head(data)
            self._theirs = -1 if head is None else head.size
            self._take(data)
        else:
            self._held = data

    def _hold(self, data: bytes) -> None:
        self._held = data
        if len(data) >= _HELD and not self._holds_reading and self.transport is not None:
            self._holds_reading = True
            self.transport.pause_reading()

    def _begin(self, lane: Lane, endpoint: Endpoint, head: Head, body: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        request = LaneRequest(head, body, self, self._loop)
        self._current_request = request
        self._request_in_progress = True
        # A task for each request, so that context variables which plugins set end with it.
        self._running = self._loop.create_task(self._serve(lane, endpoint, request, body), name="call")

    async def _serve(self, lane: Lane, endpoint: Endpoint, request: LaneRequest, body: bytes) -> None:
        """Answer one request."""
        stays = False
        try:
            serve = lane.serve
            response = await serve(endpoint, request, body)
            if type(response) is Ready:
                if sent(self, response.data):
                    await request.writer.drain()
                stays = True
            else:
                if not response.prepared:
                    await response.prepare(request)
                await response.write_eof()
                stays = bool(response.keep_alive)
        except ConnectionError:
            log.debug("a client left before its answer's end")
        except Exception as error:  # noqa: BLE001  # a bug of ours; the connection is closed
            self.log_exception("Unhandled exception", exc_info=error)
        finally:
            self._ended(stays=stays)

    def _ended(self, *, stays: bool) -> None:
        """Clean up after a request, and go on with the next: it is answered, or its client has left."""
        self._running = self._current_request = None
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():  # a shutdown waits
            self._handler_waiter.set_result(None)
        if self.transport is None:
            return
        if not stays or self._close:
            self.transport.close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._holds_reading:
            self._holds_reading = False
            self.transport.resume_reading()
        if self._held:
            self._take(self._held)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel what is running: the client has left."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
        if self._running is not None:
            self._running.cancel()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Wait so many seconds for the request that is running, then cancel it."""
        await super().shutdown(timeout)
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def _process_keepalive(self) -> None:
        # aiohttp does not know of a request that is answered here, and takes the connection for idle.
        if self._running is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()
