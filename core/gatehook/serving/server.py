"""One process that serves: aiohttp's server, and a graceful shutdown.

The shutdown, in order: stop accepting, turn `/health/ready` to 503, give running requests `server.shutdown_grace`
seconds, cancel what is left (their upstreams are closed with them), then close the plugins and the egress. A process
that makes room for the next generation closes no connection while its client may be sending: it answers what still
comes, and closes each connection with such an answer.
"""

import asyncio
import contextlib
import gc
import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong

from gatehook.app import Gateway
from gatehook.counting import counted
from gatehook.errors import GatewayError, InvalidRequest
from gatehook.routes import error_response
from gatehook.serving.accepting import Acceptor, SharedSocket
from gatehook.serving.lane import LaneConnection
from gatehook.serving.listening import address, file_of, listen, remove_file
from gatehook.serving.watchdog import Watchdog

__all__ = ["BACKLOG", "Ready", "Stop", "loop_factory", "running", "serve_until"]

log = logging.getLogger("gatehook")

Ready = Callable[[str, int], None]
"""Called once when clients can connect, with the address, and how many models can be called."""

BACKLOG = 1024
"""Connections that may wait to be accepted."""

_LINGER = 5.0
"""Seconds for which idle connections stay open when another process takes over; the next answer closes each."""

_YOUNG_OBJECTS = 10_000
"""New objects after which the garbage collector runs; Python's default of 700 is reached every ten requests or so."""

_HEADER_LIMIT = 32768
"""Bytes that a client's request line or header may have: long JWTs fit, more is refused with 431."""

_TOO_MANY = "Too many headers received"
"""What aiohttp says of a request with more than 128 headers; it has no class for this error."""


class _Connection(LaneConnection):
    """A client's connection, which refuses invalid HTTP in OpenAI's error shape and without a traceback."""

    def log_exception(self, *args: object, **kw: object) -> None:
        """Log bugs of ours; that a client breaks off its request is none."""
        error = kw.get("exc_info")
        broken = web.RequestPayloadError | HttpProcessingError | ConnectionError
        if self.transport is None or isinstance(error, broken):
            log.debug("a client broke off: %s", error)
        else:
            super().log_exception(*args, **kw)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has been begun already")
        response = error_response(_http_error(status, exc))
        response.force_close()
        return response


def _in_shape(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], gateway: Gateway) -> Any:
    """The handler of aiohttp, with what aiohttp itself refuses (CONNECT, an unknown Expect) told in OpenAI's shape.

    Inference calls go to the pipeline by their path alone, without aiohttp's router.
    """
    endpoints, serve = gateway.endpoints, gateway.pipeline.serve

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if gateway.retiring or gateway.draining:
            # As if the client had sent `Connection: close`; aiohttp has no other way before an answer has begun.
            request._message = request._message._replace(should_close=True)  # noqa: SLF001
        endpoint = endpoints.get(request.raw_path)
        if endpoint is not None and request.method == endpoint.method and hdrs.EXPECT not in request.headers:
            return await serve(endpoint, cast("web.Request", request))
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return error_response(InvalidRequest(error.reason, status=error.status))

    return handle


def _http_error(status: int, error: BaseException | None) -> GatewayError:
    if isinstance(error, LineTooLong):
        return InvalidRequest(f"the request line or a header is longer than {_HEADER_LIMIT} bytes", status=431)
    if isinstance(error, BadHttpMessage) and error.message == _TOO_MANY:
        return InvalidRequest("the request has too many headers", status=431)
    if 400 <= status < 500:
        return InvalidRequest("this is not a valid HTTP/1.1 request", status=status)
    log.error("a request failed outside of any handler", exc_info=error)
    return GatewayError("internal error; the gateway's log tells more")


class _Server(web.Server):
    """aiohttp's server, with connections of our own class."""

    lane: "_Lane | None" = None
    write_timeout = math.inf
    """Seconds for which a client may leave what it gets unread."""
    left: Callable[[], None] | None = None
    """Called whenever a connection has ended."""

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if self.left is not None:
            self.left()

    def __call__(self) -> web.RequestHandler:
        return _Connection(self.lane, self, write_timeout=self.write_timeout, loop=self._loop, **self._kwargs)


