"""What OpenAI-compatible servers say when something is wrong, in any of the forms seen in the wild."""

from collections.abc import Mapping
from typing import Any

from gatehook import GatewayError, MalformedJSON, Target, Upstream, UpstreamError, decode, redact, upstream_error
from gatehook_plugins.vendor_openai.google import as_meant

__all__ = ["BROKEN_OFF", "MALFORMED", "bare", "broken_off", "from_answer", "from_body", "malformed"]

MALFORMED = "upstream_malformed"

BROKEN_OFF = frozenset({"error", "insufficient_system_resource"})
"""Finish reasons that are no end: Mistral's and OpenRouter's, and DeepSeek's."""

_STATUS_OF_CODE = {
    "authentication_error": 401,
    "billing_hard_limit_reached": 429,
    "billing_not_active": 429,
    "content_filter": 400,
    "content_policy_violation": 400,
    "context_length_exceeded": 400,
    "engine_overloaded": 503,
    "incorrect_api_key": 401,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "invalid_request_error": 400,
    "model_not_found": 404,
    "overloaded_error": 503,
    "permission_denied": 403,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "requests": 429,
    "service_unavailable": 503,
    "tokens": 429,
}
"""The HTTP status that an error stands for, by its code or type, if it came with a 200 or in a stream. "requests" and
"tokens" are OpenAI's types for limits of so many a minute."""
_KEY_WORDS = ("incorrect api key", "invalid api key", "api key not valid", "api key expired")
"""How the message begins where xAI, and Gemini's compatible server, call a wrong key a bad request."""


async def from_answer(target: Target, upstream: Upstream) -> GatewayError:
    """The error of an answer that is not a 200."""
    body = await upstream.read_error()
    status = upstream.status
    # A body that came with less than 400 is no error object, so nothing is read from it.
    error = _told(target, body) if status >= 400 else None
    message, code, param = _fields(error)
    made = upstream_error(
        target.vendor,
        _meant(status, message, code),
        message or f"answered {status}",
        code=code,
        param=param,
        retry_after=upstream.retry_after,
        secrets=target.secrets(),
    )
    return as_meant(error, made, upstream.retry_after)


def from_body(target: Target, error: Any) -> GatewayError:
    """The error for an error object that was found in a 200, or in a stream."""
    message, code, param = _fields(error)
    status = _status(error) if isinstance(error, Mapping) else None
    if status is None:
        kind = error.get("type") if isinstance(error, Mapping) else None
        told = (_STATUS_OF_CODE.get(word) for word in (code, kind) if isinstance(word, str))
        status = next(filter(None, told), 502)
    made = upstream_error(
        target.vendor,
        status,
        message or "an error without a message",
        code=code,
        param=param,
        secrets=target.secrets(),
    )
    return as_meant(error, made)


def malformed(target: Target, what: str) -> UpstreamError:
    """The vendor sent something that is not what its API promises."""
    return UpstreamError(f"{target.vendor}: {what}", code=MALFORMED)


def broken_off(target: Target, finish_reason: str) -> UpstreamError:
    """The model's answer was interrupted, of which only its finish reason tells."""
    return UpstreamError(f"{target.vendor}: the model broke off its answer; the finish_reason is {finish_reason!r}")


def bare(raw: bytes) -> Mapping[str, Any] | None:
    """The answer, if it is an error object without an "error" around it (vLLM's older form, FastAPI's), else None."""
    data = decode(raw)
    if not isinstance(data, dict):
        return None
    if data.get("object") == "error" or (data.get("object") is None and (data.get("message") or data.get("detail"))):
        return data
    return None


def _status(error: Mapping[str, Any]) -> int | None:
    """The HTTP status that an error object names as its code or status."""
    for number in (error.get("code"), error.get("status")):
        if isinstance(number, int) and not isinstance(number, bool) and 400 <= number <= 599:
            return number
        if isinstance(number, str) and len(number) == 3 and number.isdecimal() and 400 <= int(number) <= 599:
            return int(number)
    return None


def _meant(status: int, message: str, code: str | None) -> int:
    """The status that says whose fault it is: a client can mend neither the deployment's key, model nor limits."""
    if status == 413 and code == "rate_limit_exceeded":
        return 429  # Groq's, of more tokens than a minute has
    if status != 400:
        return status
    if message.lower().startswith(_KEY_WORDS):
        return 401
    return 404 if code == "model_not_found" else 400


def _told(target: Target, body: bytes) -> Any:
    """The error object of an answer, or a text in its place."""
    try:
        data = decode(body)
    except MalformedJSON:
        # HTML pages of proxies say nothing to a client; short plain text does. Redacted before it is cut: half a key
        # would not be recognised.
        text = redact(body.decode("utf-8", "replace").strip(), target.secrets())[:300]
        return "" if text.startswith("<") else text
    for _ in range(3):  # {"error": …}, [{"error": …}], {"errors": [{…}]}, or nothing around it
        if isinstance(data, list) and data:
            data = data[0]
        elif isinstance(data, Mapping):
            inner = data.get("error") or data.get("errors")
            if isinstance(inner, str):  # xAI has its code beside it
                return {**data, "message": inner}
            if not isinstance(inner, Mapping | list):
                break
            data = inner
    return data


def _fields(error: Any) -> tuple[str, str | None, str | None]:
    if isinstance(error, str):
        return error, None, None
    if not isinstance(error, Mapping):
        return "", None, None
    message = error.get("message") or error.get("detail") or error.get("msg") or ""
    metadata = error.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(cause := metadata.get("raw"), str) and cause:
        message = f"{message}: {cause}"  # of OpenRouter, whose own words are "Provider returned error"
    code = error.get("code") if isinstance(error.get("code"), str) else error.get("type")
    param = error.get("param")
    return (
        message if isinstance(message, str) else str(message),
        code if isinstance(code, str) else None,
        param if isinstance(param, str) else None,
    )
