"""The limits that apply to a call, as rules: one for each figure."""

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
    """The id of the key or user, the name of the model, or the key of the deployment."""
    unit: Unit
    most: int
    name: str
    """The name of its count. It does not depend on `most`, so that changing a limit forgets nothing."""

    def cost(self, tokens: int) -> int:
        """What a request of so many tokens is charged: the tokens, or 1."""
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
