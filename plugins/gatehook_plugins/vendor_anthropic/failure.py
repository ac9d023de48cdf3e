"""Anthropic's errors: ``{"type": "error", "error": {"type", "message"}}``, as an answer's body or in a stream.

Source: the error types of the Messages API reference, `anthropic.types.shared.ErrorType` in Anthropic's SDK.
"""

from typing import Any

from gatehook import GatewayError, MalformedJSON, Target, Upstream, UpstreamError, decode, upstream_error

__all__ = ["NAME", "failure", "garbled", "in_band"]

NAME = "anthropic"

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status that an error in the middle of a stream stands for."""
_DISABLED = "This organization has been disabled"
"""How the message begins where Anthropic calls a key whose account is closed a bad request."""


def garbled(what: str) -> UpstreamError:
    """The vendor sent something that its API does not."""
    return UpstreamError(f"{NAME}: {what}")


def in_band(data: dict[str, Any], target: Target) -> GatewayError:
    """An error that came with a status 200: alone, or as an event of a stream."""
    kind, message = _words(data)
    return _error(_STATUS.get(kind, 500), kind, message, target, None)


def failure(upstream: Upstream, body: bytes, target: Target) -> GatewayError:
    """The error of an answer that is not the message, or the stream, that was asked for."""
    try:
        data = decode(body)
    except MalformedJSON:
        data = None
    status = upstream.status
    if isinstance(data, dict) and "error" in data:
        if status == 200:
            return in_band(data, target)
        kind, message = _words(data)
        return _error(status, kind, message, target, upstream.retry_after)
    if status == 200:
        return garbled("the answer is not what was asked for" if isinstance(data, dict) else "the answer is not JSON")
    message = f"status {status} without an error message"
    return upstream_error(NAME, status, message, retry_after=upstream.retry_after, secrets=target.secrets())


def _words(data: dict[str, Any]) -> tuple[str, str]:
    error = data.get("error")
    if not isinstance(error, dict):
        return "", error if isinstance(error, str) else ""
    kind, message = error.get("type"), error.get("message")
    return kind if isinstance(kind, str) else "", message if isinstance(message, str) else ""


def _error(status: int, kind: str, message: str, target: Target, retry_after: float | None) -> GatewayError:
    # "input length and `max_tokens` exceed context limit": the same fault as a prompt that is too long.
    code = "context_length_exceeded" if "exceed context limit" in message else kind or None
    if status == 400 and message.startswith(_DISABLED):
        status = 403
    return upstream_error(NAME, status, message, code=code, retry_after=retry_after, secrets=target.secrets())
