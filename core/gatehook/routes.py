"""The aiohttp application of a gateway: all paths of its plugins, and answers for all others.

Inference calls go to the pipeline. A plugin's own route gets here what the pipeline does for calls: authentication,
errors in its own shape, and rate-limit headers.
"""

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web

from gatehook.calls.bodies import check_body, check_type, is_cut
from gatehook.calls.bodies import read_body as read_in_time
from gatehook.calls.pipeline import Pipeline
from gatehook.calls.stages import Concerns, authenticate
from gatehook.calls.standing import standing, standing_if_known, tells
from gatehook.errors import GatewayError, InvalidRequest, MethodNotAllowed, PermissionDenied, envelope, error_headers
from gatehook.failures import is_failure
from gatehook.ids import next_id
from gatehook.jsonio import encode
from gatehook.model import Call, Principal
from gatehook.protocols import Authenticator, Endpoint, ErrorWriter, OwnHeaders, Route

__all__ = ["PRINCIPAL", "application", "error_response", "limit_headers", "read_body"]

log = logging.getLogger("gatehook")

PRINCIPAL = web.RequestKey("PRINCIPAL", Principal)
"""Who calls a plugin's own route: ``request[PRINCIPAL]``."""

_CONCERNS = web.AppKey("_CONCERNS", Concerns)

