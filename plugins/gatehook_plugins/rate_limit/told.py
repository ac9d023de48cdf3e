"""What callers are told of their limits: headers, and the reasons of a refusal."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import ceil
from typing import Final, TypeAlias

from gatehook import ConcurrencyLimited, RateLimited, Retry
from gatehook_plugins.rate_limit.rules import Rule, Unit
from gatehook_plugins.rate_limit.store import NEVER, SECOND, Decision

__all__ = ["Headers", "Told", "duration", "headers", "lasting", "refusal"]

_FAMILIES: Final[tuple[Unit, ...]] = ("requests", "tokens", "concurrent")
"""What limits are told by: `X-RateLimit-*` are of the first one that there is a limit of."""
_CONCURRENT: Final = 2
_NONE: Final = -1
_FIGURES: Final = 5
"""The figures in a form with both requests and tokens: what is left (three), and when all is free again (two)."""
_RESET: Final = "X-RateLimit-Reset: %s\r\n"

Form: TypeAlias = tuple[str, int, int]
"""A text with gaps for figures, and the places of the two limits whose figures they are: the main one, and tokens'."""
Told: TypeAlias = tuple[Callable[[int, int, str], str], int, int]
"""A function that writes the text, of what is left of both and the time until all is free again; and the places."""

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
    """Writes the headers of a few limits, always the same ones; what never changes in them is written beforehand."""

    __slots__ = ("_families", "_main", "_most", "_only")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._most = [rule.most for rule in rules]
        self._families = [[place for place, rule in enumerate(rules) if rule.unit == unit] for unit in _FAMILIES]
        """The places of each family's limits."""
        self._main = next((number for number, places in enumerate(self._families) if places), 0)
        self._only: Form | None = None
        """The form, if no family has several limits that would have to be compared."""
        if rules and all(len(places) <= 1 for places in self._families):
            self._only = self._form([places[0] if places else _NONE for places in self._families])

    def of(self, decision: Decision, now: float) -> str:
        """The lines of the `X-RateLimit-*` headers of the tightest limits, then of OpenAI's of requests and of tokens.

        Args:
            decision: by all limits; without any there are no headers.
            now: seconds since the epoch.
        """
        left, resets = decision.left, decision.resets
        if not left:
            return ""
        form, main, tokens = self._only or self._form([_tightest(one, decision) for one in self._families])
        first, reset = left[main], resets[main]
        lasts = lasting(-(-reset // 1000))
        of_tokens = lasts if resets[tokens] == reset else duration(resets[tokens])
        return form % (first, ceil(now + reset / SECOND), first, lasts, left[tokens], of_tokens)

    def until(self, second: int) -> Told | None:
        """The text for requests after which all is free again at this second since the epoch.

        None if there is no such text: if not always the same limits are the tightest, or if the main one is of requests
        at the same time.
        """
        if self._only is None or self._main == _CONCURRENT:
            return None
        form, main, tokens = self._only
        return _filling(form.replace(_RESET, _RESET % second)), main, tokens

    def _form(self, places: Sequence[int]) -> Form:
        """The form for the limits at these places, one of each family.

        The figures of the main limit come first, and again as those of requests: where requests are limited, that is
        the main one. Then come those of tokens.
        """
        requests, tokens, _ = places
        main = places[self._main]
        text = f"X-RateLimit-Limit: {self._most[main]}\r\nX-RateLimit-Remaining: %s\r\n{_RESET}"
        text += self._part("requests", requests) + self._part("tokens", tokens)
        return text, main, main if tokens == _NONE else tokens

    def _part(self, unit: str, place: int) -> str:
        if place == _NONE:
            return "%.0s%.0s"  # takes its two figures, and writes nothing
        limit, left, reset = (f"x-ratelimit-{what}-{unit}: " for what in ("limit", "remaining", "reset"))
        return f"{limit}{self._most[place]}\r\n{left}%s\r\n{reset}%s\r\n"


def _filling(form: str) -> Callable[[int, int, str], str]:
    """A function that fills a form: joining pieces takes a fraction of the time that `%` takes to scan the text."""
    pieces = form.split("%s")
    if len(pieces) != _FIGURES + 1:  # some of the figures are not written
        return lambda first, tokens, lasts: form % (first, first, lasts, tokens, lasts)
    begin, again, resets, left, until, end = pieces

    def fill(first: int, tokens: int, lasts: str) -> str:
        return f"{begin}{first}{again}{first}{resets}{lasts}{left}{tokens}{until}{lasts}{end}"

    return fill


@lru_cache(maxsize=16)  # so that a gate and its checkpoint share one
def headers(rules: tuple[Rule, ...]) -> Headers:
    """The headers of these limits."""
    return Headers(rules)


def _tightest(places: Sequence[int], decision: Decision) -> int:
    """The place of the limit with the least left; of several, the one that takes longest to be free again."""
    return min(places, key=lambda place: (decision.left[place], -decision.resets[place]), default=_NONE)


def duration(microseconds: int) -> str:
    """A time as OpenAI writes it: "120ms", "1s", "6m0s"."""
    return lasting(-(-microseconds // 1000))


@lru_cache(maxsize=4096)  # a limit that is asked all the time needs the thousand from 60 to 61 seconds
def lasting(milliseconds: int) -> str:
    """A time in milliseconds as OpenAI writes it."""
    seconds, fraction = divmod(milliseconds, 1000)
    if not seconds and fraction:
        return f"{fraction}ms"
    minutes = f"{seconds // 60}m" if seconds >= 60 else ""
    return f"{minutes}{seconds % 60}" + f".{fraction:03}".rstrip(".0") + "s"


def refusal(rules: Sequence[Rule], decision: Decision, tokens: int, retry: Retry | None = None) -> RateLimited:
    """The error for a request that limits refused; it names the one with the longest wait.

    Args:
        rules: the limits that decided.
        decision: the refusal.
        tokens: what the request was expected to use.
        retry: what failover may do; None for the limits of a call, before any attempt.
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
            final=True,
        )
    reached = f"rate limit reached for {scope}: {limit}"
    if wait == NEVER:
        return RateLimited(f"{reached}; nothing is allowed", retry=retry, final=True)
    advice = _advice(rule, decision.left[place], wait, tokens)
    kind = ConcurrencyLimited if rule.unit == "concurrent" else RateLimited
    return kind(f"{reached}; {advice}", retry=retry, retry_after=wait / SECOND)


def _advice(rule: Rule, left: int, wait: int, tokens: int) -> str:
    if rule.unit == "concurrent":
        return "try again when a running one has ended"
    again = f"try again in {-(-wait // SECOND)} s"
    return f"{left} are left, this request may use about {tokens}; {again}" if rule.unit == "tokens" else again
