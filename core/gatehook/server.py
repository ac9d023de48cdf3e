"""Listening: TCP or a Unix socket, signals, and a shutdown that lets running answers end.

Order of the shutdown: stop accepting, tell `/health/ready`, give running requests `server.shutdown_grace` seconds,
cancel what is left (their upstreams are closed with them), then close the plugins and the egress.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from gatehook.app import Gateway, error_response
from gatehook.errors import GatewayError, InvalidRequest, StartupError
from gatehook.sections import ServerSettings

__all__ = ["running", "serve"]

log = logging.getLogger("gatehook")

_HEADER_LIMIT = 32768
"""Bytes one header line of a client may have (long JWTs fit; more is refused with 431)."""


class _Protocol(web.RequestHandler):
    """aiohttp's connection handler, answering what is no valid HTTP in OpenAI's error shape and without a traceback."""

    def log_exception(self, *args: object, **kw: object) -> None:
        """Log what is a fault of ours; a client that breaks off what it sends is none."""
        error = kw.get("exc_info")
        broken = web.RequestPayloadError | HttpProcessingError | ConnectionError
        if self.transport is None or isinstance(error, broken):
            log.debug("a client broke off: %s", error)
        else:
            super().log_exception(*args, **kw)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or waits for it."""
        return self._current_request is not None or bool(self._messages)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has been begun already")
        response = error_response(_http_error(status, exc))
        response.force_close()
        return response


def _in_shape(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> Any:
    """The handler, with what aiohttp itself refuses (CONNECT, an unknown Expect) told in OpenAI's shape."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
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
    if 400 <= status < 500:
        return InvalidRequest("this is not a valid HTTP/1.1 request", status=status)
    log.error("a request failed outside of any handler", exc_info=error)
    return GatewayError("internal error; the gateway's log tells more")


class _Server(web.Server):
    """aiohttp's server, making `_Protocol` connections."""

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """An AppRunner with a `_Server`."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        # aiohttp offers no way to a connection class of one's own but making the server again with the same parts.
        return _Server(
            _in_shape(made.request_handler),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=asyncio.get_running_loop(),
            **made._kwargs,  # noqa: SLF001
        )


@contextlib.asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[str]:
    """Serve a gateway inside a running loop; gives its address, ``http://HOST:PORT`` or ``unix:PATH``.

    Raises:
        StartupError: the address cannot be listened on.
    """
    settings = gateway.settings.server
    async with gateway.lifespan():
        runner = _Runner(
            gateway.app(),
            handler_cancellation=True,  # a client that leaves ends its upstream call at once
            access_log=None,
            shutdown_timeout=0.01,  # `_drain` has waited already; to aiohttp, 0 means without end
            max_line_size=_HEADER_LIMIT,
            max_field_size=_HEADER_LIMIT,
            keepalive_timeout=75.0,
        )
        await runner.setup()
        try:
            sock = _listen(settings)
            try:
                await web.SockSite(runner, sock, backlog=1024).start()
                yield _address(settings, sock)
            finally:
                gateway.draining = True
                if settings.uds:
                    # Still listened on, so it is ours; later another server may have taken the path.
                    Path(settings.uds).unlink(missing_ok=True)  # noqa: ASYNC240  # one unlink, when all is over
                await _drain(runner, settings.shutdown_grace)
        finally:
            await runner.cleanup()


async def _drain(runner: web.AppRunner, grace: float) -> None:
    """Stop accepting, close idle connections, and wait for the busy ones."""
    for site in list(runner.sites):
        await site.stop()
    server = runner.server
    if server is None:
        return
    server.pre_shutdown()
    for connection in server.connections:
        if isinstance(connection, _Protocol) and not connection.busy:
            connection.force_close()
    loop = asyncio.get_running_loop()
    end = loop.time() + grace
    await asyncio.sleep(0)  # the connections just closed leave the list
    while server.connections and loop.time() < end:  # noqa: ASYNC110  # aiohttp has no event for this
        await asyncio.sleep(min(0.02, max(0.0, end - loop.time())))
    if server.connections:
        log.warning("%d requests did not end within %g s and are cancelled", len(server.connections), grace)


def _listen(settings: ServerSettings) -> socket.socket:
    return _listen_unix(settings.uds) if settings.uds else _listen_tcp(settings.host, settings.port)


def _listen_tcp(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartupError(f"[server] host: cannot listen on {host!r}: {error.strerror or error}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise StartupError(
            f"[server] port: cannot listen on {host}:{port}: {error.strerror or error}; "
            "is another server running there? Set another port, or GATEHOOK_SERVER__PORT"
        ) from None
    return sock


def _listen_unix(path: str) -> socket.socket:
    file = Path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if file.exists():
            _remove_stale(file)
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise StartupError(f"[server] uds: cannot listen on {path!r}: {error.strerror or error}") from None
    except StartupError:
        sock.close()
        raise
    return sock


def _remove_stale(file: Path) -> None:
    """Remove the socket that a killed server left; never one that is served, nor a file of another kind."""
    if not stat.S_ISSOCK(file.stat().st_mode):
        raise StartupError(f"[server] uds: {str(file)!r} exists and is not a socket; remove it or name another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(file))
        except OSError:
            file.unlink()
            return
    raise StartupError(f"[server] uds: another server is listening on {str(file)!r}")


def _address(settings: ServerSettings, sock: socket.socket) -> str:
    if settings.uds:
        return f"unix:{settings.uds}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(gateway: Gateway, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is told the address. A second signal ends at once.

    Raises:
        StartupError: the address cannot be listened on.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(gateway, ready))


async def _serve(gateway: Gateway, ready: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None  # noqa: S101
    stop = asyncio.Event()

    def signalled() -> None:
        if stop.is_set():
            main.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    try:
        async with running(gateway) as address:
            ready(address)
            # What start-up made lives as long as the process: keep the collector from walking it over and over.
            gc.collect()
            gc.freeze()
            await stop.wait()
            log.info("stopping: running requests have %g s", gateway.settings.server.shutdown_grace)
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        log.warning("stopped by a second signal: running requests were cut off")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: the standard loop serves, slower
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
