"""Ollama's errors: ``{"error": "words"}``, as the body of an answer or as a line of a stream."""

from collections.abc import Mapping
from typing import Any

from gatehook import GatewayError, MalformedJSON, Target, Upstream, decode, upstream_error

__all__ = ["failure", "in_band"]


async def failure(upstream: Upstream, target: Target) -> GatewayError:
    """The error of an answer whose status is not 200."""
    body = await upstream.read_error()
    try:
        data = decode(body)
    except MalformedJSON:
        data = None
    words = _words(data) if isinstance(data, dict) else ""
    if upstream.status == 404 and "not found" in words:
        words += f" (try: gatehook ollama pull {target.model})"
    words = words or f"status {upstream.status} without an error message"
    return upstream_error("ollama", upstream.status, words, retry_after=upstream.retry_after, secrets=target.secrets())


def in_band(target: Target, data: Mapping[str, Any]) -> GatewayError:
    """An error that came with a status 200."""
    status = data.get("status")
    if not isinstance(status, int) or not 400 <= status < 600:
        status = 500
    return upstream_error("ollama", status, _words(data), secrets=target.secrets())


def _words(data: Mapping[str, Any]) -> str:
    error = data.get("error")
    if isinstance(error, dict):  # a proxy that speaks OpenAI's
        error = error.get("message")
    return error if isinstance(error, str) else ""
