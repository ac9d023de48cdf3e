"""Errors as Anthropic's clients know them: ``{"type": "error", "error": {"type", "message"}, "request_id"}``."""

from typing import Final

from aiohttp import web

from gatehook import GatewayError, encode

__all__ = ["error_answer", "error_body", "known_status"]

_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_OVERLOADED: Final = 529


def known_status(error: GatewayError) -> int:
    """The status of an error answer: what others call unavailable is an overloaded server here."""
    return _OVERLOADED if error.status == 503 else error.status


def error_answer(error: GatewayError) -> web.Response:
    """The answer where there was no call."""
    headers = {"Content-Type": "application/json", "request-id": error.request_id}
    return web.Response(status=known_status(error), body=error_body(error), headers=headers)


def error_body(error: GatewayError, request_id: str = "") -> bytes:
    """The error object; its type goes by the status. `request_id` is the call's, "" if there was no call."""
    other = "invalid_request_error" if error.status < 500 else "api_error"
    told = {"type": _TYPES.get(error.status, other), "message": error.message}
    return encode({"type": "error", "error": told, "request_id": request_id or error.request_id})