class _Lane:
    """What answers the calls that take the short way; see `lane.Lane`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.endpoints = gateway.endpoints
        self.serve = gateway.pipeline.serve

    def is_open(self) -> bool:
        """Whether calls may take the short way; see `lane.Lane`."""
        return not (self._gateway.retiring or self._gateway.draining)


class _Runner(web.AppRunner):
    """An AppRunner with a `_Server`."""

    def __init__(self, gateway: Gateway, **options: Any) -> None:
        super().__init__(gateway.app(), **options)
        self._gateway = gateway

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        # aiohttp has no way to set the class of connections, other than making the server again from the same parts.
        server = _Server(
            _in_shape(made.request_handler, self._gateway),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **made._kwargs,  # noqa: SLF001
        )
        server.lane = _Lane(self._gateway)
        server.write_timeout = self._gateway.settings.server.write_timeout
        return server


@contextlib.asynccontextmanager
async def running(gateway: Gateway, shared: SharedSocket | None = None) -> AsyncIterator[str]:
    """Serve a gateway inside a running loop; yields its address, ``http://HOST:PORT`` or ``unix:PATH``.

    Args:
        gateway: what to serve.
        shared: a socket that other processes serve too; without it a new one, bound as the settings say.

    Raises:
        StartupError: the address cannot be listened on, or a plugin cannot start.
    """
    settings = gateway.settings.server
    async with gateway.lifespan():
        runner = _Runner(
            gateway,
            handler_cancellation=True,  # a client that leaves ends its upstream call at once
            access_log=None,
            shutdown_timeout=0.01,  # `_drain` has waited already; 0 would mean no limit
            max_line_size=_HEADER_LIMIT,
            max_field_size=_HEADER_LIMIT,
            keepalive_timeout=75.0,
            auto_decompress=False,  # `read_body` does it, and sees where a body is cut
        )
        await runner.setup()
        limit = 0.0 if gateway.control is None else settings.blocked_limit  # without a parent nobody would replace it
        watchdog = Watchdog(gateway.plugins.owners(), settings.blocked_warning, limit)
        try:
            try:
                async with _accepting(runner, gateway, shared) as sock:
                    with watchdog.watching():
                        yield address(settings, sock)
            finally:
                await _drain(runner, gateway)
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def _accepting(
    runner: web.AppRunner, gateway: Gateway, shared: SharedSocket | None
) -> AsyncIterator[socket.socket]:
    """Accept connections while this context is open; then the gateway is draining."""
    if shared is None:
        sock = listen(gateway.settings.server)
        file = file_of(gateway.settings.server)
        try:
            site = web.SockSite(runner, sock, backlog=BACKLOG)
            await site.start()
            yield sock
        finally:
            gateway.draining = not gateway.retiring
            remove_file(gateway.settings.server, file)
            await site.stop()
        return
    server = runner.server
    assert isinstance(server, _Server)  # noqa: S101  # the runner made it
    acceptor = Acceptor(shared, server, gateway.worker)
    server.left = acceptor.left
    acceptor.open()
    try:
        yield shared.sock
    finally:
        gateway.draining = not gateway.retiring
        await acceptor.close()


async def _drain(runner: web.AppRunner, gateway: Gateway) -> None:
    """Close idle connections, and wait for the busy ones."""
    server, loop = runner.server, asyncio.get_running_loop()
    if server is None:
        return
    grace = gateway.settings.server.shutdown_grace
    lingers = loop.time() + min(_LINGER, grace)
    while gateway.retiring and server.connections and loop.time() < lingers:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    server.pre_shutdown()
    for connection in server.connections:
        if isinstance(connection, _Connection) and not connection.busy:
            connection.force_close()
    end, pause = loop.time() + grace, 0.001  # those just closed leave the list at once
    while server.connections and loop.time() < end:  # aiohttp has no event for this
        await asyncio.sleep(min(pause, end - loop.time()))
        pause = min(2 * pause, 0.02)
    if server.connections:
        unfinished = counted(len(server.connections), "request")
        log.warning("%s did not end within %g s: cancelled", unfinished, grace)


class Stop:
    """How the task that serves is told to stop; to be made in that task."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # there is one in every coroutine
        self._task = task
        self._asked = asyncio.Event()

    @property
    def asked(self) -> bool:
        """Whether it was told to stop."""
        return self._asked.is_set()

    def drain(self) -> None:
        """Accept nothing more, and let running requests end."""
        self._asked.set()

    def cut(self) -> None:
        """Stop at once: running requests are cut off."""
        self._asked.set()
        self._task.cancel()

    async def wait(self) -> None:
        """Wait until it is told to stop."""
        await self._asked.wait()


async def serve_until(stop: Stop, gateway: Gateway, ready: Ready, shared: SharedSocket | None = None) -> None:
    """Serve until told to stop; returns when the last request has ended. See `running` and `Ready`.

    Raises:
        StartupError: as `running`.
    """
    try:
        async with running(gateway, shared) as at:
            ready(at, _models(gateway))
            # What start-up has made lives as long as the process: the collector need not walk it over and over.
            gc.collect()
            gc.freeze()
            # What a request makes dies with it, nearly all by reference counting: the collector may run less often.
            gc.set_threshold(_YOUNG_OBJECTS, 10, 10)
            await stop.wait()
    except asyncio.CancelledError:
        if not stop.asked:
            raise


def _models(gateway: Gateway) -> int:
    """How many models can be called; aliases do not count."""
    catalog = gateway.catalog
    own = (group for name, group in catalog.groups().items() if catalog.canonical(name) == name)
    return sum(any(not one.unavailable for one in group) for group in own)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The factory of event loops: uvloop's if it is installed; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: the standard loop serves, slower
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
