"""Who may use what, what it costs and what was used: the values that identity, limits and money share.

Money is in nano-dollars (10⁻⁹ US dollars), so that sums are exact; times are epoch milliseconds, UTC.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final, Literal

from msgspec import Struct, field

__all__ = [
    "NANO",
    "Caps",
    "Change",
    "Cost",
    "Key",
    "Limits",
    "ModelUsage",
    "Performance",
    "Pricing",
    "Usage",
    "UsageRow",
    "User",
    "common_models",
    "covers",
    "dollars",
    "nano",
    "total_dollars",
]

NANO = 1_000_000_000
"""Nano-dollars in a dollar."""


def dollars(amount: int) -> float:
    """Nano-dollars as dollars, for people and for APIs that speak of dollars."""
    return float(Decimal(amount) / NANO)


def total_dollars(costs: Iterable[int | None]) -> float | None:
    """The sum, in dollars, of the costs that are known (nano-dollars); None if there are costs and none is known."""
    told = list(costs)
    known = [cost for cost in told if cost is not None]
    return dollars(sum(known)) if known or not told else None


def nano(amount: float | Decimal | str) -> int:
    """Dollars in nano-dollars, as they are written: 0.1 is a tenth, not the nearest double.

    Raises:
        ValueError: not a number, or a thousand million dollars or more.
    """
    try:
        exact = Decimal(str(amount)) * NANO
    except ArithmeticError:
        raise ValueError("expected an amount of dollars, such as 12.50") from None
    if not exact.is_finite() or abs(exact) >= 10**18:
        raise ValueError("expected an amount of dollars under a thousand million, such as 12.50")
    return int(exact.to_integral_value())


def covers(allowed: Iterable[str], model: str) -> bool:
    """Whether `model` is one of these names, or fits one that ends in `*`, such as "openai/*"."""
    return any(model == one or (one.endswith("*") and model.startswith(one[:-1])) for one in allowed)


def common_models(some: frozenset[str] | None, others: frozenset[str] | None) -> frozenset[str] | None:
    """The models, and patterns such as "openai/*", that two lists both allow; None is a list of everything."""
    if some is None or others is None:
        return others if some is None else some
    return frozenset({one for one in some if covers(others, one)} | {other for other in others if covers(some, other)})


class Cost(Struct, frozen=True, gc=False):
    """What one answer costs, in nano-dollars."""

    input: int = 0
    output: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Both together, side by side."""
        return Cost(self.input + other.input, self.output + other.output)

    @property
    def total(self) -> int:
        """Both sides together."""
        return self.input + self.output


