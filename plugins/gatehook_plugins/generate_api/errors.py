"""Errors in this API's own shape, under the statuses that its clients know."""

import functools
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gatehook import GatewayError, ModelNotFound, Unavailable, encode

__all__ = ["error_body", "known_status", "with_known_status"]

_CODES: Final = {
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    429: "RATE_LIMIT_EXCEEDED",
    503: "MODEL_UNAVAILABLE",
}
_NOT_LOADED: Final = {"model_not_loaded", "model_load_failed", "model_too_large", "no_free_slot"}
"""Why a model of this machine is not in its memory: nobody loaded it, its file is damaged, or there is no room."""

_NOT_NOW: Final = {"model_disabled", "deployment_resting", "engine_busy", "engine_host_lost"}
"""Why a model that is there cannot answer, while the gateway is well."""


def known_status(error: GatewayError) -> int:
    """503 whenever a model cannot answer now, whoever is to blame; 400 for whatever else is wrong with a request."""
    if error.status in (502, 504):
        return 503
    return error.status if error.status in _CODES or error.status >= 500 else 400


def with_known_status(
    handler: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler of a route, whose errors have such a status, too."""

    @functools.wraps(handler)
    async def handle(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except GatewayError as error:
            error.status = known_status(error)
            raise

    return handle


def error_body(error: GatewayError) -> bytes:
    """``{"error": {"code", "message", "details": {"reason", "param", "retry_after"}}}``; the reason is finer."""
    details = {"reason": error.code or error.type, "param": error.param, "retry_after": error.retry_after}
    return encode({"error": {"code": _code(error), "message": error.message, "details": details}})


def _code(error: GatewayError) -> str:
    if error.code in _NOT_LOADED:
        return "MODEL_NOT_LOADED"
    if isinstance(error, ModelNotFound):
        return "MODEL_NOT_FOUND"
    if isinstance(error, Unavailable) and error.code not in _NOT_NOW:  # the gateway itself lacks something
        return "SERVICE_UNAVAILABLE"
    status = known_status(error)
    return _CODES.get(status) or ("INVALID_REQUEST" if status < 500 else "INTERNAL_ERROR")
