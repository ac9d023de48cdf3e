"""Cohere's errors: ``{"message": "words"}``, and finish reasons that are errors."""

from collections.abc import Mapping
from typing import Any

from gatehook import (
    GatewayError,
    MalformedJSON,
    Target,
    Upstream,
    UpstreamError,
    UpstreamTimeout,
    decode,
    redact,
    upstream_error,
)

__all__ = ["failure", "garbled", "in_band"]

_TOKEN_REFUSED = 498
"""Cohere's own status: the key is no longer valid."""


async def failure(upstream: Upstream, target: Target) -> GatewayError:
    """The error of an answer that is not what was asked for."""
    body = await upstream.read_error()
    try:
        data = decode(body)
    except MalformedJSON:
        data = None
    words = data.get("message") if isinstance(data, dict) else None
    if upstream.status == 200:
        return garbled("the answer is not what was asked for")
    return upstream_error(
        "cohere",
        401 if upstream.status == _TOKEN_REFUSED else upstream.status,
        words if isinstance(words, str) else f"status {upstream.status} without an error message",
        retry_after=upstream.retry_after,
        secrets=target.secrets(),
    )


def in_band(reason: str, told: Mapping[str, Any], target: Target) -> GatewayError:
    """An answer that ended in an error: its finish reason is ERROR or TIMEOUT."""
    words = told.get("error")
    text = (
        redact(words[:65536], target.secrets())[:2000] if isinstance(words, str) else f"the answer ended with {reason}"
    )
    return UpstreamTimeout(f"cohere: {text}") if reason == "TIMEOUT" else UpstreamError(f"cohere: {text}")


def garbled(what: str) -> UpstreamError:
    """The vendor sent something that its API does not."""
    return UpstreamError(f"cohere: {what}")
