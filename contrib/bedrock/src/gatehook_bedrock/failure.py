"""Bedrock's errors: an exception's name, in a header of the answer or of an event, and ``{"message": "words"}``."""

from collections.abc import Mapping
from typing import Final

from gatehook import GatewayError, MalformedJSON, Target, Upstream, UpstreamError, decode, upstream_error

__all__ = ["exception", "failure", "garbled", "is_stale", "told"]

_STATUS: Final[Mapping[str, int]] = {
    "accessdenied": 403,
    "expiredtoken": 403,
    "incompletesignature": 403,
    "internalserver": 500,
    "invalidsignature": 403,
    "modelerror": 500,
    "modelnotready": 503,
    "modelstreamerror": 500,
    "modeltimeout": 504,
    "resourcenotfound": 404,
    "servicequotaexceeded": 402,
    "serviceunavailable": 503,
    "signaturedoesnotmatch": 403,
    "throttling": 429,
    "unrecognizedclient": 403,
    "validation": 400,
}
"""The status of each exception. AWS's own statuses blame the client for much that it cannot help."""

_NO_MODEL: Final = ("model identifier is invalid", "on-demand throughput isn")
"""In a validation's words: it is the deployment's model that is wrong, which no client can mend."""

_LONGEST_NAME: Final = 100
_UNSIGNED: Final = frozenset({"incompletesignature", "invalidsignature", "signaturedoesnotmatch"})
"""Their messages repeat the request's headers, and so AWS's session token, which is no secret of the deployment that
could be redacted. They are never passed on."""


def is_stale(upstream: Upstream) -> bool:
    """Whether AWS refuses credentials that it has taken before, or does not know any more."""
    kind = upstream.headers.get("x-amzn-ErrorType", "")
    return "ExpiredToken" in kind or "UnrecognizedClient" in kind


async def failure(upstream: Upstream, target: Target) -> GatewayError:
    """The error of an answer whose status is not 200."""
    body = await upstream.read_error()
    kind = upstream.headers.get("x-amzn-ErrorType", "")
    return exception(kind, body, target, upstream.status, upstream.retry_after)


def exception(
    kind: str, body: bytes, target: Target, status: int = 500, retry_after: float | None = None
) -> GatewayError:
    """The error for an exception, such as `ThrottlingException` or, in a stream, `throttlingException`.

    Args:
        kind: its name; "" if the answer names none.
        body: ``{"message": …}``.
        target: the deployment, whose secrets are redacted.
        status: the HTTP status, for exceptions that `_STATUS` does not know.
        retry_after: seconds.
    """
    try:
        data = decode(body)
    except MalformedJSON:
        data = None
    words = (data.get("message") or data.get("Message")) if isinstance(data, dict) else None
    return told(kind, words if isinstance(words, str) else "", target, status, retry_after)


def told(kind: str, words: str, target: Target, status: int = 500, retry_after: float | None = None) -> GatewayError:
    """The same with its message taken out; "" if there is none."""
    name = kind.partition(":")[0].rpartition("#")[2][:_LONGEST_NAME]
    known = name.lower().removesuffix("exception")
    status = _STATUS.get(known, 500 if status in (200, 424) else status)
    if status == 400 and any(sign in words for sign in _NO_MODEL):
        status = 404
    if known in _UNSIGNED:
        words = "the request's signature is not accepted; are the credentials right, and this machine's clock?"
    return upstream_error(
        "bedrock",
        status,
        words or f"{name or f'status {status}'} without a message",
        code=name or None,
        retry_after=retry_after,
        secrets=target.secrets(),
    )


def garbled(what: str) -> UpstreamError:
    """The vendor sent something that its API does not."""
    return UpstreamError(f"bedrock: {what}")
