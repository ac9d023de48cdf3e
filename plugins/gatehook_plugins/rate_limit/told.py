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
    requests, tokens = _tightest(readings, "requests"), _tightest(readings, "tokens")
    said: dict[str, str] = {}
    if main := requests or tokens or _tightest(readings, "concurrent"):
        said["X-RateLimit-Limit"] = str(main.rule.most)
        said["X-RateLimit-Remaining"] = str(main.left)
        said["X-RateLimit-Reset"] = str(_ceil(int(now * SECOND) + main.reset, SECOND))
    for unit, reading in (("requests", requests), ("tokens", tokens)):
        if reading:
            said[f"x-ratelimit-limit-{unit}"] = str(reading.rule.most)
            said[f"x-ratelimit-remaining-{unit}"] = str(reading.left)
            said[f"x-ratelimit-reset-{unit}"] = duration(reading.reset)
    return said


def duration(microseconds: int) -> str:
    """As OpenAI writes it: "120ms", "1s", "6m0s"."""
    milliseconds = _ceil(microseconds, 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    seconds = f"{milliseconds / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds


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


def _tightest(readings: Iterable[Reading], unit: Unit) -> Reading | None:
    """The one of this unit with the least left; of several, the one that stays so longest."""
    of_unit = (reading for reading in readings if reading.rule.unit == unit)
    return min(of_unit, key=lambda one: (one.left, -one.reset), default=None)


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)
