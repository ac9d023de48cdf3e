"""The limits that apply, one by one."""

from typing import Literal

from msgspec import Struct

from gatehook import Limits

__all__ = ["Rule", "Scope", "Unit", "rules", "unit_of"]

Scope = Literal["key", "user", "model", "deployment"]
Unit = Literal["requests", "tokens", "concurrent"]


class Rule(Struct, frozen=True, gc=False):
    """One limit: at most so many requests or tokens in any 60 seconds, or so many requests at the same time."""

    scope: Scope
    owner: str
    """Which key, user, model or deployment."""
    unit: Unit
    most: int
    name: str
    """What is counted against it; the same whatever the limit, so that changing a limit forgets nothing."""

    def cost(self, tokens: int) -> int:
        """What a request of so many tokens takes of it."""
        return tokens if self.unit == "tokens" else 1


def rules(scope: Scope, owner: str, limits: Limits) -> tuple[Rule, ...]:
    """One rule for each limit that is set."""
    units: tuple[tuple[Unit, int | None], ...] = (
        ("requests", limits.requests_per_minute),
        ("tokens", limits.tokens_per_minute),
        ("concurrent", limits.concurrent_requests),
    )
    return tuple(Rule(scope, owner, unit, most, f"{unit}:{scope}:{owner}") for unit, most in units if most is not None)


def unit_of(name: str) -> str:
    """The unit of the rule of this name."""
    return name.partition(":")[0]
