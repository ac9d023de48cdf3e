"""What callers are told of their limits: headers, and the reasons of a refusal."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import ceil
from typing import Final

from gatehook import RateLimited, Retry
from gatehook_plugins.rate_limit.rules import Rule, Unit
from gatehook_plugins.rate_limit.store import NEVER, SECOND, Decision

__all__ = ["Headers", "duration", "refusal"]

_FAMILIES: Final[tuple[Unit, ...]] = ("requests", "tokens", "concurrent")
"""What limits are told by: `X-RateLimit-*` are of the first one that there is a limit of."""
_NONE: Final = -1

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


class Headers:
    """Writes the headers of a few limits, always the same ones: what never changes of them is written beforehand."""

    __slots__ = ("_families", "_limits", "_main", "_only")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._limits = [_Written(rule.most) for rule in rules]
        self._families = [[place for place, rule in enumerate(rules) if rule.unit == unit] for unit in _FAMILIES]
        """The places of each family's limits."""
        self._main = next((number for number, places in enumerate(self._families) if places), 0)
        self._only = [places[0] if places else _NONE for places in self._families]
        """The place of each family's only limit; empty if one has several."""
        if any(len(places) > 1 for places in self._families):
            self._only = []

    def of(self, decision: Decision, now: float) -> str:
        """The lines of the `X-RateLimit-*` headers of the tightest limits, then of OpenAI's of requests and of tokens.

        Args:
            decision: by all limits; without any there are no headers.
            now: seconds since the epoch.
        """
        left, resets, limits = decision.left, decision.resets, self._limits
        if not left:
            return ""
        places = self._only or [_tightest(places, decision) for places in self._families]
        requests, tokens, _ = places
        main = places[self._main]
        reset = resets[main]
        lasts = duration(reset)
        lines = f"{limits[main].main}{left[main]}\r\nX-RateLimit-Reset: {ceil(now + reset / SECOND)}\r\n"
        if requests != _NONE:
            lines += f"{limits[requests].requests}{left[requests]}\r\nx-ratelimit-reset-requests: {lasts}\r\n"
        if tokens != _NONE:
            if resets[tokens] != reset:
                lasts = duration(resets[tokens])
            lines += f"{limits[tokens].tokens}{left[tokens]}\r\nx-ratelimit-reset-tokens: {lasts}\r\n"
        return lines


class _Written:
    """The headers of one limit up to what is left of it, whichever of them it is told by."""

    __slots__ = ("main", "requests", "tokens")

    def __init__(self, most: int) -> None:
        self.main = f"X-RateLimit-Limit: {most}\r\nX-RateLimit-Remaining: "
        self.requests = f"x-ratelimit-limit-requests: {most}\r\nx-ratelimit-remaining-requests: "
        self.tokens = f"x-ratelimit-limit-tokens: {most}\r\nx-ratelimit-remaining-tokens: "


def _tightest(places: Sequence[int], decision: Decision) -> int:
    """The one with the least left; of the same, the one that stays so longest."""
    return min(places, key=lambda place: (decision.left[place], -decision.resets[place]), default=_NONE)


def duration(microseconds: int) -> str:
    """As OpenAI writes it: "120ms", "1s", "6m0s"."""
    return _duration(-(-microseconds // 1000))


@lru_cache(maxsize=4096)  # of which a limit that is asked all the time needs the thousand between 60 and 61 seconds
def _duration(milliseconds: int) -> str:
    seconds, fraction = divmod(milliseconds, 1000)
    if not seconds and fraction:
        return f"{fraction}ms"
    minutes = f"{seconds // 60}m" if seconds >= 60 else ""
    return f"{minutes}{seconds % 60}" + f".{fraction:03}".rstrip(".0") + "s"


def refusal(rules: Sequence[Rule], decision: Decision, tokens: int, retry: Retry | None = None) -> RateLimited:
    """The error for a request that a limit refused; of several, the one to wait for longest.

    Args:
        rules: that decided.
        decision: not admitted.
        tokens: what the request was expected to use.
        retry: what failover may do; None where it has no part yet.
    """
    waits = decision.waits
    place = max(range(len(waits)), key=lambda one: float("inf") if waits[one] == NEVER else waits[one])
    rule, wait = rules[place], waits[place]
    scope = _SCOPES[rule.scope].format(rule.owner)
    limit = f"{rule.most} {_UNITS[rule.unit].format('' if rule.most == 1 else 's')}"
    if wait == NEVER and rule.most > 0:
        return RateLimited(
            f"this request may use about {tokens} tokens, and {scope} has {limit}, so it can never pass; "
            "send less, or ask for a shorter answer with max_tokens",
            code="request_too_large_for_limit",
            retry=retry,
        )
    reached = f"rate limit reached for {scope}: {limit}"
    if wait == NEVER:
        return RateLimited(f"{reached}; nothing is allowed", retry=retry)
    advice = _advice(rule, decision.left[place], wait, tokens)
    return RateLimited(f"{reached}; {advice}", retry=retry, retry_after=wait / SECOND)


def _advice(rule: Rule, left: int, wait: int, tokens: int) -> str:
    if rule.unit == "concurrent":
        return "try again when a running one has ended"
    again = f"try again in {-(-wait // SECOND)} s"
    return f"{left} are left, this request may use about {tokens}; {again}" if rule.unit == "tokens" else again
