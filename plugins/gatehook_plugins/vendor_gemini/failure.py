"""Gemini's errors: ``{"error": {"code", "message", "status", "details"}}``, after google.rpc.Status.

`details` holds google.rpc.ErrorInfo (`reason`), RetryInfo (`retryDelay`) and QuotaFailure (`violations[].quotaId`).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gatehook import (
    GatewayError,
    MalformedJSON,
    RateLimited,
    Retry,
    Target,
    UpstreamError,
    decode,
    redact,
    upstream_error,
)

__all__ = ["WireError", "failure", "in_band", "not_events"]

_HTTP: Final = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ABORTED": 409, "ALREADY_EXISTS": 409, "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499, "INTERNAL": 500, "UNKNOWN": 500, "DATA_LOSS": 500, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}  # fmt: skip
"""google.rpc.Code to HTTP, after google/rpc/code.proto."""

_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_KEY_WORDS = ("api key not valid", "api key expired", "api_key_invalid")


class WireError(Exception):
    """What the vendor sent has an unexpected shape; `named` makes it an error for the client."""

    def __init__(self, message: str, *, retry: Retry = Retry.SAME) -> None:
        super().__init__(message)
        self.retry = retry

    def because(self, why: str) -> "WireError":
        """The same, with what Google says of it."""
        return WireError(f"{self}: {why[:500]}", retry=self.retry) if why else self

    def named(self, target: Target) -> UpstreamError:
        """The error, naming the vendor."""
        return UpstreamError(f"{target.vendor}: {redact(str(self), target.secrets())}", retry=self.retry)


def failure(target: Target, status: int, body: bytes, retry_after: float | None = None) -> GatewayError:
    """The error behind an answer whose status is not 200."""
    try:
        error = error_in(decode(body))
    except MalformedJSON:
        error = None
    if error is None:
        return upstream_error(
            target.vendor, status, f"HTTP status {status}, with no error object", retry_after=retry_after
        )
    return in_band(target, error, status=status, retry_after=retry_after)


def not_events(target: Target, content_type: str, body: bytes) -> GatewayError:
    """The error behind a 200 to a streamed request that is no stream of events."""
    try:
        error = error_in(decode(body))
    except MalformedJSON:
        error = None
    if error is not None:
        return in_band(target, error)
    kind = re.sub(r"[^\w./+-]", "", content_type.partition(";")[0])[:80] or "no content type"
    return UpstreamError(f"{target.vendor}: expected a stream of events, got {kind}")


def error_in(value: Any) -> Mapping[str, Any] | None:
    """The error object in a body or event, None if it holds none. Without SSE, streams come as an array."""
    if isinstance(value, list):
        return next((error for one in value if (error := error_in(one)) is not None), None)
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        return error
    return {"message": str(error)} if error else None


def in_band(
    target: Target, error: Mapping[str, Any], *, status: int | None = None, retry_after: float | None = None
) -> GatewayError:
    """Turn an error object into ours.

    Args:
        target: the deployment that answered.
        error: the object under "error".
        status: the answer's HTTP status, None if the error came inside a 200.
        retry_after: seconds, from the header.
    """
    name = error.get("status")
    code = name if isinstance(name, str) else None
    if status is None:
        status = _status(error.get("code"), code)
    text = error.get("message")
    message = text if isinstance(text, str) else ""
    details = list(_details(error))
    delay = _retry_delay(details)
    retry_after = retry_after if delay is None else delay
    if status == 400 and (_reason(details) == "API_KEY_INVALID" or any(word in message.lower() for word in _KEY_WORDS)):
        status = 401  # Google calls a wrong key a bad request, but the key is the operator's, not the client's
    elif status == 400 and code == "FAILED_PRECONDITION":
        status = 403  # a country or a billing plan that may not call: again nothing a client can mend
    elif status == 429:
        return _quota(target, message, details, retry_after)
    return upstream_error(target.vendor, status, message, code=code, retry_after=retry_after, secrets=target.secrets())


def _quota(target: Target, message: str, details: list[Mapping[str, Any]], retry_after: float | None) -> GatewayError:
    # Google words every 429 "check your plan and billing details", so only the quota's own name tells a limit that
    # passes in a minute from one that lasts for the day.
    text = f"{target.vendor}: {redact(message.strip(), target.secrets())[:2000] or 'no message'}"
    if any("perday" in quota.lower() for quota in _quotas(details)):
        return UpstreamError(text, code="upstream_quota_exceeded", retry=Retry.NEXT, retry_after=retry_after)
    return RateLimited(text, retry_after=retry_after)


def _status(code: Any, name: str | None) -> int:
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return _HTTP.get(name or "", 500)


def _details(error: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    if isinstance(details, list):
        yield from (one for one in details if isinstance(one, dict))


def _reason(details: list[Mapping[str, Any]]) -> str:
    return next((reason for one in details if isinstance(reason := one.get("reason"), str)), "")


def _retry_delay(details: list[Mapping[str, Any]]) -> float | None:
    for one in details:
        delay = one.get("retryDelay")
        if isinstance(delay, str) and (match := _DELAY.fullmatch(delay)):
            return float(match[1])
    return None


def _quotas(details: list[Mapping[str, Any]]) -> Iterator[str]:
    for one in details:
        violations = one.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            if isinstance(violation, dict) and isinstance(quota := violation.get("quotaId"), str):
                yield quota
