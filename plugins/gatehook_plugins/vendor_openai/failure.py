"""What OpenAI-compatible servers say when something is wrong, in any of the forms seen in the wild."""

from collections.abc import Mapping
from typing import Any

from gatehook import GatewayError, MalformedJSON, Target, Upstream, UpstreamError, decode, upstream_error

__all__ = ["from_answer", "from_body", "malformed"]


async def from_answer(target: Target, upstream: Upstream) -> GatewayError:
    """The error of an answer that is not a 200."""
    body = await upstream.read()
    status = upstream.status
    message, code, param = _told(body)
    if 300 <= status < 400:
        return UpstreamError(f"{target.vendor}: answered {status}, a redirect; base_url must name the final address")
    return upstream_error(
        target.vendor,
        status,
        message or f"answered {status}",
        code=code,
        param=param,
        retry_after=upstream.retry_after,
        secrets=[target.secret()],
    )


def from_body(target: Target, error: Any) -> GatewayError:
    """The error object found in an answer that pretended to be a 200, or in a stream."""
    message, code, param = _fields(error)
    status = 502
    number = error.get("code", error.get("status")) if isinstance(error, Mapping) else None
    if isinstance(number, int | str) and str(number).isdigit() and 400 <= int(number) <= 599:
        status = int(number)
    elif code in ("rate_limit_exceeded", "rate_limit_error"):
        status = 429
    elif code in ("context_length_exceeded", "invalid_request_error", "content_filter"):
        status = 400
    return upstream_error(
        target.vendor,
        status,
        message or "an error without a message",
        code=code,
        param=param,
        secrets=[target.secret()],
    )


def malformed(target: Target, what: str) -> UpstreamError:
    """The vendor sent something that is not what its API promises."""
    return UpstreamError(f"{target.vendor}: {what}", code="upstream_malformed")


def _told(body: bytes) -> tuple[str, str | None, str | None]:
    try:
        data = decode(body)
    except MalformedJSON:
        # HTML pages of proxies say nothing to a client; short plain text does.
        text = body[:300].decode("utf-8", "replace").strip()
        return ("" if text.startswith("<") else text), None, None
    if isinstance(data, list) and data:
        data = data[0]
    return _fields(data.get("error", data) if isinstance(data, Mapping) else data)


def _fields(error: Any) -> tuple[str, str | None, str | None]:
    if isinstance(error, str):
        return error, None, None
    if not isinstance(error, Mapping):
        return "", None, None
    message = error.get("message") or error.get("detail") or error.get("msg") or ""
    code = error.get("code") if isinstance(error.get("code"), str) else error.get("type")
    param = error.get("param")
    return (
        message if isinstance(message, str) else str(message),
        code if isinstance(code, str) else None,
        param if isinstance(param, str) else None,
    )
