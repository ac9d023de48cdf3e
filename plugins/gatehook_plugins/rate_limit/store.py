"""Where what was used is counted: the interface of it, and the values that go in and out. Times are microseconds."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol

from msgspec import Struct

from gatehook import Outcome, Permit
from gatehook_plugins.rate_limit.rules import Rule

__all__ = ["BUSY", "NEVER", "SECOND", "SLOTS", "Decision", "Grant", "Reading", "Store"]

SECOND: Final = 1_000_000
SLOTS: Final = 61
"""Whole seconds that count: the one that is going on, and the sixty that lie, also in part, in the window before it."""
BUSY: Final = 1 * SECOND
"""How long to wait for a running request to end: nobody knows."""
NEVER: Final = -1
"""The wait of a request that will not pass however long it waits."""


class Reading(Struct, frozen=True, gc=False):
    """What is left of one limit after a decision."""

    rule: Rule
    left: int
    wait: int
    """Until the same request could pass: 0 if it could now, `NEVER`."""
    reset: int
    """Until the whole limit is free again, if nothing more is asked; 0 for requests at the same time."""


class Grant(Struct, frozen=True, gc=False):
    """What an admitted request, or one attempt of it, has reserved, and where: the `Permit` of it."""

    store: Store
    rules: Sequence[Rule]
    tokens: int
    slot: int
    """The second of the admission, by the store's clock."""
    holder: str = ""
    """Names this request among those that run at the same time."""

    @property
    def immediate(self) -> bool:
        """Whether to settle it never really waits."""
        return self.store.immediate

    def settle(self, outcome: Outcome) -> Coroutine[Any, Any, None]:
        """Charge the tokens that were used. The request itself stays counted, unless no vendor was ever tried."""
        usage = outcome.usage
        tokens = 0 if usage is None else usage.total_tokens
        return self.store.settle(self, 0 if outcome.status == "rejected" else 1, tokens)


class Decision(Struct, frozen=True, gc=False):
    """Whether a request may go on. All of its limits are decided together: none is charged if one refuses."""

    admitted: bool
    """Whether no limit refused."""
    readings: Sequence[Reading]
    """Of all limits."""
    grant: Grant | None = None
    """None if it was refused, or if nobody counts."""


class Store(Protocol):
    """Counts requests, tokens and running requests against limits."""

    @property
    def immediate(self) -> bool:
        """Whether nothing it does really waits."""
        ...

    async def admit(self, rules: Sequence[Rule], tokens: int) -> Decision:
        """Charge one request, and its tokens, to all of these rules or to none."""
        ...

    async def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """Correct what was charged to what was really used (`requests` is 1, or 0), and let the running request go."""
        ...


_guard: type[Permit] = Grant