class Pricing(Struct, frozen=True):
    """Prices in nano-dollars per 1,000 tokens; tokens read from or written to a vendor's cache may have their own.

    `cache_write_1h` is of tokens that are kept there for an hour, as `cache_write` if None; `image` is the price of one
    picture that is made.
    """

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    image: int = 0
    cache_write_1h: int | None = None

    def cost(
        self,
        prompt: int,
        completion: int,
        cached: int = 0,
        cache_write: int = 0,
        images: int = 0,
        cache_write_1h: int = 0,
    ) -> Cost:
        """What these tokens and pictures cost; cached and cache-write tokens are part of the prompt.

        Of the latter, `cache_write_1h` are kept for an hour. Rounded up per side; pictures are on the answer's.
        """
        answer = -(-completion * self.output // 1000) + images * self.image
        if not cached and not cache_write:
            return Cost(-(-prompt * self.input // 1000), answer)
        cached = min(cached, prompt)
        cache_write = min(cache_write, prompt - cached)
        read = self.input if self.cached_input is None else self.cached_input
        written = self.input if self.cache_write is None else self.cache_write
        paid = (prompt - cached - cache_write) * self.input + cached * read + cache_write * written
        if cache_write_1h and self.cache_write_1h is not None:
            paid += min(cache_write_1h, cache_write) * (self.cache_write_1h - written)
        return Cost(-(-paid // 1000), answer)


_MOST_TOKENS: Final = 10**12
"""The most tokens that are believed of one answer: far more than any has."""


def _bounded(figure: int) -> int:
    return max(0, min(figure, _MOST_TOKENS))


class Usage(Struct, frozen=True, gc=False):
    """What one answer took, OpenAI's way: cached tokens are part of the prompt, reasoning part of the completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    """True when the vendor reported nothing, or not all, and the gateway counted for itself."""
    images: int = 0
    """Pictures that were made."""
    cache_write_1h_tokens: int = 0
    """Of `cache_write_tokens`, those that are kept for an hour, for which vendors charge more."""

    def __add__(self, other: "Usage") -> "Usage":
        """Both together; estimated if one is."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
            self.images + other.images,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
        )

    def is_credible(self) -> bool:
        """Whether one answer can have taken that: no figure is negative or absurd, and no part exceeds its whole."""
        if self.cached_tokens or self.reasoning_tokens or self.cache_write_tokens or self.images:
            return self._is_credible_in_parts()
        return 0 <= self.prompt_tokens <= _MOST_TOKENS and 0 <= self.completion_tokens <= _MOST_TOKENS

    def _is_credible_in_parts(self) -> bool:
        return (
            0 <= self.cached_tokens <= self.prompt_tokens <= _MOST_TOKENS
            and 0 <= self.reasoning_tokens <= self.completion_tokens <= _MOST_TOKENS
            and (not self.cache_write_tokens or 0 < self.cache_write_tokens <= _MOST_TOKENS)
            and (not self.images or 0 < self.images <= _MOST_TOKENS)
            and 0 <= self.cache_write_1h_tokens <= max(self.cache_write_tokens, 0)
        )

    def as_far_as_credible(self) -> "Usage":
        """The same with each figure brought within those bounds: what limits, budgets and statistics go by."""
        prompt, completion = _bounded(self.prompt_tokens), _bounded(self.completion_tokens)
        written = _bounded(self.cache_write_tokens)
        return Usage(
            prompt,
            completion,
            min(_bounded(self.cached_tokens), prompt),
            written,
            min(_bounded(self.reasoning_tokens), completion),
            self.estimated,
            _bounded(self.images),
            min(_bounded(self.cache_write_1h_tokens), written),
        )

    def cost(self, pricing: Pricing) -> Cost:
        """What all of it costs at these prices."""
        if self.cached_tokens or self.cache_write_tokens or self.images:
            return pricing.cost(
                self.prompt_tokens,
                self.completion_tokens,
                self.cached_tokens,
                self.cache_write_tokens,
                self.images,
                self.cache_write_1h_tokens,
            )
        # As `Pricing.cost` has it, here without the call: it is asked for after every request.
        return Cost(-(-self.prompt_tokens * pricing.input // 1000), -(-self.completion_tokens * pricing.output // 1000))

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion; vendors' own totals are not trusted."""
        return self.prompt_tokens + self.completion_tokens

    def as_openai(self) -> dict[str, Any]:
        """The `usage` object of an OpenAI answer."""
        details: dict[str, Any] = {"cached_tokens": self.cached_tokens}
        if self.cache_write_tokens:
            details["cache_write_tokens"] = self.cache_write_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "prompt_tokens_details": details,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


class Limits(Struct, frozen=True):
    """How much may be asked at a time; None is unlimited, 0 nothing."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None

    def __bool__(self) -> bool:
        return self != _UNLIMITED


_UNLIMITED = Limits()


class Caps(Struct, frozen=True):
    """How much may be used in all, and in each UTC day and month: tokens, and nano-dollars. None is no cap."""

    tokens: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    budget: int | None = None
    budget_per_day: int | None = None
    budget_per_month: int | None = None

    def __bool__(self) -> bool:
        return self != _UNCAPPED

    @property
    def has_budget(self) -> bool:
        """Whether money is capped."""
        return not (self.budget is None and self.budget_per_day is None and self.budget_per_month is None)

    @property
    def of_tokens(self) -> tuple[int | None, int | None, int | None]:
        """In all, per day, per month."""
        return self.tokens, self.tokens_per_day, self.tokens_per_month

    @property
    def of_money(self) -> tuple[int | None, int | None, int | None]:
        """In all, per day, per month."""
        return self.budget, self.budget_per_day, self.budget_per_month


_UNCAPPED = Caps()


class User(Struct, frozen=True):
    """Somebody who uses models, or whom a key belongs to. `models` None: all of them."""

    id: str
    name: str = ""
    admin: bool = False
    disabled: bool = False
    models: frozenset[str] | None = None
    limits: Limits = Limits()
    caps: Caps = Caps()
    created: int = 0
    updated: int = 0


class Key(Struct, frozen=True):
    """A key of a user, without the key itself: only its first characters are kept in clear."""

    id: str
    user_id: str
    prefix: str
    name: str = ""
    admin: bool = False
    disabled: bool = False
    models: frozenset[str] | None = None
    """None: whatever its user may use."""
    limits: Limits = Limits()
    """They hold in addition to its user's."""
    expires: int | None = None
    created: int = 0


class Change(Struct, frozen=True):
    """One line of the audit: who did what to whom. `detail` holds no secret."""

    id: int
    at: int
    actor: str
    action: str
    """Such as "user.create" or "key.revoke"."""
    subject: str
    detail: dict[str, Any] = field(default_factory=dict)


class UsageRow(Struct, frozen=True, gc=False):
    """What one request used, and what became of it: a line of the ledger. Costs are None where nobody knows a price."""

    request_id: str
    at: int
    """When it ended."""
    user_id: str
    key_id: str
    operation: str
    surface: str
    model: str
    deployment: str
    vendor: str
    outcome: Literal["complete", "partial", "failed", "rejected", "cached", "correction"]
    http_status: int
    code: str
    provenance: Literal["vendor", "estimated", "none", "operator"]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    input_cost: int | None = None
    output_cost: int | None = None
    latency: int = 0
    """Milliseconds from the request's arrival to its end."""
    first_token: int | None = None
    """Milliseconds until the first content."""
    attempts: int = 0

    @property
    def tokens(self) -> int:
        """Prompt plus completion."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost(self) -> int:
        """Input plus output; 0 where no price is known."""
        return (self.input_cost or 0) + (self.output_cost or 0)


class ModelUsage(Struct, frozen=True):
    """What was used of one model over a period."""

    model: str
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: int | None = 0
    """Of the requests whose price is known; None if requests used something and no price of theirs is known."""


class Performance(Struct, frozen=True):
    """How requests went over a period; times in milliseconds, None where nothing was measured.

    Percentiles are true ones (nearest rank) over the answered requests, not estimates from buckets.
    """

    requests: int = 0
    answered: int = 0
    """Complete, cached or partial."""
    failed: int = 0
    tokens: int = 0
    average: float | None = None
    p50: int | None = None
    p95: int | None = None
    p99: int | None = None