_JSON = {"Content-Type": "application/json"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def read_body(request: web.Request) -> bytes:
    """The body of a request to a plugin's own route, at least one byte; whether it is JSON has not been checked yet.

    Raises:
        UnsupportedMediaType, BodyTooLarge, RequestTimeout: see `server.max_body` and `server.read_timeout`.
        InvalidRequest: there is none, the line was cut, or it is nested absurdly deep.
    """
    concerns = request.app[_CONCERNS]
    check_type(request)
    body = await read_in_time(request, concerns)
    check_body(body, concerns)
    return body


async def limit_headers(request: web.Request) -> dict[str, str]:
    """The rate-limit headers for the caller of a plugin's own route; {} for a caller without limits.

    Only a handler that begins its answer itself needs them: the gateway adds them to all others.
    """
    principal, telling = request.get(PRINCIPAL), request.app[_CONCERNS].telling
    return await standing(telling, principal) if telling and principal is not None else {}


async def _limit_headers_if_known(request: web.Request) -> dict[str, str]:
    """The same where no credential is needed: at an open path, or at one that does not exist."""
    return await standing_if_known(request.app[_CONCERNS], request)


def application(pipeline: Pipeline, routes: Sequence[Route | Endpoint], otherwise: Handler) -> web.Application:
    """The aiohttp application with these routes; `otherwise` answers at all other paths."""
    app = web.Application(client_max_size=pipeline.concerns.max_body)
    app[_CONCERNS] = pipeline.concerns
    methods: dict[str, set[str]] = {}
    first: dict[str, Route | Endpoint] = {}
    for route in routes:
        app.router.add_route(route.method, route.path, _handler(pipeline, route))
        methods.setdefault(route.path, set()).add(route.method.upper())
        first.setdefault(route.path, route)
    for route in routes:  # monitors often ask with HEAD
        if route.method.upper() == "GET" and "HEAD" not in methods[route.path]:
            app.router.add_route("HEAD", route.path, _handler(pipeline, route))
            methods[route.path].add("HEAD")
    for path, allowed in methods.items():
        if "*" not in allowed:
            app.router.add_route("*", path, _not_allowed(sorted(allowed), first[path]))
    app.router.add_route("*", "/{path:.*}", _handler(pipeline, Route("*", "/{path:.*}", otherwise, auth=False)))
    return app


def _handler(pipeline: Pipeline, route: Route | Endpoint) -> Handler:
    if isinstance(route, Endpoint):
        return functools.partial(pipeline.serve, route)
    return _guarded(route, pipeline.concerns.authenticators)


def _guarded(route: Route, authenticators: Sequence[Authenticator]) -> Handler:
    """The handler of a plugin's own route, with authentication, errors and rate-limit headers."""
    limits = limit_headers if route.auth else _limit_headers_if_known

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            if route.auth:
                await _let_in(request, route, authenticators)
            response = await route.handler(request)
            if not response.prepared:
                response.headers.setdefault("Server", "gatehook")
                response.headers.setdefault("X-Request-ID", next_id())
                if route.auth and not tells(response.headers):
                    response.headers.update(await limit_headers(request))
            return response
        except GatewayError as error:
            _require_unbegun(request, error)
            return error_response(error, _writer(route, request), await limits(request))
        except web.HTTPException as error:
            if error.status < 400:  # a redirect is an answer
                raise
            _require_unbegun(request, error)
            kind = InvalidRequest if error.status < 500 else GatewayError
            told = kind(error.reason, status=error.status)
            return error_response(told, _writer(route, request), await limits(request))
        except BaseException as error:
            if not is_failure(error) or is_cut(request, error):
                raise
            request_id = next_id()
            log.exception("%s: %s %s failed", request_id, request.method, request.path)
            _require_unbegun(request, error)
            fault = GatewayError("internal error; the gateway's log tells more")
            return error_response(fault, _writer(route, request), await limits(request), request_id)

    return handle


async def _let_in(request: web.Request, route: Route, authenticators: Sequence[Authenticator]) -> None:
    """Set `request[PRINCIPAL]`.

    Raises:
        AuthenticationFailed: there is no valid credential.
        PermissionDenied: the route is for admins, and the credential is not an admin's.
    """
    who = authenticate(authenticators, request)
    principal = request[PRINCIPAL] = who if isinstance(who, Principal) else await who
    if route.auth == "admin" and not principal.admin:
        raise PermissionDenied("this needs an admin credential", code="admin_required")


def _require_unbegun(request: web.Request, error: BaseException) -> None:
    """Refuse to write an error into the middle of an answer, where it would be read as a part of that.

    Raises:
        ConnectionError: the answer has begun; aiohttp then cuts the connection.
    """
    if request.writer.output_size > 0:
        log.warning("%s %s is broken off: %s", request.method, request.path, error)
        raise ConnectionError("an answer has been begun already") from error


def _writer(route: Route | Endpoint, request: web.Request) -> ErrorWriter | None:
    """What writes the errors of this path that occur before there is a call; None is OpenAI's shape."""
    if isinstance(route, Route):
        return route.errors if route.errors_for is None else route.errors_for(request)
    return functools.partial(_told_by_surface, route)


def _told_by_surface(route: Endpoint, error: GatewayError) -> web.Response:
    """An error at the path of inference calls, in the surface's shape, and with its headers; the status is HTTP's."""
    surface = route.surface
    call = Call(route.operation, surface.name, {}, id=error.request_id)
    headers = surface.error_headers(call) if isinstance(surface, OwnHeaders) else {}
    return web.Response(status=error.status, body=surface.error(call, error), headers={**_JSON, **headers})


def error_response(
    error: GatewayError,
    written: ErrorWriter | None = None,
    headers: Mapping[str, str] | None = None,
    request_id: str = "",
) -> web.Response:
    """An error as a response, written by `written`, or in OpenAI's shape, as at every path that no surface owns."""
    error.request_id = request_id or next_id()
    told = encode(envelope(error)) if written is None else written(error)
    if not isinstance(told, web.Response):
        told = web.Response(status=error.status, body=told, headers=_JSON)
    own = {"Server": "gatehook", "X-Request-ID": error.request_id}
    told.headers.update({**own, **error_headers(error), **(headers or {})})
    return told


def _not_allowed(methods: Sequence[str], route: Route | Endpoint) -> Handler:
    allowed = ", ".join(methods)

    async def handle(request: web.Request) -> web.StreamResponse:
        error = MethodNotAllowed(f"{request.method} is not allowed at {request.path}; use {allowed}")
        headers = {"Allow": allowed, **await _limit_headers_if_known(request)}
        return error_response(error, _writer(route, request), headers)

    return handle
