"""What callers are told of their limits: headers, and the reasons of a refusal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from gatehook import RateLimited, Retry
from gatehook_plugins.rate_limit.rules import Rule, Unit
from gatehook_plugins.rate_limit.store import NEVER, SECOND, Reading

__all__ = ["duration", "headers", "refusal"]

_SCOPES: Final[Mapping[str, str]] = {
    "key": "this key",
    "user": "this user",
    "model": "the model {!r}",
    "deployment": "the deployment {!r}",
}
_UNITS: Final[Mapping[str, str]] = {
    "requests": "request{} per minute",
    "tokens": "token{} per minute",
    "concurrent": "request{} at the same time",
}


def headers(readings: Sequence[Reading], now: float) -> dict[str, str]:
    """The `X-RateLimit-*` headers of the tightest limits, then OpenAI's of requests and of tokens.

    Args:
        readings: of all limits; without any there are no headers.
        now: seconds since the epoch.
    """
    tightest: dict[Unit, Reading] = {}
    for reading in readings:
        unit = reading.rule.unit
        known = tightest.get(unit)
        # The one with the least left; of several, the one that stays so longest.
        if known is None or (reading.left, -reading.reset) < (known.left, -known.reset):
            tightest[unit] = reading
    requests, tokens = tightest.get("requests"), tightest.get("tokens")
    said: dict[str, str] = {}
    if main := requests or tokens or tightest.get("concurrent"):
        said["X-RateLimit-Limit"] = str(main.rule.most)
        said["X-RateLimit-Remaining"] = str(main.left)
        said["X-RateLimit-Reset"] = str(_ceil(int(now * SECOND) + main.reset, SECOND))
    if requests:
        said["x-ratelimit-limit-requests"] = str(requests.rule.most)
        said["x-ratelimit-remaining-requests"] = str(requests.left)
        said["x-ratelimit-reset-requests"] = duration(requests.reset)
    if tokens:
        said["x-ratelimit-limit-tokens"] = str(tokens.rule.most)
        said["x-ratelimit-remaining-tokens"] = str(tokens.left)
        said["x-ratelimit-reset-tokens"] = duration(tokens.reset)
    return said


def duration(microseconds: int) -> str:
    """As OpenAI writes it: "120ms", "1s", "6m0s"."""
    milliseconds = -(-microseconds // 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g}s"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes}m{milliseconds / 1000:g}s"


def refusal(readings: Iterable[Reading], tokens: int, retry: Retry | None = None) -> RateLimited:
    """The error for a request that a limit refused; of several, the one to wait for longest.

    Args:
        readings: of all limits.
        tokens: what the request was expected to use.
        retry: what failover may do; None where it has no part yet.
    """
    refused = [reading for reading in readings if reading.wait]
    reading = max(refused, key=lambda one: float("inf") if one.wait == NEVER else one.wait)
    rule, scope = reading.rule, _SCOPES[reading.rule.scope].format(reading.rule.owner)
    limit = f"{rule.most} {_UNITS[rule.unit].format('' if rule.most == 1 else 's')}"
    if reading.wait == NEVER and rule.most > 0:
        return RateLimited(
            f"this request may use about {tokens} tokens, and {scope} has {limit}, so it can never pass; "
            "send less, or ask for a shorter answer with max_tokens",
            code="request_too_large_for_limit",
            retry=retry,
        )
    reached = f"rate limit reached for {scope}: {limit}"
    if reading.wait == NEVER:
        return RateLimited(f"{reached}; nothing is allowed", retry=retry)
    return RateLimited(f"{reached}; {_advice(rule, reading, tokens)}", retry=retry, retry_after=reading.wait / SECOND)


def _advice(rule: Rule, reading: Reading, tokens: int) -> str:
    if rule.unit == "concurrent":
        return "try again when a running one has ended"
    again = f"try again in {_ceil(reading.wait, SECOND)} s"
    return f"{reading.left} are left, this request may use about {tokens}; {again}" if rule.unit == "tokens" else again


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)
