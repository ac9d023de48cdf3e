"""Limits as Gemini's compatible server tells them: an error object after google.rpc.Status, with `details`.

`details` holds google.rpc.RetryInfo (`retryDelay`) and QuotaFailure (`violations[].quotaId`).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gatehook import GatewayError, RateLimited, Retry, UpstreamError

__all__ = ["as_meant"]

_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


def as_meant(error: Any, made: GatewayError, retry_after: float | None = None) -> GatewayError:
    """What a limit of Google's is by its details. Of anything else: `made`, which was read from the object's words.

    Google words every limit "check your plan and billing details", so only the quota's own name tells one that passes
    in a minute from one that lasts for the day.

    Args:
        error: the object.
        made: the error for it.
        retry_after: seconds, from the header.
    """
    if not isinstance(error, Mapping) or error.get("status") != "RESOURCE_EXHAUSTED":
        return made
    told = error.get("details")
    details = [one for one in told if isinstance(one, Mapping)] if isinstance(told, list) else []
    wait = next(_delays(details), retry_after)
    if any("perday" in name.lower() for name in _quotas(details)):
        return UpstreamError(made.message, code="upstream_quota_exceeded", retry=Retry.NEXT, retry_after=wait)
    return RateLimited(made.message, retry_after=wait)


def _delays(details: list[Mapping[str, Any]]) -> Iterator[float]:
    for one in details:
        delay = one.get("retryDelay")
        if isinstance(delay, str) and (match := _DELAY.fullmatch(delay)):
            yield float(match[1])


def _quotas(details: list[Mapping[str, Any]]) -> Iterator[str]:
    for one in details:
        violations = one.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            if isinstance(violation, Mapping) and isinstance(name := violation.get("quotaId"), str):
                yield name
