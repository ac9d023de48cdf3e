"""What callers are told of their limits: headers, and the reasons of a refusal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from multidict import istr

from gatehook import RateLimited, Retry
from gatehook_plugins.rate_limit.rules import Rule
from gatehook_plugins.rate_limit.store import NEVER, SECOND, Reading

__all__ = ["duration", "headers", "refusal"]

# Ready for a dictionary that minds no case, so that no answer makes them so once more.
_LIMIT: Final = istr("X-RateLimit-Limit")
_REMAINING: Final = istr("X-RateLimit-Remaining")
_RESET: Final = istr("X-RateLimit-Reset")
_REQUESTS: Final = istr("x-ratelimit-limit-requests")
_REQUESTS_LEFT: Final = istr("x-ratelimit-remaining-requests")
_REQUESTS_RESET: Final = istr("x-ratelimit-reset-requests")
_TOKENS: Final = istr("x-ratelimit-limit-tokens")
_TOKENS_LEFT: Final = istr("x-ratelimit-remaining-tokens")
_TOKENS_RESET: Final = istr("x-ratelimit-reset-tokens")

_FRACTIONS: Final = ("", *(f".{milliseconds:03}".rstrip("0") for milliseconds in range(1, 1000)))
"""Of seconds, by milliseconds, as they are written."""

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
    requests: Reading | None = None
    tokens: Reading | None = None
    running: Reading | None = None
    for reading in readings:
        unit = reading.rule.unit
        if unit == "requests":
            requests = reading if requests is None else _tighter(requests, reading)
        elif unit == "tokens":
            tokens = reading if tokens is None else _tighter(tokens, reading)
        else:
            running = reading if running is None else _tighter(running, reading)
    main = requests or tokens or running
    if main is None:
        return {}
    limit, left = main.rule.shown, str(main.left)
    said: dict[str, str] = {
        _LIMIT: limit,
        _REMAINING: left,
        _RESET: str(-(-(int(now * SECOND) + main.reset) // SECOND)),
    }
    reset = duration(main.reset)
    if requests is not None:
        said[_REQUESTS] = limit
        said[_REQUESTS_LEFT] = left
        said[_REQUESTS_RESET] = reset
    if tokens is not None:
        said[_TOKENS] = tokens.rule.shown
        said[_TOKENS_LEFT] = str(tokens.left)
        said[_TOKENS_RESET] = reset if tokens.reset == main.reset else duration(tokens.reset)  # mostly the same
    return said


def _tighter(one: Reading, other: Reading) -> Reading:
    """The one with the least left; of the same, the one that stays so longest."""
    return other if (other.left, -other.reset) < (one.left, -one.reset) else one


def duration(microseconds: int) -> str:
    """As OpenAI writes it: "120ms", "1s", "6m0s"."""
    seconds, milliseconds = divmod(-(-microseconds // 1000), 1000)
    if seconds >= 60:
        return f"{seconds // 60}m{seconds % 60}{_FRACTIONS[milliseconds]}s"
    return f"{seconds}{_FRACTIONS[milliseconds]}s" if seconds or not milliseconds else f"{milliseconds}ms"


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
